//! Old output is given back to the disk while the instance goes on writing.
//!
//! An instance holds its log files itself, so nobody can rotate them under it: copying and cutting loses
//! what is written in between, and a reader in between would be a process that can die. A hole is punched
//! at the front instead: the file keeps its length, the writer and every reader keep their places, and the
//! blocks are free. Where the file system has no holes, the file grows until the instance is replaced.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs::{self, File, FileType, OpenOptions};
use std::io;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::{FallocateFlags, OFlags, SeekFrom, fallocate};
use rustix::io::Errno;
use tokio_util::sync::CancellationToken;

use crate::disk::{self, FileError};
use crate::failpoint;
use crate::supervisor::Supervisor;

/// How much of the logs of instances is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogLimits {
    /// The newest bytes of a running instance's file that are kept at least; a quarter more may be there.
    pub keep: u64,
    /// With fewer free bytes than this on the disk of the logs, less is kept of each, those of ended instances included.
    pub scarce: u64,
    /// How often files are looked at.
    pub every: Duration,
}

/// With less room than this, nothing new would be started there, and programs are about to fail.
const SCARCE: u64 = 16 << 20;

/// What is kept of each file then. The last minutes of a program that talks much are worth less than what all others cannot write.
const KEPT_WHEN_SCARCE: u64 = 2 << 20;

impl Default for LogLimits {
    fn default() -> Self {
        // Two files, ten instances and ten services are 12 GiB at worst, and a look costs one `stat` a file.
        Self { keep: 64 << 20, scarce: SCARCE, every: Duration::from_secs(2) }
    }
}

/// What trimming a file did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Trimmed {
    /// It is within its limit.
    Kept,
    /// What was before this place is gone.
    Cut {
        /// Where the file begins now. Most likely in the middle of a line.
        begins: u64,
    },
    /// This file system has no holes.
    Unsupported,
}

/// Frees what is older than the last `keep` bytes of a log, if it has a quarter more than that. The file's
/// length and every offset in it stay; what is gone reads as zeroes, see [`log_begins`].
///
/// # Errors
/// If the file cannot be opened or changed.
pub fn trim_log(path: &Path, keep: u64) -> Result<Trimmed, FileError> {
    let failed = |source| disk::explain("trim", path, source);
    let file = OpenOptions::new()
        .write(true)
        // A link planted in the log directory must not choose which file is emptied.
        .custom_flags((OFlags::NOFOLLOW | OFlags::NONBLOCK).bits().cast_signed())
        .open(path)
        .map_err(failed)?;
    let about = file.metadata().map_err(failed)?;
    // The kernel counts blocks of 512 bytes, whatever the file system's are.
    if !about.is_file() || about.blocks().saturating_mul(512) <= keep.saturating_add(keep / 4) {
        return Ok(Trimmed::Kept);
    }
    let begins = about.len().saturating_sub(keep);
    let begins = begins - begins % about.blksize().max(1);
    if begins == 0 {
        return Ok(Trimmed::Kept);
    }
    failpoint::hit("log.punch.before");
    let punched = fallocate(&file, FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE, 0, begins);
    failpoint::hit("log.punch.after");
    match punched {
        Ok(()) => Ok(Trimmed::Cut { begins }),
        Err(Errno::OPNOTSUPP | Errno::NOSYS) => Ok(Trimmed::Unsupported),
        Err(error) => Err(failed(error.into())),
    }
}

/// Where a log that may have been trimmed begins, at or after a place. A reader that is behind it goes on
/// there, and behind the end of that line.
///
/// # Errors
/// If the file cannot be asked.
pub fn log_begins(file: &File, after: u64) -> io::Result<u64> {
    // The place of a file is shared with its copies: put back, for those who read on from it.
    let place = rustix::fs::tell(file)?;
    let found = match rustix::fs::seek(file, SeekFrom::Data(after)) {
        Ok(found) => Ok(found),
        // Nothing but a hole up to the end, or at the end already.
        Err(Errno::NXIO) => Ok(file.metadata()?.len().max(after)),
        // A file system that knows no holes has none.
        Err(Errno::INVAL | Errno::OPNOTSUPP) => Ok(after),
        Err(error) => Err(error.into()),
    };
    rustix::fs::seek(file, SeekFrom::Start(place))?;
    found
}

/// Whether the disk of a folder is nearly full. Where nobody can say, it is not.
fn is_scarce(dir: &Path, limits: LogLimits) -> bool {
    disk::disk_free(dir).is_ok_and(|free| free < limits.scarce)
}

