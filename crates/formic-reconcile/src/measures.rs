//! What is measured: of each instance by the kernel and by its probe, and of the engine by itself.
//!
//! Nothing is sampled. Who asks gets what is so at this moment, and counters from which rates are made.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use formic_core::InstanceId;
use formic_supervise::{Counted, Supervisor, Times, Usage};

/// Where the loop and the probes put what they measure. Clones are the same.
#[derive(Clone, Debug, Default)]
pub(crate) struct Measures(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    turns: Times,
    commits: Times,
    events: AtomicU64,
    queue: AtomicU64,
    probes: Mutex<HashMap<InstanceId, Probed>>,
}

/// How an instance's probe goes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Probed {
    /// How long the last answer took.
    pub latency: Option<Duration>,
    /// How often it did not answer.
    pub failures: u64,
    /// How often in a row, up to now.
    pub in_row: u64,
    /// When it did not the last time, in milliseconds since 1970.
    pub failed_unix_ms: Option<i64>,
}

/// What is measured now.
#[derive(Clone, Debug)]
pub struct Measured {
    /// Of each instance that there are processes of.
    pub instances: HashMap<String, Instance>,
    /// How long the engine has taken each time to decide what follows from what happened.
    pub turns: Counted,
    /// How long it has taken each time to get a record onto the disk.
    pub writes: Counted,
    /// How long it has taken each time to get what was decided into the database.
    pub commits: Counted,
    /// What it has taken note of.
    pub events: u64,
    /// What waits to be taken note of.
    pub queue: u64,
}

/// What is measured of an instance.
#[derive(Clone, Debug, Default)]
pub struct Instance {
    /// What it uses.
    pub usage: Usage,
    /// How its probe goes.
    pub probe: Probed,
}

impl Measures {
    /// The instance was asked, and answered, after so long if that says something of it.
    pub(crate) fn answered(&self, id: &InstanceId, latency: Option<Duration>) {
        let mut probes = self.probes();
        let probed = probes.entry(id.clone()).or_default();
        probed.in_row = 0;
        probed.latency = latency.or(probed.latency);
    }

    /// The instance was asked and is not ready.
    pub(crate) fn failed(&self, id: &InstanceId, unix_ms: i64) {
        let mut probes = self.probes();
        let probed = probes.entry(id.clone()).or_default();
        probed.failures += 1;
        probed.in_row += 1;
        probed.failed_unix_ms = Some(unix_ms);
    }

    /// How the probes of all instances go.
    pub(crate) fn probed(&self) -> HashMap<InstanceId, Probed> {
        self.probes().clone()
    }

    /// The instance is not asked any more.
    pub(crate) fn forget(&self, id: &InstanceId) {
        self.probes().remove(id);
    }

    /// So many events are taken note of, and so many wait behind them.
    pub(crate) fn took(&self, events: usize, waiting: usize) {
        self.0.events.fetch_add(events as u64, Ordering::Relaxed);
        self.0.queue.store(waiting as u64, Ordering::Relaxed);
    }

    /// It took so long to decide what follows.
    pub(crate) fn turned(&self, took: Duration) {
        self.0.turns.add(took);
    }

    /// It took so long to write down what was decided.
    pub(crate) fn committed(&self, took: Duration) {
        self.0.commits.add(took);
    }

    /// All of it. Reads some files of the kernel's for each instance.
    pub(crate) fn now(&self, supervisor: &Supervisor) -> Measured {
        let probes = self.probes().clone();
        let instance = |process: formic_supervise::Process| {
            let probe = probes.get(process.id()).copied().unwrap_or_default();
            (process.id().to_string(), Instance { usage: process.usage(), probe })
        };
        Measured {
            instances: supervisor.processes().into_iter().map(instance).collect(),
            turns: self.0.turns.counted(),
            commits: self.0.commits.counted(),
            writes: supervisor.writes().counted(),
            events: self.0.events.load(Ordering::Relaxed),
            queue: self.0.queue.load(Ordering::Relaxed),
        }
    }

    fn probes(&self) -> MutexGuard<'_, HashMap<InstanceId, Probed>> {
        // Every change is one insert or remove: a panic elsewhere leaves it whole.
        self.0.probes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_answer_and_all_failures_of_a_probe_are_kept() {
        let measures = Measures::default();
        let id = InstanceId::new("a-1");
        measures.failed(&id, 1);
        measures.answered(&id, Some(Duration::from_millis(2)));
        let latency = Some(Duration::from_millis(2));
        let mut probed = Probed { latency, failures: 1, in_row: 0, failed_unix_ms: Some(1) };
        assert_eq!(measures.probed()[&id], probed);
        measures.failed(&id, 2);
        measures.failed(&id, 3);
        (probed.failures, probed.in_row, probed.failed_unix_ms) = (3, 2, Some(3));
        assert_eq!(measures.probed()[&id], probed);
        measures.forget(&id);
        assert!(measures.probes().is_empty());
    }
}
