//! Layered settings with the provenance of every value.
//!
//! One order, everywhere: defaults < code < `formic.toml` < environment < flags. Each layer is a tree
//! of JSON values laid over the one below; for every leaf it is remembered which layer set it and
//! where (line, variable, flag), so that a wrong value can be blamed and `--explain` can list them.
//! Every fault is reported, not only the first, and none shows the value of a secret.
//!
//! Reading is pure: environment, arguments and the file's text are handed in ([`load_service`] is the
//! one function that looks at the disk).

pub mod addresses;
mod error;
mod file;
mod flags;
mod layers;
pub mod people;
mod service;
mod suggest;
mod typed;
mod whole;

pub use addresses::Addresses;
pub use error::Error;
pub use layers::{Layers, Row, Source, is_secret};
pub use service::{ClientSettings, Drain, Limits, RateLimit, ServiceSettings, load_service, read_service};
pub use suggest::nearest;
