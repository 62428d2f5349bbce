//! A call on its way to an endpoint, as the balancer sees it: counted while it lasts, learnt from when it
//! ends, however it ends.

use std::sync::Arc;
use std::time::Duration;

use formic_balance::{Change, Outcome};
use formic_core::{Code, Error, Shed};
use tokio::time::Instant;

use crate::remote::Remote;
use crate::{Happening, retry};

/// One attempt at one endpoint. Dropping it unfinished is what cancelling looks like.
pub(crate) struct Flight {
    remote: Arc<Remote>,
    clock: Clock,
    /// It finds out whether an ejected endpoint is well again.
    probe: bool,
    /// Past it, being given up is the endpoint's doing.
    deadline: Option<Instant>,
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
    pub(crate) fn begin(remote: &Arc<Remote>, probe: bool, deadline: Option<Instant>) -> Self {
        remote.backend().begin();
        Self { remote: Arc::clone(remote), clock: Clock::Waiting, probe, deadline }
    }

    pub(crate) fn remote(&self) -> &Arc<Remote> {
        &self.remote
    }

    /// The request goes out.
    pub(crate) fn send(&mut self) {
        self.clock = Clock::Running(Instant::now());
    }

    /// An answer is there, or begins, or, after it has begun, ends. Gives back how long it took.
    pub(crate) fn answer<T>(&mut self, outcome: &Result<T, Error>) -> Option<Duration> {
        let took = match self.clock {
            Clock::Waiting => return None,
            Clock::Running(sent) => Some(sent),
            Clock::Answered => None,
        };
        self.clock = Clock::Answered;
        let now = Instant::now();
        let took = took.map(|sent| now.duration_since(sent));
        match outcome.as_ref().map_or_else(judge, |_| Outcome::Success) {
            // That a stream ends well was learnt when it began; how long it lived says nothing.
            Outcome::Success if took.is_none() => {}
            outcome => self.learn(now, took, outcome),
        }
        took
    }

    fn learn(&mut self, now: Instant, took: Option<Duration>, outcome: Outcome) {
        let backend = self.remote.backend();
        let probe = std::mem::take(&mut self.probe);
        let change = backend.learn(self.remote.since_origin(now), took, outcome, probe);
        if let Some(change) = change {
            announce(&self.remote, change);
        }
    }
}

/// What an error says of the endpoint.
fn judge(error: &Error) -> Outcome {
    if error.is_unsent() {
        // It says goodbye, which is no failure.
        return Outcome::Neutral;
    }
    if error.shed_reason() == Some(Shed::Rate) {
        // A limit of this caller's, and perhaps the same everywhere.
        return Outcome::Neutral;
    }
    match (error.code(), error.retry_after()) {
        // Somebody further down is too busy, and was not asked again by whom this endpoint asked.
        (Code::Unavailable | Code::ResourceExhausted, Some(_)) if retry::is_marked(error) => Outcome::Neutral,
        (Code::Unavailable | Code::ResourceExhausted, after @ Some(_)) => Outcome::Rejected { after },
        // Perhaps a quota of this caller alone.
        (Code::ResourceExhausted, None) => Outcome::Neutral,
        (code, _) if code.is_server_fault() => Outcome::Failure,
        _ => Outcome::Success,
    }
}

/// Tells people who gets calls now and who does not.
pub(crate) fn announce(remote: &Remote, change: Change) {
    let (backend, endpoint) = (remote.backend(), remote.endpoint());
    remote.happened(match change {
        Change::Ejected => Happening::Ejection,
        Change::Returned => Happening::Return,
    });
    match (change, backend.ejected()) {
        (Change::Ejected, Some(why)) => {
            let (reason, probe) = (&why.reason, why.probe_at.saturating_sub(why.since));
            tracing::warn!(instance = %backend.id(), %endpoint, %reason, ?probe, "endpoint ejected");
        }
        (Change::Ejected, None) => {}
        (Change::Returned, _) => tracing::info!(instance = %backend.id(), %endpoint, "endpoint is back in"),
    }
}

impl Drop for Flight {
    fn drop(&mut self) {
        let now = Instant::now();
        match self.clock {
            Clock::Running(sent) => {
                let took = now.duration_since(sent);
                if self.deadline.is_some_and(|deadline| deadline <= now) {
                    // Whoever enforces the deadline does so by dropping the call.
                    self.learn(now, Some(took), Outcome::Failure);
                } else {
                    let at = self.remote.since_origin(now);
                    self.remote.backend().abandoned(at, took, self.probe);
                }
            }
            Clock::Waiting => self.remote.backend().unused(self.remote.since_origin(now), self.probe),
            Clock::Answered => {}
        }
        self.remote.backend().end();
    }
}
