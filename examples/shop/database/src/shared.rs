//! One connection, used by one job at a time, each on a thread that may block.

use std::sync::Arc;

use rusqlite::{Connection, TransactionBehavior};
use tokio::sync::{Mutex, Semaphore};

use crate::Error;

/// Jobs that may wait. At a millisecond each, the last of a full queue is within the default deadline of a call.
const QUEUE: usize = 1024;

#[derive(Clone, Debug)]
pub(crate) struct Shared {
    connection: Arc<Mutex<Connection>>,
    queue: Arc<Semaphore>,
}

impl Shared {
    pub(crate) fn new(connection: Connection) -> Self {
        Self { connection: Arc::new(Mutex::new(connection)), queue: Arc::new(Semaphore::new(QUEUE)) }
    }

    pub(crate) async fn run<T, E>(
        &self,
        behavior: TransactionBehavior,
        job: impl FnOnce(&Connection) -> Result<T, E> + Send + 'static,
    ) -> Result<T, E>
    where
        T: Send + 'static,
        E: From<Error> + Send + 'static,
    {
        let _place = self.queue.try_acquire().map_err(|_| E::from(Error::Busy))?;
        // The lock is taken here and not on the blocking thread, so that those who wait hold no thread.
        let mut connection = Arc::clone(&self.connection).lock_owned().await;
        tokio::task::spawn_blocking(move || in_transaction(&mut connection, behavior, job))
            .await
            .unwrap_or_else(|error| Err(E::from(Error::Unfinished(error))))
    }
}

/// A panic of the job unwinds through the transaction, which rolls back; the next job is not its victim.
fn in_transaction<T, E: From<Error>>(
    connection: &mut Connection,
    behavior: TransactionBehavior,
    job: impl FnOnce(&Connection) -> Result<T, E>,
) -> Result<T, E> {
    let transaction =
        connection.transaction_with_behavior(behavior).map_err(|error| E::from(error.into()))?;
    let done = job(&transaction)?;
    transaction.commit().map_err(|error| E::from(error.into()))?;
    Ok(done)
}
