//! Stock and its reservations: the product service's part in an order's saga.
//!
//! ```text
//!   (nothing) ── reserve ──▶ held ── commit ──▶ committed
//!       │                     │                    │
//!       └──── release ────────┴───── release ──────┴──▶ released, for ever
//! ```
//!
//! The caller may die and come back, repeat itself, or be overtaken by its own undoing. So each step is idempotent by the
//! reservation's id, and a release is remembered even when it comes first: what arrives after it finds the door closed.
//! Stock goes down when goods are held and up when they are released; a commit only makes the state final.

use std::collections::BTreeMap;

use rusqlite::{Connection, OptionalExtension, params};

/// What to reserve: a quantity by product id. Sorted, so that a repetition in another order is the same.
pub(crate) type Items = BTreeMap<String, u32>;

/// Goods that an order holds, has bought, or has given back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Reservation {
    pub(crate) id: String,
    /// Empty when it was released before it was ever reserved.
    pub(crate) order_id: String,
    pub(crate) state: State,
    pub(crate) items: Vec<ReservedItem>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ReservedItem {
    pub(crate) product_id: String,
    pub(crate) quantity: u32,
    /// As it was when the goods were reserved.
    pub(crate) unit_price: i64,
}

/// The numbers are those of the table: never change one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum State {
    Held = 1,
    Committed = 2,
    Released = 3,
}

/// Why a step was refused; the database is then as before.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StockError {
    #[error("there is no such reservation")]
    NotFound,
    #[error("there is no product {0:?}")]
    UnknownProduct(String),
    #[error("of {product_id:?} {available} are left, and {wanted} are wanted")]
    OutOfStock { product_id: String, available: i64, wanted: u32 },
    #[error("the reservation was released")]
    Released,
    #[error("the reservation's id belongs to another order or to other items")]
    Mismatch,
    #[error("use the stock")]
    Database(#[from] shop_database::Error),
}

impl From<rusqlite::Error> for StockError {
    fn from(error: rusqlite::Error) -> Self {
        Self::Database(error.into())
    }
}

// === impl Reservation ===

impl Reservation {
    /// In the currency's smallest unit; the catalogue's bounds keep it far from overflow.
    pub(crate) fn total(&self) -> i64 {
        self.items.iter().map(|item| item.unit_price * i64::from(item.quantity)).sum()
    }

    fn is_of(&self, order_id: &str, items: &Items) -> bool {
        self.order_id == order_id
            && self.items.len() == items.len()
            && self.items.iter().all(|item| items.get(&item.product_id) == Some(&item.quantity))
    }
}

// === steps: each runs within one transaction, which its error rolls back ===

pub(crate) fn reserve(
    tx: &Connection,
    id: &str,
    order_id: &str,
    items: &Items,
) -> Result<Reservation, StockError> {
    match find(tx, id)? {
        Some(found) if found.state == State::Released => return Err(StockError::Released),
        Some(found) if found.is_of(order_id, items) => return Ok(found),
        Some(_) => return Err(StockError::Mismatch),
        None => {}
    }
    tx.execute(
        "INSERT INTO reservations (id, order_id, state) VALUES (?1, ?2, ?3)",
        params![id, order_id, State::Held as i64],
    )?;
    let mut reserved = Vec::with_capacity(items.len());
    for (product_id, &wanted) in items {
        let (unit_price, available): (i64, i64) = tx
            .query_one("SELECT price, available FROM products WHERE id = ?1", [product_id], |row| {
                Ok((row.get(0)?, row.get(1)?))
            })
            .optional()?
            .ok_or_else(|| StockError::UnknownProduct(product_id.clone()))?;
        if available < i64::from(wanted) {
            return Err(StockError::OutOfStock { product_id: product_id.clone(), available, wanted });
        }
        tx.execute(
            "UPDATE products SET available = available - ?2 WHERE id = ?1",
            params![product_id, wanted],
        )?;
        tx.execute(
            "INSERT INTO reservation_items (reservation_id, product_id, quantity, unit_price) VALUES (?1, ?2, ?3, ?4)",
            params![id, product_id, wanted, unit_price],
        )?;
        reserved.push(ReservedItem { product_id: product_id.clone(), quantity: wanted, unit_price });
    }
    Ok(Reservation { id: id.to_owned(), order_id: order_id.to_owned(), state: State::Held, items: reserved })
}

pub(crate) fn commit(tx: &Connection, id: &str) -> Result<Reservation, StockError> {
    let found = find(tx, id)?.ok_or(StockError::NotFound)?;
    match found.state {
        State::Held => enter(tx, found, State::Committed),
        State::Committed => Ok(found),
        State::Released => Err(StockError::Released),
    }
}

pub(crate) fn release(tx: &Connection, id: &str) -> Result<Reservation, StockError> {
    match find(tx, id)? {
        Some(found) if found.state == State::Released => Ok(found),
        Some(found) => {
            for item in &found.items {
                tx.execute(
                    "UPDATE products SET available = available + ?2 WHERE id = ?1",
                    params![item.product_id, item.quantity],
                )?;
            }
            enter(tx, found, State::Released)
        }
        None => {
            tx.execute(
                "INSERT INTO reservations (id, order_id, state) VALUES (?1, '', ?2)",
                params![id, State::Released as i64],
            )?;
            Ok(Reservation {
                id: id.to_owned(),
                order_id: String::new(),
                state: State::Released,
                items: Vec::new(),
            })
        }
    }
}

pub(crate) fn find(db: &Connection, id: &str) -> Result<Option<Reservation>, StockError> {
    let found = db
        .query_one("SELECT order_id, state FROM reservations WHERE id = ?1", [id], |row| {
            Ok((row.get::<_, String>(0)?, row.get::<_, i64>(1)?))
        })
        .optional()?;
    let Some((order_id, state)) = found else { return Ok(None) };
    let state = match state {
        1 => State::Held,
        2 => State::Committed,
        3 => State::Released,
        other => return Err(rusqlite::Error::IntegralValueOutOfRange(1, other).into()),
    };
    let mut statement = db.prepare_cached(
        "SELECT product_id, quantity, unit_price FROM reservation_items WHERE reservation_id = ?1 ORDER BY product_id",
    )?;
    let rows = statement.query_map([id], |row| {
        Ok(ReservedItem { product_id: row.get(0)?, quantity: row.get(1)?, unit_price: row.get(2)? })
    })?;
    let items = rows.collect::<rusqlite::Result<Vec<_>>>()?;
    Ok(Some(Reservation { id: id.to_owned(), order_id, state, items }))
}

fn enter(tx: &Connection, mut reservation: Reservation, state: State) -> Result<Reservation, StockError> {
    tx.execute("UPDATE reservations SET state = ?2 WHERE id = ?1", params![reservation.id, state as i64])?;
    reservation.state = state;
    Ok(reservation)
}
