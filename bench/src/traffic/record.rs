//! The record of a load, and what scenes ask of it.

use std::path::Path;

use anyhow::{Context as _, Result, bail};
use formic_bench::record::{Call, Kind, Line, Micros, Seen};

use crate::chart::Series;

/// What the driver wrote down.
pub(crate) struct Record {
    /// By the moment at which they began.
    pub(crate) calls: Vec<Call>,
    pub(crate) seen: Vec<Seen>,
    /// When each part of the load began, and when the last one ended.
    pub(crate) phases: Vec<Micros>,
}

/// Where the points of a series lie.
const STEP: f64 = 0.5;

// === impl Record ===

impl Record {
    pub(crate) fn read(path: &Path, phases: Vec<Micros>) -> Result<Self> {
        let text = std::fs::read_to_string(path).with_context(|| format!("read {}", path.display()))?;
        let (mut calls, mut seen) = (Vec::new(), Vec::new());
        for line in text.lines() {
            match Line::parse(line) {
                Some(Line::Call(call)) => calls.push(call),
                Some(Line::Seen(one)) => seen.push(one),
                None => bail!("the driver wrote {line:?}"),
            }
        }
        calls.sort_by_key(|call| call.began);
        Ok(Self { calls, seen, phases })
    }

    /// The calls of parts of the load.
    pub(crate) fn phase(
        &self,
        wanted: std::ops::RangeInclusive<usize>,
    ) -> impl Iterator<Item = &Call> + Clone {
        self.calls.iter().filter(move |call| wanted.contains(&call.phase))
    }

    /// Seconds since the load began.
    pub(crate) fn seconds(&self, at: Micros) -> f64 {
        seconds(self.phases.first().copied().unwrap_or(at), at)
    }

    /// When an instance was first left out for its failures, from a moment on.
    pub(crate) fn ejected(&self, instance: &str, from: Micros) -> Option<Micros> {
        let of = |seen: &&Seen| seen.instance == instance && seen.at >= from && out(seen);
        self.seen.iter().find(of).map(|seen| seen.at)
    }

    /// When it came back for good, from a moment on; none if it is out at the end.
    pub(crate) fn returned(&self, instance: &str, from: Micros) -> Option<Micros> {
        let mut since = None;
        for seen in self.seen.iter().filter(|seen| seen.instance == instance) {
            match (out(seen), since) {
                (true, _) => since = None,
                (false, None) => since = Some(seen.at.max(from)),
                (false, Some(_)) => {}
            }
        }
        since
    }

    /// The most calls that the caller counted on their way to an instance, within a while.
    pub(crate) fn most_in_flight(&self, instance: &str, from: Micros, to: Micros) -> u32 {
        let within =
            self.seen.iter().filter(|seen| seen.instance == instance && (from..=to).contains(&seen.at));
        within.map(|seen| seen.in_flight).max().unwrap_or(0)
    }

    /// Something of the calls of each half second, over time; nothing where it says nothing.
    pub(crate) fn series(&self, name: &str, of: impl Fn(&[&Call]) -> Option<f64>) -> Series {
        let (Some(&first), Some(&last)) = (self.phases.first(), self.phases.last()) else {
            return Series { name: name.into(), points: Vec::new() };
        };
        let steps = (seconds(first, last) / STEP).floor() as usize;
        let mut slots = vec![Vec::new(); steps];
        for call in &self.calls {
            if let Some(slot) = slots.get_mut((seconds(first, call.began) / STEP) as usize) {
                slot.push(call);
            }
        }
        let points = slots
            .iter()
            .enumerate()
            .filter_map(|(index, calls)| Some(((index as f64 + 0.5) * STEP, of(calls)?)));
        Series { name: name.into(), points: points.collect() }
    }
}

fn out(seen: &Seen) -> bool {
    matches!(seen.state.as_str(), "ejected" | "probing")
}

pub(crate) fn seconds(from: Micros, to: Micros) -> f64 {
    to.saturating_sub(from) as f64 / 1e6
}

/// So many calls of these a second, in a slot of a series.
pub(crate) fn rate(calls: usize) -> f64 {
    calls as f64 / STEP
}

/// The percentile of the calls that were answered, in milliseconds; infinite if none was.
pub(crate) fn percentile<'a>(calls: impl Iterator<Item = &'a Call>, share: f64) -> f64 {
    let mut took: Vec<Micros> = calls.filter(|call| call.failed.is_none()).map(|call| call.took).collect();
    took.sort_unstable();
    let rank = (took.len() as f64 * share).ceil() as usize;
    took.get(rank.saturating_sub(1)).map_or(f64::INFINITY, |&took| took as f64 / 1e3)
}

/// How many of these failed, in per cent.
pub(crate) fn failed_share<'a>(calls: impl Iterator<Item = &'a Call>) -> f64 {
    let (mut all, mut failed) = (0u32, 0u32);
    for call in calls {
        all += 1;
        failed += u32::from(call.failed.is_some());
    }
    100.0 * f64::from(failed) / f64::from(all.max(1))
}

pub(crate) fn is_read(call: &&Call) -> bool {
    call.kind == Kind::Read
}

#[cfg(test)]
mod tests {
    use super::*;

    fn call(began: Micros, took: Micros, failed: bool) -> Call {
        let failed = failed.then(|| "unavailable".to_owned());
        Call { began, took, phase: 0, kind: Kind::Read, important: false, failed, instance: None }
    }

    fn seen(at: Micros, state: &str) -> Seen {
        Seen { at, instance: "b".into(), state: state.into(), in_flight: 2 }
    }

    #[test]
    fn percentiles_and_shares_are_of_what_they_say() {
        let mut calls: Vec<Call> = (1..=200).map(|ms| call(0, ms * 1000, false)).collect();
        assert_eq!([0.5, 0.99].map(|share| percentile(calls.iter(), share)), [100.0, 198.0]);
        calls.extend((0..50).map(|_| call(0, 9_000_000, true)));
        assert_eq!(percentile(calls.iter(), 0.99), 198.0);
        assert_eq!(failed_share(calls.iter()), 20.0);
        assert_eq!((percentile([].iter(), 0.5), failed_share([].iter())), (f64::INFINITY, 0.0));
    }

    #[test]
    fn an_ejection_is_found_and_a_return_is_for_good() {
        let states =
            ["ready", "suspect", "ejected", "probing", "ready", "ejected", "probing", "warming", "ready"];
        let seen: Vec<Seen> = states.iter().zip(1..).map(|(state, at)| seen(at, state)).collect();
        let mut record = Record { calls: Vec::new(), seen, phases: vec![0, 10] };
        assert_eq!(
            (record.ejected("b", 2), record.ejected("b", 4), record.ejected("a", 0)),
            (Some(3), Some(4), None)
        );
        assert_eq!((record.returned("b", 5), record.returned("a", 0)), (Some(8), None));
        assert_eq!(record.most_in_flight("b", 3, 5), 2);
        record.seen.truncate(7);
        assert_eq!(record.returned("b", 5), None, "it is out at the end");
    }

    #[test]
    fn a_series_has_a_point_for_each_half_second() {
        let calls = vec![call(100_000, 1, false), call(200_000, 1, true), call(1_200_000, 1, false)];
        let record = Record { calls, seen: Vec::new(), phases: vec![0, 1_500_000] };
        let series = record.series("all", |calls| Some(rate(calls.len())));
        assert_eq!(series.points, [(0.25, 4.0), (0.75, 0.0), (1.25, 2.0)]);
    }
}
