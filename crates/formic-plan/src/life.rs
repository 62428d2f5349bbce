//! The life of one instance, and every rule about what follows its end.
//!
//! The states change only by the methods here, so that the executor need not know the rules and the
//! planner need not remember events.

use std::fmt;
use std::time::Duration;

use formic_spec::{HumanDuration, Restart, RestartPolicy, Revision};
use serde::{Deserialize, Serialize};

use crate::backoff::{Along, History};
use crate::set::Template;
use crate::state::{Service, Time};

/// The name of one instance, unique for ever; the executor makes it up.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct InstanceId(String);

/// One life of a process, in one slot of a service.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Instance {
    /// Which.
    pub id: InstanceId,
    /// Of which service.
    pub service: String,
    /// In which of its slots.
    pub slot: u32,
    /// The revision it runs.
    pub revision: Revision,
    /// What of the revision needs a new process when it changes; without it, all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub process: Option<Revision>,
    /// The number of the rollout that started it; 0 where there are no rollouts.
    #[serde(default)]
    pub rollout: u64,
    /// When it was started.
    #[serde(default)]
    pub started: Time,
    /// What it depends on, as of its start: what it must be stopped before.
    pub depends_on: Vec<String>,
    /// How long it may take to stop, as of its start.
    pub grace: HumanDuration,
    /// What it is doing.
    pub state: State,
    /// Since when it has been ready, with or without breaks.
    pub ready_since: Option<Time>,
    /// Why its probe fails, while it does: for people, no rule reads it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failing: Option<String>,
    /// What its slot remembers.
    pub history: History,
    /// Its main process has ended, and what that left behind is being ended. Not written down: who takes over is told
    /// anew.
    #[serde(skip)]
    pub ending: bool,
}

/// What an instance is doing. The first five are live: there may be a process.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "snake_case")]
#[non_exhaustive]
pub enum State {
    /// Started, not yet ready.
    Starting {
        /// When it was started.
        since: Time,
    },
    /// Ready.
    Ready {
        /// When it last became so.
        since: Time,
    },
    /// Was ready and now does not answer its probe.
    Unready {
        /// When it stopped answering.
        since: Time,
    },
    /// Told to stop.
    Stopping {
        /// When it is killed.
        deadline: Time,
        /// Why.
        cause: StopCause,
    },
    /// It may be running, and nobody can prove it or end it. Nothing is done about it, and its place stays
    /// taken, until somebody has looked.
    Quarantined {
        /// Since when.
        since: Time,
        /// Why nobody can say.
        reason: String,
    },
    /// Gone, and started again at `until`.
    Backoff {
        /// How it ended.
        exit: Exit,
        /// When the next may start.
        until: Time,
    },
    /// Gone for good.
    Exited {
        /// How it ended.
        exit: Exit,
        /// Why it is not started again.
        end: End,
    },
}

/// Why an instance is stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum StopCause {
    /// Nothing at all is wanted any more.
    ShutDown,
    /// Its service is not wanted any more.
    Removed,
    /// Fewer instances are wanted.
    ScaledDown,
    /// Another revision is wanted.
    Replaced,
    /// It did not get ready in time. Counts as a failure.
    NotReady,
    /// Its slot holds another live instance.
    Duplicate,
    /// It is a job, and did not come to its end in time. A failure, and not tried again.
    Overrun,
    /// A service that it depends on was restarted, and its dependants are to be restarted after it.
    Dependency,
    /// Somebody asked for it; the planner never does.
    Requested,
}

/// The end of an instance.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exit {
    /// When.
    pub at: Time,
    /// How.
    pub outcome: Outcome,
    /// How long it had been ready.
    pub ready_for: Duration,
    /// Whether it was stopped because it did not get ready in time.
    pub overdue: bool,
    /// Whether it was stopped because it did not come to its end in time.
    #[serde(default)]
    pub overrun: bool,
    /// Why its probe failed, if that is what it was stopped for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub probe: Option<String>,
}

