//! Memory that was needed once, or may be needed: it is counted, or given back.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use formic_core::{Error, Kind, Method};
use formic_mux::client::connect;
use formic_mux::codec::frame::data;
use formic_mux::codec::frame::request::{END, MORE};
use formic_mux::codec::{Type, write};
use formic_mux::{Accept, Budget, Limits};
use formic_rpc::{Answer, Body, BoxFuture, Call, Handle};
use futures::StreamExt;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use crate::crowd::accept_little;
use crate::memory::Before;
use crate::raw::{Raw, request, stingy, whole};
use crate::rig::*;

/// Takes the first message of a call and no other.
#[derive(Default)]
struct First(Arc<AtomicUsize>);

const FIRST: Method = Method::new("/t.First/Keep", Kind::ClientStream);

impl Handle for First {
    fn method(&self, path: &str) -> Option<Method> {
        (path == FIRST.path()).then_some(FIRST)
    }

    fn call(&self, call: Call) -> BoxFuture<'static, Result<Answer, Error>> {
        let taken = Arc::clone(&self.0);
        Box::pin(async move {
            let mut requests = call.body.into_stream();
            requests.next().await;
            taken.fetch_add(1, Ordering::SeqCst);
            let _kept = requests;
            std::future::pending().await
        })
    }
}

/// What may be held for the pipes, the tasks and what is beside the messages that are counted.
const BESIDE: usize = 1 << 20;

#[tokio::test(start_paused = true)]
async fn room_for_a_message_that_is_as_long_as_usual_is_counted_and_given_back() {
    const CALLS: u32 = 48;
    for little in [true, false] {
        let (accept, refused) = accept_little(&Arc::default());
        let (mut accept, first) = (Arc::into_inner(accept).unwrap(), First::default());
        let taken = Arc::clone(&first.0);
        accept.handle = Arc::new(first);
        if !little {
            accept.budget = Arc::new(Budget::new(512 << 20));
        }
        let accept = Arc::new(accept);
        let (ours, ..) = served_by(Arc::clone(&accept));
        let mut raw = Raw::greet(ours, Limits::default()).await;
        for id in 1..=CALLS {
            let mut call = Vec::new();
            write::frame(&mut call, Type::Request, id, |out| {
                out.push(0);
                write::varint(out, 1);
                write::bytes(out, FIRST.path().as_bytes());
                write::varint(out, 0);
            });
            for _ in 0..20 {
                write::data(&mut call, id, data::MORE, &[7; 60_000]);
            }
            write::data(&mut call, id, 0, &[7; 10]);
            raw.send(&call).await;
            until("the message to be taken", || taken.load(Ordering::SeqCst) == id as usize).await;
        }
        // It has shown how long its messages are. Now there is little of each, and no more comes.
        let before = Before::now();
        for (flags, length) in [(data::MORE, 40_000), (0, 10)] {
            for id in 1..=CALLS {
                let mut piece = Vec::new();
                write::data(&mut piece, id, flags, &vec![7; length]);
                raw.send(&piece).await;
            }
            sleep(Duration::from_secs(1)).await;
            let held = accept.budget.held();
            assert!(held >= CALLS as usize * 40_000, "{held} are held");
            before.check_now(held + BESIDE);
            // Of whole messages nothing is to be expected any more.
            assert!(flags == data::MORE || held < CALLS as usize * 90_000, "{held} are held");
        }
        assert_eq!(refused.load(Ordering::SeqCst), 0, "what came was refused for what did not");
    }
}

/// Gives sixty thousand bytes for nothing. `Hang` and `Wait` give nothing, `Count` gives a thousand short messages, `Take` takes all that
/// has come after a second, `Most` all but some, and `Leave` wants none then; none of them ends.
struct Fill;

const FILL: Method = Method::new("/t.Fill/Say", Kind::Unary);
const HANG: Method = Method::new("/t.Fill/Hang", Kind::Unary);
const WAIT: Method = Method::new("/t.Fill/Wait", Kind::BidiStream);
const COUNT: Method = Method::new("/t.Fill/Count", Kind::ServerStream);
const TAKE: Method = Method::new("/t.Fill/Take", Kind::ClientStream);
const MOST: Method = Method::new("/t.Fill/Most", Kind::ClientStream);
const LEAVE: Method = Method::new("/t.Fill/Leave", Kind::ClientStream);