/// What is of this kind in a folder, links not followed; nothing if it cannot be read.
fn entries(dir: &Path, is_kind: impl Fn(&FileType) -> bool) -> impl Iterator<Item = PathBuf> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    entries.filter(move |entry| entry.file_type().is_ok_and(|kind| is_kind(&kind))).map(|entry| entry.path())
}

/// Whether a file has the name of an instance's log. What people keep beside it is theirs.
fn is_log(file: &Path) -> bool {
    let name = file.file_name().and_then(OsStr::to_str);
    name.is_some_and(|name| name.ends_with(".out.log") || name.ends_with(".err.log"))
}

/// What one look at the logs did.
#[derive(Debug, Default)]
struct Look {
    trimmed: Vec<(PathBuf, Result<Trimmed, FileError>)>,
    /// The folders whose disk is nearly full.
    short: BTreeSet<PathBuf>,
}

impl Look {
    /// Trims these files, and where the disk is nearly full all logs of instances beside them and in the folders under `dir`: what
    /// has ended does not give its room back by itself, and may be what fills the disk.
    fn take(dir: &Path, mut files: BTreeSet<PathBuf>, limits: LogLimits) -> Self {
        let mut folders: BTreeSet<PathBuf> =
            files.iter().filter_map(|file| Some(file.parent()?.to_owned())).collect();
        folders.extend(entries(dir, FileType::is_dir));
        let short: BTreeSet<PathBuf> =
            folders.into_iter().filter(|folder| is_scarce(folder, limits)).collect();
        let beside = short.iter().flat_map(|folder| entries(folder, FileType::is_file));
        files.extend(beside.filter(|file| is_log(file)));
        let keep = |file: &Path| match file.parent() {
            Some(folder) if short.contains(folder) => limits.keep.min(KEPT_WHEN_SCARCE),
            _ => limits.keep,
        };
        let trimmed = files.into_iter().map(|file| (trim_log(&file, keep(&file)), file));
        let trimmed = trimmed.map(|(outcome, file)| (file, outcome)).collect();
        Self { trimmed, short }
    }
}