/// How a process ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Outcome {
    /// It exited with a code.
    Code(i32),
    /// A signal ended it.
    Signal(i32),
    /// It could not be started, and why.
    NotStarted(String),
    /// It could not be started for want of something that is nobody's own (descriptors, memory, room on the disk), and
    /// why. Nothing of it ran, and that says nothing of its revision.
    Withheld(String),
    /// It is gone, and nobody saw how.
    Unknown,
}

/// Why an instance is not started again as it was.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum End {
    /// It was stopped on purpose. Its slot is free for a new start.
    Stopped,
    /// It succeeded, and its policy restarts after failures only, or never.
    Completed,
    /// It failed, and its policy or its exit code says that it is not to be restarted.
    Failed,
}

// === impl InstanceId ===

impl InstanceId {
    /// The text of it.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl From<&str> for InstanceId {
    fn from(id: &str) -> Self {
        Self(id.into())
    }
}

impl From<String> for InstanceId {
    fn from(id: String) -> Self {
        Self(id)
    }
}

impl fmt::Display for InstanceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

// === impl Instance ===

impl Instance {
    /// A new instance in a slot. `previous` is the dead one whose place it takes.
    #[must_use]
    pub fn begin(id: InstanceId, service: &Service, slot: u32, previous: Option<&Self>, now: Time) -> Self {
        let template = service.at(slot).unwrap_or_else(|| service.template());
        let history = match previous {
            // What never ran is not restarted.
            Some(previous) if previous.is_restarted_by(&template) && previous.is_withheld() => {
                previous.history.clone()
            }
            Some(previous) if previous.is_restarted_by(&template) => previous.history.again(),
            Some(previous) => {
                let along = previous.history.along.clone().filter(|along| along.at >= previous.started);
                History { along, ..previous.history.anew() }
            }
            None => History::default(),
        };
        Self {
            id,
            service: service.name.clone(),
            slot,
            revision: template.revision.clone(),
            process: Some(template.process.clone()).filter(|process| process != template.revision),
            rollout: template.rollout,
            started: now,
            depends_on: template.depends_on.to_vec(),
            grace: template.grace,
            state: State::Starting { since: now },
            ready_since: None,
            failing: None,
            history,
            ending: false,
        }
    }

    /// Its probe succeeds. Does nothing to one that is ready already, stopping, about to be gone or
    /// gone.
    pub fn ready(&mut self, now: Time) {
        if matches!(self.state, State::Starting { .. } | State::Unready { .. }) && !self.ending {
            self.state = State::Ready { since: now };
            self.failing = None;
            self.ready_since.get_or_insert(now);
            self.history.was_ready = true;
        }
    }

    /// Its probe fails. Does nothing unless it was ready.
    pub fn unready(&mut self, now: Time) {
        if matches!(self.state, State::Ready { .. }) {
            self.state = State::Unready { since: now };
        }
    }

    /// Its probe fails for this reason. Says whether that is news; nothing is, of one that is ready, stopping or about to
    /// be gone.
    pub fn failing(&mut self, why: String) -> bool {
        let asked = matches!(self.state, State::Starting { .. } | State::Unready { .. }) && !self.ending;
        let news = asked && self.failing.as_ref() != Some(&why);
        if news {
            self.failing = Some(why);
        }
        news
    }

    /// Its main process has ended: nothing answers any more, whatever a probe says. It is gone when all of its
    /// processes are.
    pub fn main_ended(&mut self, now: Time) {
        if self.is_live() && !self.is_stopping() {
            self.unready(now);
            self.ending = true;
        }
    }

    /// Its revision was changed in place, to what `service` says of its slot.
    pub fn adjusted(&mut self, service: &Service) {
        let Some(template) = service.at(self.slot).filter(|template| template.process == self.process())
        else {
            return;
        };
        self.process = Some(template.process.clone()).filter(|process| process != template.revision);
        self.revision = template.revision.clone();
        self.depends_on = template.depends_on.to_vec();
        self.grace = template.grace;
    }

    /// It is told to stop. Does nothing when it was told before: the first deadline stands.
    pub fn stopping(&mut self, cause: StopCause, now: Time) {
        if self.is_live() && !self.is_stopping() {
            self.state = State::Stopping { deadline: now + self.grace.get(), cause };
        }
    }

