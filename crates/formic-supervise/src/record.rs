//! One file per instance, from which a new engine learns what an old one started.
//!
//! Plain JSON, written whole: a broken database can never lose running work.
//!
//! Nothing here waits for the disk. A record is for the next engine of the same boot, and what is written and renamed is
//! there for it, however this engine ends: files belong to the kernel. After a crash of the machine no record means
//! anything: its processes are gone, and it is dropped because it is of another boot, set aside because it is torn and
//! nothing carries its id, or not there. What must outlive the machine, which instance was decided upon and of what, is
//! in the engine's database; that is synced before the gate opens ([`Supervisor::spawn_when`](crate::Supervisor::spawn_when)).

use std::fmt::Write as _;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use formic_core::{InstanceId, ServiceName};
use serde::{Deserialize, Serialize};

use crate::account::Account;
use crate::cgroup::{Group, Groups};
use crate::disk::{self, FileError};
use crate::exit::ExitStatus;
use crate::features::Containment;
use crate::home::Home;
use crate::identity::Identity;
use crate::launch::is_file_name;
use crate::privileges::Bounds;
use crate::stop_signal::StopSignal;
use crate::times::Times;

/// The form of the file. A file of another form is left alone, because a newer engine wrote it.
pub(crate) const FORMAT: u32 = 1;

const EXTENSION: &str = "json";

/// How far an instance got.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// About to be started. If nothing follows, its program never ran.
    Intent,
    /// Its process exists, behind the gate or running.
    Spawned,
    /// Told to end; it is killed at the deadline, in milliseconds since 1970, whoever is engine then.
    Stopping {
        /// The deadline in milliseconds since 1970, for people.
        deadline_ms: u64,
        /// The deadline in milliseconds since boot, which no change of the clock moves.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        boottime_ms: Option<u64>,
    },
}

/// What is on disk of one instance.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// The form of this file.
    pub format: u32,
    /// The instance.
    pub id: InstanceId,
    /// The service it is an instance of.
    pub service: ServiceName,
    /// Which of the service's places it has.
    pub slot: u32,
    /// The revision it runs.
    pub revision: String,
    /// How far it got.
    pub state: State,
    /// The boot it was started in.
    pub boot_id: String,
    /// The run directory that it was started for, which this file may be in a copy of; not there in what older engines wrote.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub home: Option<Home>,
    /// Its main process, once there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub identity: Option<Identity>,
    /// How its processes are held together.
    pub containment: Containment,
    /// Its cgroup, if it has one of its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cgroup: Option<PathBuf>,
    /// The names of the sockets that it was handed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub sockets: Vec<String>,
    /// The port that it was given, if one was chosen for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
    /// What it is sent when it is to end. While it is being stopped, what it was sent.
    #[serde(default, skip_serializing_if = "StopSignal::is_default")]
    pub stop_signal: StopSignal,
    /// Whom it was started as, if not as the engine's own user.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub account: Option<Account>,
    /// What else it was bound to when it was started; not there in what older engines wrote.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bounds: Option<Bounds>,
    /// When it was started, in milliseconds since 1970.
    pub started_at_ms: u64,
    /// The file of its standard output.
    pub stdout: PathBuf,
    /// The file of its standard error.
    pub stderr: PathBuf,
    /// What the engine wants to read again beside it; not read here.
    #[serde(default, skip_serializing_if = "serde_json::Value::is_null")]
    pub note: serde_json::Value,
}

impl State {
    /// On the way to its end, with this much time left for it.
    pub(crate) fn stopping(left: Duration) -> Self {
        let left = u64::try_from(left.as_millis()).unwrap_or(u64::MAX);
        Self::Stopping {
            deadline_ms: now_ms().saturating_add(left),
            boottime_ms: Some(boottime_ms().saturating_add(left)),
        }
    }

    /// What is left of the time that it was given to end, if it was told to. Of this boot's records only.
    pub(crate) fn left(&self) -> Option<Duration> {
        let left = match *self {
            Self::Stopping { boottime_ms: Some(deadline), .. } => deadline.saturating_sub(boottime_ms()),
            Self::Stopping { deadline_ms, boottime_ms: None } => deadline_ms.saturating_sub(now_ms()),
            Self::Intent | Self::Spawned => return None,
        };
        Some(Duration::from_millis(left))
    }
}

/// Milliseconds since 1970.
pub(crate) fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// Milliseconds since boot, those asleep included: the clock that goes on while engines come and go.
#[must_use]
pub fn boottime_ms() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    let (seconds, nanos) = (u64::try_from(now.tv_sec), u64::try_from(now.tv_nsec));
    seconds.unwrap_or(0) * 1000 + nanos.unwrap_or(0) / 1_000_000
}

