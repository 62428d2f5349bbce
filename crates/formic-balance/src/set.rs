//! The endpoints of a moment under one policy: rules choose a group, zones a part of it, the policy an
//! endpoint.
//!
//! A set is made whenever instances or the policy change and is immutable, so calls share it without a
//! lock. What changes between, ejections and slow starts, is in the [`Backend`]s, and each part of a set looks
//! once per change who of its own is in.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use formic_core::Instance;

use crate::Backend;
use crate::ejection::Shared;
use crate::policy::{Choice, Cursor, Draws, Factory};
use crate::traffic::Traffic;

mod group;
mod rules;
pub(crate) mod view;

pub use view::{BackendView, State};

use group::{Group, Tier};
use rules::{Compiled, Target};

/// Labels of an instance that mean something here.
const ZONE: &str = "zone";
const WEIGHT: &str = "weight";

/// Where a caller stands.
#[derive(Clone, Debug, Default)]
pub struct Seat {
    /// Its zone, if it knows.
    pub zone: Option<String>,
    /// Who it is, as a number: callers with different ones have different subsets.
    pub seed: u64,
}

/// What was picked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pick {
    /// The index of the endpoint.
    pub index: usize,
    /// The call finds out whether an ejected endpoint is well again. Whoever made the pick says how it ended,
    /// by [`Backend::learn`], [`Backend::abandoned`] or [`Backend::unused`].
    pub probe: bool,
}

/// The endpoints of a moment.
#[derive(Debug)]
pub struct Set {
    instances: Arc<[Instance]>,
    backends: Vec<Arc<Backend>>,
    rules: Vec<Compiled>,
    /// Those of the rules, and last the one of calls that no rule is about.
    groups: Vec<Group>,
    shared: Arc<Shared>,
    notes: Vec<String>,
}

/// What a set is made of.
pub(crate) struct Plan<'a> {
    pub(crate) instances: Arc<[Instance]>,
    pub(crate) backends: Vec<Arc<Backend>>,
    pub(crate) traffic: &'a Traffic,
    pub(crate) seat: &'a Seat,
    pub(crate) factory: Option<&'a Factory>,
    pub(crate) cursors: &'a mut HashMap<String, Cursor>,
}

pub(crate) fn zone(instance: &Instance) -> Option<&str> {
    instance.metadata.get(ZONE).map(String::as_str).filter(|zone| !zone.is_empty())
}

/// The label `weight`, if it is a number above zero; anything else counts as 1.
pub(crate) fn weight(instance: &Instance) -> Option<f32> {
    instance.metadata.get(WEIGHT)?.parse().ok().filter(|weight: &f32| weight.is_finite() && *weight > 0.0)
}

// === impl Set ===

impl Default for Set {
    fn default() -> Self {
        let (instances, shared) = (Arc::from([]), Arc::<Shared>::default());
        let mut plan = Plan {
            instances,
            backends: Vec::new(),
            traffic: &Traffic::default(),
            seat: &Seat::default(),
            factory: None,
            cursors: &mut HashMap::new(),
        };
        plan.build(shared)
    }
}

impl Set {
    /// How many endpoints there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.backends.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.backends.is_empty()
    }

    /// What is known of the endpoint at an index.
    ///
    /// # Panics
    /// If there is none.
    #[must_use]
    pub fn backend(&self, index: usize) -> &Arc<Backend> {
        &self.backends[index]
    }

    /// The instance at an index.
    ///
    /// # Panics
    /// If there is none.
    #[must_use]
    pub fn instance(&self, index: usize) -> &Instance {
        &self.instances[index]
    }

    /// What of the policy does not apply to who is there, for people: a rule that matches no instance, a
    /// zone that nobody has, a weight that is none.
    #[must_use]
    pub fn notes(&self) -> &[String] {
        &self.notes
    }

    /// The endpoint for the next attempt of a call; `None` if there is none, or if a strict rule says that it
    /// may go to none of those that there are.
    ///
    /// What the choice leaves out is used only when there is nothing else, and so is what is ejected or
    /// down. Takes no lock and allocates nothing.
    #[must_use]
    pub fn pick(&self, choice: &Choice<'_>) -> Option<Pick> {
        self.group(choice)?.pick(choice, &self.shared, self.len())
    }

    /// The name of the strict rule that leaves nobody for a call, if one does.
    #[must_use]
    pub fn refusal(&self, choice: &Choice<'_>) -> Option<&str> {
        let rule = self.rule(choice).0?;
        (rule.strict && rule.targets.iter().all(|target| self.groups[target.group].is_empty()))
            .then_some(&rule.name)
    }

    fn group(&self, choice: &Choice<'_>) -> Option<&Group> {
        if self.rules.is_empty() {
            return self.groups.last();
        }
        self.rule(choice).1
    }

    /// The rule that applies and the group that it leads to.
    fn rule(&self, choice: &Choice<'_>) -> (Option<&Compiled>, Option<&Group>) {
        let mut draws = Draws(!choice.random);
        for rule in self.rules.iter().filter(|rule| rule.is_about(choice.metadata)) {
            let alive = |target: &&Target| {
                let group = &self.groups[target.group];
                !group.is_empty() && (rule.strict || group.is_up(&self.shared))
            };
            let sum: u64 = rule.targets.iter().filter(alive).map(|target| target.weight).sum();
            if sum == 0 {
                if rule.strict {
                    return (Some(rule), None);
                }
                continue;
            }
            let mut at = draws.below(sum as usize) as u64;
            for target in rule.targets.iter().filter(alive) {
                if at < target.weight {
                    return (Some(rule), Some(&self.groups[target.group]));
                }
                at -= target.weight;
            }
            // Somebody went down since the sum was made: as if the rule had nobody left.
        }
        (None, self.groups.last())
    }

    /// Everything that is known of the endpoints, for people.
    #[must_use]
    pub fn view(&self, now: Duration) -> Vec<BackendView> {
        self.instances
            .iter()
            .zip(&self.backends)
            .map(|(instance, backend)| view::of(instance, backend, now))
            .collect()
    }
}

