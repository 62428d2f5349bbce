//! A request that streams, between the connection's task and the handler.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use formic_core::Error;
use futures::Stream;

use super::Link;

/// Messages that came and were not taken.
#[derive(Debug, Default)]
pub(super) struct Inbox(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    /// With what they cost.
    queue: VecDeque<(Bytes, u32)>,
    finished: bool,
    /// Nobody takes messages any more.
    closed: bool,
    waker: Option<Waker>,
}

impl Inbox {
    /// Adds a message; its cost comes back if nobody will take it.
    pub(super) fn push(&self, message: Option<(Bytes, u32)>, finished: bool) -> Option<u32> {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if state.closed {
            return message.map(|(_, charge)| charge);
        }
        state.queue.extend(message);
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
}

impl Stream for Requests {
    type Item = Result<Bytes, Error>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let mut state = self.inbox.0.lock().unwrap_or_else(PoisonError::into_inner);
        let Some((message, charge)) = state.queue.pop_front() else {
            if state.finished {
                return Poll::Ready(None);
            }
            state.waker = Some(cx.waker().clone());
            return Poll::Pending;
        };
        drop(state);
        self.link.say(|machine| machine.consumed(self.id, charge));
        Poll::Ready(Some(Ok(message)))
    }
}

impl Drop for Requests {
    fn drop(&mut self) {
        // What nobody takes any more costs the other calls of the connection nothing; this one goes without new credit.
        let mut state = self.inbox.0.lock().unwrap_or_else(PoisonError::into_inner);
        state.closed = true;
        let charge: u32 = state.queue.drain(..).map(|(_, charge)| charge).sum();
        drop(state);
        if charge > 0 {
            self.link.say(|machine| machine.release(charge));
        }
    }
}
