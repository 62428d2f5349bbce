//! The product service of the shop: a catalogue to search, stock that a saga reserves, and a cart for every user.
//!
//! A library, so that tests and other programs can put the service together; `main.rs` only runs it.

mod catalogue;
mod input;
mod page;
mod service;
mod store;
mod wire;

use std::path::{Path, PathBuf};

use serde::Deserialize;
use shop_database::Database;
use shop_token::Verifier;

pub use catalogue::{Catalogue, CatalogueError, CatalogueProduct};
use store::Store;

/// The generated contract: messages, the trait, server and client of `shop.product.v1.ProductService`.
pub mod proto {
    formic::include_protos!();
    pub use self::shop::product::v1::*;
}

/// The table `[service.product.config]`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ProductConfig {
    /// A JSON file to fill an empty database from, instead of the catalogue that is built in.
    pub catalogue: Option<PathBuf>,
}

/// The service.
#[derive(Debug)]
pub struct Products {
    store: Store,
    verifier: Verifier,
}

/// Why the service could not start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// The catalogue's file.
    #[error("load the catalogue")]
    Catalogue(#[from] CatalogueError),
    /// The database's file.
    #[error("open the database")]
    Database(#[from] shop_database::Error),
    /// The task that opens the database did not finish.
    #[error("wait for the database to open")]
    Interrupted(#[source] tokio::task::JoinError),
}

// === impl Products ===

impl Products {
    /// Opens `products.sqlite` in this folder, and fills it from the catalogue if it is new.
    ///
    /// # Errors
    /// When the database cannot be opened, or is new and the catalogue is faulty.
    pub async fn open(folder: &Path, config: &ProductConfig, verifier: Verifier) -> Result<Self, StartError> {
        let file = folder.join("products.sqlite");
        let database = tokio::task::spawn_blocking(move || Database::open(&file, store::MIGRATIONS))
            .await
            .map_err(StartError::Interrupted)??;
        let store = Store::new(database, || match &config.catalogue {
            Some(path) => Catalogue::read(path),
            None => Catalogue::built_in(),
        })
        .await?;
        Ok(Self { store, verifier })
    }
}
