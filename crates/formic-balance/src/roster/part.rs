//! The endpoints among which nothing but the policy decides, kept while they come and go: each change costs itself,
//! and copies of plain numbers.

use std::collections::BTreeSet;
use std::ops::Bound;
use std::sync::Arc;

use crate::Backend;
use crate::board::{Board, Seats};
use crate::load::{Loads, Slot};
use crate::policy::{Circle, Cursor, Factory, Made, Picker, Schedule};
use crate::set::{Scale, Tier};
use crate::table::Table;
use crate::traffic::{Algorithm, Traffic};

/// No position.
const NOWHERE: u32 = u32::MAX;

/// A part of a group.
#[derive(Debug, Default)]
pub(super) struct Part {
    /// By position.
    seats: Vec<u32>,
    /// By seat.
    positions: Vec<u32>,
    members: Seats,
    subset: Option<Subset>,
    /// Where the policy is a ring. `None`: it is to be made anew.
    circle: Option<Circle>,
    rings: bool,
    /// Where it does, and the work in flight is counted.
    slot: Option<Slot>,
    /// Where the policy goes by weight.
    schedule: Option<Schedule>,
    cursor: Cursor,
    /// As it was made last; `None`: somebody came or went since.
    tier: Option<Arc<Tier>>,
}

/// Some of the endpoints only: those with the lowest of a draw that only this caller makes so.
#[derive(Debug)]
struct Subset {
    most: usize,
    seed: u64,
    all: BTreeSet<(u64, u32)>,
    /// The last that is chosen.
    last: Option<(u64, u32)>,
}

/// What becomes of who comes.
enum Entry {
    /// It is not chosen.
    Spare,
    /// It is, and another is not any more.
    Chosen { gone: Option<u32> },
}

// === impl Part ===

impl Part {
    /// With nobody in it; `number` is its own under its policy.
    pub(super) fn new(traffic: &Traffic, seed: u64, cursor: Cursor, number: usize, custom: bool) -> Self {
        let subset =
            traffic.subset.map(|most| Subset { most: most as usize, seed, all: BTreeSet::new(), last: None });
        let is = |policy| traffic.policy == policy && !custom;
        let (rings, weighs) = (is(Algorithm::Hash), is(Algorithm::WeightedRoundRobin));
        let slot = rings.then(|| Slot::new(number)).flatten();
        Self { subset, cursor, rings, slot, schedule: weighs.then(Schedule::default), ..Self::default() }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.seats.is_empty()
    }

    pub(super) fn seats(&self) -> &[u32] {
        &self.seats
    }

    pub(super) fn members(&self) -> &Seats {
        &self.members
    }

    /// Somebody comes, with a weight that it keeps until it leaves.
    pub(super) fn add(&mut self, backend: &Backend, table: &Table<Arc<Backend>>) {
        let full = self.seats.len();
        let gone = match &mut self.subset {
            None => None,
            Some(subset) => match subset.add(backend, full) {
                Entry::Spare => return,
                Entry::Chosen { gone } => gone,
            },
        };
        self.seat(backend);
        if let Some(gone) = gone.and_then(|seat| table.get(seat as usize)) {
            self.unseat(gone);
        }
    }

    /// Somebody leaves.
    pub(super) fn remove(&mut self, backend: &Backend, table: &Table<Arc<Backend>>) {
        let next = self.subset.as_mut().and_then(|subset| subset.remove(backend));
        self.unseat(backend);
        if let Some(next) = next.and_then(|seat| table.get(seat as usize)) {
            self.seat(next);
        }
    }

    fn seat(&mut self, backend: &Backend) {
        let seat = backend.seat();
        if self.positions.len() <= seat as usize {
            self.positions.resize(seat as usize + 1, NOWHERE);
        }
        self.positions[seat as usize] = self.seats.len() as u32;
        self.seats.push(seat);
        self.members.add(seat);
        self.slot.into_iter().for_each(|slot| backend.join(slot));
        if let Some(schedule) = &mut self.schedule {
            schedule.add(seat, backend.weight(), &self.cursor);
        }
        self.circle = self.circle.take().and_then(|mut circle| circle.add(backend).then_some(circle));
        self.tier = None;
    }

    /// The last one takes the place of who leaves.
    fn unseat(&mut self, backend: &Backend) {
        let seat = backend.seat();
        let Some(place) = self.positions.get_mut(seat as usize).filter(|place| **place != NOWHERE) else {
            return;
        };
        let position = std::mem::replace(place, NOWHERE);
        self.seats.swap_remove(position as usize);
        if let Some(schedule) = &mut self.schedule {
            schedule.remove(position as usize);
        }
        if let Some(&moved) = self.seats.get(position as usize) {
            self.positions[moved as usize] = position;
        }
        self.members.remove(seat);
        self.slot.into_iter().for_each(|slot| backend.leave(slot));
        self.circle = self.circle.take().and_then(|mut circle| circle.remove(backend).then_some(circle));
        self.tier = None;
    }

