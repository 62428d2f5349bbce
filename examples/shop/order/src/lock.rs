//! One process drives the orders of a folder: two would take each other's for unfinished. The system lets go of the lock
//! when its holder dies, however it dies.

use std::fs::{File, TryLockError};
use std::path::Path;
use std::time::Duration;

use formic::Failure;
use tokio::time::Instant;

/// How long to wait between two tries.
const STEP: Duration = Duration::from_millis(50);

/// Held until dropped.
#[derive(Debug)]
pub(crate) struct Lock {
    _file: File,
}

impl Lock {
    /// Takes the lock, waiting this long for the process before, which may still be draining.
    pub(crate) async fn take(dir: &Path, patience: Duration) -> Result<Self, Failure> {
        let path = dir.join("orders.lock");
        let cannot =
            |error: std::io::Error| Failure::new(format!("cannot lock {}", path.display())).because(error);
        let file = File::options().create(true).truncate(false).write(true).open(&path).map_err(cannot)?;
        let deadline = Instant::now() + patience;
        loop {
            match file.try_lock() {
                Ok(()) => return Ok(Self { _file: file }),
                Err(TryLockError::Error(error)) => return Err(cannot(error)),
                Err(TryLockError::WouldBlock) if Instant::now() >= deadline => {
                    return Err(Failure::new(format!(
                        "another process drives the orders in {}: run one instance of `order` for each data directory",
                        dir.display()
                    )));
                }
                Err(TryLockError::WouldBlock) => tokio::time::sleep(STEP).await,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use super::*;
    use crate::testing::TempDir;

    #[tokio::test]
    async fn one_at_a_time() {
        let dir = TempDir::new();
        let first = Lock::take(dir.path(), Duration::ZERO).await.unwrap();
        let refused = Lock::take(dir.path(), Duration::ZERO).await.unwrap_err();
        assert!(refused.to_string().contains("one instance"), "{refused}");
        drop(first);
        Lock::take(dir.path(), Duration::from_secs(5)).await.unwrap();
    }
}
