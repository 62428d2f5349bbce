//! The table of shipments, and the rules by which it changes.
//!
//! Each function is one transaction's worth of work on a connection that its caller has opened one on.

use rusqlite::{Connection, OptionalExtension, Row, params};
use serde::{Deserialize, Serialize};

use crate::Config;
use crate::parcel::Timetable;

/// The schema, version by version. A tombstone has no order and was cancelled when it was booked.
pub(crate) const MIGRATIONS: &[&str] = &["
    CREATE TABLE shipments (
        shipment_id   TEXT PRIMARY KEY NOT NULL,
        order_id      TEXT NOT NULL,
        address       TEXT NOT NULL,
        items         TEXT NOT NULL,
        booked_at     INTEGER NOT NULL,
        picked_at     INTEGER NOT NULL,
        in_transit_at INTEGER NOT NULL,
        delivered_at  INTEGER NOT NULL,
        cancelled_at  INTEGER
    ) STRICT;
"];

/// Where a parcel goes; JSON in the table.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Address {
    pub(crate) name: String,
    pub(crate) street: String,
    pub(crate) city: String,
    pub(crate) postal_code: String,
    pub(crate) country: String,
}

/// What a shipment is, all but how far it has come.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Terms {
    pub(crate) shipment_id: String,
    pub(crate) order_id: String,
    pub(crate) address: Address,
    /// Product and quantity; JSON in the table.
    pub(crate) items: Vec<(String, u32)>,
}

/// A row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Shipment {
    pub(crate) terms: Terms,
    pub(crate) times: Timetable,
    pub(crate) cancelled: Option<i64>,
}

/// Why a shipment cannot be booked or cancelled.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    Unknown,
    Mismatch,
    NotServed { country: String, postal_code: String },
    Cancelled,
    UnderWay,
}

/// Why nothing was done.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Fault {
    #[error(transparent)]
    Database(#[from] shop_database::Error),
    #[error("refused: {0:?}")]
    Refused(Refusal),
}

impl From<rusqlite::Error> for Fault {
    fn from(error: rusqlite::Error) -> Self {
        Self::Database(error.into())
    }
}

/// The shipment of this id, a tombstone included.
pub(crate) fn find(connection: &Connection, shipment_id: &str) -> Result<Option<Shipment>, Fault> {
    let mut select = connection.prepare_cached(
        "SELECT shipment_id, order_id, address, items, booked_at, picked_at, in_transit_at, delivered_at, cancelled_at
         FROM shipments WHERE shipment_id = ?1",
    )?;
    Ok(select.query_row([shipment_id], Shipment::from_row).optional()?)
}

/// Books the shipment at the moment `now`, unless the id already stands for something: then that is the answer.
pub(crate) fn book(
    connection: &Connection,
    terms: &Terms,
    config: &Config,
    now: i64,
) -> Result<Shipment, Fault> {
    match find(connection, &terms.shipment_id)? {
        Some(found) if found.cancelled.is_some() => return Err(Fault::Refused(Refusal::Cancelled)),
        Some(found) if found.terms != *terms => return Err(Fault::Refused(Refusal::Mismatch)),
        Some(found) => return Ok(found),
        None => {}
    }
    let Address { country, postal_code, .. } = terms.address.clone();
    if !config.serves(&country, &postal_code) {
        return Err(Fault::Refused(Refusal::NotServed { country, postal_code }));
    }
    let shipment = Shipment { terms: terms.clone(), times: Timetable::new(now, config), cancelled: None };
    insert(connection, &shipment)?;
    Ok(shipment)
}

/// Leaves a tombstone where there is no shipment.
pub(crate) fn cancel(connection: &Connection, shipment_id: &str, now: i64) -> Result<Shipment, Fault> {
    let Some(mut shipment) = find(connection, shipment_id)? else {
        let terms = Terms { shipment_id: shipment_id.to_owned(), ..Terms::default() };
        let times = Timetable { booked: now, picked: now, in_transit: now, delivered: now };
        let tombstone = Shipment { terms, times, cancelled: Some(now) };
        insert(connection, &tombstone)?;
        return Ok(tombstone);
    };
    if shipment.cancelled.is_some() {
        return Ok(shipment);
    }
    if !shipment.times.may_cancel(now) {
        return Err(Fault::Refused(Refusal::UnderWay));
    }
    connection.execute(
        "UPDATE shipments SET cancelled_at = ?2 WHERE shipment_id = ?1",
        params![shipment_id, now],
    )?;
    shipment.cancelled = Some(now);
    Ok(shipment)
}

fn insert(connection: &Connection, shipment: &Shipment) -> Result<(), Fault> {
    let (terms, times) = (&shipment.terms, &shipment.times);
    connection.execute(
        "INSERT INTO shipments
             (shipment_id, order_id, address, items, booked_at, picked_at, in_transit_at, delivered_at, cancelled_at)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)",
        params![
            terms.shipment_id,
            terms.order_id,
            to_json(&terms.address)?,
            to_json(&terms.items)?,
            times.booked,
            times.picked,
            times.in_transit,
            times.delivered,
            shipment.cancelled
        ],
    )?;
    Ok(())
}

fn to_json<T: Serialize>(value: &T) -> rusqlite::Result<String> {
    serde_json::to_string(value).map_err(|error| rusqlite::Error::ToSqlConversionFailure(error.into()))
}

fn from_json<T: serde::de::DeserializeOwned>(row: &Row<'_>, column: usize) -> rusqlite::Result<T> {
    let text: String = row.get(column)?;
    serde_json::from_str(&text).map_err(|error| {
        rusqlite::Error::FromSqlConversionFailure(column, rusqlite::types::Type::Text, error.into())
    })
}

// === impl Shipment ===

impl Shipment {
    fn from_row(row: &Row<'_>) -> rusqlite::Result<Self> {
        let terms = Terms {
            shipment_id: row.get(0)?,
            order_id: row.get(1)?,
            address: from_json(row, 2)?,
            items: from_json(row, 3)?,
        };
        let times = Timetable {
            booked: row.get(4)?,
            picked: row.get(5)?,
            in_transit: row.get(6)?,
            delivered: row.get(7)?,
        };
        Ok(Self { terms, times, cancelled: row.get(8)? })
    }
}

#[cfg(test)]
mod tests;
