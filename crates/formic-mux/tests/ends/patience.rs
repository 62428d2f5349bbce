//! A client that keeps the rules of the wire, and its server waiting.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use formic_mux::Limits;
use tokio::time::{Instant, timeout};

use crate::raw::*;
use crate::rig::*;

const DEADLINE_EXCEEDED: u8 = 4;

#[tokio::test(start_paused = true)]
async fn an_answer_without_credit_ends_at_its_deadline() {
    for (path, handlers) in [("/t.Echo/Big", 0), ("/t.Echo/Endless", 1)] {
        let echo = Arc::new(Echo::default());
        let (ours, _server, _) = served(&echo, Limits::default());
        let mut raw = Raw::greet(ours, stingy()).await;
        let began = Instant::now();
        raw.send(&whole(1, path, Some(Duration::from_secs(1)), b"")).await;
        assert_eq!(within("an end", raw.end_of(1)).await, Some(DEADLINE_EXCEEDED), "{path}");
        assert!(began.elapsed() < Duration::from_secs(2), "{path}: {:?}", began.elapsed());
        until("its work to end", || echo.dropped.load(Ordering::SeqCst) == handlers).await;
        // One without any deadline is not for ever either.
        raw.send(&whole(2, path, None, b"")).await;
        let end = timeout(Duration::from_secs(4000), raw.end_of(2)).await;
        assert_eq!(end.expect("an end"), Some(DEADLINE_EXCEEDED), "{path}");
    }
}

#[tokio::test(start_paused = true)]
async fn many_answers_without_credit_end_each_at_its_own_time() {
    let echo = Arc::new(Echo::default());
    let (ours, _server, _) = served(&echo, Limits::default());
    let mut raw = Raw::greet(ours, stingy()).await;
    for id in 1..=100 {
        raw.send(&whole(id, "/t.Echo/Endless", Some(Duration::from_secs(id.into())), b"")).await;
    }
    // All of them end, each at its own time.
    let began = Instant::now();
    for id in 1..=100 {
        let end = timeout(Duration::from_secs(200), raw.end_of(id)).await;
        assert_eq!(end.expect("an end"), Some(DEADLINE_EXCEEDED));
        assert!(began.elapsed() < Duration::from_secs(u64::from(id) + 1), "{:?}", began.elapsed());
    }
    until("all work to end", || echo.dropped.load(Ordering::SeqCst) == 100).await;
}
