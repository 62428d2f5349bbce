//! The retry budget: how much more than it was asked for a client may send.
//!
//! Retries multiply when a whole fleet does them at once, which is when there is least to spare. So all
//! second attempts of a client, for whatever reason, together stay within a share of its calls of the
//! last seconds, plus a few for clients that call rarely.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// How much may be retried. The defaults are those of linkerd and finagle.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Config {
    /// Retries per call, 0.2 being one for five calls.
    pub ratio: f64,
    /// Retries a second beyond that.
    pub per_second: u32,
    /// How long a call counts; whole seconds, 1 to 60.
    pub window: Duration,
}

impl Default for Config {
    fn default() -> Self {
        Self { ratio: 0.2, per_second: 10, window: Duration::from_secs(10) }
    }
}

/// Longest window that is counted.
const SLOTS: usize = 61;

/// Counts of one second: the second in the high half, the count in the low half.
#[derive(Debug, Default)]
struct Slot(AtomicU64);

impl Slot {
    fn add(&self, second: u32) {
        let mut word = self.0.load(Ordering::Relaxed);
        loop {
            if (word >> 32) as u32 == second {
                // Between the load and this the slot may have gone to a later second, which then counts
                // one call too many; a lock would cost more than that is worth.
                self.0.fetch_add(1, Ordering::Relaxed);
                return;
            }
            let fresh = u64::from(second) << 32 | 1;
            match self.0.compare_exchange_weak(word, fresh, Ordering::Relaxed, Ordering::Relaxed) {
                Ok(_) => return,
                Err(now) => word = now,
            }
        }
    }

    fn get(&self, since: u32, until: u32) -> u64 {
        let word = self.0.load(Ordering::Relaxed);
        let second = (word >> 32) as u32;
        if (since..=until).contains(&second) { word & u64::from(u32::MAX) } else { 0 }
    }
}

/// A budget, shared by every call of a client; all by atomics. Times are since any fixed moment.
#[derive(Debug)]
pub struct Budget {
    config: Config,
    window: u32,
    calls: Box<[Slot]>,
    retries: Box<[Slot]>,
}

impl Budget {
    /// A full budget.
    #[must_use]
    pub fn new(config: Config) -> Self {
        let window = config.window.as_secs().clamp(1, SLOTS as u64 - 1) as u32;
        let slots = || (0..SLOTS).map(|_| Slot::default()).collect();
        Self { config, window, calls: slots(), retries: slots() }
    }

    /// Counts a call, which earns a share of a retry.
    pub fn call(&self, now: Duration) {
        let second = second(now);
        self.calls[second as usize % SLOTS].add(second);
    }

    /// Takes a retry out; `false` if none is left.
    #[must_use]
    pub fn withdraw(&self, now: Duration) -> bool {
        // Two threads may both take the last one: the bound is on storms, not on single calls.
        let granted = self.left(now) >= 1.0;
        if granted {
            let second = second(now);
            self.retries[second as usize % SLOTS].add(second);
        }
        granted
    }

    /// How many retries are left.
    #[must_use]
    pub fn left(&self, now: Duration) -> f64 {
        let until = second(now);
        let since = until.saturating_sub(self.window - 1);
        let sum = |slots: &[Slot]| slots.iter().map(|slot| slot.get(since, until)).sum::<u64>() as f64;
        let reserve = f64::from(self.config.per_second) * f64::from(self.window);
        sum(&self.calls) * self.config.ratio + reserve - sum(&self.retries)
    }
}

/// Counted from 1, so that an empty slot is of no second.
fn second(now: Duration) -> u32 {
    u32::try_from(now.as_secs()).unwrap_or(u32::MAX - 1) + 1
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn a_fifth_of_the_calls_and_the_reserve_may_be_retried() {
        let budget = Budget::new(Config::default());
        (0..100).for_each(|_| budget.call(SECOND));
        let granted = (0..1_000).filter(|_| budget.withdraw(SECOND)).count();
        assert_eq!(granted, 20 + 100);
        assert!(!budget.withdraw(2 * SECOND));
    }

    #[test]
    fn what_was_taken_and_earned_leaves_with_the_window() {
        let budget = Budget::new(Config { ratio: 0.5, per_second: 0, window: 10 * SECOND });
        assert!(!budget.withdraw(Duration::ZERO));
        (0..10).for_each(|_| budget.call(SECOND));
        (0..5).for_each(|_| assert!(budget.withdraw(5 * SECOND)));
        assert!(!budget.withdraw(10 * SECOND));
        (0..4).for_each(|_| budget.call(12 * SECOND));
        assert!(budget.left(12 * SECOND) < 0.0, "the calls left, the retries not yet");
        assert!(!budget.withdraw(12 * SECOND));
        assert!(budget.withdraw(15 * SECOND));
    }

    #[test]
    fn a_slot_used_again_after_its_turn_starts_over() {
        let budget = Budget::new(Config { ratio: 1.0, per_second: 0, window: SECOND });
        let later = SECOND * SLOTS as u32;
        (0..7).for_each(|_| budget.call(SECOND));
        budget.call(SECOND + later);
        assert!((budget.left(SECOND + later) - 1.0).abs() < 1e-9);
    }
}
