//! The retry budget: how much more than it was asked for a client may send.
//!
//! Retries multiply when a whole fleet does them at once, which is when there is least to spare. So all
//! further attempts at a service, by retry, failover or hedge, together stay within a share of the calls to
//! it of the last seconds, or to a few where that is more, for clients that call rarely. Not to the sum of both: in a
//! storm the few of each of many clients come on top of every share. One budget for each service: a storm at
//! one leaves what the others may need.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

pub use formic_balance::traffic::Budget as Config;

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

/// What was spent and earned, shared by every call to a service; all by atomics. Times are since any fixed
/// moment. How much may be spent is handed in, for it may change meanwhile.
#[derive(Debug)]
pub struct Budget {
    calls: Box<[Slot]>,
    retries: Box<[Slot]>,
}

impl Default for Budget {
    fn default() -> Self {
        let slots = || (0..SLOTS).map(|_| Slot::default()).collect();
        Self { calls: slots(), retries: slots() }
    }
}

impl Budget {
    /// Counts a call, which earns a share of a retry.
    pub fn call(&self, now: Duration) {
        let second = second(now);
        self.calls[second as usize % SLOTS].add(second);
    }

    /// Takes a retry out; `false` if none is left.
    #[must_use]
    pub fn withdraw(&self, now: Duration, config: &Config) -> bool {
        // Two threads may both take the last one: the bound is on storms, not on single calls.
        let granted = self.left(now, config) >= 1.0;
        if granted {
            let second = second(now);
            self.retries[second as usize % SLOTS].add(second);
        }
        granted
    }

    /// How many retries are left.
    #[must_use]
    pub fn left(&self, now: Duration, config: &Config) -> f64 {
        let window = config.window.as_secs().clamp(1, SLOTS as u64 - 1) as u32;
        let until = second(now);
        let since = until.saturating_sub(window - 1);
        let sum = |slots: &[Slot]| slots.iter().map(|slot| slot.get(since, until)).sum::<u64>() as f64;
        let reserve = f64::from(config.per_second) * f64::from(window);
        (sum(&self.calls) * config.ratio).max(reserve) - sum(&self.retries)
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
    fn a_fifth_of_the_calls_may_be_retried_or_the_reserve_where_that_is_more() {
        let (budget, config) = (Budget::default(), Config::default());
        let granted = |at| (0..1_000).filter(|_| budget.withdraw(at, &config)).count();
        (0..100).for_each(|_| budget.call(SECOND));
        assert_eq!(granted(SECOND), 100);
        (0..900).for_each(|_| budget.call(SECOND));
        assert_eq!(granted(2 * SECOND), 200 - 100);
        assert_eq!(granted(2 * SECOND), 0);
    }

    #[test]
    fn what_was_taken_and_earned_leaves_with_the_window() {
        let (budget, config) = (Budget::default(), Config { ratio: 0.5, per_second: 0, window: 10 * SECOND });
        assert!(!budget.withdraw(Duration::ZERO, &config));
        (0..10).for_each(|_| budget.call(SECOND));
        (0..5).for_each(|_| assert!(budget.withdraw(5 * SECOND, &config)));
        assert!(!budget.withdraw(10 * SECOND, &config));
        (0..4).for_each(|_| budget.call(12 * SECOND));
        assert!(budget.left(12 * SECOND, &config) < 0.0, "the calls left, the retries not yet");
        assert!(!budget.withdraw(12 * SECOND, &config));
        assert!(budget.withdraw(15 * SECOND, &config));
    }

    #[test]
    fn a_slot_used_again_after_its_turn_starts_over() {
        let (budget, config) = (Budget::default(), Config { ratio: 1.0, per_second: 0, window: SECOND });
        let later = SECOND * SLOTS as u32;
        (0..7).for_each(|_| budget.call(SECOND));
        budget.call(SECOND + later);
        assert!((budget.left(SECOND + later, &config) - 1.0).abs() < 1e-9);
    }
}
