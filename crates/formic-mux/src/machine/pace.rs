//! How much of a call may be on its way, learnt from how long the way is.
//!
//! What is on its way stands before everything that is said after it, also before the answers of small calls: over a short way half a
//! mebibyte is enough, and more only makes others wait. Over a long one, a sender who may say no more stands still until it is heard
//! that something was taken. So the other side is asked while much comes, and how much came before it answered says what goes through
//! the way.
//!
//! An answer stands behind what was said before it, so it takes as long as there is much: that is not how long the way is. The
//! shortest time there ever was is taken for that, for as long as there is the connection: a later one could be longer because of
//! what this had allowed to stand there, and would allow still more. Over a way that is slow it is longer, for something always
//! stands there: then twice as much may as at the beginning, and with as many calls no more, since that takes twice as long. Where
//! less comes for a while than there could, less may.

use std::time::Duration;

/// Over a way that is shorter there is nothing to learn: half a mebibyte at a time is two gigabits a second. Two busy ends take longer
/// than their way does, and do not take it for a long one.
const NEAR: Duration = Duration::from_millis(2);

/// Of which one half is read, and the other is on its way.
const HALVES: u128 = 2;

/// It has to answer so often before more may be on its way: it may have been busy. And so often in a row before what may is taken for
/// enough, or for too much: what comes does so in bursts, and one may fall between a question and its answer, or not.
const LOOKS: u32 = 8;

/// So many times what may be on its way comes before the other side is asked again, where that was enough.
const SELDOM: u64 = 16;

/// What begins the bytes of such a question.
const MARK: [u8; 4] = *b"pace";

/// What came of a call: since which question, and how many bytes.
#[derive(Debug, Default)]
pub(super) struct Came {
    question: u32,
    bytes: u32,
}

/// What is known of the way.
#[derive(Debug, Default)]
pub(super) struct Pace {
    /// The most that may be on its way; nothing is learnt if it is 0.
    most: u32,
    /// The shortest time there and back.
    shortest: Option<Duration>,
    /// Bytes that have come.
    came: u64,
    /// When the other side was asked.
    asked: Option<Duration>,
    /// When so many have come it is asked again.
    next: u64,
    /// How often it was asked.
    number: u32,
    /// How often in a row it has answered, and what was most wanted then.
    looks: u32,
    wanted: u32,
    /// The most that came of one call since it was asked. What the others say, who may hardly say anything, is no measure for it.
    most_of_one: u32,
    /// What may be on its way of a call, if that was learnt.
    pub(super) wide: u32,
}

impl Pace {
    pub(super) fn up_to(most: u32) -> Self {
        Self { most, ..Self::default() }
    }

    /// So many bytes came of a call, which keeps how many did. The result is what to ask the other side, if it is time for that.
    pub(super) fn note(&mut self, call: &mut Came, bytes: u32, now: Duration) -> Option<[u8; 8]> {
        if call.question != self.number {
            *call = Came { question: self.number, bytes: 0 };
        }
        call.bytes = call.bytes.saturating_add(bytes);
        self.most_of_one = self.most_of_one.max(call.bytes);
        self.came += u64::from(bytes);
        if self.most == 0 || self.asked.is_some() || self.came < self.next {
            return None;
        }
        self.asked = Some(now);
        self.number = self.number.saturating_add(1);
        self.most_of_one = 0;
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
        let Some(asked) = self.asked.take() else { return };
        let (base, window) = (window, self.wide(window));
        let took = now.saturating_sub(asked).max(Duration::from_micros(1));
        let shortest = self.shortest.map_or(took, |known| known.min(took));
        self.shortest = Some(shortest);
        if shortest < NEAR {
            // What took it longer was no way.
            self.wide = 0;
            return self.rest(base);
        }
        let through = u128::from(self.most_of_one) * shortest.as_nanos() / took.as_nanos();
        let wanted = u32::try_from(through * HALVES).unwrap_or(u32::MAX).min(self.most);
        self.wanted = self.wanted.max(wanted);
        self.looks += 1;
        self.next = self.came;
        if self.number >= LOOKS && wanted > window {
            self.change(wanted);
        } else if self.looks == LOOKS && window > base && self.wanted < window / 2 {
            self.change(window / 2);
        } else if self.looks == LOOKS {
            self.rest(window);
        }
    }

    fn change(&mut self, wide: u32) {
        self.wide = wide;
        (self.looks, self.wanted, self.next) = (0, 0, self.came);
    }

