//! The desired states that were: what there is to go back to, each whole.

use std::collections::{BTreeMap, BTreeSet};

use formic_plan::Service;
use redb::{ReadableTable, ReadableTableMetadata};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::error::Error;
use crate::schema::{self, GENERATIONS};
use crate::state::{State, Write};

/// So many desired states are kept.
pub const KEPT_GENERATIONS: u64 = 50;

/// A desired state with all that brings it back.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Generation {
    /// Its index: grows with each change of what is wanted.
    pub index: u64,
    /// Since when, in milliseconds since 1970.
    pub unix_ms: i64,
    /// What led to it.
    pub cause: String,
    /// The services as they were wanted.
    pub services: Vec<Service>,
    /// What came with it; not read here.
    #[serde(default, skip_serializing_if = "Value::is_null")]
    pub tag: Value,
    /// The versions of the secrets that its services are given, by name.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub secrets: BTreeMap<String, BTreeSet<u64>>,
    /// What became of it, once that is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub outcome: Option<Outcome>,
    /// Why that was no success, if it was none.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub why: String,
    /// The services that got new instances by it and are otherwise as they were.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub restarted: Vec<String>,
}

/// What became of a desired state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// All of it came true.
    Succeeded,
    /// Something that it brought failed, and there was nothing to go back to.
    Failed,
    /// Something of it failed, and was taken back.
    Reverted,
    /// Another followed before all of it came true.
    Superseded,
}

impl Outcome {
    /// The word for it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Succeeded => "succeeded",
            Self::Failed => "failed",
            Self::Reverted => "reverted",
            Self::Superseded => "superseded",
        }
    }
}

impl State {
    /// The desired states that are kept, oldest first; the last is the present one.
    ///
    /// # Errors
    /// The database refuses.
    pub fn generations(&self) -> Result<Vec<Generation>, Error> {
        let read = self.reading()?;
        let table = read.open_table(GENERATIONS)?;
        let mut generations = Vec::new();
        for entry in table.iter()? {
            let (index, value) = entry?;
            generations.push(schema::decode("generations", index.value().to_string(), value.value())?);
        }
        Ok(generations)
    }
}

impl Write<'_> {
    /// Takes down a desired state. The oldest make room.
    ///
    /// # Errors
    /// The database refuses.
    pub fn generation(&mut self, generation: &Generation) -> Result<(), Error> {
        let mut table = self.transaction.open_table(GENERATIONS)?;
        table.insert(generation.index, schema::encode(generation).as_slice())?;
        while table.len()? > KEPT_GENERATIONS {
            table.pop_first()?;
        }
        Ok(())
    }
}
