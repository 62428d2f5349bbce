//! What a manifest says, as plain types with every default filled in.
//!
//! Each default is a constant or a `Default` with its reason beside it. The types serialise (for
//! `--json`, for hashing) but the manifest as a whole does not deserialise: the only way to one is
//! [`Manifest::parse`], which has checked it.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::graph;
use crate::network::Network;
use crate::parse;
use crate::port::Port;
use crate::privileges::Privileges;
use crate::revision::Revision;
use crate::route::Route;
use crate::schedule::{Cron, Job};
use crate::stop::Stop;
use crate::units::{ByteSize, HumanDuration};
use crate::update::{Condition, Dependents, Update};

/// The version of the manifest that this crate reads and the one meant where `format` is not given.
pub const FORMAT: u32 = 1;

/// The largest file read. An application of a thousand services fits several times over.
pub const MAX_BYTES: usize = 1 << 20;

/// The most services of one application.
pub const MAX_SERVICES: usize = 1000;

/// The most instances of one service: above what one machine is made for, below what would harm it to
/// merely plan.
pub const MAX_REPLICAS: u32 = 10_000;

/// Loopback: nothing is reachable from outside until somebody says so.
pub const DEFAULT_LISTEN: SocketAddr = SocketAddr::V4(SocketAddrV4::new(Ipv4Addr::LOCALHOST, 8080));

/// What gRPC servers accept in one message by default.
pub const DEFAULT_MAX_BODY: ByteSize = ByteSize::from_bytes(4 << 20);

/// The name of the gateway, among the services and as a caller.
pub const GATEWAY: &str = "gateway";

/// The name of the part of the engine that carries the connections of every [`Proxy`], among the services.
pub const PROXY: &str = "proxy";

/// An application: its services, and what of them is seen from outside.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Manifest {
    /// The version of the format: [`FORMAT`].
    pub format: u32,
    /// The application.
    pub app: App,
    /// The gateway; none is started where the manifest has no `[gateway]`.
    pub gateway: Option<Gateway>,
    /// The services, in the order of the file.
    pub services: Vec<Service>,
    /// The routes of plain HTTP, in the order of the file.
    pub routes: Vec<Route>,
    /// How services are called, by their names, as the file says it: `[service.<name>.traffic]`, and over it
    /// `[client.<name>.traffic]`. Checked; what is not said keeps its default.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub traffic: BTreeMap<String, Value>,
    /// What single callers are told instead, by their names ([`GATEWAY`] is one) and then as in `traffic`, whole:
    /// `[service.<caller>.client.<name>.traffic]` and `[gateway.client.<name>.traffic]` over all else that is said.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub calls: BTreeMap<String, BTreeMap<String, Value>>,
}

/// `[app]`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct App {
    /// The name of the application, a DNS label.
    pub name: String,
}

/// `[gateway]`: the door for HTTP from outside.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Gateway {
    /// Where it listens: [`DEFAULT_LISTEN`].
    pub listen: SocketAddr,
    /// The services that can be called through it; none by default.
    pub expose: Vec<String>,
    /// Which web pages may call it.
    pub cors: Cors,
    /// The largest request body: [`DEFAULT_MAX_BODY`].
    pub max_body: ByteSize,
    /// Whether callers from outside may say how much a call matters; not by default, or all would say most.
    #[serde(default)]
    pub priority: bool,
    /// Who stands in front of it and is believed what it says of callers; nobody by default.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub trusted_proxies: Vec<Network>,
    /// Who is answered at its `/metrics`.
    #[serde(default, skip_serializing_if = "Scrapers::is_default")]
    pub metrics: Scrapers,
    /// What it calls services over: `auto` or `http`. Empty where nothing is said, which leaves it to the environment of the engine.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub transport: String,
    /// What is known of it, as of an instance: `zone` is where it stands, for policies that prefer the near.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
}

/// Who is answered at the gateway's `/metrics`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Scrapers {
    /// Whoever asks from this machine, and by no proxy that says so.
    #[default]
    Local,
    /// Everybody.
    All,
    /// Nobody.
    None,
}

impl Scrapers {
    fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

/// `[gateway.cors]`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Cors {
    /// Origins such as `https://shop.example`, or `*`; none by default.
    pub origins: Vec<String>,
}

