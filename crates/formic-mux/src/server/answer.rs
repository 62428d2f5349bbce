//! Calls of one connection: from a request to a handler, and its answer back.

use std::collections::HashMap;
use std::future::poll_fn;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use formic_core::{Error, Metadata, Method};
use formic_rpc::{Answer, Body, BoxFuture, ByteStream, Call, Codec, Peer, Trailing};
use http::{HeaderName, HeaderValue};
use tokio::task::{AbortHandle, Id, JoinSet};
use tokio::time::Instant;

use super::door::Place;
use super::drive::Next;
use super::gather::{Gathering, no_method};
use super::inbox::{Inbox, Requests};
use super::late::Patience;
use super::{Accept, Link};
use crate::learn::{BATCH, Learnt};
use crate::machine::{Event, Request};
use crate::outgoing::Outgoing;
use crate::spare::{self, is_spare};

/// Marks a repetition for handlers, as it does over HTTP.
const ATTEMPT: HeaderName = HeaderName::from_static("formic-attempt");

/// So many answers that were ready at once are written together, or so many bytes of them: nobody counts what they hold before.
const TOGETHER: usize = 32;
const HEAVY: usize = 128 << 10;

/// A task that has ended.
pub(super) enum Ended {
    /// Its call is over.
    Call(u32),
    /// It has waited for the turn of a call.
    Turn(u32, Result<Box<dyn Place>, Error>),
}

type Answering = BoxFuture<'static, Result<Answer, Error>>;

pub(super) struct Calls {
    pub(super) accept: Arc<Accept>,
    pub(super) peer: Option<Peer>,
    /// By the place in the table of paths.
    learnt: Vec<Option<(Arc<str>, Arc<Learnt>)>>,
    pub(super) gathering: HashMap<u32, Gathering>,
    /// Calls that became tasks, and those who wait for a call's turn.
    pub(super) tasks: JoinSet<Ended>,
    running: HashMap<u32, AbortHandle>,
    /// When the requests at hand were read.
    pub(super) now: Instant,
    /// Methods were called on this task since then.
    called: bool,
    /// Answers that were ready at once, and when their calls are over.
    ready: Vec<(u32, Instant, Result<Answer, Error>)>,
    /// Bytes of these.
    weight: usize,
}

impl Calls {
    pub(super) fn new(accept: Arc<Accept>, peer: Option<Peer>) -> Self {
        Self {
            accept,
            peer,
            learnt: Vec::new(),
            gathering: HashMap::new(),
            tasks: JoinSet::new(),
            running: HashMap::new(),
            now: Instant::now(),
            called: false,
            ready: Vec::new(),
            weight: 0,
        }
    }

    /// Tasks that have ended.
    pub(super) fn reap(&mut self, cx: &mut Context<'_>, link: &Arc<Link>) {
        while let Poll::Ready(Some(ended)) = self.tasks.poll_join_next(cx) {
            match ended {
                Ok(Ended::Call(id)) => drop(self.running.remove(&id)),
                Ok(Ended::Turn(id, turn)) => self.turn(id, turn, link),
                Err(error) if error.is_panic() => {
                    // Servers catch panics of handlers; this is one of a handle without such a layer, or of something that is dropped.
                    tracing::error!(%error, "a call broke");
                    self.broken(error.id(), link);
                }
                Err(_) => {}
            }
        }
    }

    /// Tells the caller of a task that has panicked, and has said nothing.
    fn broken(&mut self, task: Id, link: &Arc<Link>) {
        let running = self.running.iter().find(|(_, running)| running.id() == task).map(|(&id, _)| id);
        let waits = || self.gathering.iter().find(|(_, one)| one.waits_on(task)).map(|(&id, _)| id);
        let Some(id) = running.or_else(waits) else { return };
        self.running.remove(&id);
        self.gathering.remove(&id);
        link.with(|state| {
            state.room.remove(&id);
            state.machine.fail(id, &broke());
        });
    }

