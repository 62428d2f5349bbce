//! Service discovery, a plug point: who is there, where, and for how long.
//!
//! One object-safe trait, [`Registry`]; two implementations that need nothing else ([`Memory`],
//! [`Static`]); and the two halves that every program uses instead of the bare trait: a [`Registrar`]
//! that keeps one instance registered whatever happens, and a [`Cache`] that keeps the last known good
//! set of instances whatever happens. Both are written once, over any implementation, because the
//! defect that they close (a registration that silently vanishes while the process lives on) is the
//! commonest one of service frameworks.
//!
//! Watching is by whole state, not by events: a [`Watch`] yields [`Snapshot`]s, each the full set. A
//! watcher that is slow gets the newest set and skips those between, so nothing can be lost, memory is
//! bounded by one set per watcher, and no one has to replay events on top of a snapshot. Refused:
//! `Added`/`Removed` events, which every consumer would fold back into a set.
#![warn(missing_docs)]

pub mod backoff;
pub mod cache;
#[cfg(feature = "conformance")]
pub mod conformance;
pub mod error;
pub mod fixed;
pub mod memory;
pub mod registrar;
pub mod registry;
#[cfg(test)]
mod testing;
pub mod watch;

pub use backoff::Backoff;
pub use cache::{Cache, Instances, View};
pub use error::Error;
pub use fixed::Static;
pub use memory::Memory;
pub use registrar::Registrar;
pub use registry::{BoxFuture, DynRegistry, Lease, LeaseId, Registry, ServiceEntry};
pub use watch::{Snapshot, Watch};
