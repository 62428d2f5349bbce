//! Many connections that each keep to their limits, and together want more than the server has; and connections that want nothing.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use formic_core::{Code, Shed};
use formic_mux::budget::Watch;
use formic_mux::client::connect;
use formic_mux::codec::frame::request::{END, MESSAGE, MORE};
use formic_mux::codec::{HEADER, Header, Type, write};
use formic_mux::{Accept, Budget, Limits, Sender};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use crate::memory::{self, Before};
use crate::raw::{Raw, request, stingy, whole};
use crate::rig::*;

/// What all connections together may hold.
pub(crate) const MOST: usize = 8 << 20;

/// So many connections, of which each may hold more by itself.
pub(crate) const CROWD: usize = 32;

/// Counts refusals.
struct Refused(Arc<AtomicUsize>);

impl Watch for Refused {
    fn changed(&self, _bytes: i64) {}

    fn refused(&self) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

/// A server that has little, and how often it refused a call for that.
pub(crate) fn accept_little(echo: &Arc<Echo>) -> (Arc<Accept>, Arc<AtomicUsize>) {
    let (mut accept, refused) = (Arc::into_inner(accept(echo, Limits::default())).unwrap(), Arc::default());
    accept.budget = Arc::new(Budget::new(MOST).watched(Refused(Arc::clone(&refused))));
    (Arc::new(accept), refused)
}

pub(crate) async fn stranger(accept: &Arc<Accept>) -> Sender {
    let (ours, ..) = served_by(Arc::clone(accept));
    connect(ours, "stranger".into(), &with()).await.unwrap()
}

/// Says all of it, and reads what comes back, so that nothing but the budget is in the way. Goes on for as long as it is let.
pub(crate) async fn press(accept: Arc<Accept>, limits: Limits, requests: Bytes) {
    let (ours, _server, _) = served_by(accept);
    let mut raw = Raw::greet(ours, limits).await;
    let mut rest = &requests[..];
    while let Some(mut head) = rest.first_chunk() {
        // Whole frames, for pings are answered between them.
        let mut end = 0;
        loop {
            end += HEADER + Header::parse(head).unwrap().length;
            match rest[end..].first_chunk() {
                Some(next) if end < 32 << 10 => head = next,
                _ => break,
            }
        }
        raw.send(&rest[..end]).await;
        rest = &rest[end..];
        while let Ok(Some(_)) = timeout(Duration::from_millis(1), raw.frame()).await {}
    }
    while raw.frame().await.is_some() {}
}

/// What a crowd does, and that a stranger is served meanwhile: small calls always, larger ones once what is too much was given up.
pub(crate) async fn crowd(limits: Limits, requests: impl Fn() -> Vec<u8>) {
    let echo = Arc::new(Echo::default());
    let (accept, refused) = accept_little(&echo);
    let (mut crowd, requests) = (JoinSet::new(), Bytes::from(requests()));
    let before = Before::now();
    for _ in 0..CROWD {
        crowd.spawn(press(Arc::clone(&accept), limits, requests.clone()));
    }
    until("somebody to be refused", || refused.load(Ordering::SeqCst) > 0).await;
    let stranger = stranger(&accept).await;
    for n in 0..50 {
        before.check(memory::most(CROWD));
        let message = Bytes::from(vec![n; 8 << 10]);
        assert_eq!(
            within("a small call", say(&stranger, "/t.Echo/Say", message.clone())).await.unwrap(),
            message
        );
        sleep(Duration::from_millis(100)).await;
    }
    let message = Bytes::from(vec![3; 100_000]);
    assert_eq!(
        within("a larger call", say(&stranger, "/t.Echo/Say", message.clone())).await.unwrap(),
        message
    );
    // All of it comes back.
    crowd.shutdown().await;
    until("what was held to be free again", || accept.budget.held() == 0).await;
}

#[tokio::test(start_paused = true)]
async fn requests_that_do_not_end_are_bounded_for_all_together() {
    crowd(Limits::default(), || {
        (1..=40).flat_map(|id| request(id, "/t.Echo/Say", None, MORE, &[7; 50_000])).collect()
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn whole_messages_of_requests_without_an_end_are_bounded_too() {
    crowd(Limits::default(), || {
        (1..=40).flat_map(|id| request(id, "/t.Echo/Say", None, 0, &[7; 50_000])).collect()
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn answers_that_nobody_takes_are_bounded_for_all_together() {
    crowd(stingy(), || (1..=40).flat_map(|id| whole(id, "/t.Echo/Big", None, b"")).collect()).await;
}

/// The same of what handlers have, which is not given up: small calls are answered.
pub(crate) async fn crowd_at_work(requests: impl Fn() -> Vec<u8>) {
    let echo = Arc::new(Echo::default());
    let (accept, refused) = accept_little(&echo);
    let (mut crowd, requests) = (JoinSet::new(), Bytes::from(requests()));
    let before = Before::now();
    for _ in 0..CROWD {
        crowd.spawn(press(Arc::clone(&accept), Limits::default(), requests.clone()));
    }
    until("somebody to be refused", || refused.load(Ordering::SeqCst) > 0).await;
    // All have said what they are let.
    sleep(Duration::from_secs(1)).await;
    before.check(memory::most(CROWD));
    let stranger = stranger(&accept).await;
    assert_eq!(within("a small call", say(&stranger, "/t.Echo/Say", "small".into())).await.unwrap(), "small");
    crowd.shutdown().await;
    until("what was held to be free again", || accept.budget.held() == 0).await;
}

#[tokio::test(start_paused = true)]
async fn messages_that_no_handler_takes_are_bounded_for_all_together() {
    crowd_at_work(|| {
        let mut requests = Vec::new();
        for id in 1..=15 {
            let begun = request(id, "/t.Echo/Hold", None, 0, &[7; 60_000]);
            requests.extend(begun);
            for _ in 0..7 {
                write::data(&mut requests, id, 0, &[7; 60_000]);
            }
        }
        requests
    })
    .await;
}

#[tokio::test]
async fn a_refusal_for_want_of_memory_says_that_nobody_has_seen_the_call() {
    let echo = Arc::new(Echo::default());
    let (accept, _) = accept_little(&echo);
    let sender = stranger(&accept).await;
    // Two of them are half of all that there is.
    let message = Bytes::from(vec![1; 2 << 20]);
    assert_eq!(within("one", say(&sender, "/t.Echo/Say", message.clone())).await.unwrap().len(), 2 << 20);
    let mut calls = JoinSet::new();
    for _ in 0..8 {
        let (sender, message) = (sender.clone(), message.clone());
        calls.spawn(
            async move { timeout(Duration::from_secs(5), say(&sender, "/t.Echo/Hang", message)).await },
        );
    }
    let refused = within("a refusal", async {
        loop {
            if let Ok(Err(error)) = calls.join_next().await.unwrap().unwrap() {
                return error;
            }
        }
    })
    .await;
    assert_eq!((refused.code(), refused.shed_reason()), (Code::ResourceExhausted, Some(Shed::Memory)));
    assert!(refused.is_unsent() && refused.retry_after().is_some(), "{refused:?}");
    calls.shutdown().await;
    until("what was held to be free again", || accept.budget.held() == 0).await;
    assert_eq!(within("one", say(&sender, "/t.Echo/Say", message.clone())).await.unwrap().len(), 2 << 20);
}

fn accept_for(echo: &Arc<Echo>, idle: Duration) -> Arc<Accept> {
    let mut accept = Arc::into_inner(accept(echo, Limits::default())).unwrap();
    accept.idle = idle;
    Arc::new(accept)
}

#[tokio::test(start_paused = true)]
async fn a_connection_without_calls_is_left_with_a_word() {
    let minute = Duration::from_secs(60);
    let echo = Arc::new(Echo::default());
    let accept = accept_for(&echo, minute);
    let (ours, server, _) = served_by(Arc::clone(&accept));
    let sender = connect(ours, "quiet".into(), &with()).await.unwrap();
    for _ in 0..10 {
        sleep(minute * 3 / 4).await;
        assert_eq!(say(&sender, "/t.Echo/Say", "hi".into()).await.unwrap(), "hi");
    }
    // A call that takes long is one all the same.
    let long = timeout(minute * 3, say(&sender, "/t.Echo/Hang", "".into())).await;
    assert!(long.is_err() && !sender.is_closed());
    sleep(minute * 3 / 4).await;
    assert!(!sender.is_closed());
    sleep(minute / 2).await;
    assert!(sender.is_closed(), "it was told");
    within("the connection to end", server).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_call_that_crosses_the_last_words_is_surely_not_seen() {
    let echo = Arc::new(Echo::default());
    let (ours, server, _) = served_by(accept_for(&echo, Duration::from_secs(60)));
    let mut raw = Raw::greet(ours, Limits::default()).await;
    let (kind, _, payload) = timeout(Duration::from_secs(100), raw.frame()).await.unwrap().unwrap();
    assert_eq!((kind, &payload[..5]), (Type::GoAway, &[0, 0, 0, 0, 3][..]), "none taken, idle");
    // It had been sent before they were heard. The server reads it, so that its socket is not reset with the last words in it.
    raw.send(&request(1, "/t.Echo/Say", None, END | MESSAGE, b"hi")).await;
    assert!(raw.frame().await.is_none(), "no answer");
    assert_eq!(echo.began.load(Ordering::SeqCst), 0);
    drop(raw);
    within("the connection to end", server).await.unwrap();
}
