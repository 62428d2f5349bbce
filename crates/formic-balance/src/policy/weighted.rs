//! One after the other, by weight.
//!
//! The usual smooth weighted round robin changes the state of every endpoint with each pick and needs a lock for it;
//! this one counts turns. Endpoints are in classes within which weights differ by less than twice: those whose weights
//! have the same power of two. A class gets its turns by the golden ratio, which spreads them as evenly as can be;
//! within a class a stride scheduler, like gRPC's, has each endpoint let pass as many turns as its weight falls short
//! of the largest. So a turn is passed on less than once on average, however far weights are apart.
//!
//! Who comes or goes changes an entry of its class and the sum of its weights, and nobody else's turn: sums are of
//! whole numbers, so they stay exact, and a round that has begun goes on where it was.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::{Among, Choice, Cursor, Draws, Policy, scan};
use crate::table::{Read, Table};

/// One after the other, those of more weight more often and evenly between: of weights 5, 1, 1 the first gets
/// five of seven calls, and not five in a row.
#[derive(Debug)]
pub struct WeightedRoundRobin {
    turn: Cursor,
    /// The heaviest last.
    classes: Box<[Rotation]>,
}

/// Who is in which class, kept while endpoints come and go.
#[derive(Debug, Default)]
pub(crate) struct Schedule {
    /// By the power of their weights.
    classes: BTreeMap<u32, Class>,
    /// By position: the class, and the place in it.
    places: Vec<(u32, u32)>,
}

/// Endpoints of about the same weight.
#[derive(Debug)]
struct Class {
    /// By place.
    entries: Table<Entry>,
    len: usize,
    /// Of their shares.
    sum: u64,
    /// How many there are of each share.
    shares: BTreeMap<u32, usize>,
    lap: Lap,
}

/// An endpoint in its class.
#[derive(Clone, Copy, Debug)]
struct Entry {
    position: u32,
    /// Its weight, in units of the class.
    share: u32,
    /// Where in its stride it began: endpoints of equal weight at different places, or they would all pass together.
    phase: u32,
}

/// A class as calls take turns in it.
#[derive(Debug)]
struct Rotation {
    /// The weight of this one and those before.
    until: f64,
    /// By which a share becomes one of [`WHOLE`]; the largest is all of it.
    scale: f64,
    entries: Table<Entry>,
    lap: Lap,
}

/// From turns to places and rounds, for as long as so many share them.
#[derive(Clone, Debug)]
struct Lap {
    turn: Arc<AtomicUsize>,
    /// The turn from which on this holds, and where it was by then.
    since: usize,
    place: usize,
    round: u64,
    /// None before the first.
    len: usize,
}

/// The largest share, as the strides count it.
const WHOLE: u64 = 1 << 32;

/// So many endpoints that cannot be picked are passed over, each for anybody.
const TURNS: usize = 64;

/// The golden ratio's fraction of 2⁶⁴.
const GOLDEN: u64 = 0x9e37_79b9_7f4a_7c15;

/// The bits of a fraction in an `f32`.
const FRACTION: u32 = f32::MANTISSA_DIGITS - 1;

/// The class of a weight, and its share there: a weight is the share times a power of two, without a rest.
fn split(weight: f32) -> (u32, u32) {
    let bits = weight.max(f32::MIN_POSITIVE).to_bits();
    (bits >> FRACTION, bits & ((1 << FRACTION) - 1) | 1 << FRACTION)
}

/// What a unit of a class weighs.
fn unit(class: u32) -> f64 {
    f64::from(f32::from_bits(class << FRACTION)) / f64::from(1u32 << FRACTION)
}

// A plain number, beside the others.
impl Read for Entry {}

// === impl Schedule ===

impl Schedule {
    /// Somebody comes, at the next position.
    pub(crate) fn add(&mut self, seat: u32, weight: f32, begin: &Cursor) {
        let ((class, share), position) = (split(weight), self.places.len() as u32);
        let one = self.classes.entry(class).or_insert_with(|| Class::new(begin.load(Ordering::Relaxed)));
        self.places.push((class, one.len as u32));
        let phase = (u64::from(seat).wrapping_mul(GOLDEN) >> 32) as u32;
        one.entries.set(one.len, Some(Entry { position, share, phase }));
        one.len += 1;
        one.sum += u64::from(share);
        *one.shares.entry(share).or_default() += 1;
    }

    /// Whoever has a position leaves, and the last one takes its place there.
    pub(crate) fn remove(&mut self, position: usize) {
        let (class, place) = self.places[position];
        if let Some(one) = self.classes.get_mut(&class) {
            if let Some(moved) = one.remove(place as usize) {
                self.places[moved as usize].1 = place;
            }
            if one.len == 0 {
                self.classes.remove(&class);
            }
        }
        self.places.swap_remove(position);
        let Some(&(class, place)) = self.places.get(position) else { return };
        if let Some(one) = self.classes.get_mut(&class)
            && let Some(&entry) = one.entries.get(place as usize)
        {
            one.entries.set(place as usize, Some(Entry { position: position as u32, ..entry }));
        }
    }

