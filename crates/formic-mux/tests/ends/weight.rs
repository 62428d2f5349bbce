//! What calls take in memory beside their messages: metadata from the tables, messages of hardly a byte, frames that do not end.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use formic_core::{Error, Kind, Method};
use formic_mux::client::connect;
use formic_mux::codec::frame::request::{END, MESSAGE, MORE};
use formic_mux::codec::{Type, write};
use formic_mux::{Accept, Limits};
use formic_rpc::{Answer, BoxFuture, Call, Handle};
use futures::StreamExt;
use tokio::io::AsyncWriteExt;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use crate::crowd::{CROWD, MOST, accept_little, crowd, crowd_at_work, press, stranger};
use crate::memory::{self, Before};
use crate::raw::{Raw, request, whole};
use crate::rig::*;

/// Pairs of the table, none longer than two bytes.
const PAIRS: u32 = 250;

/// A request of less than a kilobyte with nearly as many pairs as metadata may have. The first defines those of the table.
fn much_metadata(id: u32, path: &str, flags: u8) -> Vec<u8> {
    let mut out = Vec::new();
    write::frame(&mut out, Type::Request, id, |out| {
        out.push(flags);
        if id == 1 {
            write::varint(out, 1);
            write::bytes(out, path.as_bytes());
        } else {
            write::varint(out, 0);
        }
        write::varint(out, 460);
        for n in 0..460 {
            let place = n % PAIRS;
            if id == 1 && n < PAIRS {
                write::varint(out, place << 1 | 1);
                write::bytes(out, format!("{place:x}").as_bytes());
                write::bytes(out, b"");
            } else {
                write::varint(out, (place + 1) << 1);
            }
        }
        out.push(7);
    });
    out
}

