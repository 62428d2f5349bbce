//! Write services in Rust: what a service author depends on, and nothing else.
//!
//! ```ignore
//! use formic::prelude::*;
//! use greeter::v1::{Greeter, HelloRequest, HelloResponse};
//!
//! formic::include_protos!();
//!
//! struct Hello;
//!
//! impl Greeter for Hello {
//!     async fn hello(&self, _ctx: Context, req: Request<'_, HelloRequest>) -> Reply<HelloResponse> {
//!         reply(HelloResponse { text: format!("hello, {}", req.name), ..Default::default() })
//!     }
//! }
//!
//! #[formic::main]
//! async fn main() -> formic::Result {
//!     Service::new("greeter").serve(Hello).run().await
//! }
//! ```
//!
//! `cargo run` of this listens, announces itself by mDNS, answers health checks, reflects its schema,
//! exposes `/metrics` and drains on SIGTERM. Under `formic up` the same binary finds the daemon by its
//! environment and uses its registry.
//!
//! # Settings
//!
//! Each of these lies over the one before, key by key:
//!
//! 1. the defaults,
//! 2. code: [`Service::with_settings`],
//! 3. `[service.<name>]` of `formic.toml` in the present folder,
//! 4. the environment,
//! 5. flags.
//!
//! | `formic.toml` | environment | flag | default |
//! |---|---|---|---|
//! | `listen` | `FORMIC_LISTEN` | `--listen` | `127.0.0.1:0`, any free port |
//! | `advertise` | `FORMIC_ADVERTISE` | `--advertise` | where it listens |
//! | `registry` | `FORMIC_REGISTRY` | `--registry` | `local` if there is a daemon, else `mdns` |
//! | `addresses` | `FORMIC_ADDRESSES`, a JSON object | `--registry static:…` | none; for the registry `static` |
//! | | `FORMIC_DAEMON` | `--daemon` | none |
//! | `log` | `FORMIC_LOG` | `--log` | `info` |
//! | `log_format` | `FORMIC_LOG_FORMAT` | `--log-format` | `auto`: pretty on a terminal, else JSON |
//! | `timeout` | `FORMIC_TIMEOUT` | `--timeout` | `5s` |
//! | `drain.grace` | `FORMIC_DRAIN_GRACE` | | `20s` |
//! | `drain.propagation` | `FORMIC_DRAIN_PROPAGATION` | | `100ms` |
//! | `drain.streams` | `FORMIC_DRAIN_STREAMS` | | `5s` |
//! | `labels` | `FORMIC_LABELS`, a JSON object | | none |
//! | `limits` | `FORMIC_LIMITS`, a JSON object | | see `docs/settings.md` |
//! | `[client.<name>.traffic]` | `FORMIC_CLIENT`, a JSON object | | see [`traffic`] |
//! | `config.<key>` | `FORMIC_CONFIG__<KEY>`, or `FORMIC_CONFIG`, a JSON object | `--set <key>=…` | the author's |
//!
//! `config` is the author's own, read into a type of theirs by [`Service::config`]. `--explain` prints
//! every setting with who set it, down to the line of the file, and ends. What is wrong is reported all at
//! once, and secrets are never shown.
//!
//! Under `formic up` the engine reads the same file and hands the same keys over by environment, so a
//! manifest means the same both ways; where to listen and which registry to use is then the engine's
//! choice unless the manifest says where to listen.
#![warn(missing_docs)]

pub mod background;
mod calling;
mod discovery;
mod entry;
mod failure;
mod lifecycle;
mod limits;
pub mod service;

pub use axum;
pub use bytes;
pub use formic_client::{self as client, Client};
pub use formic_core::{self as core, Code, Endpoint, Error, Instance, Metadata, ServiceName};
pub use formic_macros::{main, test};
pub use formic_registry as registry;
pub use formic_rpc::rt::{buffa, connectrpc};
pub use formic_rpc::{
    Answer, Body, Call, Channel, Codec, Context, Handle, Inbound, Interceptor, Next, Reply, Request,
    Response, Sender, Streaming, TraceContext, context::Scope, reply,
};
pub use formic_server as server;
pub use formic_telemetry as telemetry;
pub use futures;
pub use serde;
pub use tokio;
pub use tracing;

/// How calls are spread, protected and repeated: the policy as data, and what people see of it.
pub mod traffic {
    pub use formic_client::traffic::*;
    pub use formic_client::{BackendView, InvalidTraffic, State, TrafficView, policy};
}

pub use background::Stopping;
pub use entry::__rt_main;
#[cfg(feature = "testing")]
pub use entry::__rt_test;
pub use failure::Failure;
pub use service::Service;

/// What `main` returns; a failure prints what to do next and sets the exit code.
pub type Result<T = ()> = std::result::Result<T, Failure>;

/// What generated code needs. Not for people.
#[doc(hidden)]
pub mod __rt {
    pub use formic_rpc::rt::*;
}

/// Includes what `formic_build` generated: a module a package, with messages, service traits and clients.
#[macro_export]
macro_rules! include_protos {
    () => {
        include!(concat!(env!("OUT_DIR"), "/formic.rs"));
    };
}

/// The names that most services use.
pub mod prelude {
    pub use crate::{
        Channel, Client, Code, Context, Error, Inbound, Metadata, Reply, Request, Response, Sender, Service,
        Stopping, Streaming, reply,
    };
    pub use formic_rpc::rt::buffa::{EnumValue, Message as MessageExt, MessageField};
}
