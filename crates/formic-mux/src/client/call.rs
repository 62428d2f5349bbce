//! One call: opened, waited for, and canceled by being dropped.

use std::future::poll_fn;
use std::ops::Deref;
use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use formic_core::{Code, Error, Metadata};
use formic_rpc::{Answer, Body, ByteStream, Run, Runs, Trailing};
use futures::FutureExt;
use tokio::time::Instant;

use super::{Link, Sender, wake};
use crate::machine::{Head, Refusal};
use crate::outgoing::Outgoing;

/// Why there is no answer.
#[derive(Debug)]
pub enum Failure {
    /// The connection takes no more calls, and nothing of this one was used.
    Closed,
    /// The call failed.
    Error(Error),
}

/// A call that was opened. Dropping it gives it up. One of a message each way does not own the link: to own it is to count it, and callers
/// on other threads do so at the same time.
struct Calling<L: Deref<Target = Link>> {
    link: L,
    key: u32,
    over: bool,
    /// It was opened by this very poll, which left its waker.
    fresh: bool,
}

/// A call that is not opened yet. Dropping it gives up its place in the line.
struct Opening<'a> {
    link: &'a Link,
    turn: Option<u64>,
    /// It waits since then, and the caller has so much less time.
    since: Option<Instant>,
}

impl Sender {
    /// Makes a call. Its request is `message`, or else the stream that `requests` gives once the call is open. `head` says what
    /// travels beside it, and is asked whenever there is a chance to open the call.
    ///
    /// # Errors
    /// If the connection takes no more calls, or the call fails.
    pub async fn call<'a>(
        &self,
        head: impl Fn() -> Head<'a>,
        message: Option<&Bytes>,
        requests: impl FnOnce() -> Option<ByteStream>,
        answers_stream: bool,
    ) -> Result<Answer, Failure> {
        let streams = message.is_none();
        let link = &self.0.link;
        let mut opening = Opening { link, turn: None, since: None };
        let key = poll_fn(|cx| opening.poll(cx, &head, message)).await?;
        if !streams && !answers_stream {
            let mut calling = Calling { link: &**link, key, over: false, fresh: true };
            return poll_fn(|cx| calling.poll_answer(cx)).await.map_err(Failure::Error);
        }
        let mut calling = Calling { link: Arc::clone(link), key, over: false, fresh: true };
        if streams {
            match requests() {
                Some(stream) => calling.pump(stream, &self.0.tasks),
                None => return Err(Failure::Error(Error::internal("the request stream was sent before"))),
            }
        }
        if answers_stream {
            let metadata = poll_fn(|cx| calling.poll_response(cx)).await.map_err(Failure::Error)?;
            let late = Trailing::default();
            let incoming = Incoming::new(calling, late.clone());
            return Ok(Answer {
                metadata,
                late: Some(late),
                ..Answer::new(Body::Stream(ByteStream::of_runs(incoming)))
            });
        }
        poll_fn(|cx| calling.poll_answer(cx)).await.map_err(Failure::Error)
    }
}

impl Opening<'_> {
    fn poll<'a>(
        &mut self,
        cx: &mut Context<'_>,
        head: impl Fn() -> Head<'a>,
        message: Option<&Bytes>,
    ) -> Poll<Result<u32, Failure>> {
        let (link, mut head) = (self.link, head());
        let mut guard = link.lock();
        let state = &mut *guard;
        if state.closed {
            return Poll::Ready(Err(Failure::Closed));
        }
        if let (Some(timeout), Some(since)) = (&mut head.timeout, self.since) {
            *timeout = timeout.saturating_sub(since.elapsed());
        }
        let key = state.slots.take();
        match state.machine.open(&head, message, message.is_some(), key) {
            Ok(id) => {
                let slot = state.slots.get(key);
                slot.id = id;
                // The answer is never there at once: the first look is saved.
                slot.waker = Some(cx.waker().clone());
                let driver = state.driver.take();
                // What made room for this one may have made more.
                let in_line = self.turn.take().is_some() && !state.machine.is_full();
                let next = if in_line { state.next_in_line() } else { None };
                drop(guard);
                wake(driver);
                wake(next);
                Poll::Ready(Ok(key))
            }
            Err(refusal) => {
                state.slots.put_back(key);
                match refusal {
                    Refusal::Leaving => {
                        // Its numbers may be used up, which nobody else notices.
                        link.leaving.store(true, std::sync::atomic::Ordering::Release);
                        Poll::Ready(Err(Failure::Closed))
                    }
                    Refusal::Invalid(error) => Poll::Ready(Err(Failure::Error(error))),
                    Refusal::Full => {
                        let turn = *self.turn.get_or_insert_with(|| {
                            state.turns += 1;
                            state.turns
                        });
                        if state.room.len() < MOST_WAITING {
                            self.since.get_or_insert_with(Instant::now);
                            state.room.insert(turn, cx.waker().clone());
                            return Poll::Pending;
                        }
                        let text = "too many calls wait for the server to take them";
                        Poll::Ready(Err(Failure::Error(Error::resource_exhausted(text).with_unsent())))
                    }
                }
            }
        }
    }
}

