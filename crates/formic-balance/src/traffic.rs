//! The policy as plain data: what a manifest, a service's settings or an author's code say about the calls
//! to one service.
//!
//! Every field has a default that suits calls within a data centre, so an empty policy is a whole one.

use std::collections::BTreeMap;
use std::time::Duration;

use formic_core::Code;
use serde::{Deserialize, Serialize};

mod check;
pub mod span;

pub use check::Fault;

/// How the calls to one service are spread, protected and repeated.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Traffic {
    /// Which endpoint of those that are left gets a call.
    pub policy: Algorithm,
    /// What [`Algorithm::Hash`] goes by.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hash: Option<Hash>,
    /// How long a new endpoint takes to get its whole share; zero for at once.
    #[serde(with = "span")]
    pub slow_start: Duration,
    /// How many endpoints this caller spreads its calls over; all of them if not given. Each caller has
    /// its own few, always the same.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub subset: Option<u32>,
    /// Endpoints of the caller's own zone first.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub zone: Option<Zone>,
    /// Who may get a call at all; the first rule that applies decides.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub rules: Vec<Rule>,
    /// When an endpoint gets no calls for a while.
    pub ejection: Ejection,
    /// When a call is made again.
    pub retry: Retry,
    /// A second attempt beside a slow first one, for idempotent methods; none if not given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hedge: Option<Hedge>,
    /// How much more than it was asked for a caller may send, by whatever of the above.
    pub budget: Budget,
}

/// The policies by name.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Algorithm {
    /// The better of two drawn at random, by latency times work in flight.
    #[default]
    P2c,
    /// One after the other.
    RoundRobin,
    /// One after the other, in proportion to the label `weight` of the instances.
    WeightedRoundRobin,
    /// The one with the least work in flight.
    LeastRequest,
    /// Any.
    Random,
    /// The same endpoint for the same value of a header.
    Hash,
}

/// What a consistent hash goes by.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Hash {
    /// The metadata (header) whose value decides; calls without it are spread by [`Algorithm::P2c`].
    pub key: String,
    /// How much more than its even share of the work in flight an endpoint may have before keys go on to
    /// their next one: 1.25 is a quarter more.
    #[serde(default = "default_bound")]
    pub bound: f64,
}

/// The bound of the paper on consistent hashing with bounded loads.
const fn default_bound() -> f64 {
    1.25
}

/// Preference for the caller's zone.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Zone {
    /// How many times costlier (latency times work in flight) than one elsewhere the own zone's endpoint
    /// may be. Where the policy does not weigh endpoints, only endpoints that are out count.
    pub spill: f64,
}

impl Default for Zone {
    fn default() -> Self {
        // A hop between zones costs about as much as a short call itself.
        Self { spill: 3.0 }
    }
}

/// Who may get which calls.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Rule {
    /// What it is called in reports.
    pub name: String,
    /// The calls it is about: all of these headers match. `*` stands for any value, `x*` for any that
    /// begins with `x`. Empty: every call.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub when: BTreeMap<String, String>,
    /// Only instances that match.
    #[serde(skip_serializing_if = "Filter::is_empty")]
    pub to: Filter,
    /// None of those.
    #[serde(skip_serializing_if = "Filter::is_empty")]
    pub except: Filter,
    /// Shares among them; one of everything if empty.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub split: Vec<Share>,
    /// Where no instance matches and answers: fail the call, instead of going on to the next rule.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub strict: bool,
}

/// Instances by what they are; every given part must match.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Filter {
    /// The version.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// The label `zone`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub zone: Option<String>,
    /// Any label.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
}

/// A share of a rule's calls.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Share {
    /// Its weight against the others.
    pub weight: u32,
    /// Only instances that match.
    #[serde(default, skip_serializing_if = "Filter::is_empty")]
    pub to: Filter,
    /// None of those.
    #[serde(default, skip_serializing_if = "Filter::is_empty")]
    pub except: Filter,
}

/// When an endpoint is left out for a while, and how it comes back.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Ejection {
    /// So many failures in a row, or nearly so: a success takes back a quarter of one. 0 turns it off.
    pub failures: u32,
    /// Comparison with the others, where there are enough of them.
    pub outliers: Outliers,
    /// The largest share of the endpoints that is out at once; one always may be, the last never.
    pub max_share: f64,
    /// With a smaller share than this in, ejections are ignored: too few would have to carry all.
    pub panic: f64,
    /// How long an endpoint is out at first; then twice as long each time.
    #[serde(with = "span")]
    pub min_wait: Duration,
    /// And never longer.
    #[serde(with = "span")]
    pub max_wait: Duration,
    /// How many calls, one at a time, must succeed before it is back.
    pub probes: u32,
}

