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

    #[test]
    fn who_lost_the_same_server_at_once_does_not_come_back_at_once() {
        let waits =
            |_| Backoff::new(Duration::from_secs(1), Duration::from_secs(1)).next_wait().as_millis() / 50;
        let each_50_ms = (0..1_000).map(waits).fold([0; 21], |mut count, at| {
            count[at as usize] += 1;
            count
        });
        assert!(each_50_ms[10..20].iter().all(|count| (50..200).contains(count)), "{each_50_ms:?}");
    }
}