impl Handle for Fill {
    fn method(&self, path: &str) -> Option<Method> {
        [FILL, HANG, WAIT, COUNT, TAKE, MOST, LEAVE].into_iter().find(|method| method.path() == path)
    }

    fn call(&self, call: Call) -> BoxFuture<'static, Result<Answer, Error>> {
        Box::pin(async move {
            let Call { method, body, .. } = call;
            if method == FILL {
                return Ok(Answer::new(Body::Message(vec![7; 60_000].into())));
            }
            if method == HANG {
                std::future::pending::<()>().await;
            }
            if method == COUNT {
                let messages = (0..1000).map(|_| Ok("7".into()));
                let all = futures::stream::iter(messages).chain(futures::stream::pending());
                return Ok(Answer::new(Body::stream(all)));
            }
            if [TAKE, MOST, LEAVE].contains(&method) {
                sleep(Duration::from_secs(1)).await;
                let mut requests = body.into_stream();
                if method != LEAVE {
                    let count = if method == TAKE { MESSAGES } else { MESSAGES - 10 };
                    requests.by_ref().take(count).collect::<Vec<_>>().await;
                }
                let _kept = (method != LEAVE).then_some(requests);
                return std::future::pending().await;
            }
            let silence = futures::stream::pending().inspect(move |_| {
                let _kept = &body;
            });
            Ok(Answer::new(Body::stream(silence)))
        })
    }
}

/// A connection with a call that goes on, and as many beside it as one would make.
async fn with_a_call(calls: u32) -> (Arc<Accept>, Raw) {
    let limits = Limits { calls: calls + 1, ..Limits::default() };
    let mut accept = Arc::into_inner(accept(&Arc::default(), limits)).unwrap();
    accept.handle = Arc::new(Fill);
    let accept = Arc::new(accept);
    let (ours, ..) = served_by(Arc::clone(&accept));
    let mut raw = Raw::greet(ours, Limits::default()).await;
    raw.send(&request(1, WAIT.path(), None, 0, b"")).await;
    assert_eq!(raw.frame().await.unwrap().0, Type::Response);
    (accept, raw)
}

/// What there is of a connection anyway, its pipe above all.
const BARE: usize = 320 << 10;

/// Calls that were many at a time, and are not any more. If they are `unwritten`, none of them can say anything before all are there;
/// if one `goes_on`, the connection is not idle then.
async fn passed(path: &str, flags: u8, unwritten: bool, goes_on: bool) {
    const CALLS: u32 = 20_000;
    let (_accept, mut raw) = with_a_call(CALLS).await;
    // The runtime keeps a list of what is to be run.
    (0..2 * CALLS).map(|_| async {}).collect::<JoinSet<()>>().join_all().await;
    let before = Before::now();
    let fill = if unwritten { 9 } else { 0 };
    for id in 2..2 + fill {
        raw.send(&whole(id, FILL.path(), None, b"")).await;
    }
    for id in 2 + fill..2 + CALLS {
        raw.send(&request(id, path, None, flags, b"")).await;
    }
    sleep(Duration::from_millis(100)).await;
    let mut heard = 0;
    while heard < fill {
        let (kind, id, payload) = raw.frame().await.unwrap();
        heard += u32::from(kind == Type::Response && id < 2 + fill && payload.len() > 1000);
    }
    for id in if goes_on { 2 } else { 1 }..2 + CALLS {
        let mut cancel = Vec::new();
        write::frame(&mut cancel, Type::Cancel, id, |out| out.push(1));
        raw.send(&cancel).await;
    }
    // What was said to them is not waited for.
    while timeout(Duration::from_secs(3), raw.frame()).await.is_ok() {}
    before.check_now(BARE);
}

#[tokio::test(start_paused = true)]
async fn calls_that_are_over_leave_no_room_behind() {
    passed(FILL.path(), MORE, false, true).await;
    passed(FILL.path(), MORE, false, false).await;
    passed(HANG.path(), END, false, false).await;
    passed(WAIT.path(), END, true, true).await;
}

