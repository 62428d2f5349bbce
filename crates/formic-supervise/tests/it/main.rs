//! Against real processes: what is started, what is seen of it, and that nothing of it is left.
#![expect(clippy::unwrap_used, reason = "a test may panic")]

mod lock;
mod namespace;
mod scene;
mod spawn;
mod stop;
mod sweep;
