//! Old output is given back to the disk while the instance goes on writing.
//!
//! An instance holds its log files itself, so nobody can rotate them under it: copying and cutting loses
//! what is written in between, and a reader in between would be a process that can die. A hole is punched
//! at the front instead: the file keeps its length, the writer and every reader keep their places, and the
//! blocks are free. Where the file system has no holes, the file grows until the instance is replaced.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{File, OpenOptions};
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

/// How much of the logs of running instances is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogLimits {
    /// The newest bytes of a file that are kept at least; a quarter more may be there.
    pub keep: u64,
    /// How often files are looked at.
    pub every: Duration,
}

/// With less room than this on the disk of the logs, nothing new would be started there, and programs are about to fail.
const SCARCE: u64 = 16 << 20;

/// What is kept of each file then. The last minutes of a program that talks much are worth less than what all others cannot write.
const KEPT_WHEN_SCARCE: u64 = 2 << 20;

impl Default for LogLimits {
    fn default() -> Self {
        // Two files, ten instances and ten services are 12 GiB at worst, and a look costs one `stat` a file.
        Self { keep: 64 << 20, every: Duration::from_secs(2) }
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

/// How much of the logs in a folder is kept at the moment.
fn keep_in(dir: &Path, limits: LogLimits) -> u64 {
    match disk::disk_free(dir) {
        Ok(free) if free < SCARCE => limits.keep.min(KEPT_WHEN_SCARCE),
        _ => limits.keep,
    }
}

impl Supervisor {
    /// Trims the logs of the instances that are not stopped yet, again and again until cancelled; the caller
    /// owns the task. Where the disk is nearly full, more is cut. An instance is never held up by it, and a file that cannot be trimmed is told once.
    pub async fn tend_logs(&self, limits: LogLimits, cancel: CancellationToken) {
        let mut told = BTreeSet::new();
        loop {
            // Cancel safe arms: neither holds anything.
            tokio::select! {
                () = cancel.cancelled() => return,
                () = tokio::time::sleep(limits.every) => {}
            }
            let mut files: Vec<_> =
                self.processes().iter().flat_map(|process| [process.stdout(), process.stderr()]).collect();
            files.sort_unstable();
            files.dedup();
            let trimmed = tokio::task::spawn_blocking(move || {
                let mut keep = BTreeMap::new();
                let mut trim = |file: &Path| {
                    let dir = file.parent().unwrap_or(file);
                    let keep = *keep.entry(dir.to_owned()).or_insert_with(|| keep_in(dir, limits));
                    trim_log(file, keep)
                };
                let trimmed: Vec<_> = files.into_iter().map(|file| (trim(&file), file)).collect();
                let scarce: BTreeSet<PathBuf> =
                    keep.into_iter().filter(|(_, keep)| *keep < limits.keep).map(|(dir, _)| dir).collect();
                (trimmed, scarce)
            });
            // A blocking task that fails has panicked, which it tells itself; the next turn tries again.
            let (trimmed, short) = trimmed.await.unwrap_or_default();
            for dir in short {
                if told.insert(dir.clone()) {
                    let kept = limits.keep.min(KEPT_WHEN_SCARCE);
                    tracing::warn!(dir = %dir.display(), kept, "the disk is nearly full: less is kept of each log");
                }
            }
            for (outcome, file) in trimmed {
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

    use std::fs;
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
    fn less_is_kept_where_the_disk_is_nearly_full() {
        let limits = LogLimits::default();
        // It says so of itself: nothing is ever free there.
        assert_eq!(disk::disk_free("/proc").unwrap(), 0);
        assert_eq!(keep_in(Path::new("/proc"), limits), KEPT_WHEN_SCARCE);
        assert_eq!(keep_in(Path::new("/proc"), LogLimits { keep: 5, ..limits }), 5);
        assert_eq!(keep_in(Path::new("/no/such/folder"), limits), limits.keep);
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
