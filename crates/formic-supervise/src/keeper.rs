//! The keeper: the one process that must not die, and so does next to nothing.
//!
//! ```text
//! service manager ─ keeper   (no threads, no runtime, no manifest; a frozen protocol)
//!                     ├─ brain       (the engine: may be killed or replaced at any instant)
//!                     └─ instances   (children of the brain, and of the keeper when the brain is gone)
//! ```
//!
//! It starts the brain, and starts it again with back-off. Orphans come to it: it reaps them, and writes
//! down how main processes of sessions ended before it does, so that the next brain can ask. It holds
//! listening sockets, so that none is closed while no brain has it. It executes its own successor in
//! place, with the same process number, children and descriptors. Under a service manager that speaks
//! systemd's words (`Type=notify-reload`, `FileDescriptorStoreMax=`), sockets survive the keeper too.
//!
//! **Fencing.** Each brain has a generation, counted on disk, and a socket of its own. A new brain is
//! started only when the one before is proven to be gone, also by a keeper that follows one that was
//! killed; a brain whose socket ends ([`Client::closed`]) has lost its keeper and must end.
//!
//! Refused here: a process per instance, which costs memory for each and can be lost one at a time; and
//! a keeper that knows what an instance is, which would have to be replaced whenever that changes.

use std::time::Duration;

mod brain;
mod client;
mod handoff;
mod journal;
mod notify;
mod patience;
mod process;
mod protocol;

pub use client::{Client, ClientError};
pub use process::main;
pub use protocol::PROTOCOL;

/// The first argument that a binary must route to [`main`]. What follows it is either a directory for the
/// keeper alone and the command of the brain, or what one keeper tells the next.
pub const ARGUMENT: &str = "__keeper";

/// The variable that tells a brain its generation, and that its standard input is the keeper's socket.
pub const GENERATION_ENV: &str = "FORMIC_KEEPER";

/// The exit code by which a brain says that no brain can do better before a person has mended something (`EX_DATAERR`). A keeper
/// that has seen none at work ends with it too, and starts none again.
pub const HOPELESS: u8 = 65;

/// The variable that says for how many seconds a brain may be silent; 0 is for ever, as for one in a debugger.
pub const WATCHDOG_ENV: &str = "FORMIC_WATCHDOG";

/// Much longer than a busy machine keeps any process from running, and shorter than people wait.
const WATCHDOG: Duration = Duration::from_secs(60);

/// For how long a brain may be silent before it is taken for stuck; `None` is for ever.
#[must_use]
pub fn watchdog() -> Option<Duration> {
    let said = std::env::var(WATCHDOG_ENV).ok().and_then(|seconds| seconds.parse().ok());
    let watchdog = said.map_or(WATCHDOG, Duration::from_secs);
    (!watchdog.is_zero()).then_some(watchdog)
}

/// The variable that says how many seconds a brain may take until it is ready; 0 is for ever. One that is to take another's place
/// has a third of that, and a machine that is merely slow is no obstacle: each next one of a program that was late has twice as long.
pub const READY_LIMIT_ENV: &str = "FORMIC_READY_LIMIT";

/// The variable that tells a brain the directory of its keeper, by which it is known.
pub const DIR_ENV: &str = "FORMIC_KEEPER_DIR";
