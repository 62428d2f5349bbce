//! The task of a connection: reads, has calls answered, writes.

use std::future::poll_fn;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use formic_core::Error;
use formic_rpc::{Answer, Body};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_util::sync::CancellationToken;

use super::answer::Calls;
use super::inbox::Inbox;
use super::{Link, State};
use crate::codec::Fault;
use crate::link::{Clock, Pipe};
use crate::machine::{Event, Machine};
use crate::outgoing::Outgoing;

/// Rounds before others get their turn on the thread.
const ROUNDS: usize = 16;

/// Nothing is read while so much is to be written: who does not read answers is not asked for more calls.
const CROWDED: usize = 1 << 20;

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
        self.calls.tasks.abort_all();
        let last = self.last_words(&over);
        self.pipe.close(last).await;
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
            self.calls.reap(cx);
            self.answer();
            if let Poll::Ready(Err(error)) = self.write(cx) {
                return Poll::Ready(Over::Broken(error));
            }
            let crowded = {
                let limit = self.calls.accept.limits.calls as usize;
                // Canceled calls are gone from the machine, but their tasks have to end.
                self.calls.tasks.len() > 2 * limit
                    || self.pipe.unwritten() + self.link.lock().machine.unwritten() > CROWDED
            };
            if crowded {
                return self.rest(cx);
            }
            match self.read(cx) {
                Poll::Ready(Ok(())) => {}
                Poll::Ready(Err(over)) => return Poll::Ready(over),
                Poll::Pending => return self.rest(cx),
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    /// Handlers run here, outside of the lock; what is ready at once is said all together.
    fn answer(&mut self) {
        if !self.events.is_empty() {
            let mut events = std::mem::take(&mut self.events);
            self.calls.now = tokio::time::Instant::now();
            for event in events.drain(..) {
                self.calls.take(event, &self.link);
            }
            self.events = events;
        }
        if !self.calls.ready.is_empty() {
            let mut state = self.link.lock();
            for (id, answer) in self.calls.ready.drain(..) {
                say(&mut state.machine, id, answer);
            }
        }
    }

    fn write(&mut self, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        loop {
            if self.pipe.unwritten() == 0 {
                let mut state = self.link.lock();
                state.machine.output(&mut self.pipe.writing);
                let woken = state.take_writable();
                drop(state);
                woken.into_iter().for_each(Waker::wake);
                if self.pipe.writing.is_empty() {
                    return Poll::Ready(Ok(()));
                }
            }
            std::task::ready!(self.pipe.poll_write(cx))?;
        }
    }

    fn read(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Over>> {
        let (link, events, now) = (&self.link, &mut self.events, self.clock.now());
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

    /// Nothing more to read: waits, for bytes, for handlers, or for the time.
    fn rest(&mut self, cx: &mut Context<'_>) -> Poll<Over> {
        loop {
            let now = self.clock.now();
            let complete_by = self.calls.due().map(|due| self.clock.at(due));
            if complete_by.is_some_and(|due| due <= now) {
                self.calls.expire(tokio::time::Instant::now());
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            let mut state = self.link.lock();
            let unwritten = self.pipe.unwritten();
            if unwritten == 0 && state.machine.has_output() {
                drop(state);
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            if unwritten == 0 && state.machine.is_idle() {
                if self.drained {
                    return Poll::Ready(Over::Drained);
                }
                state.machine.shrink();
                self.pipe.shrink();
                self.calls.shrink();
                if self.events.capacity() > 64 {
                    self.events = Vec::new();
                }
            }
            let due = if state.machine.is_greeted() {
                state.machine.due()
            } else {
                Some(self.calls.accept.greeting)
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
            let due = due.into_iter().chain(complete_by).min();
            if !self.clock.poll(cx, due) {
                return Poll::Pending;
            }
        }
    }
}

/// Says an answer of one message.
pub(super) fn say(machine: &mut Machine<Option<Arc<Inbox>>>, id: u32, answer: Result<Answer, Error>) {
    let said = match answer {
        Ok(Answer { metadata, trailers, body: Body::Message(message) }) => {
            machine.answer(id, metadata.as_headers(), trailers.as_headers(), message)
        }
        Ok(_) => Err(Error::internal("a method of one answer answered with a stream")),
        Err(error) => Err(error),
    };
    if let Err(error) = said {
        machine.fail(id, &error);
    }
}

impl State {
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
    /// Waits until a call may send, and sends what is ready, and the end if that is known; false if nothing comes after.
    pub(super) fn poll_send(&self, cx: &mut Context<'_>, id: u32, answers: &mut Outgoing) -> Poll<bool> {
        let mut guard = self.lock();
        let state = &mut *guard;
        let polled = if state.machine.is_writable(id) {
            let ended = match state.machine.send_all(id, &mut answers.ready) {
                Ok(()) => answers.ended.take(),
                Err(error) => Some(Err(error)),
            };
            let goes_on = ended.is_none() && state.machine.is_open(id);
            match ended {
                Some(Ok(())) => state.machine.end(id, http::HeaderMap::new()),
                Some(Err(error)) => state.machine.fail_after(id, error),
                None => {}
            }
            Poll::Ready(goes_on)
        } else {
            state.room.insert(id, cx.waker().clone());
            Poll::Pending
        };
        let driver =
            if polled.is_pending() || state.machine.has_output() { state.driver.take() } else { None };
        drop(guard);
        if let Some(driver) = driver {
            driver.wake();
        }
        polled
    }
}
