//! The endpoints of a moment under one policy: rules choose a group, zones a part of it, the policy an
//! endpoint.
//!
//! A set is made whenever instances or the policy change and is immutable, so calls share it without a
//! lock. It shares with the one before whatever stayed. What changes between, ejections and slow starts, is in the [`Backend`]s, and each part of a set looks
//! once per change who of its own is in.

use std::sync::Arc;
use std::time::Duration;

use formic_core::{Instance, Members};

use crate::Backend;
use crate::ejection::Shared;
use crate::policy::{Care, Choice, Draws};
use crate::roster::Roster;
use crate::table::Table;
use crate::traffic::Traffic;

mod group;
pub(crate) mod rules;
pub(crate) mod view;

pub use view::{BackendView, State};

pub(crate) use group::{Group, Scale, Tier};

use group::{Census, Scene};
use rules::{Compiled, Target};

/// What is asked of the endpoint of a call, from the best to the last resort; and whether it may be one where this
/// call was already. Rules are followed as far as each goes: who is in anywhere is better than who is out by the rule.
const RESORTS: [(Care, bool); 5] =
    [(Care::In, false), (Care::In, true), (Care::Up, false), (Care::Up, true), (Care::Any, true)];

/// Labels of an instance that mean something here.
const ZONE: &str = "zone";
pub(crate) const WEIGHT: &str = "weight";

/// Where a caller stands.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
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

/// The endpoints of a moment. Each has an index that stays its own from set to set; an index of one who left is
/// another's at some time after it was forgotten.
#[derive(Debug)]
pub struct Set {
    pub(crate) len: usize,
    pub(crate) instances: Table<Arc<Instance>>,
    pub(crate) backends: Table<Arc<Backend>>,
    pub(crate) rules: Arc<[Compiled]>,
    /// Those of the rules, and last the one of calls that no rule is about.
    pub(crate) groups: Vec<Group>,
    pub(crate) shared: Arc<Shared>,
    pub(crate) notes: Vec<String>,
    pub(crate) changed: Box<[u32]>,
}

pub(crate) fn zone(instance: &Instance) -> Option<&str> {
    instance.metadata.get(ZONE).map(String::as_str).filter(|zone| !zone.is_empty())
}

/// So heavy is nobody: sums of weights stay exact, and one endpoint is not the whole set.
const HEAVIEST: f32 = 1e6;

/// The label `weight`, if it is a number above zero and at most a million; anything else counts as 1.
pub(crate) fn weight(instance: &Instance) -> Option<f32> {
    instance.metadata.get(WEIGHT)?.parse().ok().filter(|weight: &f32| *weight > 0.0 && *weight <= HEAVIEST)
}

// === impl Set ===

impl Default for Set {
    fn default() -> Self {
        Roster::new().arrange(&Members::new(), &Traffic::default(), &Seat::default(), Duration::ZERO)
    }
}

impl Set {
    /// How many endpoints there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// What is known of the endpoint at an index.
    ///
    /// # Panics
    /// If there is none.
    #[must_use]
    pub fn backend(&self, index: usize) -> &Arc<Backend> {
        self.backends.get(index).expect("an index is an endpoint's")
    }

    /// The instance at an index.
    ///
    /// # Panics
    /// If there is none.
    #[must_use]
    pub fn instance(&self, index: usize) -> &Instance {
        self.instances.get(index).expect("an index is an endpoint's")
    }

    /// The indices that there are.
    pub fn indices(&self) -> impl Iterator<Item = usize> {
        self.instances.iter().map(|(index, _)| index)
    }

    /// The endpoint at an index, if there is one.
    #[must_use]
    pub fn get(&self, index: usize) -> Option<(&Arc<Instance>, &Arc<Backend>)> {
        Some((self.instances.get(index)?, self.backends.get(index)?))
    }

    /// The indices at which this is not what the roster arranged before: somebody came, left or is described otherwise.
    #[must_use]
    pub fn changed(&self) -> &[u32] {
        &self.changed
    }

    /// What of the policy does not apply to who is there, for people: a rule that matches no instance, a
    /// zone that nobody has, a weight that is none.
    #[must_use]
    pub fn notes(&self) -> &[String] {
        &self.notes
    }

    /// Whether so few endpoints are in that ejections are ignored, but for rules that have somebody who is in.
    #[must_use]
    pub fn panics(&self) -> bool {
        self.groups.last().is_some_and(|group| group.census(self.scene()).panics)
    }

    /// How many endpoints are in, and of how many of those that calls go to which no rule is about: what
    /// [`panics`](Self::panics) goes by.
    #[must_use]
    pub fn fit(&self) -> (u32, usize) {
        self.groups.last().map_or((0, 0), |group| {
            let census = group.census(self.scene());
            (census.fit, census.len)
        })
    }