/// `[service.<name>]`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Service {
    /// The name of the service, a DNS label; callers find it by this.
    pub name: String,
    /// What is run.
    pub source: Source,
    /// Arguments after the program.
    pub args: Vec<String>,
    /// How many instances; 0 keeps the service stopped.
    pub replicas: u32,
    /// The services that must have come so far, see `conditions`, before an instance is first started.
    pub depends_on: Vec<String>,
    /// What is waited for in those of `depends_on` for which it is not [`Condition::Healthy`].
    pub conditions: BTreeMap<String, Condition>,
    /// Environment, beside what the engine gives.
    pub env: BTreeMap<String, String>,
    /// The engine's secrets that it is given, by the name of the file that each is handed over in.
    pub secrets: BTreeMap<String, SecretUse>,
    /// The service's own settings, handed to it as they are.
    pub config: Map<String, Value>,
    /// What a Formic service reads of its own section when it is run by itself (`listen`, `log`,
    /// `timeout` and so on), as the variables that tell it the same under an engine. `env` comes after
    /// these.
    pub settings: BTreeMap<String, String>,
    /// The port, for a program that knows nothing of Formic: given as `PORT`, and probed.
    pub port: Option<Port>,
    /// Public addresses that the engine listens on for it: each instance is handed the same open sockets, by name.
    pub sockets: BTreeMap<String, SocketAddr>,
    /// The public address of a program that can take none of them: connections are carried to its port.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub proxy: Option<Proxy>,
    /// How the engine finds out that an instance is ready.
    pub health: Health,
    /// Limits per instance.
    pub resources: Resources,
    /// As whom it runs, and what one process of it may have.
    #[serde(default, skip_serializing_if = "Privileges::is_default")]
    pub privileges: Privileges,
    /// How an instance is stopped.
    pub stop: Stop,
    /// Whether and when an instance is started again.
    pub restart: Restart,
    /// How a new revision takes the place of the old one.
    pub update: Update,
    /// That its instances run to an end; without it they are meant to run for ever.
    pub job: Option<Job>,
    /// When it is run again and again; only beside `job`.
    pub cron: Option<Cron>,
    /// The working directory, relative to the manifest; the manifest's own where it is not given.
    pub cwd: Option<String>,
}

/// `proxy`: a public address whose connections are carried to an instance that is ready.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Proxy {
    /// Where it listens.
    pub listen: SocketAddr,
    /// How long a connection waits for an instance that takes it: 10 s, as long as a program takes to come back.
    pub connect_timeout: HumanDuration,
    /// How many connections there may be at a time, the others waiting in the queue: 4096.
    pub max_connections: u32,
}

/// A secret that a service is given.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SecretUse {
    /// Its name among the engine's secrets.
    pub secret: String,
    /// The variable that holds its value too; none by default, because an environment is easily read and
    /// handed on.
    pub env: Option<String>,
}

/// What an instance runs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Source {
    /// A Cargo package of the workspace that the manifest lies in: built, then run.
    Cargo(String),
    /// A program and its first arguments. A program with a `/` is relative to the working directory.
    Command(Vec<String>),
    /// A container image. [`Manifest::parse`] refuses it as long as no driver here can run one.
    Image(String),
}

/// `health`: how and how often readiness is probed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Health {
    /// The way to ask: `grpc`, or `tcp` for a service with a `port`.
    pub ready: Probe,
    /// What an HTTP probe asks for: `/readyz`.
    pub path: String,
    /// What an `exec` probe runs.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub command: Vec<String>,
    /// The part of a line that a `log` probe waits for.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub line: String,
    /// How often a ready instance is asked: 1 s. (One that starts is asked more often.)
    pub interval: HumanDuration,
    /// How long an answer may take: 1 s.
    pub timeout: HumanDuration,
    /// How long an instance may take to get ready before it counts as failed: 60 s.
    pub deadline: HumanDuration,
}

/// The ways to ask an instance whether it is ready.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Probe {
    /// `grpc.health.v1` says `SERVING`.
    Grpc,
    /// `GET path` answers 2xx.
    Http,
    /// The port accepts a connection.
    Tcp,
    /// A command, run beside the instance as it is run, ends with 0.
    Exec,
    /// It has written a line with a certain text; once is enough.
    Log,
    /// Ready as soon as it runs.
    None,
}

/// `resources`: limits per instance; what is not given is not limited.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Resources {
    /// Memory.
    pub memory: Option<ByteSize>,
    /// Processor time, in cores.
    pub cpu: Option<f64>,
    /// Processes and threads.
    pub pids: Option<u32>,
}

/// `restart`: whether and when an instance that exits is started again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Restart {
    /// Whether at all: `always`.
    pub policy: RestartPolicy,
    /// The delay before the first restart of an instance that was not long ready, doubled each time:
    /// 250 ms.
    pub delay: HumanDuration,
    /// The longest delay: 60 s, the longest wait that people accept.
    pub max_delay: HumanDuration,
    /// Exit codes after which an instance is never restarted: 78, `EX_CONFIG`: trying again cannot help.
    pub no_restart_exit_codes: Vec<i32>,
    /// Exit codes that are a success: 0.
    pub success_exit_codes: Vec<i32>,
    /// How often an instance is started again in a row, if there is a limit: that of `job`.
    pub retries: Option<u32>,
    /// More exits than this within `within`, of instances that had not long been ready, are a crash
    /// loop: 5.
    pub intensity: u32,
    /// See `intensity`: 2 min.
    pub within: HumanDuration,
    /// What its restart means for the services that depend on it: nothing.
    pub dependents: Dependents,
}

