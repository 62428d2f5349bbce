//! What can be wrong with a policy that serde takes: every fault, each with the key that it is about.

use std::fmt;
use std::time::Duration;

use super::{Algorithm, Budget, Ejection, Filter, Hedge, Retry, Rule, Traffic};

/// Longer makes no sense for a call that people or machines wait for.
const LONGEST: Duration = Duration::from_secs(60 * 60);

/// What is wrong with one key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// The key, such as `rules.1.split`.
    pub key: String,
    /// What is wrong with it, as a fragment of a sentence.
    pub text: String,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.key, self.text)
    }
}

impl std::error::Error for Fault {}

/// Collects faults.
#[derive(Default)]
struct Check(Vec<Fault>);

impl Check {
    fn fault(&mut self, key: impl Into<String>, text: impl Into<String>) {
        self.0.push(Fault { key: key.into(), text: text.into() });
    }

    fn within(&mut self, key: &str, value: f64, range: std::ops::RangeInclusive<f64>) {
        if !range.contains(&value) {
            // 1e300 has three hundred digits.
            let value = if value.abs() < 1e15 { value.to_string() } else { format!("{value:e}") };
            self.fault(key, format!("expected {} to {}, got {value}", range.start(), range.end()));
        }
    }

    fn at_most(&mut self, key: &str, value: Duration, limit: Duration) {
        if value > limit {
            let (limit, value) = (super::span::show(limit), super::span::show(value));
            self.fault(key, format!("expected at most {limit}, got {value}"));
        }
    }
}

impl Traffic {
    /// Everything that is wrong with the policy; nothing if it can be used.
    #[must_use]
    pub fn validate(&self) -> Vec<Fault> {
        let mut check = Check::default();
        self.check_policy(&mut check);
        for (at, rule) in self.rules.iter().enumerate() {
            let earlier = self.rules[..at].iter().any(|other| other.name == rule.name);
            rule.check(&format!("rules.{at}"), earlier, &mut check);
        }
        self.ejection.check(&mut check);
        self.retry.check(&mut check);
        if let Some(hedge) = &self.hedge {
            hedge.check(&mut check);
        }
        self.budget.check(&mut check);
        check.0
    }

    fn check_policy(&self, check: &mut Check) {
        // With another policy it is of no use and no harm: sections are laid over each other, and what lies above
        // may choose another.
        if self.hash.is_none() && self.policy == Algorithm::Hash {
            check.fault("hash", "is missing: the policy `hash` needs hash = { key = \"a-header\" }");
        }
        if let Some(hash) = &self.hash {
            header("hash.key", &hash.key, check);
            check.within("hash.bound", hash.bound, 1.0..=100.0);
        }
        check.at_most("slow_start", self.slow_start, LONGEST);
        if self.subset == Some(0) {
            check.fault("subset", "expected at least 1, got 0");
        }
        if let Some(zone) = &self.zone {
            check.within("zone.spill", zone.spill, 1.0..=1000.0);
        }
    }
}

/// Names are lower-case tokens, as on the wire.
fn header(key: &str, name: &str, check: &mut Check) {
    let token = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "-_.".contains(c);
    if name.is_empty() || !name.chars().all(token) {
        check.fault(key, format!("expected the name of a header in lower case, got {name:?}"));
    }
}

impl Rule {
    fn check(&self, key: &str, taken: bool, check: &mut Check) {
        if self.name.is_empty() {
            check.fault(format!("{key}.name"), "is missing: it stands in every report");
        } else if taken {
            check.fault(format!("{key}.name"), format!("there is a rule {:?} before it", self.name));
        }
        for (name, value) in &self.when {
            header(&format!("{key}.when"), name, check);
            if value.is_empty() {
                check.fault(format!("{key}.when.{name}"), "expected a value, or * for any, got \"\"");
            } else if value.trim_end_matches('*').contains('*') || value.ends_with("**") {
                check.fault(
                    format!("{key}.when.{name}"),
                    format!("expected one * at most, as the last character, got {value:?}"),
                );
            }
        }
        if self.to.is_empty() && self.except.is_empty() && self.split.is_empty() {
            check.fault(key, "changes nothing: expected one of `to`, `except` and `split`");
        }
        self.to.check(&format!("{key}.to"), check);
        self.except.check(&format!("{key}.except"), check);
        for (at, share) in self.split.iter().enumerate() {
            share.to.check(&format!("{key}.split.{at}.to"), check);
            share.except.check(&format!("{key}.split.{at}.except"), check);
        }
        let sum: u64 = self.split.iter().map(|share| u64::from(share.weight)).sum();
        if !self.split.is_empty() && sum == 0 {
            check.fault(format!("{key}.split"), "the weights sum to nothing: expected at least one above 0");
        }
        if u32::try_from(sum).is_err() {
            check.fault(format!("{key}.split"), "the weights sum to more than 4294967295");
        }
    }
}

impl Filter {
    fn check(&self, key: &str, check: &mut Check) {
        for (part, value) in [("version", &self.version), ("zone", &self.zone)] {
            if value.as_deref() == Some("") {
                check.fault(format!("{key}.{part}"), format!("expected a {part}, got \"\""));
            }
        }
    }
}

impl Ejection {
    fn check(&self, check: &mut Check) {
        if self.failures > 1_000 {
            check.fault("ejection.failures", format!("expected at most 1000, got {}", self.failures));
        }
        check.within("ejection.max_share", self.max_share, 0.0..=1.0);
        check.within("ejection.panic", self.panic, 0.0..=1.0);
        check.at_most("ejection.max_wait", self.max_wait, LONGEST);
        if self.min_wait.is_zero() {
            check.fault("ejection.min_wait", "expected more than 0s");
        }
        if self.min_wait > self.max_wait {
            let (least, most) = (super::span::show(self.min_wait), super::span::show(self.max_wait));
            check.fault(
                "ejection.min_wait",
                format!("is {least}, which is longer than `ejection.max_wait`, {most}"),
            );
        }
        if !(1..=100).contains(&self.probes) {
            check.fault("ejection.probes", format!("expected 1 to 100, got {}", self.probes));
        }
        if self.outliers.hosts == 1 {
            check.fault(
                "ejection.outliers.hosts",
                "expected at least 2, or 0 for none: one has none to be compared with",
            );
        }
        if self.outliers.calls == 0 {
            check.fault("ejection.outliers.calls", "expected at least 1, got 0");
        }
        check.within("ejection.outliers.deviations", self.outliers.deviations, 0.1..=100.0);
        check.within("ejection.outliers.failing", self.outliers.failing, 0.01..=1.0);
    }
}

impl Retry {
    fn check(&self, check: &mut Check) {
        if !(1..=10).contains(&self.endpoints) {
            check.fault("retry.endpoints", format!("expected 1 to 10, got {}", self.endpoints));
        }
        if self.repeats > 5 {
            check.fault("retry.repeats", format!("expected at most 5, got {}", self.repeats));
        }
        check.at_most("retry.max_wait", self.max_wait, LONGEST);
    }
}

impl Hedge {
    fn check(&self, check: &mut Check) {
        check.within("hedge.quantile", self.quantile, 0.5..=0.999);
        check.at_most("hedge.min_delay", self.min_delay, LONGEST);
    }
}

impl Budget {
    fn check(&self, check: &mut Check) {
        check.within("budget.ratio", self.ratio, 0.0..=10.0);
        let seconds = self.window.as_secs();
        if !(1..=60).contains(&seconds) || self.window.subsec_nanos() != 0 {
            let window = super::span::show(self.window);
            check.fault("budget.window", format!("expected whole seconds, 1s to 60s, got {window}"));
        }
    }
}
