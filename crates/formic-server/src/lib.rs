//! The serving half of Formic, floor 2: one port speaks Connect, gRPC and gRPC-Web over HTTP/1.1 and
//! HTTP/2, beside health, reflection, metrics and the author's own routes.
//!
//! ```text
//! listener ─ limits ┬ HTTP ─┬─ unary │ connectrpc ───┐
//!                   │       ├─ /healthz /readyz …   ├─ pipeline ─ interceptors ─ routes ─ handler
//!                   │       └─ axum router          │  (metrics, admission, deadline, trace, panic)
//!                   └ multiplexed (`formic-mux`) ───┤
//! in memory: Channel ───────────────────────────────┘
//! ```
//!
//! Admission is [`overload`]'s: rate limits, an adaptive limit, a queue by priority.
//!
//! What every call gets is in [`pipeline`] and knows no HTTP; what is HTTP's is in [`http`].

mod batch;
pub mod config;
mod door;
mod farewell;
pub mod guard;
pub mod health;
pub mod http;
mod leaving;
pub mod listener;
mod mux;
pub mod overload;
mod patience;
pub mod pipeline;
pub mod reflection;
mod seldom;
pub mod server;
mod unary;
/// The generated messages and clients of the standard services that every server has.
pub mod proto {
    pub use crate::r#gen::grpc::{health, reflection};
}

#[rustfmt::skip]
#[path = "gen/formic.rs"]
mod r#gen;

pub use config::Config;
pub use guard::{Denied, Guard};
pub use health::{Health, Serving};
pub use listener::{Bound, ListenError};
pub use server::{Running, Server};
