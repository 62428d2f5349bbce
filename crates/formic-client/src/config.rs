//! How a client behaves.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use formic_balance::{Factory, Traffic};
use formic_core::ServiceName;
use formic_mux::capture::Recording;
use formic_rpc::Interceptor;

use crate::{Connect, Observer};

/// Which wire is spoken to servers; a Formic server speaks both.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Protocol {
    /// Connect: plain HTTP bodies for calls of one message, and so the cheaper one.
    #[default]
    Connect,
    /// gRPC, for servers that speak nothing else.
    Grpc,
}

/// How calls reach servers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Transport {
    /// The multiplexed wire to instances that announce it, HTTP/2 to all others.
    #[default]
    Auto,
    /// HTTP/2, whatever an instance announces.
    Http,
    /// The multiplexed wire to every endpoint that answers it, announced or not; HTTP/2 to the others.
    Multiplexed,
}

impl Transport {
    /// The transport of this name in settings.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        match name {
            "auto" => Some(Self::Auto),
            "http" => Some(Self::Http),
            "multiplexed" => Some(Self::Multiplexed),
            _ => None,
        }
    }
}

/// How a client behaves. Every field has a default that suits calls within a data centre.
#[derive(Clone)]
pub struct Config {
    /// How long a call may take that says nothing and inherits nothing; of an answer that streams, until it begins.
    pub timeout: Duration,
    /// Connections to each endpoint over HTTP. The second is opened only when the first is busy. One multiplexed connection
    /// is enough.
    pub connections: usize,
    /// How long it may take to connect to an endpoint.
    pub connect_timeout: Duration,
    /// How connections are made, where not by sockets of the system.
    pub connector: Option<Arc<dyn Connect>>,
    /// How often an endpoint is pinged while a call waits on it, so that a dead peer is noticed though
    /// no packet says so; half as long again without an answer ends the connection.
    pub keep_alive: Option<Duration>,
    /// The largest message taken from a server, in bytes.
    pub max_message: usize,
    /// How long a call waits for a first instance while the registry knows none; covers the restart of
    /// a service's only instance.
    pub patience: Duration,
    /// How calls reach servers.
    pub transport: Transport,
    /// Where each multiplexed connection is recorded, secrets included; `formic wire decode` reads the records.
    pub capture: Option<Recording>,
    /// What is spoken over HTTP.
    pub protocol: Protocol,
    /// How calls are spread over endpoints, when one is left out, when a call is made again, and how often.
    pub traffic: Traffic,
    /// The same for single services, whole.
    pub services: HashMap<ServiceName, Traffic>,
    /// A policy of the author's own, in the place of those by name.
    pub policy: Option<Factory>,
    /// The zone of this process, for rules that prefer it.
    pub zone: Option<String>,
    /// Code of the author's own around every call; the first is the outermost.
    pub interceptors: Vec<Arc<dyn Interceptor>>,
    /// Who is told of every call.
    pub observer: Option<Arc<dyn Observer>>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            // Longer than any healthy call within an application, shorter than a person's patience.
            timeout: Duration::from_secs(5),
            // One connection's lock bounds it to some 35 k calls a second.
            connections: 2,
            connect_timeout: Duration::from_secs(1),
            connector: None,
            keep_alive: Some(Duration::from_secs(10)),
            max_message: 4 * 1024 * 1024,
            patience: Duration::from_secs(1),
            transport: Transport::default(),
            capture: None,
            protocol: Protocol::default(),
            traffic: Traffic::default(),
            services: HashMap::new(),
            policy: None,
            zone: None,
            interceptors: Vec::new(),
            observer: None,
        }
    }
}

impl fmt::Debug for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Config")
            .field("timeout", &self.timeout)
            .field("connections", &self.connections)
            .field("connect_timeout", &self.connect_timeout)
            .field("connector", &self.connector.is_some())
            .field("keep_alive", &self.keep_alive)
            .field("max_message", &self.max_message)
            .field("patience", &self.patience)
            .field("transport", &self.transport)
            .field("capture", &self.capture)
            .field("protocol", &self.protocol)
            .field("traffic", &self.traffic)
            .field("services", &self.services)
            .field("policy", &self.policy.is_some())
            .field("zone", &self.zone)
            .field("interceptors", &self.interceptors.len())
            .field("observer", &self.observer.is_some())
            .finish()
    }
}
