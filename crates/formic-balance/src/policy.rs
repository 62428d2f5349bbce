//! The policies: each picks an index out of a set.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use crate::EndpointStats;

/// What a pick may look at besides the endpoints themselves.
#[derive(Clone, Copy)]
pub struct Choice<'a> {
    /// The time, as [`EndpointStats`] takes it.
    pub now: Duration,
    /// Randomness, fresh for each pick.
    pub random: u64,
    /// Whether the endpoint at an index may be picked; not, say, if this very call failed there.
    pub usable: &'a dyn Fn(usize) -> bool,
}

impl fmt::Debug for Choice<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Choice").field("now", &self.now).field("random", &self.random).finish_non_exhaustive()
    }
}

/// Picks an endpoint. One policy serves one set of endpoints, from any number of threads.
pub trait Policy: fmt::Debug + Send + Sync + 'static {
    /// The index of the endpoint that gets the next call; `None` if none is usable.
    ///
    /// Takes no lock and allocates nothing.
    fn pick(&self, set: &[Arc<EndpointStats>], choice: &Choice<'_>) -> Option<usize>;
}

/// The policies by name, for configuration.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Algorithm {
    /// [`PeakEwma`].
    #[default]
    PeakEwma,
    /// [`RoundRobin`].
    RoundRobin,
    /// [`Random`].
    Random,
}

impl Algorithm {
    /// A policy for one set of endpoints.
    #[must_use]
    pub fn build(self) -> Box<dyn Policy> {
        match self {
            Self::PeakEwma => Box::new(PeakEwma),
            Self::RoundRobin => Box::new(RoundRobin::default()),
            Self::Random => Box::new(Random),
        }
    }
}

/// The better of two endpoints drawn at random, by latency times work in flight.
///
/// Two, and not the best of all: callers that all know the same best endpoint would run it over
/// together.
#[derive(Clone, Copy, Debug, Default)]
pub struct PeakEwma;

/// One after the other.
#[derive(Debug, Default)]
pub struct RoundRobin(AtomicUsize);

/// Any.
#[derive(Clone, Copy, Debug, Default)]
pub struct Random;

/// Further draws from the randomness of one pick (SplitMix64).
struct Draws(u64);

impl Draws {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ mixed >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ mixed >> 31
    }

    fn below(&mut self, bound: usize) -> usize {
        // Fewer than 2⁶⁴, so the high half of the product is below the bound.
        ((u128::from(self.next()) * bound as u128) >> 64) as usize
    }

    /// A usable index, each alike but for the last resort.
    fn usable(&mut self, len: usize, usable: impl Fn(usize) -> bool) -> Option<usize> {
        if len == 0 {
            return None;
        }
        for _ in 0..4 {
            let index = self.below(len);
            if usable(index) {
                return Some(index);
            }
        }
        // Few are usable: the next one after a random place.
        scan(self.below(len), len, usable)
    }
}

/// The first usable index from a place on, around.
fn scan(from: usize, len: usize, usable: impl Fn(usize) -> bool) -> Option<usize> {
    (from..len).chain(0..from).find(|&index| usable(index))
}

impl Policy for PeakEwma {
    fn pick(&self, set: &[Arc<EndpointStats>], choice: &Choice<'_>) -> Option<usize> {
        let mut draws = Draws(choice.random);
        let first = draws.usable(set.len(), choice.usable)?;
        let Some(second) = draws.usable(set.len(), |index| index != first && (choice.usable)(index)) else {
            return Some(first);
        };
        let better = set[second].cost(choice.now) < set[first].cost(choice.now);
        Some(if better { second } else { first })
    }
}

impl Policy for RoundRobin {
    fn pick(&self, set: &[Arc<EndpointStats>], choice: &Choice<'_>) -> Option<usize> {
        if set.is_empty() {
            return None;
        }
        let from = self.0.fetch_add(1, Ordering::Relaxed) % set.len();
        scan(from, set.len(), choice.usable)
    }
}

