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
    Down(oneshot::Sender<Result<Stopped, Refused>>, Result<Stopped, Refused>),
    Stopped(oneshot::Sender<Stopped>, Stopped),
}

// === impl Answer ===

impl Answer {
    /// The same where the turn that gives it could not be written down: what a crash would forget is told as that, and so
    /// is what was in force before and is not on the disk yet (`is_kept`). A release takes a record away, which needs no
    /// room: to the next engine, which finds none, the instance is gone as well.
    pub(crate) fn unsaved(self, why: &str, is_kept: bool) -> Self {
        let refused = || Refused::Unsaved(why.to_owned());
        match self {
            Self::Changed(to, Ok(_)) if !is_kept => Self::Changed(to, Err(refused())),
            Self::Restarted(to, Ok(_)) if !is_kept => Self::Restarted(to, Err(refused())),
            Self::Paused(to, Ok(_)) if !is_kept => Self::Paused(to, Err(refused())),
            Self::Down(to, Ok(_)) if !is_kept => Self::Down(to, Err(refused())),
            // The timetable has it, and not what is wanted.
            Self::Ran(to, result) if result.is_ok() => Self::Ran(to, Box::new(Err(refused()))),
            other => other,
        }
    }

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
            Self::Down(to, result) => drop(to.send(result)),
            Self::Stopped(to, stopped) => drop(to.send(stopped)),
        }
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]

    use super::*;

    /// What is heard of an answer in a turn that could not be written down.
    fn heard<T>(is_kept: bool, answer: impl FnOnce(oneshot::Sender<T>) -> Answer) -> T {
        let (to, mut heard) = oneshot::channel();
        answer(to).unsaved("no space", is_kept).send();
        heard.try_recv().unwrap()
    }

    #[test]
    fn what_is_not_on_the_disk_is_not_told_as_done() {
        let applied = |changed| Applied { index: 2, changed };
        let refused = || Refused::Unsaved("no space".into());
        for changed in [true, false] {
            // Whether it is new, or was asked for before and could not be written down then.
            assert_eq!(heard(false, |to| Answer::Changed(to, Ok(applied(changed)))), Err(refused()));
            assert_eq!(heard(false, |to| Answer::Paused(to, Ok(changed))), Err(refused()));
        }
        let restarted = Restarted { index: 2, instances: 1 };
        assert_eq!(heard(false, |to| Answer::Restarted(to, Ok(restarted))), Err(refused()));
        assert_eq!(heard(false, |to| Answer::Down(to, Ok(Stopped { killed: 0 }))), Err(refused()));
        // Something else was to be written.
        assert_eq!(heard(true, |to| Answer::Changed(to, Ok(applied(false)))), Ok(applied(false)));
        assert_eq!(heard(true, |to| Answer::Paused(to, Ok(false))), Ok(false));
        assert_eq!(heard(true, |to| Answer::Down(to, Ok(Stopped { killed: 1 }))), Ok(Stopped { killed: 1 }));
        // What was refused is so for its own reason, and a record that is gone needs no room.
        let unknown = || Refused::Unknown("nobody".into());
        assert_eq!(heard(false, |to| Answer::Paused(to, Err(unknown()))), Err(unknown()));
        assert!(heard(false, |to| Answer::Released(to, true)));
    }
}
