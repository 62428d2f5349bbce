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

mod brain;
mod client;
mod handoff;
mod journal;
mod notify;
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

/// The variable that tells a brain the directory of its keeper, by which it is known.
pub const DIR_ENV: &str = "FORMIC_KEEPER_DIR";
