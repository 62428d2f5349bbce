//! The task of a connection: reads, has calls answered, writes.

use std::future::poll_fn;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use formic_core::Error;
use formic_rpc::{Answer, Body};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::answer::{Calls, Ending};
use super::inbox::Inbox;
use super::late::Patience;
use super::{Link, State};
use crate::codec::Fault;
use crate::link::{Clock, Pipe};
use crate::machine::Event;
use crate::outgoing::Outgoing;
use crate::spare;

/// Rounds before others get their turn on the thread.
const ROUNDS: usize = 16;

/// Nothing is read while so much is to be written: who does not read answers is not asked for more calls.
const CROWDED: usize = 1 << 20;

/// How often it is looked at whether a connection that holds much holds too much.
const WEIGH: Duration = Duration::from_secs(1);

/// How often room is given back that is not needed any more.
const TIDY: Duration = Duration::from_secs(1);

/// A connection keeps room for so many events of a read; of hardly a byte each there are a hundred times as many in one.
const EVENTS: usize = 1 << 7;

pub(super) struct Driver<S> {
    pub(super) link: Arc<Link>,
    pub(super) pipe: Pipe<S>,
    pub(super) clock: Clock,
    /// Of one read.
    pub(super) events: Vec<Event<Option<Arc<Inbox>>>>,
    pub(super) calls: Calls,
    pub(super) drained: bool,
    /// Others were let by since the last write.
    pub(super) yielded: bool,
    /// Whether the client lives could not be asked when this was last looked at.
    pub(super) unasked: bool,
    /// Since when there is no call.
    pub(super) quiet: Option<Duration>,
    /// When it was last looked at whether too much is held.
    pub(super) weighed: Duration,
    /// When room was given back.
    pub(super) tidied: Duration,
}

/// What a stream of answers does after what it had ready was passed on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// It asks its handler.
    More,
    /// It waits until it may send.
    Room,
    /// It is over.
    Nothing,
}

enum Over {
    Closed,
    Drained,
    Broken(std::io::Error),
    Fault(Fault),
}

