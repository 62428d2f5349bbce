//! Rows and targets: the form in which every bench says what it found, for people and for programs.

use std::fmt::Write as _;

use serde::Serialize;
use serde_json::{Value, json};

use crate::machine::Machine;

/// One subject under one load: medians over the rounds.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Row {
    pub(crate) subject: String,
    pub(crate) protocol: String,
    pub(crate) connections: usize,
    pub(crate) callers: usize,
    pub(crate) rps: f64,
    pub(crate) p50_us: f64,
    pub(crate) p99_us: f64,
    pub(crate) errors: u64,
    /// To the first subject of the same load.
    pub(crate) rps_ratio: f64,
    pub(crate) p99_ratio: f64,
    pub(crate) client_cpu_us: Option<f64>,
    pub(crate) server_cpu_us: Option<f64>,
    /// After the whole run.
    pub(crate) server_rss_mib: Option<f64>,
    pub(crate) rounds: usize,
}

/// What must hold.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Target {
    pub(crate) name: String,
    pub(crate) value: f64,
    pub(crate) limit: f64,
    pub(crate) met: bool,
    #[serde(skip)]
    at_least: bool,
}

/// A whole run.
pub(crate) struct Report {
    pub(crate) machine: Machine,
    pub(crate) load: String,
    pub(crate) rows: Vec<Row>,
    pub(crate) targets: Vec<Target>,
}

/// The value in the middle; 0 of none.
pub(crate) fn median(values: &[f64]) -> f64 {
    let mut values = values.to_vec();
    values.sort_by(f64::total_cmp);
    match values.len() {
        0 => 0.0,
        odd if odd % 2 == 1 => values[odd / 2],
        even => f64::midpoint(values[even / 2 - 1], values[even / 2]),
    }
}

impl Target {
    pub(crate) fn at_least(name: impl Into<String>, value: f64, limit: f64) -> Self {
        Self { name: name.into(), value, limit, met: value >= limit, at_least: true }
    }

    pub(crate) fn at_most(name: impl Into<String>, value: f64, limit: f64) -> Self {
        Self { name: name.into(), value, limit, met: value <= limit, at_least: false }
    }

    /// The limit with its direction.
    pub(crate) fn bound(&self) -> String {
        format!("{} {}", if self.at_least { '≥' } else { '≤' }, self.limit)
    }

    /// How far from the limit a missed one is.
    pub(crate) fn missed_by(&self) -> Option<String> {
        if self.met {
            return None;
        }
        let off = (self.value - self.limit).abs();
        let share =
            if self.limit == 0.0 { String::new() } else { format!(" ({:.1} %)", 100.0 * off / self.limit) };
        Some(format!("{off:.3}{share}"))
    }
}

impl Report {
    pub(crate) fn json(&self) -> Value {
        json!({
            "bench": "rpc",
            "machine": self.machine,
            "load": self.load,
            "rows": self.rows,
            "targets": self.targets,
        })
    }

    pub(crate) fn text(&self) -> String {
        let mut out = String::new();
        let mut line = |text: String| {
            // Writing to a string cannot fail.
            let _ = writeln!(out, "{}", text.trim_end());
        };
        line(format!(
            "{:26} {:>7} {:>9} {:>6} {:>9} {:>9} {:>6} {:>8} {:>8} {:>6}",
            "subject", "callers", "calls/s", "×", "p50 µs", "p99 µs", "×", "client", "server", "errors"
        ));
        for row in &self.rows {
            line(format!(
                "{:26} {:>7} {:>9.0} {:>6.2} {:>9.0} {:>9.0} {:>6.2} {:>8} {:>8} {:>6}",
                row.subject,
                row.callers,
                row.rps,
                row.rps_ratio,
                row.p50_us,
                row.p99_us,
                row.p99_ratio,
                micros(row.client_cpu_us),
                micros(row.server_cpu_us),
                row.errors,
            ));
        }
        line(format!(
            "× is the ratio to the first subject; client and server are µs of processor time a call. {}.",
            self.load
        ));
        line(String::new());
        for target in &self.targets {
            let verdict = match target.missed_by() {
                None => "met".into(),
                Some(by) => format!("MISSED by {by}"),
            };
            line(format!("{:44} {:>9.3} {:>8}  {verdict}", target.name, target.value, target.bound()));
        }
        out
    }
}

/// Microseconds, where they are known.
pub(crate) fn micros(value: Option<f64>) -> String {
    value.map_or("–".into(), |value| format!("{value:.1}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians() {
        assert_eq!([median(&[]), median(&[3.0, 1.0, 2.0]), median(&[4.0, 1.0])], [0.0, 2.0, 2.5]);
    }

    #[test]
    fn a_target_says_its_direction_and_its_distance() {
        let missed = Target::at_least("speed", 0.9, 0.95);
        assert_eq!((missed.met, missed.bound()), (false, "≥ 0.95".into()));
        assert_eq!(missed.missed_by(), Some("0.050 (5.3 %)".into()));
        let met = Target::at_most("time", 50.0, 50.0);
        assert_eq!((met.met, met.missed_by()), (true, None));
        assert_eq!(Target::at_most("errors", 2.0, 0.0).missed_by(), Some("2.000".into()));
    }

    #[test]
    fn programs_read_the_agreed_form() {
        let machine = crate::machine::facts();
        let targets = vec![Target::at_most("size", 1.0, 2.0)];
        let json = Report { machine, load: String::new(), rows: Vec::new(), targets }.json();
        assert_eq!(json["targets"][0], json!({"name": "size", "value": 1.0, "limit": 2.0, "met": true}));
        assert_eq!(json["rows"], json!([]));
    }
}
