//! Handlers that panic, in a handle that catches nothing: the caller is told, and no other call notices.

use std::future::poll_fn;
use std::sync::Arc;
use std::task::Poll;

use bytes::Bytes;
use formic_core::{Code, Error, Kind, Method};
use formic_mux::Limits;
use formic_mux::client::connect;
use formic_mux::codec::frame::request::MORE;
use formic_mux::codec::write;
use formic_mux::machine::Request;
use formic_mux::server::door::{Door, Entrance};
use formic_rpc::{Answer, Body, BoxFuture, Call, Handle, Peer};
use futures::StreamExt;

use crate::raw::{Raw, request};
use crate::rig::*;

struct Breaks;

const METHODS: [Method; 5] = [
    Method::new("/t.Breaks/AtOnce", Kind::Unary),
    Method::new("/t.Breaks/Later", Kind::Unary),
    Method::new("/t.Breaks/Streaming", Kind::ServerStream),
    Method::new("/t.Breaks/Dropped", Kind::ServerStream),
    Method::new("/t.Breaks/Say", Kind::Unary),
];

struct Bomb;

impl Drop for Bomb {
    fn drop(&mut self) {
        panic!("as it is dropped");
    }
}

impl Handle for Breaks {
    fn method(&self, path: &str) -> Option<Method> {
        METHODS.into_iter().find(|method| method.path() == path)
    }

    fn call(&self, call: Call) -> BoxFuture<'static, Result<Answer, Error>> {
        Box::pin(async move {
            let one = futures::stream::once(async { Ok(Bytes::from("one")) });
            match call.method.name() {
                "AtOnce" => panic!("at once"),
                "Later" => {
                    tokio::task::yield_now().await;
                    panic!("later");
                }
                "Streaming" => {
                    let breaks = futures::stream::poll_fn(|_| panic!("as it is asked"));
                    Ok(Answer::new(Body::stream(one.chain(breaks))))
                }
                "Dropped" => {
                    let bomb = Bomb;
                    // It goes as the stream is told to end, before anybody can say that it did.
                    let breaks =
                        futures::stream::once(async move { drop(bomb) }).filter_map(|()| async { None });
                    Ok(Answer::new(Body::stream(one.chain(breaks))))
                }
                _ => Ok(Answer::new(call.body)),
            }
        })
    }
}

#[tokio::test]
async fn a_panic_is_told_to_the_caller_and_to_nobody_else() {
    // There is one place for a call: whoever keeps it stops all others.
    let mut accept =
        Arc::into_inner(accept(&Arc::default(), Limits { calls: 1, ..Limits::default() })).unwrap();
    accept.handle = Arc::new(Breaks);
    let (ours, ..) = served_by(Arc::new(accept));
    let sender = connect(ours, "breaks".into(), &with()).await.unwrap();
    for _ in 0..3 {
        for path in ["/t.Breaks/AtOnce", "/t.Breaks/Later"] {
            let error = within(path, say(&sender, path, "".into())).await.unwrap_err();
            assert_eq!((error.code(), error.is_unsent()), (Code::Internal, false), "{error:?}");
        }
        for path in ["/t.Breaks/Streaming", "/t.Breaks/Dropped"] {
            let mut answers = within(path, stream(&sender, path, Some("".into()), None)).await.unwrap();
            let error = within(path, async {
                loop {
                    if let Err(error) = answers.next().await.expect("an error comes before the end") {
                        return error;
                    }
                }
            })
            .await;
            assert_eq!(error.code(), Code::Internal, "{error:?}");
        }
        let said = within("another call", say(&sender, "/t.Breaks/Say", "hi".into())).await;
        assert_eq!(said.unwrap(), "hi");
    }
}

struct Broken;

impl Door for Broken {
    fn ask(&self, _: &Request, _: Option<&Peer>) -> Entrance {
        Entrance::Wait(Box::pin(async {
            tokio::task::yield_now().await;
            poll_fn(|_| -> Poll<()> { panic!("at the door") }).await;
            Err(Error::internal(""))
        }))
    }
}

#[tokio::test(start_paused = true)]
async fn a_call_whose_turn_breaks_is_told() {
    let mut accept = Arc::into_inner(accept(&Arc::default(), Limits::default())).unwrap();
    accept.door = Some(Arc::new(Broken));
    let (ours, ..) = served_by(Arc::new(accept));
    let mut raw = Raw::greet(ours, Limits::default()).await;
    let mut bytes = request(1, "/t.Echo/Say", None, MORE, &[1; 10]);
    write::data(&mut bytes, 1, 2, &[1; 10]);
    let began = tokio::time::Instant::now();
    raw.send(&bytes).await;
    assert_eq!(raw.end_of(1).await, Some(Code::Internal.number()));
    assert!(began.elapsed().as_secs() < 1, "it is told at once");
}
