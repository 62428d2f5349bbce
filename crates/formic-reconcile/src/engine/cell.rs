//! What belongs to one instance besides the planner's view of it.

use std::path::{Path, PathBuf};
use std::time::Duration;

use formic_plan::{InstanceId, Outcome};
use formic_spec::{Probe, Restart, StopSignal};
use formic_supervise::ExitStatus;
use serde::{Deserialize, Serialize};

use crate::start::Start;

/// One instance's process, as far as decisions need it. What of it is written down outlives the engine.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Cell {
    /// How it was started, as far as that could be read.
    pub(crate) start: Option<Start>,
    /// When it is started again.
    pub(crate) rule: Restart,
    /// Which of its service's data folders it has.
    pub(crate) seat: u32,
    /// Its leader, while there is one.
    #[serde(skip)]
    pub(crate) pid: Option<u32>,
    /// The port that it was given, once that is known.
    pub(crate) port: Option<u16>,
    /// How it was asked to stop.
    #[serde(skip)]
    pub(crate) asked: Option<StopKind>,
    /// How its leader ended, which may be before its children do.
    #[serde(skip)]
    pub(crate) leader: Option<ExitStatus>,
    /// Where it answers; empty until that is known.
    pub(crate) address: String,
    /// How it is in the registry, so that the next engine's is not empty.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) registered: Option<formic_core::Instance>,
    /// Whether it ever was in the registry.
    #[serde(default)]
    pub(crate) announced: bool,
    /// When it was started, in milliseconds since 1970.
    pub(crate) started_unix_ms: i64,
    /// How the instance before it in its slot ended.
    pub(crate) last_exit: String,
    /// What it writes.
    pub(crate) output: Output,
}

/// How an instance is stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum StopKind {
    /// It is told, and killed after so long.
    Ask(Duration),
    /// It is killed.
    Kill,
}

/// The files that an instance writes to.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Output {
    pub(crate) stdout: PathBuf,
    pub(crate) stderr: PathBuf,
}

// === impl Cell ===

impl Cell {
    /// Of an instance that is about to be started.
    pub(crate) fn new(start: Option<Start>, seat: u32, started_unix_ms: i64, output: Output) -> Self {
        Self {
            rule: start.as_ref().map(|start| start.restart.clone()).unwrap_or_default(),
            start,
            seat,
            pid: None,
            port: None,
            asked: None,
            leader: None,
            address: String::new(),
            registered: None,
            announced: false,
            started_unix_ms,
            last_exit: String::new(),
            output,
        }
    }

    /// Whether it is asked where it registers, and never did.
    pub(crate) fn is_silent(&self) -> bool {
        let announces =
            |start: &Start| start.health.ready == Probe::Grpc && start.port.is_none() && !start.system;
        !self.announced && self.registered.is_none() && self.start.as_ref().is_some_and(announces)
    }

    /// What it is sent when it is to end, if that is known here.
    pub(crate) fn stop_signal(&self) -> Option<StopSignal> {
        self.start.as_ref().map(|start| start.stop_signal)
    }

    /// Takes note of a wish to stop it. Says whether that is news: the first wish is, and a kill after
    /// a polite one.
    pub(crate) fn ask(&mut self, kind: StopKind) -> bool {
        let news = match self.asked {
            None => true,
            Some(StopKind::Ask(_)) => kind == StopKind::Kill,
            Some(StopKind::Kill) => false,
        };
        if news {
            self.asked = Some(kind);
        }
        news
    }
}

// === impl Output ===

impl Output {
    /// Where an instance of a service writes.
    pub(crate) fn of(logs: &Path, service: &str, id: &InstanceId) -> Self {
        let dir = logs.join(service);
        Self { stdout: dir.join(format!("{id}.out.log")), stderr: dir.join(format!("{id}.err.log")) }
    }
}

/// The planner's word for how a process ended.
pub(crate) fn outcome(status: ExitStatus) -> Outcome {
    match status {
        ExitStatus::Code(code) => Outcome::Code(code),
        ExitStatus::Signal(signal) => Outcome::Signal(signal),
        ExitStatus::Unknown => Outcome::Unknown,
    }
}
