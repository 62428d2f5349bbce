//! `[route.…]`: plain HTTP that the gateway passes on to a service, as types with every default filled in.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::units::{ByteSize, HumanDuration};

/// The most routes of one application.
pub const MAX_ROUTES: usize = 1000;

/// How long an answer may take to begin: as long as the gateway gives a call that says nothing itself.
pub const DEFAULT_ROUTE_TIMEOUT: HumanDuration = HumanDuration::from_secs(15);

/// Requests of one shape, and the service that answers them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Route {
    /// The name; one that begins with `/` is the route's prefix too.
    pub name: String,
    /// The service whose instances answer.
    pub service: String,
    /// The host that is asked for, in lower case; `*.example.com` is every name below that one. Any where it
    /// is not given.
    pub host: Option<String>,
    /// The path.
    pub path: RoutePath,
    /// Methods such as `GET`; any where it is empty.
    pub methods: Vec<String>,
    /// Headers by their names in lower case, each with its value; `*` is any value.
    pub headers: BTreeMap<String, String>,
    /// Whether the instance gets the path without the prefix.
    pub strip: bool,
    /// How long it may take until an answer begins, without anything being sent meanwhile:
    /// [`DEFAULT_ROUTE_TIMEOUT`].
    pub timeout: HumanDuration,
    /// The largest request body; the gateway's own where it is not given.
    pub max_body: Option<ByteSize>,
}

/// Which paths a route is for.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RoutePath {
    /// This one alone.
    Exact(String),
    /// This one and those below it: `/reports` is for `/reports/today` and not for `/reportsheet`.
    Prefix(String),
}

// === impl Route ===

impl Route {
    /// Whether some request is for both of two routes and neither is the better match.
    pub(crate) fn is_like(&self, other: &Self) -> bool {
        let overlap = self.methods.is_empty() && other.methods.is_empty()
            || !self.methods.is_empty() && self.methods.iter().any(|method| other.methods.contains(method));
        self.host == other.host && self.path == other.path && self.headers == other.headers && overlap
    }
}
