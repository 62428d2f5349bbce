//! What has become of every payment, as rules and as a table.
//!
//! Each function is one transaction's worth of work on a connection that its caller has opened one on.

use rusqlite::types::{FromSql, FromSqlError, FromSqlResult, ToSql, ToSqlOutput, ValueRef};
use rusqlite::{Connection, OptionalExtension, Row, params};

use crate::processor::Verdict;

/// The schema, version by version.
pub(crate) const MIGRATIONS: &[&str] = &["
    CREATE TABLE payments (
        payment_id     TEXT PRIMARY KEY NOT NULL,
        order_id       TEXT NOT NULL,
        user_id        TEXT NOT NULL,
        minor_units    INTEGER NOT NULL,
        currency       TEXT NOT NULL,
        card_last_four TEXT NOT NULL,
        state          TEXT NOT NULL CHECK (state IN ('authorized', 'captured', 'voided', 'refunded', 'declined')),
        decline_code   TEXT NOT NULL,
        created_at     INTEGER NOT NULL DEFAULT (unixepoch()),
        updated_at     INTEGER NOT NULL DEFAULT (unixepoch())
    ) STRICT;
"];

/// Where a payment stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum State {
    Authorized,
    Captured,
    Voided,
    Refunded,
    Declined,
}

/// What a payment is for, all but its outcome.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Terms {
    pub(crate) payment_id: String,
    pub(crate) order_id: String,
    pub(crate) user_id: String,
    pub(crate) minor_units: i64,
    pub(crate) currency: String,
    pub(crate) card_last_four: String,
}

/// A row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Payment {
    pub(crate) terms: Terms,
    pub(crate) state: State,
    /// Empty unless declined.
    pub(crate) decline_code: String,
}

/// Why a payment cannot go where it is asked to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    Unknown,
    Mismatch,
    Declined(String),
    Voided,
    Captured,
    NotCaptured,
    Refunded,
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

/// The payment of this id, a tombstone included.
pub(crate) fn find(connection: &Connection, payment_id: &str) -> Result<Option<Payment>, Fault> {
    let mut select = connection.prepare_cached(
        "SELECT payment_id, order_id, user_id, minor_units, currency, card_last_four, state, decline_code
         FROM payments WHERE payment_id = ?1",
    )?;
    Ok(select.query_row([payment_id], Payment::from_row).optional()?)
}

/// Writes the processor's verdict down, unless the id already stands for something: then that is the answer.
pub(crate) fn authorize(connection: &Connection, terms: &Terms, verdict: Verdict) -> Result<Payment, Fault> {
    if let Some(payment) = find(connection, &terms.payment_id)? {
        return payment.answer_again(terms);
    }
    let (state, decline_code) = match verdict {
        Verdict::Approved => (State::Authorized, ""),
        Verdict::Declined(code) => (State::Declined, code),
    };
    let payment = Payment { terms: terms.clone(), state, decline_code: decline_code.to_owned() };
    insert(connection, &payment)?;
    Ok(payment)
}

pub(crate) fn capture(connection: &Connection, payment_id: &str) -> Result<Payment, Fault> {
    let payment = find(connection, payment_id)?.ok_or(Fault::Refused(Refusal::Unknown))?;
    match payment.state {
        State::Authorized => turn(connection, payment, State::Captured),
        State::Captured => Ok(payment),
        State::Voided => Err(Fault::Refused(Refusal::Voided)),
        State::Refunded => Err(Fault::Refused(Refusal::Refunded)),
        State::Declined => Err(Fault::Refused(Refusal::Declined(payment.decline_code))),
    }
}

/// Leaves a tombstone where there is no payment.
pub(crate) fn void(connection: &Connection, payment_id: &str) -> Result<Payment, Fault> {
    let Some(payment) = find(connection, payment_id)? else {
        let terms = Terms { payment_id: payment_id.to_owned(), ..Terms::default() };
        let tombstone = Payment { terms, state: State::Voided, decline_code: String::new() };
        insert(connection, &tombstone)?;
        return Ok(tombstone);
    };
    match payment.state {
        State::Authorized => turn(connection, payment, State::Voided),
        State::Voided | State::Declined => Ok(payment),
        State::Captured => Err(Fault::Refused(Refusal::Captured)),
        State::Refunded => Err(Fault::Refused(Refusal::Refunded)),
    }
}

pub(crate) fn refund(connection: &Connection, payment_id: &str) -> Result<Payment, Fault> {
    let payment = find(connection, payment_id)?.ok_or(Fault::Refused(Refusal::Unknown))?;
    match payment.state {
        State::Captured => turn(connection, payment, State::Refunded),
        State::Refunded => Ok(payment),
        State::Authorized | State::Voided | State::Declined => Err(Fault::Refused(Refusal::NotCaptured)),
    }
}

fn insert(connection: &Connection, payment: &Payment) -> Result<(), Fault> {
    let terms = &payment.terms;
    connection.execute(
        "INSERT INTO payments
             (payment_id, order_id, user_id, minor_units, currency, card_last_four, state, decline_code)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)",
        params![
            terms.payment_id,
            terms.order_id,
            terms.user_id,
            terms.minor_units,
            terms.currency,
            terms.card_last_four,
            payment.state,
            payment.decline_code
        ],
    )?;
    Ok(())
}

fn turn(connection: &Connection, mut payment: Payment, state: State) -> Result<Payment, Fault> {
    connection.execute(
        "UPDATE payments SET state = ?2, updated_at = unixepoch() WHERE payment_id = ?1",
        params![payment.terms.payment_id, state],
    )?;
    payment.state = state;
    Ok(payment)
}

// === impl Payment ===

impl Payment {
    /// The answer to an authorization of an id that already stands for this payment. A decline is an answer too.
    pub(crate) fn answer_again(self, terms: &Terms) -> Result<Self, Fault> {
        match self.state {
            // First, because a tombstone has no terms to compare.
            State::Voided => Err(Fault::Refused(Refusal::Voided)),
            _ if self.terms != *terms => Err(Fault::Refused(Refusal::Mismatch)),
            State::Refunded => Err(Fault::Refused(Refusal::Refunded)),
            State::Authorized | State::Captured | State::Declined => Ok(self),
        }
    }

    fn from_row(row: &Row<'_>) -> rusqlite::Result<Self> {
        let terms = Terms {
            payment_id: row.get(0)?,
            order_id: row.get(1)?,
            user_id: row.get(2)?,
            minor_units: row.get(3)?,
            currency: row.get(4)?,
            card_last_four: row.get(5)?,
        };
        Ok(Self { terms, state: row.get(6)?, decline_code: row.get(7)? })
    }
}

// === impl State ===

impl State {
    const ALL: [Self; 5] = [Self::Authorized, Self::Captured, Self::Voided, Self::Refunded, Self::Declined];

    const fn name(self) -> &'static str {
        match self {
            Self::Authorized => "authorized",
            Self::Captured => "captured",
            Self::Voided => "voided",
            Self::Refunded => "refunded",
            Self::Declined => "declined",
        }
    }
}

impl ToSql for State {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        Ok(self.name().into())
    }
}

impl FromSql for State {
    fn column_result(value: ValueRef<'_>) -> FromSqlResult<Self> {
        let text = value.as_str()?;
        Self::ALL.into_iter().find(|state| state.name() == text).ok_or(FromSqlError::InvalidType)
    }
}

#[cfg(test)]
mod tests;
