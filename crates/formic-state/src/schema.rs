//! The tables, and which release can read them.

use redb::{Database, ReadTransaction, ReadableDatabase, ReadableTable, TableDefinition, TableError};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::error::Error;
use crate::promise::Mark;

/// The version of the tables below. Counts up with each change that an older release would misread; a newer
/// one than its own is refused by every release.
pub const SCHEMA: u32 = 1;

/// Small facts: the schema, the identity of the database, counters.
pub(crate) const META: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("meta");
/// The deployments of the fleet, by service.
pub(crate) const FLEET: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("fleet");
/// The desired states that were, by index.
pub(crate) const GENERATIONS: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("generations");
/// What is remembered of instances, by id.
pub(crate) const INSTANCES: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("instances");
/// What happened, by a number that counts up.
pub(crate) const EVENTS: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("events");
/// Secrets, encrypted, by name and version.
pub(crate) const SECRETS: TableDefinition<'_, (&str, u64), &[u8]> = TableDefinition::new("secrets");

pub(crate) const AT_SCHEMA: &str = "schema";
pub(crate) const AT_IDENTITY: &str = "identity";
pub(crate) const AT_KEY_CHECK: &str = "key_check";
pub(crate) const AT_FLEET: &str = "fleet";
pub(crate) const AT_TIMETABLE: &str = "timetable";
pub(crate) const AT_NEXT_EVENT: &str = "next_event";
pub(crate) const AT_COMMITS: &str = "commits";

/// What a database says of itself.
pub(crate) enum Version {
    Ours,
    Newer(u32),
    NotOurs,
}

/// Makes the tables of an empty database.
pub(crate) fn begin(database: &Database, identity: &str, key_check: &[u8]) -> Result<(), Error> {
    let write = database.begin_write()?;
    {
        let mut meta = write.open_table(META)?;
        meta.insert(AT_SCHEMA, encode(&SCHEMA).as_slice())?;
        meta.insert(AT_IDENTITY, encode(&identity).as_slice())?;
        meta.insert(AT_KEY_CHECK, key_check)?;
        write.open_table(FLEET)?;
        write.open_table(GENERATIONS)?;
        write.open_table(INSTANCES)?;
        write.open_table(EVENTS)?;
        write.open_table(SECRETS)?;
    }
    write.commit()?;
    Ok(())
}

/// Which release can read it. Looks at nothing else: of the rest of a newer one we know nothing.
pub(crate) fn version(read: &ReadTransaction) -> Result<Version, Error> {
    let meta = match read.open_table(META) {
        Ok(meta) => meta,
        Err(TableError::TableDoesNotExist(_) | TableError::TableTypeMismatch { .. }) => {
            return Ok(Version::NotOurs);
        }
        Err(error) => return Err(error.into()),
    };
    let Some(found) = meta.get(AT_SCHEMA)? else { return Ok(Version::NotOurs) };
    let found: u32 = decode("meta", AT_SCHEMA, found.value())?;
    Ok(match found {
        SCHEMA => Version::Ours,
        0 => Version::NotOurs,
        newer => Version::Newer(newer),
    })
}

/// How far a database has come.
pub(crate) fn mark(database: &Database) -> Result<Mark, Error> {
    let read = reading(database)?;
    let meta_table = read.open_table(META)?;
    let commits = meta(&meta_table, AT_COMMITS)?.unwrap_or(0);
    Ok(Mark { commits, next_event: meta(&meta_table, AT_NEXT_EVENT)?.unwrap_or(1) })
}

/// A value of the meta table.
pub(crate) fn meta<T: DeserializeOwned>(
    table: &impl ReadableTable<&'static str, &'static [u8]>,
    key: &'static str,
) -> Result<Option<T>, Error> {
    let Some(value) = table.get(key)? else { return Ok(None) };
    decode("meta", key, value.value()).map(Some)
}

/// As JSON: what is kept is plain data, which always has a form.
pub(crate) fn encode(value: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec(value).expect("plain data with string keys encodes")
}

pub(crate) fn decode<T: DeserializeOwned>(
    table: &'static str,
    key: impl Into<String>,
    value: &[u8],
) -> Result<T, Error> {
    serde_json::from_slice(value).map_err(|source| Error::Record { table, key: key.into(), source })
}

pub(crate) fn reading(database: &Database) -> Result<ReadTransaction, Error> {
    Ok(database.begin_read()?)
}
