//! The manifest `formic.toml`: what an application is, for a laptop, a server and Kubernetes alike.
//!
//! [`Manifest::parse`] takes text and gives a validated [`Manifest`] or *every* fault in it
//! ([`Faults`]), each with line, column and, where there is one, the nearest valid spelling. It does no
//! I/O: whether a path exists or a port is free is found out by whoever needs it.
//!
//! ```
//! let manifest = formic_spec::Manifest::parse(
//!     r#"
//!     [app]
//!     name = "shop"
//!
//!     [service.user]
//!     cargo = "user"
//!
//!     [service.order]
//!     cargo = "order"
//!     replicas = 2
//!     depends_on = ["user"]
//!     "#,
//!     "formic.toml",
//! )?;
//! assert_eq!(manifest.order(), [vec!["user"], vec!["order"]]);
//! # Ok::<(), formic_spec::Faults>(())
//! ```
//!
//! Refused: deriving the whole with serde. A derived reader stops at the first fault, and knows
//! neither the neighbouring spelling nor where a *missing* thing should have been. The tree is walked by
//! hand over spans instead. Also refused: defaults that depend on the machine; the same text is the
//! same manifest everywhere, which is what makes a [`Revision`] mean something.

mod fault;
mod graph;
mod manifest;
mod network;
mod parse;
mod port;
mod privileges;
mod remarks;
mod revision;
mod route;
mod schedule;
mod stop;
mod units;
mod update;

pub use fault::{Fault, FaultKind, Faults};
pub use manifest::{
    App, Cors, DEFAULT_LISTEN, DEFAULT_MAX_BODY, FORMAT, GATEWAY, Gateway, Health, MAX_BYTES, MAX_REPLICAS,
    MAX_SERVICES, Manifest, PROXY, Probe, Proxy, Resources, Restart, RestartPolicy, Scrapers, SecretUse,
    Service, Source,
};
pub use network::{Network, NoNetwork};
pub use port::Port;
pub use privileges::{Privileges, Ulimits};
pub use revision::{InvalidRevision, Revision};
pub use route::{DEFAULT_ROUTE_TIMEOUT, MAX_ROUTES, Route, RoutePath};
pub use schedule::{Concurrency, Cron, InvalidSchedule, Job, MAX_HISTORY, Schedule};
pub use stop::{Stop, StopSignal};
pub use units::{ByteSize, HumanDuration, InvalidUnit};
pub use update::{Condition, Dependents, InvalidShare, Share, Strategy, Update};
