//! A SQLite file behind a handle that async code can await; each service of the shop opens one of its own.
//!
//! There are two connections: one writes, one reads, and a reader never waits for a writer's fsync (write-ahead log). SQLite
//! blocks, so jobs run on tokio's blocking threads, which also holds a test's paused clock still meanwhile; threads of our
//! own would not. A job that has begun runs to its end even when its caller goes away, and a write is one transaction: after
//! `kill -9` at any instant the file holds all of it or nothing. A pool was refused: one writer is all that SQLite allows,
//! and the shop's reads take microseconds.

mod error;
mod shared;

use std::path::Path;
use std::time::Duration;

use rusqlite::{Connection, TransactionBehavior};

pub use error::Error;
use shared::Shared;

/// How long a statement waits for another process that holds the file's lock.
const BUSY_TIMEOUT: Duration = Duration::from_secs(2);

/// A handle of an open database. Cheap to clone; the file closes when the last clone is dropped and no job runs.
#[derive(Clone, Debug)]
pub struct Database {
    writer: Shared,
    reader: Shared,
}

impl Database {
    /// Opens or creates the file and brings its schema up to date; blocks, so call it once at start.
    ///
    /// `migrations` only ever grows: the n-th script takes the schema from version n-1 to n, and SQLite's `user_version`
    /// says how far a file has come.
    ///
    /// # Errors
    /// When the file cannot be opened, is of a newer version than `migrations`, or a script fails (which changes nothing).
    pub fn open(path: &Path, migrations: &[&str]) -> Result<Self, Error> {
        let mut writer = connect(path)?;
        migrate(&mut writer, migrations)?;
        let reader = connect(path)?;
        reader.pragma_update(None, "query_only", true)?;
        Ok(Self { writer: Shared::new(writer), reader: Shared::new(reader) })
    }

    /// Runs a job on a consistent snapshot of the database; it can change nothing.
    ///
    /// # Errors
    /// The job's own, or [`Error`] when it could not run.
    pub async fn read<T, E>(
        &self,
        job: impl FnOnce(&Connection) -> Result<T, E> + Send + 'static,
    ) -> Result<T, E>
    where
        T: Send + 'static,
        E: From<Error> + Send + 'static,
    {
        self.reader.run(TransactionBehavior::Deferred, job).await
    }

    /// Runs a job as one transaction, durable before this returns; when the job fails, nothing of it remains.
    ///
    /// # Errors
    /// The job's own, or [`Error`] when it could not run or commit.
    pub async fn write<T, E>(
        &self,
        job: impl FnOnce(&Connection) -> Result<T, E> + Send + 'static,
    ) -> Result<T, E>
    where
        T: Send + 'static,
        E: From<Error> + Send + 'static,
    {
        self.writer.run(TransactionBehavior::Immediate, job).await
    }
}

fn connect(path: &Path) -> Result<Connection, Error> {
    let connection = Connection::open(path)?;
    connection.busy_timeout(BUSY_TIMEOUT)?;
    connection.pragma_update(None, "journal_mode", "WAL")?;
    // A commit has reached the disk when it returns: an answered request survives a loss of power. `fullfsync` is what it
    // takes on macOS and nothing elsewhere.
    connection.pragma_update(None, "synchronous", "FULL")?;
    connection.pragma_update(None, "fullfsync", true)?;
    connection.pragma_update(None, "foreign_keys", true)?;
    Ok(connection)
}

fn migrate(connection: &mut Connection, migrations: &[&str]) -> Result<(), Error> {
    // Immediate: a second process that starts at the same time waits here and then finds the work done.
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let found: u32 = transaction.pragma_query_value(None, "user_version", |row| row.get(0))?;
    let mut version = 0;
    for script in migrations {
        version += 1;
        if version > found {
            transaction.execute_batch(script)?;
        }
    }
    if found > version {
        return Err(Error::Newer { found, known: version });
    }
    transaction.pragma_update(None, "user_version", version)?;
    transaction.commit()?;
    Ok(())
}

#[cfg(test)]
mod tests;
