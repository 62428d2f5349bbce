//! What was decided about a rollout, and why: what `events` shows and `why` answers from.

use std::fmt;

use formic_spec::{HumanDuration, Revision};
use serde::{Deserialize, Serialize};

use crate::life::{Exit, InstanceId};
use crate::state::Time;

/// One decision, with its cause.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Decision {
    /// When it was taken.
    pub at: Time,
    /// About which service.
    pub service: String,
    /// In which rollout.
    pub rollout: u64,
    /// What.
    #[serde(flatten)]
    pub what: What,
}

/// What was decided.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "decision", rename_all = "snake_case")]
#[non_exhaustive]
pub enum What {
    /// A rollout begins, because this revision was asked for.
    Began {
        /// The revision that it brings.
        to: Revision,
        /// The one that was wanted before.
        from: Option<Revision>,
        /// Whether the same revision is brought again, by new instances.
        restart: bool,
        /// The rollout that was not over yet and ends by this.
        supersedes: Option<u64>,
    },
    /// Something is changed in running instances.
    InPlace {
        /// The revision from then on.
        to: Revision,
        /// The one before.
        from: Revision,
        /// How many instances are wanted.
        replicas: u32,
    },
    /// It waits for these services.
    Waits {
        /// Their names.
        needs: Vec<String>,
    },
    /// More instances than ever are ready: the deadline moves.
    Progressed {
        /// So many are.
        ready: u32,
        /// Of so many.
        of: u32,
        /// When the next one must be.
        deadline: Time,
    },
    /// All are ready.
    Verifies,
    /// All have been ready for long enough: calls go to them alone.
    Promotes,
    /// It is done.
    Succeeded {
        /// Until when old instances are kept.
        kept_until: Option<Time>,
    },
    /// Old instances were kept long enough.
    Released {
        /// Their revision.
        revision: Revision,
    },
    /// It stands still, by request.
    Paused,
    /// It goes on, by request.
    Resumed {
        /// When the next instance must be ready.
        deadline: Time,
    },
    /// It failed, and there is nothing to go back to.
    Failed {
        /// Why.
        cause: Failure,
    },
    /// It failed, and what it would go back to is the same.
    RevertNoop {
        /// Why.
        cause: Failure,
    },
    /// It failed and goes back.
    Reverts {
        /// To this revision.
        to: Revision,
        /// Why.
        cause: Failure,
    },
    /// It is back.
    Reverted {
        /// At this revision.
        to: Revision,
    },
}

/// Why a rollout failed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "failure", rename_all = "snake_case")]
#[non_exhaustive]
pub enum Failure {
    /// A process could not be started.
    NotStarted {
        /// Of this instance.
        instance: InstanceId,
        /// Why.
        reason: String,
    },
    /// An instance ended in a way after which it is not started again.
    Hopeless {
        /// Which.
        instance: InstanceId,
        /// How.
        exit: Exit,
        /// So many tries it had, where it is these that are used up.
        #[serde(default)]
        tries: u32,
    },
    /// Instances ended again and again before they had worked.
    Crashes {
        /// How often.
        count: u32,
        /// How the last one did, if it is still known.
        last: Option<Exit>,
    },
    /// No further instance became ready in time.
    Deadline {
        /// So many were.
        ready: u32,
        /// Of so many.
        of: u32,
        /// What holds up one of the others, as far as that is known.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        other: Option<String>,
    },
}

// === impl Display ===

impl fmt::Display for Decision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} rollout {}: ", self.service, self.rollout)?;
        let until = |deadline: &Time| HumanDuration::rough(deadline.since(self.at));
        match &self.what {
            What::Began { to, from, restart, supersedes } => {
                match (from, restart) {
                    (_, true) => write!(f, "brings {to} again, by new instances")?,
                    (Some(from), false) => write!(f, "brings {to} in the place of {from}")?,
                    (None, false) => write!(f, "brings {to}, the first")?,
                }
                supersedes.map_or(Ok(()), |number| write!(f, "; rollout {number} ends unfinished"))
            }
            What::InPlace { to, from, replicas } if to == from => {
                let (instances, are) = if *replicas == 1 { ("instance", "is") } else { ("instances", "are") };
                write!(f, "{replicas} {instances} of {to} {are} wanted")
            }
            What::InPlace { to, from, replicas } => {
                let instances = if *replicas == 1 { "instance" } else { "instances" };
                write!(f, "changes {from} to {to} in place, {replicas} {instances}")
            }
            What::Waits { needs } => write!(f, "waits for {}", needs.join(", ")),
            What::Progressed { ready, of, deadline } => {
                write!(f, "{ready} of {of} ready, {} for the next", until(deadline))
            }
            What::Verifies => f.write_str("all are ready; it is seen whether they stay so"),
            What::Promotes => f.write_str("all were ready for long enough; calls go to them"),
            What::Succeeded { kept_until: Some(kept) } => {
                write!(f, "succeeded; old instances are kept for {}", until(kept))
            }
            What::Succeeded { kept_until: None } => f.write_str("succeeded"),
            What::Released { revision } => write!(f, "{revision} was kept long enough"),
            What::Paused => f.write_str("paused, as requested"),
            What::Resumed { deadline } => {
                write!(f, "resumed, as requested, {} for the next", until(deadline))
            }
            What::Failed { cause } => write!(f, "failed, {cause}; there is nothing to go back to"),
            What::RevertNoop { cause } => {
                write!(f, "failed, {cause}; the last revision that succeeded is the same")
            }
            What::Reverts { to, cause } => write!(f, "failed, {cause}; goes back to {to}"),
            What::Reverted { to } => write!(f, "is back at {to}"),
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotStarted { instance, reason } => write!(f, "{instance} could not be started: {reason}"),
            Self::Hopeless { instance, exit, tries: 0 } => {
                write!(f, "{instance} {exit}, which no restart can mend")
            }
            Self::Hopeless { instance, exit, tries: 1 } => write!(f, "{instance} {exit}, and had one try"),
            Self::Hopeless { instance, exit, tries } => {
                write!(f, "{instance} {exit}, and its {tries} tries are used up")
            }
            Self::Crashes { count, last: Some(last) } => {
                write!(f, "{count} instances ended before they had worked, the last {last}")
            }
            Self::Crashes { count, last: None } => {
                write!(f, "{count} instances ended before they had worked")
            }
            Self::Deadline { ready, of, other } => {
                write!(f, "{ready} of {of} were ready and no further in time")?;
                other.iter().try_for_each(|other| write!(f, "; {other}"))
            }
        }
    }
}
