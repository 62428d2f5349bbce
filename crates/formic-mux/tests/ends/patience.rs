//! A client that keeps the rules of the wire, and its server waiting.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use formic_mux::Limits;
use formic_mux::codec::frame::request::MORE;
use formic_mux::codec::{Type, write};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::{Instant, timeout};

use crate::raw::*;
use crate::rig::*;

const INVALID_ARGUMENT: u8 = 3;
const DEADLINE_EXCEEDED: u8 = 4;
const RESOURCE_EXHAUSTED: u8 = 8;

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

#[tokio::test(start_paused = true)]
async fn a_request_that_does_not_end_is_let_go_whatever_its_deadline() {
    let hour = Some(Duration::from_secs(3600));
    // The message is there and the end is not; or there is a part of the message only.
    for flags in [0, MORE] {
        let echo = Arc::new(Echo::default());
        let (ours, _server, _) = served(&echo, Limits::default());
        let mut raw = Raw::greet(ours, Limits::default()).await;
        let began = Instant::now();
        raw.send(&request(1, "/t.Echo/Say", hour, flags, b"hello")).await;
        let end = timeout(Duration::from_secs(100), raw.end_of(1)).await.expect("an end");
        assert_eq!(end, Some(DEADLINE_EXCEEDED));
        assert!(began.elapsed() < Duration::from_secs(41), "{:?}", began.elapsed());
        assert_eq!(echo.began.load(Ordering::SeqCst), 0);
    }
}

#[tokio::test(start_paused = true)]
async fn a_request_that_goes_on_slowly_is_waited_for() {
    let echo = Arc::new(Echo::default());
    let (ours, _server, _) = served(&echo, Limits::default());
    let mut raw = Raw::greet(ours, Limits::default()).await;
    raw.send(&request(1, "/t.Echo/Say", Some(Duration::from_secs(3600)), MORE, b"hello")).await;
    for flags in [1, 1, 1, 1, 2] {
        // The pings of so long a silence are answered on the way.
        assert!(timeout(Duration::from_secs(19), raw.end_of(1)).await.is_err(), "it goes on");
        let mut piece = Vec::new();
        write::data(&mut piece, 1, flags, b"and on");
        raw.send(&piece).await;
    }
    assert_eq!(within("the answer", raw.end_of(1)).await, None);
}

#[tokio::test]
async fn a_call_of_one_request_brings_one() {
    let echo = Arc::new(Echo::default());
    let (ours, _server, _) = served(&echo, Limits::default());
    let mut raw = Raw::greet(ours, Limits::default()).await;
    raw.send(&request(1, "/t.Echo/Say", None, 0, b"one")).await;
    let mut more = Vec::new();
    write::data(&mut more, 1, 0, b"two");
    raw.send(&more).await;
    assert_eq!(within("an end", raw.end_of(1)).await, Some(INVALID_ARGUMENT));
    assert_eq!(echo.began.load(Ordering::SeqCst), 0);
}

#[tokio::test]
async fn what_waits_for_the_end_of_its_request_is_counted() {
    let echo = Arc::new(Echo::default());
    // Sixteen of the largest messages may be unfinished at a time, which are a mebibyte here.
    let (ours, _server, _) = served(&echo, Limits { message: 60_000, ..Limits::default() });
    let mut raw = Raw::greet(ours, Limits::default()).await;
    let message = vec![7; 60_000];
    for id in 1..=100 {
        raw.send(&request(id, "/t.Echo/Say", None, 0, &message)).await;
    }
    let mut refused = 0;
    while refused < 83 {
        let (kind, _, payload) = within("a refusal", raw.frame()).await.expect("the connection lives");
        assert_eq!((kind, payload[1]), (Type::Error, RESOURCE_EXHAUSTED));
        refused += 1;
    }
    // What is complete, or given up, counts no more.
    for id in 1..=17 {
        let mut end = Vec::new();
        if id % 2 == 0 {
            write::frame(&mut end, Type::End, id, |_| {});
        } else {
            write::frame(&mut end, Type::Cancel, id, |out| out.push(1));
        }
        raw.send(&end).await;
    }
    for id in (2..=17).step_by(2) {
        assert_eq!(within("an answer", raw.end_of(id)).await, None);
    }
    for id in 101..=117 {
        raw.send(&request(id, "/t.Echo/Say", None, 0, &message)).await;
    }
    raw.send(&whole(118, "/t.Echo/Say", None, b"")).await;
    let (kind, id, _) = within("an answer", raw.frame()).await.expect("the connection lives");
    assert_eq!((kind, id), (Type::Response, 118), "none of the others is refused");
}

#[tokio::test(start_paused = true)]
async fn who_reads_slowly_is_not_taken_for_dead() {
    let echo = Arc::new(Echo::default());
    let (ours, server, _) = served(&echo, Limits::default());
    let Raw { io, .. } = Raw::greet(ours, Limits::default()).await;
    let message = vec![7; 60_000];
    let hour = Some(Duration::from_secs(3600));
    // Asks for as much as it can, until the server reads no more.
    let (mut read, mut write) = tokio::io::split(io);
    let asking = tokio::spawn(async move {
        for id in 1..=100 {
            write.write_all(&whole(id, "/t.Echo/Say", hour, &message)).await.unwrap();
        }
        write
    });
    // 4 KiB a second: much longer than a client may be silent, and bytes move all the time.
    let mut bytes = vec![0; 4 << 10];
    let mut all = 0;
    while all < 5_900_000 {
        tokio::time::sleep(Duration::from_secs(1)).await;
        let count = read.read(&mut bytes).await.unwrap();
        assert!(count > 0, "let go after {all} bytes");
        all += count;
    }
    assert!(!server.is_finished());
    drop((read, asking.await.unwrap()));
}