impl<S> Drop for Driver<S> {
    fn drop(&mut self) {
        // Requests that stream hold the link, and the link holds their inboxes.
        drop(self.link.lock().machine.lost(0));
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Driver<S> {
    /// Takes what was read before.
    pub(super) fn begin(&mut self, mut read: &[u8]) -> Result<(), Fault> {
        let mut state = self.link.lock();
        while let Some(event) = state.machine.receive(&mut read, Duration::ZERO)? {
            self.events.push(event);
        }
        Ok(())
    }

    /// Runs until the connection is over; a fault may have been there from the beginning.
    pub(super) async fn run(mut self, draining: CancellationToken, fault: Option<Fault>) {
        let over = match fault {
            Some(fault) => Over::Fault(fault),
            None => {
                let drain = draining.cancelled();
                tokio::pin!(drain);
                poll_fn(|cx| {
                    if !self.drained && drain.as_mut().poll(cx).is_ready() {
                        self.drained = true;
                        self.link.lock().machine.go_away();
                    }
                    self.poll(cx)
                })
                .await
            }
        };
        match &over {
            Over::Closed | Over::Drained => {}
            Over::Broken(error) => tracing::debug!(%error, "a connection broke"),
            Over::Fault(fault) => tracing::debug!(%fault, "a connection was given up"),
        }
        self.calls.end();
        let last = self.last_words(&over);
        // Others need not wait until it has been heard.
        drop(self.link.lock().machine.lost(0));
        self.pipe.close(last).await;
        if matches!(over, Over::Drained) {
            // A call may be on its way. Were the socket closed with that unread, its caller would lose the last words, and so not know
            // that nobody has seen it.
            self.pipe.linger().await;
        }
    }

    fn last_words(&self, over: &Over) -> Vec<u8> {
        let mut last = Vec::new();
        let mut state = self.link.lock();
        if let Over::Fault(fault) = over {
            state.machine.give_up(*fault);
        }
        state.machine.output(&mut last);
        last
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Over> {
        // A call that became a task and woke this one may be one of many that are ready: one write for all of them.
        if self.calls.tasks.len() > 1
            && !std::mem::replace(&mut self.yielded, true)
            && self.link.lock().machine.has_output()
        {
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        self.yielded = false;
        for _ in 0..ROUNDS {
            self.calls.reap(cx, &self.link);
            if let Poll::Ready(Err(error)) = self.answer(cx) {
                return Poll::Ready(Over::Broken(error));
            }
            let crowded = {
                let limit = self.calls.accept.limits.calls as usize;
                let mut state = self.link.lock();
                // Canceled calls are gone from the machine, but their tasks have to end.
                self.calls.tasks.len() > 2 * limit
                    || self.pipe.unwritten() + state.machine.unwritten() > CROWDED
                    || state.machine.is_overfull()
            };
            if crowded {
                return self.rest(cx, false);
            }
            match self.read(cx) {
                Poll::Ready(Ok(())) => {}
                Poll::Ready(Err(over)) => return Poll::Ready(over),
                Poll::Pending => return self.rest(cx, true),
            }
        }
        // Others on the thread are let by. Who is kept busy looks at the time all the same. No call may be given up of whose request
        // nobody has heard: its handler would begin after that, and nobody would end it.
        if let Poll::Ready(Err(error)) = self.answer(cx) {
            return Poll::Ready(Over::Broken(error));
        }
        self.expire();
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    /// Gives up what has taken too long; false if there is no such thing.
    fn expire(&mut self) -> bool {
        let now = Instant::now();
        let before = self.calls.answered();
        self.calls.expire(now, &self.link);
        let mut expired = self.calls.answered() > before;
        let mut state = self.link.lock();
        while let Some(id) = state.late.expired(now) {
            if state.machine.is_open(id) {
                let error = Error::deadline_exceeded("the deadline passed before the answer was taken");
                state.machine.fail(id, &error);
                state.room.remove(&id);
                self.calls.abandon(id);
            }
            expired = true;
        }
        if state.machine.is_heavy() {
            self.weighed = self.clock.now();
            for id in state.machine.relieve() {
                state.room.remove(&id);
                self.calls.abandon(id);
                expired = true;
            }
        }
        expired
    }

    /// Handlers run here, outside of the lock. What is ready at once is written together, but not too much of it: whoever gets the
    /// first answers goes on while the next are made.
    fn answer(&mut self, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        if !self.events.is_empty() {
            let mut events = std::mem::take(&mut self.events);
            self.calls.now = Instant::now();
            self.quiet = None;
            let none = self.calls.tasks.is_empty();
            for event in events.drain(..) {
                self.calls.take(event, &self.link);
                if self.calls.has_enough() {
                    self.calls.say_ready(&self.link);
                    if let Poll::Ready(Err(error)) = self.write(cx) {
                        return Poll::Ready(Err(error));
                    }
                }
            }
            if events.capacity() <= EVENTS {
                self.events = events;
            }
            if none && !self.calls.tasks.is_empty() {
                // While there was none, the set of tasks kept no waker: the end of the first would not be heard.
                self.calls.reap(cx, &self.link);
            }
        }
        self.calls.say_ready(&self.link);
        self.write(cx)
    }

    fn write(&mut self, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        loop {
            if self.pipe.unwritten() == 0 {
                let mut state = self.link.lock();
                state.machine.set_unwritten(0);
                state.machine.output(&mut self.pipe.writing);
                let woken = state.take_writable();
                drop(state);
                woken.into_iter().for_each(Waker::wake);
                if self.pipe.writing.is_empty() {
                    return Poll::Ready(Ok(()));
                }
            }
            if self.pipe.poll_write(cx)?.is_pending() {
                self.link.lock().machine.set_unwritten(self.pipe.held());
                return Poll::Pending;
            }
            // Hardly ever is there more at a time.
            self.pipe.keep(CROWDED);
        }
    }

    fn read(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Over>> {
        let (link, events, now) = (&self.link, &mut self.events, self.clock.now());
        self.calls.done_at(self.clock.moment(now));
        let read = self.pipe.poll_read(cx, |mut bytes| {
            let mut state = link.lock();
            while let Some(event) = state.machine.receive(&mut bytes, now)? {
                events.push(event);
            }
            Ok(())
        });
        Poll::Ready(match std::task::ready!(read) {
            Ok(Some(Ok(()))) => Ok(()),
            Ok(Some(Err(fault))) => Err(Over::Fault(fault)),
            Ok(None) => Err(Over::Closed),
            Err(error) => Err(Over::Broken(error)),
        })
    }

    /// Nothing more to read: waits, for bytes, for handlers, or for the time. While nothing is read nobody is heard, and a ping is
    /// not there before what is to be written before it: whether the client takes that is for the socket to watch.
    fn rest(&mut self, cx: &mut Context<'_>, reads: bool) -> Poll<Over> {
        if !reads {
            shrink(&mut self.calls, &mut self.events);
        }
        loop {
            let now = self.clock.now();
            let mut state = self.link.lock();
            let expires = self.calls.due().into_iter().chain(state.late.due()).min();
            let expires = expires.map(|due| self.clock.at(due));
            let weigh = state.machine.is_heavy().then(|| self.weighed + WEIGH);
            let expires = expires.into_iter().chain(weigh).min();
            if expires.is_some_and(|due| due <= now) {
                drop(state);
                if self.expire() {
                    cx.waker().wake_by_ref();
                    return Poll::Pending;
                }
                continue;
            }
            if reads && let Err(fault) = state.machine.check_frame(now) {
                return Poll::Ready(Over::Fault(fault));
            }
            let (unwritten, mut idle) = (self.pipe.unwritten(), None);
            if unwritten == 0 && state.machine.has_output() {
                drop(state);
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            if unwritten == 0 && state.machine.is_idle() {
                // Also by itself, where there was no room for its tables.
                self.drained |= state.machine.has_said_goodbye();
                if self.drained {
                    return Poll::Ready(Over::Drained);
                }
                if state.machine.is_in_the_way() {
                    state.machine.go_away_idle();
                    self.drained = true;
                    continue;
                }
                if state.machine.is_greeted() {
                    let until = *self.quiet.get_or_insert(now) + self.calls.accept.idle;
                    if until <= now {
                        state.machine.go_away_idle();
                        self.drained = true;
                        continue;
                    }
                    idle = Some(until);
                }
                state.machine.shrink();
                self.pipe.shrink();
                shrink(&mut self.calls, &mut self.events);
            }
            if self.tidied + TIDY <= now {
                self.tidied = now;
                state.tighten();
                self.calls.tighten();
                self.pipe.keep(spare::BYTES);
            }
            let loose = state.is_loose() || self.calls.is_loose() || self.pipe.is_loose(spare::BYTES);
            let tidy = loose.then(|| self.tidied + TIDY);
            let unasked = state.machine.is_greeted() && !(reads && unwritten == 0);
            if std::mem::replace(&mut self.unasked, unasked) && !unasked {
                state.machine.ask_anew(now);
            }
            let due = match state.machine.is_greeted() {
                true if unasked => None,
                true => state.machine.due(),
                false => Some(self.calls.accept.greeting),
            };
            if due.is_some_and(|due| due <= now) {
                let ticked = if state.machine.is_greeted() {
                    state.machine.tick(now)
                } else {
                    Err(Fault("the client did not greet in time"))
                };
                if let Err(fault) = ticked {
                    return Poll::Ready(Over::Fault(fault));
                }
                continue;
            }
            if state.driver.as_ref().is_none_or(|known| !known.will_wake(cx.waker())) {
                state.driver = Some(cx.waker().clone());
            }
            drop(state);
            let due = due.into_iter().chain(expires).chain(idle).chain(tidy).min();
            if !self.clock.poll(cx, due) {
                return Poll::Pending;
            }
        }
    }
}

/// Gives back what is needed while something is read.
fn shrink(calls: &mut Calls, events: &mut Vec<Event<Option<Arc<Inbox>>>>) {
    calls.shrink();
    if events.is_empty() && events.capacity() > 64 {
        *events = Vec::new();
    }
}

impl State {
    /// Says an answer of one message, or lets it wait until its call is over.
    pub(super) fn say(&mut self, id: u32, over: Instant, answer: Result<Answer, Error>) {
        let said = match answer {
            Ok(Answer { metadata, trailers, body: Body::Message(message), .. }) => {
                self.machine.answer(id, &metadata, &trailers, message)
            }
            Ok(_) => Err(Error::internal("a method of one answer answered with a stream")),
            Err(error) => Err(error),
        };
        match said {
            Ok(true) => {}
            Ok(false) => {
                self.late.note(id, over);
                self.late.tidy(self.machine.calls(), |id| self.machine.is_open(id));
            }
            Err(error) => self.machine.fail(id, &error),
        }
    }

    /// Whether there is room that is not needed any more.
    fn is_loose(&self) -> bool {
        self.machine.is_loose() || spare::has_spare(&self.room)
    }

    /// Gives it back.
    fn tighten(&mut self) {
        self.machine.tighten();
        spare::shrink(&mut self.room);
        self.late.tidy(self.machine.calls(), |id| self.machine.is_open(id));
    }

    /// Answers that stream and whose last message was passed on.
    fn take_writable(&mut self) -> Vec<Waker> {
        let mut woken = Vec::new();
        while let Some(id) = self.machine.writable().pop() {
            woken.extend(self.room.remove(&id));
        }
        woken
    }
}

impl Link {
    /// Waits until a call may send, and sends what is ready, and the end if that is known. The handler is asked for more once there is
    /// room for that: what it gives before would only be held.
    pub(super) fn poll_send(
        &self,
        cx: &mut Context<'_>,
        id: u32,
        patience: &mut Patience,
        answers: &mut Outgoing,
        ending: &Ending,
    ) -> Poll<Next> {
        let mut guard = self.lock();
        let state = &mut *guard;
        let mut waits = false;
        let polled = if state.machine.is_writable(id) {
            let ended = match state.machine.send_all(id, &mut answers.ready) {
                Ok(()) => answers.ended.take(),
                Err(error) => Some(Err(error)),
            };
            let goes_on = ended.is_none() && state.machine.is_open(id);
            state.late.moved(id, patience);
            match ended {
                Some(Ok(())) => state.machine.end(id, ending.trailers()),
                Some(Err(error)) => state.machine.fail_after(id, error),
                None => {}
            }
            // The last of it may wait without anybody who looks after it.
            if !goes_on && state.machine.is_open(id) {
                waits = true;
                state.late.waits(id, patience);
                state.late.tidy(state.machine.calls(), |id| state.machine.is_open(id));
            }
            Poll::Ready(match goes_on {
                false => Next::Nothing,
                true if state.machine.is_writable(id) => Next::More,
                true => Next::Room,
            })
        } else if let Err(error) = state.machine.keep(id, &answers.ready) {
            waits = true;
            state.machine.fail(id, &error);
            Poll::Ready(Next::Nothing)
        } else {
            waits = true;
            state.late.waits(id, patience);
            state.room.insert(id, cx.waker().clone());
            Poll::Pending
        };
        let driver = if waits || state.machine.has_output() { state.driver.take() } else { None };
        drop(guard);
        if let Some(driver) = driver {
            driver.wake();
        }
        polled
    }
}
