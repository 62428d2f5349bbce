//! Reading and writing, a commit at a time.

use std::fmt;
use std::path::Path;

use formic_plan::{Deployment, Fleet, Timetable};
use redb::{ReadTransaction, ReadableTable, WriteTransaction};
use serde::{Deserialize, Serialize};

use crate::error::{Error, OpenError};
use crate::folder::Folder;
use crate::key::Key;
use crate::promise::{Lost, Mark};
use crate::schema::{self, AT_COMMITS, AT_FLEET, AT_NEXT_EVENT, AT_TIMETABLE, FLEET, META};

/// The state of one engine. Can be shared between threads; writes take turns.
pub struct State {
    pub(crate) folder: Folder,
}

/// Changes that become the state together, or not at all.
///
/// Dropped without a [`commit`](Self::commit), it changes nothing.
pub struct Write<'s> {
    pub(crate) transaction: WriteTransaction,
    pub(crate) key: &'s Key,
    pub(crate) identity: &'s str,
    pub(crate) folder: &'s Folder,
}

/// What of the fleet is not the matter of one service.
#[derive(Serialize, Deserialize)]
struct Head {
    generation: u64,
    rollouts: u64,
    /// Which start of the machine the moments in it are counted from.
    boot: String,
    order: Vec<String>,
}

// === impl State ===

impl State {
    /// Takes a folder, and begins an empty state in it if there is none.
    ///
    /// # Errors
    /// See [`OpenError`]; then nothing was changed.
    pub fn open(folder: &Path) -> Result<Self, OpenError> {
        Folder::open(folder).map(|folder| Self { folder })
    }

    /// A state that ends with the process: for tests, and for an engine that keeps nothing.
    ///
    /// # Errors
    /// The system gives no random numbers.
    pub fn in_memory() -> Result<Self, OpenError> {
        Folder::in_memory().map(|folder| Self { folder })
    }

    /// Commits that were told to be on the disk and are not in the database that was opened: the last one was damaged, or an older
    /// copy of the file was put in its place. Whoever goes on from there does not know what was decided since.
    #[must_use]
    pub fn lost(&self) -> Option<Lost> {
        self.folder.lost
    }

    /// Begins a write. Waits while there is another. After one that the disk had no room for, or that failed in another way,
    /// the database is opened anew, as it is after a crash.
    ///
    /// # Errors
    /// The database refuses.
    pub fn write(&self) -> Result<Write<'_>, Error> {
        let begin = || self.folder.with(|database| Ok(database.begin_write()?));
        let transaction = match begin() {
            Err(error) if error.is_closed() => {
                self.folder.reopen()?;
                begin()?
            }
            begun => begun?,
        };
        let folder = &self.folder;
        Ok(Write { transaction, key: &folder.key, identity: &folder.identity, folder })
    }

    /// The fleet as it was last written, and the identity of the start of the machine that its moments are
    /// counted from; nothing if none was written. After another start, call
    /// [`Fleet::restart_clock`] before anything else.
    ///
    /// # Errors
    /// The database refuses.
    pub fn fleet(&self) -> Result<Option<(Fleet, String)>, Error> {
        let read = self.reading()?;
        let Some(head) = schema::meta::<Head>(&read.open_table(META)?, AT_FLEET)? else { return Ok(None) };
        let table = read.open_table(FLEET)?;
        let mut fleet =
            Fleet { generation: head.generation, rollouts: head.rollouts, deployments: Vec::new() };
        for service in head.order {
            if let Some(value) = table.get(service.as_str())? {
                fleet.deployments.push(schema::decode("fleet", service, value.value())?);
            }
        }
        Ok(Some((fleet, head.boot)))
    }

    /// The cron jobs and their runs as they were last written.
    ///
    /// # Errors
    /// The database refuses.
    pub fn timetable(&self) -> Result<Timetable, Error> {
        let read = self.reading()?;
        Ok(schema::meta(&read.open_table(META)?, AT_TIMETABLE)?.unwrap_or_default())
    }

    pub(crate) fn reading(&self) -> Result<ReadTransaction, Error> {
        self.folder.with(schema::reading)
    }
}

impl fmt::Debug for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let on_disk = self.folder.lock.is_some();
        f.debug_struct("State").field("identity", &self.folder.identity).field("on_disk", &on_disk).finish()
    }
}

// === impl Write ===

impl Write<'_> {
    /// The fleet, whole. Only the services that changed are written. `boot` names the start of the machine.
    ///
    /// # Errors
    /// The database refuses.
    pub fn fleet(&mut self, fleet: &Fleet, boot: &str) -> Result<(), Error> {
        let name = |deployment: &Deployment| deployment.wanted.service.name.clone();
        let order: Vec<String> = fleet.deployments.iter().map(name).collect();
        let mut table = self.transaction.open_table(FLEET)?;
        for (service, deployment) in order.iter().zip(&fleet.deployments) {
            let value = schema::encode(deployment);
            let same = table.get(service.as_str())?.is_some_and(|present| present.value() == value);
            if !same {
                table.insert(service.as_str(), value.as_slice())?;
            }
        }
        let wanted: std::collections::BTreeSet<&str> = order.iter().map(String::as_str).collect();
        table.retain(|service, _| wanted.contains(service))?;
        let head = Head {
            generation: fleet.generation,
            rollouts: fleet.rollouts,
            boot: boot.to_owned(),
            order: order.clone(),
        };
        self.transaction.open_table(META)?.insert(AT_FLEET, schema::encode(&head).as_slice())?;
        Ok(())
    }

    /// The cron jobs and their runs.
    ///
    /// # Errors
    /// The database refuses.
    pub fn timetable(&mut self, timetable: &Timetable) -> Result<(), Error> {
        let value = schema::encode(timetable);
        self.transaction.open_table(META)?.insert(AT_TIMETABLE, value.as_slice())?;
        Ok(())
    }

    /// Makes it so. When this returns it is on the disk, and a crash of the machine does not take it back.
    ///
    /// # Errors
    /// The database refuses; then nothing of it is so.
    pub fn commit(self) -> Result<(), Error> {
        let mark = {
            let mut meta = self.transaction.open_table(META)?;
            let commits =
                schema::meta::<u64>(&meta, AT_COMMITS)?.unwrap_or(0).max(self.folder.floor.commits) + 1;
            meta.insert(AT_COMMITS, schema::encode(&commits).as_slice())?;
            let next_event = schema::meta(&meta, AT_NEXT_EVENT)?.unwrap_or(1);
            Mark { commits, next_event: self.folder.floor.next_event.max(next_event) }
        };
        self.transaction.commit()?;
        self.folder.promise(mark);
        Ok(())
    }
}

impl fmt::Debug for Write<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Write").finish_non_exhaustive()
    }
}
