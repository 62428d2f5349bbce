//! How much of a call may be on its way, learnt from how long the way is.
//!
//! What is on its way stands before everything that is said after it, also before the answers of small calls: over a short way half a
//! mebibyte is enough, and more only makes others wait. Over a long one, a sender who may say no more stands still until it is heard
//! that something was taken. So the other side is asked while much comes, and how much came before it answered says what goes through
//! the way.
//!
//! An answer stands behind what was said before it, so it takes as long as there is much: that is not how long the way is. The
//! shortest time there ever was is taken for that. Over a way that is slow it is longer, for something always stands there: then twice
//! as much may as at the beginning, and with as many calls no more, since that takes twice as long.

use std::time::Duration;

use crate::codec::write;

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
    /// Calls of which something came since it was asked.
    calls: u32,
    /// What may be on its way of a call, if that was learnt.
    wide: u32,
}

impl Pace {
    pub(super) fn up_to(most: u32) -> Self {
        Self { most, ..Self::default() }
    }

    /// So many bytes came of a call, which keeps when that was so last, by the number of questions. If it is time for that, the other
    /// side is asked.
    pub(super) fn note(&mut self, call: &mut u32, bytes: u32, now: Duration, out: &mut Vec<u8>) {
        if std::mem::replace(call, self.number) != self.number {
            self.calls += 1;
        }
        if let Some(question) = self.came(bytes, now) {
            write::ping(out, 0, question);
        }
    }

    /// So many bytes came. The result is what to ask the other side, if it is time for that.
    fn came(&mut self, bytes: u32, now: Duration) -> Option<[u8; 8]> {
        self.came += u64::from(bytes);
        if self.most == 0 || self.asked.is_some() || self.came < self.next {
            return None;
        }
        self.asked = Some((now, self.came));
        self.number = self.number.saturating_add(1);
        self.calls = 0;
        Some(self.question())
    }

    /// What may be on its way of a call, where so much may at the beginning.
    pub(super) fn wide(&self, window: u32) -> u32 {
        window.max(self.wide)
    }

    /// The other side answers.
    pub(super) fn answered(&mut self, answer: [u8; 8], now: Duration, window: u32) {
        if answer != self.question() {
            return;
        }
        let Some((asked, before)) = self.asked.take() else { return };
        let window = self.wide(window);
        let took = now.saturating_sub(asked).max(Duration::from_micros(1));
        let shortest = self.shortest.map_or(took, |known| known.min(took));
        self.shortest = Some(shortest);
        self.enough = self.enough.saturating_add(1);
        self.next = self.came;
        if self.enough >= LOOKS {
            self.next += u64::from(window) * SELDOM;
        }
        if shortest < NEAR {
            // What took it longer was no way.
            self.wide = 0;
            return;
        }
        if self.number < LOOKS {
            return;
        }
        let each = (self.came - before) / u64::from(self.calls.max(1));
        let through = u128::from(each) * shortest.as_nanos() / took.as_nanos();
        let wanted = u32::try_from(through * HALVES).unwrap_or(u32::MAX).min(self.most);
        if wanted > window {
            self.wide = wanted;
            (self.enough, self.next) = (0, self.came);
        }
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
                pace.answered(question, now, MIB / 2);
                window = pace.wide(MIB / 2);
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
        pace.answered([0; 8], second, MIB);
        for n in 1..=LOOKS {
            let asked = pace.came(MIB, second * n).unwrap_or_default();
            pace.answered([1; 8], second * (n + 1), MIB);
            assert_eq!(pace.came(MIB, second * (n + 1)), None, "it is asked");
            pace.answered(asked, second * (n + 1), MIB);
            assert_eq!(pace.wide(MIB), if n == LOOKS { 2 * MIB } else { MIB });
            pace.answered(asked, second * (n + 2), MIB);
        }
        assert_eq!(pace.wide(MIB), 2 * MIB, "it was answered once");
        assert_eq!(Pace::default().came(MIB, Duration::ZERO), None, "nothing is learnt");
    }

    #[test]
    fn calls_share_what_goes_through() {
        let (mut pace, mut calls, second) = (Pace::up_to(4 * MIB), [0; 4], Duration::from_secs(1));
        for n in 1..=LOOKS {
            let asked = pace.came(0, second * n).unwrap_or_default();
            for n_th in 0..9 {
                pace.note(&mut calls[n_th % 4], MIB / 2, second * n, &mut Vec::new());
            }
            pace.answered(asked, second * (n + 1), MIB);
        }
        assert_eq!(pace.wide(MIB), 9 * MIB / 4);
    }

    #[test]
    fn who_was_busy_is_not_far() {
        let (mut pace, mut now) = (Pace::up_to(4 * MIB), Duration::ZERO);
        for (n, took) in [5, 20, 4, 9, 30, 40, 30, 6, 20, 9, 0, 30, 40].into_iter().enumerate() {
            now += Duration::from_secs(1);
            if let Some(asked) = pace.came(64 * MIB, now) {
                pace.came(4 * MIB, now);
                pace.answered(asked, now + Duration::from_millis(took), MIB);
            }
            // The answer that came at once says that the others took long for another reason.
            assert_eq!(pace.wide(MIB) > MIB, (7..10).contains(&n), "{n}");
        }
    }
}
