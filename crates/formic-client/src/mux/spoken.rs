//! What is known of the wire that an endpoint speaks, learnt from how it answered greetings.
//!
//! Bytes that are no greeting are somebody who speaks something else, and are remembered. A connection that ends before any
//! byte, or says nothing, is more often a server that was killed, is starting or is stuck: to take it for one that speaks HTTP alone
//! would cost every call after it, so this takes more than one.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use formic_mux::ANNOUNCED;
use tokio::time::Instant;

/// How long an endpoint that speaks something else is not greeted again.
const REFUSED_FOR: Duration = Duration::from_secs(60);

/// The same for one that should speak this wire, but left greetings without an answer.
const DOUBTED_FOR: Duration = Duration::from_secs(10);

/// So many greetings in a row have no answer before an endpoint that only announces the wire is called over HTTP.
const UNANSWERED: u32 = 2;

/// How long there is no answer before one that has spoken the wire is: no restart behind a proxy takes longer.
const RESTART: Duration = Duration::from_secs(10);

/// What is known of an endpoint.
#[derive(Debug, Default)]
pub(crate) struct Spoken {
    /// By the registry.
    announced: AtomicBool,
    /// The last connection was one.
    spoken: AtomicBool,
    history: Mutex<History>,
}

/// How greetings were answered.
#[derive(Debug, Default)]
struct History {
    /// There was a good answer once.
    known: bool,
    /// Greetings in a row without any, and when the first of them was.
    unanswered: u32,
    since: Option<Instant>,
    /// Not greeted again before then.
    not_before: Option<Instant>,
}

/// What a greeting without an answer is taken for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Unanswered {
    /// A connection that failed, as others do.
    Failed,
    /// An endpoint that speaks HTTP alone.
    Http,
}

impl Spoken {
    pub(crate) fn announce(&self, metadata: &BTreeMap<String, String>) {
        self.announced.store(metadata.contains_key(ANNOUNCED), Ordering::Relaxed);
    }

    /// Whether the endpoint's connections are multiplexed, as of the last that was made.
    pub(crate) fn is_spoken(&self) -> bool {
        self.spoken.load(Ordering::Relaxed)
    }

    pub(super) fn is_announced(&self) -> bool {
        self.announced.load(Ordering::Relaxed)
    }

    /// Whether it may be greeted now.
    pub(super) fn is_open(&self, now: Instant) -> bool {
        self.history().not_before.is_none_or(|then| then <= now)
    }

    /// It greeted back.
    pub(super) fn answered(&self) {
        self.spoken.store(true, Ordering::Relaxed);
        *self.history() = History { known: true, ..History::default() };
    }

    /// It said something that is no greeting.
    pub(super) fn refused(&self, now: Instant) {
        self.spoken.store(false, Ordering::Relaxed);
        *self.history() = History { not_before: Some(now + REFUSED_FOR), ..History::default() };
    }

    /// It ended the connection before it said anything, or said nothing for too long.
    pub(super) fn unanswered(&self, now: Instant) -> Unanswered {
        let mut history = self.history();
        history.unanswered += 1;
        let since = *history.since.get_or_insert(now);
        let (announced, known) = (self.is_announced(), history.known);
        let restarts = known && now.duration_since(since) < RESTART;
        if restarts || (announced && !known && history.unanswered < UNANSWERED) {
            return Unanswered::Failed;
        }
        history.not_before = Some(now + if announced || known { DOUBTED_FOR } else { REFUSED_FOR });
        self.spoken.store(false, Ordering::Relaxed);
        Unanswered::Http
    }

    fn history(&self) -> MutexGuard<'_, History> {
        self.history.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn announced() -> Spoken {
        let spoken = Spoken::default();
        spoken.announce(&[(ANNOUNCED.to_owned(), "1".to_owned())].into());
        spoken
    }

    #[test]
    fn who_announces_it_has_a_second_chance_and_then_speaks_http_for_a_while() {
        let (spoken, now) = (announced(), Instant::now());
        assert_eq!(spoken.unanswered(now), Unanswered::Failed);
        assert!(spoken.is_open(now));
        assert_eq!(spoken.unanswered(now), Unanswered::Http);
        assert!(!spoken.is_open(now + DOUBTED_FOR - SECOND) && spoken.is_open(now + DOUBTED_FOR));
        // It is not made to fail again for the same.
        assert_eq!(spoken.unanswered(now + DOUBTED_FOR), Unanswered::Http);
    }

    #[test]
    fn who_has_spoken_it_may_take_its_time_to_start_again() {
        let (spoken, now) = (Spoken::default(), Instant::now());
        for round in 0..2 {
            spoken.answered();
            assert!(spoken.is_spoken());
            let now = now + round * 100 * SECOND;
            for n in 0..100 {
                assert_eq!(spoken.unanswered(now + n * SECOND / 20), Unanswered::Failed);
            }
            assert_eq!(spoken.unanswered(now + RESTART), Unanswered::Http);
            assert!(!spoken.is_spoken());
        }
    }

    #[test]
    fn who_says_something_else_or_never_announced_it_is_left_alone() {
        let (spoken, now) = (announced(), Instant::now());
        spoken.answered();
        spoken.refused(now);
        assert!(!spoken.is_spoken() && !spoken.is_open(now + REFUSED_FOR - SECOND));
        assert!(spoken.is_open(now + REFUSED_FOR));
        let stranger = Spoken::default();
        assert_eq!(stranger.unanswered(now), Unanswered::Http);
        assert!(!stranger.is_open(now + REFUSED_FOR - SECOND));
    }
}