/// Whether an instance that exits by itself is started again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RestartPolicy {
    /// Whatever it exits with: a service is meant to run.
    #[default]
    Always,
    /// When it exits with anything but success.
    OnFailure,
    /// Not at all.
    Never,
}

// === impl Manifest ===

impl Manifest {
    /// The service of this name.
    #[must_use]
    pub fn service(&self, name: &str) -> Option<&Service> {
        self.services.iter().find(|service| service.name == name)
    }

    /// Whether the gateway lets calls to this service through.
    #[must_use]
    pub fn is_exposed(&self, name: &str) -> bool {
        self.gateway.as_ref().is_some_and(|gateway| gateway.expose.iter().any(|exposed| exposed == name))
    }

    /// How a caller calls services, by their names: what everybody is told, and over it what is said for this one.
    #[must_use]
    pub fn traffic_of(&self, caller: &str) -> BTreeMap<String, Value> {
        parse::told(&self.traffic, self.calls.get(caller))
    }

    /// The services in waves: each depends only on services of earlier waves. Start in this order, stop
    /// in the reverse. Within a wave, the order of the file.
    ///
    /// A parsed manifest has no cycle; should one have been put together, its members come last.
    #[must_use]
    pub fn order(&self) -> Vec<Vec<&str>> {
        let (mut waves, cyclic) = graph::waves(&graph::edges(&self.services));
        if !cyclic.is_empty() {
            waves.push(cyclic);
        }
        waves
            .into_iter()
            .map(|wave| wave.into_iter().map(|index| self.services[index].name.as_str()).collect())
            .collect()
    }

    /// The revision of a service, given the digest of what was built or found for it; none if there is
    /// no such service.
    #[must_use]
    pub fn revision(&self, name: &str, artifact_digest: &str) -> Option<Revision> {
        let service = self.service(name)?;
        Some(Revision::of_service(service, self.is_exposed(name), artifact_digest))
    }

    /// As [`revision`](Self::revision), for a service that is given secrets: `versions` says which version
    /// of each, by its name among the engine's secrets.
    #[must_use]
    pub fn revision_with(
        &self,
        name: &str,
        artifact_digest: &str,
        versions: &BTreeMap<String, u64>,
    ) -> Option<Revision> {
        let service = self.service(name)?;
        let revision = Revision::of_service(service, self.is_exposed(name), artifact_digest);
        Some(revision.with_secrets(service, versions))
    }

    /// The hash of that part of a revision which a running process cannot take up: two revisions that
    /// agree in it differ in limits, exposure, stop or restart rules only, which are changed in place.
    #[must_use]
    pub fn process(&self, name: &str, artifact_digest: &str) -> Option<Revision> {
        Some(Revision::of_process(self.service(name)?, artifact_digest))
    }

    /// As [`process`](Self::process), for a service that is given secrets, see
    /// [`revision_with`](Self::revision_with).
    #[must_use]
    pub fn process_with(
        &self,
        name: &str,
        artifact_digest: &str,
        versions: &BTreeMap<String, u64>,
    ) -> Option<Revision> {
        let service = self.service(name)?;
        Some(Revision::of_process(service, artifact_digest).with_secrets(service, versions))
    }
}

impl Proxy {
    /// One that listens here.
    #[must_use]
    pub const fn at(listen: SocketAddr) -> Self {
        Self { listen, connect_timeout: HumanDuration::from_secs(10), max_connections: 4096 }
    }
}

// === impl defaults ===

impl Default for Gateway {
    fn default() -> Self {
        Self {
            listen: DEFAULT_LISTEN,
            expose: Vec::new(),
            cors: Cors::default(),
            max_body: DEFAULT_MAX_BODY,
            priority: false,
            trusted_proxies: Vec::new(),
            metrics: Scrapers::default(),
            transport: String::new(),
            labels: BTreeMap::new(),
        }
    }
}

impl Default for Health {
    fn default() -> Self {
        Self {
            ready: Probe::Grpc,
            path: "/readyz".into(),
            command: Vec::new(),
            line: String::new(),
            interval: HumanDuration::from_secs(1),
            timeout: HumanDuration::from_secs(1),
            deadline: HumanDuration::from_secs(60),
        }
    }
}

impl Default for Restart {
    fn default() -> Self {
        Self {
            policy: RestartPolicy::Always,
            delay: HumanDuration::from_millis(250),
            max_delay: HumanDuration::from_secs(60),
            no_restart_exit_codes: vec![78],
            success_exit_codes: vec![0],
            retries: None,
            intensity: 5,
            within: HumanDuration::from_secs(120),
            dependents: Dependents::None,
        }
    }
}

// === impl Restart ===

impl Restart {
    /// The delay before restart number `n` (from 0), before any jitter.
    #[must_use]
    pub fn doubled(&self, n: u32) -> Duration {
        let factor = 2u32.checked_pow(n.min(31)).unwrap_or(u32::MAX);
        self.delay.get().saturating_mul(factor).min(self.max_delay.get())
    }
}
