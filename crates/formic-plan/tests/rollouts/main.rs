//! Rollouts in a simulated world: step by step, and under everything that can happen in any order.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

mod properties;
mod steps;
mod world;
