//! When to try again.
//!
//! Doubling from 250 ms to 60 s with ±25 % of jitter, because the community of the largest orchestrator
//! found its five minutes too long and one minute the longest wait that people accept; and never giving
//! up, because a service that stays down until somebody resets a counter is the most common complaint
//! about the most common supervisor.

use std::time::Duration;

use formic_spec::Restart;
use serde::{Deserialize, Serialize};

use crate::state::Time;

/// An instance that was ready for so long counts as having worked: its first restart is immediate, and
/// its exit is no unready one.
pub const STEADY_AFTER: Duration = Duration::from_secs(10);

/// An instance that was ready for so long, and for twice the last delay, starts from the beginning.
pub const RESET_AFTER: Duration = Duration::from_secs(60);

/// What a slot remembers of the instances that were in it. Per slot and not per service: one bad slot (a
/// taken port, a broken file) must not slow down the others.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct History {
    /// How often it was restarted after exits of its own. Never falls, and outlives changes of revision.
    pub restarts: u32,
    /// Restarts in the present row of failures: what the delay is doubled by.
    pub row: u32,
    /// The last delay.
    pub delay: Duration,
    /// The last unready exits, at most one more than a crash loop needs.
    pub unready_exits: Vec<Time>,
    /// Whether it is in a crash loop; ends when an instance stays ready.
    pub crash_looping: bool,
    /// Whether an instance of the present revision was ever ready here.
    pub was_ready: bool,
    /// How often instances of the present revision ended by themselves before they had been ready for
    /// [`STEADY_AFTER`]. Never forgotten while the revision is the same: a rollout is judged by it.
    #[serde(default)]
    pub crashes: u32,
    /// How often instances of the present revision, or run, ended by themselves without success.
    #[serde(default)]
    pub failures: u32,
    /// When an instance last ended by itself here, of whatever revision.
    #[serde(default)]
    pub last_exit: Option<Time>,
    /// Why the instance before this one was stopped, or this one is, if that was for what it depends on. For people, no
    /// rule reads it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub along: Option<Along>,
}

/// A stop for the end of something else.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Along {
    /// When.
    pub at: Time,
    /// What ended, and how.
    pub with: String,
}

/// The delay before an instance is started again: `restarts` in a row before this one, after it had been
/// ready for `ready_for`. `random_unit` is a random number from 0 to 1.
///
/// The first restart of an instance that was ready for [`STEADY_AFTER`] is immediate. No delay is longer
/// than the rule's `max_delay`, jitter included.
#[must_use]
pub fn backoff(rule: &Restart, restarts: u32, ready_for: Duration, random_unit: f64) -> Duration {
    if restarts == 0 && ready_for >= STEADY_AFTER {
        return Duration::ZERO;
    }
    jittered(rule.doubled(restarts), random_unit).min(rule.max_delay.get())
}

/// From three to five quarters of the delay, in whole milliseconds.
fn jittered(delay: Duration, random_unit: f64) -> Duration {
    let unit = if random_unit.is_finite() { random_unit.clamp(0.0, 1.0) } else { 0.5 };
    let delay = delay.mul_f64(0.75 + 0.5 * unit);
    Duration::from_millis(u64::try_from(delay.as_millis()).unwrap_or(u64::MAX))
}

// === impl History ===

impl History {
    /// Takes note of an exit that will be followed by a restart, and says when.
    pub(crate) fn exit(&mut self, at: Time, ready_for: Duration, rule: &Restart, random_unit: f64) -> Time {
        if ready_for >= RESET_AFTER.max(self.delay.saturating_mul(2)) {
            self.row = 0;
            self.crash_looping = false;
            self.unready_exits.clear();
        }
        if ready_for < STEADY_AFTER {
            self.unready_exits.push(at);
        }
        let intensity = usize::try_from(rule.intensity).unwrap_or(usize::MAX);
        self.unready_exits.retain(|exit| at.since(*exit) <= rule.within.get());
        let surplus = self.unready_exits.len().saturating_sub(intensity.saturating_add(1));
        self.unready_exits.drain(..surplus);
        self.crash_looping |= self.unready_exits.len() > intensity;

        self.delay = if self.crash_looping {
            jittered(rule.max_delay.get(), random_unit).min(rule.max_delay.get())
        } else {
            backoff(rule, self.row, ready_for, random_unit)
        };
        self.row = self.row.saturating_add(1);
        at + self.delay
    }

    /// When it is tried again to start what never ran, for want of something that is nobody's own: ever later, as after exits,
    /// and of no consequence beyond that.
    pub(crate) fn withheld(&mut self, at: Time, rule: &Restart, random_unit: f64) -> Time {
        self.delay = backoff(rule, self.row, Duration::ZERO, random_unit);
        self.row = self.row.saturating_add(1);
        at + self.delay
    }

    /// What is remembered when the next instance is a restart: all of it, and that it is one more. It is
    /// counted here and not at the exit, because between the two nothing has been restarted yet.
    pub(crate) fn again(&self) -> Self {
        Self { restarts: self.restarts.saturating_add(1), ..self.clone() }
    }

    /// Takes note of an end of its own, whatever follows it.
    pub(crate) fn ended(&mut self, at: Time, ready_for: Duration) {
        self.last_exit = Some(at);
        self.along = None;
        self.failures = self.failures.saturating_add(1);
        if ready_for < STEADY_AFTER {
            self.crashes = self.crashes.saturating_add(1);
        }
    }

