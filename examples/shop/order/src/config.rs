//! What an operator may set: how patient the saga is, and pauses in which a test can kill it.

use std::time::Duration;

use serde::Deserialize;

use crate::saga::{Step, Undo};

/// A step is one write to a local database; what takes longer is in trouble, and is asked again.
const STEP_TIMEOUT_MS: u64 = 2_000;
/// Between two tries of a step, doubled each time.
const RETRY_FIRST_MS: u64 = 100;
/// Short enough that an order goes on soon after the service it waits for is back.
const RETRY_MAX_MS: u64 = 5_000;
/// How long goods may be held and a card be kept in memory for an order that cannot go on.
const GIVE_UP_AFTER_MS: u64 = 10 * 60_000;
/// For a call without a deadline.
const PLACE_WAIT_MS: u64 = 30_000;
/// A process that drains takes no longer than the grace of its drain.
const LOCK_WAIT_MS: u64 = 15_000;
/// Each is one task and a few hundred bytes; the bound is there to be one.
const MAX_UNDER_WAY: usize = 1_000;

/// The table `[service.order.config]`; times are in milliseconds.
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// How long one try of a step may take.
    pub step_timeout_ms: u64,
    /// The pause after the first try whose outcome is not known; each following one is twice as long.
    pub retry_first_ms: u64,
    /// The longest pause between two tries.
    pub retry_max_ms: u64,
    /// An order that has not been confirmed this long after it was placed is undone.
    pub give_up_after_ms: u64,
    /// How long `Place` and `Cancel` wait for the end when the caller sets no deadline.
    pub place_wait_ms: u64,
    /// How long a starting process waits for the one before it to let go of the data directory.
    pub lock_wait_ms: u64,
    /// Orders that may be worked on at once; one more is refused.
    pub max_under_way: usize,
    /// Pauses, for tests that kill the process within a step.
    pub step_delay: StepDelay,
}

/// Pauses around what the saga does. `before_x` comes when the intent is on disk and the request is not sent, `after_x` when
/// the answer is there and not written down.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[expect(missing_docs, reason = "each is named after its step")]
pub struct StepDelay {
    pub before_reserve: u64,
    pub after_reserve: u64,
    pub before_authorize: u64,
    pub after_authorize: u64,
    pub before_capture: u64,
    pub after_capture: u64,
    pub before_book: u64,
    pub after_book: u64,
    pub before_commit: u64,
    pub after_commit: u64,
    pub before_cancel_shipment: u64,
    pub after_cancel_shipment: u64,
    pub before_return_payment: u64,
    pub after_return_payment: u64,
    pub before_release_stock: u64,
    pub after_release_stock: u64,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            step_timeout_ms: STEP_TIMEOUT_MS,
            retry_first_ms: RETRY_FIRST_MS,
            retry_max_ms: RETRY_MAX_MS,
            give_up_after_ms: GIVE_UP_AFTER_MS,
            place_wait_ms: PLACE_WAIT_MS,
            lock_wait_ms: LOCK_WAIT_MS,
            max_under_way: MAX_UNDER_WAY,
            step_delay: StepDelay::default(),
        }
    }
}

impl Config {
    pub(crate) fn step_timeout(&self) -> Duration {
        Duration::from_millis(self.step_timeout_ms)
    }

    pub(crate) fn place_wait(&self) -> Duration {
        Duration::from_millis(self.place_wait_ms)
    }

    pub(crate) fn lock_wait(&self) -> Duration {
        Duration::from_millis(self.lock_wait_ms)
    }

    /// The pause after this many tries, at least one.
    pub(crate) fn retry(&self, tries: u32) -> Duration {
        let doubled = self.retry_first_ms.saturating_mul(1 << tries.saturating_sub(1).min(20));
        Duration::from_millis(doubled.min(self.retry_max_ms))
    }

    /// Whether an order that was placed then has had its time; both in milliseconds since the Unix epoch.
    pub(crate) fn gives_up(&self, placed_at: i64, now: i64) -> bool {
        u64::try_from(now.saturating_sub(placed_at)).is_ok_and(|age| age >= self.give_up_after_ms)
    }
}

impl StepDelay {
    pub(crate) fn around_step(&self, step: Step) -> (Duration, Duration) {
        pair(match step {
            Step::Reserve => (self.before_reserve, self.after_reserve),
            Step::Authorize => (self.before_authorize, self.after_authorize),
            Step::Capture => (self.before_capture, self.after_capture),
            Step::Book => (self.before_book, self.after_book),
            Step::Commit => (self.before_commit, self.after_commit),
        })
    }

    pub(crate) fn around_undo(&self, undo: Undo) -> (Duration, Duration) {
        pair(match undo {
            Undo::CancelShipment => (self.before_cancel_shipment, self.after_cancel_shipment),
            Undo::ReturnPayment => (self.before_return_payment, self.after_return_payment),
            Undo::ReleaseStock => (self.before_release_stock, self.after_release_stock),
        })
    }
}

fn pair((before, after): (u64, u64)) -> (Duration, Duration) {
    (Duration::from_millis(before), Duration::from_millis(after))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use super::*;

    #[test]
    fn pauses_double_up_to_a_bound() {
        let config = Config { retry_first_ms: 100, retry_max_ms: 1000, ..Config::default() };
        let pauses: Vec<_> = (1..=6).map(|tries| config.retry(tries).as_millis()).collect();
        assert_eq!(pauses, [100, 200, 400, 800, 1000, 1000]);
        assert_eq!(config.retry(u32::MAX).as_millis(), 1000);
    }

    #[test]
    fn a_clock_that_was_set_back_gives_nothing_up() {
        let config = Config { give_up_after_ms: 10, ..Config::default() };
        assert!(config.gives_up(100, 110));
        assert!(!config.gives_up(100, 109));
        assert!(!config.gives_up(100, 0));
    }

    #[test]
    fn a_misspelt_delay_is_refused() {
        let good = r#"{"step_delay": {"before_book": 5}}"#;
        let config: Config = serde_json::from_str(good).unwrap();
        assert_eq!(config.step_delay.around_step(Step::Book).0, Duration::from_millis(5));
        assert!(serde_json::from_str::<Config>(r#"{"step_delay": {"befor_book": 5}}"#).is_err());
    }
}
