//! Handlers that give answers faster than their caller takes them, and handlers that do not take what they are sent.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use formic_core::{Error, Kind, Method};
use formic_mux::Limits;
use formic_mux::client::connect;
use formic_mux::codec::write;
use formic_rpc::{Answer, Body, BoxFuture, ByteStream, Call, Handle};
use tokio::time::{sleep, timeout};

use crate::crowd::{MOST, accept_little};
use crate::raw::{Raw, request, stingy, whole};
use crate::rig::*;

/// Answers that are not read, until nothing more can be passed on.
async fn block(raw: &mut Raw, first: u32) {
    for id in first..first + 9 {
        raw.send(&whole(id, "/t.Echo/Say", None, &[1; 60_000])).await;
    }
    sleep(Duration::from_millis(300)).await;
}

#[tokio::test]
async fn a_handler_is_not_asked_for_what_cannot_be_sent() {
    let echo = Arc::new(Echo::default());
    let (ours, ..) = served(&echo, Limits::default());
    let mut raw = Raw::greet(ours, stingy()).await;
    block(&mut raw, 1).await;
    for id in 10..=200 {
        raw.send(&whole(id, "/t.Echo/Endless", None, b"")).await;
    }
    until("all to begin", || echo.began.load(Ordering::SeqCst) == 200).await;
    sleep(Duration::from_millis(300)).await;
    assert_eq!(echo.made.load(Ordering::SeqCst), 0, "messages were made that nobody can be sent");
    // Once there is room they are asked, as far as the credit goes.
    let mut answered = 0;
    while answered < 9 {
        raw.frame().await.unwrap();
        answered += 1;
    }
    until("some to be asked", || echo.made.load(Ordering::SeqCst) > 0).await;
}

#[tokio::test]
async fn what_handlers_have_ready_is_bounded() {
    let echo = Arc::new(Echo::default());
    let (accept, refused) = accept_little(&echo);
    let (ours, ..) = served_by(Arc::clone(&accept));
    let mut raw = Raw::greet(ours, stingy()).await;
    // They wait for something to say.
    let calls = 10..=309;
    for id in calls.clone() {
        raw.send(&request(id, "/t.Echo/Chat", None, 0, b"")).await;
        raw.frame().await.unwrap();
        raw.frame().await.unwrap();
    }
    block(&mut raw, 310).await;
    let mut heard = true;
    for id in calls {
        let mut said = Vec::new();
        for _ in 0..2 {
            write::data(&mut said, id, 0, &[7; 15_000]);
        }
        // Who reads nothing is not read from either, once there is no room for what it is to be told.
        heard = timeout(Duration::from_secs(1), raw.send(&said)).await.is_ok();
        if !heard {
            break;
        }
    }
    until("somebody to be refused", || !heard || refused.load(Ordering::SeqCst) > 0).await;
    assert!((MOST / 4..=MOST).contains(&accept.budget.held()), "{} are held", accept.budget.held());
    drop(raw);
    until("what was held to be free again", || accept.budget.held() == 0).await;
}

/// Messages that go on together are counted as what each of them takes where it waits.
#[tokio::test]
async fn short_messages_of_streams_that_nobody_reads_are_bounded() {
    let echo = Arc::new(Echo::default());
    let (accept, refused) = accept_little(&echo);
    let (ours, ..) = served_by(Arc::clone(&accept));
    let mut raw = Raw::greet(ours, stingy()).await;
    // On a busy machine each has made less before it lets others by.
    for id in 1..=1_000 {
        if refused.load(Ordering::SeqCst) > 0 {
            break;
        }
        raw.send(&whole(id, "/t.Echo/Short", None, b"")).await;
        sleep(Duration::from_millis(1)).await;
    }
    until("somebody to be refused", || refused.load(Ordering::SeqCst) > 0).await;
    assert!((MOST / 4..=MOST).contains(&accept.budget.held()), "{} are held", accept.budget.held());
    drop(raw);
    until("what was held to be free again", || accept.budget.held() == 0).await;
    let counts = || (echo.dropped.load(Ordering::SeqCst), echo.began.load(Ordering::SeqCst));
    until("all to be dropped", || counts().0 == counts().1).await;
}

/// Begins to answer without a look at what it is sent, and does not end.
struct Talks;

const TALK: Method = Method::new("/t.Talks/Talk", Kind::BidiStream);
const SAY: Method = Method::new("/t.Talks/Say", Kind::Unary);

impl Handle for Talks {
    fn method(&self, path: &str) -> Option<Method> {
        [TALK, SAY].into_iter().find(|method| method.path() == path)
    }

    fn call(&self, call: Call) -> BoxFuture<'static, Result<Answer, Error>> {
        Box::pin(async move {
            let Call { method, body, .. } = call;
            if method == SAY {
                return Ok(Answer::new(body));
            }
            drop(body);
            Ok(Answer::new(Body::stream(futures::stream::pending())))
        })
    }
}

#[tokio::test]
async fn messages_that_a_handler_does_not_want_take_nothing_from_others() {
    let mut accept = Arc::into_inner(accept(&Arc::default(), Limits::default())).unwrap();
    accept.handle = Arc::new(Talks);
    let accept = Arc::new(accept);
    let (ours, ..) = served_by(Arc::clone(&accept));
    let sender = connect(ours, "talks".into(), &with()).await.unwrap();
    let mut talking = Vec::new();
    for _ in 0..12 {
        let requests = futures::stream::repeat_with(|| Ok(Bytes::from(vec![0; 4 << 20])));
        talking.push(stream(&sender, TALK.path(), None, Some(ByteStream::new(requests))).await.unwrap());
        sleep(Duration::from_millis(100)).await;
        let message = Bytes::from(vec![1; 600_000]);
        let said = within("another's answer", say(&sender, SAY.path(), message.clone())).await;
        assert_eq!(said.unwrap(), message);
    }
    // The calls themselves are, with what else is in their portion.
    until("no message to be held", || accept.budget.held() <= 32 << 10).await;
    drop(talking);
    until("nothing to be held", || accept.budget.held() == 0).await;
}