    /// What is remembered when the next instance is not a restart: the count, and the last end.
    pub(crate) fn anew(&self) -> Self {
        Self { restarts: self.restarts, last_exit: self.last_exit, ..Self::default() }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const NEVER: Duration = Duration::ZERO;

    #[test]
    fn doubles_up_to_a_minute() {
        let rule = Restart::default();
        let millis: Vec<u128> = (0..11).map(|n| backoff(&rule, n, NEVER, 0.5).as_millis()).collect();
        assert_eq!(millis, [250, 500, 1000, 2000, 4000, 8000, 16_000, 32_000, 60_000, 60_000, 60_000]);
        assert_eq!(backoff(&rule, 0, NEVER, 0.0).as_millis(), 187);
        assert_eq!(backoff(&rule, 0, NEVER, 1.0).as_millis(), 312);
        assert_eq!(backoff(&rule, u32::MAX, NEVER, 0.0).as_millis(), 45_000);
        assert_eq!(backoff(&rule, 0, NEVER, f64::NAN).as_millis(), 250);
    }

    #[test]
    fn the_first_restart_of_one_that_worked_is_immediate() {
        let rule = Restart::default();
        assert_eq!(backoff(&rule, 0, Duration::from_secs(10), 1.0), Duration::ZERO);
        assert_eq!(backoff(&rule, 0, Duration::from_millis(9999), 0.5).as_millis(), 250);
        assert_eq!(backoff(&rule, 1, Duration::from_secs(10), 0.5).as_millis(), 500);
    }

    #[test]
    fn six_unready_exits_in_two_minutes_are_a_crash_loop_until_one_stays_ready() {
        let rule = Restart::default();
        let mut history = History::default();
        let mut now = Time::from_millis(0);
        let mut delays = Vec::new();
        for n in 1..=8 {
            now = history.exit(now, NEVER, &rule, 0.5);
            delays.push(history.delay.as_millis());
            assert_eq!(history.crash_looping, n > 5, "exit {n}");
        }
        assert_eq!(delays, [250, 500, 1000, 2000, 4000, 60_000, 60_000, 60_000]);
        // Slower than six in two minutes now, and still the same loop.
        history.exit(now, Duration::from_secs(30), &rule, 0.5);
        assert!(history.crash_looping);
        // Twice the delay of a minute is two minutes.
        history.exit(now, Duration::from_secs(119), &rule, 0.5);
        assert!(history.crash_looping);
        history.exit(now, Duration::from_secs(120), &rule, 0.5);
        assert_eq!((history.crash_looping, history.delay), (false, Duration::ZERO));
        // Nothing has been started again so far.
        assert_eq!((history.restarts, history.again().restarts), (0, 1));
    }

    #[test]
    fn the_intensity_is_the_rules() {
        let rule =
            Restart { intensity: 1, within: formic_spec::HumanDuration::from_secs(10), ..Restart::default() };
        let mut history = History::default();
        history.exit(Time::from_millis(0), NEVER, &rule, 0.5);
        history.exit(Time::from_millis(10_001), NEVER, &rule, 0.5);
        assert!(!history.crash_looping, "too far apart");
        history.exit(Time::from_millis(20_001), NEVER, &rule, 0.5);
        assert!(history.crash_looping);
    }

    #[test]
    fn unready_exits_far_apart_are_no_loop() {
        let rule = Restart::default();
        let mut history = History::default();
        for n in 0..20u64 {
            history.exit(Time::from_millis(n * 25_000), NEVER, &rule, 0.5);
        }
        assert!(!history.crash_looping);
        assert_eq!(history.unready_exits.len(), 5);
    }

    proptest! {
        #[test]
        fn delays_never_fall_nor_leave_their_bounds(
            n in 0u32..40, unit in 0.0f64..=1.0, ready in 0u64..200_000
        ) {
            let (rule, ready) = (Restart::default(), Duration::from_millis(ready));
            prop_assert!(backoff(&rule, n, ready, unit) <= backoff(&rule, n + 1, ready, unit));
            prop_assert!(backoff(&rule, n, ready, 0.0) <= backoff(&rule, n, ready, unit));
            prop_assert!(backoff(&rule, n, ready, unit) <= Duration::from_secs(60));
            let least = if n == 0 && ready >= STEADY_AFTER { 0 } else { 187 };
            prop_assert!(backoff(&rule, n, ready, unit).as_millis() >= least);
        }

        #[test]
        fn every_restart_is_counted_and_memory_is_bounded(
            exits in prop::collection::vec((0u64..200_000, 0u64..200_000, 0.0f64..=1.0), 0..60)
        ) {
            let (rule, mut history, mut now) = (Restart::default(), History::default(), Time::default());
            for (i, (pause, ready, unit)) in exits.into_iter().enumerate() {
                let at = now + Duration::from_millis(pause);
                let until = history.exit(at, Duration::from_millis(ready), &rule, unit);
                prop_assert!(until >= at && until.since(at) <= Duration::from_secs(60));
                prop_assert_eq!(history.restarts as usize, i);
                history = history.again();
                prop_assert_eq!(history.restarts as usize, i + 1);
                prop_assert!(history.unready_exits.len() <= 6);
                now = until;
            }
        }
    }
}
