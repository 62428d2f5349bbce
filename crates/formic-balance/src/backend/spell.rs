//! A bad spell of an endpoint: what came of its calls since it last was beyond suspicion.
//!
//! Ten seconds of history say how an endpoint usually is. Whether it has gone bad just now is told by the calls since
//! then alone, however many went well before.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::average::tick;

/// When it began (a tick, 32 bits), calls (12 bits), failures (12 bits), and how many of these were the last calls (8 bits).
#[derive(Debug, Default)]
pub(crate) struct Spell(AtomicU64);

/// From so many calls on all counts are halved: what an endpoint was a thousand calls ago matters less than what it is.
const MANY: u32 = 1_024;

/// A bad spell so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Course {
    /// The tick at which it began.
    pub(crate) since: u32,
    pub(crate) calls: u32,
    pub(crate) failures: u32,
    /// Failures without a success after them, as far as they are counted.
    pub(crate) streak: u32,
}

impl Course {
    fn pack(self) -> u64 {
        let (calls, failures) = (self.calls.min(0xfff), self.failures.min(0xfff));
        u64::from(self.since) << 32 | u64::from(calls << 20 | failures << 8 | self.streak.min(0xff))
    }

    fn unpack(word: u64) -> Self {
        let low = word as u32;
        Self { since: (word >> 32) as u32, calls: low >> 20, failures: low >> 8 & 0xfff, streak: low & 0xff }
    }

    fn with(mut self, failed: bool) -> Self {
        if self.calls >= MANY {
            (self.calls, self.failures) = (self.calls / 2, self.failures / 2);
        }
        self.calls += 1;
        self.failures += u32::from(failed);
        self.streak = if failed { self.streak + 1 } else { 0 };
        self
    }
}

impl Course {
    /// The last success turns out a failure. How many failures came before it is known no more, and that all of them are
    /// failures shows in the share.
    fn turned(mut self) -> Self {
        self.failures = (self.failures + 1).min(self.calls);
        self.streak += 1;
        self
    }
}

// === impl Spell ===

impl Spell {
    /// Begins anew, with so many failures that are held against the endpoint from before.
    pub(crate) fn begin(&self, now: Duration, failures: u32) {
        let course = Course { since: tick(now), calls: failures, failures, streak: failures };
        self.0.store(course.pack(), Ordering::Relaxed);
    }

    pub(crate) fn add(&self, failed: bool) {
        let with = |word| Some(Course::unpack(word).with(failed).pack());
        // Never fails: there always is a next word.
        let _ = self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, with);
    }

    /// Makes a failure of a success.
    pub(crate) fn turn(&self) {
        let turned = |word| Some(Course::unpack(word).turned().pack());
        let _ = self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, turned);
    }

    pub(crate) fn course(&self) -> Course {
        Course::unpack(self.0.load(Ordering::Relaxed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_spell_counts_and_knows_its_streak() {
        let spell = Spell::default();
        spell.begin(Duration::from_secs(2), 1);
        [true, false, true, true].into_iter().for_each(|failed| spell.add(failed));
        let expected = Course { since: 20_000, calls: 5, failures: 4, streak: 2 };
        assert_eq!(spell.course(), expected);
        (0..10_000).for_each(|n| spell.add(n % 2 == 0));
        let Course { calls, failures, streak, .. } = spell.course();
        assert!((512..=1_025).contains(&calls) && streak == 0, "{calls} {streak}");
        assert!((f64::from(failures) / f64::from(calls) - 0.5).abs() < 0.02, "{failures} of {calls}");
        (0..10_000).for_each(|_| spell.add(true));
        assert_eq!(spell.course().streak, 255);
        // Of successes that turn out failures all are failures in the end.
        spell.begin(Duration::from_secs(3), 1);
        (0..5).for_each(|_| {
            spell.add(false);
            spell.turn();
        });
        assert_eq!((spell.course().calls, spell.course().failures), (6, 6));
    }
}
