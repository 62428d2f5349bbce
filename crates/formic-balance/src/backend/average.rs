//! How long an endpoint takes lately: a peak-sensitive moving average in one atomic word.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// How fast the past fades: what is this old counts for a third. Long enough to remember a slow
/// endpoint between two rare calls, short enough to forgive it.
pub const DECAY: Duration = Duration::from_secs(10);

/// No endpoint counts as faster: below it the work in flight decides, not the noise of a scheduler. It
/// is also what an endpoint costs of which nothing is known.
pub const FLOOR: Duration = Duration::from_micros(250);

/// How much a single answer may raise what an endpoint is taken for. An endpoint that is really ten times
/// slower is known after two answers; one that stumbled once is not shunned for it.
pub const RISE: f32 = 4.0;

/// 100 µs: a tick counter of 32 bits wraps after five days. An endpoint that nobody asked for that long
/// is remembered as if it were yesterday, which harms nobody.
const TICKS_PER_SECOND: u64 = 10_000;

/// The average in seconds (`f32` bits, high half) and the tick of its last change (low half), in one
/// word so that no reader sees the one without the other. 0 seconds: nothing known.
///
/// Slower answers than usual count at once, by up to [`RISE`] each, faster ones by and by.
#[derive(Debug)]
pub(crate) struct Average(AtomicU64);

pub(crate) fn tick(now: Duration) -> u32 {
    // The low 32 bits are meant: a wrap is handled where ticks are compared.
    (now.as_secs() * TICKS_PER_SECOND + u64::from(now.subsec_micros()) / (1_000_000 / TICKS_PER_SECOND))
        as u32
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
    let ages = ticks as f32 / (TICKS_PER_SECOND * DECAY.as_secs()) as f32;
    // The usual case, calls milliseconds apart, needs no exponential.
    if ages < 0.001 { 1.0 - ages } else { (-ages).exp() }
}

// === impl Average ===

impl Average {
    pub(crate) fn new(prior: Duration, now: Duration) -> Self {
        Self(AtomicU64::new(pack(prior.as_secs_f32(), tick(now))))
    }

    /// Starts over.
    pub(crate) fn reset(&self, prior: Duration, now: Duration) {
        self.0.store(pack(prior.as_secs_f32(), tick(now)), Ordering::Relaxed);
    }

    /// Takes a sample for the average, where that is less.
    pub(crate) fn lower(&self, sample: Duration, now: Duration) {
        if sample.as_secs_f32() < self.seconds(now) {
            self.reset(sample, now);
        }
    }

    /// In seconds; fades to zero while nobody asks, so that a slow endpoint is tried again some day.
    pub(crate) fn seconds(&self, now: Duration) -> f32 {
        let (seconds, then) = unpack(self.0.load(Ordering::Relaxed));
        seconds * weight(tick(now).wrapping_sub(then))
    }

    pub(crate) fn learn(&self, now: Duration, sample: Duration) {
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
        let _ = self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, change);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    fn is(average: &Average, now: Duration, expected: Duration) -> bool {
        (f64::from(average.seconds(now)) / expected.as_secs_f64() - 1.0).abs() < 0.01
    }

    #[test]
    fn a_peak_counts_at_once_and_fades_by_the_decay() {
        let average = Average::new(Duration::ZERO, Duration::ZERO);
        average.learn(MS, MS);
        assert!(is(&average, MS, MS), "the first sample is the average");
        average.learn(2 * MS, 3 * MS);
        assert!(is(&average, 2 * MS, 3 * MS));
        let later = 2 * MS + DECAY;
        let faded = 0.003 / std::f64::consts::E;
        assert!(is(&average, later, Duration::from_secs_f64(faded)));
        average.learn(later, 2 * MS);
        let expected = faded + 0.002 * (1.0 - 1.0 / std::f64::consts::E);
        assert!(is(&average, later, Duration::from_secs_f64(expected)));
    }

    #[test]
    fn one_stumble_is_not_held_against_an_endpoint_and_a_few_are() {
        let average = Average::new(2 * MS, Duration::ZERO);
        average.learn(MS, 900 * MS);
        assert!(is(&average, MS, 8 * MS));
        for _ in 0..4 {
            average.learn(MS, 900 * MS);
        }
        assert!(is(&average, MS, 900 * MS));
    }

    #[test]
    fn a_clock_that_steps_back_and_one_that_wraps_do_no_harm() {
        let average = Average::new(10 * MS, 100 * MS);
        assert!(is(&average, 99 * MS, 10 * MS));
        let wrapped = Duration::from_secs(u64::from(u32::MAX) / TICKS_PER_SECOND + 1);
        let average = Average::new(10 * MS, wrapped - Duration::from_secs(2));
        assert!(is(&average, wrapped, Duration::from_secs_f64(0.01 * (-0.2f64).exp())));
    }
}
