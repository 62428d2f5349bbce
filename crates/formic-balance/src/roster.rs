//! Who is in the set, by identity: what was learnt of an endpoint stays while others come and go.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use formic_core::InstanceId;

use crate::EndpointStats;

/// How long an endpoint that left is remembered: a registry that blinks is no reason to forget.
pub const KEEP: Duration = Duration::from_secs(60);

/// The endpoints of one service and what is known of them.
#[derive(Debug, Default)]
pub struct Roster {
    known: HashMap<InstanceId, Known>,
}

#[derive(Debug)]
struct Known {
    stats: Arc<EndpointStats>,
    left: Option<Duration>,
}

impl Roster {
    /// Nobody yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes the new set and returns its state in the same order. A newcomer starts at the median of
    /// those who stay: neither shunned nor run over before anything is known of it. Those who leave have
    /// no say, for they often leave because they are slow.
    pub fn update<'a>(
        &mut self,
        set: impl IntoIterator<Item = &'a InstanceId>,
        now: Duration,
    ) -> Vec<Arc<EndpointStats>> {
        for known in self.known.values_mut() {
            known.left = known.left.or(Some(now));
        }
        let mut newcomers = Vec::new();
        let mut stats: Vec<_> = set
            .into_iter()
            .enumerate()
            .map(|(index, id)| {
                if let Some(known) = self.known.get_mut(id) {
                    known.left = None;
                    return Arc::clone(&known.stats);
                }
                newcomers.push((index, id));
                Arc::new(EndpointStats::new(Duration::ZERO, now))
            })
            .collect();
        if !newcomers.is_empty() {
            let prior = self.median(now);
            for (index, id) in newcomers {
                stats[index] = Arc::new(EndpointStats::new(prior, now));
                self.known.insert(id.clone(), Known { stats: Arc::clone(&stats[index]), left: None });
            }
        }
        self.known.retain(|_, known| known.left.is_none_or(|left| now.saturating_sub(left) < KEEP));
        stats
    }

    /// The lower one of two: a newcomer that is taken for too fast is soon known better, one that is
    /// taken for too slow is not asked.
    fn median(&self, now: Duration) -> Duration {
        let present = self.known.values().filter(|known| known.left.is_none());
        let mut all: Vec<_> = present.map(|known| known.stats.latency(now)).collect();
        if all.is_empty() {
            return Duration::ZERO;
        }
        let middle = (all.len() - 1) / 2;
        *all.select_nth_unstable(middle).1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    fn ids(names: &[&str]) -> Vec<InstanceId> {
        names.iter().map(|&name| InstanceId::new(name)).collect()
    }

    #[test]
    fn state_survives_every_change_of_the_set() {
        let mut roster = Roster::new();
        let first = roster.update(&ids(&["a", "b"]), MS);
        first[0].succeeded(MS, 40 * MS);
        first[1].begin();
        let second = roster.update(&ids(&["c", "b", "a"]), 2 * MS);
        assert!(Arc::ptr_eq(&first[0], &second[2]) && Arc::ptr_eq(&first[1], &second[1]));
        // Gone and back within the time that it is remembered, then for longer.
        roster.update(&ids(&["b"]), 3 * MS);
        let third = roster.update(&ids(&["a", "b"]), KEEP);
        assert!(Arc::ptr_eq(&first[0], &third[0]));
        roster.update(&ids(&["b"]), KEEP);
        roster.update(&ids(&["b"]), 3 * KEEP);
        let fourth = roster.update(&ids(&["a", "b"]), 3 * KEEP);
        assert!(!Arc::ptr_eq(&first[0], &fourth[0]), "forgotten by now");
        assert!(Arc::ptr_eq(&first[1], &fourth[1]));
    }

    #[test]
    fn a_newcomer_starts_at_the_median() {
        let mut roster = Roster::new();
        let stats = roster.update(&ids(&["a", "b", "c"]), MS);
        for (stats, took) in stats.iter().zip([MS, 3 * MS, 900 * MS]) {
            stats.succeeded(MS, took);
        }
        let stats = roster.update(&ids(&["a", "b", "c", "d"]), MS);
        assert_eq!(stats[3].latency(MS).as_micros(), 3_000);
        // Of those who leave nothing is inherited.
        let stats = roster.update(&ids(&["a", "e"]), MS);
        assert_eq!(stats[1].latency(MS).as_micros(), 1_000);
    }
}
