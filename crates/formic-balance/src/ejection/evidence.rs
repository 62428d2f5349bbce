//! Whether an endpoint's failures are its own: what they would be by chance, if it were like the others.
//!
//! Failures in a row are judged as that. If a call to the others fails with the chance p now, n in a row are pⁿ; a
//! background of one failure in a hundred therefore hides nobody who is gone, whatever ten seconds of history say of
//! him, and a background of one in ten ejects nobody for a streak that it makes by itself. *Now* is since the endpoint's
//! own spell began: when a service falls ill all at once, each of its endpoints has a long record of health, and only
//! what the others do meanwhile tells that they do the same.

use std::time::Duration;

use super::Present;
use crate::Backend;
use crate::backend::{Counts, Course, IN, tick};

/// So many others are asked how they fare.
const WITNESSES: usize = 64;

/// The logarithm of the chance that counts as none, 10⁻¹⁰: at ten thousand calls a second it comes true every other week.
const COINCIDENCE: f64 = -23.025_850_929_940_457;

/// How much an endpoint's usual share of failures counts beside a spell of its own, in calls: one that failed once is no
/// proof that all fail.
const USUAL: f64 = 4.0;

/// Of fewer calls of the others a share is not taken at its word.
const FEW: f64 = 5.0;

/// How long others are waited for that are not called, in ticks of 100 µs: long where calls are many, and next to nothing
/// where whoever calls has waited for each failure.
const SILENCE: u32 = 1_000;

/// How the others fare.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Others {
    /// Their share of failures of the last ten seconds.
    pub(super) usual: f64,
    /// That of those who were called since the spell began; nothing if none were who else are.
    now: Option<f64>,
}

/// Asks the others of an endpoint whose bad spell goes like this.
pub(super) fn witnesses(present: &Present, backend: &Backend, course: Course, now: Duration) -> Others {
    let others = || {
        let all = present.sample(WITNESSES);
        all.filter(|other| !std::ptr::eq(&***other, backend) && other.state() == IN)
    };
    let sum = others().map(|other| other.counts(now)).fold(Counts::default(), |sum, counts| Counts {
        calls: sum.calls + counts.calls,
        failures: sum.failures + counts.failures,
    });
    let usual = sum.failures / sum.calls.max(FEW);
    let share = |other: &Backend| match other.spell() {
        Some(Course { calls, failures, .. }) => {
            (f64::from(failures) + USUAL * usual) / (f64::from(calls) + USUAL)
        }
        None => usual,
    };
    let (mut heard, mut shares) = (0u32, 0.0);
    for other in others().filter(|other| other.heard_since(course.since)) {
        heard += 1;
        shares += share(other);
    }
    // Whom nobody calls anyhow will not speak up now.
    let silent = heard == 0 && sum.calls >= 1.0;
    Others { usual, now: (!silent).then(|| shares / f64::from(heard.max(1))) }
}

/// Whether what an endpoint did in its bad spell is more than chance, and more than twice what the others do.
pub(super) fn is_own(course: Course, others: Others, now: Duration) -> bool {
    let chance = match others.now {
        Some(chance) => chance,
        // They may be just as ill.
        None if tick(now).wrapping_sub(course.since) < SILENCE => return false,
        None => others.usual,
    };
    if chance <= 0.0 {
        return true;
    }
    let (calls, streak) = (f64::from(course.calls.max(1)), f64::from(course.streak));
    let share = f64::from(course.failures) / calls;
    let in_a_row = chance <= 0.5 && streak * chance.ln() <= COINCIDENCE;
    in_a_row || share >= 2.0 * chance && is_no_chance(calls, share, chance)
}

/// Whether so large a share of failures is more than comes about where each call fails with this chance.
pub(super) fn is_no_chance(calls: f64, share: f64, chance: f64) -> bool {
    share > chance && -calls * divergence(share, chance) <= COINCIDENCE
}

/// How unlike a share is to what chance would make of it, for each call (Kullback and Leibler): so much of so many calls
/// has at most the chance e^(−calls × divergence), as Chernoff has shown.
fn divergence(share: f64, chance: f64) -> f64 {
    let part = |share: f64, chance: f64| if share > 0.0 { share * (share / chance).ln() } else { 0.0 };
    part(share, chance) + part(1.0 - share, 1.0 - chance)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn course(calls: u32, failures: u32, streak: u32) -> Course {
        Course { since: tick(SECOND), calls, failures, streak }
    }

    fn least(chance: f64, of: impl Fn(u32) -> Course) -> Option<u32> {
        let others = Others { usual: chance, now: Some(chance) };
        (1..1_000).find(|&n| is_own(of(n), others, SECOND))
    }

    #[test]
    fn how_many_in_a_row_it_takes_follows_from_what_the_others_do() {
        let in_a_row = |chance| least(chance, |n| course(n, n, n));
        assert_eq!([0.0, 0.001, 0.011, 0.03, 0.11].map(in_a_row), [1, 4, 6, 7, 11].map(Some));
        // After any history.
        let after = |chance| least(chance, |n| course(1_000 + n, 20 + n, n));
        assert_eq!([0.03, 0.11].map(after), [7, 11].map(Some));
        assert_eq!(in_a_row(0.6), None, "whoever does twice as badly as that does not exist");
    }

    #[test]
    fn nearly_in_a_row_takes_longer_and_a_little_worse_is_nothing() {
        let half = |chance| least(chance, |n| course(n * 2, n, 1));
        let [few, more, most] = [0.0, 0.03, 0.1].map(|chance| half(chance).expect("it is found"));
        assert!(few == 1 && (5..20).contains(&more) && (15..40).contains(&most), "{few} {more} {most}");
        assert_eq!(half(0.3), None, "less than twice as bad");
    }

    #[test]
    fn others_that_were_not_called_are_waited_for_and_not_for_ever() {
        let nobody = Others { usual: 0.0, now: None };
        assert!(!is_own(course(5, 5, 5), nobody, SECOND + SECOND / 20));
        assert!(is_own(course(5, 5, 5), nobody, SECOND + SECOND / 5));
    }
}
