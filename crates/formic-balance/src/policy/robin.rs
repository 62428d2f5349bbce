//! One after the other, alike.

use std::sync::atomic::Ordering;

use super::{Among, Choice, Cursor, Draws, Policy, scan};

/// One after the other, across all calls of the process. The turn goes on when endpoints change.
#[derive(Debug)]
pub struct RoundRobin(Cursor);

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
