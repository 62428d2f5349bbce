//! One call: opened, waited for, and canceled by being dropped.

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use formic_core::{Code, Error, Metadata};
use formic_rpc::{Answer, Body, ByteStream};
use futures::{Stream, StreamExt};
use http::HeaderMap;

use super::{Link, Sender, wake};
use crate::machine::{Head, Refusal};

/// Why there is no answer.
#[derive(Debug)]
pub enum Failure {
    /// The connection takes no more calls, and nothing of this one was used.
    Closed,
    /// The call failed.
    Error(Error),
}

/// A call that was opened. Dropping it gives it up.
struct Calling {
    link: Arc<Link>,
    key: u32,
    over: bool,
    /// It was opened by this very poll, which left its waker.
    fresh: bool,
}

/// A call that is not opened yet. Dropping it gives up its place in the line.
struct Opening<'a> {
    link: &'a Arc<Link>,
    turn: Option<u64>,
}

impl Sender {
    /// Makes a call. Its request is `message`, or else the stream that `requests` gives once the call is open.
    ///
    /// # Errors
    /// If the connection takes no more calls, or the call fails.
    pub async fn call(
        &self,
        head: &Head<'_>,
        message: Option<Bytes>,
        requests: impl FnOnce() -> Option<ByteStream>,
        answers_stream: bool,
    ) -> Result<Answer, Failure> {
        let streams = message.is_none();
        let mut opening = Opening { link: &self.0.link, turn: None };
        let mut calling = poll_fn(|cx| opening.poll(cx, head, message.as_ref())).await?;
        if streams {
            match requests() {
                Some(stream) => calling.pump(stream, &self.0.tasks),
                None => return Err(Failure::Error(Error::internal("the request stream was sent before"))),
            }
        }
        if answers_stream {
            let metadata = poll_fn(|cx| calling.poll_response(cx)).await.map_err(Failure::Error)?;
            let metadata = Metadata::from(metadata);
            return Ok(Answer { metadata, ..Answer::new(Body::Stream(Box::pin(Incoming(Some(calling))))) });
        }
        poll_fn(|cx| calling.poll_answer(cx)).await.map_err(Failure::Error)
    }
}

impl Opening<'_> {
    fn poll(
        &mut self,
        cx: &mut Context<'_>,
        head: &Head<'_>,
        message: Option<&Bytes>,
    ) -> Poll<Result<Calling, Failure>> {
        let link = self.link;
        let mut guard = link.lock();
        let state = &mut *guard;
        if state.closed {
            return Poll::Ready(Err(Failure::Closed));
        }
        let key = state.slots.take();
        match state.machine.open(head, message.cloned(), message.is_some(), key) {
            Ok(id) => {
                let slot = state.slots.get(key);
                slot.id = id;
                // The answer is never there at once: the first look is saved.
                slot.waker = Some(cx.waker().clone());
                let driver = state.driver.take();
                drop(guard);
                wake(driver);
                self.turn = None;
                Poll::Ready(Ok(Calling { link: Arc::clone(link), key, over: false, fresh: true }))
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

impl Calling {
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
        let (metadata, first, second) = (slot.metadata.take(), slot.message.take(), slot.queue.pop_front());
        let more = !slot.queue.is_empty() || (first.is_some() && second.is_some());
        if let Some((_, charge)) = &second {
            let id = slot.id;
            state.machine.consumed(id, *charge);
        }
        self.over = true;
        let (id, charge) = state.slots.put_back(self.key);
        state.machine.consumed(id, charge);
        let driver = if state.machine.has_output() { state.driver.take() } else { None };
        drop(guard);
        wake(driver);
        let trailers = end?;
        let message = match (first.or(second.map(|(message, _)| message)), more) {
            (Some(message), false) => message,
            (None, _) => return Poll::Ready(Err(Error::internal("the server answered without a message"))),
            (Some(_), true) => {
                return Poll::Ready(Err(Error::internal("the server answered with many messages")));
            }
        };
        let (metadata, trailers) = (metadata.unwrap_or_default().into(), trailers.into());
        Poll::Ready(Ok(Answer { metadata, trailers, body: Body::Message(message) }))
    }

    /// The beginning of an answer that streams.
    fn poll_response(&mut self, cx: &mut Context<'_>) -> Poll<Result<HeaderMap, Error>> {
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

    fn poll_message(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, Error>>> {
        let mut guard = self.link.lock();
        let state = &mut *guard;
        let slot = state.slots.get(self.key);
        if let Some(message) = slot.message.take() {
            return Poll::Ready(Some(Ok(message)));
        }
        if let Some((message, charge)) = slot.queue.pop_front() {
            let id = slot.id;
            state.machine.consumed(id, charge);
            // Only if this message was the one that makes giving back worth a frame.
            let driver = if state.machine.has_output() { state.driver.take() } else { None };
            drop(guard);
            wake(driver);
            return Poll::Ready(Some(Ok(message)));
        }
        match slot.end.take() {
            Some(end) => Poll::Ready(end.err().map(Err)),
            None => {
                slot.wait(cx);
                Poll::Pending
            }
        }
    }

    /// Starts to send a request that streams. It needs a task: it goes on while nobody looks at the answer.
    fn pump(&mut self, mut requests: ByteStream, tasks: &tokio_util::task::TaskTracker) {
        let (link, key) = (Arc::clone(&self.link), self.key);
        let id = link.lock().slots.get(key).id;
        let pump = tasks.spawn(async move {
            loop {
                let message = match requests.next().await {
                    Some(Ok(message)) => message,
                    Some(Err(error)) => return link.fail(key, id, error),
                    None => return link.say(|machine| machine.finish(id)),
                };
                if !poll_fn(|cx| link.poll_room(cx, key, id)).await {
                    return;
                }
                let mut sent = Ok(());
                link.say(|machine| sent = machine.send(id, message));
                if let Err(error) = sent {
                    return link.fail(key, id, error);
                }
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
    /// Has the machine say something, and the task write it.
    fn say(&self, what: impl FnOnce(&mut crate::machine::Machine<u32>)) {
        let mut state = self.lock();
        what(&mut state.machine);
        let driver = state.driver.take();
        drop(state);
        wake(driver);
    }

    /// Waits until a call may send its next message; false if it is over.
    fn poll_room(&self, cx: &mut Context<'_>, key: u32, id: u32) -> Poll<bool> {
        let mut guard = self.lock();
        let state = &mut *guard;
        if state.machine.is_writable(id) {
            return Poll::Ready(state.machine.is_open(id));
        }
        state.slots.get(key).room = Some(cx.waker().clone());
        let driver = state.driver.take();
        drop(guard);
        wake(driver);
        Poll::Pending
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

impl Drop for Calling {
    fn drop(&mut self) {
        if self.over {
            return;
        }
        let mut guard = self.link.lock();
        let state = &mut *guard;
        let (id, charge) = state.slots.put_back(self.key);
        state.machine.consumed(id, charge);
        state.machine.cancel(id, Code::Canceled);
        let wakers = (state.driver.take(), state.next_in_line());
        drop(guard);
        wake(wakers.0);
        wake(wakers.1);
    }
}

/// The messages of an answer that streams.
struct Incoming(Option<Calling>);

impl Stream for Incoming {
    type Item = Result<Bytes, Error>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let Some(calling) = &mut self.0 else { return Poll::Ready(None) };
        let item = std::task::ready!(calling.poll_message(cx));
        if !matches!(item, Some(Ok(_))) {
            self.0 = None;
        }
        Poll::Ready(item)
    }
}
