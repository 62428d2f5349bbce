//! A call on its way to an endpoint, as the balancer sees it: counted while it lasts, learnt from when it
//! ends, however it ends.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use formic_core::Error;
use formic_rpc::ByteStream;
use futures::Stream;
use tokio::time::Instant;

use crate::observe::Reporting;
use crate::remote::Remote;

/// One attempt at one endpoint. Dropping it unfinished is what cancelling looks like.
pub(crate) struct Flight {
    remote: Arc<Remote>,
    clock: Clock,
}

/// What there is to learn from a flight.
enum Clock {
    /// It is not connected yet, and how long that takes says nothing of how fast the endpoint answers.
    Waiting,
    Running(Instant),
    /// The endpoint has shown how fast it is.
    Answered,
}

impl Flight {
    pub(crate) fn begin(remote: &Arc<Remote>) -> Self {
        remote.stats().begin();
        Self { remote: Arc::clone(remote), clock: Clock::Waiting }
    }

    /// The request goes out.
    pub(crate) fn send(&mut self) {
        self.clock = Clock::Running(Instant::now());
    }

    /// An answer is there, or begins, or, after it has begun, ends.
    pub(crate) fn answer<T>(&mut self, outcome: &Result<T, Error>) {
        let now = Instant::now();
        let took = match std::mem::replace(&mut self.clock, Clock::Answered) {
            Clock::Waiting => return,
            Clock::Running(sent) => Some(now.duration_since(sent)),
            Clock::Answered => None,
        };
        let (now, stats) = (self.remote.since_origin(now), self.remote.stats());
        match (outcome, took) {
            // How long a stream lived before it failed says nothing.
            (Err(error), took) if error.code().is_server_fault() => {
                stats.failed(now, took.unwrap_or_default())
            }
            (_, Some(took)) => stats.succeeded(now, took),
            (_, None) => {}
        }
    }
}

impl Drop for Flight {
    fn drop(&mut self) {
        if let Clock::Running(sent) = self.clock {
            let now = Instant::now();
            self.remote.stats().abandoned(self.remote.since_origin(now), now.duration_since(sent));
        }
        self.remote.stats().end();
    }
}

/// A response stream with the guards of its call, which lasts until the stream ends.
pub(crate) struct Watched {
    stream: Option<ByteStream>,
    flight: Option<Flight>,
    report: Option<Reporting>,
}

impl Watched {
    pub(crate) fn new(stream: ByteStream, flight: Option<Flight>, report: Option<Reporting>) -> Self {
        Self { stream: Some(stream), flight, report }
    }

    fn end(&mut self, outcome: &Result<(), Error>) {
        self.stream = None;
        if let Some(mut flight) = self.flight.take() {
            flight.answer(outcome);
        }
        if let Some(mut report) = self.report.take() {
            report.end(outcome);
        }
    }
}

impl Stream for Watched {
    type Item = Result<Bytes, Error>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let Some(stream) = &mut self.stream else { return Poll::Ready(None) };
        match std::task::ready!(stream.as_mut().poll_next(cx)) {
            Some(Ok(message)) => Poll::Ready(Some(Ok(message))),
            Some(Err(error)) => {
                let ended = Err(error);
                self.end(&ended);
                Poll::Ready(ended.err().map(Err))
            }
            None => {
                self.end(&Ok(()));
                Poll::Ready(None)
            }
        }
    }
}
