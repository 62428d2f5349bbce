//! Outcomes of the last ten seconds: two halves of five, the older fading out.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// A half, in seconds.
const HALF: u64 = 5;
const MASK: u64 = (1 << 24) - 1;

/// Two words of an epoch (16 bits), calls and failures (24 bits each).
#[derive(Debug, Default)]
pub(crate) struct Window([AtomicU64; 2]);

/// Calls and failures of about the last ten seconds.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Counts {
    pub(crate) calls: f64,
    pub(crate) failures: f64,
}

/// Counted from 1, so that a fresh word is of no epoch until it wraps, after days.
fn epoch(now: Duration) -> u64 {
    (now.as_secs() / HALF + 1) & 0xffff
}

// === impl Window ===

impl Window {
    pub(crate) fn add(&self, now: Duration, failed: bool) {
        let epoch = epoch(now);
        let word = &self.0[epoch as usize & 1];
        let one = 1 << 24 | u64::from(failed);
        let old = word.load(Ordering::Relaxed);
        if old >> 48 == epoch {
            // Between the load and this the word may have gone to a later epoch, which then counts one
            // call too many. More than 16 million calls within five seconds do not happen to one endpoint.
            word.fetch_add(one, Ordering::Relaxed);
        } else if word.compare_exchange(old, epoch << 48 | one, Ordering::Relaxed, Ordering::Relaxed).is_err()
        {
            word.fetch_add(one, Ordering::Relaxed);
        }
    }

    /// Makes a failure of a success that was counted, where that is not long ago; otherwise counts one.
    pub(crate) fn amend(&self, now: Duration) {
        let epoch = epoch(now);
        let amended = |old: u64| {
            let fresh = old >> 48 == epoch && (old >> 24 & MASK) > (old & MASK);
            fresh.then(|| old + 1)
        };
        let word = &self.0[epoch as usize & 1];
        if word.fetch_update(Ordering::Relaxed, Ordering::Relaxed, amended).is_err() {
            self.add(now, true);
        }
    }

    pub(crate) fn counts(&self, now: Duration) -> Counts {
        let epoch = epoch(now);
        let of = |wanted: u64| {
            let word = self.0[wanted as usize & 1].load(Ordering::Relaxed);
            let current = word >> 48 == wanted;
            if current { ((word >> 24 & MASK) as f64, (word & MASK) as f64) } else { (0.0, 0.0) }
        };
        let gone = (now.as_secs_f64() % HALF as f64) / HALF as f64;
        let (recent, older) = (of(epoch), of(epoch.wrapping_sub(1) & 0xffff));
        Counts { calls: recent.0 + older.0 * (1.0 - gone), failures: recent.1 + older.1 * (1.0 - gone) }
    }

    pub(crate) fn clear(&self) {
        self.0.iter().for_each(|word| word.store(0, Ordering::Relaxed));
    }
}

// === impl Counts ===

impl Counts {
    /// The share of failures, of no calls none.
    pub(crate) fn failing(self) -> f64 {
        if self.calls > 0.0 { self.failures / self.calls } else { 0.0 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn outcomes_count_for_ten_seconds_and_fade() {
        let window = Window::default();
        let at = Duration::from_secs_f64;
        for n in 0..10 {
            window.add(at(4.0), n % 2 == 0);
        }
        assert_eq!(window.counts(at(4.5)), Counts { calls: 10.0, failures: 5.0 });
        let fading = window.counts(at(7.5));
        assert!((fading.calls - 5.0).abs() < 1e-9 && (fading.failing() - 0.5).abs() < 1e-9);
        window.add(at(7.5), true);
        assert!((window.counts(at(7.5)).calls - 6.0).abs() < 1e-9);
        assert_eq!(window.counts(at(15.0)), Counts::default());
        assert_eq!(Counts::default().failing(), 0.0);
        window.add(at(16.0), false);
        window.amend(at(16.0));
        assert_eq!(window.counts(at(16.0)), Counts { calls: 1.0, failures: 1.0 });
        window.amend(at(16.0));
        assert_eq!(window.counts(at(16.0)), Counts { calls: 2.0, failures: 2.0 }, "no more than there were");
        window.clear();
        assert_eq!(window.counts(at(8.0)), Counts::default());
    }
}
