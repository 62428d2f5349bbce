//! Calls between two ends of good manners.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use formic_core::Code;
use formic_mux::Limits;
use formic_mux::capture::Recording;
use formic_rpc::rt::buffa_types::google::protobuf::StringValue;
use formic_rpc::{ByteStream, Codec, Response, Streaming, rt};
use futures::StreamExt;
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::rig::*;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_storm_of_cancellations_mixes_nothing_up() {
    let rig = rig(Limits::default()).await;
    let mut callers = JoinSet::new();
    for caller in 0..16u32 {
        let sender = rig.sender.clone();
        callers.spawn(async move {
            let mut chance = fastrand::Rng::with_seed(caller.into());
            for n in 0..400u32 {
                let size = if n % 50 == 0 { 200_000 } else { chance.usize(..200) };
                let mut bytes = vec![caller as u8; size];
                bytes.extend_from_slice(&n.to_be_bytes());
                let message = Bytes::from(bytes);
                let path = ["/t.Echo/Say", "/t.Echo/Later", "/t.Echo/Hang"][chance.usize(..3)];
                let call = say(&sender, path, message.clone());
                if path.ends_with("Hang") || chance.u8(..4) == 0 {
                    let limit = Duration::from_micros(chance.u64(..300));
                    if let Ok(answer) = timeout(limit, call).await {
                        assert_eq!(answer.unwrap(), message);
                    }
                } else {
                    assert_eq!(within("an answer", call).await.unwrap(), message);
                }
            }
        });
    }
    all(callers).await;
    until("all handlers to end", || {
        let (began, dropped) =
            (rig.echo.began.load(Ordering::SeqCst), rig.echo.dropped.load(Ordering::SeqCst));
        began > 3_000 && dropped > 500
    })
    .await;
    assert_eq!(say(&rig.sender, "/t.Echo/Say", "alive".into()).await.unwrap(), "alive");
}

#[tokio::test]
async fn long_messages_go_both_ways_beside_short_ones() {
    let rig = rig(Limits::default()).await;
    let mut calls = JoinSet::new();
    for n in 0..6u8 {
        let sender = rig.sender.clone();
        calls.spawn(async move {
            let long = Bytes::from(vec![n; 3 << 20]);
            assert!(say(&sender, "/t.Echo/Later", long.clone()).await.unwrap() == long);
        });
        let sender = rig.sender.clone();
        calls.spawn(async move {
            for _ in 0..50 {
                assert_eq!(say(&sender, "/t.Echo/Say", "short".into()).await.unwrap(), "short");
            }
        });
    }
    all(calls).await;
    let error = say(&rig.sender, "/t.Echo/Say", vec![0; (4 << 20) + 1].into()).await.unwrap_err();
    assert_eq!(error.code(), Code::ResourceExhausted);
}

#[tokio::test]
async fn calls_wait_for_room_in_turn() {
    let rig = rig(Limits { calls: 2, ..Limits::default() }).await;
    let hanging: Vec<_> = (0..2).map(|_| Box::pin(say(&rig.sender, "/t.Echo/Hang", "".into()))).collect();
    let mut hanging = futures::future::join_all(hanging);
    assert!(timeout(Duration::from_millis(50), &mut hanging).await.is_err(), "they hang");
    let mut waiting = JoinSet::new();
    for n in 0..20 {
        let sender = rig.sender.clone();
        waiting.spawn(async move {
            let call = say(&sender, "/t.Echo/Later", "x".into());
            // Some have no patience, and must not take the others' turns.
            if n % 3 == 0 {
                assert!(timeout(Duration::from_millis(20), call).await.is_err(), "there is no room");
            } else {
                assert_eq!(within("room", call).await.unwrap(), "x");
            }
        });
    }
    tokio::time::sleep(Duration::from_millis(60)).await;
    assert_eq!(rig.echo.began.load(Ordering::SeqCst), 2);
    drop(hanging);
    all(waiting).await;
}

#[tokio::test]
async fn a_request_stream_that_panics_ends_its_call() {
    // The server has a place for one call, which the next one needs.
    let rig = rig(Limits { calls: 1, ..Limits::default() }).await;
    let text = |value: &str| StringValue { value: value.into(), ..StringValue::default() };
    let [first, more] = ["first", "more"].map(|value| rt::encode(&text(value), Codec::Proto).unwrap());
    for (path, together) in [("/t.Echo/Chat", true), ("/t.Echo/Chat", false), ("/t.Echo/Hold", true)] {
        let (go_on, told) = futures::channel::oneshot::channel::<()>();
        // Some more come right before it.
        let rest = futures::stream::once(told).map(|_| ()).chain(futures::stream::repeat(())).enumerate();
        let rest = rest.map(move |(n, ())| match n {
            5 => panic!("the author of the stream made a mistake"),
            _ => Ok(text("more")),
        });
        let requests = Streaming::new(futures::stream::iter([Ok(text("first"))]).chain(rest));
        let requests = rt::stream_answer(Response::new(requests), Codec::Proto).unwrap().body.into_stream();
        let requests = if together { requests } else { ByteStream::new(requests) };
        let mut answers = stream(&rig.sender, path, None, Some(requests)).await.unwrap();
        if path.ends_with("Chat") {
            assert_eq!(next(&mut answers).await, first);
        }
        go_on.send(()).unwrap();
        let error = loop {
            match within("an end", answers.next()).await.unwrap() {
                Ok(message) => assert_eq!(message, more),
                Err(error) => break error,
            }
        };
        assert_eq!(error.code(), Code::Internal, "{path}: {error}");
        assert_eq!(within("room", say(&rig.sender, "/t.Echo/Say", "x".into())).await.unwrap(), "x");
    }
}

