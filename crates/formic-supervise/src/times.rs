//! How long something takes, counted in buckets: for what happens too often to be written down each time.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Upper ends of the buckets in seconds, 10 µs to 10 s, about ×3 a step: a turn of a loop and a sync to a
/// slow disk both fall into the middle.
pub const BUCKETS: [f64; 13] = [1e-5, 3e-5, 1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 0.1, 0.3, 1.0, 3.0, 10.0];

/// A histogram. Clones are the same one.
#[derive(Clone, Debug, Default)]
pub struct Times(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    /// The last is for what is longer than all.
    counts: [AtomicU64; BUCKETS.len() + 1],
    nanos: AtomicU64,
}

/// What was counted until a moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Counted {
    /// How many were at most as long as the bucket's end; the last is how many there were.
    pub cumulative: [u64; BUCKETS.len() + 1],
    /// All of them together.
    pub sum: Duration,
}

impl Times {
    /// Counts one.
    pub fn add(&self, took: Duration) {
        let seconds = took.as_secs_f64();
        let bucket = BUCKETS.iter().position(|end| seconds <= *end).unwrap_or(BUCKETS.len());
        self.0.counts[bucket].fetch_add(1, Ordering::Relaxed);
        let nanos = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
        self.0.nanos.fetch_add(nanos, Ordering::Relaxed);
    }

    /// What was counted so far.
    #[must_use]
    pub fn counted(&self) -> Counted {
        let mut total = 0;
        let cumulative = std::array::from_fn(|bucket| {
            total += self.0.counts[bucket].load(Ordering::Relaxed);
            total
        });
        Counted { cumulative, sum: Duration::from_nanos(self.0.nanos.load(Ordering::Relaxed)) }
    }
}

impl Counted {
    /// How many there were.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.cumulative[BUCKETS.len()]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_is_in_its_bucket_and_in_those_above() {
        let times = Times::default();
        for millis in [0, 2, 2, 60_000] {
            times.add(Duration::from_millis(millis));
        }
        let counted = times.counted();
        assert_eq!(counted.cumulative[..6], [1, 1, 1, 1, 1, 3]);
        assert_eq!((counted.cumulative[12], counted.count()), (3, 4));
        assert_eq!(counted.sum, Duration::from_millis(60_004));
    }
}
