//! The journal's tables. Each function is one transaction's worth of work on a connection that its caller opened one on.

use rusqlite::types::Type;
use rusqlite::{Connection, OptionalExtension, Row, params};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::{Draft, Fault, Known};
use crate::model::{Change, Record};
use crate::note::note;
use crate::saga::{Entry, Next, Saga, Stage};

/// The schema, version by version.
pub(crate) const MIGRATIONS: &[&str] = &["
    CREATE TABLE orders (
        number          INTEGER PRIMARY KEY,
        order_id        TEXT UNIQUE NOT NULL,
        user_id         TEXT NOT NULL,
        idempotency_key TEXT NOT NULL,
        fingerprint     TEXT NOT NULL,
        body            TEXT NOT NULL,
        cart_version    INTEGER NOT NULL,
        placed_at       INTEGER NOT NULL,
        -- What follows is derived from the entries, so that it can be asked for.
        at_rest         INTEGER NOT NULL DEFAULT 0,
        confirmed_at    INTEGER,
        confirmed       INTEGER NOT NULL DEFAULT 0,
        cart_cleared    INTEGER NOT NULL DEFAULT 0,
        UNIQUE (user_id, idempotency_key)
    ) STRICT;
    CREATE INDEX unfinished ON orders (number) WHERE at_rest = 0;
    CREATE INDEX of_user ON orders (user_id, number);
    CREATE INDEX carts ON orders (user_id) WHERE confirmed = 1 AND cart_cleared = 0;

    CREATE TABLE entries (
        order_id TEXT NOT NULL REFERENCES orders (order_id),
        sequence INTEGER NOT NULL,
        at       INTEGER NOT NULL,
        entry    TEXT NOT NULL,
        PRIMARY KEY (order_id, sequence)
    ) STRICT, WITHOUT ROWID;
"];

/// A part of a list, newest first.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Page {
    pub(crate) limit: u32,
    /// The number of the last order of the page before.
    pub(crate) before: Option<i64>,
}

struct Written {
    sequence: u64,
    at: i64,
    entry: Entry,
}

pub(super) fn known(db: &Connection, user_id: &str, key: &str) -> Result<Option<Known>, Fault> {
    let mut select = db.prepare_cached(
        "SELECT order_id, fingerprint FROM orders WHERE user_id = ?1 AND idempotency_key = ?2",
    )?;
    let known =
        select.query_row([user_id, key], |row| Ok(Known { order_id: row.get(0)?, fingerprint: row.get(1)? }));
    Ok(known.optional()?)
}

pub(super) fn insert(db: &Connection, draft: &Draft, now: i64) -> Result<(), Fault> {
    let order = &draft.order;
    db.execute(
        "INSERT INTO orders (order_id, user_id, idempotency_key, fingerprint, body, cart_version, placed_at)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
        params![
            order.order_id,
            order.user_id,
            draft.idempotency_key,
            draft.fingerprint,
            to_json(order)?,
            // SQLite's integers are signed; the bits come back as they went.
            order.cart_version.cast_signed(),
            now
        ],
    )?;
    Ok(())
}

/// Adds entries to a journal whose fold is `saga`, and answers the new fold.
pub(super) fn append(
    db: &Connection,
    order_id: &str,
    saga: &Saga,
    entries: &[Entry],
    now: i64,
) -> Result<Saga, Fault> {
    let mut saga = saga.clone();
    let mut insert = db.prepare_cached(
        "INSERT INTO entries (order_id, sequence, at, entry)
         SELECT ?1, 1 + coalesce(max(sequence), 0), ?2, ?3 FROM entries WHERE order_id = ?1",
    )?;
    for entry in entries {
        saga.apply(entry)?;
        insert.execute(params![order_id, now, to_json(entry)?])?;
    }
    let confirmed = saga.stage() == Stage::Confirmed;
    db.prepare_cached(
        "UPDATE orders SET at_rest = ?2, confirmed = ?3,
             confirmed_at = CASE WHEN ?3 THEN coalesce(confirmed_at, ?4) ELSE confirmed_at END
         WHERE order_id = ?1",
    )?
    .execute(params![order_id, saga.next() == Next::Rest, confirmed, now])?;
    Ok(saga)
}

/// The saga of an order, and when it last changed.
pub(super) fn fold(db: &Connection, order_id: &str) -> Result<(Saga, i64), Fault> {
    let written = entries(db, order_id)?;
    let mut saga = Saga::default();
    for Written { entry, .. } in &written {
        saga.apply(entry)?;
    }
    let last = written.last().ok_or(Fault::NotFound)?;
    Ok((saga, last.at))
}

