//! Sets: which slots of a service run which revision, while one revision takes the place of another.
//!
//! A slot keeps its number while an instance lives in it; a new revision takes free ones. So there is never
//! more than one live instance in a slot, and how many there may be beside one another is a matter of how
//! many slots are wanted.

use formic_spec::{HumanDuration, Revision};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::rollout::Release;

/// Slots that run one revision.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Set {
    /// Which revision.
    pub revision: Revision,
    /// What of it needs a new process.
    pub process: Revision,
    /// The number of the rollout that brought it.
    pub rollout: u64,
    /// Instances that rollouts before this one started are none of it, even if they run the same.
    pub since: u64,
    /// The services that it depends on.
    pub depends_on: Vec<String>,
    /// How long an instance may take to get ready.
    pub ready_within: HumanDuration,
    /// How long an instance may take to stop.
    pub grace: HumanDuration,
    /// What the executor needs to start an instance.
    pub start: Value,
    /// Whether calls go to its instances.
    pub role: Role,
    /// Which slots, ascending.
    pub slots: Vec<u32>,
}

/// Whether calls go to an instance.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// Calls go to it as soon as it is ready.
    #[default]
    Serving,
    /// It runs and gets no calls: not yet, or, kept for a way back, not any more.
    Standby,
}

/// What is wanted in one slot.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Template<'a> {
    /// The revision.
    pub revision: &'a Revision,
    /// What of it needs a new process.
    pub process: &'a Revision,
    /// The number of the rollout that brought it; 0 where there are no rollouts.
    pub rollout: u64,
    /// The services that it depends on.
    pub depends_on: &'a [String],
    /// How long an instance may take to get ready.
    pub ready_within: HumanDuration,
    /// How long an instance may take to stop.
    pub grace: HumanDuration,
    /// What the executor needs to start an instance.
    pub start: &'a Value,
    /// Whether calls go to it.
    pub role: Role,
}

// === impl Set ===

impl Set {
    pub(crate) fn of(release: &Release, role: Role, slots: Vec<u32>) -> Self {
        let service = &release.service;
        Self {
            revision: service.revision.clone(),
            process: service.process().clone(),
            rollout: release.rollout,
            since: release.since,
            depends_on: service.depends_on.clone(),
            ready_within: service.ready_within,
            grace: service.grace,
            start: service.start.clone(),
            role,
            slots,
        }
    }

    pub(crate) fn template(&self) -> Template<'_> {
        Template {
            revision: &self.revision,
            process: &self.process,
            rollout: self.rollout,
            depends_on: &self.depends_on,
            ready_within: self.ready_within,
            grace: self.grace,
            start: &self.start,
            role: self.role,
        }
    }
}
