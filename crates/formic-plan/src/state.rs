//! What is wanted, what is there, and when.

use std::fmt;
use std::ops::Add;
use std::time::Duration;

use formic_spec::{HumanDuration, Revision};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::life::Instance;

/// A moment, in milliseconds on the caller's clock. Any clock that does not jump will do, as long as
/// everything handed to the planner is from the same one; to keep state over a restart of the daemon it
/// must be one that goes on, such as `CLOCK_BOOTTIME`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Time(u64);

/// Everything that is wanted, sent whole. The executor refuses a generation older than the one it has.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Desired {
    /// Counts up with each change of what is wanted.
    pub generation: u64,
    /// The services, each name once.
    pub services: Vec<Service>,
}

/// A service as it is wanted.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Service {
    /// Its name.
    pub name: String,
    /// The revision that its instances are to run.
    pub revision: Revision,
    /// How many instances: they take the slots from 0.
    pub replicas: u32,
    /// The services that must be ready before an instance is first started.
    pub depends_on: Vec<String>,
    /// How long an instance may take to get ready.
    pub ready_within: HumanDuration,
    /// How long an instance may take to stop.
    pub grace: HumanDuration,
    /// What the executor needs to start an instance. The planner hands it through unread.
    #[serde(default)]
    pub start: Value,
}

/// What is there: for each slot the live instance, else the last one.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Observed {
    /// In no particular order.
    pub instances: Vec<Instance>,
}

// === impl Time ===

impl Time {
    /// So many milliseconds after the clock's zero.
    #[must_use]
    pub const fn from_millis(millis: u64) -> Self {
        Self(millis)
    }

    /// Milliseconds since the clock's zero.
    #[must_use]
    pub const fn millis(self) -> u64 {
        self.0
    }

    /// How long after `earlier` this is; nothing if it is before.
    #[must_use]
    pub const fn since(self, earlier: Self) -> Duration {
        Duration::from_millis(self.0.saturating_sub(earlier.0))
    }
}

impl Add<Duration> for Time {
    type Output = Self;

    fn add(self, duration: Duration) -> Self {
        Self(self.0.saturating_add(u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)))
    }
}

impl fmt::Display for Time {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", HumanDuration::from_millis(self.0))
    }
}

// === impl Desired ===

impl Desired {
    /// Nothing is wanted any more: everything stops, dependants first.
    #[must_use]
    pub const fn nothing(generation: u64) -> Self {
        Self { generation, services: Vec::new() }
    }

    /// The service of this name.
    #[must_use]
    pub fn service(&self, name: &str) -> Option<&Service> {
        self.services.iter().find(|service| service.name == name)
    }
}

// === impl Service ===

impl Service {
    /// The service of a manifest at a revision, with what the executor needs to start it.
    #[must_use]
    pub fn of(service: &formic_spec::Service, revision: Revision, start: Value) -> Self {
        Self {
            name: service.name.clone(),
            revision,
            replicas: service.replicas,
            depends_on: service.depends_on.clone(),
            ready_within: service.health.deadline,
            grace: service.stop.grace,
            start,
        }
    }
}

// === impl Observed ===

impl Observed {
    /// What a slot holds: the live instance if there is one, else the one that died last.
    #[must_use]
    pub fn slot(&self, service: &str, slot: u32) -> Option<&Instance> {
        self.instances
            .iter()
            .filter(|instance| instance.service == service && instance.slot == slot)
            .max_by_key(|instance| instance.recency())
    }
}
