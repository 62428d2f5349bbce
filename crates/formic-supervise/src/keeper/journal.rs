//! How orphans ended, for the brain that comes next.
//!
//! One line each, written before the process is reaped: a keeper that is killed between the two writes the
//! line, and nobody else can reap what it did not. Bounded: the newest are kept.

use std::collections::VecDeque;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::OFlags;
use serde::{Deserialize, Serialize};

use crate::disk::{self, FileError};
use crate::exit::ExitStatus;
use crate::identity::Identity;

/// How many ends are kept. A thousand instances may end at once, and a brain asks within seconds.
const KEPT: usize = 4096;

/// One end.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Exit {
    pub(super) identity: Identity,
    pub(super) status: ExitStatus,
    pub(super) ended_at_ms: u64,
}

#[derive(Debug)]
pub(super) struct Journal {
    path: PathBuf,
    /// `None` after a failed write, until the file could be written anew.
    file: Option<File>,
    exits: VecDeque<Exit>,
    /// Lines in the file, those that are not kept any more included.
    lines: usize,
    unsynced: bool,
}

impl Journal {
    /// Reads what is there of this boot. Lines that a crash has cut, or that say nothing, are passed over.
    pub(super) fn open(path: PathBuf, boot_id: &str) -> Result<Self, FileError> {
        let content = match fs::read(&path) {
            Ok(content) => content,
            Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
            Err(source) => return Err(disk::explain("read", &path, source)),
        };
        let parsed =
            content.split(|&byte| byte == b'\n').filter_map(|line| serde_json::from_slice(line).ok());
        let mut exits: VecDeque<Exit> =
            parsed.filter(|exit: &Exit| exit.identity.boot_id == boot_id).collect();
        exits.drain(..exits.len().saturating_sub(KEPT));
        let mut journal = Self { path, file: None, exits, lines: 0, unsynced: false };
        match journal.rewrite() {
            // Known all the same, and written with the next one for which there is room.
            Err(error) if error.is_full() => super::process::say(&error.to_string()),
            done => done?,
        }
        Ok(journal)
    }

    /// Adds one end. Known at once, on disk after [`Journal::sync`].
    pub(super) fn add(&mut self, exit: Exit) -> Result<(), FileError> {
        let line = serde_json::to_vec(&exit).map(|line| [line.as_slice(), b"\n"].concat());
        self.exits.push_back(exit);
        if self.exits.len() > KEPT {
            self.exits.pop_front();
        }
        if self.file.is_none() || self.lines >= 2 * KEPT {
            return self.rewrite();
        }
        let written = match (&mut self.file, line) {
            (Some(file), Ok(line)) => file.write_all(&line),
            (_, Err(error)) => Err(error.into()),
            (None, _) => Ok(()),
        };
        if let Err(source) = written {
            // Perhaps half a line: the next one begins with a whole file.
            self.file = None;
            return Err(disk::explain("write", &self.path, source));
        }
        self.lines += 1;
        self.unsynced = true;
        Ok(())
    }

    /// Makes what was added survive the machine; once for many.
    pub(super) fn sync(&mut self) -> Result<(), FileError> {
        if !std::mem::take(&mut self.unsynced) {
            return Ok(());
        }
        let Some(file) = &self.file else { return Ok(()) };
        file.sync_data().map_err(|source| disk::explain("sync", &self.path, source))
    }

    /// How this process ended.
    pub(super) fn find(&self, identity: &Identity) -> Option<&Exit> {
        self.exits.iter().rev().find(|exit| exit.identity.is_same(identity))
    }

    fn rewrite(&mut self) -> Result<(), FileError> {
        self.file = None;
        let mut content = Vec::new();
        for exit in &self.exits {
            let line = serde_json::to_vec(exit);
            content.extend(line.map_err(|source| disk::explain("encode", &self.path, source.into()))?);
            content.push(b'\n');
        }
        disk::replace(&self.path, &content)?;
        self.file = Some(append_to(&self.path)?);
        self.lines = self.exits.len();
        self.unsynced = false;
        Ok(())
    }
}

fn append_to(path: &Path) -> Result<File, FileError> {
    OpenOptions::new()
        .append(true)
        .custom_flags(OFlags::NOFOLLOW.bits().cast_signed())
        .open(path)
        .map_err(|source| disk::explain("open", path, source))
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]

    use super::*;

    fn exit(pid: u32, boot_id: &str) -> Exit {
        let identity =
            Identity { boot_id: boot_id.into(), pid, pidfs_id: Some(u64::from(pid) + 1), start_time: 1 };
        Exit { identity, status: ExitStatus::Code(i32::try_from(pid % 100).unwrap()), ended_at_ms: 1 }
    }

    fn path(name: &str) -> PathBuf {
        let dir = std::env::temp_dir().join(format!("formic-journal-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&dir);
        fs::create_dir_all(&dir).unwrap();
        dir.join("exits.jsonl")
    }

    #[test]
    fn the_next_keeper_knows_what_this_one_wrote_and_nothing_of_another_boot() {
        let path = path("next");
        let mut journal = Journal::open(path.clone(), "b").unwrap();
        journal.add(exit(7, "b")).unwrap();
        journal.add(exit(8, "old")).unwrap();
        journal.sync().unwrap();
        // A crash in the middle of a line.
        OpenOptions::new().append(true).open(&path).unwrap().write_all(b"{\"identity\":{").unwrap();
        let mut journal = Journal::open(path.clone(), "b").unwrap();
        assert_eq!(journal.find(&exit(7, "b").identity), Some(&exit(7, "b")));
        assert_eq!(journal.find(&exit(8, "old").identity), None);
        let other = Identity { pidfs_id: Some(99), ..exit(7, "b").identity };
        assert_eq!(journal.find(&other), None, "the same number, another process");
        journal.add(exit(9, "b")).unwrap();
        let journal = Journal::open(path.clone(), "b").unwrap();
        assert!(journal.find(&exit(9, "b").identity).is_some(), "a cut line swallows nothing after it");
        fs::remove_dir_all(path.parent().unwrap()).unwrap();
    }

    #[test]
    fn it_is_bounded_in_memory_and_on_disk() {
        let path = path("bounded");
        let mut journal = Journal::open(path.clone(), "b").unwrap();
        let most = u32::try_from(3 * KEPT).unwrap();
        for pid in 0..most {
            journal.add(exit(pid, "b")).unwrap();
        }
        assert_eq!(journal.exits.len(), KEPT);
        assert!(journal.find(&exit(0, "b").identity).is_none());
        assert!(journal.find(&exit(most - 1, "b").identity).is_some());
        let lines = fs::read_to_string(&path).unwrap().lines().count();
        assert!(lines <= 2 * KEPT, "{lines}");
        fs::remove_dir_all(path.parent().unwrap()).unwrap();
    }
}