impl Drop for Opening<'_> {
    fn drop(&mut self) {
        let Some(turn) = self.turn else { return };
        let mut state = self.link.lock();
        // It was called up and does not come: the next may.
        let next = if state.room.remove(&turn).is_none() { state.next_in_line() } else { None };
        drop(state);
        wake(next);
    }
}

/// Callers who wait for room; more are refused.
const MOST_WAITING: usize = 65_536;

impl<L: Deref<Target = Link>> Calling<L> {
    /// The whole answer of a call that has one message.
    fn poll_answer(&mut self, cx: &mut Context<'_>) -> Poll<Result<Answer, Error>> {
        if std::mem::take(&mut self.fresh) {
            return Poll::Pending;
        }
        let mut guard = self.link.lock();
        let state = &mut *guard;
        let slot = state.slots.get(self.key);
        let Some(end) = slot.end.take() else {
            // A long answer comes in pieces, and each needs credit.
            slot.wait(cx);
            return Poll::Pending;
        };
        let (metadata, first, mut second) =
            (slot.metadata.take(), slot.message.take(), slot.queue.pop_front());
        if let Some((_, charge)) = &second {
            let id = slot.id;
            state.machine.consumed(id, *charge);
        }
        let slot = state.slots.get(self.key);
        let message = first.or_else(|| second.as_mut()?.0.next());
        let more = !slot.queue.is_empty() || second.is_some_and(|(rest, _)| !rest.is_empty());
        self.over = true;
        let (_, count, charge) = state.slots.put_back(self.key);
        state.machine.release(count, charge);
        let driver = if state.machine.has_output() { state.driver.take() } else { None };
        drop(guard);
        wake(driver);
        let trailers = end?;
        let message = match (message, more) {
            (Some(message), false) => message,
            (None, _) => return Poll::Ready(Err(Error::internal("the server answered without a message"))),
            (Some(_), true) => {
                return Poll::Ready(Err(Error::internal("the server answered with many messages")));
            }
        };
        let metadata = metadata.unwrap_or_default();
        Poll::Ready(Ok(Answer { metadata, trailers, ..Answer::new(Body::Message(message)) }))
    }
}

impl Calling<Arc<Link>> {
    /// The beginning of an answer that streams.
    fn poll_response(&mut self, cx: &mut Context<'_>) -> Poll<Result<Metadata, Error>> {
        let mut state = self.link.lock();
        let slot = state.slots.get(self.key);
        if let Some(metadata) = slot.metadata.take() {
            return Poll::Ready(Ok(metadata));
        }
        match slot.end.take() {
            Some(Err(error)) => Poll::Ready(Err(error)),
            Some(Ok(_)) => Poll::Ready(Err(Error::internal("the server ended an answer that did not begin"))),
            None => {
                slot.wait(cx);
                Poll::Pending
            }
        }
    }

    /// Messages that came together, or how it ended.
    fn poll_messages(&mut self, cx: &mut Context<'_>) -> Poll<Result<Run, Result<Metadata, Error>>> {
        let mut guard = self.link.lock();
        let state = &mut *guard;
        let slot = state.slots.get(self.key);
        if let Some(message) = slot.message.take() {
            return Poll::Ready(Ok(message.into()));
        }
        if let Some((messages, charge)) = slot.queue.pop_front() {
            let id = slot.id;
            state.machine.consumed(id, charge);
            // Only if these messages were the ones that make giving back worth a frame.
            let driver = if state.machine.has_output() { state.driver.take() } else { None };
            drop(guard);
            wake(driver);
            return Poll::Ready(Ok(messages));
        }
        match slot.end.take() {
            Some(end) => Poll::Ready(Err(end)),
            None => {
                slot.wait(cx);
                Poll::Pending
            }
        }
    }

