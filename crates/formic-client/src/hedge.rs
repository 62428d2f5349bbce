//! Hedging: how long the calls of a method take, and so when a second attempt beside a slow first one is
//! worth it.
//!
//! The wait follows the method, not the endpoint, and not a number that somebody once measured: what is
//! slow for a search is not slow for a report.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use formic_balance::traffic::Hedge;

/// Of fewer calls a percentile means nothing.
const ENOUGH: u32 = 100;

/// From so many on all counts are halved, so that what was true an hour ago fades.
const MANY: u32 = 2_000;

/// Four slots for each doubling from 64 µs on, so a percentile is at most a fifth off.
const SLOTS: usize = 96;
const SHIFT: u32 = 4;

/// How long calls take, by method. Nothing is measured before a policy asks for it.
#[derive(Default)]
pub(crate) struct Hedging {
    methods: ArcSwap<HashMap<Box<str>, Arc<Latencies>>>,
    /// Held while a method is added.
    adding: Mutex<()>,
}

/// Counts of answers by how long they took.
struct Latencies {
    slots: [AtomicU32; SLOTS],
    total: AtomicU32,
}

// === impl Hedging ===

impl Hedging {
    /// How long to wait for an answer before another attempt begins; `None` while too little is known.
    pub(crate) fn delay(&self, path: &str, hedge: &Hedge) -> Option<Duration> {
        let methods = self.methods.load();
        let Some(latencies) = methods.get(path) else {
            drop(methods);
            self.add(path);
            return None;
        };
        Some(latencies.quantile(hedge.quantile)?.max(hedge.min_delay))
    }

    /// An answer came, without a second attempt's help or with it. A method that nobody asked about is not
    /// counted.
    pub(crate) fn learn(&self, path: &str, took: Duration) {
        if let Some(latencies) = self.methods.load().get(path) {
            latencies.add(took);
        }
    }

    fn add(&self, path: &str) {
        let _adding = self.adding.lock().unwrap_or_else(PoisonError::into_inner);
        let mut methods = HashMap::clone(&self.methods.load());
        methods.entry(path.into()).or_default();
        self.methods.store(Arc::new(methods));
    }
}

// === impl Latencies ===

impl Default for Latencies {
    fn default() -> Self {
        Self { slots: std::array::from_fn(|_| AtomicU32::new(0)), total: AtomicU32::new(0) }
    }
}

/// Two bits below the leading one tell four slots apart.
fn slot(took: Duration) -> usize {
    let units = (u64::try_from(took.as_micros()).unwrap_or(u64::MAX) >> SHIFT).max(4);
    let doublings = units.ilog2();
    let part = (units >> (doublings - 2)) & 3;
    (((doublings - 2) as usize) * 4 + part as usize).min(SLOTS - 1)
}

/// The longest that falls into a slot, about.
fn upper(slot: usize) -> Duration {
    let (doublings, part) = (slot / 4 + 2, slot % 4);
    let units = (5 + part as u64) << (doublings - 2);
    Duration::from_micros(units << SHIFT)
}

impl Latencies {
    fn add(&self, took: Duration) {
        self.slots[slot(took)].fetch_add(1, Ordering::Relaxed);
        if self.total.fetch_add(1, Ordering::Relaxed) + 1 >= MANY
            && self.total.swap(MANY / 2, Ordering::Relaxed) >= MANY
        {
            for slot in &self.slots {
                let half = slot.load(Ordering::Relaxed) / 2;
                slot.fetch_sub(half, Ordering::Relaxed);
            }
        }
    }

    fn quantile(&self, of: f64) -> Option<Duration> {
        if self.total.load(Ordering::Relaxed) < ENOUGH {
            return None;
        }
        let counts = || self.slots.iter().map(|slot| u64::from(slot.load(Ordering::Relaxed)));
        let wanted = (counts().sum::<u64>() as f64 * of).ceil() as u64;
        let mut sum = 0;
        let at = counts().position(|count| {
            sum += count;
            sum >= wanted
        })?;
        Some(upper(at))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn slots_are_in_order_and_hold_what_they_say() {
        let mut last = 0;
        for micros in (64..200_000).step_by(7) {
            let took = Duration::from_micros(micros);
            let slot = slot(took);
            assert!(slot >= last && slot <= last + 1, "{took:?}");
            assert!(
                upper(slot) >= took && upper(slot) <= took.mul_f64(1.3) + Duration::from_micros(16),
                "{took:?}"
            );
            last = slot;
        }
        assert_eq!(slot(Duration::MAX), SLOTS - 1);
        assert_eq!(slot(Duration::ZERO), 0);
    }

    #[test]
    fn a_percentile_needs_calls_and_follows_them() {
        let (hedging, hedge) = (Hedging::default(), Hedge::default());
        assert_eq!(hedging.delay("/a/b", &hedge), None, "nothing is known");
        for n in 0..ENOUGH {
            assert_eq!(hedging.delay("/a/b", &hedge), None);
            hedging.learn("/a/b", if n < 96 { 2 * MS } else { 500 * MS });
        }
        let delay = hedging.delay("/a/b", &hedge).expect("enough");
        assert!((2 * MS..3 * MS).contains(&delay), "{delay:?}");
        let later = Hedge { min_delay: 50 * MS, ..hedge.clone() };
        assert_eq!(hedging.delay("/a/b", &later), Some(50 * MS));
        (0..10 * MANY).for_each(|_| hedging.learn("/a/b", 20 * MS));
        let delay = hedging.delay("/a/b", &hedge).expect("enough");
        assert!((20 * MS..27 * MS).contains(&delay), "the past fades: {delay:?}");
        hedging.learn("/never/asked", MS);
        assert_eq!(hedging.methods.load().len(), 1);
    }
}
