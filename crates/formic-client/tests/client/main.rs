//! The client against real servers on loopback and unix sockets, and against handles of this process.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod begins;
mod faults;
mod greeting;
mod haste;
mod hedges;
mod idle;
mod mux;
mod picks;
mod places;
mod retries;
mod server;
mod streams;
mod suite;
mod topology;
mod traffic;
