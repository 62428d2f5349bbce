//! The server as its callers see it: every protocol over every transport, its limits, its drain.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod crowd;
mod drain;
mod endless;
mod fenced;
mod heads;
mod hops;
mod late;
mod limits;
mod overload;
mod raw;
mod standard;
mod suite;
mod ways;
mod wire;
mod wire_heads;
