//! A network that carries requests slowly, or stops: a server that reads is not taken for dead, and one that is gone is soon.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use formic_core::Error;
use formic_mux::client::connect;
use formic_mux::machine::Head;
use formic_mux::{Limits, Sender};
use http::HeaderMap;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::{Instant, sleep};

use crate::rig::*;

/// What the network holds by itself, before it pushes back.
const HELD: usize = 256 << 10;

/// A server behind a network that carries so many bytes a second upwards, and only the first of them.
async fn behind(rate: usize, most: usize) -> (Sender, Arc<Echo>) {
    let echo = Arc::new(Echo::default());
    let (theirs, ..) = served(&echo, Limits::default());
    let (ours, network) = tokio::io::duplex(HELD);
    let (mut from, mut back) = tokio::io::split(network);
    let (mut down, mut up) = tokio::io::split(theirs);
    tokio::spawn(async move {
        let (mut piece, mut carried) = (vec![0; rate / 100], 0);
        while let Ok(count @ 1..) = from.read(&mut piece).await {
            sleep(Duration::from_secs_f64(count as f64 / rate as f64)).await;
            carried += count;
            if carried > most {
                std::future::pending::<()>().await;
            }
            if up.write_all(&piece[..count]).await.is_err() {
                return;
            }
        }
    });
    tokio::spawn(async move {
        let _ = tokio::io::copy(&mut down, &mut back).await;
    });
    (connect(ours, "slow".into(), &with()).await.unwrap(), echo)
}

async fn upload(sender: &Sender) -> Result<Bytes, Error> {
    let none = HeaderMap::new();
    let head = Head { timeout: Some(Duration::from_secs(300)), ..head("/t.Echo/Say", &none) };
    let answer = sender.call(|| head, Some(&vec![1; 3 << 20].into()), || None, false).await;
    answer.map_err(plain)?.body.into_message()
}

#[tokio::test(start_paused = true)]
async fn a_server_that_reads_a_long_request_slowly_is_not_taken_for_dead() {
    for rate in [40_000, 100_000, 400_000] {
        let (sender, _) = behind(rate, usize::MAX).await;
        let began = Instant::now();
        let answer = upload(&sender).await.unwrap_or_else(|error| panic!("{rate} B/s: {error}"));
        assert!(answer.len() == 3 << 20 && began.elapsed() > Duration::from_secs(7), "{rate} B/s");
    }
}

#[tokio::test(start_paused = true)]
async fn a_server_that_reads_many_requests_slowly_is_not_taken_for_dead() {
    // Each in one frame, which no credit bounds, and none is answered meanwhile.
    for rate in [45_000, 100_000] {
        let (sender, echo) = behind(rate, usize::MAX).await;
        let calls: Vec<_> = (0..50).map(|_| say(&sender, "/t.Echo/Hang", vec![1; 60_000].into())).collect();
        let mut calls = Box::pin(futures::future::join_all(calls));
        let waited = tokio::time::timeout(Duration::from_secs(90), &mut calls).await;
        assert!(waited.is_err(), "a call has ended at {rate} B/s");
        assert_eq!(echo.began.load(std::sync::atomic::Ordering::SeqCst), 50);
    }
}

#[tokio::test(start_paused = true)]
async fn a_server_that_is_gone_amid_a_long_request_is_found_within_three_seconds() {
    let (sender, _) = behind(400_000, 1_000_000).await;
    let began = Instant::now();
    let error = upload(&sender).await.unwrap_err();
    let after = began.elapsed();
    assert!(error.is_lost(), "{error:?}");
    assert!(
        (2500..5600).contains(&after.as_millis()),
        "{after:?}, of which the first 2.5 s bytes were carried"
    );
}
