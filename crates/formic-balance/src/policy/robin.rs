//! One after the other, alike or by weight.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::{Among, Choice, Cursor, Draws, Policy, scan};

/// One after the other, across all calls of the process. The turn goes on when endpoints change.
#[derive(Debug)]
pub struct RoundRobin(Cursor);

/// One after the other, those of more weight more often and evenly between: of weights 5, 1, 1 the first gets
/// five of seven calls, and not five in a row.
///
/// The usual smooth weighted round robin changes the state of every endpoint with each pick and needs a lock for it;
/// this one counts turns. Endpoints are in classes within which weights differ by less than twice. A class gets its
/// turns by the golden ratio, which spreads them as evenly as can be; within a class a stride scheduler, like gRPC's,
/// has each endpoint let pass as many turns as its weight falls short of the largest. So a turn is passed on less than
/// once on average, however far weights are apart.
#[derive(Debug)]
pub struct WeightedRoundRobin {
    turn: Cursor,
    /// The heaviest last.
    classes: Box<[Class]>,
}

/// Endpoints of about the same weight.
#[derive(Debug)]
struct Class {
    /// The weight of this one and those before.
    until: f64,
    largest: f32,
    /// With their weights.
    positions: Box<[(u32, f32)]>,
    turn: AtomicUsize,
}

/// The largest weight, as the strides count it.
const WHOLE: u64 = u16::MAX as u64;

/// So many endpoints that cannot be picked are passed over, each for anybody.
const TURNS: usize = 64;

// === impl RoundRobin ===

impl RoundRobin {
    pub(crate) fn new(cursor: Cursor) -> Self {
        Self(cursor)
    }
}

impl Policy for RoundRobin {
    fn pick(&self, among: &Among<'_>, choice: &Choice<'_>) -> Option<usize> {
        let (len, mut draws) = (among.len(), Draws(choice.random));
        let mut cold = None;
        // Whoever is not usable passes its turn to the next one, and that one's next turn goes on after it: or
        // it would get the share of two.
        for _ in 0..len {
            let position = self.0.fetch_add(1, Ordering::Relaxed) % len;
            if !among.usable(position, choice) {
                continue;
            }
            if among.is_warm(position, choice, &mut draws) {
                return Some(position);
            }
            cold = Some(position);
        }
        // Others may have taken turns meanwhile.
        cold.or_else(|| scan(draws.below(len.max(1)), len, |position| among.usable(position, choice)))
    }
}

// === impl WeightedRoundRobin ===

impl WeightedRoundRobin {
    /// Of the weights by position.
    pub(crate) fn new(weights: &[f32], turn: Cursor) -> Self {
        let mut classes: BTreeMap<i32, Vec<(u32, f32)>> = BTreeMap::new();
        for (position, &weight) in (0..).zip(weights) {
            let weight = weight.max(f32::MIN_POSITIVE);
            classes.entry(weight.log2().floor() as i32).or_default().push((position, weight));
        }
        let (mut until, begin) = (0.0, turn.load(Ordering::Relaxed));
        let class = |positions: Vec<(u32, f32)>| {
            until += positions.iter().map(|&(_, weight)| f64::from(weight)).sum::<f64>();
            let largest = positions.iter().map(|&(_, weight)| weight).fold(0.0, f32::max);
            Class { until, largest, positions: positions.into(), turn: AtomicUsize::new(begin) }
        };
        let classes = classes.into_values().map(class).collect();
        Self { turn, classes }
    }
}

#[cfg(test)]
impl WeightedRoundRobin {
    /// That were taken within the classes.
    pub(crate) fn turns(&self) -> usize {
        self.classes.iter().map(|class| class.turn.load(Ordering::Relaxed)).sum()
    }
}

impl Class {
    /// Whose turn it is.
    fn next(&self) -> usize {
        let len = self.positions.len();
        // Whoever has the largest weight takes every turn, so twice around is enough.
        for _ in 0..2 * len {
            let turn = self.turn.fetch_add(1, Ordering::Relaxed);
            let (place, generation) = (turn % len, (turn / len) as u64);
            let (position, weight) = self.positions[place];
            let weight = ((weight / self.largest * WHOLE as f32) as u64).clamp(1, WHOLE);
            // Endpoints of equal weight begin at different places, or they would all pass together.
            let at = weight.wrapping_mul(generation).wrapping_add(place as u64 * (WHOLE / 2)) % WHOLE;
            if at >= WHOLE - weight {
                return position as usize;
            }
        }
        // Others took turns meanwhile, all of them.
        self.positions[0].0 as usize
    }
}

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

/// The golden ratio's fraction of 2⁶⁴.
const GOLDEN: u64 = 0x9e37_79b9_7f4a_7c15;