#[tokio::test]
async fn a_method_that_computes_for_long_is_learnt() {
    let rig = rig(Limits::default()).await;
    let learnt = |path: &str| rig.accept.book.of(&path.into()).is_slow();
    for _ in 0..40 {
        say(&rig.sender, "/t.Echo/Spin", "".into()).await.unwrap();
        if learnt("/t.Echo/Spin") {
            return;
        }
    }
    panic!("after 40 calls of 200 µs each it is not known as slow");
}

#[tokio::test]
async fn one_call_in_many_that_computes_for_long_is_enough() {
    let rig = rig(Limits::default()).await;
    // Far beyond the calls that are all measured, and at one that is not.
    for _ in 0..200 {
        say(&rig.sender, "/t.Echo/Sleep", "".into()).await.unwrap();
    }
    say(&rig.sender, "/t.Echo/Sleep", "long".into()).await.unwrap();
    say(&rig.sender, "/t.Echo/Sleep", "".into()).await.unwrap();
    assert!(rig.accept.book.of(&"/t.Echo/Sleep".into()).is_slow());
}

#[tokio::test]
async fn a_reader_who_does_not_read_holds_up_only_its_own_stream() {
    let rig = rig(Limits::default()).await;
    let mut endless = stream(&rig.sender, "/t.Echo/Endless", Some("".into()), None).await.unwrap();
    assert_eq!(next(&mut endless).await.len(), 10_000);
    tokio::time::sleep(Duration::from_millis(100)).await;
    let made = rig.echo.made.load(Ordering::SeqCst);
    assert!(made < 200, "{made} messages were made for a reader with credit for 104");
    assert_eq!(say(&rig.sender, "/t.Echo/Say", "by".into()).await.unwrap(), "by");
    for _ in 0..500 {
        next(&mut endless).await;
    }
}

#[tokio::test]
async fn a_conversation_and_a_handler_that_does_not_listen() {
    let rig = rig(Limits::default()).await;
    let (sender, requests) = futures::channel::mpsc::channel(1);
    let requests = ByteStream::new(requests.map(Ok));
    let mut answers = stream(&rig.sender, "/t.Echo/Chat", None, Some(requests)).await.unwrap();
    let mut sender = sender;
    for n in 0..2_000u32 {
        let message = Bytes::from(n.to_be_bytes().repeat(100));
        futures::SinkExt::send(&mut sender, message.clone()).await.unwrap();
        assert_eq!(next(&mut answers).await, message);
    }
    drop(sender);
    assert!(within("the end", answers.next()).await.is_none());
    // More than all credit is on its way to handlers that do not take it; the connection lives on.
    for _ in 0..60 {
        let requests = futures::stream::repeat_with(|| Ok(Bytes::from(vec![0; 60_000]))).take(20);
        let none = http::HeaderMap::new();
        let head = head("/t.Echo/Deaf", &none);
        let call = rig.sender.call(|| head, None, || Some(ByteStream::new(requests)), false);
        let answer = within("an answer without a look", call).await.map_err(plain).unwrap();
        assert_eq!(answer.body.into_message().unwrap(), "deaf");
    }
    assert_eq!(say(&rig.sender, "/t.Echo/Say", vec![1; 100_000].into()).await.unwrap().len(), 100_000);
}

#[tokio::test]
async fn a_drain_answers_what_was_taken() {
    let rig = rig(Limits::default()).await;
    let mut endless = stream(&rig.sender, "/t.Echo/Endless", Some("".into()), None).await.unwrap();
    next(&mut endless).await;
    rig.draining.cancel();
    until("the client to hear of it", || rig.sender.is_closed()).await;
    let error = say(&rig.sender, "/t.Echo/Say", "".into()).await.unwrap_err();
    assert!(error.is_unsent());
    next(&mut endless).await;
    assert!(!rig.server.is_finished());
    drop(endless);
    within("the server to end", rig.server).await.unwrap();
}