    /// It is stopped for the end of what it depends on.
    pub fn taken_along(&mut self, with: String, now: Time) {
        if self.is_live() && !self.is_stopping() {
            self.history.along = Some(Along { at: now, with });
        }
    }

    /// Nobody can say whether it runs, or end it. Does nothing to one that is gone.
    pub fn quarantined(&mut self, reason: impl Into<String>, now: Time) {
        if self.is_live() {
            self.state = State::Quarantined { since: now, reason: reason.into() };
        }
    }

    /// Somebody gave it up, or the machine that it ran on was started anew: its place is free, and that is
    /// nobody's failure. Does nothing to one that is gone.
    pub fn given_up(&mut self, now: Time) {
        if self.is_live() {
            let exit = Exit {
                at: now,
                outcome: Outcome::Unknown,
                ready_for: self.ready_since.map_or(Duration::ZERO, |since| now.since(since)),
                overdue: false,
                overrun: false,
                probe: None,
            };
            self.state = State::Exited { exit, end: End::Stopped };
        }
    }

    /// The machine was started anew since it was written down: nothing of it runs, and every moment in it is of
    /// another clock.
    pub fn restart_clock(&mut self, now: Time) {
        self.given_up(now);
        self.started = now;
        self.ready_since = None;
        self.failing = None;
        self.history.unready_exits.clear();
        self.history.last_exit = None;
        self.history.along = None;
        match &mut self.state {
            State::Backoff { exit, until } => (exit.at, *until) = (now, now),
            State::Exited { exit, .. } => exit.at = now,
            _ => {}
        }
    }

    /// It is gone with all its processes. `rule` is the restart rule of its service. Does nothing to
    /// one that is gone already.
    pub fn exited(&mut self, outcome: Outcome, rule: &Restart, random_unit: f64, now: Time) {
        self.ending = false;
        let cause = match self.state {
            State::Stopping { cause, .. } => Some(cause),
            State::Backoff { .. } | State::Exited { .. } => return,
            _ => None,
        };
        let failing = self.failing.take();
        if cause.is_none() && matches!(outcome, Outcome::Withheld(_)) {
            let until = self.history.withheld(now, rule, random_unit);
            let ready_for = Duration::ZERO;
            let exit = Exit { at: now, outcome, ready_for, overdue: false, overrun: false, probe: None };
            self.state = State::Backoff { until, exit };
            return;
        }
        let overdue = cause == Some(StopCause::NotReady);
        let overrun = cause == Some(StopCause::Overrun);
        let ready_for = self.ready_since.map_or(Duration::ZERO, |since| now.since(since));
        let code = if let Outcome::Code(code) = outcome { Some(code) } else { None };
        let success = !overdue && code.is_some_and(|code| rule.success_exit_codes.contains(&code));
        let hopeless = code.is_some_and(|code| rule.no_restart_exit_codes.contains(&code));
        let tried = rule.retries.is_some_and(|retries| self.history.failures >= retries);
        let end = match rule.policy {
            _ if overrun => Some(End::Failed),
            _ if cause.is_some() && !overdue => Some(End::Stopped),
            _ if hopeless || (tried && !success) => Some(End::Failed),
            RestartPolicy::Always => None,
            RestartPolicy::OnFailure => success.then_some(End::Completed),
            RestartPolicy::Never => Some(if success { End::Completed } else { End::Failed }),
        };
        // One that was stopped on purpose, or has done its work, has not crashed.
        if !matches!(end, Some(End::Stopped | End::Completed)) {
            self.history.ended(now, ready_for);
        }
        let exit = Exit { at: now, outcome, ready_for, overdue, overrun, probe: failing.filter(|_| overdue) };
        self.state = match end {
            Some(end) => State::Exited { exit, end },
            None => State::Backoff { until: self.history.exit(now, ready_for, rule, random_unit), exit },
        };
    }

    /// Whether it never ran, for want of something that is nobody's own.
    fn is_withheld(&self) -> bool {
        self.exit().is_some_and(|exit| matches!(exit.outcome, Outcome::Withheld(_)))
    }

    /// Whether there may be a process.
    #[must_use]
    pub const fn is_live(&self) -> bool {
        !matches!(self.state, State::Backoff { .. } | State::Exited { .. })
    }