#[tokio::test(start_paused = true)]
async fn metadata_of_requests_that_do_not_end_is_bounded() {
    crowd(Limits::default(), || {
        (1..=40).flat_map(|id| much_metadata(id, "/t.Echo/Say", MESSAGE | MORE)).collect()
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn metadata_of_calls_that_are_worked_on_is_bounded() {
    crowd_at_work(|| (1..=40).flat_map(|id| much_metadata(id, "/t.Echo/Hang", MESSAGE | END)).collect())
        .await;
}

#[tokio::test(start_paused = true)]
async fn requests_of_hardly_a_byte_are_bounded() {
    crowd(Limits::default(), || {
        (1..=1000).flat_map(|id| request(id, "/t.Echo/Say", None, MORE, b"7")).collect()
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn messages_of_hardly_a_byte_are_bounded() {
    crowd_at_work(|| {
        let mut requests: Vec<u8> =
            (1..=2).flat_map(|id| request(id, "/t.Echo/Hold", None, 0, b"7")).collect();
        // One call's never stand together.
        for n in 0..8_000 {
            write::data(&mut requests, 1 + n % 2, 0, b"7");
        }
        requests
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn names_that_are_noted_are_bounded() {
    // What they would hold is three times what they may.
    const MANY: usize = 3 * CROWD;
    let (accept, _) = accept_little(&Arc::default());
    let mut crowd = JoinSet::new();
    let mut calls = Vec::new();
    for id in 1..=256 {
        write::frame(&mut calls, Type::Request, id, |out| {
            out.push(END);
            write::varint(out, (id - 1) << 1 | 1);
            write::bytes(out, format!("/t.Echo/{id:01000}").as_bytes());
            write::varint(out, 0);
        });
    }
    let (calls, before) = (Bytes::from(calls), Before::now());
    for _ in 0..MANY {
        crowd.spawn(press(Arc::clone(&accept), Limits::default(), calls.clone()));
        sleep(Duration::from_millis(100)).await;
    }
    before.check(memory::most(MANY));
    those_in_the_way_are_gone(&accept, crowd, MANY).await;
}

/// Until little is left nobody is in the way. Those who were are gone, with all that was noted of them, and others have room.
async fn those_in_the_way_are_gone(accept: &Arc<Accept>, mut crowd: JoinSet<()>, many: usize) {
    sleep(Duration::from_secs(5)).await;
    let left = std::iter::from_fn(|| crowd.try_join_next()).count();
    assert!((1..many).contains(&left), "{left} were told goodbye");
    let held = accept.budget.held();
    assert!((MOST / 2..=MOST - MOST / 8).contains(&held), "{held} are held");
    let stranger = stranger(accept).await;
    let message = Bytes::from(vec![3; 100_000]);
    let said = within("a larger call", say(&stranger, "/t.Echo/Say", message.clone())).await;
    assert_eq!(said.unwrap(), message);
    crowd.shutdown().await;
    until("what was held to be free again", || accept.budget.held() == 0).await;
}

/// Answers with the metadata of the request.
struct Mirror;

const MIRROR: Method = Method::new("/t.Mirror/Say", Kind::Unary);

impl Handle for Mirror {
    fn method(&self, path: &str) -> Option<Method> {
        [MIRROR, Method::new("/t.Echo/Say", Kind::Unary)].into_iter().find(|method| method.path() == path)
    }

    fn call(&self, call: Call) -> BoxFuture<'static, Result<Answer, Error>> {
        Box::pin(async move { Ok(Answer { metadata: call.metadata, ..Answer::new(call.body) }) })
    }
}

#[tokio::test(start_paused = true)]
async fn metadata_that_is_noted_because_it_is_said_twice_is_bounded() {
    // What they would have the server note is four times what it may.
    const MANY: usize = 3 * CROWD;
    let (accept, _) = accept_little(&Arc::default());
    let mut accept = Arc::into_inner(accept).unwrap();
    accept.handle = Arc::new(Mirror);
    let accept = Arc::new(accept);
    let mut crowd = JoinSet::new();
    let mut calls = Vec::new();
    for id in 1..=128 {
        write::frame(&mut calls, Type::Request, id, |out| {
            out.push(END | MESSAGE);
            write::varint(out, 1);
            write::bytes(out, MIRROR.path().as_bytes());
            // Each pair twice, and each time in full: the client has nothing noted.
            write::varint(out, 8);
            for n in 0..8 {
                write::varint(out, 0);
                write::bytes(out, b"x");
                write::bytes(out, format!("{:0900}", (id - 1) / 2 * 8 + n).as_bytes());
            }
        });
    }
    // It takes more than the server does.
    let limits = Limits { pairs: 1024, ..Limits::default() };
    let (calls, before) = (Bytes::from(calls), Before::now());
    for _ in 0..MANY {
        crowd.spawn(press(Arc::clone(&accept), limits, calls.clone()));
        sleep(Duration::from_millis(100)).await;
    }
    before.check(memory::most(MANY));
    those_in_the_way_are_gone(&accept, crowd, MANY).await;
}

#[tokio::test(start_paused = true)]
async fn who_reads_no_errors_is_not_asked_for_more_calls() {
    let echo = Arc::new(Echo::default());
    let (accept, refused) = accept_little(&echo);
    let mut crowd = JoinSet::new();
    let calls: Bytes = (1..=40).flat_map(|id| request(id, "/t.Echo/Hold", None, 0, &[7; 60_000])).collect();
    let before = Before::now();
    for _ in 0..CROWD {
        crowd.spawn(press(Arc::clone(&accept), Limits::default(), calls.clone()));
    }
    until("somebody to be refused", || refused.load(Ordering::SeqCst) > 0).await;
    let (ours, _server, _) = served_by(Arc::clone(&accept));
    let mut raw = Raw::greet(ours, Limits::default()).await;
    // Calls of a method that there is not, by its number: an error is ten times as long.
    let named = whole(1, &format!("/t.None/{}", "x".repeat(1000)), None, b"");
    raw.send(&named).await;
    let (mut sent, mut id) = (0, 1);
    loop {
        let mut calls = Vec::new();
        for _ in 0..64 {
            id += 1;
            write::frame(&mut calls, Type::Request, id, |out| out.extend_from_slice(&[END, 0, 0]));
        }
        if timeout(Duration::from_millis(100), raw.io.write_all(&calls)).await.is_err() {
            break;
        }
        sent += calls.len();
        assert!(sent < 128 << 10, "{sent} bytes are taken from who reads nothing");
        sleep(Duration::from_millis(1)).await;
    }
    before.check(memory::most(CROWD));
    // The pipe's own, and hardly more.
    assert!(sent < 96 << 10, "{sent} bytes were taken from who reads nothing");
    crowd.shutdown().await;
    drop(raw);
    until("what was held to be free again", || accept.budget.held() == 0).await;
}

#[tokio::test(start_paused = true)]
async fn frames_that_do_not_end_are_bounded() {
    let (echo, most) = (Arc::new(Echo::default()), MOST / (64 << 10));
    let (accept, _) = accept_little(&echo);
    let mut frames = JoinSet::new();
    let cut = Bytes::from(whole(1, "/t.Echo/Say", None, &[7; 65_000]));
    let before = Before::now();
    for _ in 0..2 * most {
        let (accept, cut) = (Arc::clone(&accept), cut.clone());
        frames.spawn(async move {
            let (ours, ..) = served_by(accept);
            let mut raw = Raw::greet(ours, Limits::default()).await;
            raw.send(&cut[..60_000]).await;
            let mut rest = cut[60_000..].chunks(1);
            while let Some(byte) = rest.next()
                && raw.io.write_all(byte).await.is_ok()
            {
                sleep(Duration::from_secs(2)).await;
            }
        });
    }
    sleep(Duration::from_secs(20)).await;
    let gone = std::iter::from_fn(|| frames.try_join_next()).count();
    // Of those that are left the pipe is full too; of the others nothing is there any more.
    before.check_now((2 * most - gone) * (192 << 10));
    assert!((most..most + most / 4).contains(&gone), "{gone} of {} were let go", 2 * most);
    let stranger = stranger(&accept).await;
    let message = Bytes::from(vec![3; 8 << 10]);
    assert_eq!(
        within("a small call", say(&stranger, "/t.Echo/Say", message.clone())).await.unwrap(),
        message
    );
    frames.shutdown().await;
    until("what was held to be free again", || accept.budget.held() == 0).await;
}

#[tokio::test(start_paused = true)]
async fn a_frame_that_there_is_room_for_may_take_its_time() {
    let echo = Arc::new(Echo::default());
    let (accept, _) = accept_little(&echo);
    let (ours, ..) = served_by(Arc::clone(&accept));
    let mut raw = Raw::greet(ours, Limits::default()).await;
    for id in 1..=3 {
        let cut = whole(id, "/t.Echo/Say", None, &[7; 65_000]);
        raw.send(&cut[..40_000]).await;
        sleep(Duration::from_secs(15)).await;
        assert!(accept.budget.held() >= 40_000);
        raw.send(&cut[40_000..]).await;
        assert_eq!(within("an answer", raw.end_of(id)).await, None);
        assert!(timeout(Duration::from_millis(10), raw.frame()).await.is_err());
        assert_eq!(accept.budget.held(), 0, "no room is kept for the next");
    }
}

/// A client's own credit bounds what comes on the wire; what that becomes in memory is not much more.
#[tokio::test]
async fn answers_of_hardly_a_byte_that_nobody_reads_take_little_more_than_on_the_wire() {
    const STREAMS: u32 = 4;
    let (ours, mut theirs) = tokio::io::duplex(64 << 10);
    let server = async {
        let mut said = Vec::new();
        Limits::default().write(&mut said);
        theirs.write_all(&said).await.unwrap();
        // Nobody's messages stand together.
        let mut round = Vec::new();
        for id in 1..=STREAMS {
            write::data(&mut round, id, 0, b"7");
        }
        let rounds = (Limits::default().stream_credit as usize * STREAMS as usize) / round.len();
        let mut said = Vec::new();
        for id in 1..=STREAMS {
            write::frame(&mut said, Type::Response, id, |out| out.extend_from_slice(&[0, 0]));
        }
        // Its calls came with the greeting, which is not looked at.
        sleep(Duration::from_millis(100)).await;
        theirs.write_all(&said).await.unwrap();
        for _ in 0..rounds {
            theirs.write_all(&round).await.unwrap();
        }
        (theirs, rounds)
    };
    let client = async {
        let sender = connect(ours, "unread".into(), &with()).await.unwrap();
        let calls = (0..STREAMS).map(|_| stream(&sender, "/t.Echo/Endless", Some(Bytes::new()), None));
        let unread = futures::future::try_join_all(calls).await.unwrap();
        (unread, Before::now())
    };
    let ((theirs, rounds), (unread, before)) =
        within("all to be said", async { tokio::join!(server, client) }).await;
    sleep(Duration::from_millis(100)).await;
    before.check(3 * (Limits::default().stream_credit * STREAMS) as usize / 2);
    for mut answers in unread {
        for _ in 0..rounds {
            assert_eq!(within("a message", answers.next()).await.unwrap().unwrap(), "7");
        }
    }
    drop(theirs);
}
