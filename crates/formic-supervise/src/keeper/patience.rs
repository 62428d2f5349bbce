//! How long the keeper waits for a brain: to be ready at all, and then to say again that it goes on.
//!
//! A brain that hangs is worse than one that ends, which is followed by another at once. What makes it hang does not matter:
//! another program than a brain, a disk that does not answer, a lock that is never let go.

use std::time::{Duration, Instant};

use super::brain::Brain;
use super::{READY_LIMIT_ENV, watchdog};

/// A brain is ready within a second. Thousands of instances and a slow disk are some tens of them.
const READY_LIMIT: Duration = Duration::from_secs(60);

/// One that replaces another has this part of it: nobody serves meanwhile, and there is a way back.
const REPLACING: u32 = 3;

/// How often the time to be ready doubles at most.
const DOUBLINGS: u32 = 5;

/// What may be waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Patience {
    ready: Option<Duration>,
    silent: Option<Duration>,
    /// How many brains in a row were not ready in time.
    late: u32,
}

impl Patience {
    pub(super) fn from_env() -> Self {
        let said = std::env::var(READY_LIMIT_ENV).ok().and_then(|seconds| seconds.parse().ok());
        let ready = said.map_or(READY_LIMIT, Duration::from_secs);
        Self { ready: (!ready.is_zero()).then_some(ready), silent: watchdog(), late: 0 }
    }

    /// How long this brain may go on as it is, from when on, and what it is that it has not done.
    fn limit(&self, brain: &Brain, replaces: bool) -> Option<(Instant, Duration, &'static str)> {
        if brain.killed {
            return None;
        }
        if brain.ready {
            return Some((brain.heard?, self.silent?, "has said nothing"));
        }
        let limit = if replaces {
            self.ready? / REPLACING
        } else {
            self.ready?.saturating_mul(1 << self.late.min(DOUBLINGS))
        };
        Some((brain.started, limit, "was not ready"))
    }

    /// When it is over.
    pub(super) fn ends(&self, brain: &Brain, replaces: bool) -> Option<Instant> {
        self.limit(brain, replaces).map(|(from, limit, _)| from + limit)
    }

    /// Why a brain is to be killed, if it is.
    pub(super) fn is_over(&mut self, brain: &Brain, replaces: bool) -> Option<String> {
        let (_, limit, what) =
            self.limit(brain, replaces).filter(|(from, limit, _)| from.elapsed() >= *limit)?;
        if !brain.ready && !replaces {
            self.late = self.late.saturating_add(1);
        }
        Some(format!("{what} for {limit:?}"))
    }

    /// One was ready.
    pub(super) fn was_in_time(&mut self) {
        self.late = 0;
    }
}
