//! What is remembered of each instance beside its process: its place, how often it was restarted, how the one
//! before it ended.
//!
//! Whether it runs is told by the plain files of `formic-supervise` and by the kernel. What is here outlives
//! the process, so that no count of restarts falls and no back-off is forgotten when the engine dies.

use formic_plan::{Instance, InstanceId};
use redb::ReadableTable;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::error::Error;
use crate::schema::{self, INSTANCES};
use crate::state::{State, Write};

/// An instance, running or the last of its slot.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Held {
    /// What plans are made from.
    pub instance: Instance,
    /// What the engine knows beside it; not read here.
    pub rest: Value,
}

impl State {
    /// The instances as they were last written, by id.
    ///
    /// # Errors
    /// The database refuses.
    pub fn instances(&self) -> Result<Vec<Held>, Error> {
        let read = self.reading()?;
        let mut held = Vec::new();
        for entry in read.open_table(INSTANCES)?.iter()? {
            let (id, value) = entry?;
            held.push(schema::decode("instances", id.value(), value.value())?);
        }
        Ok(held)
    }
}

impl Write<'_> {
    /// Takes down an instance in the place of what was known of it.
    ///
    /// # Errors
    /// The database refuses.
    pub fn instance(&mut self, held: &Held) -> Result<(), Error> {
        let mut table = self.transaction.open_table(INSTANCES)?;
        table.insert(held.instance.id.as_str(), schema::encode(held).as_slice())?;
        Ok(())
    }

    /// Another took its slot, or nobody wants it any more.
    ///
    /// # Errors
    /// The database refuses.
    pub fn forget_instance(&mut self, id: &InstanceId) -> Result<(), Error> {
        self.transaction.open_table(INSTANCES)?.remove(id.as_str())?;
        Ok(())
    }
}
