//! A service that does as it is told, for the tests of everything that carries calls, and clients that
//! are not ours to call it with. Never a dependency, only a dev-dependency.
//!
//! It fails, panics, hangs, waits, relays to the next of its kind, and reports what it saw of the call,
//! so that one suite can look at every transport.

pub mod foreign;
mod service;

mod generated {
    include!(concat!(env!("OUT_DIR"), "/formic.rs"));
}

pub use generated::probe::v1::*;
pub use service::{Counts, Named, Prober};