#[tokio::test]
async fn a_record_says_what_was_said() {
    let folder =
        std::env::temp_dir().join(format!("formic-mux-{}-{:x}", std::process::id(), fastrand::u64(..)));
    std::fs::create_dir_all(&folder).unwrap();
    let mut with = with();
    with.capture = Some(Recording::Folder(folder.clone()));
    let rig = rig_with(Limits::default(), with).await;
    for _ in 0..2 {
        say(&rig.sender, "/t.Echo/Say", "abc".into()).await.unwrap();
    }
    assert!(say(&rig.sender, "/t.Echo/None", "".into()).await.is_err());
    // What is printed does nothing to a terminal.
    let mut metadata = http::HeaderMap::new();
    metadata.insert("x-a", http::HeaderValue::from_bytes(b"\x9b2J").unwrap());
    let odd = head("/t.Echo/\u{1b}[2J", &metadata);
    assert!(rig.sender.call(|| odd, Some(&Bytes::new()), || None, false).await.is_err());
    let hanging = say(&rig.sender, "/t.Echo/Hang", "".into());
    assert!(timeout(Duration::from_millis(50), hanging).await.is_err());
    let file = std::fs::read_dir(&folder).unwrap().next().unwrap().unwrap().path();
    let mode = std::os::unix::fs::PermissionsExt::mode(&std::fs::metadata(&file).unwrap().permissions());
    assert_eq!(mode & 0o777, 0o600, "it holds secrets");
    let read = || {
        let mut lines = Vec::new();
        let file = std::fs::File::open(&file).unwrap();
        formic_mux::capture::decode(file, |said| lines.push(said.to_string())).unwrap();
        lines.join("\n")
    };
    until("the record to be written", || read().contains("cancel code 1")).await;
    let text = read();
    for expected in [
        "→ greeting",
        "← greeting",
        "→ call 1 request /t.Echo/Say proto 3 B, complete",
        "→ call 2 request /t.Echo/Say proto 3 B, complete",
        "← call 2 response 3 B, complete",
        "← call 3 error unimplemented: \"no method /t.Echo/None\"",
        "→ call 5 cancel",
    ] {
        assert!(text.contains(expected), "{expected:?} is not in\n{text}");
    }
    assert!(!text.contains('\u{1b}'), "{text:?}");
    assert!(text.contains(r"/t.Echo/\u{1b}[2J") && text.contains("x-a=\u{fffd}2J"), "{text}");
    assert!(formic_mux::capture::decode(&b"something else"[..], |_| {}).is_err());
    std::fs::remove_dir_all(&folder).unwrap();
}

/// So many calls that nobody reads hold more than half of the connection's credit, half a mebibyte each.
const UNREAD: usize = 40;

#[tokio::test]
async fn requests_that_nobody_reads_leave_the_connection_to_others() {
    let rig = rig(Limits::default()).await;
    let mut holding = Vec::new();
    let made = Arc::new(AtomicUsize::new(0));
    for _ in 0..UNREAD {
        let made = Arc::clone(&made);
        let requests = futures::stream::repeat_with(move || {
            made.fetch_add(1, Ordering::SeqCst);
            Ok(Bytes::from(vec![0; 60_000]))
        });
        holding
            .push(stream(&rig.sender, "/t.Echo/Hold", None, Some(ByteStream::new(requests))).await.unwrap());
    }
    // As much as each may.
    until("all to be said", || made.load(Ordering::SeqCst) >= UNREAD * 9).await;
    // With what is held more than the connection's credit: what is read comes back.
    for _ in 0..40 {
        let call = say(&rig.sender, "/t.Echo/Say", vec![1; 600_000].into());
        assert_eq!(within("an answer", call).await.unwrap().len(), 600_000);
    }
}

#[tokio::test]
async fn answers_that_nobody_reads_leave_the_connection_to_others() {
    let rig = rig(Limits::default()).await;
    let mut unread = Vec::new();
    for _ in 0..UNREAD {
        let answers = stream(&rig.sender, "/t.Echo/Endless", Some(Bytes::new()), None).await.unwrap();
        unread.push(answers);
    }
    until("all to be said", || rig.echo.made.load(Ordering::SeqCst) >= UNREAD * 50).await;
    for _ in 0..120 {
        let call = say(&rig.sender, "/t.Echo/Big", Bytes::new());
        assert_eq!(within("an answer", call).await.unwrap().len(), 200_000);
    }
}

/// One thread for all: what makes its messages slowly gives way after a millisecond or two, and not after hundreds of messages.
#[tokio::test]
async fn a_small_call_comes_by_a_stream_that_is_always_ready() {
    let rig = rig(Limits::default()).await;
    let mut slow = stream(&rig.sender, "/t.Echo/Slow", Some(Bytes::new()), None).await.unwrap();
    let reading = tokio::spawn(async move { while slow.next().await.is_some() {} });
    let mut made = Vec::new();
    for _ in 0..9 {
        let before = rig.echo.made.load(Ordering::SeqCst);
        let answer = within("a small call", say(&rig.sender, "/t.Echo/Say", "hi".into())).await;
        assert_eq!(answer.unwrap(), "hi");
        made.push(rig.echo.made.load(Ordering::SeqCst) - before);
    }
    made.sort_unstable();
    // It comes by a few times, there and back, and by some ten messages each time.
    assert!(made[4] < 150, "{made:?}");
    reading.abort();
}
