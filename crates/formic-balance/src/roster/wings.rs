//! The groups that rules and zones divide endpoints into, kept while these come and go.

use std::collections::HashMap;
use std::sync::Arc;

use formic_core::Instance;

use super::part::Part;
use crate::Backend;
use crate::board::Board;
use crate::load::Loads;
use crate::policy::{Cursor, Factory};
use crate::set::rules::{self, Compiled, Target};
use crate::set::{Group, Seat, zone};
use crate::table::Table;
use crate::traffic::Traffic;

/// All groups of a policy: those of the rules, and last the one of calls that no rule is about.
#[derive(Debug, Default)]
pub(super) struct Wings {
    rules: Arc<[Compiled]>,
    all: Vec<Wing>,
    zone: Option<String>,
}

/// A group: the own zone, or all, and the others.
#[derive(Debug)]
struct Wing {
    /// It is a rule's.
    chosen: bool,
    near: Part,
    far: Part,
    /// Everybody, where the others are subsets.
    rest: Option<Part>,
}

// === impl Wings ===

impl Wings {
    /// With nobody in them.
    pub(super) fn new(
        traffic: &Traffic,
        seat: &Seat,
        custom: bool,
        cursors: &mut HashMap<String, Cursor>,
    ) -> Self {
        let whole = Traffic { subset: None, ..traffic.clone() };
        let mut numbers = 0..;
        let mut part = |traffic: &Traffic, name: &str| {
            let cursor = Arc::clone(cursors.entry(name.to_owned()).or_default());
            Part::new(traffic, seat.seed, cursor, numbers.next().unwrap_or(usize::MAX), custom)
        };
        let zone = if traffic.zone.is_some() { seat.zone.clone() } else { None };
        let mut wing = |chosen, name: &str| {
            let rest = traffic.subset.is_some().then(|| part(&whole, &format!("{name}/rest")));
            let (near, far) = match &zone {
                Some(_) => (part(traffic, &format!("{name}/near")), part(traffic, &format!("{name}/far"))),
                None => (part(traffic, name), Part::default()),
            };
            Wing { chosen, near, far, rest }
        };
        let (mut all, mut compiled) = (Vec::new(), Vec::new());
        for rule in &traffic.rules {
            let mut targets = Vec::new();
            for (at, (weight, _)) in rules::targets(rule).into_iter().enumerate() {
                let who = rules::describe(rule, at).into();
                targets.push(Target { weight, group: all.len(), who });
                all.push(wing(true, &format!("{}/{at}", rule.name)));
            }
            compiled.push(Compiled::new(rule, targets));
        }
        all.push(wing(false, ""));
        Self { rules: compiled.into(), all, zone }
    }

    pub(super) fn rules(&self) -> Arc<[Compiled]> {
        Arc::clone(&self.rules)
    }

    pub(super) fn add(
        &mut self,
        traffic: &Traffic,
        backend: &Backend,
        instance: &Instance,
        table: &Table<Arc<Backend>>,
    ) {
        self.each(traffic, instance, |part| part.add(backend, table));
    }

    pub(super) fn remove(
        &mut self,
        traffic: &Traffic,
        backend: &Backend,
        instance: &Instance,
        table: &Table<Arc<Backend>>,
    ) {
        self.each(traffic, instance, |part| part.remove(backend, table));
    }

    /// Counts the work in flight anew, where calls count it: some began or ended while their endpoint came or went.
    pub(super) fn count(&self, table: &Table<Arc<Backend>>, loads: &Loads) {
        let parts = self.all.iter().flat_map(|wing| [&wing.near, &wing.far].into_iter().chain(&wing.rest));
        parts.for_each(|part| part.count(table, loads));
    }

    /// The parts that an instance belongs to.
    fn each(&mut self, traffic: &Traffic, instance: &Instance, mut tell: impl FnMut(&mut Part)) {
        let own = self.zone.as_deref();
        let is_near = own.is_none_or(|own| zone(instance) == Some(own));
        let mut wings = self.all.iter_mut();
        let mut tell = |wing: &mut Wing| {
            tell(if is_near { &mut wing.near } else { &mut wing.far });
            wing.rest.iter_mut().for_each(&mut tell);
        };
        for rule in &traffic.rules {
            for ((_, fits), wing) in rules::targets(rule).iter().zip(&mut wings) {
                if fits.iter().all(|fit| fit.matches(instance)) {
                    tell(wing);
                }
            }
        }
        wings.for_each(tell);
    }

    /// As a set has them.
    pub(super) fn groups(
        &mut self,
        traffic: &Traffic,
        seat: &Seat,
        factory: Option<&Factory>,
        table: &Table<Arc<Backend>>,
        board: &Board,
        notes: &mut Vec<String>,
    ) -> Vec<Group> {
        let nobody = self.all.last().is_none_or(Wing::is_empty);
        if !nobody {
            let is_empty = |target: &Target| self.all[target.group].is_empty();
            let compiled = traffic.rules.iter().zip(&*self.rules);
            notes.extend(
                compiled.flat_map(|(rule, compiled)| rules::notes(rule, &compiled.targets, is_empty)),
            );
        }
        let mut groups = Vec::with_capacity(self.all.len());
        for wing in &mut self.all {
            let spill = wing.spill(traffic, seat, notes);
            let far_only = wing.near.is_empty() && !wing.far.is_empty();
            let mut tiers = Vec::with_capacity(2);
            if !far_only {
                tiers.push(wing.near.tier(traffic, factory, table, board));
            }
            if !wing.far.is_empty() {
                tiers.push(wing.far.tier(traffic, factory, table, board));
            }
            let chosen = wing.chosen();
            let rest = wing.rest.as_mut().filter(|rest| rest.seats().len() > chosen);
            let rest = rest.map(|rest| rest.tier(traffic, factory, table, board));
            groups.push(Group::new(tiers, rest, spill, traffic.ejection.panic));
        }
        groups
    }
}

// === impl Wing ===

impl Wing {
    fn is_empty(&self) -> bool {
        self.near.is_empty() && self.far.is_empty()
    }

    /// How many are picked from as a rule. As many as there are are no subset.
    fn chosen(&self) -> usize {
        self.near.seats().len() + self.far.seats().len()
    }

    /// How much more the own zone may cost, where there is a choice; says why there is none.
    fn spill(&self, traffic: &Traffic, seat: &Seat, notes: &mut Vec<String>) -> Option<f32> {
        let preference = traffic.zone.as_ref()?;
        let mut note = |text: &str| notes.push(format!("zone: {text}, so all zones are alike"));
        let Some(own) = &seat.zone else {
            note("this caller knows none of its own");
            return None;
        };
        if self.near.is_empty() && !self.far.is_empty() {
            let whose = if self.chosen { "no instance that a rule chose" } else { "no instance" };
            note(&format!("{whose} is in {own:?}"));
        }
        Some(preference.spill as f32)
    }
}

#[cfg(test)]
impl Wings {
    /// Those that are picked from.
    pub(super) fn parts(&self) -> impl Iterator<Item = &Part> {
        self.all.iter().flat_map(|wing| {
            let rest = wing.rest.as_ref().filter(|rest| rest.seats().len() > wing.chosen());
            [&wing.near, &wing.far].into_iter().chain(rest)
        })
    }
}
