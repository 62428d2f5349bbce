//! A call on its way to an endpoint, as the balancer sees it: counted while it lasts, learnt from when it
//! ends, however it ends.
//!
//! An answer that streams is judged once: at its first message or its end, whichever comes first. Over some transports it
//! begins with its headers whatever becomes of it, so that one that fails at once would count as a success and as a
//! failure, and a probe would pass by it. gRPC's outlier detection judges a stream when it ends, and so never one that
//! lives for ever. Here the first message is enough; a stream that breaks off after it
//! counts as a failure in the place of the success. How fast the endpoint is is learnt when the stream begins: when there
//! is something to say is no matter of speed, and what its caller takes over a request that streams is none either. One that
//! has not begun when the time for that is over has not been answered. And one that stays open in silence is taken for good after a while: for
//! probes and suspects, who are waited for, as soon as that while is over, for others when it ends.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use formic_balance::{Change, Outcome};
use formic_core::{Code, Error, Shed};
use tokio::task::AbortHandle;
use tokio::time::{Instant, sleep};

use crate::outgoing::Outgoing;
use crate::progress::Progress;
use crate::remote::Remote;
use crate::{Happening, retry};

/// One attempt at one endpoint. Dropping it unfinished is what cancelling looks like.
pub(crate) struct Flight {
    remote: Arc<Remote>,
    clock: Clock,
    /// It finds out whether an ejected endpoint is well again.
    probe: bool,
    silence: Option<Box<Silence>>,
    /// Past it, being given up is the endpoint's doing.
    deadline: Option<Instant>,
    /// That is when an answer that streams must have begun, which may then go on for ever.
    begins_only: bool,
    /// How far the request has come, if it streams: until it is whole the endpoint may be waiting for its caller.
    request: Option<Arc<Progress>>,
    answers_stream: bool,
}

/// What there is to learn from a flight.
#[derive(Clone, Copy)]
enum Clock {
    /// It is not connected yet, and how long that takes says nothing of how fast the endpoint answers.
    Waiting,
    Running(Instant),
    /// An answer that streams began then, after so long. How fast the endpoint is it has shown; whether it is well it
    /// has not.
    Begun(Instant, Duration),
    /// The endpoint has shown both, then.
    Answered(Instant),
}

/// For so long an open stream may say nothing before that is taken for a good sign. Who watches something for an hour
/// without news is served well, and neither a probe nor a suspect can wait for the news.
const QUIET: Duration = Duration::from_secs(1);

/// A server ends what nobody waits for a moment before its deadline, as far as ways and clocks allow.
const AHEAD: Duration = Duration::from_millis(20);

/// Speaks the verdict on a stream that goes on in silence, in case the flight does not do so before.
struct Silence {
    judged: Arc<AtomicBool>,
    task: AbortHandle,
}

impl Flight {
    /// An attempt at a call whose answer must begin until then.
    pub(crate) fn begin(remote: &Arc<Remote>, probe: bool, call: &Outgoing, until: Option<Instant>) -> Self {
        remote.backend().begin();
        Self {
            remote: Arc::clone(remote),
            clock: Clock::Waiting,
            probe,
            silence: None,
            deadline: call.deadline().or(until),
            begins_only: call.deadline().is_none(),
            request: call.progress().cloned(),
            answers_stream: call.method.kind.server_streams(),
        }
    }

    pub(crate) fn remote(&self) -> &Arc<Remote> {
        &self.remote
    }

    /// The request goes out.
    pub(crate) fn send(&mut self, now: Instant) {
        self.clock = Clock::Running(now);
    }

    /// When the answer came, or began to.
    pub(crate) fn answered(&self) -> Option<Instant> {
        match self.clock {
            Clock::Answered(at) | Clock::Begun(at, _) => Some(at),
            Clock::Waiting | Clock::Running(_) => None,
        }
    }

    /// An answer that streams begins.
    pub(crate) fn begun(&mut self) {
        let Clock::Running(sent) = self.clock else { return };
        let now = Instant::now();
        let took = self.took(sent, now);
        self.clock = Clock::Begun(now, took);
        if self.begins_only {
            self.deadline = None;
        }
        let backend = self.remote.backend();
        backend.begun(self.remote.since_origin(now), took);
        // Of the others the verdict can wait until there is something to go by.
        if self.probe || backend.is_suspect() {
            self.silence = Some(Box::new(Silence::begin(&self.remote, took, self.probe)));
        }
    }

    /// A message of an answer that streams is there.
    #[inline]
    pub(crate) fn spoke(&mut self) {
        if let Clock::Begun(..) = self.clock {
            self.answer(&Ok(()));
        }
    }