/// Why a file is no record.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Unreadable {
    #[error("it is of format {0}, and this engine knows {FORMAT}")]
    Format(u64),
    #[error("it is damaged: {0}")]
    Damaged(String),
}

/// A file of the run directory.
#[derive(Debug)]
pub(crate) struct Entry {
    /// The instance, from the file's name.
    pub(crate) id: InstanceId,
    pub(crate) path: PathBuf,
    pub(crate) record: Result<Record, Unreadable>,
}

/// How a process ended.
#[derive(Serialize, Deserialize)]
struct Noted {
    identity: Option<Identity>,
    status: ExitStatus,
}

/// The records of one engine.
#[derive(Clone, Debug)]
pub(crate) struct Store {
    home: Home,
    /// How long it takes to write a record.
    pub(crate) writes: Times,
}

/// The file that says that a person has had something run where an instance does.
pub(crate) fn entered(dir: &Path, id: &InstanceId) -> PathBuf {
    dir.join(format!("{id}.entered"))
}

/// The file that says how an instance ended. Beside its record and not in it: what takes the place of another file is
/// written out at once by some file systems (ext4), which is milliseconds for each where hundreds end together.
fn ended(dir: &Path, id: &InstanceId) -> PathBuf {
    dir.join(format!("{id}{ENDED}"))
}

const ENDED: &str = ".ended";

impl Store {
    /// Takes a directory, making it if need be. Its path becomes absolute and free of links.
    pub(crate) fn open(dir: &Path) -> Result<Self, FileError> {
        disk::private_dir(dir)?;
        let dir = fs::canonicalize(dir).map_err(|source| disk::explain("find", dir, source))?;
        let home = Home::find(dir.clone()).map_err(|source| disk::explain("find", &dir, source))?;
        Ok(Self { home, writes: Times::default() })
    }

    pub(crate) fn dir(&self) -> &Path {
        &self.home.dir
    }

    pub(crate) fn home(&self) -> &Home {
        &self.home
    }

    pub(crate) fn path(&self, id: &InstanceId) -> PathBuf {
        self.home.dir.join(format!("{id}.{EXTENSION}"))
    }

    /// Writes a record so that it survives a crash of the engine.
    pub(crate) fn write(&self, record: &Record) -> Result<(), FileError> {
        let path = self.path(&record.id);
        let content = encode(record).map_err(|source| disk::explain("encode", &path, source.into()))?;
        let began = Instant::now();
        disk::replace_for_now(&path, &content)?;
        self.writes.add(began.elapsed());
        Ok(())
    }

    /// Notes how an instance ended, of which there is a record.
    pub(crate) fn note_end(&self, record: &Record, status: ExitStatus) -> Result<(), FileError> {
        let path = ended(self.dir(), &record.id);
        let noted = Noted { identity: record.identity.clone(), status };
        let content = encode(&noted).map_err(|source| disk::explain("encode", &path, source.into()))?;
        disk::replace_for_now(&path, &content)
    }

    /// How an instance ended, if that was noted. Whoever is believed to have ended is not adopted, so the note must be whole, and
    /// about the process that the record is about.
    pub(crate) fn end_of(&self, record: &Record) -> Option<ExitStatus> {
        let content = disk::read_plain(&ended(self.dir(), &record.id)).ok()?;
        let noted: Noted = serde_json::from_slice(&content).ok()?;
        (is_whole(&content) == Some(true) && noted.identity == record.identity).then_some(noted.status)
    }

    /// The cgroup of a record, if it is one that an engine of this run directory makes.
    pub(crate) fn group(&self, record: &Record) -> Option<Group> {
        Groups::recorded(&self.home, &record.id, record.cgroup.as_deref()?)
    }

    pub(crate) fn remove(&self, id: &InstanceId) -> Result<(), FileError> {
        disk::remove(&self.path(id))?;
        // Most have neither. One that was made just now says nothing of anybody any more.
        let _ = fs::remove_file(entered(self.dir(), id));
        // After the record: what is noted of no record is removed by the next engine.
        disk::remove(&ended(self.dir(), id))
    }

    /// Whether a person has had something run where this instance does.
    pub(crate) fn is_entered(&self, id: &InstanceId) -> bool {
        entered(self.dir(), id).exists()
    }

    /// Sets a damaged file aside, for people to look at.
    pub(crate) fn set_aside(&self, path: &Path) -> Result<(), FileError> {
        let mut aside = path.to_owned().into_os_string();
        aside.push(".damaged");
        fs::rename(path, &aside).map_err(|source| disk::explain("rename", path, source))?;
        disk::sync_dir(&self.home.dir)
    }