impl Supervisor {
    /// Trims the logs of the instances that are not stopped yet, again and again until cancelled; the caller
    /// owns the task. Where the disk is nearly full, more is cut, and the logs of those that have ended as well: `dir` has a
    /// folder for the logs of each service. An instance is never held up by it, and a file that cannot be trimmed is told once.
    pub async fn tend_logs(&self, dir: impl Into<PathBuf>, limits: LogLimits, cancel: CancellationToken) {
        let dir = dir.into();
        let mut told = BTreeSet::new();
        loop {
            // Cancel safe arms: neither holds anything.
            tokio::select! {
                () = cancel.cancelled() => return,
                () = tokio::time::sleep(limits.every) => {}
            }
            let files =
                self.processes().iter().flat_map(|process| [process.stdout(), process.stderr()]).collect();
            let dir = dir.clone();
            let look = tokio::task::spawn_blocking(move || Look::take(&dir, files, limits));
            // A blocking task that fails has panicked, which it tells itself; the next turn tries again.
            let look = look.await.unwrap_or_default();
            let short: Vec<_> = look.short.into_iter().filter(|dir| told.insert(dir.clone())).collect();
            if !short.is_empty() {
                let kept = limits.keep.min(KEPT_WHEN_SCARCE);
                tracing::warn!(dirs = ?short, kept, "the disk is nearly full: less is kept of each log");
            }
            for (file, outcome) in look.trimmed {
                match outcome {
                    Ok(Trimmed::Kept | Trimmed::Cut { .. }) => {}
                    Ok(Trimmed::Unsupported) if told.insert(file.clone()) => {
                        tracing::warn!(file = %file.display(), "a log grows on: its file system cannot free the front of a file");
                    }
                    Err(error) if told.insert(file) => tracing::warn!(%error, "a log grows on"),
                    Ok(Trimmed::Unsupported) | Err(_) => {}
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]

    use std::io::Write as _;

    use super::*;

    #[test]
    fn the_front_is_freed_and_nothing_else_moves() {
        let path = std::env::temp_dir().join(format!("formic-trim-{}.log", std::process::id()));
        let _ = fs::remove_file(&path);
        let mut writer = disk::open_log(&path).unwrap();
        let line = |number: u32| format!("{number:063}\n");
        for number in 0..32_768 {
            writer.write_all(line(number).as_bytes()).unwrap();
        }
        writer.sync_all().unwrap();
        assert_eq!(trim_log(&path, 8 << 20).unwrap(), Trimmed::Kept);
        let begins = match trim_log(&path, 256 << 10).unwrap() {
            Trimmed::Cut { begins } => begins,
            other => {
                assert_eq!(other, Trimmed::Unsupported);
                return fs::remove_file(path).unwrap();
            }
        };
        writer.write_all(line(32_768).as_bytes()).unwrap();
        let about = fs::metadata(&path).unwrap();
        assert_eq!(about.len(), 64 * 32_769, "the length stays and the writer goes on");
        assert!(about.blocks() * 512 < 512 << 10, "{} blocks", about.blocks());
        let content = fs::read(&path).unwrap();
        let at = usize::try_from(begins).unwrap();
        assert!(content[..at].iter().all(|byte| *byte == 0));
        let kept: String = (u32::try_from(at / 64).unwrap()..=32_768).map(line).collect();
        assert_eq!(&content[at..], kept.as_bytes(), "what is kept is whole");
        let file = File::open(&path).unwrap();
        assert_eq!(log_begins(&file, 0).unwrap(), begins);
        assert_eq!(log_begins(&file, begins + 5).unwrap(), begins + 5);
        assert_eq!(log_begins(&file, about.len()).unwrap(), about.len());
        fs::remove_file(path).unwrap();
    }

    #[test]
    fn a_disk_is_nearly_full_with_less_room_than_is_said() {
        let limits = LogLimits::default();
        // It says so of itself: nothing is ever free there.
        assert_eq!(disk::disk_free("/proc").unwrap(), 0);
        assert!(is_scarce(Path::new("/proc"), limits));
        assert!(!is_scarce(Path::new("/proc"), LogLimits { scarce: 0, ..limits }));
        assert!(!is_scarce(Path::new("/no/such/folder"), limits));
    }

    #[test]
    fn what_has_ended_is_trimmed_where_the_disk_is_nearly_full_and_nothing_else_is_touched() {
        let dir = std::env::temp_dir().join(format!("formic-trim-all-{}", std::process::id()));
        let _ = fs::remove_dir_all(&dir);
        let elsewhere = dir.with_extension("elsewhere");
        let _ = fs::remove_dir_all(&elsewhere);
        fs::create_dir_all(dir.join("flood")).unwrap();
        fs::create_dir_all(&elsewhere).unwrap();
        std::os::unix::fs::symlink(&elsewhere, dir.join("linked")).unwrap();
        let file = |name: &str| {
            let path = dir.join(name);
            fs::write(&path, vec![b'a'; 4 << 20]).unwrap();
            path
        };
        let ended = file("flood/a-1.out.log");
        // A person's copies and notes, what is no folder of a service, and what a link leads to.
        let others =
            ["flood/notes", "flood/incident.log", "flood/a-1.log", "b-1.out.log", "linked/c-1.out.log"];
        let others = others.map(file);
        std::os::unix::fs::symlink(&others[1], dir.join("flood/d-1.err.log")).unwrap();
        let held = |path: &Path| fs::metadata(path).unwrap().blocks() * 512;
        let look = |scarce| Look::take(&dir, BTreeSet::new(), LogLimits { scarce, ..LogLimits::default() });
        assert!(look(0).trimmed.is_empty() && held(&ended) >= 4 << 20);
        let look = look(u64::MAX);
        assert_eq!(look.short, BTreeSet::from([dir.join("flood")]));
        let [(path, Ok(outcome))] = &look.trimmed[..] else { panic!("{look:?}") };
        assert_eq!(*path, ended);
        if *outcome != Trimmed::Unsupported {
            assert!(held(&ended) <= 2 << 20, "{}", held(&ended));
        }
        for other in others {
            assert!(held(&other) >= 4 << 20, "{}", other.display());
        }
        fs::remove_dir_all(dir).unwrap();
        fs::remove_dir_all(elsewhere).unwrap();
    }

    #[test]
    fn what_is_no_log_is_left_alone() {
        assert_eq!(trim_log(Path::new("/dev/null"), 0).unwrap(), Trimmed::Kept);
        let link = std::env::temp_dir().join(format!("formic-trim-link-{}.log", std::process::id()));
        let _ = fs::remove_file(&link);
        std::os::unix::fs::symlink("/etc/passwd", &link).unwrap();
        assert!(trim_log(&link, 0).is_err());
        fs::remove_file(link).unwrap();
    }
}
