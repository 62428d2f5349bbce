//! Passwords: hashed by argon2id, a bounded number at a time.
//!
//! A hash costs a core and many megabytes on purpose. Without a bound, a handful of callers could take the whole machine; so
//! there are few at once, some wait, and the rest are told to come back.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use argon2::password_hash::phc::PasswordHash;
use argon2::{Algorithm, Argon2, Params, PasswordHasher as _, PasswordVerifier as _, Version};
use formic::Error;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::config::{ConfigError, UserConfig};

/// How long somebody who is turned away should wait.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// Hashes and verifies passwords. Cheap to clone; the clones share the bounds.
#[derive(Clone, Debug)]
pub(crate) struct Passwords {
    argon2: Argon2<'static>,
    /// Those who wait and those who compute.
    admitted: Arc<Semaphore>,
    /// Those who compute.
    computing: Arc<Semaphore>,
    /// A hash that no password has, with the cost of a real one.
    nobody: Arc<str>,
}

// === impl Passwords ===

impl Passwords {
    pub(crate) fn new(config: &UserConfig) -> Result<Self, ConfigError> {
        let params = Params::new(config.argon2_memory_kib, config.argon2_passes, 1, None)
            .map_err(|error| ConfigError(vec![format!("argon2 refuses the cost: {error}")]))?;
        let nobody = format!(
            "$argon2id$v=19$m={},t={},p=1${}${}",
            config.argon2_memory_kib,
            config.argon2_passes,
            "A".repeat(22),
            "A".repeat(43)
        );
        Ok(Self {
            argon2: Argon2::new(Algorithm::Argon2id, Version::V0x13, params),
            admitted: Arc::new(Semaphore::new(config.hashes_at_once + config.hashes_waiting)),
            computing: Arc::new(Semaphore::new(config.hashes_at_once)),
            nobody: nobody.into(),
        })
    }

    /// The hash to store for a new password, with a salt of its own.
    pub(crate) async fn hash(&self, password: String) -> Result<String, Error> {
        let argon2 = self.argon2.clone();
        let hash = self
            .compute(move || argon2.hash_password(password.as_bytes()).map(|hash| hash.to_string()))
            .await?;
        hash.map_err(|error| Error::internal("the password could not be hashed").with_source(error))
    }

    /// Whether the password is that of the stored hash. Without a hash (nobody has this email) it takes as long and says no.
    pub(crate) async fn verify(&self, password: String, stored: Option<String>) -> Result<bool, Error> {
        let argon2 = self.argon2.clone();
        let nobody = Arc::clone(&self.nobody);
        self.compute(move || {
            let hash = stored.as_deref().unwrap_or(&nobody);
            let right = PasswordHash::new(hash)
                .is_ok_and(|hash| argon2.verify_password(password.as_bytes(), &hash).is_ok());
            right && stored.is_some()
        })
        .await
    }

    async fn compute<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, Error> {
        let admitted = Arc::clone(&self.admitted).try_acquire_owned().map_err(|_| {
            Error::resource_exhausted("too many log-ins at the same time").with_retry_after(RETRY_AFTER)
        })?;
        let computing = Arc::clone(&self.computing).acquire_owned().await.map_err(|_| closed())?;
        let permits: [OwnedSemaphorePermit; 2] = [admitted, computing];
        tokio::task::spawn_blocking(move || {
            let done = work();
            // Held to the end of the work, even when the caller has gone away meanwhile.
            drop(permits);
            done
        })
        .await
        .map_err(|error| Error::internal("the password's hash was not finished").with_source(error))
    }
}

fn closed() -> Error {
    Error::unavailable("the service is stopping")
}

