//! What is known of one endpoint: how long it takes lately, and how much it has to do.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

/// How fast the past fades: what is this old counts for a third. Long enough to remember a slow
/// endpoint between two rare calls, short enough to forgive it.
pub const DECAY: Duration = Duration::from_secs(10);

/// No endpoint counts as faster: below it the work in flight decides, not the noise of a scheduler. It
/// is also what an endpoint costs of which nothing is known.
pub const FLOOR: Duration = Duration::from_millis(1);

/// How much a single answer may raise what an endpoint is taken for. An endpoint that is really ten times
/// slower is known after two answers; one that stumbled once is not shunned for it.
pub const RISE: f32 = 4.0;

/// What a failure counts as, so that one costs an endpoint some of its traffic and a series of them
/// nearly all, however fast it fails; and no more, or it could never come back.
pub const FAILURE: Duration = Duration::from_secs(1);

/// 100 µs: a tick counter of 32 bits wraps after five days. An endpoint that nobody asked for that long
/// is remembered as if it were yesterday, which harms nobody.
const TICKS_PER_SECOND: f64 = 10_000.0;

/// What is known of one endpoint. Shared between every call to it; all by atomics.
///
/// The latency is a peak-sensitive moving average: slower answers than usual count at once, by up to
/// [`RISE`] each, faster ones by and by. `now` is the time since any moment that the caller keeps for all
/// endpoints alike.
#[derive(Debug)]
pub struct EndpointStats {
    in_flight: AtomicU32,
    /// The average in seconds (`f32` bits, high half) and the tick of its last change (low half), in
    /// one word so that no reader sees the one without the other. 0 seconds: nothing known.
    average: AtomicU64,
}

fn tick(now: Duration) -> u32 {
    // The low 32 bits are meant: a wrap is handled where ticks are compared.
    (now.as_secs_f64() * TICKS_PER_SECOND) as u64 as u32
}

fn pack(seconds: f32, tick: u32) -> u64 {
    u64::from(seconds.to_bits()) << 32 | u64::from(tick)
}

fn unpack(word: u64) -> (f32, u32) {
    (f32::from_bits((word >> 32) as u32), word as u32)
}

/// What is left of an average after this many ticks.
fn weight(ticks: u32) -> f32 {
    // A clock read by two threads may go back a little: that is no time at all, not five days.
    let ticks = if ticks > u32::MAX / 2 { 0 } else { ticks };
    let ages = (f64::from(ticks) / TICKS_PER_SECOND / DECAY.as_secs_f64()) as f32;
    // The usual case, calls milliseconds apart, needs no exponential.
    if ages < 0.001 { 1.0 - ages } else { (-ages).exp() }
}

// === impl EndpointStats ===

impl EndpointStats {
    /// An endpoint that is expected to take `prior`; zero says that nothing is known.
    #[must_use]
    pub fn new(prior: Duration, now: Duration) -> Self {
        Self { in_flight: AtomicU32::new(0), average: AtomicU64::new(pack(prior.as_secs_f32(), tick(now))) }
    }

    /// A call goes out.
    pub fn begin(&self) {
        self.in_flight.fetch_add(1, Ordering::Relaxed);
    }

    /// It is over, however it ended. Once for each [`begin`](Self::begin).
    pub fn end(&self) {
        self.in_flight.fetch_sub(1, Ordering::Relaxed);
    }

    /// Calls on their way.
    #[must_use]
    pub fn in_flight(&self) -> u32 {
        self.in_flight.load(Ordering::Relaxed)
    }

    /// An answer came after `took`.
    pub fn succeeded(&self, now: Duration, took: Duration) {
        self.learn(now, took);
    }

    /// A failure that is the endpoint's own came after `took`.
    pub fn failed(&self, now: Duration, took: Duration) {
        self.learn(now, took.max(FAILURE));
    }

    /// The caller gave up after `took`: an answer would have taken at least that.
    pub fn abandoned(&self, now: Duration, took: Duration) {
        if took > self.latency(now) {
            self.learn(now, took);
        }
    }

    /// What an answer takes lately; fades to zero while nobody asks, so that a slow endpoint is tried
    /// again some day.
    #[must_use]
    pub fn latency(&self, now: Duration) -> Duration {
        Duration::from_secs_f32(self.seconds(now))
    }

    /// What one more call to it costs, in seconds: its latency times the calls that it would then have.
    #[must_use]
    pub fn cost(&self, now: Duration) -> f32 {
        let waiting = self.in_flight().saturating_add(1) as f32;
        self.seconds(now).max(FLOOR.as_secs_f32()) * waiting
    }

