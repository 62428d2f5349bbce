//! The shop: its story by `curl`, its orders through the death of every service at every step, and what its calls travel over.

#![allow(clippy::unwrap_used, reason = "tests")]

mod saga;
mod story;
mod wire;
