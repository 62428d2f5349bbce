//! A line of the log now and then, for what may happen twenty times a second and for days.

use std::time::{Duration, Instant};

/// A line tells what happened since the one before.
const PAUSE: Duration = Duration::from_secs(10);

/// How often something happens, and when it was told.
#[derive(Debug, Default)]
pub(crate) struct Seldom {
    told: Option<Instant>,
    untold: u64,
}

impl Seldom {
    /// Takes note of one more; if it is to be told now, how many there were since the last line.
    pub(crate) fn note(&mut self, now: Instant) -> Option<u64> {
        self.untold += 1;
        if self.told.is_some_and(|told| now.duration_since(told) < PAUSE) {
            return None;
        }
        self.told = Some(now);
        Some(std::mem::take(&mut self.untold))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_is_told_at_once_and_the_rest_together() {
        let (mut seldom, now) = (Seldom::default(), Instant::now());
        let told: Vec<_> = (0..=300_u64)
            .filter_map(|at| seldom.note(now + Duration::from_millis(50) * u32::try_from(at).unwrap_or(0)))
            .collect();
        assert_eq!(told, [1, 200]);
    }
}
