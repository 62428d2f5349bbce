//! The folder: who has it, what is in it, and how it is begun.

use std::fs::{self, File, TryLockError};
use std::io::{self, Read, Seek, Write as _};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{PoisonError, RwLock};
use std::thread;
use std::time::{Duration, Instant};

use redb::{Database, DatabaseError};

use crate::check::{Verdict, check};
use crate::error::{Error, OpenError};
use crate::key::Key;
use crate::promise::{Lost, Mark, Promise};
use crate::schema::{self, AT_IDENTITY, AT_KEY_CHECK, META, SCHEMA};

/// The name of the database in its folder.
pub const DATABASE: &str = "state.redb";

/// The name of the key in its folder.
pub const KEY: &str = "secrets.key";

const LOCK: &str = "state.lock";

/// So much of the file is kept in memory; it is small.
const CACHE: usize = 16 << 20;

/// A lock that is held for longer is held by another engine.
const PATIENCE: Duration = Duration::from_millis(500);

const PAUSE: Duration = Duration::from_millis(10);

/// An open folder.
pub(crate) struct Folder {
    /// None while it could not be opened anew after a write that failed.
    database: RwLock<Option<Database>>,
    /// None without a file.
    path: Option<PathBuf>,
    pub(crate) key: Key,
    pub(crate) identity: String,
    /// None without a file, or where it cannot be written.
    promise: Option<Promise>,
    /// No commit and no event gets a smaller number.
    pub(crate) floor: Mark,
    pub(crate) lost: Option<Lost>,
    /// Held for as long as the database is open.
    pub(crate) lock: Option<File>,
}

impl Folder {
    pub(crate) fn open(folder: &Path) -> Result<Self, OpenError> {
        let io = |what| move |source| OpenError::Io { what, path: folder.to_owned(), source };
        fs::DirBuilder::new().recursive(true).mode(0o700).create(folder).map_err(io("make"))?;
        let lock = lock(folder)?;
        let (path, key_path) = (folder.join(DATABASE), folder.join(KEY));
        let there = path.try_exists().map_err(io("look into"))?;
        let (database, key) = if there {
            examine(&path)?;
            let key = Key::read(&key_path)?.ok_or(OpenError::KeyMissing { path: key_path.clone() })?;
            (reopen(folder, &path)?, key)
        } else {
            begin(&path, &key_path)?
        };
        let identity = known(&database, &key, &path, &key_path)?;
        let found = schema::mark(&database).map_err(|error| OpenError::Database(Box::new(error)))?;
        let (promise, promised) = Promise::open(folder, &identity).map_err(io("write a promise into"))?;
        let floor = promised.unwrap_or(found);
        let missing = floor.commits.saturating_sub(found.commits);
        let lost = (missing > 0).then_some(Lost { commits: missing });
        let database = RwLock::new(Some(database));
        let (path, promise, lock) = (Some(path), Some(promise), Some(lock));
        Ok(Self { database, path, key, identity, promise, floor, lost, lock })
    }

    /// Asks the database something.
    pub(crate) fn with<T>(&self, ask: impl FnOnce(&Database) -> Result<T, Error>) -> Result<T, Error> {
        let database = self.database.read().unwrap_or_else(PoisonError::into_inner);
        database.as_ref().map_or_else(|| Err(Error::closed()), ask)
    }

    /// Promises that this much is on the disk. Where that cannot be written, less is promised.
    pub(crate) fn promise(&self, mark: Mark) {
        let Some(promise) = &self.promise else { return };
        // There is no room to say so either, and nothing follows from it.
        let _ = promise.write(mark);
    }

    /// Opens the database anew, as it was at the last write that succeeded.
    pub(crate) fn reopen(&self) -> Result<(), Error> {
        let path = self.path.as_ref().ok_or_else(Error::closed)?;
        let mut database = self.database.write().unwrap_or_else(PoisonError::into_inner);
        // It has a lock of its own, and is to let go of that first.
        drop(database.take());
        *database = Some(open(path).ok_or_else(Error::closed)??);
        Ok(())
    }

    /// Without a file, for tests.
    pub(crate) fn in_memory() -> Result<Self, OpenError> {
        let key = new_key(Path::new(KEY))?;
        let database = Database::builder()
            .create_with_backend(redb::backends::InMemoryBackend::new())
            .map_err(|error| OpenError::Database(Box::new(error.into())))?;
        let identity = first(&database, &key)?;
        let (database, floor) = (RwLock::new(Some(database)), Mark::default());
        Ok(Self { database, path: None, key, identity, promise: None, floor, lost: None, lock: None })
    }
}

/// Makes the entry of a file in its folder last.
pub(crate) fn sync(path: &Path) -> Result<(), OpenError> {
    let folder = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let synced = File::open(folder).and_then(|folder| folder.sync_all());
    synced.map_err(|source| OpenError::Io { what: "sync", path: folder.to_owned(), source })
}