    /// Reads every record, good or bad, and removes what a crash left half-written.
    pub(crate) fn load(&self) -> Result<Vec<Entry>, FileError> {
        let failed = |source| disk::explain("read", self.dir(), source);
        let (mut entries, mut ends) = (Vec::new(), Vec::new());
        for file in fs::read_dir(self.dir()).map_err(failed)? {
            let path = file.map_err(failed)?.path();
            let Some(name) = path.file_name().and_then(|name| name.to_str()) else { continue };
            if name.starts_with(disk::TEMPORARY) {
                if let Err(error) = disk::remove(&path) {
                    tracing::warn!(%error, "what is left of a record that was not written stays");
                }
                continue;
            }
            if let Some(id) = name.strip_suffix(ENDED) {
                ends.push((InstanceId::new(id), path));
                continue;
            }
            let stem = name.strip_suffix(EXTENSION).and_then(|stem| stem.strip_suffix('.'));
            let Some(stem) = stem.filter(|stem| is_file_name(stem)) else { continue };
            let id = InstanceId::new(stem);
            let record = match disk::read_plain(&path) {
                Ok(content) => parse(&content).and_then(|record| {
                    let is_its_own = record.id == id;
                    let other = || Unreadable::Damaged(format!("it is about {}", record.id));
                    if is_its_own { Ok(record) } else { Err(other()) }
                }),
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(error) if error.kind() == io::ErrorKind::InvalidData => {
                    Err(Unreadable::Damaged(error.to_string()))
                }
                // What all of them need is no fault of this one.
                Err(source) => return Err(disk::explain("read", &path, source)),
            };
            entries.push(Entry { id, path, record });
        }
        entries.sort_by(|a, b| a.id.cmp(&b.id));
        for (id, path) in ends {
            if !self.path(&id).exists() {
                let _ = fs::remove_file(path);
            }
        }
        Ok(entries)
    }
}

/// What the last field of a file begins with, over which it is no part of the sum.
const CHECK: &str = ",\n  \"check\": \"";
const END: &str = "\"\n}";

/// What is said, and a sum of all of it: one bit of a boot's identity or of a number decides whether a process is ours.
fn encode(said: &impl Serialize) -> serde_json::Result<Vec<u8>> {
    let mut text = serde_json::to_string_pretty(said)?;
    let sum = sum(text.as_bytes());
    text.truncate(text.len() - "\n}".len());
    let _ = write!(text, "{CHECK}{sum:016x}{END}");
    Ok(text.into_bytes())
}

/// FNV-1a: a changed bit always changes it.
fn sum(content: &[u8]) -> u64 {
    content
        .iter()
        .fold(0xcbf2_9ce4_8422_2325, |sum, byte| (sum ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3))
}

/// Whether a file says what was written, if it has a sum.
fn is_whole(content: &[u8]) -> Option<bool> {
    let at = content.windows(CHECK.len()).rposition(|part| part == CHECK.as_bytes())?;
    let rest = content[at + CHECK.len()..].strip_suffix(END.as_bytes());
    let recorded = rest.and_then(|digits| std::str::from_utf8(digits).ok());
    let own = sum(&[&content[..at], b"\n}"].concat());
    Some(recorded.and_then(|digits| u64::from_str_radix(digits, 16).ok()) == Some(own))
}