// === impl Plan ===

impl Plan<'_> {
    pub(crate) fn build(&mut self, shared: Arc<Shared>) -> Set {
        let mut notes = self.odd_weights();
        let (mut groups, mut rules) = (Vec::new(), Vec::new());
        for rule in &self.traffic.rules {
            let chosen = rules::targets(rule);
            let mut targets = Vec::new();
            for (at, (weight, fits)) in chosen.into_iter().enumerate() {
                let indices: Vec<u32> = (0..self.instances.len() as u32)
                    .filter(|&index| fits.iter().all(|fit| fit.matches(&self.instances[index as usize])))
                    .collect();
                if indices.is_empty() && weight > 0 && !self.instances.is_empty() {
                    notes.push(rules::nobody(rule, at));
                }
                targets.push(Target { weight, group: groups.len() });
                groups.push(self.group(&format!("{}/{at}", rule.name), Some(indices), &mut notes));
            }
            rules.push(Compiled::new(rule, targets));
        }
        groups.push(self.group("", None, &mut notes));
        notes.dedup();
        let (instances, backends) = (Arc::clone(&self.instances), self.backends.clone());
        Set { instances, backends, rules, groups, shared, notes }
    }

    /// Divides a group by zones and subsets.
    fn group(&mut self, name: &str, indices: Option<Vec<u32>>, notes: &mut Vec<String>) -> Group {
        let panic = self.traffic.ejection.panic;
        let Some(preference) = &self.traffic.zone else {
            return Group::new(vec![self.tier(name, indices)], None, panic);
        };
        let note = |text: &str| format!("zone: {text}, so all zones are alike");
        let Some(own) = &self.seat.zone else {
            notes.push(note("this caller knows none of its own"));
            return Group::new(vec![self.tier(name, indices)], None, panic);
        };
        let all = indices.unwrap_or_else(|| (0..self.instances.len() as u32).collect());
        let near = |&index: &u32| zone(&self.instances[index as usize]) == Some(own);
        let (near, far): (Vec<u32>, Vec<u32>) = all.into_iter().partition(near);
        if near.is_empty() || far.is_empty() {
            if near.is_empty() && !far.is_empty() {
                let whose = if name.is_empty() { "no instance" } else { "no instance that a rule chose" };
                notes.push(note(&format!("{whose} is in {own:?}")));
            }
            let all = if near.is_empty() { far } else { near };
            return Group::new(vec![self.tier(name, Some(all))], None, panic);
        }
        let (near, far) =
            (self.tier(&format!("{name}/near"), Some(near)), self.tier(&format!("{name}/far"), Some(far)));
        Group::new(vec![near, far], Some(preference.spill as f32), panic)
    }

    fn tier(&mut self, name: &str, mut indices: Option<Vec<u32>>) -> Tier {
        let all = indices.as_ref().map_or(self.backends.len(), Vec::len);
        if let Some(most) = self.traffic.subset.map(|most| most as usize).filter(|&most| most < all) {
            let mut chosen = indices.unwrap_or_else(|| (0..self.backends.len() as u32).collect());
            // The highest of a draw that only this caller makes so; an endpoint that comes or goes changes one
            // place of the subset at most.
            let draw = |&index: &u32| crate::mix(self.seat.seed ^ self.backends[index as usize].key());
            chosen.select_nth_unstable_by_key(most, draw);
            chosen.truncate(most);
            chosen.sort_unstable();
            indices = Some(chosen);
        }
        let list: Vec<Arc<Backend>> = match &indices {
            Some(indices) => {
                indices.iter().map(|&index| Arc::clone(&self.backends[index as usize])).collect()
            }
            None => self.backends.clone(),
        };
        let cursor = Arc::clone(self.cursors.entry(name.to_owned()).or_default());
        let policy = match self.factory {
            Some(factory) => factory(&list),
            None => self.traffic.policy.build(self.traffic, &list, cursor),
        };
        Tier::new(list, indices, policy)
    }

    fn odd_weights(&self) -> Vec<String> {
        let odd = self.instances.iter().filter_map(|instance| {
            let text = instance.metadata.get(WEIGHT)?;
            let odd = weight(instance).is_none();
            odd.then(|| {
                format!(
                    "weight: {text:?} of instance {} is no number above 0, so it counts as 1",
                    instance.id
                )
            })
        });
        odd.collect()
    }
}
