//! A request that streams, between the connection's task and the handler.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Waker};

use formic_core::Error;
use formic_rpc::{Run, Runs};

use super::Link;
use crate::spare::{self, is_spare};

/// Messages that came and were not taken.
#[derive(Debug, Default)]
pub(super) struct Inbox(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    /// Messages that came together, with what they cost.
    queue: VecDeque<(Run, u32)>,
    finished: bool,
    /// Nobody takes messages any more.
    closed: bool,
    waker: Option<Waker>,
}

impl Inbox {
    /// Adds messages; their cost comes back if nobody will take it.
    pub(super) fn push(&self, messages: Option<(Run, u32)>, finished: bool) -> Option<u32> {
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
}

impl Runs for Requests {
    fn poll_run(self: Pin<&mut Self>, cx: &mut Context<'_>, _: usize) -> Poll<Option<Result<Run, Error>>> {
        let mut state = self.inbox.0.lock().unwrap_or_else(PoisonError::into_inner);
        let Some((messages, charge)) = state.queue.pop_front() else {
            if state.finished {
                return Poll::Ready(None);
            }
            state.waker = Some(cx.waker().clone());
            return Poll::Pending;
        };
        if is_spare(state.queue.len(), state.queue.capacity(), spare::MANY) {
            let few = 2 * state.queue.len();
            state.queue.shrink_to(few);
        }
        drop(state);
        self.link.say(|machine| machine.consumed(self.id, charge));
        Poll::Ready(Some(Ok(messages)))
    }
}

impl Drop for Requests {
    fn drop(&mut self) {
        // What nobody takes any more costs the other calls of the connection nothing; this one goes without new credit.
        let mut state = self.inbox.0.lock().unwrap_or_else(PoisonError::into_inner);
        state.closed = true;
        // What came with the request cost nothing.
        let untaken = std::mem::take(&mut state.queue);
        let more = !state.finished;
        drop(state);
        let (count, charge) = untaken
            .iter()
            .filter(|(_, charge)| *charge > 0)
            .fold((0, 0), |(count, sum), (_, charge)| (count + 1, sum + charge));
        if more || count > 0 {
            self.link.say(|machine| machine.forget(self.id, count, charge));
        }
    }
}
