//! One front door for the services of an application, floor 4.
//!
//! It answers `POST /<package.Service>/<Method>` with JSON or protobuf, streams included, for every
//! service that the manifest exposes, in Connect, gRPC and gRPC-Web, and knows none of their types:
//! bytes go through as they came. It is a process of its own, supervised like a service, and learns
//! its routes by watch; when the daemon is away it keeps the last known good ones, so no request
//! passes through the process that manages, nor depends on it.

pub mod config;
mod entry;
mod guard;
pub mod page;
pub mod proxy;
pub mod routes;
pub mod run;
pub mod tcp;
mod web;

pub use config::Config;
pub use entry::{Network, Scrapers};
pub use proxy::Proxy;
pub use routes::{Routes, Table};
pub use run::{Addresses, GatewayError, run};