    /// What of the policy does not hold for as long as the endpoints fare as they do, for people: a panic, a subset
    /// that is not kept to, a rule that is left.
    #[must_use]
    pub fn plight(&self) -> Vec<String> {
        let scene = self.scene();
        let mut all = Vec::new();
        let Some(everybody) = self.groups.last().map(|group| group.census(scene)) else { return all };
        if everybody.panics {
            let Census { fit, len, .. } = everybody;
            all.push(format!(
                "panic: {fit} of {len} instances are in, so those that are ejected get calls, too"
            ));
        }
        if let Some((fit, len)) = everybody.subset {
            all.push(format!(
                "subset: {fit} of its {len} instances are in, so all {} get calls",
                everybody.len
            ));
        }
        for rule in &*self.rules {
            let counted = || {
                let targets = rule.targets.iter().filter(|target| target.weight > 0);
                targets.map(|target| (target, self.groups[target.group].census(scene)))
            };
            let dead = || counted().filter(|(_, census)| census.len > 0 && census.fit == 0);
            let gone = counted().all(|(_, census)| census.fit == 0);
            let so = match (gone, rule.strict) {
                (false, _) => "its share goes to the others",
                (true, false) if everybody.fit > 0 => "the rule is passed over",
                // They get the calls all the same.
                (true, _) => continue,
            };
            let note = |who: &str| format!("rule {:?}: every instance that {who} is out, so {so}", rule.name);
            all.extend(dead().map(|(target, _)| note(&target.who)));
        }
        all
    }

    /// The endpoint for the next attempt of a call; `None` if there is none, or if a strict rule says that it
    /// may go to none of those that there are.
    ///
    /// What the choice leaves out is used only when there is nothing else, and so is what is ejected or
    /// down: a rule that is not strict is left for whoever is in elsewhere. Takes no lock and allocates nothing.
    #[must_use]
    pub fn pick(&self, choice: &Choice<'_>) -> Option<Pick> {
        RESORTS.iter().find_map(|&resort| self.resort(choice, resort))
    }

    /// The name of the strict rule that leaves nobody for a call, if one does.
    #[must_use]
    pub fn refusal(&self, choice: &Choice<'_>) -> Option<&str> {
        let has_somebody = |rule: &Compiled| {
            rule.targets.iter().any(|target| target.weight > 0 && !self.groups[target.group].is_empty())
        };
        let mut about = self.rules.iter().filter(|rule| rule.is_about(choice.metadata));
        let rule = about.find(|rule| rule.strict || has_somebody(rule))?;
        (!has_somebody(rule)).then_some(&rule.name)
    }

    fn scene(&self) -> Scene<'_> {
        Scene { shared: &self.shared, table: &self.backends }
    }

    /// The endpoint as of the first rule that leads to one, or of none.
    fn resort(&self, choice: &Choice<'_>, resort: (Care, bool)) -> Option<Pick> {
        let mut draws = Draws(!choice.random);
        for rule in self.rules.iter().filter(|rule| rule.is_about(choice.metadata)) {
            let found = self.follow(rule, choice, resort, &mut draws);
            if found.is_some() || rule.strict {
                return found;
            }
        }
        self.groups.last()?.pick(choice, self.scene(), resort, true)
    }

    /// The endpoint as of a rule: of a share by weight, or else of one that has somebody for this call.
    fn follow(
        &self,
        rule: &Compiled,
        choice: &Choice<'_>,
        resort: (Care, bool),
        draws: &mut Draws,
    ) -> Option<Pick> {
        let scene = self.scene();
        let group = |target: &Target| &self.groups[target.group];
        let alive = |target: &&Target| target.weight > 0 && group(target).is_alive(choice, scene, resort.0);
        let sum: u64 = rule.targets.iter().filter(alive).map(|target| target.weight).sum();
        if sum == 0 {
            return None;
        }
        let mut at = draws.below(sum as usize) as u64;
        let drawn = rule.targets.iter().position(|target| {
            let weight = if alive(&target) { target.weight } else { 0 };
            let is_it = at < weight;
            at = at.saturating_sub(weight);
            is_it
        });
        // Those who were counted may be out by now, or all be tried by this call.
        let (before, after) = rule.targets.split_at(drawn.unwrap_or_default());
        let mut targets = after.iter().chain(before).filter(alive);
        targets.find_map(|target| group(target).pick(choice, scene, resort, rule.strict))
    }

    /// Everything that is known of the endpoints, for people, by index.
    pub fn view(&self, now: Duration) -> impl Iterator<Item = (usize, BackendView)> {
        let shown =
            move |(instance, backend): (&Arc<Instance>, &Arc<Backend>)| view::of(instance, backend, now);
        self.indices().filter_map(move |index| Some((index, shown(self.get(index)?))))
    }
}

#[cfg(test)]
mod tests;