    /// Notes the time after the requests at hand were looked after. Which of the methods took too long, if that was so, is not
    /// known, nor does it matter: those that did not are soon known as quick again.
    pub(super) fn done_at(&mut self, now: Instant) {
        if !std::mem::take(&mut self.called) {
            return;
        }
        let took = now.saturating_duration_since(self.now);
        if took >= BATCH {
            self.learnt.iter().flatten().for_each(|(_, learnt)| learnt.note(took));
        }
    }

    /// Ends the work on a call whose answer nobody waits for any more.
    pub(super) fn abandon(&mut self, id: u32) {
        self.gathering.remove(&id);
        if let Some(task) = self.running.remove(&id) {
            task.abort();
        }
    }

    /// Ends all work, and gives back what calls hold that have not begun.
    pub(super) fn end(&mut self) {
        self.gathering.clear();
        self.tasks.abort_all();
    }

    pub(super) fn refuse(&mut self, id: u32, error: Error) {
        self.ready.push((id, self.now, Err(error)));
    }

    /// How many calls were answered at once since that was last said.
    pub(super) fn answered(&self) -> usize {
        self.ready.len()
    }

    /// Whether these answers are to be written before others are made.
    pub(super) fn has_enough(&self) -> bool {
        self.ready.len() >= TOGETHER || self.weight >= HEAVY
    }

    /// Says what was ready at once.
    pub(super) fn say_ready(&mut self, link: &Link) {
        if !self.ready.is_empty() {
            self.weight = 0;
            let mut state = link.lock();
            for (id, over, answer) in self.ready.drain(..) {
                state.say(id, over, answer);
            }
        }
    }

    pub(super) fn shrink(&mut self) {
        if self.ready.capacity() > 64 {
            self.ready = Vec::new();
        }
    }

    /// Whether there is room that is not needed any more.
    pub(super) fn is_loose(&self) -> bool {
        spare::has_spare(&self.gathering)
            || spare::has_spare(&self.running)
            || is_spare(self.ready.len(), self.ready.capacity(), spare::ENTRIES)
    }

    /// Gives it back.
    pub(super) fn tighten(&mut self) {
        spare::shrink(&mut self.gathering);
        spare::shrink(&mut self.running);
        self.ready.shrink_to(spare::ENTRIES);
    }

    pub(super) fn take(&mut self, event: Event<Option<Arc<Inbox>>>, link: &Arc<Link>) {
        match event {
            Event::Request(request) => self.request(request, link),
            Event::Messages { id, mut messages, charge, end } => {
                if self.goes_on(id, &mut messages, charge, end, link) {
                    return;
                }
                let inbox = link.lock().machine.data(id).and_then(|inbox| inbox.clone());
                match inbox {
                    Some(inbox) => {
                        if let Some(charge) = inbox.push(Some((messages, charge)), end) {
                            link.say(|machine| machine.release(1, charge));
                        }
                    }
                    None => link.say(|machine| machine.consumed(id, charge)),
                }
            }
            Event::Finished { id } => {
                if self.finished(id, link) {
                    return;
                }
                let inbox = link.lock().machine.data(id).and_then(|inbox| inbox.clone());
                if let Some(inbox) = inbox {
                    inbox.push(None, true);
                }
            }
            Event::Canceled { id, .. } => {
                link.lock().room.remove(&id);
                self.abandon(id);
            }
            Event::Greeted | Event::GoAway => {}
            // A client's, which the machine lets nobody send to a server.
            Event::Response { .. } | Event::Answer { .. } | Event::End { .. } | Event::Failed { .. } => {}
        }
    }

