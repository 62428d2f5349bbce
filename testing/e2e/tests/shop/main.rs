//! The shop: its story by `curl`, and its orders through the death of every service at every step.

#![allow(clippy::unwrap_used, reason = "tests")]

mod saga;
mod story;
