//! The scenes of `cargo xtask bench traffic`, without processes and on a paused clock: real clients and real
//! servers, with memory for sockets, many seeds. Each scene is played once more without what it is about, and
//! must fail then: so that none of them can pass for nothing.
//!
//! The rolling restart, scene 4, is in `scenes.rs`.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod journal;
mod overload;
mod same;
mod storm;
mod town;
mod unwell;
