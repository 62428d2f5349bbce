//! What is wanted, what is there, and when.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Add;
use std::time::Duration;

use formic_spec::{Condition, Cron, Dependents, HumanDuration, Job, Revision, Update};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::life::Instance;
use crate::set::{Role, Set, Template};

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
    /// What of the revision a running process cannot take up. A change that leaves it as it is is made in
    /// place; without it every change of revision takes a new process.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub process: Option<Revision>,
    /// The services that must have come so far, see `conditions`, before an instance is first started.
    pub depends_on: Vec<String>,
    /// What is waited for in those of `depends_on` that need not be healthy.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub conditions: BTreeMap<String, Condition>,
    /// What its restart means for the services that depend on it.
    #[serde(default)]
    pub dependents: Dependents,
    /// How a new revision takes the place of the old one, if a [`Fleet`](crate::Fleet) sees to it.
    #[serde(default)]
    pub update: Update,
    /// That its instances run to an end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub job: Option<Job>,
    /// When it is due, if it is run again and again: then a [`Timetable`](crate::Timetable) says what runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cron: Option<Cron>,
    /// Which slots run what while revisions change, from [`Fleet::advance`](crate::Fleet::advance). Without
    /// them `replicas` instances run `revision`, in the slots from 0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sets: Option<Vec<Set>>,
    /// That it ran to its end with success and is not run again: whoever waits for that need not wait, also when nothing is
    /// known of its instances any more. From [`Fleet::advance`](crate::Fleet::advance), too.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub completed: bool,
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
            process: None,
            depends_on: service.depends_on.clone(),
            conditions: service.conditions.clone(),
            dependents: service.restart.dependents,
            update: service.update.clone(),
            job: service.job.clone(),
            cron: service.cron.clone(),
            sets: None,
            completed: false,
            ready_within: service.health.deadline,
            grace: service.stop.grace,
            start,
        }
    }
}

impl Service {
    /// What needs a new process when it changes.
    #[must_use]
    pub fn process(&self) -> &Revision {
        self.process.as_ref().unwrap_or(&self.revision)
    }

    /// What is wanted in a slot; nothing if the slot is to be empty.
    #[must_use]
    pub fn at(&self, slot: u32) -> Option<Template<'_>> {
        match &self.sets {
            Some(sets) => sets.iter().find(|set| set.slots.binary_search(&slot).is_ok()).map(Set::template),
            None => (slot < self.always()).then(|| self.template()),
        }
    }

    /// Whether some of its slots are to get no calls.
    #[must_use]
    pub fn has_standby(&self) -> bool {
        self.sets.iter().flatten().any(|set| set.role == Role::Standby && !set.slots.is_empty())
    }

    /// What the executor is handed for the slots that are wanted, once for each revision among them.
    pub fn starts(&self) -> impl Iterator<Item = &Value> {
        let sets = self.sets.iter().flatten().filter(|set| !set.slots.is_empty()).map(|set| &set.start);
        let plain = (self.sets.is_none() && self.always() > 0).then_some(&self.start);
        sets.chain(plain)
    }

    /// How many slots are wanted.
    pub(crate) fn places(&self) -> usize {
        match &self.sets {
            Some(sets) => sets.iter().map(|set| set.slots.len()).sum(),
            None => self.always() as usize,
        }
    }

    /// How many slots are wanted where no sets say so: of a cron job none, it runs when it is due.
    pub(crate) fn always(&self) -> u32 {
        if self.cron.is_some() { 0 } else { self.replicas }
    }

    /// What is waited for in one that it depends on.
    #[must_use]
    pub fn condition(&self, dependency: &str) -> Condition {
        self.conditions.get(dependency).copied().unwrap_or_default()
    }

    /// The service as a template of its own, for slots that no set names.
    pub(crate) fn template(&self) -> Template<'_> {
        Template {
            revision: &self.revision,
            process: self.process(),
            rollout: 0,
            depends_on: &self.depends_on,
            ready_within: self.ready_within,
            grace: self.grace,
            start: &self.start,
            role: Role::Serving,
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
