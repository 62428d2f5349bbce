//! The other end is silent, deaf, dead, or does not keep the rules.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use formic_core::Code;
use formic_mux::Limits;
use formic_mux::client::{NoGreeting, connect};
use formic_mux::codec::frame::request::MORE;
use formic_mux::codec::{Type, write};
use formic_rpc::ByteStream;
use futures::StreamExt;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::{Instant, timeout};

use crate::raw::{Raw, request, whole};
use crate::rig::*;

/// A greeting and requests of one frame.
fn requests(ids: std::ops::Range<u32>, path: &str, message: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    for id in ids {
        write::frame(&mut out, Type::Request, id, |out| {
            out.push(0xa0);
            write::varint(out, 1);
            write::bytes(out, path.as_bytes());
            write::varint(out, 0);
            out.extend_from_slice(message);
        });
    }
    out
}

fn greeting() -> Vec<u8> {
    let mut out = Vec::new();
    Limits::default().write(&mut out);
    out
}

#[tokio::test(start_paused = true)]
async fn a_dead_server_is_noticed_within_three_seconds() {
    let (ours, mut theirs) = tokio::io::duplex(64 << 10);
    theirs.write_all(&greeting()).await.unwrap();
    let sender = connect(ours, "dead".into(), &with()).await.unwrap();
    let began = Instant::now();
    let error = say(&sender, "/t.Echo/Say", "".into()).await.unwrap_err();
    assert!(began.elapsed() <= Duration::from_secs(3), "{:?}", began.elapsed());
    assert_eq!((error.code(), error.is_unsent()), (Code::Unavailable, false));
    assert_eq!(error.message(), "the connection to dead was lost: the other side answers no ping");
    assert!(sender.is_closed());
    drop(theirs);
}

