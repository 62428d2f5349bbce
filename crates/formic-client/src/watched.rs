//! A response stream with the guards of its call, which last until the stream ends; and the repetition of
//! a call whose stream fails before its first message.
//!
//! Over Connect an answer that streams begins with its headers, and an error is its last message. So a server
//! that fails at once looks like a stream that begins, and only whoever reads it sees the failure. Nothing
//! was given out by then, so an idempotent call is repeated here as it would have been before.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use formic_core::Error;
use formic_rpc::context::Scope;
use formic_rpc::{Answer, Body, BoxFuture, ByteStream, Run, Runs, Trailing};
use tokio::time::{Instant, timeout_at};

use crate::dispatch::{Course, Dispatch};
use crate::flight::Flight;
use crate::observe::Reporting;
use crate::outgoing::Outgoing;
use crate::{headers, retry};

/// A response stream and its guards.
pub(crate) struct Watched {
    stream: Option<ByteStream>,
    flight: Option<Flight>,
    report: Option<Reporting>,
    /// What another attempt needs, until the first message.
    again: Option<Box<Again>>,
    repeating: Option<BoxFuture<'static, Repeated>>,
    /// Where the transport of the last attempt says trailing metadata, and where the caller looks for it. Unset in this process.
    late: Option<(Option<Trailing>, Trailing)>,
}

/// A call that may be repeated.
pub(crate) struct Again {
    pub(crate) dispatch: Arc<Dispatch>,
    pub(crate) outgoing: Arc<Outgoing>,
    pub(crate) course: Course,
}

/// What became of a repetition.
struct Repeated {
    outcome: Result<(Answer, Flight), Error>,
    again: Box<Again>,
    report: Option<Reporting>,
}

impl Watched {
    pub(crate) fn new(
        stream: ByteStream,
        flight: Option<Flight>,
        mut report: Option<Reporting>,
        again: Option<Box<Again>>,
        late: &mut Option<Trailing>,
    ) -> Self {
        if let Some(report) = &mut report {
            report.streams();
        }
        let late = flight.as_ref().map(|_| {
            let told = Trailing::default();
            (late.replace(told.clone()), told)
        });
        Self { stream: Some(stream), flight, report, again, repeating: None, late }
    }

    fn end(&mut self, outcome: &Result<(), Error>) {
        if outcome.as_ref().is_err_and(retry::is_marked) {
            Scope::note_repeated();
        }
        self.stream = None;
        if let Some(mut flight) = self.flight.take() {
            flight.answer(outcome);
        }
        if let Some(mut report) = self.report.take() {
            report.end(outcome, None);
        }
    }

    /// Begins a repetition, if the failure is worth one.
    fn repeat(&mut self, error: &mut Error) -> bool {
        let Some(mut again) = self.again.take() else { return false };
        if let Some(flight) = &self.flight {
            again.course.note(flight.remote());
        }
        let until = again.dispatch.until(&again.outgoing);
        again.course.until = Some(until);
        let Some(wait) = again.dispatch.verdict(error, &again.outgoing, &mut again.course) else {
            return false;
        };
        // The failed attempt is learnt from now; the report is of the call, which goes on.
        let report = self.report.take();
        self.end(&Err(error.clone()));
        self.repeating = Some(Box::pin(again.run(wait, until, report)));
        true
    }
}

impl Again {
    async fn run(
        mut self: Box<Self>,
        wait: std::time::Duration,
        until: Instant,
        mut report: Option<Reporting>,
    ) -> Repeated {
        let attempts = async {
            if !wait.is_zero() {
                tokio::time::sleep(wait).await;
            }
            self.dispatch.attempts(&self.outgoing, &mut self.course, Instant::now(), report.as_mut()).await
        };
        // A deadline of the call's own is kept further up, too; this is the one of calls that have none.
        let late = |_| Error::deadline_exceeded("the deadline passed before the stream began again");
        let outcome = timeout_at(until, attempts).await.unwrap_or_else(|elapsed| Err(late(elapsed)));
        if let Some(report) = &mut report {
            report.attempted(self.outgoing.deadline());
        }
        Repeated { outcome, again: self, report }
    }
}

impl Runs for Watched {
    fn poll_run(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        most: usize,
    ) -> Poll<Option<Result<Run, Error>>> {
        let this = &mut *self;
        loop {
            if let Some(repeating) = &mut this.repeating {
                let repeated = ready!(repeating.as_mut().poll(cx));
                (this.repeating, this.report) = (None, repeated.report);
                match repeated.outcome {
                    Ok((answer, flight)) => {
                        let Body::Stream(stream) = answer.body else {
                            let ended =
                                Err(Error::internal("a method of many answers was answered with one"));
                            this.end(&ended);
                            return Poll::Ready(ended.err().map(Err));
                        };
                        (this.stream, this.flight) = (Some(stream), Some(flight));
                        this.again = Some(repeated.again);
                        if let Some((said, _)) = &mut this.late {
                            *said = answer.late;
                        }
                    }
                    Err(error) => {
                        let ended = Err(error);
                        this.end(&ended);
                        return Poll::Ready(ended.err().map(Err));
                    }
                }
            }
            let Some(stream) = &mut this.stream else { return Poll::Ready(None) };
            match ready!(stream.poll_run(cx, most)) {
                Some(Ok(run)) => {
                    this.again = None;
                    if let Some(flight) = &mut this.flight {
                        flight.spoke();
                    }
                    return Poll::Ready(Some(Ok(run)));
                }
                Some(Err(mut error)) => {
                    if this.repeat(&mut error) {
                        continue;
                    }
                    let ended = Err(error);
                    this.end(&ended);
                    return Poll::Ready(ended.err().map(Err));
                }
                None => {
                    if let Some((Some(said), told)) = &this.late
                        && let Some(trailers) = said.get()
                    {
                        told.set(headers::metadata(trailers.as_headers().clone()));
                    }
                    this.end(&Ok(()));
                    return Poll::Ready(None);
                }
            }
        }
    }
}