impl Policy for Random {
    fn pick(&self, set: &[Arc<EndpointStats>], choice: &Choice<'_>) -> Option<usize> {
        Draws(choice.random).usable(set.len(), choice.usable)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    fn set(latencies: &[Duration]) -> Vec<Arc<EndpointStats>> {
        latencies.iter().map(|&latency| Arc::new(EndpointStats::new(latency, Duration::ZERO))).collect()
    }

    /// How often each endpoint is picked in so many independent picks.
    fn counts(policy: &dyn Policy, set: &[Arc<EndpointStats>], usable: &dyn Fn(usize) -> bool) -> Vec<usize> {
        let mut counts = vec![0; set.len()];
        for random in 0..10_000 {
            if let Some(index) = policy.pick(set, &Choice { now: Duration::ZERO, random, usable }) {
                counts[index] += 1;
            }
        }
        counts
    }

    #[test]
    fn a_slow_endpoint_gets_what_nobody_else_takes() {
        let set = set(&[MS, 50 * MS, MS, MS]);
        let counts = counts(&PeakEwma, &set, &|_| true);
        assert_eq!(counts[1], 0, "idle neighbours are always better: {counts:?}");
        // With work in flight the slow one is worth it: 60 calls at 1 ms cost more than one at 50 ms.
        for index in [0, 2, 3] {
            (0..60).for_each(|_| set[index].begin());
        }
        assert!(self::counts(&PeakEwma, &set, &|_| true)[1] > 4_000);
    }

    /// A closed loop of callers on simulated time: what a policy really does.
    fn simulate(policy: &dyn Policy, service_times: &[Duration], seed: u64) -> Vec<usize> {
        let set = set(&vec![Duration::ZERO; service_times.len()]);
        let mut served = vec![0; service_times.len()];
        let mut random = Draws(seed);
        // Sixteen callers; each is free again at its moment.
        let mut callers = [(Duration::ZERO, None::<(usize, Duration)>); 16];
        for _ in 0..20_000 {
            let caller = callers.iter_mut().min_by_key(|caller| caller.0).expect("sixteen");
            let now = caller.0;
            if let Some((index, began)) = caller.1.take() {
                set[index].succeeded(now, now - began);
                set[index].end();
            }
            let choice = Choice { now, random: random.next(), usable: &|_| true };
            let index = policy.pick(&set, &choice).expect("all are usable");
            set[index].begin();
            served[index] += 1;
            *caller = (now + service_times[index], Some((index, now)));
        }
        served
    }

    #[test]
    fn under_load_the_slow_one_of_ten_gets_a_fraction() {
        let mut times = vec![MS; 10];
        times[3] = 10 * MS;
        for seed in 0..20 {
            let served = simulate(&PeakEwma, &times, seed);
            let fast = (served.iter().sum::<usize>() - served[3]) / 9;
            assert!(served[3] * 4 < fast, "seed {seed}: {served:?}");
            assert!(served[3] > 0, "it is still tried: {served:?}");
            let blind = simulate(&RoundRobin::default(), &times, seed);
            assert!(blind[3] > served[3], "round robin sees nothing: {blind:?}");
        }
    }

    #[test]
    fn the_same_seed_picks_the_same() {
        let times = [MS, 2 * MS, 3 * MS];
        for seed in 0..5 {
            assert_eq!(simulate(&PeakEwma, &times, seed), simulate(&PeakEwma, &times, seed));
        }
    }

    #[test]
    fn equal_endpoints_share_alike() {
        let set = set(&[MS; 5]);
        for policy in [Algorithm::PeakEwma, Algorithm::RoundRobin, Algorithm::Random] {
            let counts = counts(&*policy.build(), &set, &|_| true);
            assert!(counts.iter().all(|&n| (1_800..2_200).contains(&n)), "{policy:?} {counts:?}");
        }
    }

    #[test]
    fn what_is_not_usable_is_never_picked() {
        let set = set(&[MS; 7]);
        for policy in [Algorithm::PeakEwma, Algorithm::RoundRobin, Algorithm::Random] {
            let policy = policy.build();
            let odd = counts(&*policy, &set, &|index| index % 2 == 1);
            assert!(odd.iter().step_by(2).all(|&n| n == 0), "{policy:?} {odd:?}");
            assert_eq!(odd.iter().sum::<usize>(), 10_000);
            let one = counts(&*policy, &set, &|index| index == 6);
            assert_eq!(one[6], 10_000, "{policy:?}");
            assert_eq!(counts(&*policy, &set, &|_| false), [0; 7]);
            assert_eq!(policy.pick(&[], &Choice { now: MS, random: 1, usable: &|_| true }), None);
        }
    }
}
