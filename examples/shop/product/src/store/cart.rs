//! Carts: what a user means to buy. Prices are the catalogue's at the time of reading; nothing is reserved.

use rusqlite::{Connection, OptionalExtension, params};

/// The most of one product in a cart.
pub(crate) const MAX_QUANTITY: u32 = 99;

/// The most products in a cart.
pub(crate) const MAX_LINES: u32 = 50;

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Cart {
    pub(crate) lines: Vec<CartLine>,
    /// Grows with every change; 0 for a cart that never held anything.
    pub(crate) version: u64,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct CartLine {
    pub(crate) product_id: String,
    pub(crate) name: String,
    pub(crate) quantity: u32,
    pub(crate) unit_price: i64,
}

/// Why something cannot go into a cart.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CartError {
    #[error("there is no product {0:?}")]
    UnknownProduct(String),
    #[error("the cart would hold {0} of this product, and {MAX_QUANTITY} is the most")]
    TooMany(u32),
    #[error("the cart holds {MAX_LINES} products already, which is the most")]
    Full,
    #[error("use the carts")]
    Database(#[from] shop_database::Error),
}

impl From<rusqlite::Error> for CartError {
    fn from(error: rusqlite::Error) -> Self {
        Self::Database(error.into())
    }
}

// === impl Cart ===

impl CartLine {
    pub(crate) fn total(&self) -> i64 {
        self.unit_price * i64::from(self.quantity)
    }
}

impl Cart {
    pub(crate) fn total(&self) -> i64 {
        self.lines.iter().map(CartLine::total).sum()
    }
}

// === jobs: each runs within one transaction ===

pub(crate) fn add(tx: &Connection, user: &str, product: &str, quantity: u32) -> Result<Cart, CartError> {
    let known: bool =
        tx.query_one("SELECT EXISTS (SELECT 1 FROM products WHERE id = ?1)", [product], |row| row.get(0))?;
    if !known {
        return Err(CartError::UnknownProduct(product.to_owned()));
    }
    let held: Option<u32> = tx
        .query_one(
            "SELECT quantity FROM cart_lines WHERE user_id = ?1 AND product_id = ?2",
            [user, product],
            |row| row.get(0),
        )
        .optional()?;
    if held.is_none() {
        let lines: u32 =
            tx.query_one("SELECT count(*) FROM cart_lines WHERE user_id = ?1", [user], |row| row.get(0))?;
        if lines >= MAX_LINES {
            return Err(CartError::Full);
        }
    }
    let wanted = held.unwrap_or(0).saturating_add(quantity);
    if wanted > MAX_QUANTITY {
        return Err(CartError::TooMany(wanted));
    }
    let version = touch(tx, user)?;
    tx.execute(
        "INSERT INTO cart_lines (user_id, product_id, quantity, added) VALUES (?1, ?2, ?3, ?4)
         ON CONFLICT (user_id, product_id) DO UPDATE SET quantity = excluded.quantity",
        params![user, product, wanted, version],
    )?;
    Ok(view(tx, user)?)
}

pub(crate) fn remove(tx: &Connection, user: &str, product: &str) -> rusqlite::Result<Cart> {
    let gone =
        tx.execute("DELETE FROM cart_lines WHERE user_id = ?1 AND product_id = ?2", [user, product])?;
    if gone > 0 {
        touch(tx, user)?;
    }
    view(tx, user)
}

/// With `if_version`, a cart that has changed since stays as it is.
pub(crate) fn clear(tx: &Connection, user: &str, if_version: Option<u64>) -> rusqlite::Result<Cart> {
    let cart = view(tx, user)?;
    if cart.lines.is_empty() || if_version.is_some_and(|version| version != cart.version) {
        return Ok(cart);
    }
    tx.execute("DELETE FROM cart_lines WHERE user_id = ?1", [user])?;
    touch(tx, user)?;
    view(tx, user)
}

pub(crate) fn view(db: &Connection, user: &str) -> rusqlite::Result<Cart> {
    let version: Option<i64> =
        db.query_one("SELECT version FROM carts WHERE user_id = ?1", [user], |row| row.get(0)).optional()?;
    let Some(version) = version else { return Ok(Cart::default()) };
    let mut statement = db.prepare_cached(
        "SELECT product_id, name, quantity, price FROM cart_lines JOIN products ON products.id = product_id
         WHERE user_id = ?1 ORDER BY added",
    )?;
    let rows = statement.query_map([user], |row| {
        Ok(CartLine {
            product_id: row.get(0)?,
            name: row.get(1)?,
            quantity: row.get(2)?,
            unit_price: row.get(3)?,
        })
    })?;
    Ok(Cart { lines: rows.collect::<rusqlite::Result<Vec<_>>>()?, version: version.cast_unsigned() })
}

/// Marks a change; answers the new version.
fn touch(tx: &Connection, user: &str) -> rusqlite::Result<i64> {
    tx.query_one(
        "INSERT INTO carts (user_id, version) VALUES (?1, 1)
         ON CONFLICT (user_id) DO UPDATE SET version = version + 1 RETURNING version",
        [user],
        |row| row.get(0),
    )
}