    fn seconds(&self, now: Duration) -> f32 {
        let (seconds, then) = unpack(self.average.load(Ordering::Relaxed));
        seconds * weight(tick(now).wrapping_sub(then))
    }

    fn learn(&self, now: Duration, sample: Duration) {
        let (at, sample) = (tick(now), sample.as_secs_f32());
        let change = |word| {
            let (seconds, then) = unpack(word);
            let weight = weight(at.wrapping_sub(then));
            let usual = seconds * weight;
            let learnt = if sample >= seconds {
                sample.min(usual.max(FLOOR.as_secs_f32()) * RISE)
            } else {
                usual + sample * (1.0 - weight)
            };
            Some(pack(learnt, at))
        };
        // Never fails: `change` always has an answer.
        let _ = self.average.fetch_update(Ordering::Relaxed, Ordering::Relaxed, change);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    fn near(a: Duration, b: Duration) -> bool {
        (a.as_secs_f64() / b.as_secs_f64() - 1.0).abs() < 0.01
    }

    #[test]
    fn a_peak_counts_at_once_and_fades_by_the_decay() {
        let stats = EndpointStats::new(Duration::ZERO, Duration::ZERO);
        stats.succeeded(MS, 2 * MS);
        assert!(near(stats.latency(MS), 2 * MS), "the first sample is the average");
        stats.succeeded(2 * MS, 7 * MS);
        assert!(near(stats.latency(2 * MS), 7 * MS));
        let later = 2 * MS + DECAY;
        let faded = 0.007 / std::f64::consts::E;
        assert!(near(stats.latency(later), Duration::from_secs_f64(faded)));
        stats.succeeded(later, 2 * MS);
        let expected = faded + 0.002 * (1.0 - 1.0 / std::f64::consts::E);
        assert!(near(stats.latency(later), Duration::from_secs_f64(expected)));
    }

    #[test]
    fn one_stumble_is_not_held_against_an_endpoint_and_a_few_are() {
        let stats = EndpointStats::new(2 * MS, Duration::ZERO);
        stats.succeeded(MS, 900 * MS);
        assert!(near(stats.latency(MS), 8 * MS));
        for _ in 0..4 {
            stats.succeeded(MS, 900 * MS);
        }
        assert!(near(stats.latency(MS), 900 * MS));
    }

    #[test]
    fn failures_grow_within_bounds_and_a_fast_failure_is_not_fast() {
        let stats = EndpointStats::new(Duration::ZERO, Duration::ZERO);
        let fast = Duration::from_micros(50);
        stats.failed(MS, fast);
        assert!(near(stats.latency(MS), 4 * FLOOR));
        stats.failed(MS, fast);
        assert!(near(stats.latency(MS), 16 * FLOOR));
        for _ in 0..20 {
            stats.failed(MS, fast);
        }
        assert!(near(stats.latency(MS), FAILURE));
        for _ in 0..3 {
            stats.failed(MS, 5 * FAILURE);
        }
        assert!(near(stats.latency(MS), 5 * FAILURE), "a slow failure is at least slow");
    }

    #[test]
    fn giving_up_early_says_nothing_and_giving_up_late_does() {
        let stats = EndpointStats::new(10 * MS, Duration::ZERO);
        stats.abandoned(MS, 5 * MS);
        assert!(stats.latency(MS) < 11 * MS);
        stats.abandoned(MS, 30 * MS);
        assert!(near(stats.latency(MS), 30 * MS));
    }

    #[test]
    fn cost_grows_with_what_is_in_flight() {
        let stats = EndpointStats::new(Duration::ZERO, Duration::ZERO);
        let idle = stats.cost(MS);
        assert!(idle > 0.0, "an unknown endpoint is cheap, not free");
        stats.begin();
        stats.begin();
        assert!((stats.cost(MS) / idle - 3.0).abs() < 1e-3);
        stats.end();
        stats.end();
        assert_eq!(stats.in_flight(), 0);
    }

    #[test]
    fn a_clock_that_steps_back_and_one_that_wraps_do_no_harm() {
        let stats = EndpointStats::new(10 * MS, 100 * MS);
        assert!(near(stats.latency(99 * MS), 10 * MS));
        let wrapped = Duration::from_secs_f64(f64::from(u32::MAX) / TICKS_PER_SECOND + 1.0);
        let stats = EndpointStats::new(10 * MS, wrapped - Duration::from_secs(2));
        let expected = 0.01 * (-0.2f64).exp();
        assert!(near(stats.latency(wrapped), Duration::from_secs_f64(expected)));
    }
}
