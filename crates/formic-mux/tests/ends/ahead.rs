//! Handlers that give answers faster than their caller takes them, and handlers that do not take what they are sent.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use formic_mux::Limits;
use formic_mux::codec::write;
use tokio::time::sleep;

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
    for id in calls {
        let mut said = Vec::new();
        for _ in 0..2 {
            write::data(&mut said, id, 0, &[7; 15_000]);
        }
        raw.send(&said).await;
    }
    until("somebody to be refused", || refused.load(Ordering::SeqCst) > 0).await;
    assert!((MOST / 4..=MOST).contains(&accept.budget.held()), "{} are held", accept.budget.held());
    drop(raw);
    until("what was held to be free again", || accept.budget.held() == 0).await;
}
