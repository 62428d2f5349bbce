//! What an engine can be asked, and what it answers.

use std::sync::Arc;

use formic_plan::{Change as Step, InstanceId, Plan, Run, Service, Timetable};
use formic_spec::Revision;
use formic_state::Outcome;
use serde_json::Value;
use tokio::sync::oneshot;

use crate::journal::Kind;

/// What the engine is asked to do.
#[derive(Debug)]
pub enum Command {
    /// Another state is wanted.
    Change(Change, oneshot::Sender<Result<Applied, Refused>>),
    /// Replace the instances of these services by new ones of the same revision, as an update does.
    Restart {
        /// Which services.
        services: Vec<String>,
        /// What led to it, and who asked, for the history and the events.
        cause: String,
        /// Who is told.
        answer: oneshot::Sender<Result<Restarted, Refused>>,
    },
    /// Let the rollout of a service stand still, or go on; says whether that changes anything.
    Pause {
        /// Which service.
        service: String,
        /// Go on.
        resume: bool,
        /// What led to it, and who asked.
        cause: String,
        /// Who is told.
        answer: oneshot::Sender<Result<bool, Refused>>,
    },
    /// Say what would be done if these services were wanted.
    Preview(Vec<Service>, oneshot::Sender<Preview>),
    /// The states that were wanted, oldest first; the last is the present one.
    History(oneshot::Sender<Vec<Arc<Generation>>>),
    /// Say why a service is as it is; nothing if there is none of the name.
    Why(String, oneshot::Sender<Option<String>>),
    /// Run a cron job now, beside its schedule; tells the run, which may have been left out.
    RunNow {
        /// Which job.
        service: String,
        /// What led to it, and who asked.
        cause: String,
        /// Who is told.
        answer: oneshot::Sender<Result<Run, Refused>>,
    },
    /// The cron jobs with their runs.
    Runs(oneshot::Sender<Timetable>),
    /// Want nothing any more, and go on: everything stops, dependants first. Answered when all of it is gone.
    Down {
        /// Kill instead of drain.
        now: bool,
        /// What led to it, for the history.
        cause: String,
        /// Told when all of it is gone.
        done: oneshot::Sender<Result<Stopped, Refused>>,
    },
    /// Give up an instance that is quarantined, and leave its processes alone; says whether there was one.
    Release {
        /// Which instance.
        id: InstanceId,
        /// What led to it, and who asked.
        cause: String,
        /// Who is told.
        answer: oneshot::Sender<bool>,
    },
    /// Note what somebody did that changes nothing which runs.
    Note {
        /// What it is about.
        kind: Kind,
        /// Which service; empty for the whole application.
        service: String,
        /// What was done, and by whom.
        text: String,
    },
    /// Stop everything, dependants first, and end.
    Stop {
        /// Kill instead of drain.
        now: bool,
        /// Told when all of it is gone.
        done: Option<oneshot::Sender<Stopped>>,
    },
}

/// A desired state, whole.
#[derive(Clone, Debug, PartialEq)]
pub struct Change {
    /// All services that are wanted.
    pub services: Vec<Service>,
    /// Comes back with the view and with the history; the engine does not read it.
    pub tag: Value,
    /// Index of the state that this one was made from; another present one refuses it.
    pub index: Option<u64>,
    /// What led to it, in a few words: `apply`, `scale order=5`.
    pub cause: String,
}

/// A change was taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Applied {
    /// Index of the desired state now.
    pub index: u64,
    /// False if it was so already.
    pub changed: bool,
}

/// A restart was taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Restarted {
    /// Index of the desired state now.
    pub index: u64,
    /// How many instances are replaced.
    pub instances: u32,
}

/// Why something is not done.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Refused {
    /// The change was made from another state than the present one.
    #[error("index {asked} is not the present one, which is {present}")]
    Stale {
        /// From which it was made.
        asked: u64,
        /// Which it is.
        present: u64,
    },
    /// Everything is about to stop.
    #[error("the application is stopping")]
    Stopping,
    /// It is in force, and a crash of the engine would forget it.
    #[error("it is in force and could not be written down, so that a crash would forget it: {0}")]
    Unsaved(String),
    /// It runs by its schedule.
    #[error("{0} is a cron job: it runs when it is due, and by `formic run {0}`")]
    CronJob(String),
    /// It was stopped, and nothing of it is to run.
    #[error("{0} is stopped: `formic start {0}` lets it run again")]
    StoppedJob(String),
    /// It was stopped, and has no instances.
    #[error("{0} is stopped; `formic start {0}` starts it")]
    StoppedService(String),
    /// It runs always, and not by a schedule.
    #[error("{0} is no cron job: only what has a `cron` can be run by hand")]
    NoCronJob(String),
    /// There is no such service.
    #[error("there is no service {0:?}")]
    Unknown(String),
}

/// What would be done.
#[derive(Clone, Debug)]
pub struct Preview {
    /// Index of the present desired state.
    pub index: u64,
    /// The present desired state.
    pub services: Vec<Service>,
    /// What the change means for each service.
    pub steps: Vec<(String, Step)>,
    /// What would be done at once, and what would wait.
    pub plan: Plan,
    /// The instances that there are.
    pub live: Vec<Slot>,
}

/// Where an instance is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Slot {
    /// Of which service.
    pub service: String,
    /// In which of its slots.
    pub slot: u32,
    /// Which instance.
    pub instance: InstanceId,
    /// What of its revision needs a new process when it changes.
    pub process: Revision,
}

/// A desired state that is or was.
#[derive(Clone, Debug, PartialEq)]
pub struct Generation {
    /// Its index.
    pub index: u64,
    /// Since when, in milliseconds since 1970.
    pub unix_ms: i64,
    /// What led to it.
    pub cause: String,
    /// The services.
    pub services: Vec<Service>,
    /// What came with it.
    pub tag: Arc<Value>,
    /// What became of it, once that is known.
    pub outcome: Option<Outcome>,
    /// Why that was no success, if it was none.
    pub why: String,
    /// The services that got new instances by it and are otherwise as they were.
    pub restarted: Vec<String>,
}

/// What came of a stop.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stopped {
    /// Instances that had to be killed.
    pub killed: u32,
}

/// The engine has more commands than it can take.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the engine is busy or has ended")]
pub struct Busy;
