//! A server that asks for more than it reads, and one that does not read at all.

use std::time::Duration;

use formic_core::Code;
use formic_mux::Limits;
use formic_mux::client::connect;
use formic_mux::codec::write;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;

use crate::rig::*;

fn greeting() -> Vec<u8> {
    let mut out = Vec::new();
    Limits::default().write(&mut out);
    out
}

#[tokio::test(start_paused = true)]
async fn a_server_that_pings_and_never_reads_is_left() {
    // With a call that waits, and with none.
    for calls in [1, 0] {
        let (ours, mut theirs) = tokio::io::duplex(64 << 10);
        theirs.write_all(&greeting()).await.unwrap();
        let sender = connect(ours, "flood".into(), &with()).await.unwrap();
        let calling = async {
            if calls > 0 {
                let error = say(&sender, "/t.Echo/Say", "".into()).await.unwrap_err();
                assert_eq!(error.code(), Code::Unavailable);
            }
        };
        let flood = async {
            let mut pings = Vec::new();
            for _ in 0..1000 {
                write::ping(&mut pings, 0, [0; 8]);
            }
            let mut sent = 0;
            while theirs.write_all(&pings).await.is_ok() {
                sent += pings.len();
                assert!(sent < 16 << 20, "{sent} bytes were taken from who reads nothing");
            }
        };
        let both = futures::future::join(calling, flood);
        assert!(timeout(Duration::from_secs(10), both).await.is_ok(), "it is held on to");
        assert!(sender.is_closed());
    }
}

#[tokio::test(start_paused = true)]
async fn calls_that_are_given_up_unwritten_fill_no_memory() {
    let (ours, mut theirs) = tokio::io::duplex(64 << 10);
    theirs.write_all(&greeting()).await.unwrap();
    let sender = connect(ours, "deaf".into(), &with()).await.unwrap();
    let message = bytes::Bytes::from(vec![7; 60_000]);
    for _ in 0..500 {
        let call = say(&sender, "/t.Echo/Say", message.clone());
        assert!(timeout(Duration::from_millis(1), call).await.is_err(), "nobody answers");
    }
    // What was kept for a server that reads after all.
    drop(sender);
    let mut kept = 0;
    let mut bytes = vec![0; 64 << 10];
    while let Ok(Ok(count @ 1..)) = timeout(Duration::from_millis(100), theirs.read(&mut bytes)).await {
        kept += count;
    }
    assert!(kept < 2 << 20, "{kept} bytes were kept of 30 MB");
}

#[tokio::test]
async fn calls_that_wait_for_what_is_unwritten_are_all_made() {
    let rig = rig(Limits::default()).await;
    let message = bytes::Bytes::from(vec![7; 60_000]);
    let mut calls = tokio::task::JoinSet::new();
    for n in 0..300 {
        let (sender, message) = (rig.sender.clone(), message.clone());
        calls.spawn(async move {
            // Some give their turn up.
            let call = say(&sender, "/t.Echo/Later", message.clone());
            match n % 7 {
                0 => drop(timeout(Duration::from_millis(1), call).await),
                _ => assert!(within("an answer", call).await.unwrap() == message),
            }
        });
    }
    all(calls).await;
}
