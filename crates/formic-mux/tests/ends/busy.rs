//! A connection that never rests.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use formic_core::{Error, Kind, Method};
use formic_mux::codec::frame::request::MORE;
use formic_mux::codec::write;
use formic_mux::{Limits, serve};
use formic_rpc::{Answer, Body, BoxFuture, Call, Handle};
use futures::StreamExt;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use crate::crowd::{MOST, accept_little};
use crate::pieces::Pieces;
use crate::raw::{Raw, request};
use crate::rig::*;

/// `Keep` takes no message, `Take` all of them until the last.
#[derive(Default)]
struct Streams {
    began: Arc<AtomicUsize>,
    open: Arc<AtomicUsize>,
}

const KEEP: Method = Method::new("/t.Streams/Keep", Kind::ClientStream);
const TAKE: Method = Method::new("/t.Streams/Take", Kind::ClientStream);

struct Counted(Arc<AtomicUsize>);

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Handle for Streams {
    fn method(&self, path: &str) -> Option<Method> {
        [KEEP, TAKE].into_iter().find(|method| method.path() == path)
    }

    fn call(&self, call: Call) -> BoxFuture<'static, Result<Answer, Error>> {
        if call.method == KEEP {
            return Box::pin(async move {
                let _kept = call.body;
                std::future::pending().await
            });
        }
        self.began.fetch_add(1, Ordering::SeqCst);
        self.open.fetch_add(1, Ordering::SeqCst);
        let counted = Counted(Arc::clone(&self.open));
        Box::pin(async move {
            let _counted = counted;
            let mut requests = call.body.into_stream();
            while requests.next().await.is_some() {}
            Ok(Answer::new(Body::Message("all".into())))
        })
    }
}

/// What a call may say before anything of it is taken.
const EACH: usize = 8;

fn keeping(bytes: usize) -> Vec<u8> {
    let mut out = Vec::new();
    for (n, id) in (0..bytes / 60_000).zip((1..).flat_map(|id| [id; EACH])) {
        if n % EACH == 0 {
            out.extend(request(id, KEEP.path(), None, 0, b""));
        }
        write::data(&mut out, id, 0, &[7; 60_000]);
    }
    out
}

#[tokio::test(start_paused = true)]
async fn a_call_is_not_given_up_before_its_request_is_heard() {
    let handle = Streams::default();
    let (began, open) = (Arc::clone(&handle.began), Arc::clone(&handle.open));
    let (accept, refused) = accept_little(&Arc::default());
    let mut accept = Arc::into_inner(accept).unwrap();
    accept.handle = Arc::new(handle);
    let accept = Arc::new(accept);
    // One holds much, the others take what is left until that is little.
    let busy = Pieces::greeted();
    busy.add(keeping(2_340_000).chunks(50_000).map(<[u8]>::to_vec));
    let served = (busy.clone(), Arc::clone(&accept));
    tokio::spawn(async move { serve(served.0, &[], served.1, None, CancellationToken::new()).await });
    until("much to be held", || accept.budget.held() > 2_340_000).await;
    let mut others = Vec::new();
    for most in [2_700_000, 1_320_000, 660_000, 300_000, 120_000] {
        let (ours, ..) = served_by(Arc::clone(&accept));
        let mut raw = Raw::greet(ours, Limits::default()).await;
        raw.send(&keeping(most)).await;
        others.push(raw);
    }
    sleep(Duration::from_secs(5)).await;
    assert!(MOST - accept.budget.held() < MOST / 8, "{} are held", accept.budget.held());
    assert_eq!(refused.load(Ordering::SeqCst), 0);
    // Sixteen reads without a pause, of which the last brings a call.
    let mut ping = Vec::new();
    write::ping(&mut ping, 1, [0; 8]);
    let calls = (100..103).map(|id| request(id, TAKE.path(), None, MORE, &[7; 100]));
    busy.add(std::iter::repeat_n(ping, 13).chain(calls));
    until("all to be given up", || refused.load(Ordering::SeqCst) == 3).await;
    sleep(Duration::from_secs(5)).await;
    assert_eq!(began.load(Ordering::SeqCst), 3);
    assert_eq!(open.load(Ordering::SeqCst), 0, "a handler works on a call that was given up");
    drop(others);
}
