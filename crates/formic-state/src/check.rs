//! Whether a database file is whole: asked of a copy in memory, before the file is opened for writing.
//!
//! The library repairs on opening, in place, and some damage makes it panic instead of saying so. Both are
//! no harm to a copy. The file is small (history and events are bounded), so a copy costs little. Of a panic
//! the process's hook may still write a line; the library leaves that hook alone, and names the thread.

use std::any::Any;
use std::thread;

use redb::backends::InMemoryBackend;
use redb::{Database, ReadableDatabase, ReadableTable, StorageBackend};

use crate::error::Error;
use crate::events::Event;
use crate::history::Generation;
use crate::instances::Held;
use crate::schema::{self, EVENTS, FLEET, GENERATIONS, INSTANCES, META, SECRETS, Version};
use crate::secrets;

/// The shortest file that holds a header.
const SHORTEST: usize = 512;

pub(crate) enum Verdict {
    Whole,
    Newer(u32),
    NotOurs,
    Damaged(String),
}

/// The name of the thread that reads a file for damage. A panic there is a finding, which is told as one: the hook of
/// a program does well to pass over it.
pub const READER: &str = "formic-state-check";

/// Reads all of it. Takes a thread, so that a panic ends there.
pub(crate) fn check(bytes: Vec<u8>) -> Verdict {
    if bytes.len() < SHORTEST {
        return Verdict::Damaged(format!("it has only {} bytes", bytes.len()));
    }
    let examined = thread::Builder::new().name(READER.into()).spawn(move || examine(&bytes));
    let Ok(examined) = examined else {
        return Verdict::Damaged("it could not be examined: the system gives no thread".into());
    };
    examined
        .join()
        .unwrap_or_else(|panic| Verdict::Damaged(format!("its structure is broken ({})", text(&*panic))))
}

fn examine(bytes: &[u8]) -> Verdict {
    let mut database = match copy(bytes) {
        Ok(database) => database,
        Err(reason) => return Verdict::Damaged(reason),
    };
    match database.check_integrity() {
        Ok(true) => {}
        Ok(false) => return Verdict::Damaged("checksums do not match".into()),
        Err(error) => return Verdict::Damaged(error.to_string()),
    }
    match walk(&database) {
        Ok(Version::Ours) => Verdict::Whole,
        Ok(Version::Newer(found)) => Verdict::Newer(found),
        Ok(Version::NotOurs) => Verdict::NotOurs,
        Err(error) => {
            let cause = std::error::Error::source(&error).map(|cause| format!(": {cause}"));
            Verdict::Damaged(format!("{error}{}", cause.unwrap_or_default()))
        }
    }
}

/// A database in memory of what is in a file; of one that is damaged it may panic. Else why there is none.
pub(crate) fn copy(bytes: &[u8]) -> Result<Database, String> {
    let backend = InMemoryBackend::new();
    let length = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
    let written = backend.set_len(length).and_then(|()| backend.write(0, bytes));
    written.map_err(|error| format!("it could not be examined: {error}"))?;
    Database::builder().create_with_backend(backend).map_err(|error| error.to_string())
}

/// Every value is what its table is for.
fn walk(database: &Database) -> Result<Version, Error> {
    let read = database.begin_read()?;
    let version = schema::version(&read)?;
    if !matches!(version, Version::Ours) {
        return Ok(version);
    }
    let meta = read.open_table(META)?;
    schema::meta::<formic_plan::Timetable>(&meta, schema::AT_TIMETABLE)?;
    for entry in meta.iter()? {
        let (key, value) = entry?;
        if key.value() != schema::AT_KEY_CHECK {
            schema::decode::<serde_json::Value>("meta", key.value(), value.value())?;
        }
    }
    for entry in read.open_table(FLEET)?.iter()? {
        let (key, value) = entry?;
        schema::decode::<formic_plan::Deployment>("fleet", key.value(), value.value())?;
    }
    for entry in read.open_table(GENERATIONS)?.iter()? {
        let (key, value) = entry?;
        schema::decode::<Generation>("generations", key.value().to_string(), value.value())?;
    }
    for entry in read.open_table(INSTANCES)?.iter()? {
        let (key, value) = entry?;
        schema::decode::<Held>("instances", key.value(), value.value())?;
    }
    for entry in read.open_table(EVENTS)?.iter()? {
        let (key, value) = entry?;
        schema::decode::<Event>("events", key.value().to_string(), value.value())?;
    }
    for entry in read.open_table(SECRETS)?.iter()? {
        let (key, value) = entry?;
        let (name, version) = key.value();
        schema::decode::<secrets::Sealed>("secrets", format!("{name} {version}"), value.value())?;
    }
    Ok(version)
}

fn text(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    let text = text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_default();
    text.lines().next().unwrap_or_default().chars().take(120).collect()
}
