//! The revisions of each service: what there is to go back to.

use std::collections::BTreeMap;

use formic_plan::Service;
use redb::ReadableTable;
use serde::{Deserialize, Serialize};

use crate::error::Error;
use crate::schema::{self, REVISIONS};
use crate::state::{State, Write};

/// So many revisions of each service are kept, and beside them those that are pinned and the last that
/// succeeded.
pub const KEPT_REVISIONS: usize = 50;

/// A revision of a service, with all that brings it back.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// Its number among the revisions of its service, from 1; given by [`Write::record`].
    pub number: u64,
    /// The rollout that brought it, or in which it was changed in place.
    pub rollout: u64,
    /// When it was asked for, in milliseconds since 1970.
    pub at_unix_ms: u64,
    /// What came of it.
    pub outcome: Outcome,
    /// Kept until somebody says otherwise.
    pub pinned: bool,
    /// The service as it was wanted.
    pub service: Service,
    /// The versions of the secrets that it was given.
    pub secrets: BTreeMap<String, u64>,
}

/// What came of a revision.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "outcome", rename_all = "snake_case")]
#[non_exhaustive]
pub enum Outcome {
    /// It is being rolled out.
    UnderWay,
    /// It ran as it should.
    Succeeded,
    /// It did not.
    Failed {
        /// Why.
        cause: String,
    },
    /// Another was asked for before it was known.
    Superseded,
}

impl State {
    /// The revisions of a service that are kept, the newest first.
    ///
    /// # Errors
    /// The database refuses.
    pub fn history(&self, service: &str) -> Result<Vec<Record>, Error> {
        let read = schema::reading(self.database())?;
        let mut records = of(&read.open_table(REVISIONS)?, service)?;
        records.reverse();
        Ok(records)
    }

    /// One revision of a service.
    ///
    /// # Errors
    /// It is not kept, or the database refuses.
    pub fn revision(&self, service: &str, number: u64) -> Result<Record, Error> {
        let read = schema::reading(self.database())?;
        one(&read.open_table(REVISIONS)?, service, number)
    }
}

impl Write<'_> {
    /// Takes down a revision as the newest of its service, and gives its number. `record.number` is not
    /// read. Older ones make room.
    ///
    /// # Errors
    /// The database refuses.
    pub fn record(&mut self, record: &Record) -> Result<u64, Error> {
        let mut table = self.transaction.open_table(REVISIONS)?;
        let service = record.service.name.as_str();
        let number = of(&table, service)?.last().map_or(1, |last| last.number + 1);
        let record = Record { number, ..record.clone() };
        table.insert((service, number), schema::encode(&record).as_slice())?;

        let records = of(&table, service)?;
        let good =
            records.iter().rfind(|record| record.outcome == Outcome::Succeeded).map(|good| good.number);
        let loose: Vec<u64> = records
            .iter()
            .filter(|record| !record.pinned && Some(record.number) != good)
            .map(|record| record.number)
            .collect();
        for number in loose.iter().take(loose.len().saturating_sub(KEPT_REVISIONS)) {
            table.remove((service, *number))?;
        }
        Ok(number)
    }

    /// Says what came of a revision.
    ///
    /// # Errors
    /// It is not kept, or the database refuses.
    pub fn settle(&mut self, service: &str, number: u64, outcome: Outcome) -> Result<(), Error> {
        self.change(service, number, |record| record.outcome = outcome)
    }

    /// Keeps a revision until it is unpinned, or lets it go with the others again.
    ///
    /// # Errors
    /// It is not kept, or the database refuses.
    pub fn pin(&mut self, service: &str, number: u64, pinned: bool) -> Result<(), Error> {
        self.change(service, number, |record| record.pinned = pinned)
    }

    fn change(&mut self, service: &str, number: u64, change: impl FnOnce(&mut Record)) -> Result<(), Error> {
        let mut table = self.transaction.open_table(REVISIONS)?;
        let mut record = one(&table, service, number)?;
        change(&mut record);
        table.insert((service, number), schema::encode(&record).as_slice())?;
        Ok(())
    }
}

/// The records of a service, the oldest first.
fn of(
    table: &impl ReadableTable<(&'static str, u64), &'static [u8]>,
    service: &str,
) -> Result<Vec<Record>, Error> {
    let mut records = Vec::new();
    for entry in table.range((service, 0)..=(service, u64::MAX))? {
        let (key, value) = entry?;
        records.push(schema::decode("revisions", format!("{service} {}", key.value().1), value.value())?);
    }
    Ok(records)
}

fn one(
    table: &impl ReadableTable<(&'static str, u64), &'static [u8]>,
    service: &str,
    number: u64,
) -> Result<Record, Error> {
    let missing = || Error::NoRevision { service: service.to_owned(), number };
    let value = table.get((service, number))?.ok_or_else(missing)?;
    schema::decode("revisions", format!("{service} {number}"), value.value())
}
