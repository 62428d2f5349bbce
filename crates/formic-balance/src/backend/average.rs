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

/// Faster than anything.
const INSTANT: f32 = 1e-9;

/// What is left of a measurement after a minute, which is when an endpoint that left is forgotten, too.
const FADED: f32 = 0.0025;

/// 100 µs: a tick counter of 32 bits wraps after five days. An endpoint that nobody asked for that long
/// is remembered as if it were yesterday, which harms nobody.
const TICKS_PER_SECOND: u64 = 10_000;

/// How an answer compares with what was known before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fit {
    /// Nothing was measured, or too long ago to tell anything.
    First,
    /// It took as long as that, about, or less.
    Within,
    /// It took longer than one answer can say: what is known is too little as yet.
    Beyond,
}

/// The average in seconds (`f32` bits, high half) and the tick of its last change (low half), in one
/// word so that no reader sees the one without the other. 0 seconds: nothing known. Negative: not measured, only
/// supposed to be like others.
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
        Self(AtomicU64::new(pack(-prior.as_secs_f32(), tick(now))))
    }

    /// Starts over.
    pub(crate) fn reset(&self, prior: Duration, now: Duration) {
        self.0.store(pack(-prior.as_secs_f32(), tick(now)), Ordering::Relaxed);
    }

    /// Takes a sample for the average, where that is less.
    pub(crate) fn lower(&self, sample: Duration, now: Duration) {
        if sample.as_secs_f32() < self.seconds(now) {
            self.0.store(pack(sample.as_secs_f32(), tick(now)), Ordering::Relaxed);
        }
    }

    /// In seconds; fades to zero while nobody asks, so that a slow endpoint is tried again some day.
    pub(crate) fn seconds(&self, now: Duration) -> f32 {
        let (seconds, then) = unpack(self.0.load(Ordering::Relaxed));
        seconds.abs() * weight(tick(now).wrapping_sub(then))
    }

    /// The same where it was measured, not too long ago to tell anything.
    pub(crate) fn measured(&self, now: Duration) -> Option<Duration> {
        let (seconds, then) = unpack(self.0.load(Ordering::Relaxed));
        let weight = weight(tick(now).wrapping_sub(then));
        (seconds > 0.0 && weight >= FADED).then(|| Duration::from_secs_f32(seconds * weight))
    }

    /// What it was at the last answer, before any of it faded; not if that is too long ago to tell anything.
    pub(crate) fn last(&self, now: Duration) -> Option<Duration> {
        let (seconds, then) = unpack(self.0.load(Ordering::Relaxed));
        let tells = seconds > 0.0 && weight(tick(now).wrapping_sub(then)) >= FADED;
        tells.then(|| Duration::from_secs_f32(seconds))
    }

    /// There is no answer after so long: what it takes is no less. Whether it is more nobody knows, so what was learnt
    /// stays, and only as much of it fades as leaves this.
    pub(crate) fn reached(&self, now: Duration, took: Duration) {
        let (at, took) = (tick(now), took.as_secs_f32());
        let change = |word| {
            let (seconds, then) = unpack(word);
            let known = seconds.abs();
            if took <= known * weight(at.wrapping_sub(then)) {
                return None;
            }
            if took <= known {
                let ages = (known / took).ln() * (TICKS_PER_SECOND * DECAY.as_secs()) as f32;
                return Some(pack(seconds, at.wrapping_sub(ages as u32)));
            }
            let more = took.min(known.max(FLOOR.as_secs_f32()) * RISE);
            // What was not measured is not by this.
            Some(pack(if seconds > 0.0 { more } else { -more }, at))
        };
        let _ = self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, change);
    }

    /// Whether an answer was learnt from at this tick or since.
    pub(crate) fn heard_since(&self, since: u32) -> bool {
        let (seconds, then) = unpack(self.0.load(Ordering::Relaxed));
        seconds > 0.0 && then.wrapping_sub(since) <= u32::MAX / 2
    }

    pub(crate) fn learn(&self, now: Duration, sample: Duration) -> Fit {
        // On a clock that stands still an answer takes no time, and is an answer all the same.
        let (at, sample) = (tick(now), sample.as_secs_f32().max(INSTANT));
        let mut fit = Fit::First;
        let change = |word| {
            let (seconds, then) = unpack(word);
            let (known, weight) = (seconds.abs(), weight(at.wrapping_sub(then)));
            // Measured against what was learnt, and not against what a pause has left of it: the fading lets a slow
            // endpoint be tried again, and a try that is slow again must not make it fast.
            let most = known.max(FLOOR.as_secs_f32()) * RISE;
            let learnt =
                if sample >= known { sample.min(most) } else { known * weight + sample * (1.0 - weight) };
            fit = match seconds > 0.0 && weight >= FADED {
                false => Fit::First,
                true if sample > most => Fit::Beyond,
                true => Fit::Within,
            };
            Some(pack(learnt, at))
        };
        // Never fails: `change` always has an answer.
        let _ = self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, change);
        fit
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
    fn who_is_seldom_asked_is_known_as_slow_all_the_same() {
        let average = Average::new(Duration::ZERO, Duration::ZERO);
        for _ in 0..5 {
            average.learn(Duration::ZERO, 100 * MS);
        }
        for minute in 1..10 {
            // Just as slow as ever, a little slower, a little faster.
            let took = 100 * MS + [Duration::ZERO, MS][minute as usize % 2]
                - [Duration::ZERO, MS / 2][minute as usize % 2];
            let now = minute * 60 * 1_000 * MS;
            average.learn(now, took);
            assert!(average.seconds(now) > 0.09, "{minute}: {}", average.seconds(now));
        }
    }

    #[test]
    fn what_is_supposed_is_not_measured() {
        let average = Average::new(3 * MS, Duration::ZERO);
        assert!(is(&average, Duration::ZERO, 3 * MS) && average.measured(MS).is_none());
        assert!(!average.heard_since(tick(Duration::ZERO)));
        average.learn(10 * MS, Duration::ZERO);
        assert!(average.measured(10 * MS).is_some() && average.heard_since(tick(10 * MS)));
        assert!(!average.heard_since(tick(11 * MS)));
        assert!(average.measured(10 * MS + 61 * DECAY / 10).is_none(), "that was long ago");
        average.reset(MS, MS);
        assert!(average.measured(MS).is_none());
    }

    #[test]
    fn who_is_given_up_again_and_again_stays_slow() {
        let average = Average::new(Duration::ZERO, Duration::ZERO);
        (0..9).for_each(|_| _ = average.learn(Duration::ZERO, 20 * MS));
        let second = 1_000 * MS;
        // Five times a second, after half a second, a little more or a little less.
        for at in 1..600u32 {
            average.reached(at * second / 5, 500 * MS + at % 7 * MS - 3 * MS);
            assert!(
                at < 5 || average.seconds(at * second / 5) > 0.49,
                "{at}: {}",
                average.seconds(at * second / 5)
            );
        }
        // Once it answers it is known better.
        (0..600).for_each(|at| _ = average.learn(120 * second + at * second / 10, 20 * MS));
        assert!(average.seconds(180 * second) < 0.025);
        let supposed = Average::new(MS, Duration::ZERO);
        supposed.reached(MS, 2 * MS);
        assert!(supposed.measured(MS).is_none() && is(&supposed, MS, 2 * MS), "nobody has answered");
    }

    #[test]
    fn what_is_shown_does_not_fade_and_ends() {
        let average = Average::new(3 * MS, Duration::ZERO);
        assert_eq!(average.last(MS), None, "it is supposed");
        average.reset(Duration::ZERO, MS);
        average.learn(MS, MS);
        let shown = average.last(MS);
        assert!(shown.is_some_and(|shown| shown.as_micros().abs_diff(1_000) < 10), "{shown:?}");
        assert_eq!(average.last(MS + 3 * DECAY), shown);
        assert!(average.seconds(MS + 3 * DECAY) < 0.0001, "what is picked by fades");
        assert_eq!(average.last(MS + 61 * DECAY / 10), None);
    }

    #[test]
    fn an_average_tells_whether_it_has_caught_up() {
        let average = Average::new(3 * MS, Duration::ZERO);
        let learn = |at: Duration, took| average.learn(at, took);
        assert_eq!(learn(MS, 100 * MS), Fit::First, "what is supposed is nothing to go by");
        let fits = [100 * MS, 100 * MS, 100 * MS, MS, 390 * MS, 2_000 * MS].map(|took| learn(MS, took));
        assert_eq!(fits, [Fit::Beyond, Fit::Within, Fit::Within, Fit::Within, Fit::Within, Fit::Beyond]);
        assert_eq!(learn(MS + 61 * DECAY / 10, MS), Fit::First, "that was long ago");
        average.reset(MS, MS);
        assert_eq!(learn(2 * MS, MS), Fit::First);
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
