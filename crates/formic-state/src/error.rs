//! What can go wrong, and what a person does about it.

use std::io;
use std::path::PathBuf;

/// The state cannot be opened. Nothing was changed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// Another engine has the folder.
    #[error("{} is in use by another engine (process {holder})", folder.display())]
    InUse {
        /// The folder.
        folder: PathBuf,
        /// What the other one wrote of itself.
        holder: String,
    },
    /// The database is not what was written.
    #[error(
        "{} is damaged: {}. Nothing in it was changed; running instances do not need it",
        path.display(),
        reason.trim_end_matches('.')
    )]
    Damaged {
        /// The file.
        path: PathBuf,
        /// How that shows.
        reason: String,
    },
    /// The database is of a release that came later.
    #[error("{} has schema {found}, and this release reads up to {known}: it was written by a newer one", path.display())]
    Newer {
        /// The file.
        path: PathBuf,
        /// Its schema.
        found: u32,
        /// Ours.
        known: u32,
    },
    /// A database, and not one of an engine.
    #[error("{} is a database of something else", path.display())]
    NotOurs {
        /// The file.
        path: PathBuf,
    },
    /// There are secrets and no key.
    #[error("{} is missing, and secrets were encrypted with it: put it back", path.display())]
    KeyMissing {
        /// The file.
        path: PathBuf,
    },
    /// Others can read the key.
    #[error("{} can be read by others (mode {mode:o}): make it 0600, and consider every secret known", path.display())]
    KeyExposed {
        /// The file.
        path: PathBuf,
        /// Its mode.
        mode: u32,
    },
    /// The engine's user cannot read the key.
    #[error("{} cannot be read", path.display())]
    KeyUnreadable {
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The file is no key, or not the one that the database was begun with.
    #[error("{} is not the key of this database: {reason}", path.display())]
    KeyWrong {
        /// The file.
        path: PathBuf,
        /// How that shows.
        reason: &'static str,
    },
    /// The system refused something.
    #[error("cannot {what} {}", path.display())]
    Io {
        /// What was tried.
        what: &'static str,
        /// With which file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The database could not be begun.
    #[error("the database cannot be begun")]
    Database(#[source] Box<Error>),
}

/// Reading or writing failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The database could not do it: a full disk, a file that changed under it.
    #[error("the database refused")]
    Database(#[source] Box<redb::Error>),
    /// A value is not what was written under its key.
    #[error("{key} in {table} cannot be read")]
    Record {
        /// Of which table.
        table: &'static str,
        /// Under which key.
        key: String,
        /// Why.
        #[source]
        source: serde_json::Error,
    },
    /// A secret does not open with this key.
    #[error("version {version} of the secret {name} does not open with the key of this database")]
    Sealed {
        /// Its name.
        name: String,
        /// Its version.
        version: u64,
    },
    /// A name that a secret cannot have.
    #[error(
        "{0:?} cannot be the name of a secret: 1 to 63 of a-z, A-Z, 0-9, `-`, `_` and `.`, not a `.` first"
    )]
    SecretName(String),
    /// There is no randomness to be had.
    #[error("the system gives no random numbers")]
    Random,
}

impl Error {
    /// Whether the database takes nothing more until it is opened anew, because something could not be written.
    pub(crate) fn is_closed(&self) -> bool {
        matches!(self, Self::Database(error) if matches!(**error, redb::Error::PreviousIo))
    }

    /// One that could not be opened anew yet.
    pub(crate) fn closed() -> Self {
        Self::Database(Box::new(redb::Error::PreviousIo))
    }
}

macro_rules! from_redb {
    ($($error:ty),*) => {$(
        impl From<$error> for Error {
            fn from(error: $error) -> Self {
                Self::Database(Box::new(error.into()))
            }
        }
    )*};
}

from_redb!(
    redb::StorageError,
    redb::TableError,
    redb::TransactionError,
    redb::CommitError,
    redb::DatabaseError,
    redb::SetDurabilityError
);