#[tokio::test(start_paused = true)]
async fn answers_that_were_written_leave_no_room_behind() {
    const CALLS: u32 = 300;
    let (accept, mut raw) = with_a_call(CALLS).await;
    let (before, mut id) = (Before::now(), 1);
    for calls in [CALLS, CALLS, 15] {
        // They come in one read, and while the answers to the first are not taken those to the others are made.
        let mut requests = Vec::new();
        for _ in 0..calls {
            id += 1;
            requests.extend(whole(id, FILL.path(), None, b""));
        }
        raw.send(&requests).await;
        sleep(Duration::from_millis(10)).await;
        let held = accept.budget.held();
        assert!(held >= (calls as usize - 2) * 60_000, "{held} are held");
        before.check_now(held + BESIDE + BARE);
        for _ in 4..calls {
            raw.frame().await.unwrap();
        }
        sleep(Duration::from_millis(10)).await;
        before.check_now(accept.budget.held() + BESIDE + BARE);
        for _ in 0..4 {
            raw.frame().await.unwrap();
        }
        // At once, but for what is needed again and again.
        sleep(Duration::from_millis(10)).await;
        assert_eq!(accept.budget.held(), 0);
        before.check_now(2 * BESIDE + BARE);
    }
    sleep(Duration::from_secs(1)).await;
    before.check_now(BARE);
}

#[tokio::test(start_paused = true)]
async fn messages_that_were_sent_leave_no_room_behind() {
    const CALLS: u32 = 100;
    let mut accept = Arc::into_inner(accept(&Arc::default(), Limits::default())).unwrap();
    accept.handle = Arc::new(Fill);
    let (ours, ..) = served_by(Arc::new(accept));
    let mut raw = Raw::greet(ours, stingy()).await;
    let before = Before::now();
    let calls = (1..=CALLS).flat_map(|id| request(id, COUNT.path(), None, END, b""));
    raw.send(&calls.collect::<Vec<u8>>()).await;
    let mut said = 0;
    // What there is no credit for waits.
    for _ in 0..2 {
        while let Ok(frame) = timeout(Duration::from_secs(30), raw.frame()).await {
            said += usize::from(frame.unwrap().0 == Type::Data);
        }
        let mut credit = Vec::new();
        write::credit(&mut credit, 0, 2 << 20);
        raw.send(&credit).await;
    }
    assert_eq!(said, CALLS as usize * 1000);
    before.check_now(BESIDE);
}

/// Of each of two calls.
const MESSAGES: usize = 20_000;

#[tokio::test(start_paused = true)]
async fn messages_that_were_taken_leave_no_room_behind() {
    for method in [TAKE, MOST, LEAVE] {
        let (_accept, mut raw) = with_a_call(2).await;
        let before = Before::now();
        raw.send(&request(2, method.path(), None, 0, b"")).await;
        raw.send(&request(3, method.path(), None, 0, b"")).await;
        // One call's never stand together.
        let mut messages = Vec::new();
        for _ in 0..MESSAGES {
            write::data(&mut messages, 2, 0, b"7");
            write::data(&mut messages, 3, 0, b"7");
        }
        raw.send(&messages).await;
        drop(messages);
        sleep(Duration::from_secs(3)).await;
        before.check_now(BARE);
    }
}

/// Half is for one connection, and a message takes hardly more than it is long.
#[tokio::test(start_paused = true)]
async fn the_longest_message_needs_hardly_more_than_twice_its_length() {
    let mut accept = Arc::into_inner(accept(&Arc::default(), Limits::default())).unwrap();
    accept.handle = Arc::new(Fill);
    let most = Limits::default().message as usize;
    accept.budget = Arc::new(Budget::new(2 * most + most / 8));
    let (ours, ..) = served_by(Arc::new(accept));
    let sender = connect(ours, "alone".into(), &with()).await.unwrap();
    for _ in 0..3 {
        let answer = within("an answer", say(&sender, FILL.path(), vec![7; most].into())).await;
        assert_eq!(answer.unwrap().len(), 60_000);
    }
}
