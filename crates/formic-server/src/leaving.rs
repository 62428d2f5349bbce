//! How streams of answers end when the server goes away.
//!
//! A stream without an end of its own (somebody watches for changes) would hold the drain for its whole
//! grace, and be cut off after it. Handlers can learn of the drain and end such streams well; those that do
//! not are ended here, with an error that tells the caller to look elsewhere. A stream that is on its way to
//! its end, such as a download, has messages to send; one that has none for a while is taken for endless.

use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use formic_core::Error;
use formic_rpc::{BoxFuture, Drain};
use tokio::time::{Instant, Sleep, sleep, sleep_until};

/// The share of the grace that streams have at most: they are to be told, and not cut off.
const SHARE: f64 = 0.75;

/// A server's drain, as its streams see it.
#[derive(Debug)]
pub(crate) struct Leave {
    drain: Drain,
    /// How long streams may go on at most.
    streams: Duration,
    bounds: Mutex<Option<Bounds>>,
}

#[derive(Clone, Copy, Debug)]
struct Bounds {
    quiet: Duration,
    until: Instant,
}

impl Leave {
    pub(crate) fn new(streams: Duration) -> Self {
        Self { drain: Drain::new(), streams, bounds: Mutex::default() }
    }

    pub(crate) fn drain(&self) -> &Drain {
        &self.drain
    }

    pub(crate) fn begin(&self, grace: Duration) {
        let span = self.streams.min(grace.mul_f64(SHARE));
        let bounds = Bounds { quiet: span / 5, until: Instant::now() + span };
        *self.bounds.lock().unwrap_or_else(PoisonError::into_inner) = Some(bounds);
        self.drain.begin();
    }

    fn bounds(&self) -> Option<Bounds> {
        *self.bounds.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One stream's view of it. Costs one look at a flag for each message, until the drain begins.
pub(crate) struct Leaving {
    leave: Arc<Leave>,
    /// Wakes a stream that waits for its next message.
    news: Option<BoxFuture<'static, ()>>,
    /// Once the drain has begun.
    timers: Option<Timers>,
}

struct Timers {
    bounds: Bounds,
    last: Pin<Box<Sleep>>,
    /// Since the last message.
    quiet: Option<Pin<Box<Sleep>>>,
}

impl Leaving {
    pub(crate) fn new(leave: Arc<Leave>) -> Self {
        Self { leave, news: None, timers: None }
    }

    /// Whether the stream has gone on for too long. Asked before each message.
    pub(crate) fn is_over(&mut self, cx: &mut Context<'_>) -> bool {
        if !self.leave.drain.is_draining() {
            return false;
        }
        if self.timers.is_none() {
            let Some(bounds) = self.leave.bounds() else { return false };
            self.timers = Some(Timers { bounds, last: Box::pin(sleep_until(bounds.until)), quiet: None });
        }
        self.timers.as_mut().is_some_and(|timers| timers.last.as_mut().poll(cx).is_ready())
    }

    /// Whether the stream has had nothing to say for too long. Asked when there is no message.
    pub(crate) fn is_quiet(&mut self, cx: &mut Context<'_>) -> bool {
        if self.timers.is_none() {
            let news = self.news.get_or_insert_with(|| Box::pin(self.leave.drain.draining()));
            if news.as_mut().poll(cx).is_pending() {
                return false;
            }
            if self.is_over(cx) {
                return true;
            }
        }
        let Some(timers) = &mut self.timers else { return false };
        let quiet = timers.quiet.get_or_insert_with(|| Box::pin(sleep(timers.bounds.quiet)));
        quiet.as_mut().poll(cx) == Poll::Ready(())
    }

    /// A message was sent.
    pub(crate) fn spoke(&mut self) {
        if let Some(timers) = &mut self.timers {
            timers.quiet = None;
        }
    }
}

/// The end of a stream that has none.
pub(crate) fn gone() -> Error {
    let none: [(&str, &str); 0] = [];
    Error::unavailable("the server is going away; call again to be answered by another instance").with_info(
        "formic.drain",
        "DRAINING",
        none,
    )
}
