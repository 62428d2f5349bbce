//! Who is there, by identity: what was learnt of an endpoint stays while others come and go, and while the
//! policy changes.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use formic_core::{Instance, InstanceId};

use crate::ejection::{Shared, middle};
use crate::policy::Cursor;
use crate::set::{self, BackendView, Seat, Set, State, view};
use crate::traffic::{Algorithm, Traffic};
use crate::{Backend, Factory};

/// How long an endpoint that left is remembered: a registry that blinks is no reason to forget.
pub const KEEP: Duration = Duration::from_secs(60);

/// The endpoints of one service and what is known of them.
pub struct Roster {
    known: HashMap<InstanceId, Known>,
    /// Who was there last, in the order of the set.
    present: Arc<[Instance]>,
    shared: Arc<Shared>,
    /// Whose turn it is, by group: it goes on when endpoints change.
    cursors: HashMap<String, Cursor>,
    factory: Option<Factory>,
}

struct Known {
    backend: Arc<Backend>,
    left: Option<Left>,
}

/// Of an endpoint that is not there any more.
struct Left {
    at: Duration,
    /// What it was, to be shown while calls are on their way to it.
    instance: Option<Box<Instance>>,
}

impl std::fmt::Debug for Roster {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Roster").field("known", &self.known.len()).finish_non_exhaustive()
    }
}

impl Default for Roster {
    fn default() -> Self {
        Self {
            known: HashMap::new(),
            present: Arc::from([]),
            shared: Arc::default(),
            cursors: HashMap::new(),
            factory: None,
        }
    }
}

impl Roster {
    /// Nobody yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// With a policy of the author's own in the place of [`Traffic::policy`]; everything around it, from
    /// rules to ejection, stays.
    #[must_use]
    pub fn with_policy(mut self, factory: Option<Factory>) -> Self {
        self.factory = factory;
        self
    }

    /// Arranges who is there now under a policy; the set's indices are those of `instances`. To be called
    /// when either changes. A policy must have been validated.
    pub fn arrange(
        &mut self,
        instances: Arc<[Instance]>,
        traffic: &Traffic,
        seat: &Seat,
        now: Duration,
    ) -> Set {
        let backends = self.update(&instances, now);
        self.present = Arc::clone(&instances);
        for (instance, backend) in instances.iter().zip(&backends) {
            backend.set_weight(set::weight(instance).unwrap_or(1.0));
        }
        self.shared.configure(traffic, &backends, traffic.policy == Algorithm::Hash);
        let mut plan = set::Plan {
            instances,
            backends,
            traffic,
            seat,
            factory: self.factory.as_ref(),
            cursors: &mut self.cursors,
        };
        plan.build(Arc::clone(&self.shared))
    }

    /// Looks for outliers among the endpoints and ejects them; to be called every second or so. Costs next to
    /// nothing while nothing fails. Gives back who was ejected.
    pub fn sweep(&self, now: Duration) -> Vec<Arc<Backend>> {
        self.shared.sweep(now)
    }

    /// The endpoints that left and have calls on their way, for people, by id.
    #[must_use]
    pub fn draining(&self, now: Duration) -> Vec<BackendView> {
        let busy = |known: &&Known| known.backend.in_flight() > 0;
        let shown = |known: &Known| {
            let instance = known.left.as_ref()?.instance.as_ref()?;
            Some(BackendView { state: State::Draining, ..view::of(instance, &known.backend, now) })
        };
        let mut all: Vec<_> = self.known.values().filter(busy).filter_map(shown).collect();
        all.sort_by(|one, other| one.instance.cmp(&other.instance));
        all
    }

    /// Takes the new set and gives back its state in the same order. A newcomer starts at the median of
    /// those who stay: neither shunned nor run over before anything is known of it. Those who leave have
    /// no say, for they often leave because they are slow.
    fn update(&mut self, instances: &[Instance], now: Duration) -> Vec<Arc<Backend>> {
        for known in self.known.values_mut() {
            known.left.get_or_insert(Left { at: now, instance: None });
        }
        let mut newcomers = Vec::new();
        let mut backends: Vec<Option<Arc<Backend>>> = Vec::with_capacity(instances.len());
        for (index, instance) in instances.iter().enumerate() {
            let known = self.known.get_mut(&instance.id).map(|known| {
                known.left = None;
                Arc::clone(&known.backend)
            });
            if known.is_none() {
                newcomers.push(index);
            }
            backends.push(known);
        }
        if !newcomers.is_empty() {
            let stay = self.known.values().filter(|known| known.left.is_none());
            let latencies: Vec<_> = stay.map(|known| known.backend.latency(now)).collect();
            let (alone, prior) = (latencies.is_empty(), middle(latencies));
            for index in newcomers {
                let id = &instances[index].id;
                let known = self.known.entry(id.clone()).or_insert_with(|| {
                    let backend = Backend::new(id.clone(), prior, now, Arc::clone(&self.shared));
                    // Where all are new there is nobody to spare them.
                    if !alone {
                        backend.start_slowly(now);
                    }
                    Known { backend: Arc::new(backend), left: None }
                });
                backends[index] = Some(Arc::clone(&known.backend));
            }
        }
        for instance in self.present.iter() {
            if let Some(Known { left: Some(left), .. }) = self.known.get_mut(&instance.id) {
                left.instance.get_or_insert_with(|| Box::new(instance.clone()));
            }
        }
        self.known
            .retain(|_, known| known.left.as_ref().is_none_or(|left| now.saturating_sub(left.at) < KEEP));
        backends.into_iter().flatten().collect()
    }
}