    /// As a set has it.
    pub(super) fn tier(
        &mut self,
        traffic: &Traffic,
        factory: Option<&Factory>,
        table: &Table<Arc<Backend>>,
        board: &Board,
    ) -> Arc<Tier> {
        if let Some(tier) = &self.tier {
            return Arc::clone(tier);
        }
        let policy = match factory {
            // It asks for a list, and so costs one.
            Some(factory) => Picker::Policy(factory(&self.list(table).cloned().collect::<Vec<_>>())),
            None => traffic.policy.build(traffic, self.made(table)),
        };
        let scale = self.slot.zip(self.circle.as_ref());
        let scale = scale.map(|(slot, circle)| Scale { slot, weight: circle.weight() });
        let (seats, members) = (self.seats.as_slice().into(), self.members.clone());
        let tier = Tier::new(seats, members, board.clone(), policy, scale);
        Arc::clone(self.tier.insert(Arc::new(tier)))
    }

    /// Counts the work in flight anew.
    pub(super) fn count(&self, table: &Table<Arc<Backend>>, loads: &Loads) {
        if let Some(slot) = self.slot {
            loads.set(slot, self.list(table).map(|backend| u64::from(backend.in_flight())).sum());
        }
    }

    fn made(&mut self, table: &Table<Arc<Backend>>) -> Made {
        if self.rings && self.circle.is_none() {
            self.circle = Some(Circle::of(self.list(table).map(|backend| &**backend)));
        }
        let places = self.circle.as_mut().map(Circle::places);
        let weighted = self.schedule.as_mut().map(|schedule| schedule.policy(Arc::clone(&self.cursor)));
        Made { cursor: Arc::clone(&self.cursor), weighted, places }
    }

    fn list<'a>(&'a self, table: &'a Table<Arc<Backend>>) -> impl Iterator<Item = &'a Arc<Backend>> + Clone {
        self.seats.iter().filter_map(|&seat| table.get(seat as usize))
    }
}

// === impl Subset ===

impl Subset {
    fn draw(&self, backend: &Backend) -> (u64, u32) {
        (crate::mix(self.seed ^ backend.key()), backend.seat())
    }

    fn add(&mut self, backend: &Backend, chosen: usize) -> Entry {
        let drawn = self.draw(backend);
        self.all.insert(drawn);
        if chosen < self.most {
            self.last = self.last.max(Some(drawn));
            return Entry::Chosen { gone: None };
        }
        let Some(last) = self.last.filter(|last| drawn < *last) else { return Entry::Spare };
        self.last = self.all.range(..last).next_back().copied();
        Entry::Chosen { gone: Some(last.1) }
    }

    /// Gives back who is chosen instead.
    fn remove(&mut self, backend: &Backend) -> Option<u32> {
        let drawn = self.draw(backend);
        self.all.remove(&drawn);
        let last = self.last.filter(|last| drawn <= *last)?;
        let next = self.all.range((Bound::Excluded(last), Bound::Unbounded)).next().copied();
        self.last = next.or_else(|| self.all.range(..=last).next_back().copied());
        next.map(|(_, seat)| seat)
    }
}

#[cfg(test)]
impl Part {
    /// The places of its ring, as who has them.
    pub(super) fn ring(&self, name: impl Fn(u32) -> String) -> Option<Vec<(u64, String)>> {
        let circle = self.circle.as_ref().filter(|_| !self.seats.is_empty())?;
        Some(circle.all().into_iter().map(|(hash, seat)| (hash, name(seat))).collect())
    }

    /// Its classes by weight, as who is in them.
    pub(super) fn classes(&self, name: impl Fn(u32) -> String) -> Option<Vec<crate::policy::ClassView>> {
        let name = |position: usize| name(self.seats[position]);
        Some(self.schedule.as_ref()?.view(name))
    }

    /// Seats and positions lead to each other, and nowhere else.
    pub(super) fn is_consistent(&self) -> bool {
        let there = |(position, &seat): (usize, &u32)| self.positions[seat as usize] as usize == position;
        let seats = self.positions.iter().filter(|&&position| position != NOWHERE).count();
        let mut members = Seats::default();
        self.seats.iter().for_each(|&seat| members.add(seat));
        members.pad(&self.members);
        self.seats.iter().enumerate().all(there) && seats == self.seats.len() && members == self.members
    }
}
