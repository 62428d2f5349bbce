//! Against real processes: what is started, what is seen of it, and that nothing of it is left.
#![expect(clippy::unwrap_used, reason = "a test may panic")]
#![expect(clippy::print_stdout, reason = "a test that cannot run says so")]

mod adopt;
mod adversary;
mod beside;
mod cgroup;
mod copies;
mod ends;
mod keeper;
mod lock;
mod namespace;
mod privileges;
mod scene;
mod spawn;
mod stop;
mod sweep;