/// The statistics of gRPC's outlier detection (A50).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Outliers {
    /// How many endpoints must have enough calls; 0 turns it off.
    pub hosts: u32,
    /// How many calls within ten seconds are enough.
    pub calls: u32,
    /// How many standard deviations below the mean success rate is too far.
    pub deviations: f64,
    /// A share of failures that is too much in any case, from half as many calls on.
    pub failing: f64,
}

/// When a call is made again.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Retry {
    /// How many endpoints are tried for a call that reached none of them.
    pub endpoints: u32,
    /// How often a call to an idempotent method is repeated when an endpoint failed it.
    pub repeats: u32,
    /// The codes that such a failure may have.
    pub codes: Vec<Code>,
    /// How long a server that says when to come back is waited for; one that asks for more is not asked
    /// again.
    #[serde(with = "span")]
    pub max_wait: Duration,
}

/// A second attempt beside a slow first one.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Hedge {
    /// It begins when so large a share of the method's calls would have been answered.
    pub quantile: f64,
    /// But never earlier than this.
    #[serde(with = "span")]
    pub min_delay: Duration,
}

/// How much may be sent beyond what was asked for: the larger of two. The defaults are those of linkerd and finagle, who
/// add them up.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Budget {
    /// Further attempts per call, 0.2 being one for five calls.
    pub ratio: f64,
    /// Attempts a second, where that is more.
    pub per_second: u32,
    /// How long a call counts; whole seconds, 1 to 60.
    #[serde(with = "span")]
    pub window: Duration,
}

// === impl Traffic and its parts ===

impl Default for Traffic {
    fn default() -> Self {
        Self {
            policy: Algorithm::default(),
            hash: None,
            // Caches fill and code is paged in within seconds.
            slow_start: Duration::from_secs(10),
            subset: None,
            zone: None,
            rules: Vec::new(),
            ejection: Ejection::default(),
            retry: Retry::default(),
            hedge: None,
            budget: Budget::default(),
        }
    }
}

impl Algorithm {
    /// Every policy, in the order in which they are listed for people.
    pub const ALL: [Self; 6] =
        [Self::P2c, Self::RoundRobin, Self::WeightedRoundRobin, Self::LeastRequest, Self::Random, Self::Hash];

    /// The name in configuration.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::P2c => "p2c",
            Self::RoundRobin => "round_robin",
            Self::WeightedRoundRobin => "weighted_round_robin",
            Self::LeastRequest => "least_request",
            Self::Random => "random",
            Self::Hash => "hash",
        }
    }
}

impl Default for Ejection {
    fn default() -> Self {
        Self {
            // Envoy's and gRPC's number; linkerd waits for seven.
            failures: 5,
            outliers: Outliers::default(),
            max_share: 0.5,
            panic: 0.5,
            min_wait: Duration::from_secs(1),
            // Longer waits would keep a healed endpoint out for longer than its probes ever cost.
            max_wait: Duration::from_secs(8),
            // One alone lets every second flaky endpoint back in.
            probes: 3,
        }
    }
}

impl Default for Outliers {
    fn default() -> Self {
        // As in gRPC's A50.
        Self { hosts: 5, calls: 100, deviations: 1.9, failing: 0.85 }
    }
}

impl Default for Retry {
    fn default() -> Self {
        // Half a second is worth a wait, and a server that needs longer is better left alone.
        Self {
            endpoints: 3,
            repeats: 1,
            codes: vec![Code::Unavailable],
            max_wait: Duration::from_millis(500),
        }
    }
}

impl Default for Hedge {
    fn default() -> Self {
        // At the 95th percentile one call in twenty is made twice, which the budget bears.
        Self { quantile: 0.95, min_delay: Duration::from_millis(1) }
    }
}

impl Default for Budget {
    fn default() -> Self {
        Self { ratio: 0.2, per_second: 10, window: Duration::from_secs(10) }
    }
}

impl Filter {
    /// Whether it asks for nothing, and so matches every instance.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.version.is_none() && self.zone.is_none() && self.labels.is_empty()
    }
}

impl std::fmt::Display for Filter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let own = [("version", &self.version), ("zone", &self.zone)];
        let own = own.into_iter().filter_map(|(name, value)| Some((name, value.as_deref()?)));
        let labels = self.labels.iter().map(|(name, value)| (name.as_str(), value.as_str()));
        for (at, (name, value)) in own.chain(labels).enumerate() {
            let comma = if at == 0 { "" } else { ", " };
            write!(f, "{comma}{name} {value:?}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
