//! Instances and endpoints: what a registry holds and what a balancer chooses among.

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::{Kind, ServiceName};

/// The identity of one running instance. A restarted process is another instance.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct InstanceId(Arc<str>);

impl InstanceId {
    /// Takes an id as it is.
    pub fn new(id: impl Into<Arc<str>>) -> Self {
        Self(id.into())
    }

    /// The id as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for InstanceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Where an instance can be reached.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Endpoint {
    /// A TCP address.
    Tcp(SocketAddr),
    /// A unix socket.
    Unix(PathBuf),
}

/// An address that is neither `HOST:PORT` nor `unix:/path`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no endpoint: expected an address such as 127.0.0.1:8080 or [::1]:8080, or unix:/path")]
pub struct InvalidEndpoint(pub String);

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(addr) => write!(f, "{addr}"),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

impl FromStr for Endpoint {
    type Err = InvalidEndpoint;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if let Some(path) = text.strip_prefix("unix:")
            && !path.is_empty()
        {
            return Ok(Self::Unix(path.into()));
        }
        let text = text.strip_prefix("http://").unwrap_or(text);
        text.parse().map(Self::Tcp).map_err(|_| InvalidEndpoint(text.into()))
    }
}

impl TryFrom<String> for Endpoint {
    type Error = InvalidEndpoint;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<Endpoint> for String {
    fn from(endpoint: Endpoint) -> Self {
        endpoint.to_string()
    }
}

impl From<SocketAddr> for Endpoint {
    fn from(addr: SocketAddr) -> Self {
        Self::Tcp(addr)
    }
}

/// A method that an instance serves, as registries carry it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RpcMethod {
    /// `Method`.
    pub name: String,
    /// Which sides stream.
    pub kind: Kind,
    /// Repeating a call has no further effect.
    #[serde(default)]
    pub idempotent: bool,
    /// The call has no effect at all.
    #[serde(default)]
    pub safe: bool,
}

/// An RPC service that an instance serves.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RpcService {
    /// `package.Service`.
    pub name: String,
    /// Its methods.
    #[serde(default)]
    pub methods: Vec<RpcMethod>,
}

/// One running copy of a service.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Instance {
    /// Its identity; balancer state hangs on it.
    pub id: InstanceId,
    /// The service it is a copy of.
    pub service: ServiceName,
    /// What was deployed: a revision, a release, a commit. May be empty.
    #[serde(default)]
    pub version: String,
    /// Where it answers.
    pub endpoint: Endpoint,
    /// Labels: zone, weight, transports spoken, whatever a rule may ask for.
    #[serde(default)]
    pub metadata: BTreeMap<String, String>,
    /// The RPC services it serves.
    #[serde(default)]
    pub rpc: Vec<RpcService>,
}

impl Instance {
    /// The label with the address that people know an instance by, if it is not the one where it alone answers: a
    /// public socket is handed from one generation to the next, and shared meanwhile.
    pub const PUBLIC: &str = "formic.public";
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints_read_what_they_print() {
        for text in ["127.0.0.1:80", "[::1]:8080", "unix:/run/a.sock"] {
            let endpoint: Endpoint = text.parse().expect("valid");
            assert_eq!(endpoint.to_string(), text);
        }
        for bad in ["", "unix:", "localhost", "127.0.0.1", "127.0.0.1:99999"] {
            assert!(bad.parse::<Endpoint>().is_err(), "{bad}");
        }
    }
}
