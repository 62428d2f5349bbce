//! The multiplexed wire between Formic services, floor 2: many calls on one connection, one frame for a small request
//! and one for a small answer. `docs/wire.md` describes it for other languages.
//!
//! ```text
//! codec ─ tables ─ machine ─ link ─┬─ client   a call is an entry in a table, and no task
//! bytes   entries  one state,      └─ server   a call is polled where it was read, a task only if it waits
//!                  no I/O, no clock
//! ```
//!
//! What was refused: HTTP/2 with a faster library. Every stack that speaks it ends at about the same number of calls on
//! one connection, in any language, for a header block and several frames a call are what it is.
#![warn(missing_docs)]

pub mod budget;
pub mod capture;
pub mod client;
pub mod codec;

pub mod learn;
pub mod limits;

mod link;
pub mod machine;
mod outgoing;

pub mod server;
mod spare;
pub mod tables;

pub use budget::Budget;
pub use client::{Connect, Sender};
pub use codec::Fault;
pub use limits::Limits;
pub use server::{Accept, serve};

/// The key of an instance's metadata that says that its endpoint speaks this wire, with the version as value.
pub const ANNOUNCED: &str = "formic-mux";
