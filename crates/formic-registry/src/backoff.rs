//! Growing, jittered waits between attempts that never end.

use std::time::Duration;

/// A wait that doubles from `min` to `max`; each is drawn from its upper half, so that a crowd that lost
/// its registry together does not come back together.
#[derive(Clone, Debug)]
pub struct Backoff {
    min: Duration,
    max: Duration,
    next: Duration,
}

impl Backoff {
    /// Waits between `min` and `max`.
    #[must_use]
    pub const fn new(min: Duration, max: Duration) -> Self {
        Self { min, max, next: min }
    }

    /// How long to wait before the next attempt.
    pub fn next_wait(&mut self) -> Duration {
        let ceiling = self.next.min(self.max);
        self.next = ceiling.saturating_mul(2).min(self.max);
        ceiling.mul_f64(0.5 + fastrand::f64() / 2.0)
    }

    /// Starts over, after a success.
    pub const fn reset(&mut self) {
        self.next = self.min;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_within_bounds_and_start_over() {
        let mut backoff = Backoff::new(Duration::from_millis(250), Duration::from_secs(15));
        let mut ceiling = 250;
        for _ in 0..12 {
            let wait = backoff.next_wait().as_millis();
            assert!(wait >= ceiling / 2 && wait <= ceiling, "{wait} of {ceiling}");
            ceiling = (ceiling * 2).min(15_000);
        }
        backoff.reset();
        assert!(backoff.next_wait() <= Duration::from_millis(250));
    }
}
