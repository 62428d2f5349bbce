//! A request that streams, between the connection's task and the handler.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use formic_core::Error;
use futures::Stream;

use super::Link;
use crate::machine::Batch;

/// Messages that came and were not taken.
#[derive(Debug, Default)]
pub(super) struct Inbox(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    /// Messages that came together, with what they cost.
    queue: VecDeque<(Batch, u32)>,
    finished: bool,
    /// Nobody takes messages any more.
    closed: bool,
    waker: Option<Waker>,
}

impl Inbox {
    /// Adds messages; their cost comes back if nobody will take it.
    pub(super) fn push(&self, messages: Option<(Batch, u32)>, finished: bool) -> Option<u32> {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if state.closed {
            return messages.map(|(_, charge)| charge);
        }
        state.queue.extend(messages);
        state.finished |= finished;
        let waker = state.waker.take();
        drop(state);
        if let Some(waker) = waker {
            waker.wake();
        }
        None
    }
}

/// The handler's end.
pub(super) struct Requests {
    pub(super) inbox: Arc<Inbox>,
    pub(super) link: Arc<Link>,
    pub(super) id: u32,
    /// Messages that were taken together.
    pub(super) messages: Batch,
}

impl Stream for Requests {
    type Item = Result<Bytes, Error>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = &mut *self;
        loop {
            if let Some(message) = this.messages.next() {
                return Poll::Ready(Some(Ok(message)));
            }
            let mut state = this.inbox.0.lock().unwrap_or_else(PoisonError::into_inner);
            let Some((messages, charge)) = state.queue.pop_front() else {
                if state.finished {
                    return Poll::Ready(None);
                }
                state.waker = Some(cx.waker().clone());
                return Poll::Pending;
            };
            drop(state);
            this.link.say(|machine| machine.consumed(this.id, charge));
            this.messages = messages;
        }
    }
}

impl Drop for Requests {
    fn drop(&mut self) {
        // What nobody takes any more costs the other calls of the connection nothing; this one goes without new credit.
        let mut state = self.inbox.0.lock().unwrap_or_else(PoisonError::into_inner);
        state.closed = true;
        // What came with the request cost nothing.
        let charges: Vec<u32> =
            state.queue.drain(..).map(|(_, charge)| charge).filter(|&charge| charge > 0).collect();
        let more = !state.finished;
        drop(state);
        if more || !charges.is_empty() {
            self.link.say(|machine| machine.forget(self.id, charges.len(), charges.iter().sum()));
        }
    }
}