    /// Starts to send a request that streams. It needs a task: it goes on while nobody looks at the answer.
    fn pump(&mut self, requests: ByteStream, tasks: &tokio_util::task::TaskTracker) {
        let (link, key) = (Arc::clone(&self.link), self.key);
        let id = link.lock().slots.get(key).id;
        let pump = tasks.spawn(async move {
            let mut requests = Outgoing::new(requests);
            while requests.ended.is_none() {
                // A task that ends by a panic tells nobody, and the call would wait for the rest of its request.
                if AssertUnwindSafe(requests.gather()).catch_unwind().await.is_err() {
                    return link.fail(key, id, Error::internal("the stream of requests panicked"));
                }
                match poll_fn(|cx| link.poll_send(cx, key, id, &mut requests)).await {
                    Ok(true) => {}
                    Ok(false) => return,
                    Err(error) => return link.fail(key, id, error),
                }
            }
            if let Some(Err(error)) = requests.ended {
                link.fail(key, id, error);
            }
        });
        let mut state = self.link.lock();
        state.slots.get(key).pump = Some(pump.abort_handle());
    }
}

impl super::Slot {
    fn wait(&mut self, cx: &Context<'_>) {
        if self.waker.as_ref().is_none_or(|known| !known.will_wake(cx.waker())) {
            self.waker = Some(cx.waker().clone());
        }
    }
}

impl Link {
    /// Waits until a call may send, and sends what is ready, and the end if that is known; false if the call is over.
    fn poll_send(
        &self,
        cx: &mut Context<'_>,
        key: u32,
        id: u32,
        requests: &mut Outgoing,
    ) -> Poll<Result<bool, Error>> {
        let mut guard = self.lock();
        let state = &mut *guard;
        let polled = if state.machine.is_writable(id) {
            let sent = state.machine.send_all(id, &mut requests.ready);
            if let (Ok(()), Some(Ok(()))) = (&sent, &requests.ended) {
                state.machine.finish(id);
            }
            Poll::Ready(sent.map(|()| state.machine.is_open(id)))
        } else {
            state.slots.get(key).room = Some(cx.waker().clone());
            Poll::Pending
        };
        let driver = state.driver.take();
        drop(guard);
        wake(driver);
        polled
    }

    /// The caller's own stream failed, and so the call has.
    fn fail(&self, key: u32, id: u32, error: Error) {
        let mut guard = self.lock();
        let state = &mut *guard;
        if !state.machine.is_open(id) {
            return;
        }
        state.machine.cancel(id, error.code());
        let slot = state.slots.get(key);
        slot.end = Some(Err(error));
        let wakers = (slot.waker.take(), state.driver.take(), state.next_in_line());
        drop(guard);
        wake(wakers.0);
        wake(wakers.1);
        wake(wakers.2);
    }
}

impl<L: Deref<Target = Link>> Drop for Calling<L> {
    fn drop(&mut self) {
        if self.over {
            return;
        }
        let mut guard = self.link.lock();
        let state = &mut *guard;
        let (id, count, charge) = state.slots.put_back(self.key);
        state.machine.release(count, charge);
        state.machine.cancel(id, Code::Canceled);
        let wakers = (state.driver.take(), state.next_in_line());
        drop(guard);
        wake(wakers.0);
        wake(wakers.1);
    }
}

/// The messages of an answer that streams.
struct Incoming {
    /// Until the end.
    calling: Option<Calling<Arc<Link>>>,
    late: Trailing,
}

impl Incoming {
    fn new(calling: Calling<Arc<Link>>, late: Trailing) -> Self {
        Self { calling: Some(calling), late }
    }
}

impl Runs for Incoming {
    fn poll_run(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        _: usize,
    ) -> Poll<Option<Result<Run, Error>>> {
        let this = &mut *self;
        let Some(calling) = &mut this.calling else { return Poll::Ready(None) };
        Poll::Ready(match std::task::ready!(calling.poll_messages(cx)) {
            Ok(messages) => Some(Ok(messages)),
            Err(end) => {
                this.calling = None;
                match end {
                    Ok(trailers) => {
                        this.late.set(trailers);
                        None
                    }
                    Err(error) => Some(Err(error)),
                }
            }
        })
    }
}
