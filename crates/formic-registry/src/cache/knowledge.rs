//! What a cache believes, as a pure state machine: answers and losses in, a view out.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use formic_core::{Endpoint, Instance, InstanceId, Members};
use tokio::time::Instant;

use super::{Stale, View};
use crate::Error;

/// What is believed of one service.
#[derive(Debug, Default)]
pub(super) struct Knowledge {
    /// What the registry last listed.
    live: Members,
    /// Known from before a loss, not listed since.
    held: BTreeMap<InstanceId, Arc<Instance>>,
    known: bool,
    stale: Option<Stale>,
    settles: Option<Instant>,
}

impl Knowledge {
    /// The registry answered. Returns whether that ends a loss.
    pub(super) fn learn(&mut self, instances: &Members, now: Instant, settle: Duration) -> bool {
        let back = self.stale.take().is_some();
        if back {
            self.settles = Some(now + settle);
        }
        self.known = true;
        self.live = instances.clone();
        if !self.held.is_empty() {
            // An instance that came back under another id took its predecessor's address.
            let taken: HashSet<&Endpoint> = self.live.iter().map(|instance| &instance.endpoint).collect();
            let gone = |id: &InstanceId| self.live.get(id).is_none();
            self.held.retain(|id, instance| gone(id) && !taken.contains(&instance.endpoint));
        }
        if self.held.is_empty() {
            self.settles = None;
        }
        back
    }

    /// The registry went away. Returns whether it was there before.
    pub(super) fn lose(&mut self, error: Error, now: Instant) -> bool {
        let fresh = self.stale.is_none();
        let since = self.stale.as_ref().map_or(now, |stale| stale.since);
        self.stale = Some(Stale { since, error });
        let live = std::mem::take(&mut self.live);
        live.compare(&Members::new(), |(_, listed)| {
            self.held.extend(listed.map(|instance| (instance.id.clone(), Arc::clone(instance))));
        });
        self.settles = None;
        fresh
    }

    /// When what is held from before the loss is to be given up.
    pub(super) const fn settles(&self) -> Option<Instant> {
        self.settles
    }

    /// That moment came.
    pub(super) fn settle(&mut self) {
        self.held.clear();
        self.settles = None;
    }

    pub(super) fn view(&self) -> View {
        let mut instances = self.live.clone();
        for held in self.held.values() {
            instances.insert(Arc::clone(held));
        }
        View { instances, known: self.known, stale: self.stale.clone() }
    }
}

#[cfg(test)]
mod tests {
    use formic_core::ServiceName;

    use super::*;

    const SETTLE: Duration = Duration::from_secs(20);

    fn instance(id: &str, port: u16) -> Instance {
        Instance {
            id: InstanceId::new(id),
            service: ServiceName::new("order").expect("valid"),
            version: String::new(),
            endpoint: Endpoint::Tcp(([127, 0, 0, 1], port).into()),
            metadata: BTreeMap::new(),
            rpc: Vec::new(),
        }
    }

    fn ids(known: &Knowledge) -> Vec<String> {
        known.view().instances.iter().map(|instance| instance.id.to_string()).collect()
    }

    fn lost() -> (Knowledge, Instant) {
        let (mut known, now) = (Knowledge::default(), Instant::now());
        known.learn(&vec![instance("a", 1), instance("b", 2)].into(), now, SETTLE);
        assert!(known.lose(Error::unavailable("gone"), now));
        assert!(!known.lose(Error::unavailable("still gone"), now + SETTLE), "one loss is one loss");
        (known, now + SETTLE)
    }

    #[test]
    fn a_healthy_registry_is_believed_when_it_says_nobody() {
        let (mut known, now) = (Knowledge::default(), Instant::now());
        assert!(!known.view().known);
        known.learn(&vec![instance("a", 1)].into(), now, SETTLE);
        known.learn(&Members::new(), now, SETTLE);
        assert!(ids(&known).is_empty() && known.view().known);
    }

    #[test]
    fn a_loss_keeps_the_set_and_its_first_moment() {
        let (known, now) = lost();
        assert_eq!(ids(&known), ["a", "b"]);
        assert_eq!(known.view().stale.expect("stale").since, now - SETTLE);
    }

    #[test]
    fn a_registry_that_comes_back_empty_is_doubted_until_it_settled() {
        let (mut known, now) = lost();
        assert!(known.learn(&Members::new(), now, SETTLE), "back");
        assert_eq!(ids(&known), ["a", "b"]);
        assert!(known.view().stale.is_none());
        assert_eq!(known.settles(), Some(now + SETTLE));
        known.settle();
        assert!(ids(&known).is_empty());
    }

    #[test]
    fn what_was_listed_again_and_dropped_goes_at_once() {
        let (mut known, now) = lost();
        known.learn(&vec![instance("a", 1)].into(), now, SETTLE);
        assert_eq!(ids(&known), ["a", "b"]);
        known.learn(&vec![instance("c", 3)].into(), now, SETTLE);
        assert_eq!(ids(&known), ["b", "c"]);
    }

    #[test]
    fn a_successor_at_the_same_address_replaces_the_held_one() {
        let (mut known, now) = lost();
        known.learn(&vec![instance("a2", 1), instance("b", 2)].into(), now, SETTLE);
        assert_eq!(ids(&known), ["a2", "b"]);
        assert_eq!(known.settles(), None);
    }

    #[test]
    fn a_second_loss_while_settling_keeps_both_halves() {
        let (mut known, now) = lost();
        known.learn(&vec![instance("c", 3)].into(), now, SETTLE);
        known.lose(Error::unavailable("again"), now);
        assert_eq!(ids(&known), ["a", "b", "c"]);
        assert_eq!(known.settles(), None, "nothing is given up while the registry is away");
    }
}