    fn request(&mut self, request: Request, link: &Arc<Link>) {
        let Some(method) = self.accept.handle.method(&request.path) else {
            return self.refuse(request.id, no_method(&request.path));
        };
        let since = self.now;
        if !method.kind.client_streams() {
            return match request.end {
                true => self.answer(request, method, None, since, link),
                false => self.arrives(request, since, link),
            };
        }
        let id = request.id;
        let inbox = Arc::new(Inbox::default());
        inbox.push(request.message.clone().map(|message| (message.into(), 0)), request.end);
        link.say(|machine| {
            machine.grant(id);
            if let Some(data) = machine.data(id) {
                *data = Some(Arc::clone(&inbox));
            }
        });
        let requests = Requests { inbox, link: Arc::clone(link), id };
        let body = Body::Stream(ByteStream::of_runs(requests));
        self.call(request, method, body, None, since, link);
    }

    /// Answers a request of one message that is whole.
    pub(super) fn answer(
        &mut self,
        mut request: Request,
        method: Method,
        place: Option<Box<dyn Place>>,
        since: Instant,
        link: &Arc<Link>,
    ) {
        match request.message.take() {
            Some(message) => self.call(request, method, Body::Message(message), place, since, link),
            None => {
                let error = Error::invalid_argument("a call of one request came without");
                self.refuse(request.id, error);
            }
        }
    }

    fn call(
        &mut self,
        request: Request,
        method: Method,
        body: Body,
        place: Option<Box<dyn Place>>,
        since: Instant,
        link: &Arc<Link>,
    ) {
        let id = request.id;
        let codec = if request.json { Codec::Json } else { Codec::Proto };
        let streams = method.kind.server_streams();
        let mut call = Call::new(method, codec, body);
        let timeout = request.timeout.map(|asked| asked.min(self.accept.max_deadline));
        let default = self.accept.default_deadline;
        // The server's own default bounds only the beginning of a stream, as nobody knows how long it is meant to live.
        call.deadline = match timeout {
            Some(timeout) => Some(since + timeout),
            None if streams => None,
            None => Some(since + default),
        };
        call.metadata = request.metadata;
        // Not as a header, which this wire has not: to make one, and to read it again, costs more than the rest of a call.
        call.trace = request.trace;
        if let Some(attempt) = request.attempt {
            call.metadata.as_headers_mut().insert(ATTEMPT, HeaderValue::from(u16::from(attempt)));
        }
        call.peer = self.peer.clone();
        if let Some(place) = place {
            place.begin(&mut call);
        }
        let patience = Patience::new(call.deadline, self.accept.max_deadline);
        let over = call.deadline.unwrap_or_else(|| since + self.accept.max_deadline);
        let learnt = self.learnt(request.place, request.path);
        let begin_by = (streams && timeout.is_none()).then(|| since + default);
        let slow = learnt.is_slow();
        let learnt = learnt.measures().then(|| Arc::clone(learnt));
        if slow {
            let accept = Arc::clone(&self.accept);
            return self.spawn(id, link, patience, over, async move {
                let mut answering = accept.handle.call(call);
                let first = poll_fn(|cx| Poll::Ready(poll(&mut answering, cx, learnt.as_deref()))).await;
                match first {
                    Poll::Ready(answer) => answer,
                    Poll::Pending => in_time(answering, begin_by).await,
                }
            });
        }
        self.called = true;
        let handle = &self.accept.handle;
        // On this task there are other calls.
        let polled = catch_unwind(AssertUnwindSafe(|| {
            let mut answering = handle.call(call);
            // Whoever wakes this is not heard, and need not be: a call that is not ready becomes a task, which is polled again.
            let mut cx = Context::from_waker(Waker::noop());
            match poll(&mut answering, &mut cx, learnt.as_deref()) {
                Poll::Ready(answer) => Ok(answer),
                Poll::Pending => Err(answering),
            }
        }));
        match polled {
            Ok(Ok(Ok(answer @ Answer { body: Body::Stream(_), .. }))) => {
                self.spawn_stream(id, link, patience, answer);
            }
            Ok(Ok(answer)) => {
                if let Ok(Answer { body: Body::Message(message), .. }) = &answer {
                    self.weight += message.len();
                }
                self.ready.push((id, over, answer));
            }
            Ok(Err(answering)) => self.spawn(id, link, patience, over, in_time(answering, begin_by)),
            Err(_) => {
                tracing::error!("a call broke");
                self.ready.push((id, over, Err(broke())));
            }
        }
    }