fn parse(content: &[u8]) -> Result<Record, Unreadable> {
    let damaged = |error: serde_json::Error| Unreadable::Damaged(error.to_string());
    let value: serde_json::Value = serde_json::from_slice(content).map_err(damaged)?;
    match value.get("format").and_then(serde_json::Value::as_u64) {
        _ if is_whole(content) == Some(false) => Err(Unreadable::Damaged("its sum is another".to_owned())),
        Some(format) if format != u64::from(FORMAT) => Err(Unreadable::Format(format)),
        _ => serde_json::from_value(value).map_err(damaged),
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]

    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    fn record(id: &str) -> Record {
        Record {
            format: FORMAT,
            id: InstanceId::new(id),
            service: ServiceName::new("user").unwrap(),
            slot: 1,
            revision: "r1".into(),
            state: State::Stopping { deadline_ms: 7, boottime_ms: None },
            boot_id: "b".into(),
            home: Some(Home::find("/".into()).unwrap()),
            identity: Some(Identity { boot_id: "b".into(), pid: 7, pidfs_id: Some(u64::MAX), start_time: 9 }),
            containment: Containment::Cgroup,
            cgroup: Some("/sys/fs/cgroup/x/a-1".into()),
            sockets: vec!["http".into()],
            port: Some(20_001),
            stop_signal: StopSignal::Quit,
            account: None,
            bounds: Some(crate::privileges::Privileges::default().bounds()),
            started_at_ms: 5,
            stdout: "/tmp/o".into(),
            stderr: "/tmp/e".into(),
            note: serde_json::json!({ "seat": 1 }),
        }
    }

    fn store(name: &str) -> Store {
        let dir = std::env::temp_dir().join(format!("formic-supervise-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&dir);
        Store::open(&dir).unwrap()
    }

    #[test]
    fn what_is_written_is_read_and_is_private() {
        let store = store("roundtrip");
        store.write(&Record { state: State::Intent, identity: None, ..record("a-1") }).unwrap();
        store.write(&record("a-1")).unwrap();
        let entries = store.load().unwrap();
        assert_eq!(entries.len(), 1);
        assert_eq!(entries[0].record.as_ref().unwrap(), &record("a-1"));
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(&entries[0].path), mode(store.dir())), (0o600, 0o700));
        store.remove(&InstanceId::new("a-1")).unwrap();
        store.remove(&InstanceId::new("a-1")).unwrap();
        assert_eq!(fs::read_dir(store.dir()).unwrap().count(), 0);
        fs::remove_dir_all(store.dir()).unwrap();
    }

    #[test]
    fn what_is_left_of_a_grace_follows_the_clock_that_nobody_sets() {
        assert_eq!(State::Spawned.left(), None);
        let left = State::stopping(Duration::from_secs(60)).left().unwrap();
        assert!(left > Duration::from_secs(50) && left <= Duration::from_secs(60), "{left:?}");
        let State::Stopping { boottime_ms, .. } = State::stopping(Duration::from_secs(60)) else { panic!() };
        let clock_set_back = State::Stopping { deadline_ms: u64::MAX, boottime_ms };
        assert!(clock_set_back.left().unwrap() <= Duration::from_secs(60));
        assert_eq!(State::Stopping { deadline_ms: 7, boottime_ms: None }.left(), Some(Duration::ZERO));
    }

    #[test]
    fn what_is_no_file_or_no_end_of_one_is_told_as_damage_and_set_aside() {
        use rustix::fs::{CWD, FileType, Mode, mknodat};
        let store = store("no-file");
        let path = |id: &str| store.path(&InstanceId::new(id));
        store.write(&record("a-1")).unwrap();
        fs::create_dir(path("a-2")).unwrap();
        // Nobody ever writes to it.
        mknodat(CWD, path("a-3"), FileType::Fifo, Mode::RUSR, 0).unwrap();
        std::os::unix::fs::symlink(path("a-1"), path("a-4")).unwrap();
        fs::File::create(path("a-5")).unwrap().set_len(1 << 40).unwrap();
        let entries = store.load().unwrap();
        assert_eq!(entries.iter().filter(|entry| entry.record.is_ok()).count(), 1);
        let damaged: Vec<_> =
            entries.iter().filter(|e| matches!(e.record, Err(Unreadable::Damaged(_)))).collect();
        assert_eq!(damaged.len(), 4, "{entries:?}");
        for entry in damaged {
            store.set_aside(&entry.path).unwrap();
        }
        assert_eq!(store.load().unwrap().len(), 1);
        fs::remove_dir_all(store.dir()).unwrap();
    }

    #[test]
    fn every_torn_or_foreign_file_is_told_apart_and_none_is_an_error() {
        let store = store("torn");
        let whole = serde_json::to_vec(&record("a-1")).unwrap();
        for length in 0..whole.len() {
            fs::write(store.path(&InstanceId::new("a-1")), &whole[..length]).unwrap();
            let entries = store.load().unwrap();
            assert!(matches!(entries[0].record, Err(Unreadable::Damaged(_))), "{length}");
        }
        fs::write(store.path(&InstanceId::new("a-1")), &whole).unwrap();
        fs::write(store.path(&InstanceId::new("a-2")), &whole).unwrap();
        fs::write(store.path(&InstanceId::new("a-3")), r#"{"format": 2, "new": true}"#).unwrap();
        fs::write(store.dir().join(".new-a-4.json"), "{").unwrap();
        fs::write(store.dir().join("notes.txt"), "hello").unwrap();
        fs::create_dir(store.dir().join(".new-a-5.json")).unwrap();
        let entries = store.load().unwrap();
        assert!(entries[0].record.is_ok());
        assert!(matches!(entries[1].record, Err(Unreadable::Damaged(_))), "a record under another's name");
        assert!(matches!(entries[2].record, Err(Unreadable::Format(2))));
        assert_eq!(entries.len(), 3);
        assert!(!store.dir().join(".new-a-4.json").exists());
        fs::remove_dir_all(store.dir()).unwrap();
    }

    #[test]
    fn no_flipped_bit_makes_another_record_of_it() {
        let own = record("a-1");
        let content = encode(&own).unwrap();
        assert_eq!(parse(&content).unwrap(), own);
        let old = serde_json::to_vec_pretty(&own).unwrap();
        assert_eq!(parse(&old).unwrap(), own, "one that an older release wrote");
        for bit in 0..content.len() * 8 {
            let mut flipped = content.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert!(parse(&flipped).is_err() || parse(&flipped).unwrap() == own, "bit {bit}");
        }
    }
}
