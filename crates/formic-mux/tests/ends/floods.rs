//! A server that asks for more than it reads, and one that does not read at all.

use std::time::Duration;

use formic_core::Code;
use formic_mux::Limits;
use formic_mux::client::connect;
use formic_mux::codec::{Frame, Header, Type, write};
use formic_mux::machine::Head;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;

use crate::raw::Raw;
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

#[tokio::test(start_paused = true)]
async fn time_spent_in_line_is_not_the_servers() {
    let (ours, theirs) = tokio::io::duplex(64 << 10);
    let greeted = Raw::greet(theirs, Limits { calls: 1, ..Limits::default() });
    let with = with();
    let (sender, mut raw) = futures::future::join(connect(ours, "busy".into(), &with), greeted).await;
    let sender = sender.unwrap();
    let none = http::HeaderMap::new();
    let head = Head { timeout: Some(Duration::from_secs(2)), ..head("/t.Echo/Say", &none) };
    let messages = ["1".into(), "2".into()];
    let [first, second] =
        messages.each_ref().map(|message| sender.call(|| head, Some(message), || None, false));
    let answering = async {
        let (_, id, payload) = raw.frame().await.unwrap();
        assert_eq!((id, timeout_in(&payload)), (1, 2_000_000));
        tokio::time::sleep(Duration::from_millis(800)).await;
        let mut answer = Vec::new();
        write::frame(&mut answer, Type::Response, 1, |out| out.extend_from_slice(&[0x0a, 0]));
        raw.send(&answer).await;
        let (_, id, payload) = raw.frame().await.unwrap();
        assert_eq!(id, 2);
        assert!((1_190_000..=1_210_000).contains(&timeout_in(&payload)), "{}", timeout_in(&payload));
        answer[4..8].copy_from_slice(&2u32.to_be_bytes());
        raw.send(&answer).await;
    };
    let (first, second, ()) = within("both", futures::future::join3(first, second, answering)).await;
    assert!(first.is_ok() && second.is_ok());
}

/// The timeout of a request in microseconds.
fn timeout_in(payload: &[u8]) -> u64 {
    let header = Header { length: payload.len(), kind: Type::Request, id: 1 };
    match Frame::parse(header, payload).unwrap() {
        Frame::Request(request) => u64::try_from(request.timeout.unwrap().as_micros()).unwrap(),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_fault_of_the_server_is_told_to_it() {
    let (ours, mut theirs) = tokio::io::duplex(64 << 10);
    theirs.write_all(&greeting()).await.unwrap();
    let sender = connect(ours, "faulty".into(), &with()).await.unwrap();
    let mut credit = Vec::new();
    write::credit(&mut credit, 99, 1);
    theirs.write_all(&credit).await.unwrap();
    let mut said = Vec::new();
    within("the client's last words", theirs.read_to_end(&mut said)).await.unwrap();
    let mut goodbye = Vec::new();
    write::go_away(&mut goodbye, 0, 1, "a frame is about a call that never was");
    assert!(said.ends_with(&goodbye), "{said:?}");
    assert!(sender.is_closed());
}
