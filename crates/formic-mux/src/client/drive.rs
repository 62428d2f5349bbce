//! The task of a connection: reads, lets callers know, writes.

use std::future::poll_fn;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll, Waker};

use tokio::io::{AsyncRead, AsyncWrite};

use super::crowd::Crowd;
use super::{Link, NoGreeting, State};
use crate::codec::Fault;
use crate::link::{Clock, Pipe};
use crate::machine::Event;

/// Rounds before others get their turn on the thread.
const ROUNDS: usize = 16;

/// Nothing is read while so much is to be written: a server may ask, by pings, for more than it reads. What callers have said is
/// never so much, so two ends that both wait for the other to read cannot be.
const CROWDED: usize = 2 << 20;

/// Messages that nobody takes for now are put together up to so many bytes. Each on its own takes ten times what one of hardly a byte
/// has on the wire, and what it has there is all that credit bounds.
const TOGETHER: usize = 4 << 10;

pub(super) struct Driver<S> {
    pub(super) link: Arc<Link>,
    pub(super) pipe: Pipe<S>,
    pub(super) clock: Clock,
    /// Callers to be woken outside of the lock.
    pub(super) wake: Vec<Waker>,
    pub(super) crowd: Crowd,
    /// Others were let by since the last write.
    pub(super) yielded: bool,
}

impl<S> Drop for Driver<S> {
    fn drop(&mut self) {
        // However the task ends, nobody waits for ever.
        self.link.close(0, None);
    }
}

/// Why a connection is over.
enum Over {
    /// Nobody needs it any more.
    Done,
    Closed,
    Broken(std::io::Error),
    Fault(Fault),
}

impl<S: AsyncRead + AsyncWrite + Unpin> Driver<S> {
    /// Greets, and waits for the answer.
    pub(super) async fn greet(&mut self) -> Result<(), NoGreeting> {
        poll_fn(|cx| {
            loop {
                self.link.lock().machine.output(&mut self.pipe.writing);
                // What cannot be written yet can be once the socket is written to again, after the answer.
                if let Poll::Ready(Err(error)) = self.pipe.poll_write(cx) {
                    return Poll::Ready(Err(NoGreeting::Io(error)));
                }
                let (link, now) = (&self.link, self.clock.now());
                let read = self.pipe.poll_read(cx, |mut bytes| {
                    let mut state = link.lock();
                    // What comes after the greeting can only be a go-away, which the machine notes.
                    while state.machine.receive(&mut bytes, now)?.is_some() {}
                    link.leaving.store(state.machine.is_leaving(), Ordering::Release);
                    Ok(state.machine.is_greeted())
                });
                match std::task::ready!(read) {
                    Ok(Some(Ok(true))) => return Poll::Ready(Ok(())),
                    Ok(Some(Ok(false))) => {}
                    Ok(Some(Err(fault))) => return Poll::Ready(Err(NoGreeting::Foreign(fault))),
                    Ok(None) => return Poll::Ready(Err(NoGreeting::Closed)),
                    Err(error) => return Poll::Ready(Err(NoGreeting::Io(error))),
                }
            }
        })
        .await
    }

