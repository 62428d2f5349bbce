//! How a gateway is set up; its routes are not here, they come by watch.

use std::collections::BTreeMap;
use std::time::Duration;

use formic_client::Traffic;
use formic_core::Endpoint;
use serde::{Deserialize, Serialize};

use crate::entry::{Network, Scrapers};

/// The settings of a gateway.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Name of the application, for its pages.
    pub app: String,
    /// Where it listens.
    pub listen: Endpoint,
    /// Origins that browsers may call from; `*` is everyone. Empty: same origin only.
    #[serde(default)]
    pub cors: Vec<String>,
    /// Largest body of a request, in bytes.
    #[serde(default = "default_max_body")]
    pub max_body: usize,
    /// Deadline of a call that brought none.
    #[serde(default = "default_timeout")]
    pub timeout: Duration,
    /// How long calls in flight may take at the end.
    #[serde(default = "default_grace")]
    pub grace: Duration,
    /// Callers may say how much a call matters.
    #[serde(default)]
    pub priority: bool,
    /// Who stands in front of it and is believed what it says of callers.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub trusted: Vec<Network>,
    /// Who is answered at `/metrics`.
    #[serde(default, skip_serializing_if = "Scrapers::is_default")]
    pub metrics: Scrapers,
    /// What is known of it, as of an instance: `zone` is where it stands, for policies that prefer the near.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// What services are called over: `auto`, `http` or `multiplexed`, as in a service's settings. Empty is `auto`.
    #[serde(default)]
    pub transport: String,
    /// How services are called, by their names; the others by default.
    #[serde(default)]
    pub services: BTreeMap<String, Traffic>,
    /// Who it is among the instances; one that is nobody is not told of new policies.
    #[serde(skip)]
    pub instance: String,
}

/// As the services behind it take by default.
pub const DEFAULT_MAX_BODY: usize = 4 << 20;

fn default_max_body() -> usize {
    DEFAULT_MAX_BODY
}

fn default_timeout() -> Duration {
    // Longer than a service's own default of 5 s: an outer deadline that fires first hides the cause.
    Duration::from_secs(15)
}

fn default_grace() -> Duration {
    Duration::from_secs(10)
}