    fn learnt(&mut self, place: u32, path: Arc<str>) -> &Arc<Learnt> {
        let place = place as usize;
        if self.learnt.len() <= place {
            self.learnt.resize(place + 1, None);
        }
        let entry = &mut self.learnt[place];
        // The place may have been given to another method.
        if entry.as_ref().is_none_or(|(known, _)| !Arc::ptr_eq(known, &path)) {
            *entry = None;
        }
        let book = &self.accept.book;
        let (_, learnt) = entry.get_or_insert_with(|| {
            let learnt = book.of(&path);
            (path, learnt)
        });
        learnt
    }

    fn spawn(
        &mut self,
        id: u32,
        link: &Arc<Link>,
        patience: Patience,
        over: Instant,
        answering: impl Future<Output = Result<Answer, Error>> + Send + 'static,
    ) {
        let link = Arc::clone(link);
        let task = self.tasks.spawn(async move {
            match answering.await {
                Ok(answer @ Answer { body: Body::Stream(_), .. }) => {
                    send_stream(id, &link, patience, answer).await;
                }
                answer => link.with(|state| state.say(id, over, answer)),
            }
            Ended::Call(id)
        });
        self.running.insert(id, task);
    }

    fn spawn_stream(&mut self, id: u32, link: &Arc<Link>, patience: Patience, answer: Answer) {
        let link = Arc::clone(link);
        let task = self.tasks.spawn(async move {
            send_stream(id, &link, patience, answer).await;
            Ended::Call(id)
        });
        self.running.insert(id, task);
    }
}

/// One poll, measured if that is asked.
fn poll(
    answering: &mut Answering,
    cx: &mut Context<'_>,
    learnt: Option<&Learnt>,
) -> Poll<Result<Answer, Error>> {
    let Some(learnt) = learnt else { return answering.as_mut().poll(cx) };
    // The runtime's clock: on one that is paused, what becomes a task is no matter of how busy the machine is.
    let began = Instant::now();
    let polled = answering.as_mut().poll(cx);
    learnt.note(began.elapsed());
    polled
}

fn broke() -> Error {
    Error::internal("the handler panicked")
}

async fn in_time(answering: Answering, begin_by: Option<Instant>) -> Result<Answer, Error> {
    match begin_by {
        None => answering.await,
        Some(begin_by) => tokio::time::timeout_at(begin_by, answering).await.unwrap_or_else(|_| {
            Err(Error::deadline_exceeded("the server's deadline passed before the answer began"))
        }),
    }
}

/// What an answer that streams ends with.
pub(super) struct Ending {
    trailers: Metadata,
    late: Option<Trailing>,
}

impl Ending {
    /// Once the stream has ended.
    pub(super) fn trailers(&self) -> Metadata {
        let mut trailers = self.trailers.clone();
        if let Some(late) = self.late.as_ref().and_then(Trailing::get) {
            for (name, value) in late.as_headers() {
                trailers.as_headers_mut().append(name, value.clone());
            }
        }
        trailers
    }
}

/// Sends an answer that streams, as fast as the caller takes it.
async fn send_stream(id: u32, link: &Arc<Link>, mut patience: Patience, answer: Answer) {
    let Answer { metadata, trailers, late, body } = answer;
    let ending = Ending { trailers, late };
    if let Err(error) = link.say(|machine| machine.respond(id, &metadata)) {
        return link.say(|machine| machine.fail(id, &error));
    }
    let mut answers = Outgoing::new(body.into_stream());
    let mut next = Next::Room;
    while next != Next::Nothing {
        if next == Next::More {
            answers.gather().await;
        }
        next = poll_fn(|cx| link.poll_send(cx, id, &mut patience, &mut answers, &ending)).await;
    }
}