    /// Runs until the connection is over.
    pub(super) async fn run(mut self) {
        let over = poll_fn(|cx| {
            let over = self.poll(cx);
            self.crowd.watch(cx);
            over
        })
        .await;
        let name = &self.link.name;
        match &over {
            Over::Done | Over::Closed => tracing::trace!(endpoint = %name, "connection closed"),
            Over::Broken(error) => tracing::debug!(endpoint = %name, %error, "connection lost"),
            Over::Fault(fault) => tracing::debug!(endpoint = %name, %fault, "connection given up"),
        }
        let unwritten = self.pipe.unwritten();
        let why = if let Over::Fault(fault) = &over { Some(fault.0) } else { None };
        self.link.close(unwritten, why);
        if let Over::Fault(fault) = over
            && unwritten == 0
        {
            // Callers know that the rest was not sent, so it must not be sent now.
            let mut last = Vec::new();
            {
                let mut state = self.link.lock();
                state.machine.output(&mut last);
                last.clear();
                state.machine.give_up(fault);
                state.machine.output(&mut last);
            }
            self.pipe.close(last).await;
        }
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Over> {
        // The caller that woke this task is one of many that were woken together. The others come first, so that one write says
        // it all; a scheduler would run this task right after the first of them.
        if !std::mem::replace(&mut self.yielded, true) {
            let state = self.link.lock();
            if state.machine.has_output() && state.machine.calls() > 1 {
                drop(state);
                self.crowd.let_by(cx.waker());
                return Poll::Pending;
            }
        }
        self.yielded = false;
        for _ in 0..ROUNDS {
            // Write first: what callers said is what others wait for.
            if let Poll::Ready(Err(error)) = self.write(cx) {
                return Poll::Ready(Over::Broken(error));
            }
            if self.pipe.unwritten() > 0
                && self.pipe.unwritten() + self.link.lock().machine.unwritten() > CROWDED
            {
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

    fn write(&mut self, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        loop {
            if self.pipe.unwritten() == 0 {
                let mut state = self.link.lock();
                state.machine.output(&mut self.pipe.writing);
                state.wake_pumps(&mut self.wake);
                if !state.room.is_empty() && !state.machine.is_full() {
                    self.wake.extend(state.next_in_line());
                }
                drop(state);
                self.wake_all();
                if self.pipe.writing.is_empty() {
                    return Poll::Ready(Ok(()));
                }
            }
            std::task::ready!(self.pipe.poll_write(cx))?;
        }
    }

    fn read(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Over>> {
        let (link, woken, now) = (&self.link, &mut self.wake, self.clock.now());
        let read = self.pipe.poll_read(cx, |mut bytes| {
            let mut state = link.lock();
            while let Some(event) = state.machine.receive(&mut bytes, now)? {
                if matches!(event, Event::GoAway) {
                    link.leaving.store(true, Ordering::Release);
                }
                state.take(event, woken);
            }
            Ok(())
        });
        self.wake_all();
        Poll::Ready(match std::task::ready!(read) {
            Ok(Some(Ok(()))) => Ok(()),
            Ok(Some(Err(fault))) => Err(Over::Fault(fault)),
            Ok(None) => Err(Over::Closed),
            Err(error) => Err(Over::Broken(error)),
        })
    }

    /// Nothing more to read: waits, for bytes, for callers, or for the time.
    fn rest(&mut self, cx: &mut Context<'_>) -> Poll<Over> {
        loop {
            let now = self.clock.now();
            let mut state = self.link.lock();
            if state.machine.is_idle() && !state.machine.has_output() && self.pipe.unwritten() == 0 {
                if state.orphaned || state.machine.is_leaving() {
                    return Poll::Ready(Over::Done);
                }
                state.machine.shrink();
                self.pipe.shrink();
                self.crowd.shrink();
            }
            state.machine.set_unwritten(self.pipe.unwritten());
            let due = state.machine.due();
            if due.is_some_and(|due| due <= now) {
                if let Err(fault) = state.machine.tick(now) {
                    return Poll::Ready(Over::Fault(fault));
                }
                drop(state);
                self.crowd.let_by(cx.waker());
                return Poll::Pending;
            }
            if state.machine.has_output() && self.pipe.unwritten() == 0 {
                // Credit was given back while reading, or a caller came in between.
                drop(state);
                self.yielded = true;
                self.crowd.let_by(cx.waker());
                return Poll::Pending;
            }
            // While there is something unwritten the socket wakes; callers need not.
            if state.driver.as_ref().is_none_or(|known| !known.will_wake(cx.waker())) {
                state.driver = Some(cx.waker().clone());
            }
            drop(state);
            if !self.clock.poll(cx, due) {
                return Poll::Pending;
            }
        }
    }

    fn wake_all(&mut self) {
        self.crowd.wake(&mut self.wake);
    }
}

impl State {
    fn take(&mut self, event: Event<u32>, woken: &mut Vec<Waker>) {
        let slot = match event {
            Event::Answer { data, metadata, trailers, message } => {
                let slot = self.slots.get(data);
                slot.metadata = Some(metadata);
                slot.message = message;
                slot.end = Some(Ok(trailers));
                woken.extend(slot.waker.take());
                return woken.extend(self.next_in_line());
            }
            Event::Response { id, metadata } => {
                let Some(&mut key) = self.machine.data(id) else { return };
                let slot = self.slots.get(key);
                slot.metadata = Some(metadata);
                slot
            }
            Event::Messages { id, messages, charge, .. } => {
                let Some(&mut key) = self.machine.data(id) else { return self.machine.consumed(id, charge) };
                let slot = self.slots.get(key);
                if let Some((last, cost)) = slot.queue.back_mut()
                    && last.join(&messages, TOGETHER)
                {
                    *cost += charge;
                    self.machine.joined(id);
                } else {
                    slot.queue.push_back((messages, charge));
                }
                slot
            }
            Event::End { data, trailers } => {
                woken.extend(self.next_in_line());
                let slot = self.slots.get(data);
                slot.end = Some(Ok(trailers));
                woken.extend(slot.room.take());
                slot
            }
            Event::Failed { data, error } => {
                woken.extend(self.next_in_line());
                let slot = self.slots.get(data);
                slot.end = Some(Err(error));
                woken.extend(slot.room.take());
                slot
            }
            Event::GoAway => return woken.extend(std::mem::take(&mut self.room).into_values()),
            // A server's own, which the machine lets nobody send to a client.
            Event::Greeted | Event::Request(_) | Event::Finished { .. } | Event::Canceled { .. } => return,
        };
        woken.extend(slot.waker.take());
    }

    /// Requests that stream and whose last message was passed on.
    fn wake_pumps(&mut self, woken: &mut Vec<Waker>) {
        while let Some(id) = self.machine.writable().pop() {
            if let Some(&mut key) = self.machine.data(id) {
                woken.extend(self.slots.get(key).room.take());
            }
        }
    }
}
