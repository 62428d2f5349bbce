//! The harness of the end-to-end tests: applications in folders of their own, the binary as people run it, and a small HTTP
//! client. It knows the product only from outside: programs, files, ports.
//!
//! Everything is bounded: a program that does not end is killed and fails its test, and so does anything that an
//! application leaves running. Tests do not share ports, folders or processes, so they run beside each other.

#![allow(
    clippy::unwrap_used,
    clippy::print_stderr,
    clippy::print_stdout,
    reason = "a harness of tests: what goes wrong here is to fail the test at once"
)]

mod app;
mod clock;
mod folder;
mod following;
mod foreign;
mod http;
mod manifest;
mod over;
mod process;
mod programs;
mod server;
mod shared;
mod shop;

pub use app::{App, Refused};
pub use clock::{wait_for, wait_same, wait_until};
pub use folder::{Folder, free_port};
pub use following::Following;
pub use foreign::{Absent, foreign_file, install, installed, program, shop_protos};
pub use http::{Answer, Gateway};
pub use manifest::Manifest;
pub use over::Over;
pub use process::{Ended, Tool, alive, of_application, signal, wait_child};
pub use programs::{build_folder, builds, formic, formic_in, repository, service_program, target_folder};
pub use rustix::process::Signal;
pub use server::{Managed, instances};
pub use shared::Shared;
pub use shop::{Books, Customer, Ids, Order, ids};
