//! Both ends on byte streams: limits, cancellation, silence, drain, records.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod ahead;
mod attacks;
mod broken;
mod busy;
mod calls;
mod crowd;
mod far;
mod floods;
mod memory;
mod patience;
mod pieces;
mod raw;
mod records;
mod rig;
mod slack;
mod tasks;
mod turns;
mod uplink;
mod weight;
