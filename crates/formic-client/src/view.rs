//! What people ask about traffic and change of it: the view of a service, and faults of a policy.

use formic_balance::traffic::Fault;
use formic_balance::{BackendView, Traffic};
use serde::{Deserialize, Serialize};

/// A service as one of its callers sees it, as of a moment.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TrafficView {
    /// The service.
    pub service: String,
    /// How it is called.
    pub policy: Traffic,
    /// It is served by this very process, so its endpoints are not called.
    pub local: bool,
    /// It was called, so its endpoints are known.
    pub called: bool,
    /// How many further attempts the budget still bears.
    pub retries_left: f64,
    /// Its instances, in the order of their ids, and then those that left and finish their last calls.
    pub endpoints: Vec<BackendView>,
    /// So few of them are in that ejections are ignored: those that are ejected get calls, too.
    #[serde(default)]
    pub panic: bool,
    /// So many of them are in, which a panic goes by: neither ejected nor down,
    #[serde(default)]
    pub fit: u32,
    /// of so many. Fewer than there are where the policy keeps to a subset.
    #[serde(default)]
    pub counted: u32,
    /// What of the policy does not apply to the instances that there are, or not as long as they fare as they do.
    pub notes: Vec<String>,
}

/// A policy that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InvalidTraffic(
    /// Everything that is wrong with it.
    pub Vec<Fault>,
);

impl InvalidTraffic {
    pub(crate) fn check(traffic: &Traffic) -> Result<(), Self> {
        let faults = traffic.validate();
        if faults.is_empty() { Ok(()) } else { Err(Self(faults)) }
    }
}

impl std::fmt::Display for InvalidTraffic {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("the traffic policy is not valid: ")?;
        for (at, fault) in self.0.iter().enumerate() {
            write!(f, "{}{fault}", if at == 0 { "" } else { "; " })?;
        }
        Ok(())
    }
}

impl std::error::Error for InvalidTraffic {}
