//! The power of two choices over peak-EWMA latency.

use super::{Among, Choice, Draws, Policy};

/// The better of two endpoints drawn at random, by latency times work in flight.
///
/// Two, and not the best of all: callers that all know the same best endpoint would run it over
/// together.
#[derive(Clone, Copy, Debug, Default)]
pub struct P2c;

impl Policy for P2c {
    fn pick(&self, among: &Among<'_>, choice: &Choice<'_>) -> Option<usize> {
        let mut draws = Draws(choice.random);
        let usable = |position: usize| among.usable(position, choice);
        let first = draws.usable(among.len(), usable)?;
        let Some(second) = draws.usable(among.len(), |other| other != first && usable(other)) else {
            return Some(first);
        };
        let (one, other) = (among.backend(first), among.backend(second));
        // One that only starts takes part as often as its share is worth; by cost it would get nothing from
        // idle neighbours, and so never start.
        let warm = (among.is_warm(first, choice, &mut draws), among.is_warm(second, choice, &mut draws));
        let swap = match warm {
            (true, false) => false,
            (false, true) => true,
            _ => other.cost(choice.now) < one.cost(choice.now),
        };
        let (best, worse) = if swap { (second, first) } else { (first, second) };
        Some(if among.backend(worse).take_trial(choice.now) { worse } else { best })
    }

    fn weighs(&self) -> bool {
        true
    }
}