/// One engine at a time. The lock is the kernel's: it goes with the process that has it.
pub(crate) fn lock(folder: &Path) -> Result<File, OpenError> {
    let path = folder.join(LOCK);
    let io = |source: io::Error| OpenError::Io { what: "lock", path: path.clone(), source };
    let file =
        fs::OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(&path);
    let mut file = file.map_err(io)?;
    let locked = patiently(|| match file.try_lock() {
        Err(TryLockError::WouldBlock) => None,
        other => Some(other),
    });
    match locked {
        Some(Ok(())) => {}
        Some(Err(error)) => return Err(io(error.into())),
        None => {
            let mut holder = String::new();
            // Only for the message: another engine may be writing it.
            let _ = Read::take(&mut file, 32).read_to_string(&mut holder);
            let holder = holder.trim().to_owned();
            let holder = if holder.is_empty() { "unknown".into() } else { holder };
            return Err(OpenError::InUse { folder: folder.to_owned(), holder });
        }
    }
    let written = file.set_len(0).and_then(|()| file.rewind());
    written.and_then(|()| writeln!(file, "{}", std::process::id())).map_err(io)?;
    Ok(file)
}

/// The database has a lock of its own, as long-lived as ours.
fn reopen(folder: &Path, path: &Path) -> Result<Database, OpenError> {
    let held = || OpenError::InUse { folder: folder.to_owned(), holder: "unknown".into() };
    let database = open(path);
    let damaged =
        |error: DatabaseError| OpenError::Damaged { path: path.to_owned(), reason: error.to_string() };
    database.ok_or_else(held)?.map_err(damaged)
}

/// `None` if another has it.
fn open(path: &Path) -> Option<Result<Database, DatabaseError>> {
    patiently(|| match Database::builder().set_cache_size(CACHE).open(path) {
        Err(DatabaseError::DatabaseAlreadyOpen) => None,
        other => Some(other),
    })
}

/// Asks again for a short while. A process that was forked and has not become a program yet still has the
/// files of its parent, locks included, after that has died.
fn patiently<T>(mut ask: impl FnMut() -> Option<T>) -> Option<T> {
    let until = Instant::now() + PATIENCE;
    loop {
        let answer = ask();
        if answer.is_some() || Instant::now() >= until {
            return answer;
        }
        thread::sleep(PAUSE);
    }
}

/// Whether the file is whole and of a release that we know.
fn examine(path: &Path) -> Result<(), OpenError> {
    let bytes =
        fs::read(path).map_err(|source| OpenError::Io { what: "read", path: path.to_owned(), source })?;
    match check(bytes) {
        Verdict::Whole => Ok(()),
        Verdict::Newer(found) => Err(OpenError::Newer { path: path.to_owned(), found, known: SCHEMA }),
        Verdict::NotOurs => Err(OpenError::NotOurs { path: path.to_owned() }),
        Verdict::Damaged(reason) => Err(OpenError::Damaged { path: path.to_owned(), reason }),
    }
}

/// A new database takes its name when it is complete, so that a file of that name always is.
fn begin(path: &Path, key_path: &Path) -> Result<(Database, Key), OpenError> {
    let key = match Key::read(key_path)? {
        Some(key) => key,
        None => {
            let key = new_key(key_path)?;
            key.write(key_path)?;
            key
        }
    };
    let new = path.with_extension("redb.new");
    let io = |what| {
        let new = new.clone();
        move |source| OpenError::Io { what, path: new, source }
    };
    match fs::remove_file(&new) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(io("remove")(error)),
        _ => {}
    }
    let file = fs::OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(&new);
    let database = Database::builder()
        .set_cache_size(CACHE)
        .create_file(file.map_err(io("make"))?)
        .map_err(|error| OpenError::Database(Box::new(error.into())))?;
    first(&database, &key)?;
    fs::rename(&new, path).map_err(io("rename"))?;
    sync(path)?;
    Ok((database, key))
}

fn new_key(path: &Path) -> Result<Key, OpenError> {
    Key::random().map_err(|error| OpenError::Io {
        what: "make random numbers for",
        path: path.to_owned(),
        source: io::Error::other(error.to_string()),
    })
}

/// The tables of a new database and its identity, which is drawn at random.
fn first(database: &Database, key: &Key) -> Result<String, OpenError> {
    let random = || OpenError::Database(Box::new(crate::Error::Random));
    let mut bytes = [0; 8];
    getrandom::fill(&mut bytes).map_err(|_| random())?;
    let identity = format!("{:016x}", u64::from_be_bytes(bytes));
    let check_value = key.check_value(&identity).ok_or_else(random)?;
    schema::begin(database, &identity, &check_value).map_err(|error| OpenError::Database(Box::new(error)))?;
    Ok(identity)
}

/// The identity of a database that this key belongs to.
pub(crate) fn known(
    database: &Database,
    key: &Key,
    path: &Path,
    key_path: &Path,
) -> Result<String, OpenError> {
    let damaged =
        |error: crate::Error| OpenError::Damaged { path: path.to_owned(), reason: error.to_string() };
    let missing =
        || OpenError::Damaged { path: path.to_owned(), reason: "it does not say what it is".into() };
    let meta = schema::reading(database)
        .map_err(damaged)?
        .open_table(META)
        .map_err(|error| damaged(error.into()))?;
    let identity: String = schema::meta(&meta, AT_IDENTITY).map_err(damaged)?.ok_or_else(missing)?;
    let value = redb::ReadableTable::get(&meta, AT_KEY_CHECK).map_err(|error| damaged(error.into()))?;
    if !key.opens(&identity, value.ok_or_else(missing)?.value()) {
        let reason = "what was encrypted when the database was begun does not open with it";
        return Err(OpenError::KeyWrong { path: key_path.to_owned(), reason });
    }
    Ok(identity)
}