    /// An answer is there, or, after it has begun, ends.
    pub(crate) fn answer<T>(&mut self, outcome: &Result<T, Error>) {
        let now = Instant::now();
        let at = self.remote.since_origin(now);
        let backend = self.remote.backend();
        let outcome = match outcome {
            Ok(_) => Outcome::Success,
            // Its caller has broken it off, and with what error is the caller's choice.
            Err(_) if self.request.as_ref().is_some_and(|request| request.has_failed()) => Outcome::Neutral,
            Err(error) if self.is_own_deadline(error, now) => match self.clock {
                // A stream that went on until its own deadline, after a message or long enough in silence. Which of both
                // ends says so first is chance, and it is no failure of either.
                Clock::Answered(_) => Outcome::Success,
                Clock::Begun(began, _) if now.duration_since(began) >= QUIET => Outcome::Success,
                // One that began in time and had not much of it to say something in.
                Clock::Begun(..) => return self.give_up(now),
                Clock::Running(sent) if self.is_hasty(sent, now) => return self.give_up(now),
                Clock::Waiting | Clock::Running(_) => judge(error),
            },
            // A server gives a call its own time, and it was over before the caller had said all.
            Err(error) if error.code() == Code::DeadlineExceeded && self.waits_for_caller() => {
                return self.give_up(now);
            }
            Err(error) if error.is_lost() && !self.is_news(now) => {
                backend.lost_too(at, self.has_succeeded());
                Outcome::Neutral
            }
            Err(error) => judge(error),
        };
        let change = match std::mem::replace(&mut self.clock, Clock::Answered(now)) {
            Clock::Waiting => {
                self.clock = Clock::Waiting;
                return;
            }
            Clock::Running(sent) => {
                let took = self.took(sent, now);
                backend.learn(at, Some(took), outcome, std::mem::take(&mut self.probe))
            }
            Clock::Begun(_, took) if self.may_judge() => {
                let probe = std::mem::take(&mut self.probe);
                self.remote.backend().judge(at, Some(took), outcome, probe)
            }
            // It counts as a success already. That it ends well is no news; how long it lived says nothing.
            Clock::Begun(..) | Clock::Answered(_) => match outcome {
                Outcome::Success => None,
                Outcome::Failure => self.remote.backend().revoke(at),
                outcome => self.remote.backend().judge(at, None, outcome, false),
            },
        };
        if let Some(change) = change {
            announce(&self.remote, change);
        }
    }

    /// Whether the call has ended because its time was over.
    fn is_own_deadline(&self, error: &Error, now: Instant) -> bool {
        error.code() == Code::DeadlineExceeded
            && self.deadline.is_some_and(|deadline| deadline.saturating_duration_since(now) < AHEAD)
    }

    /// Whether the endpoint has said nothing and may have waited for the rest of the request.
    fn waits_for_caller(&self) -> bool {
        let has_said_nothing = matches!(self.clock, Clock::Running(_) | Clock::Begun(..));
        has_said_nothing && self.request.as_ref().is_some_and(|request| !request.has_ended())
    }

    /// Whether the caller gave less time than calls take, or may have taken it itself, so that it says nothing of the endpoint
    /// that it is over.
    fn is_hasty(&self, sent: Instant, now: Instant) -> bool {
        let (at, took) = (self.remote.since_origin(now), self.waited(sent, now));
        let backend = self.remote.backend();
        // What this client gives by itself is nobody's haste, unless even that is less than calls take.
        let is_patient = || took >= self.remote.patience() && backend.is_due(at, took);
        self.is_left_little(sent, now, took) || !(backend.is_overdue(at, took) || is_patient())
    }

    /// Whether a caller has used up the time of a call over a request that streams, and left the endpoint so much for all of it. What
    /// calls take is then not enough to go by: those may have been much smaller.
    fn is_left_little(&self, sent: Instant, now: Instant, left: Duration) -> bool {
        self.request.is_some()
            && left < QUIET.min(self.remote.patience())
            && left < now.saturating_duration_since(sent) / 2
    }

    /// Whether an answer that streams had nearly all of its time to begin in, and more than answers take. Whoever is above gives up
    /// first then, for his clock began before this one did.
    fn is_nearly_late(&self, now: Instant) -> bool {
        let Clock::Running(sent) = self.clock else { return false };
        let slack = self.remote.patience() / 4;
        self.begins_only
            && self.deadline.is_some_and(|until| until.saturating_duration_since(now) <= slack)
            && self.remote.backend().is_overdue(self.remote.since_origin(now), self.waited(sent, now))
    }

    /// How long the endpoint takes: not what its caller has taken meanwhile over a request that streams.
    fn took(&self, sent: Instant, now: Instant) -> Duration {
        let since = self.request.as_ref().map_or(sent, |request| request.since().max(sent));
        now.saturating_duration_since(since)
    }

