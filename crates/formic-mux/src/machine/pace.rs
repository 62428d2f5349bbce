//! How much of a call may be on its way, learnt from how long the way is.
//!
//! What is on its way stands before everything that is said after it, also before the answers of small calls: over a short way half a
//! mebibyte is enough, and more only makes others wait. Over a long one, a sender who may say no more stands still until it is heard
//! that something was taken. So the other side is asked while much comes, and how much came before it answered says what goes through
//! the way.
//!
//! An answer stands behind what was said before it, so it takes as long as there is much: that is not how long the way is. The
//! shortest time there ever was is.

use std::time::Duration;

/// Over a way that is shorter there is nothing to learn: half a mebibyte at a time is two gigabits a second. Two busy ends take longer
/// than their way does, and do not take it for a long one.
const NEAR: Duration = Duration::from_millis(2);

/// Of which one half is read, and the other is on its way.
const HALVES: u128 = 2;

/// So many times what may be on its way comes before the other side is asked again, where that was enough.
const SELDOM: u64 = 16;

/// It has to answer so often before anything is learnt: it may have been busy. And so often before what may be on its way is taken
/// for enough: what comes does so in bursts, and one may fall between a question and its answer, or not.
const LOOKS: u32 = 8;

/// What begins the bytes of such a question.
const MARK: [u8; 4] = *b"pace";

/// What is known of the way.
#[derive(Debug, Default)]
pub(super) struct Pace {
    /// The most that may be on its way; nothing is learnt if it is 0.
    most: u32,
    /// The shortest time there and back.
    shortest: Option<Duration>,
    /// Bytes that have come.
    came: u64,
    /// When the other side was asked, and how many had come then.
    asked: Option<(Duration, u64)>,
    /// When so many have come it is asked again.
    next: u64,
    /// How often it was asked.
    number: u32,
    /// How often it has answered since more was last wanted.
    enough: u32,
}

impl Pace {
    pub(super) fn up_to(most: u32) -> Self {
        Self { most, ..Self::default() }
    }

    /// So many bytes came. The result is what to ask the other side, if it is time for that.
    pub(super) fn came(&mut self, bytes: u32, now: Duration) -> Option<[u8; 8]> {
        self.came += u64::from(bytes);
        if self.most == 0 || self.asked.is_some() || self.came < self.next {
            return None;
        }
        self.asked = Some((now, self.came));
        self.number = self.number.saturating_add(1);
        Some(self.question())
    }

    /// The other side answers. The result is how much is to be on its way, if that is more than may be now.
    pub(super) fn answered(&mut self, answer: [u8; 8], now: Duration, window: u32) -> Option<u32> {
        if answer != self.question() {
            return None;
        }
        let (asked, before) = self.asked.take()?;
        let took = now.saturating_sub(asked).max(Duration::from_micros(1));
        let shortest = self.shortest.map_or(took, |known| known.min(took));
        self.shortest = Some(shortest);
        self.enough = self.enough.saturating_add(1);
        self.next = self.came;
        if self.enough >= LOOKS {
            self.next += u64::from(window) * SELDOM;
        }
        if shortest < NEAR || self.number < LOOKS {
            return None;
        }
        let through = u128::from(self.came - before) * shortest.as_nanos() / took.as_nanos();
        let wanted = u32::try_from(through * HALVES).unwrap_or(u32::MAX).min(self.most);
        if wanted <= window {
            return None;
        }
        (self.enough, self.next) = (0, self.came);
        Some(wanted)
    }

    fn question(&self) -> [u8; 8] {
        let [a, b, c, d] = MARK;
        let [e, f, g, h] = self.number.to_be_bytes();
        [a, b, c, d, e, f, g, h]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u32 = 1 << 20;

    /// What may be on its way in the end, over a way that takes `there_and_back`, and through which so many bytes go in a
    /// microsecond; what does not go through at once stands before it.
    fn learnt(there_and_back: Duration, per_us: u32) -> u32 {
        let (mut pace, mut window) = (Pace::up_to(4 * MIB), MIB / 2);
        let (mut now, mut asked) = (Duration::ZERO, None);
        for _ in 0..10_000 {
            // In so long all that may be on its way comes, piece by piece.
            let round = there_and_back.max(Duration::from_micros(u64::from(window / per_us)));
            now += round / 8;
            let question = pace.came(window / 8, now);
            asked = asked.or(question.map(|question| (question, now + round)));
            if let Some((question, _)) = asked.filter(|(_, answered)| *answered <= now) {
                window = pace.answered(question, now, window).unwrap_or(window);
                asked = None;
            }
        }
        window
    }

    #[test]
    fn what_is_on_its_way_is_as_much_as_the_way_is_long() {
        let (near, far) = (Duration::from_micros(100), Duration::from_millis(20));
        // A gigabyte a second, and a hundredth of that.
        assert_eq!(learnt(near, 1000), MIB / 2);
        // A slow one is never seen without what stands on it, and gets twice as much: no more, since what stands on it then takes longer.
        assert_eq!(learnt(near, 10), MIB);
        assert_eq!(learnt(NEAR * 4 / 5, 1000), MIB / 2);
        assert!(learnt(NEAR, 1000) > MIB);
        assert_eq!(learnt(far, 1000), 4 * MIB);
        assert_eq!(learnt(far, 10), MIB);
        // Forty megabytes a second, and half as much again as goes through at a time.
        let between = learnt(far, 40);
        assert!((MIB..2 * MIB).contains(&between), "{between}");
    }

    #[test]
    fn an_answer_to_nothing_says_nothing() {
        let (mut pace, second) = (Pace::up_to(4 * MIB), Duration::from_secs(1));
        assert_eq!(pace.answered([0; 8], second, MIB), None);
        for n in 1..=LOOKS {
            let asked = pace.came(MIB, second * n).unwrap_or_default();
            assert_eq!(pace.answered([1; 8], second * (n + 1), MIB), None);
            assert_eq!(pace.came(MIB, second * (n + 1)), None, "it is asked");
            let learnt = pace.answered(asked, second * (n + 1), MIB);
            assert_eq!(learnt, (n == LOOKS).then_some(2 * MIB));
            assert_eq!(pace.answered(asked, second * (n + 2), MIB), None, "once");
        }
        assert_eq!(Pace::default().came(MIB, Duration::ZERO), None, "nothing is learnt");
    }

    #[test]
    fn who_was_busy_once_is_not_far() {
        let (mut pace, mut now) = (Pace::up_to(4 * MIB), Duration::ZERO);
        for took in [5, 20, 4, 9, 0, 30, 40, 30, 50, 20, 9].map(Duration::from_millis) {
            now += Duration::from_secs(1);
            if let Some(asked) = pace.came(64 * MIB, now) {
                pace.came(4 * MIB, now);
                assert_eq!(pace.answered(asked, now + took, MIB), None);
            }
        }
    }
}
