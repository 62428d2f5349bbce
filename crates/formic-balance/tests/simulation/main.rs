//! What the policies really do: callers and endpoints on virtual time, the same for ever by their seed.
//!
//! No clock, no runtime and no network: a run of a minute takes milliseconds, so each scene runs with many
//! seeds. What is measured is the shape; the figures of real processes are the benchmark's.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod background;
mod bounded;
mod ejection;
mod scenes;
mod world;