/// Random bytes from the operating system.
pub(crate) fn fill_random(bytes: &mut [u8]) -> io::Result<()> {
    getrandom::fill(bytes).map_err(io::Error::from)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use std::time::Instant;

    use formic::Code;

    use super::*;

    fn cheap() -> UserConfig {
        UserConfig { argon2_memory_kib: 64, argon2_passes: 1, ..UserConfig::default() }
    }

    #[tokio::test]
    async fn a_hash_is_argon2id_salted_and_verifies() {
        let passwords = Passwords::new(&cheap()).unwrap();
        let first = passwords.hash("correct horse".into()).await.unwrap();
        let second = passwords.hash("correct horse".into()).await.unwrap();
        assert!(first.starts_with("$argon2id$v=19$m=64,t=1,p=1$"), "{first}");
        assert_ne!(first, second);
        assert!(passwords.verify("correct horse".into(), Some(first.clone())).await.unwrap());
        assert!(!passwords.verify("wrong horse".into(), Some(first)).await.unwrap());
        assert!(!passwords.verify("correct horse".into(), Some("no hash".into())).await.unwrap());
    }

    #[tokio::test]
    async fn a_hash_made_at_another_cost_still_verifies() {
        let old = Passwords::new(&cheap()).unwrap().hash("correct horse".into()).await.unwrap();
        let now = Passwords::new(&UserConfig { argon2_passes: 2, ..cheap() }).unwrap();
        assert!(now.verify("correct horse".into(), Some(old)).await.unwrap());
    }

    #[tokio::test]
    async fn nobody_costs_as_much_as_somebody() {
        // Large enough to tell a hash from none, small enough for an unoptimised build.
        let passwords =
            Passwords::new(&UserConfig { argon2_memory_kib: 512, argon2_passes: 2, ..cheap() }).unwrap();
        assert!(PasswordHash::new(&passwords.nobody).is_ok(), "{}", passwords.nobody);
        let stored = passwords.hash("correct horse".into()).await.unwrap();
        let mut took = [Duration::MAX; 2];
        for _ in 0..10 {
            for (fastest, hash) in took.iter_mut().zip([Some(stored.clone()), None]) {
                let start = Instant::now();
                assert!(!passwords.verify("guess guess".into(), hash).await.unwrap());
                *fastest = (*fastest).min(start.elapsed());
            }
        }
        assert!(took[1] > took[0] / 2, "somebody {:?}, nobody {:?}", took[0], took[1]);
    }

    #[tokio::test]
    async fn beyond_the_bound_callers_are_turned_away() {
        let config = UserConfig { hashes_at_once: 1, hashes_waiting: 1, ..cheap() };
        let passwords = Passwords::new(&config).unwrap();
        let (enter, entered) = std::sync::mpsc::channel();
        let (release, released) = std::sync::mpsc::channel::<()>();
        let running = tokio::spawn({
            let passwords = passwords.clone();
            async move {
                let work = move || {
                    enter.send(()).unwrap();
                    released.recv_timeout(Duration::from_secs(10)).unwrap();
                };
                passwords.compute(work).await
            }
        });
        tokio::task::spawn_blocking(move || entered.recv_timeout(Duration::from_secs(10)).unwrap())
            .await
            .unwrap();
        // One computes; the next to be admitted waits.
        let mut waiting = std::pin::pin!(passwords.hash("correct horse".into()));
        assert!(futures_poll_once(waiting.as_mut()).await.is_none());

        let error = passwords.hash("correct horse".into()).await.unwrap_err();
        assert_eq!(error.code(), Code::ResourceExhausted);
        assert_eq!(error.retry_after(), Some(RETRY_AFTER));
        release.send(()).unwrap();
        running.await.unwrap().unwrap();
        waiting.await.unwrap();
        passwords.hash("correct horse".into()).await.unwrap();
    }

    /// The future's output if it is ready at once.
    async fn futures_poll_once<F: Future>(mut future: std::pin::Pin<&mut F>) -> Option<F::Output> {
        std::future::poll_fn(move |cx| match future.as_mut().poll(cx) {
            std::task::Poll::Ready(output) => std::task::Poll::Ready(Some(output)),
            std::task::Poll::Pending => std::task::Poll::Ready(None),
        })
        .await
    }
}