#[cfg(test)]
mod tests {
    use formic_core::ServiceName;

    use super::*;

    const MS: Duration = Duration::from_millis(1);

    fn instances(names: &[&str]) -> Arc<[Instance]> {
        let instance = |&name: &&str| Instance {
            id: InstanceId::new(name),
            service: ServiceName::new("echo").expect("valid"),
            version: String::new(),
            endpoint: std::net::SocketAddr::from(([127, 0, 0, 1], 1)).into(),
            metadata: Default::default(),
            rpc: Vec::new(),
        };
        names.iter().map(instance).collect()
    }

    fn arrange(roster: &mut Roster, names: &[&str], now: Duration) -> Vec<Arc<Backend>> {
        let set = roster.arrange(instances(names), &Traffic::default(), &Seat::default(), now);
        (0..set.len()).map(|index| Arc::clone(set.backend(index))).collect()
    }

    fn succeed(backend: &Backend, now: Duration, took: Duration) {
        backend.learn(now, Some(took), crate::Outcome::Success, false);
    }

    #[test]
    fn state_survives_every_change_of_the_set() {
        let mut roster = Roster::new();
        let first = arrange(&mut roster, &["a", "b"], MS);
        succeed(&first[0], MS, 40 * MS);
        first[1].begin();
        let second = arrange(&mut roster, &["c", "b", "a"], 2 * MS);
        assert!(Arc::ptr_eq(&first[0], &second[2]) && Arc::ptr_eq(&first[1], &second[1]));
        // Gone and back within the time that it is remembered, then for longer.
        arrange(&mut roster, &["b"], 3 * MS);
        let third = arrange(&mut roster, &["a", "b"], KEEP);
        assert!(Arc::ptr_eq(&first[0], &third[0]));
        arrange(&mut roster, &["b"], KEEP);
        arrange(&mut roster, &["b"], 3 * KEEP);
        let fourth = arrange(&mut roster, &["a", "b"], 3 * KEEP);
        assert!(!Arc::ptr_eq(&first[0], &fourth[0]), "forgotten by now");
        assert!(Arc::ptr_eq(&first[1], &fourth[1]));
    }

    #[test]
    fn a_newcomer_starts_slowly_at_the_median() {
        let mut roster = Roster::new();
        let stats = arrange(&mut roster, &["a", "b", "c"], MS);
        for (backend, took) in stats.iter().zip([MS, 3 * MS, 900 * MS]) {
            (0..9).for_each(|_| succeed(backend, MS, took));
            assert_eq!(backend.warmth(MS), 1.0, "the first ones have nobody to spare them");
        }
        let stats = arrange(&mut roster, &["a", "b", "c", "d"], MS);
        assert_eq!(stats[3].latency(MS).as_micros(), 1_000 * 3);
        assert!(stats[3].warmth(MS) < 0.2 && stats[3].warmth(6_000 * MS) > 0.5);
        assert_eq!(stats[3].warmth(11_000 * MS), 1.0);
        // Of those who leave nothing is inherited.
        let stats = arrange(&mut roster, &["a", "e"], MS);
        assert_eq!(stats[1].latency(MS).as_micros(), 1_000);
    }

    #[test]
    fn who_left_is_shown_until_its_last_call_is_over() {
        let mut roster = Roster::new();
        let both = arrange(&mut roster, &["a", "b"], MS);
        both[1].begin();
        assert!(roster.draining(MS).is_empty(), "nobody left");
        arrange(&mut roster, &["a"], 2 * MS);
        // It stays so when others come and go.
        arrange(&mut roster, &["a", "c"], 3 * MS);
        let [draining] = &roster.draining(3 * MS)[..] else { panic!("one is draining") };
        assert_eq!((draining.instance.as_str(), draining.state), ("b", State::Draining));
        assert_eq!((draining.in_flight, draining.endpoint.as_str()), (1, "127.0.0.1:1"));
        both[1].end();
        assert!(roster.draining(3 * MS).is_empty());
    }

    #[test]
    fn an_instance_that_is_listed_twice_is_one() {
        let mut roster = Roster::new();
        let both = arrange(&mut roster, &["a", "a"], MS);
        assert!(Arc::ptr_eq(&both[0], &both[1]));
    }
}
