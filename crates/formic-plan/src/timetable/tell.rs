//! What is told of cron jobs and their runs, to people.

use std::fmt;
use std::time::Duration;

use formic_spec::HumanDuration;

use super::{Due, Entry, Run, RunState};

impl Entry {
    /// When it is due next, and what came of it last, in a sentence or two.
    #[must_use]
    pub fn tell(&self, unix_ms: u64) -> String {
        let next = self.service.cron.as_ref().zip(self.next(unix_ms)).map_or_else(
            || match self.is_stopped() {
                true => format!("It is stopped: nothing is due until `formic start {}`.", self.service.name),
                false => "It is not due any more.".to_owned(),
            },
            |(cron, next)| {
                let left = whole_seconds(next.saturating_sub(unix_ms));
                format!("It is due next at {}, in {left}.", cron.schedule.show(next))
            },
        );
        let runs =
            self.runs.last().map_or_else(|| "It has not run yet.".to_owned(), |last| last.tell(unix_ms));
        format!("{next} {runs}")
    }
}

impl Run {
    /// What has come of it, with its age, in a sentence.
    #[must_use]
    pub fn tell(&self, unix_ms: u64) -> String {
        let number = self.number;
        let since = |at: Option<u64>| whole_seconds(unix_ms.saturating_sub(at.unwrap_or(self.due_unix_ms)));
        match &self.state {
            RunState::Waiting => format!("Run {number} begins when the one before it is gone."),
            RunState::Running { .. } => format!("Run {number} began {} ago.", since(self.began_unix_ms)),
            RunState::Succeeded { .. } => {
                format!("Run {number} succeeded {} ago.", since(self.ended_unix_ms))
            }
            RunState::Failed { exit } => {
                format!("Run {number} failed {} ago: it {exit}.", since(self.ended_unix_ms))
            }
            other => format!("Run {number}, due {} ago, {other}.", since(None)),
        }
    }
}

impl RunState {
    /// The word for it.
    #[must_use]
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::Waiting => "waiting",
            Self::Running { .. } => "running",
            Self::Succeeded { .. } => "succeeded",
            Self::Failed { .. } => "failed",
            Self::Replaced => "replaced",
            Self::Stopped => "stopped",
            Self::Overlapped => "overlapped",
            Self::Missed => "missed",
        }
    }
}

impl fmt::Display for RunState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Waiting => f.write_str("is due"),
            Self::Running { .. } => f.write_str("begins"),
            Self::Succeeded { .. } => f.write_str("succeeded"),
            Self::Failed { exit } => write!(f, "failed: it {exit}"),
            Self::Replaced => f.write_str("is stopped: the next one is due"),
            Self::Stopped => f.write_str("is stopped, as requested"),
            Self::Overlapped => f.write_str("is left out: another one runs"),
            Self::Missed => f.write_str("is left out: it was due too long ago"),
        }
    }
}

impl fmt::Display for Due {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} run {} {}", self.service, self.run.number, self.run.state)
    }
}

fn whole_seconds(millis: u64) -> HumanDuration {
    HumanDuration::rough(Duration::from_millis(millis))
}