#[tokio::test]
async fn a_server_that_gives_the_connection_up_is_heard_to_say_why() {
    for (last, unsent) in [(1, false), (0, true)] {
        let (ours, mut theirs) = tokio::io::duplex(64 << 10);
        theirs.write_all(&greeting()).await.unwrap();
        let sender = connect(ours, "strict".into(), &with()).await.unwrap();
        let call = say(&sender, "/t.Echo/Say", "".into());
        let give_up = async {
            // As one does that has a fault to tell: it reads the request, says the last words, and closes.
            let mut read = vec![0; greeting().len() + 8];
            theirs.read_exact(&mut read).await.unwrap();
            let mut words = Vec::new();
            write::go_away(&mut words, last, 1, &"a frame is longer than it may be. ".repeat(100));
            theirs.write_all(&words).await.unwrap();
            drop(theirs);
        };
        let (error, ()) = within("an end", futures::future::join(call, give_up)).await;
        let error = error.unwrap_err();
        assert_eq!((error.code(), error.is_unsent(), error.is_lost()), (Code::Unavailable, unsent, !unsent));
        let text = error.message();
        assert!(text.contains("gave") && text.contains(" up: a frame is longer than it may be."), "{text}");
        assert!(text.len() < 400, "{text}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_dead_client_is_let_go() {
    let echo = Arc::new(Echo::default());
    let (mut ours, server, _) = served(&echo, Limits::default());
    ours.write_all(&greeting()).await.unwrap();
    ours.write_all(&requests(1..2, "/t.Echo/Hang", b"")).await.unwrap();
    let began = Instant::now();
    server.await.unwrap();
    assert!(began.elapsed() <= Duration::from_secs(32), "{:?}", began.elapsed());
    until("its handler to be dropped", || echo.dropped.load(Ordering::SeqCst) == 1).await;
}

#[tokio::test(start_paused = true)]
async fn a_request_that_does_not_go_on_ends() {
    let echo = Arc::new(Echo::default());
    let (mut ours, server, _) = served(&echo, Limits::default());
    ours.write_all(&greeting()).await.unwrap();
    let mut request = requests(1..2, "/t.Echo/Say", b"and so on");
    // A message of which more is to come.
    request[8] = 0x60;
    ours.write_all(&request).await.unwrap();
    let mut said = [0; 1024];
    let mut text = String::new();
    let began = Instant::now();
    while !text.contains("does not go on") {
        let count = ours.read(&mut said).await.unwrap();
        assert!(began.elapsed() < Duration::from_secs(100), "it has no end");
        text.push_str(&String::from_utf8_lossy(&said[..count]));
        let mut pong = Vec::new();
        write::ping(&mut pong, 1, [0; 8]);
        ours.write_all(&pong).await.unwrap();
    }
    assert!(began.elapsed() < Duration::from_secs(35), "{:?}", began.elapsed());
    assert_eq!(echo.began.load(Ordering::SeqCst), 0);
    drop(ours);
    server.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn who_does_not_greet_is_let_go() {
    let echo = Arc::new(Echo::default());
    let (mut ours, server, _) = served(&echo, Limits::default());
    ours.write_all(&greeting()[..20]).await.unwrap();
    let began = Instant::now();
    server.await.unwrap();
    assert!(began.elapsed() <= Duration::from_secs(7), "{:?}", began.elapsed());
}

#[tokio::test]
async fn a_server_that_speaks_something_else() {
    for (said, foreign) in
        [(&b"HTTP/1.1 400 Bad Request\r\n\r\n"[..], true), (b"\xf0formic", false), (b"", false)]
    {
        let (ours, mut theirs) = tokio::io::duplex(1024);
        theirs.write_all(said).await.unwrap();
        theirs.shutdown().await.unwrap();
        let error = connect(ours, "foreign".into(), &with()).await.unwrap_err();
        assert_eq!(matches!(error, NoGreeting::Foreign(_)), foreign, "{error}");
        assert!(foreign || matches!(error, NoGreeting::Closed | NoGreeting::Io(_)), "{error}");
    }
}

#[tokio::test]
async fn who_reads_no_answers_is_not_asked_for_more() {
    let echo = Arc::new(Echo::default());
    let (mut ours, server, _) = served(&echo, Limits::default());
    ours.write_all(&greeting()).await.unwrap();
    let mut sent = 0;
    let bytes = requests(1..2, "/t.Echo/Say", &[7; 30_000]);
    let stalled = loop {
        let mut request = bytes.clone();
        request[4..8].copy_from_slice(&(sent + 1u32).to_be_bytes());
        if timeout(Duration::from_millis(300), ours.write_all(&request)).await.is_err() {
            break true;
        }
        sent += 1;
        if sent > 2_000 {
            break false;
        }
    };
    assert!(stalled, "60 MB were taken from who reads nothing");
    assert!(echo.began.load(Ordering::SeqCst) < 100);
    drop(ours);
    within("the server to end", server).await.unwrap();
}

/// What breaks the rules behind a greeting, and what the server says of it.
fn faults() -> Vec<(Vec<u8>, &'static str)> {
    let again = [requests(1..2, "/t.Echo/Hang", b""), requests(1..2, "/t.Echo/Hang", b"")].concat();
    let mut credit = Vec::new();
    write::credit(&mut credit, 0, 0x7fff_ffff);
    // A path of four gibibytes, in a frame of a few bytes.
    let mut path = Vec::new();
    write::frame(&mut path, Type::Request, 1, |out| {
        out.extend_from_slice(&[0xa0, 1, 0xff, 0xff, 0xff, 0xff, 15])
    });
    let mut unread = request(1, "/t.Echo/Hold", None, 0, b"");
    (0..9).for_each(|_| write::data(&mut unread, 1, 0, &[7; 65_000]));
    let mut never = Vec::new();
    write::data(&mut never, 1, 0, b"hi");
    vec![
        (vec![0xff, 0xff, 0xff, 3, 0, 0, 0, 1], "a frame is longer than 65536 bytes"),
        (requests(0..1, "/t.Echo/Say", b""), "a frame of a call has the number 0"),
        (again, "a call has a number that was used before"),
        (credit, "there is credit without end"),
        (path, "a frame ends before its time"),
        (unread, "there is more data than credit"),
        (never, "a frame is about a call that never was"),
    ]
}

#[tokio::test]
async fn a_fault_is_told_and_other_connections_live() {
    let rig = rig(Limits::default()).await;
    let (mut say_more, requests) = futures::channel::mpsc::channel(1);
    let requests = ByteStream::new(requests.map(Ok));
    let mut chat = stream(&rig.sender, "/t.Echo/Chat", None, Some(requests)).await.unwrap();
    // One that keeps the rules: as many calls as may be open, none of which goes on.
    let stalled = async |calls| {
        let (ours, server, _) = served_by(Arc::clone(&rig.accept));
        let mut peer = Raw::greet(ours, Limits::default()).await;
        for id in 1..=calls {
            peer.send(&request(id, "/t.Echo/Say", None, MORE, &[7; 1000])).await;
        }
        peer.send(&whole(calls + 1, "/t.Echo/Say", None, b"")).await;
        assert_eq!(peer.end_of(calls + 1).await, Some(Code::ResourceExhausted.number()));
        (peer, server)
    };
    let (stalling, stalled) = within("its last call to be refused", stalled(rig.accept.limits.calls)).await;
    let held = rig.accept.budget.held();
    assert!(held > 1 << 20, "{held} bytes are held of calls that do not go on");
    for (bytes, why) in faults() {
        let (mut ours, server, _) = served_by(Arc::clone(&rig.accept));
        ours.write_all(&greeting()).await.unwrap();
        // The server does not read what comes behind a fault.
        let _ = ours.write_all(&bytes).await;
        let mut said = Vec::new();
        within("the server's last words", ours.read_to_end(&mut said)).await.unwrap();
        assert!(String::from_utf8_lossy(&said).contains(why), "{why}: {said:?}");
        within("the server to end", server).await.unwrap();
        // On the same server: a call, and one that was open before.
        assert_eq!(say(&rig.sender, "/t.Echo/Say", "alive".into()).await.unwrap(), "alive");
        futures::SinkExt::send(&mut say_more, why.into()).await.unwrap();
        assert_eq!(next(&mut chat).await, why);
        assert_eq!(rig.accept.budget.held(), held, "{why}: what was held is free");
    }
    drop(stalling);
    within("the server to end", stalled).await.unwrap();
    until("all to be free", || rig.accept.budget.held() == 0).await;
}

#[tokio::test]
async fn either_end_may_die_at_any_byte() {
    // The bytes of a whole conversation, as a server would see them.
    let whole = [greeting(), requests(1..4, "/t.Echo/Later", b"hello")].concat();
    let echo = Arc::new(Echo::default());
    for at in 0..whole.len() {
        let (mut ours, server, _) = served(&echo, Limits::default());
        ours.write_all(&whole[..at]).await.unwrap();
        drop(ours);
        within("the server to notice", server).await.unwrap();
    }
    // And a server that dies after so many bytes of its answers.
    let mut answer = greeting();
    write::frame(&mut answer, Type::Response, 1, |out| out.extend_from_slice(&[0x0a, 0, b'h', b'i']));
    for at in greeting().len()..=answer.len() {
        let (ours, mut theirs) = tokio::io::duplex(64 << 10);
        theirs.write_all(&greeting()).await.unwrap();
        let sender = connect(ours, "mortal".into(), &with()).await.unwrap();
        let call = say(&sender, "/t.Echo/Say", "".into());
        let dying = async {
            let (mut read, mut request) = (0, [0; 256]);
            while read <= greeting().len() {
                read += theirs.read(&mut request).await.unwrap();
            }
            theirs.write_all(&answer[greeting().len()..at]).await.unwrap();
            drop(theirs);
        };
        let (answered, ()) = within("the call to end", futures::future::join(call, dying)).await;
        match answered {
            Ok(said) => assert!(at == answer.len() && said == "hi"),
            Err(error) => {
                assert!(at < answer.len() && error.code() == Code::Unavailable && !error.is_unsent())
            }
        }
    }
}