fn entries(db: &Connection, order_id: &str) -> Result<Vec<Written>, Fault> {
    let mut select =
        db.prepare_cached("SELECT sequence, at, entry FROM entries WHERE order_id = ?1 ORDER BY sequence")?;
    let written = select.query_map([order_id], |row| {
        Ok(Written {
            sequence: row.get::<_, i64>(0)?.cast_unsigned(),
            at: row.get(1)?,
            entry: from_json(row, 2)?,
        })
    })?;
    Ok(written.collect::<Result<_, _>>()?)
}

const COLUMNS: &str = "body, placed_at, confirmed_at, cart_cleared, number";

pub(super) fn load(db: &Connection, order_id: &str) -> Result<Record, Fault> {
    let mut select = db.prepare_cached(&format!("SELECT {COLUMNS} FROM orders WHERE order_id = ?1"))?;
    let (mut record, _) = select.query_row([order_id], record).optional()?.ok_or(Fault::NotFound)?;
    (record.saga, record.updated_at) = fold(db, order_id)?;
    Ok(record)
}

pub(super) fn list(db: &Connection, user_id: &str, page: Page) -> Result<(Vec<Record>, Option<i64>), Fault> {
    let mut select = db.prepare_cached(&format!(
        "SELECT {COLUMNS} FROM orders WHERE user_id = ?1 AND number < ?2 ORDER BY number DESC LIMIT ?3"
    ))?;
    // One more than asked for says whether there is a next page.
    let before = page.before.unwrap_or(i64::MAX);
    let rows = select.query_map(params![user_id, before, i64::from(page.limit) + 1], record)?;
    let mut rows: Vec<(Record, i64)> = rows.collect::<Result<_, _>>()?;
    let limit = usize::try_from(page.limit).unwrap_or(usize::MAX);
    let more = rows.len() > limit;
    rows.truncate(limit);
    let next = rows.last().map(|(_, number)| *number).filter(|_| more);
    let mut records = Vec::with_capacity(rows.len());
    for (mut record, _) in rows {
        (record.saga, record.updated_at) = fold(db, &record.order.order_id)?;
        records.push(record);
    }
    Ok((records, next))
}

/// A record whose saga is still to be folded, and the order's number.
fn record(row: &Row<'_>) -> rusqlite::Result<(Record, i64)> {
    let record = Record {
        order: from_json(row, 0)?,
        saga: Saga::default(),
        placed_at: row.get(1)?,
        updated_at: row.get(1)?,
        confirmed_at: row.get(2)?,
        cart_cleared: row.get(3)?,
    };
    Ok((record, row.get(4)?))
}

pub(super) fn changes(db: &Connection, order_id: &str, after: u64) -> Result<(Vec<Change>, bool), Fault> {
    let mut saga = Saga::default();
    let mut changes = Vec::new();
    for Written { sequence, at, entry } in entries(db, order_id)? {
        saga.apply(&entry)?;
        if let Some(note) = note(&entry, &saga)
            && sequence > after
        {
            changes.push(Change { sequence, stage: saga.stage(), note, at });
        }
    }
    Ok((changes, saga.next() == Next::Rest))
}

pub(super) fn open_orders(db: &Connection) -> Result<Vec<String>, Fault> {
    let mut select = db.prepare("SELECT order_id FROM orders WHERE at_rest = 0 ORDER BY number")?;
    let ids = select.query_map([], |row| row.get(0))?;
    Ok(ids.collect::<Result<_, _>>()?)
}

pub(super) fn carts_to_clear(db: &Connection, user_id: &str) -> Result<Vec<(String, u64)>, Fault> {
    let mut select = db.prepare_cached(
        "SELECT order_id, cart_version FROM orders WHERE user_id = ?1 AND confirmed = 1 AND cart_cleared = 0",
    )?;
    let carts =
        select.query_map([user_id], |row| Ok((row.get(0)?, row.get::<_, i64>(1)?.cast_unsigned())))?;
    Ok(carts.collect::<Result<_, _>>()?)
}

pub(super) fn cart_cleared(db: &Connection, order_id: &str) -> Result<(), Fault> {
    db.execute("UPDATE orders SET cart_cleared = 1 WHERE order_id = ?1", [order_id])?;
    Ok(())
}

fn to_json<T: Serialize>(value: &T) -> rusqlite::Result<String> {
    serde_json::to_string(value).map_err(|error| rusqlite::Error::ToSqlConversionFailure(error.into()))
}

fn from_json<T: DeserializeOwned>(row: &Row<'_>, column: usize) -> rusqlite::Result<T> {
    let text: String = row.get(column)?;
    serde_json::from_str(&text)
        .map_err(|error| rusqlite::Error::FromSqlConversionFailure(column, Type::Text, error.into()))
}
