//! The effects: what decisions do to the world, as data. Carried out by [`executor`].

mod executor;

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;

use formic_core::ServiceName;
use formic_plan::{InstanceId, Run, Timetable};
use formic_spec::{Health, Port, Privileges, StopSignal};
use formic_supervise::{Beside, Launch, Limits};
use tokio::sync::oneshot;

pub(crate) use self::executor::{Executor, Listeners};
use super::cell::{Output, StopKind};
use super::{Applied, Generation, Preview, Refused, Restarted, Stopped};
use crate::journal::News;
use crate::secrets::Given;
use crate::sockets::Wanted;
use crate::start::Listen;

/// Something to be done.
#[derive(Debug)]
pub(crate) enum Effect {
    /// Start an instance.
    Spawn(Box<Spawn>),
    /// End an instance and all its processes, by the signal of its record if none is named. Harmless when it was
    /// done before.
    Stop { id: InstanceId, kind: StopKind, signal: Option<StopSignal> },
    /// Ask an instance until it is ready, and go on asking.
    Probe(Box<Probing>),
    /// Tell of the end of an instance that was taken over.
    Follow { id: InstanceId },
    /// Give up the record of an instance.
    Release { id: InstanceId },
    /// Remove the files of the secrets that an instance was given.
    TakeBack { id: InstanceId },
    /// Stop asking.
    StopProbing { id: InstanceId },
    /// Take an instance out of the registry.
    Deregister { id: InstanceId },
    /// Tell people, with the last of what the instance wrote.
    Tell { service: String, text: String, output: Output },
    /// Keep what was decided or what happened.
    Record(News),
    /// Hide these instances from those who call, and no others.
    Hide(BTreeSet<String>),
    /// Keep the public sockets of these addresses open, and no others.
    Listen(Wanted),
    /// Answer a command.
    Answer(Answer),
}

/// An instance that is to be started.
#[derive(Debug)]
pub(crate) struct Spawn {
    pub(crate) id: InstanceId,
    pub(crate) launch: Launch,
    pub(crate) limits: Limits,
    /// The port that it is to have for itself.
    pub(crate) port: Option<Port>,
    /// The sockets that it is handed.
    pub(crate) listen: Vec<Listen>,
    /// The folder of its data, made if it is not there.
    pub(crate) data: PathBuf,
    /// The secrets that it is given.
    pub(crate) secrets: BTreeMap<String, Given>,
    /// What it is sent when it is to end.
    pub(crate) stop_signal: StopSignal,
    /// As whom it runs.
    pub(crate) privileges: Privileges,
    /// What the next engine is to read beside its record.
    pub(crate) note: serde_json::Value,
}

/// An instance that is to be probed.
#[derive(Debug)]
pub(crate) struct Probing {
    pub(crate) id: InstanceId,
    pub(crate) service: ServiceName,
    pub(crate) version: String,
    pub(crate) health: Health,
    pub(crate) port: Option<u16>,
    /// What an `exec` probe runs.
    pub(crate) command: Option<Beside>,
    /// Where a `log` probe looks.
    pub(crate) output: Output,
    /// Whether it was ready when an engine before this one last heard of it.
    pub(crate) ready: bool,
}

/// The answer to a command, and to whom.
#[derive(Debug)]
pub(crate) enum Answer {
    Changed(oneshot::Sender<Result<Applied, Refused>>, Result<Applied, Refused>),
    Restarted(oneshot::Sender<Result<Restarted, Refused>>, Result<Restarted, Refused>),
    Paused(oneshot::Sender<Result<bool, Refused>>, Result<bool, Refused>),
    Previewed(oneshot::Sender<Preview>, Box<Preview>),
    History(oneshot::Sender<Vec<Arc<Generation>>>, Vec<Arc<Generation>>),
    Why(oneshot::Sender<Option<String>>, Option<String>),
    Ran(oneshot::Sender<Result<Run, Refused>>, Box<Result<Run, Refused>>),
    Runs(oneshot::Sender<Timetable>, Box<Timetable>),
    Released(oneshot::Sender<bool>, bool),
    Stopped(oneshot::Sender<Stopped>, Stopped),
}

// === impl Answer ===

impl Answer {
    /// Whoever asked may have gone.
    pub(crate) fn send(self) {
        match self {
            Self::Changed(to, result) => drop(to.send(result)),
            Self::Restarted(to, result) => drop(to.send(result)),
            Self::Paused(to, result) => drop(to.send(result)),
            Self::Previewed(to, preview) => drop(to.send(*preview)),
            Self::History(to, generations) => drop(to.send(generations)),
            Self::Why(to, text) => drop(to.send(text)),
            Self::Ran(to, result) => drop(to.send(*result)),
            Self::Runs(to, timetable) => drop(to.send(*timetable)),
            Self::Released(to, released) => drop(to.send(released)),
            Self::Stopped(to, stopped) => drop(to.send(stopped)),
        }
    }
}
