//! What a call costs its server: no task and no write of its own, as long as its method is quick.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use formic_core::{Error, Kind, Method};
use formic_mux::codec::{HEADER, Header, Type};
use formic_mux::{Accept, Limits, serve};
use formic_rpc::{Answer, Body, BoxFuture, Call, Handle};
use tokio::task::{Id, JoinHandle, try_id, yield_now};
use tokio_util::sync::CancellationToken;

use crate::pieces::Pieces;
use crate::raw::{Raw, whole};
use crate::rig::*;

/// Ready at once.
const SAY: Method = Method::new("/t.Tasks/Say", Kind::Unary);
/// Ready when it is polled again.
const WAIT: Method = Method::new("/t.Tasks/Wait", Kind::Unary);
/// Keeps its thread for a while, or until it is told; it answers which of the two.
const BLOCK: Method = Method::new("/t.Tasks/Block", Kind::Unary);

/// How long `BLOCK` waits to be told.
const LONG: Duration = Duration::from_secs(5);

struct Tasks {
    /// The tasks on which calls were polled: first, and last.
    polled: Mutex<Vec<(Id, Id)>>,
    began: AtomicUsize,
    told: Mutex<Receiver<()>>,
}

impl Tasks {
    fn new() -> (Arc<Self>, Sender<()>) {
        let (tell, told) = channel();
        (
            Arc::new(Self { polled: Mutex::default(), began: AtomicUsize::new(0), told: Mutex::new(told) }),
            tell,
        )
    }

    fn polled(&self) -> Vec<(Id, Id)> {
        std::mem::take(&mut self.polled.lock().unwrap())
    }
}

struct Service(Arc<Tasks>);

impl Handle for Service {
    fn method(&self, path: &str) -> Option<Method> {
        [SAY, WAIT, BLOCK].into_iter().find(|method| method.path() == path)
    }

    fn call(&self, call: Call) -> BoxFuture<'static, Result<Answer, Error>> {
        let tasks = Arc::clone(&self.0);
        Box::pin(async move {
            let first = try_id().unwrap();
            tasks.began.fetch_add(1, Ordering::SeqCst);
            let mut answer = call.body.into_message()?;
            if call.method == WAIT {
                yield_now().await;
            }
            if call.method == BLOCK {
                let told = tasks.told.lock().unwrap().recv_timeout(LONG);
                answer = if told.is_ok() { "told".into() } else { "alone".into() };
            }
            tasks.polled.lock().unwrap().push((first, try_id().unwrap()));
            Ok(Answer::new(Body::Message(answer)))
        })
    }
}

fn accept_of(tasks: &Arc<Tasks>) -> Arc<Accept> {
    let mut accept = Arc::into_inner(accept(&Arc::default(), Limits::default())).unwrap();
    accept.handle = Arc::new(Service(Arc::clone(tasks)));
    Arc::new(accept)
}

/// A server on a socket on which it has greeted.
async fn served_on(tasks: &Arc<Tasks>) -> (Pieces, JoinHandle<()>) {
    let (pieces, accept) = (Pieces::greeted(), accept_of(tasks));
    let io = pieces.clone();
    let server = tokio::spawn(async move { serve(io, &[], accept, None, CancellationToken::new()).await });
    until("the greeting", || !pieces.written().is_empty()).await;
    (pieces, server)
}

/// Requests that come with one read.
fn together(ids: std::ops::Range<u32>, method: &Method) -> Vec<u8> {
    ids.flat_map(|id| whole(id, method.path(), None, b"hi")).collect()
}

/// How many frames of this kind there are.
fn frames(mut bytes: &[u8], kind: Type) -> usize {
    let mut count = 0;
    while let Some(head) = bytes.first_chunk::<HEADER>() {
        let header = Header::parse(head).unwrap();
        count += usize::from(header.kind == kind);
        bytes = &bytes[HEADER + header.length..];
    }
    count
}

/// Waits for so many answers, and says in how many writes they came.
async fn writes_of(pieces: &Pieces, answers: usize) -> usize {
    let writes = Mutex::new(Vec::new());
    until("all answers", || {
        let mut writes = writes.lock().unwrap();
        writes.extend(pieces.written());
        frames(&writes.concat(), Type::Response) == answers
    })
    .await;
    writes.into_inner().unwrap().len()
}

#[tokio::test(start_paused = true)]
async fn a_call_that_is_ready_is_no_task() {
    let (tasks, _tell) = Tasks::new();
    let (pieces, server) = served_on(&tasks).await;
    pieces.add([together(1..65, &SAY)]);
    writes_of(&pieces, 64).await;
    let polled = tasks.polled();
    assert!(polled.len() == 64 && polled.iter().all(|&tasks| tasks == (server.id(), server.id())));
    // One that is not is polled there once, and goes on as a task.
    pieces.add([together(65..129, &WAIT)]);
    writes_of(&pieces, 64).await;
    let polled = tasks.polled();
    assert_eq!(polled.len(), 64);
    for (first, last) in polled {
        assert_eq!(first, server.id());
        assert_ne!(last, server.id());
    }
}

#[tokio::test(start_paused = true)]
async fn answers_that_are_ready_together_are_written_together() {
    let (tasks, _tell) = Tasks::new();
    let (pieces, _server) = served_on(&tasks).await;
    pieces.add([together(1..65, &SAY)]);
    let writes = writes_of(&pieces, 64).await;
    // Not all in one: whoever gets the first goes on while the rest is made.
    assert!(writes <= 4, "{writes} writes for 64 answers");
}

/// A method that was learnt to take long has a task of its own from the beginning: what comes after it on the connection does not wait
/// for it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_quick_call_comes_by_a_method_that_was_learnt_to_be_slow() {
    let (tasks, tell) = Tasks::new();
    let accept = accept_of(&tasks);
    let (ours, server, _) = served_by(Arc::clone(&accept));
    let mut raw = Raw::greet(ours, Limits::default()).await;
    let is_slow = || accept.book.of(&BLOCK.path().into()).is_slow();
    assert!(!is_slow());
    raw.send(&whole(1, BLOCK.path(), None, b"")).await;
    until("its handler to begin", || tasks.began.load(Ordering::SeqCst) == 1).await;
    tokio::time::sleep(Duration::from_millis(30)).await;
    tell.send(()).unwrap();
    assert_eq!(within("a slow call", raw.end_of(1)).await, None);
    assert!(is_slow());
    // Both come with one read.
    raw.send(&[whole(2, BLOCK.path(), None, b""), whole(3, SAY.path(), None, b"hi")].concat()).await;
    let (kind, id, _) = within("an answer", raw.frame()).await.unwrap();
    assert_eq!((kind, id), (Type::Response, 3), "the quick call waited for the slow one");
    tell.send(()).unwrap();
    let (kind, id, payload) = within("the slow answer", raw.frame()).await.unwrap();
    assert!((kind, id) == (Type::Response, 2) && payload.ends_with(b"told"), "{}", payload.escape_ascii());
    let first: Vec<bool> = tasks.polled().into_iter().map(|(first, _)| first == server.id()).collect();
    assert_eq!(first, [true, true, false], "learnt, quick, slow");
}
