//! Plans: what is to be done now, as values.

use std::fmt;

use formic_spec::{HumanDuration, Revision};
use serde::{Deserialize, Serialize};

use crate::life::{InstanceId, StopCause};
use crate::state::Time;

/// Everything that is to be done now, in the order in which it is worth doing: kill, stop, start. The
/// actions of one plan do not wait for one another.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plan {
    /// The generation of the desired state that it leads to.
    pub generation: u64,
    /// When it was made.
    pub at: Time,
    /// What to do, and for what nothing is done yet.
    pub actions: Vec<Action>,
    /// When to plan anew though nothing happened: the next deadline.
    pub wake_at: Option<Time>,
}

/// One thing to do. Each can be carried out twice without harm.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "action", rename_all = "snake_case")]
#[non_exhaustive]
pub enum Action {
    /// End an instance and all its processes, without asking.
    Kill {
        /// Which.
        instance: InstanceId,
        /// Its service.
        service: String,
        /// Its slot.
        slot: u32,
    },
    /// Ask an instance to stop.
    Stop {
        /// Which.
        instance: InstanceId,
        /// Its service.
        service: String,
        /// Its slot.
        slot: u32,
        /// How long it may take.
        grace: HumanDuration,
        /// Why.
        cause: StopCause,
    },
    /// Start an instance in a slot that is free.
    Start {
        /// Of which service.
        service: String,
        /// In which slot.
        slot: u32,
        /// At which revision.
        revision: Revision,
        /// Why.
        cause: StartCause,
    },
    /// Change an instance in place: write its limits anew, then [`Instance::adjusted`](crate::Instance::adjusted).
    Adjust {
        /// Which.
        instance: InstanceId,
        /// Its service.
        service: String,
        /// Its slot.
        slot: u32,
        /// The revision that it is of from then on.
        revision: Revision,
    },
    /// Do nothing about a slot yet.
    Wait {
        /// Of which service.
        service: String,
        /// Which slot.
        slot: u32,
        /// For what.
        cause: WaitCause,
    },
}

/// Why an instance is started.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum StartCause {
    /// It is wanted, and none was there.
    Wanted,
    /// The last one ended by itself: restart number so many.
    Restart(u32),
    /// The last one ran another revision.
    Revision(Revision),
}

/// For what nothing is done yet.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum WaitCause {
    /// A start waits for these services to be ready.
    Dependencies(Vec<String>),
    /// A start waits for its back-off to end.
    Backoff(Time),
    /// A stop waits for these services to be gone.
    Dependants(Vec<String>),
    /// A start waits for these services to end, which are restarted after it.
    Followers(Vec<String>),
    /// A replacement waits until the others of its service are ready.
    Turn,
    /// Whether the last one still runs, nobody can say.
    Quarantined,
}

// === impl Plan ===

impl Plan {
    /// Whether there is nothing to carry out.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.actions.iter().all(|action| matches!(action, Action::Wait { .. }))
    }

    /// The service and slot of each start.
    pub fn starts(&self) -> impl Iterator<Item = (&str, u32)> {
        self.actions.iter().filter_map(|action| match action {
            Action::Start { service, slot, .. } => Some((service.as_str(), *slot)),
            _ => None,
        })
    }

    /// The instances that are asked to stop.
    pub fn stops(&self) -> impl Iterator<Item = &InstanceId> {
        self.actions.iter().filter_map(|action| match action {
            Action::Stop { instance, .. } => Some(instance),
            _ => None,
        })
    }
}

impl fmt::Display for Plan {
    /// A line for the whole and one for each action.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "generation {}: ", self.generation)?;
        if self.actions.is_empty() {
            f.write_str("nothing to do")?;
        } else {
            let waits = self.actions.iter().filter(|action| matches!(action, Action::Wait { .. })).count();
            write!(f, "{} to do, {waits} waiting", self.actions.len() - waits)?;
        }
        for action in &self.actions {
            write!(f, "\n  {action}")?;
            if let Action::Wait { cause: WaitCause::Backoff(until), .. } = action {
                write!(f, " for {}", HumanDuration::from(until.since(self.at)))?;
            }
        }
        if let Some(wake_at) = self.wake_at {
            write!(f, "\n  again in {}", HumanDuration::from(wake_at.since(self.at)))?;
        }
        Ok(())
    }
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Kill { instance, service, slot } => {
                write!(f, "kill  {service}/{slot} {instance}: did not stop in time")
            }
            Self::Stop { instance, service, slot, grace, cause } => {
                write!(f, "stop  {service}/{slot} {instance} within {grace}: {cause}")
            }
            Self::Start { service, slot, revision, cause } => {
                write!(f, "start {service}/{slot} at {revision}: {cause}")
            }
            Self::Adjust { instance, service, slot, revision } => {
                write!(f, "adjust {service}/{slot} {instance} to {revision} in place")
            }
            Self::Wait { service, slot, cause } => write!(f, "wait  {service}/{slot}: {cause}"),
        }
    }
}

impl fmt::Display for StartCause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Wanted => f.write_str("wanted"),
            Self::Restart(number) => write!(f, "restart {number}"),
            Self::Revision(from) => write!(f, "was {from}"),
        }
    }
}

impl fmt::Display for WaitCause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Dependencies(names) => write!(f, "needs {}", names.join(", ")),
            Self::Backoff(_) => f.write_str("backs off"),
            Self::Dependants(names) => write!(f, "is needed by {}", names.join(", ")),
            Self::Followers(names) => {
                write!(f, "starts once what is restarted after it has ended: {}", names.join(", "))
            }
            Self::Turn => f.write_str("is replaced when the others are ready"),
            Self::Quarantined => f.write_str("is not filled while the last one may be running"),
        }
    }
}