    /// How long the endpoint has kept its caller waiting in vain, as far as that is sure.
    fn waited(&self, sent: Instant, now: Instant) -> Duration {
        let is_whole = self.request.as_ref().is_none_or(|request| request.has_ended());
        if is_whole { self.took(sent, now) } else { Duration::ZERO }
    }

    /// What an answer would have taken at least: by that others are preferred. Nobody is ejected for it, so it need not be sure
    /// that the endpoint is to blame, and one that hangs must not stay as fast as it was.
    fn reached(&self, sent: Instant, now: Instant) -> Duration {
        match &self.request {
            Some(request) if request.excuses(self.answers_stream) => Duration::ZERO,
            _ => self.took(sent, now),
        }
    }

    /// Whether that the connection was lost under this call has not been counted for another one.
    fn is_news(&self, now: Instant) -> bool {
        match self.clock {
            Clock::Waiting => true,
            // A stream may be older than its last sign of life, and it was on this connection then.
            Clock::Running(since) | Clock::Begun(since, _) | Clock::Answered(since) => {
                self.remote.note_lost(since, now)
            }
        }
    }

    /// Whether it counts as a success already.
    fn has_succeeded(&self) -> bool {
        let judged = || self.silence.as_ref().is_some_and(|silence| silence.judged.load(Ordering::Acquire));
        matches!(self.clock, Clock::Answered(_)) || judged()
    }

    /// Ends as if its caller had lost patience, which says nothing of the endpoint but that it takes so long. A probe has
    /// told nothing, and is waited for again: the endpoint may well hang.
    fn give_up(&mut self, now: Instant) {
        let (at, probe) = (self.remote.since_origin(now), std::mem::take(&mut self.probe));
        let judged = match std::mem::replace(&mut self.clock, Clock::Answered(now)) {
            Clock::Running(sent) => {
                self.remote.backend().abandoned(at, self.reached(sent, now), false);
                false
            }
            // Somebody may have judged it meanwhile, and so used the probe.
            _ => !self.may_judge(),
        };
        if probe && !judged {
            self.remote.backend().judge(at, None, Outcome::Neutral, true);
        }
    }

    /// Whether nobody has spoken the verdict on a stream yet; nobody else will from now on.
    fn may_judge(&mut self) -> bool {
        let may = self.silence.take().is_none_or(|silence| !silence.judged.swap(true, Ordering::AcqRel));
        // Whoever judged has used it.
        self.probe &= may;
        may
    }
}

// === impl Silence ===

impl Silence {
    fn begin(remote: &Arc<Remote>, took: Duration, probe: bool) -> Self {
        let judged = Arc::new(AtomicBool::new(false));
        let (its, remote_its) = (Arc::clone(&judged), Arc::clone(remote));
        let task = remote.spawn(async move {
            sleep(QUIET).await;
            if its.swap(true, Ordering::AcqRel) {
                return;
            }
            let (remote, now) = (remote_its, Instant::now());
            let change =
                remote.backend().judge(remote.since_origin(now), Some(took), Outcome::Success, probe);
            change.into_iter().for_each(|change| announce(&remote, change));
        });
        Self { judged, task }
    }
}

impl Drop for Silence {
    fn drop(&mut self) {
        self.task.abort();
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
        let clock = self.clock;
        if let Clock::Answered(_) = clock {
            return self.remote.backend().end();
        }
        let now = Instant::now();
        let at = self.remote.since_origin(now);
        let is_late = self.deadline.is_some_and(|deadline| deadline <= now) || self.is_nearly_late(now);
        let hasty = || match clock {
            Clock::Running(sent) => self.is_hasty(sent, now),
            Clock::Begun(began, _) => now.duration_since(began) < QUIET,
            Clock::Waiting | Clock::Answered(_) => false,
        };
        if is_late && hasty() {
            self.give_up(now);
            return self.remote.backend().end();
        }
        let backend = self.remote.backend();
        let change = match clock {
            Clock::Waiting => {
                backend.unused(at, self.probe);
                None
            }
            // Whoever enforces the deadline does so by dropping the call.
            Clock::Running(sent) if is_late => {
                backend.learn(at, Some(self.took(sent, now)), Outcome::Failure, self.probe)
            }
            Clock::Running(sent) => {
                backend.abandoned(at, self.reached(sent, now), self.probe);
                None
            }
            Clock::Begun(began, took) if self.may_judge() => {
                let backend = self.remote.backend();
                if now.duration_since(began) >= QUIET {
                    backend.judge(at, Some(took), Outcome::Success, self.probe)
                } else {
                    // Its caller has lost interest before it could show anything.
                    backend.unused(at, self.probe);
                    None
                }
            }
            Clock::Begun(..) | Clock::Answered(_) => None,
        };
        if let Some(change) = change {
            announce(&self.remote, change);
        }
        self.remote.backend().end();
    }
}
