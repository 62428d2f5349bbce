//! What the service keeps, behind async methods; each is one transaction.

mod cart;
mod products;
mod stock;

use std::sync::Arc;

use rusqlite::Connection;
use shop_database::Database;

use crate::StartError;
use crate::catalogue::{Catalogue, CatalogueError};
use crate::page::Page;

pub(crate) use cart::{Cart, CartError, MAX_LINES, MAX_QUANTITY};
pub(crate) use products::{Category, Product};
pub(crate) use stock::{Items, Reservation, State, StockError};

/// The n-th script takes the schema from version n-1 to n; only ever add to the end.
pub(crate) const MIGRATIONS: &[&str] = &["
    CREATE TABLE shop (
        one INTEGER PRIMARY KEY CHECK (one = 1),
        currency TEXT NOT NULL
    ) STRICT;

    CREATE TABLE products (
        id TEXT PRIMARY KEY,
        name TEXT NOT NULL,
        description TEXT NOT NULL,
        category TEXT NOT NULL,
        tags TEXT NOT NULL, -- a JSON array
        price INTEGER NOT NULL CHECK (price > 0),
        available INTEGER NOT NULL CHECK (available >= 0),
        -- Words in lower case, each after a space, so that a search for the start of a word is one instr().
        name_words TEXT NOT NULL,
        tag_words TEXT NOT NULL,
        all_words TEXT NOT NULL
    ) STRICT;
    CREATE INDEX products_by_category ON products (category, name, id);

    CREATE TABLE reservations (
        id TEXT PRIMARY KEY,
        order_id TEXT NOT NULL,
        state INTEGER NOT NULL
    ) STRICT;
    CREATE TABLE reservation_items (
        reservation_id TEXT NOT NULL REFERENCES reservations (id),
        product_id TEXT NOT NULL REFERENCES products (id),
        quantity INTEGER NOT NULL CHECK (quantity > 0),
        unit_price INTEGER NOT NULL,
        PRIMARY KEY (reservation_id, product_id)
    ) STRICT, WITHOUT ROWID;

    CREATE TABLE carts (
        user_id TEXT PRIMARY KEY,
        version INTEGER NOT NULL
    ) STRICT;
    CREATE TABLE cart_lines (
        user_id TEXT NOT NULL REFERENCES carts (user_id),
        product_id TEXT NOT NULL REFERENCES products (id),
        quantity INTEGER NOT NULL CHECK (quantity > 0),
        added INTEGER NOT NULL, -- the cart's version when the line came in: keeps the order
        PRIMARY KEY (user_id, product_id)
    ) STRICT, WITHOUT ROWID;
"];

/// A handle of the service's data. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Store {
    database: Database,
    currency: Arc<str>,
}

// === impl Store ===

impl Store {
    /// Takes an open database; a new one is filled from the catalogue, which is read only then.
    pub(crate) async fn new(
        database: Database,
        catalogue: impl FnOnce() -> Result<Catalogue, CatalogueError>,
    ) -> Result<Self, StartError> {
        let currency = match database.read(products::currency).await? {
            Some(currency) => currency,
            None => {
                let catalogue = catalogue()?;
                tracing::info!(
                    products = catalogue.products.len(),
                    "a new database is filled from the catalogue"
                );
                database.write(move |tx| products::fill(tx, &catalogue)).await?
            }
        };
        Ok(Self { database, currency: currency.into() })
    }

    /// The currency of every price.
    pub(crate) fn currency(&self) -> &str {
        &self.currency
    }

    /// A page of what the words find, and whether there is more.
    pub(crate) async fn search(
        &self,
        text: &str,
        page: Page,
    ) -> Result<(Vec<Product>, bool), shop_database::Error> {
        let words = products::words(text);
        self.read(move |db| products::search(db, &words, page)).await
    }

    pub(crate) async fn list(
        &self,
        category: String,
        page: Page,
    ) -> Result<(Vec<Product>, bool), shop_database::Error> {
        self.read(move |db| products::list(db, &category, page)).await
    }

    pub(crate) async fn product(&self, id: String) -> Result<Option<Product>, shop_database::Error> {
        self.read(move |db| products::get(db, &id)).await
    }

    pub(crate) async fn categories(&self) -> Result<Vec<Category>, shop_database::Error> {
        self.read(products::categories).await
    }

    pub(crate) async fn reserve(
        &self,
        id: String,
        order: String,
        items: Items,
    ) -> Result<Reservation, StockError> {
        self.database.write(move |tx| stock::reserve(tx, &id, &order, &items)).await
    }

    pub(crate) async fn commit(&self, id: String) -> Result<Reservation, StockError> {
        self.database.write(move |tx| stock::commit(tx, &id)).await
    }

    pub(crate) async fn release(&self, id: String) -> Result<Reservation, StockError> {
        self.database.write(move |tx| stock::release(tx, &id)).await
    }

    pub(crate) async fn reservation(&self, id: String) -> Result<Reservation, StockError> {
        self.database.read(move |db| stock::find(db, &id)?.ok_or(StockError::NotFound)).await
    }

    pub(crate) async fn add_to_cart(
        &self,
        user: String,
        product: String,
        quantity: u32,
    ) -> Result<Cart, CartError> {
        self.database.write(move |tx| cart::add(tx, &user, &product, quantity)).await
    }

    pub(crate) async fn remove_from_cart(
        &self,
        user: String,
        product: String,
    ) -> Result<Cart, shop_database::Error> {
        self.write(move |tx| cart::remove(tx, &user, &product)).await
    }

    pub(crate) async fn clear_cart(
        &self,
        user: String,
        if_version: Option<u64>,
    ) -> Result<Cart, shop_database::Error> {
        self.write(move |tx| cart::clear(tx, &user, if_version)).await
    }

    pub(crate) async fn cart(&self, user: String) -> Result<Cart, shop_database::Error> {
        self.read(move |db| cart::view(db, &user)).await
    }

    async fn read<T: Send + 'static>(
        &self,
        job: impl FnOnce(&Connection) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<T, shop_database::Error> {
        self.database.read(|db| Ok(job(db)?)).await
    }

    async fn write<T: Send + 'static>(
        &self,
        job: impl FnOnce(&Connection) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<T, shop_database::Error> {
        self.database.write(|tx| Ok(job(tx)?)).await
    }
}

#[cfg(test)]
mod tests;
