//! One after the other, alike or by weight.

use std::sync::atomic::Ordering;

use super::{Among, Choice, Cursor, Draws, Policy, scan};

/// One after the other, across all calls of the process. The turn goes on when endpoints change.
#[derive(Debug)]
pub struct RoundRobin(Cursor);

/// One after the other, those of more weight more often and evenly between: of weights 5, 1, 1 the first gets
/// five of seven calls, and not five in a row.
///
/// A stride scheduler, like gRPC's: the usual smooth weighted round robin changes the state of every
/// endpoint with each pick and needs a lock for it; this one counts turns. In each generation of turns an
/// endpoint lets pass as many as its weight falls short of the largest.
#[derive(Debug)]
pub struct WeightedRoundRobin {
    turn: Cursor,
    largest: f32,
}

/// The largest weight, as the strides count it.
const WHOLE: u64 = u16::MAX as u64;

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
    pub(crate) fn new(largest: f32, turn: Cursor) -> Self {
        Self { turn, largest: largest.max(f32::MIN_POSITIVE) }
    }
}

impl Policy for WeightedRoundRobin {
    fn pick(&self, among: &Among<'_>, choice: &Choice<'_>) -> Option<usize> {
        let len = among.len();
        if len == 0 {
            return None;
        }
        // Twice around: whoever has the largest weight takes every turn, unless it is out.
        for _ in 0..2 * len {
            let turn = self.turn.fetch_add(1, Ordering::Relaxed);
            let (position, generation) = (turn % len, (turn / len) as u64);
            let backend = among.backend(position);
            let share = backend.weight() / self.largest * backend.warmth(choice.now);
            let weight = ((share * WHOLE as f32) as u64).clamp(1, WHOLE);
            // Endpoints of equal weight begin at different places, or they would all pass together.
            let at = weight.wrapping_mul(generation).wrapping_add(position as u64 * (WHOLE / 2)) % WHOLE;
            if at >= WHOLE - weight && among.usable(position, choice) {
                return Some(position);
            }
        }
        scan(Draws(choice.random).below(len), len, |position| among.usable(position, choice))
    }
}