    /// Whether it answers calls.
    #[must_use]
    pub const fn is_ready(&self) -> bool {
        matches!(self.state, State::Ready { .. })
    }

    /// How it ended, if it did.
    #[must_use]
    pub const fn exit(&self) -> Option<&Exit> {
        match &self.state {
            State::Backoff { exit, .. } | State::Exited { exit, .. } => Some(exit),
            _ => None,
        }
    }

    /// What of its revision needs a new process when it changes.
    #[must_use]
    pub fn process(&self) -> &Revision {
        self.process.as_ref().unwrap_or(&self.revision)
    }

    /// Whether it ran to its end, and that was a success.
    #[must_use]
    pub const fn is_completed(&self) -> bool {
        matches!(self.state, State::Exited { end: End::Completed, .. })
    }

    /// Whether it was told to stop and is not gone yet, or may be there without being of use.
    pub(crate) const fn is_stopping(&self) -> bool {
        matches!(self.state, State::Stopping { .. } | State::Quarantined { .. })
    }

    /// Whether it is stopped for what it has not done, or for a restart: its place is not given up.
    pub(crate) const fn is_stopped_to_return(&self) -> bool {
        use StopCause::{Dependency, NotReady, Overrun};
        matches!(self.state, State::Stopping { cause: NotReady | Dependency | Overrun, .. })
    }

    /// Whether nobody can say if it runs.
    #[must_use]
    pub const fn is_quarantined(&self) -> bool {
        matches!(self.state, State::Quarantined { .. })
    }

    /// Whether a new instance of this is the same one again, and not a new one in its place.
    pub(crate) fn is_restarted_by(&self, template: &Template<'_>) -> bool {
        self.process() == template.process
            && self.rollout == template.rollout
            && !matches!(self.state, State::Exited { end: End::Stopped, .. })
    }

    /// Orders what a slot may hold: live before dead, then by what is worth most, then the later exit.
    pub(crate) fn recency(&self) -> (u8, Option<Time>, std::cmp::Reverse<&InstanceId>) {
        let rank = match self.state {
            State::Ready { .. } => 4,
            State::Unready { .. } => 3,
            State::Starting { .. } => 2,
            State::Stopping { .. } | State::Quarantined { .. } => 1,
            State::Backoff { .. } | State::Exited { .. } => 0,
        };
        (rank, self.exit().map(|exit| exit.at), std::cmp::Reverse(&self.id))
    }
}

// === impl Display ===

impl fmt::Display for State {
    /// One word, as a table shows it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Starting { .. } => "starting",
            Self::Ready { .. } => "ready",
            Self::Unready { .. } => "unready",
            Self::Stopping { .. } => "stopping",
            Self::Quarantined { .. } => "quarantined",
            Self::Backoff { .. } => "backoff",
            Self::Exited { end: End::Stopped, .. } => "stopped",
            Self::Exited { end: End::Completed, .. } => "completed",
            Self::Exited { end: End::Failed, .. } => "failed",
        })
    }
}

impl fmt::Display for StopCause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::ShutDown => "shut down",
            Self::Removed => "removed",
            Self::ScaledDown => "scaled down",
            Self::Replaced => "replaced",
            Self::NotReady => "not ready in time",
            Self::Duplicate => "its slot has another",
            Self::Overrun => "took too long",
            Self::Dependency => "what it depends on was restarted",
            Self::Requested => "as requested",
        })
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Code(code) => write!(f, "exited with code {code}"),
            Self::Signal(signal) => write!(f, "was ended by signal {signal}"),
            Self::NotStarted(why) => write!(f, "could not be started: {why}"),
            Self::Withheld(why) => write!(f, "could not be started for now: {why}"),
            Self::Unknown => f.write_str("ended, nobody saw how"),
        }
    }
}

impl fmt::Display for Exit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self { overdue: true, probe: Some(why), .. } => write!(f, "was not ready in time ({why})"),
            Self { overdue: true, .. } => f.write_str("was not ready in time"),
            Self { overrun: true, .. } => f.write_str("took too long"),
            _ => self.outcome.fmt(f),
        }
    }
}
