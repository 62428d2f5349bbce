//! The contract of the control plane, floor 3: protos, generated code, the registry over them, and what a caller
//! does for the engine.
//!
//! CLI, gateway, dashboards and other programs use this; nothing is reachable only from inside the
//! daemon. It knows neither the daemon nor its engine.

pub mod attend;
mod changes;
pub mod convert;
pub mod local;
pub mod serve;

#[rustfmt::skip]
#[path = "gen/formic.rs"]
mod generated;

pub use attend::Attendant;
pub use generated::formic::{control, registry};
pub use local::LocalRegistry;
pub use serve::RegistryServer;
