//! What is tried in vain at the API's door: answered ever more slowly, by so many at a time and no more, and told in the log
//! at most once a second. Nothing here is kept per caller, so that a flood from many addresses fills no memory.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::Semaphore;
use tokio::time::Instant;

/// So many wait for their answer; who comes beyond gets another one, at once.
const WAITING: usize = 32;
/// The first one waits for so long, each further one twice as long.
const FIRST: Duration = Duration::from_millis(100);
/// As often it is doubled at most: 1.6 s.
const DOUBLED: u32 = 4;
/// After a quiet time of this length nobody is suspected any more.
const FORGOTTEN: Duration = Duration::from_secs(60);
/// A line of the log tells what was tried since the last one.
const TOLD: Duration = Duration::from_secs(1);

/// How much is tried.
#[derive(Debug)]
pub(super) struct Wary {
    places: Semaphore,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    in_a_row: u32,
    last: Option<Instant>,
    told: Option<Instant>,
    /// Since the last line of the log.
    untold: u64,
}

impl Default for Wary {
    fn default() -> Self {
        Self { places: Semaphore::new(WAITING), state: Mutex::default() }
    }
}

impl Wary {
    /// Waits as long as an answer to this one takes; `false` if there is no place to wait, at once.
    pub(super) async fn slowed(&self, address: &str, given: bool) -> bool {
        let wait = self.note(address, given, Instant::now());
        // Not a fair queue: whoever finds no place is sent away.
        let Ok(_place) = self.places.try_acquire() else { return false };
        tokio::time::sleep(wait).await;
        true
    }

    /// Takes note of a failure; says how long its answer takes.
    fn note(&self, address: &str, given: bool, now: Instant) -> Duration {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.last.is_none_or(|last| now.duration_since(last) > FORGOTTEN) {
            state.in_a_row = 0;
        }
        state.last = Some(now);
        state.in_a_row = state.in_a_row.saturating_add(1);
        state.untold += 1;
        if state.told.is_none_or(|told| now.duration_since(told) >= TOLD) {
            let what = if given { "a wrong token" } else { "no token" };
            tracing::warn!(from = address, refused = state.untold, "refused at the API: {what}");
            state.told = Some(now);
            state.untold = 0;
        }
        FIRST * 2_u32.pow((state.in_a_row - 1).min(DOUBLED))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_failure_waits_longer_until_all_is_quiet() {
        let (wary, now) = (Wary::default(), Instant::now());
        let mut waits = Vec::new();
        for _ in 0..7 {
            waits.push(wary.note("a", true, now).as_millis());
        }
        assert_eq!(waits, [100, 200, 400, 800, 1600, 1600, 1600]);
        assert_eq!(wary.note("b", false, now + FORGOTTEN * 2), FIRST);
    }

    #[tokio::test]
    async fn a_flood_is_sent_away_at_once() {
        let wary = std::sync::Arc::new(Wary::default());
        let mut tasks = tokio::task::JoinSet::new();
        for _ in 0..200 {
            let wary = std::sync::Arc::clone(&wary);
            tasks.spawn(async move { wary.slowed("a", true).await });
        }
        let slowed = tasks.join_all().await.into_iter().filter(|slowed| *slowed).count();
        // Some may have found a place that was free again.
        assert!((WAITING..200).contains(&slowed), "{slowed}");
    }
}
