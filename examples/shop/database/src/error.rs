//! What can go wrong with the file, and what a caller over the wire hears of it.

use rusqlite::ErrorCode;

/// Why a job did not run, or did not commit.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// SQLite's own fault.
    #[error("use the database")]
    Sqlite(#[from] rusqlite::Error),
    /// A newer program has written the file.
    #[error("open a database of schema version {found}: this program knows versions up to {known}")]
    Newer {
        /// The file's version.
        found: u32,
        /// The newest that this program knows.
        known: u32,
    },
    /// Too many jobs wait.
    #[error("queue for the database: it is full")]
    Busy,
    /// The job panicked, or the runtime ended before it began.
    #[error("finish the database's job")]
    Unfinished(#[source] tokio::task::JoinError),
}

impl Error {
    /// Whether the disk has no room left.
    #[must_use]
    pub fn is_disk_full(&self) -> bool {
        matches!(self, Self::Sqlite(error) if error.sqlite_error_code() == Some(ErrorCode::DiskFull))
    }

    /// Whether the same job may succeed when tried again: it has not run, or it has been rolled back.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Busy => true,
            Self::Sqlite(error) => {
                matches!(error.sqlite_error_code(), Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked))
            }
            Self::Newer { .. } | Self::Unfinished(_) => false,
        }
    }
}

/// At the service's edge the details stay in its own log: a caller learns only whether to come back.
impl From<Error> for formic::Error {
    fn from(error: Error) -> Self {
        tracing::error!(error = &error as &dyn std::error::Error, "the database failed");
        if error.is_disk_full() {
            formic::Error::resource_exhausted("the disk of the service is full").with_source(error)
        } else if error.is_retryable() {
            formic::Error::unavailable("the database is busy").with_source(error)
        } else {
            formic::Error::internal("the database failed").with_source(error)
        }
    }
}
