//! The user service of the shop: accounts, log-in, and tokens that every other service can verify by itself.
//!
//! A library, so that tests and other programs can put the service together; `main.rs` only runs it.

mod config;
mod input;
mod key;
mod password;
mod service;
mod store;

use std::path::Path;
use std::time::Duration;

use shop_database::Database;
use shop_token::{Keys, Signer};

pub use config::{ConfigError, UserConfig};
pub use key::KeyError;
use password::Passwords;
use store::Store;

/// The generated contract: messages, the trait, server and client of `shop.user.v1.UserService`.
pub mod proto {
    formic::include_protos!();
    pub use self::shop::user::v1::*;
}

/// The service.
#[derive(Debug)]
pub struct Users {
    store: Store,
    passwords: Passwords,
    signer: Signer,
    keys: Keys,
    token_lifetime: Duration,
}

/// Why the service could not start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// The table `[service.user.config]`.
    #[error("accept the configuration")]
    Config(#[from] ConfigError),
    /// The file with the key that signs tokens.
    #[error("load the key that signs tokens")]
    Key(#[from] KeyError),
    /// The database's file.
    #[error("open the database")]
    Database(#[from] shop_database::Error),
    /// The task that opens the files did not finish.
    #[error("wait for the files to open")]
    Interrupted(#[source] tokio::task::JoinError),
}

// === impl Users ===

impl Users {
    /// Opens `users.sqlite` and `token.key` in this folder, and makes both if they are not there.
    ///
    /// # Errors
    /// When the configuration is faulty or one of the files cannot be opened or made.
    pub async fn open(folder: &Path, config: &UserConfig) -> Result<Self, StartError> {
        config.validate()?;
        let folder = folder.to_owned();
        let (signer, database) = tokio::task::spawn_blocking(move || {
            let signer = key::load_or_make(&folder.join("token.key"))?;
            let database = Database::open(&folder.join("users.sqlite"), store::MIGRATIONS)?;
            Ok::<_, StartError>((signer, database))
        })
        .await
        .map_err(StartError::Interrupted)??;
        Ok(Self {
            store: Store::new(database),
            passwords: Passwords::new(config)?,
            keys: signer.keys(),
            signer,
            token_lifetime: Duration::from_secs(config.token_lifetime_seconds),
        })
    }

    /// The public keys, for a verifier in the same process.
    #[must_use]
    pub fn keys(&self) -> &Keys {
        &self.keys
    }
}
