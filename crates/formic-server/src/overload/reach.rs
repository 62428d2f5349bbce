//! How far a busy server may be from where it was seen to be well: what holds at the onset of an overload, before
//! the gradient knows of it. Pure: time is handed in.
//!
//! The gradient learns from calls that have ended, so it knows of a queue inside only when those are done that
//! stood in it; until then the queue grows by all that comes too much. But a server that has been under a
//! steady load has shown how many calls it works on at a time while all is well. A load that wants half as many
//! again is let in that far at once, and further as soon as calls that began up there end as quickly as usual:
//! by one for each, so that the number doubles within the time that a call takes. The others wait for their turn
//! at the gate meanwhile, where they are sorted by what matters, and not in a queue that nobody sees.
//!
//! A server without such a history is not held: nothing is known of it. So one that is idle, or has just started,
//! takes any crowd. The price is paid by a busy one whose calls all turn slow at once for a reason outside: it is
//! held until the gradient has found that fewer calls are no quicker.

use std::collections::VecDeque;
use std::time::Duration;

/// So long what was seen counts.
const MEMORY: Duration = Duration::from_secs(10);

/// So many windows, and no fewer, make a history.
const WINDOWS: usize = 8;

/// How much more is let in at once.
const FACTOR: f64 = 1.5;

/// And at least so many more: of small numbers half is less than chance.
const SPARE: f64 = 8.0;

/// A call that began with this share of what is let in tells whether more may be.
const NEAR: f64 = 0.75;

/// Further places for each call up there that was as quick as usual.
const STEP: f64 = 1.0;

/// How much a single call changes the opinion of those up there.
const WEIGHT: f64 = 0.25;

/// What was seen lately, and what follows.
#[derive(Debug, Default)]
pub(super) struct Reach {
    /// When a window ended in which all was well, and the most calls in flight in it.
    seen: VecDeque<(Duration, f64)>,
    /// How many are let in, where there is a history.
    most: Option<f64>,
    /// The stretch of the calls that began up there.
    up_there: f64,
}

impl Reach {
    /// How many calls may be worked on at a time, where that is known.
    pub(super) fn most(&self) -> Option<f64> {
        self.most
    }

    /// A call ended that found so many in flight.
    pub(super) fn sample(&mut self, now: Duration, found: f64, stretch: f64, tolerance: f64) {
        let Some(most) = &mut self.most else { return };
        if found >= NEAR * *most {
            self.up_there += (stretch - self.up_there) * WEIGHT;
            if self.up_there <= tolerance {
                *most += STEP;
            }
        }
        if self.seen.front().is_some_and(|(at, _)| now.saturating_sub(*at) > MEMORY) {
            self.update(now);
        }
    }

    /// A window ended in which all was well.
    pub(super) fn well(&mut self, now: Duration, found: f64) {
        self.seen.push_back((now, found));
        self.update(now);
    }

    /// What calls take is another thing from now on, and so is what was seen.
    pub(super) fn forget(&mut self) {
        *self = Self::default();
    }

    fn update(&mut self, now: Duration) {
        self.seen.retain(|(at, _)| now.saturating_sub(*at) <= MEMORY);
        if self.seen.len() < WINDOWS {
            self.most = None;
            return;
        }
        let shown = self.seen.iter().map(|(_, found)| *found).fold(0.0, f64::max);
        let due = (shown * FACTOR).max(shown + SPARE);
        // What was earned goes slowly.
        self.most = Some(match self.most {
            Some(most) if most > due => due + (most - due) * 0.8,
            _ => due,
        });
        if self.up_there == 0.0 {
            self.up_there = 1.0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    fn steady(found: f64) -> Reach {
        let mut reach = Reach::default();
        (0..20u32).for_each(|number| reach.well(number * 200 * MS, found));
        reach
    }

    #[test]
    fn nothing_is_held_that_nothing_is_known_of() {
        let mut reach = Reach::default();
        (0..WINDOWS as u32 - 1).for_each(|number| reach.well(number * 200 * MS, 10.0));
        assert_eq!(reach.most(), None);
        assert_eq!(steady(10.0).most(), Some(18.0));
        assert_eq!(steady(100.0).most(), Some(150.0));
        // What is long ago is not known any more.
        let mut reach = steady(100.0);
        reach.sample(60_000 * MS, 10.0, 1.0, 1.35);
        assert_eq!(reach.most(), None);
    }

    #[test]
    fn quick_calls_up_there_raise_it_and_slow_ones_do_not() {
        let mut reach = steady(100.0);
        for _ in 0..150 {
            reach.sample(4_000 * MS, 140.0, 1.0, 1.35);
        }
        assert!(
            reach.most().is_some_and(|most| most >= 180.0),
            "until {:?} is out of their sight",
            reach.most()
        );
        let mut reach = steady(100.0);
        for _ in 0..150 {
            reach.sample(4_000 * MS, 140.0, 2.5, 1.35);
        }
        assert!(reach.most().is_some_and(|most| most < 160.0), "{:?}", reach.most());
        // Quick ones further down say nothing.
        for _ in 0..150 {
            reach.sample(4_000 * MS, 50.0, 1.0, 1.35);
        }
        assert!(reach.most().is_some_and(|most| most < 160.0), "{:?}", reach.most());
    }
}
