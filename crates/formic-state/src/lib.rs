//! The engine's state on disk: what is wanted, the rollouts, the states to go back to, the instances, what
//! happened, and the secrets.
//!
//! What is **not** here is what recovery needs: the record of each instance is a plain file of its own
//! (`formic-supervise`), so that a damaged database never costs running work.
//!
//! [`State::open`] takes a folder for itself. Everything is one database file and one key file in it. A
//! write is a [`Write`], and what its [`commit`](Write::commit) has returned for is on the disk: that is the
//! promise that an executor waits for before it acts. Reads see the last commit.
//!
//! # What is refused, and when
//!
//! A file is examined whole **before** it is opened for writing, on a copy in memory: a database that
//! repairs itself on opening would else change the only evidence. Refused are a file that is damaged or cut
//! off, one of a newer release, one that is not ours, a folder that another engine uses, a key that others
//! can read or that we cannot, and a key that is not the one of this database. Nothing is changed then. [`set_aside`] is what
//! a person can ask for next: it renames the file, and a key that does not fit, deletes nothing, and the
//! engine begins an empty one.
//!
//! A file of one bit less than whole can still be whole: where the damage is in pages that hold nothing, or
//! in the last commit alone, the database reads as of that commit or of the one before, as after a crash of
//! the machine. It never reads as anything that was not written, and [`State::lost`] says where it is older than it should be.
//!
//! All calls block, for as long as an fsync takes. An asynchronous caller gives them a thread.
//!
//! Refused: a trait with several databases behind it (the engine has one, and tests have [`State::in_memory`]);
//! values in a binary format (JSON can be read by a person with a broken engine, and all of it is small).

mod aside;
mod check;
mod error;
mod events;
mod folder;
mod history;
mod instances;
mod key;
mod promise;
mod schema;
mod secrets;
mod state;

pub use aside::{SetAside, Unfit, set_aside};
pub use check::READER;
pub use error::{Error, OpenError};
pub use events::{Event, Events, InvalidToken, KEPT_EVENTS, Token};
pub use folder::{DATABASE, KEY};
pub use history::{Generation, KEPT_GENERATIONS, Outcome};
pub use instances::Held;
pub use promise::Lost;
pub use schema::SCHEMA;
pub use secrets::{KEPT_VERSIONS, Secret, SecretInfo, check_secret_name};
pub use state::{State, Write};
