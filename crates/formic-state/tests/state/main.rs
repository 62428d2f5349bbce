//! The state of an engine through its public face: what is kept, what is refused, and what no damage does.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

mod crash;
mod damage;
mod fixture;
mod folder;
mod keeping;
mod sample;
