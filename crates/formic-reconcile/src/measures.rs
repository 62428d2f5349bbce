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
    /// The instance was asked; it answered after so long, or not.
    pub(crate) fn probed(&self, id: &InstanceId, latency: Option<Duration>) {
        let mut probes = self.probes();
        let probed = probes.entry(id.clone()).or_default();
        match latency {
            Some(latency) => probed.latency = Some(latency),
            None => probed.failures += 1,
        }
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
        measures.probed(&id, None);
        measures.probed(&id, Some(Duration::from_millis(2)));
        measures.probed(&id, None);
        let probed = measures.probes().get(&id).copied();
        assert_eq!(probed, Some(Probed { latency: Some(Duration::from_millis(2)), failures: 2 }));
        measures.forget(&id);
        assert!(measures.probes().is_empty());
    }
}