    /// As calls take turns now.
    pub(crate) fn policy(&mut self, turn: Cursor) -> WeightedRoundRobin {
        let mut until = 0.0;
        let rotation = |(&class, one): (&u32, &mut Class)| {
            until += one.sum as f64 * unit(class);
            one.lap.go_on(one.len);
            let largest = one.shares.last_key_value().map_or(1, |(&share, _)| share);
            let scale = WHOLE as f64 / f64::from(largest);
            Rotation { until, scale, entries: one.entries.clone(), lap: one.lap.clone() }
        };
        let classes = self.classes.iter_mut().map(rotation).collect();
        WeightedRoundRobin { turn, classes }
    }
}

// === impl Class ===

impl Class {
    fn new(begin: usize) -> Self {
        let lap = Lap { turn: Arc::new(AtomicUsize::new(begin)), since: begin, place: 0, round: 0, len: 0 };
        Self { entries: Table::default(), len: 0, sum: 0, shares: BTreeMap::new(), lap }
    }

    /// The last one takes the place of who leaves. Gives back the position of that one.
    fn remove(&mut self, place: usize) -> Option<u32> {
        let gone = self.entries.set(place, None)?;
        self.len -= 1;
        self.sum -= u64::from(gone.share);
        if let Some(count) = self.shares.get_mut(&gone.share) {
            *count -= 1;
            if *count == 0 {
                self.shares.remove(&gone.share);
            }
        }
        let moved = self.entries.set(self.len, None)?;
        self.entries.set(place, Some(moved));
        Some(moved.position)
    }
}

// === impl Lap ===

impl Lap {
    fn at(&self, turn: usize) -> (usize, u64) {
        let passed = self.place + turn.wrapping_sub(self.since);
        (passed % self.len, self.round + (passed / self.len) as u64)
    }

    /// With so many from now on: the round that has begun is not begun anew.
    fn go_on(&mut self, len: usize) {
        if len == self.len {
            return;
        }
        let turn = self.turn.load(Ordering::Relaxed);
        let (place, round) = match self.len {
            0 => (turn % len, 0),
            _ => self.at(turn),
        };
        let over = place >= len;
        (self.place, self.round) = if over { (0, round + 1) } else { (place, round) };
        (self.since, self.len) = (turn, len);
    }
}

// === impl Rotation ===

impl Rotation {
    /// Whose turn it is.
    fn next(&self) -> usize {
        let mut last = 0;
        // Whoever has the largest weight takes every turn, so twice around is enough.
        for _ in 0..2 * self.lap.len {
            let (place, round) = self.lap.at(self.lap.turn.fetch_add(1, Ordering::Relaxed));
            let Some(entry) = self.entries.get(place) else { continue };
            let stride = (f64::from(entry.share) * self.scale).round() as u64;
            let at = stride.wrapping_mul(round).wrapping_add(u64::from(entry.phase)) % WHOLE;
            if at + stride >= WHOLE {
                return entry.position as usize;
            }
            last = entry.position as usize;
        }
        // Others took turns meanwhile, all of them.
        last
    }
}

// === impl WeightedRoundRobin ===

impl Policy for WeightedRoundRobin {
    fn pick(&self, among: &Among<'_>, choice: &Choice<'_>) -> Option<usize> {
        let (len, mut draws) = (among.len(), Draws(choice.random));
        let sum = self.classes.last()?.until;
        let mut cold = None;
        for _ in 0..TURNS.min(4 * len) {
            let turn = self.turn.fetch_add(1, Ordering::Relaxed) as u64;
            let at = (turn.wrapping_mul(GOLDEN) >> 11) as f64 / (1u64 << 53) as f64 * sum;
            let class = self.classes.partition_point(|class| class.until <= at).min(self.classes.len() - 1);
            let position = self.classes[class].next();
            if !among.usable(position, choice) {
                continue;
            }
            if among.is_warm(position, choice, &mut draws) {
                return Some(position);
            }
            cold = Some(position);
        }
        cold.or_else(|| scan(draws.below(len), len, |position| among.usable(position, choice)))
    }
}

#[cfg(test)]
impl WeightedRoundRobin {
    /// That were taken within the classes.
    fn turns(&self) -> usize {
        self.classes.iter().map(|class| class.lap.turn.load(Ordering::Relaxed)).sum()
    }
}

/// What a class is, by identity: its number, the sum of its shares, the largest, and who has which.
#[cfg(test)]
pub(crate) type ClassView = (u32, u64, u32, std::collections::BTreeMap<String, u32>);

#[cfg(test)]
impl Schedule {
    /// The classes, after a look at whether places and positions lead to each other.
    pub(crate) fn view(&self, name: impl Fn(usize) -> String) -> Vec<ClassView> {
        let count: usize = self.classes.values().map(|class| class.len).sum();
        assert_eq!(count, self.places.len(), "everybody is in one class");
        for (position, &(class, place)) in self.places.iter().enumerate() {
            let entry = self.classes[&class].entries.get(place as usize).expect("a place is somebody's");
            assert_eq!(entry.position as usize, position);
        }
        let shown = |(&class, one): (&u32, &Class)| {
            assert_eq!(one.entries.iter().count(), one.len, "nobody is left over");
            assert_eq!(one.shares.values().sum::<usize>(), one.len);
            let largest = *one.shares.last_key_value().expect("a class is not empty").0;
            let all = one.entries.iter().map(|(_, entry)| (name(entry.position as usize), entry.share));
            (class, one.sum, largest, all.collect())
        };
        self.classes.iter().map(shown).collect()
    }
}

#[cfg(test)]
mod tests;