    fn rest(&mut self, window: u32) {
        self.next = self.came + u64::from(window) * SELDOM;
        (self.looks, self.wanted) = (0, 0);
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

    /// A way there and back, and a call of which as much comes as may.
    struct Way {
        pace: Pace,
        call: Came,
        now: Duration,
        asked: Option<([u8; 8], Duration)>,
    }

    impl Way {
        fn new() -> Self {
            Self { pace: Pace::up_to(4 * MIB), call: Came::default(), now: Duration::ZERO, asked: None }
        }

        fn window(&self) -> u32 {
            self.pace.wide(MIB / 2)
        }

        /// So much comes an eighth of a time there and back later, which is `round`.
        fn comes(&mut self, bytes: u32, round: Duration) {
            self.now += round / 8;
            let question = self.pace.note(&mut self.call, bytes, self.now);
            self.asked = self.asked.or(question.map(|question| (question, self.now + round)));
            if let Some((question, _)) = self.asked.filter(|(_, answered)| *answered <= self.now) {
                self.pace.answered(question, self.now, MIB / 2);
                self.asked = None;
            }
        }

        /// In each time there and back all that may be on its way comes, piece by piece, for so many pieces; so many bytes go through
        /// in a microsecond, and what does not go through at once stands before what is asked.
        fn full(&mut self, there_and_back: Duration, per_us: u32, pieces: usize) -> u32 {
            for _ in 0..pieces {
                let round = there_and_back.max(Duration::from_micros(u64::from(self.window() / per_us)));
                self.comes(self.window() / 8, round);
            }
            self.window()
        }
    }

    /// What may be on its way in the end.
    fn learnt(there_and_back: Duration, per_us: u32) -> u32 {
        Way::new().full(there_and_back, per_us, 10_000)
    }

    const FAR: Duration = Duration::from_millis(20);

    #[test]
    fn what_is_on_its_way_is_as_much_as_the_way_is_long() {
        let near = Duration::from_micros(100);
        // A gigabyte a second, and a hundredth of that.
        assert_eq!(learnt(near, 1000), MIB / 2);
        // A slow one is never seen without what stands on it, and gets twice as much: no more, since what stands on it then takes longer.
        assert_eq!(learnt(near, 10), MIB);
        assert_eq!(learnt(NEAR * 4 / 5, 1000), MIB / 2);
        assert!(learnt(NEAR, 1000) > MIB);
        assert_eq!(learnt(FAR, 1000), 4 * MIB);
        assert_eq!(learnt(FAR, 10), MIB);
        // Forty megabytes a second, and half as much again as goes through at a time.
        let between = learnt(FAR, 40);
        assert!((MIB..2 * MIB).contains(&between), "{between}");
    }

    #[test]
    fn where_less_goes_through_less_may_be_on_its_way() {
        let mut way = Way::new();
        assert_eq!(way.full(FAR, 1000, 10_000), 4 * MIB);
        let before = way.now;
        let slow = way.full(FAR, 10, 400);
        assert!(
            slow <= MIB && way.now - before < Duration::from_secs(15),
            "{slow} after {:?}",
            way.now - before
        );
        assert_eq!(way.full(FAR, 1000, 10_000), 4 * MIB);
        // Less comes, since there is less, than half of what could: that is the same, and more may as soon as there is more.
        for _ in 0..2_000 {
            way.comes(100_000, FAR);
        }
        assert_eq!(way.window(), 2 * MIB);
        assert_eq!(way.full(FAR, 1000, 200), 4 * MIB);
    }

    #[test]
    fn an_answer_to_nothing_says_nothing() {
        let (mut pace, mut call, second) = (Pace::up_to(4 * MIB), Came::default(), Duration::from_secs(1));
        pace.answered([0; 8], second, MIB);
        for n in 1..=LOOKS {
            let asked = pace.note(&mut call, MIB, second * n).unwrap_or_default();
            pace.answered([1; 8], second * (n + 1), MIB);
            assert_eq!(pace.note(&mut call, MIB, second * (n + 1)), None, "it is asked");
            pace.answered(asked, second * (n + 1), MIB);
            assert_eq!(pace.wide(MIB), if n == LOOKS { 2 * MIB } else { MIB });
            pace.answered(asked, second * (n + 2), MIB);
        }
        assert_eq!(pace.wide(MIB), 2 * MIB, "it was answered once");
        assert_eq!(Pace::default().note(&mut call, MIB, Duration::ZERO), None, "nothing is learnt");
    }

    #[test]
    fn who_says_most_is_the_measure() {
        let (mut pace, second) = (Pace::up_to(4 * MIB), Duration::from_secs(1));
        let mut calls: [Came; 10] = Default::default();
        for n in 1..=LOOKS {
            let asked = pace.note(&mut calls[0], 0, second * n).unwrap_or_default();
            for call in &mut calls {
                pace.note(call, 1_000, second * n);
            }
            for _ in 0..3 {
                pace.note(&mut calls[3], MIB / 4, second * n);
            }
            pace.answered(asked, second * (n + 1), MIB);
        }
        assert_eq!(pace.wide(MIB), 2 * (3 * MIB / 4 + 1_000));
    }

    #[test]
    fn who_was_busy_is_not_far() {
        let (mut pace, mut call, mut now) = (Pace::up_to(4 * MIB), Came::default(), Duration::ZERO);
        for (n, took) in [5, 20, 4, 9, 30, 40, 30, 6, 20, 9, 0, 30, 40].into_iter().enumerate() {
            now += Duration::from_secs(1);
            if let Some(asked) = pace.note(&mut call, 64 * MIB, now) {
                pace.note(&mut call, 4 * MIB, now);
                pace.answered(asked, now + Duration::from_millis(took), MIB);
            }
            // The answer that came at once says that the others took long for another reason.
            assert_eq!(pace.wide(MIB) > MIB, (7..10).contains(&n), "{n}");
        }
    }
}
