//! Files that must survive a crash, and a full disk said in words.
//!
//! Every file operation of this crate ends here, so that "no space left" is one typed error with
//! advice instead of an errno in ten places.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, FileExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use rustix::fs::OFlags;

/// The disk that holds a file has no room left.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "write {}: the disk is full ({}): free some space on the disk that holds it and try again",
    path.display(),
    free.map_or_else(|| "free space unknown".to_owned(), |free| format!("{free} bytes are free"))
)]
pub struct DiskFull {
    /// The file that could not be written.
    pub path: PathBuf,
    /// Bytes still free there for this user, when that could be found out.
    pub free: Option<u64>,
}

/// A file could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// No room left, or no quota.
    #[error(transparent)]
    DiskFull(#[from] DiskFull),
    /// Anything else the system said.
    #[error("{action} {}", path.display())]
    Io {
        /// What was tried, as a verb.
        action: &'static str,
        /// On which file.
        path: PathBuf,
        /// The system's answer.
        #[source]
        source: io::Error,
    },
}

impl FileError {
    /// Whether there was no room.
    pub(crate) fn is_full(&self) -> bool {
        matches!(self, Self::DiskFull(_))
    }
}

/// How many bytes this user may still write to the disk that holds `path`.
///
/// # Errors
/// What `statvfs` answers, for example that nothing exists at `path`.
pub fn disk_free(path: impl AsRef<Path>) -> io::Result<u64> {
    let stat = rustix::fs::statvfs(path.as_ref())?;
    Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
}

/// Turns an error on `path` into words.
pub(crate) fn explain(action: &'static str, path: &Path, source: io::Error) -> FileError {
    let full = [rustix::io::Errno::NOSPC, rustix::io::Errno::DQUOT].map(|errno| Some(errno.raw_os_error()));
    if full.contains(&source.raw_os_error()) {
        let free = path.ancestors().find_map(|path| disk_free(path).ok());
        return DiskFull { path: path.to_owned(), free }.into();
    }
    FileError::Io { action, path: path.to_owned(), source }
}

/// Makes a directory, and those above it, for this user alone.
pub(crate) fn private_dir(path: &Path) -> Result<(), FileError> {
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .map_err(|source| explain("create", path, source))
}

/// Replaces a file in one step, with mode 0600: after a crash it holds the old content or the new, never a mix.
///
/// # Errors
/// If the file system refuses; then the old content stays.
pub fn replace(path: &Path, content: &[u8]) -> Result<(), FileError> {
    replace_with(path, |temporary| write(temporary, content)?.sync_all())?;
    path.parent().map_or(Ok(()), sync_dir)
}

/// What a file takes at least that must find room on a full disk: a block of most file systems.
const BLOCK: usize = 4096;

/// The same for a small file of JSON that is to be written on a full disk too. It always takes a whole block, and that one is
/// overwritten in place where there is no other: a crash of the machine may leave a mix then.
///
/// # Errors
/// If the file system refuses, or the disk is full and there was no such file.
pub(crate) fn replace_even_if_full(path: &Path, content: &[u8]) -> Result<(), FileError> {
    let mut block = content.to_vec();
    // Blanks after a JSON text mean nothing.
    block.resize(content.len().max(BLOCK), b' ');
    match replace(path, &block) {
        Err(FileError::DiskFull(full)) => overwrite(path, &block).map_err(|_| full.into()),
        done => done,
    }
}

/// Writes over the beginning of a file that is there.
fn overwrite(path: &Path, content: &[u8]) -> io::Result<()> {
    let flags = OFlags::NOFOLLOW.bits().cast_signed();
    let file = OpenOptions::new().write(true).custom_flags(flags).open(path)?;
    file.write_all_at(content, 0)?;
    // One that was longer would end in what was there before.
    file.set_len(content.len() as u64)?;
    file.sync_data()
}

/// The same for what means nothing after a crash of the machine, which may leave the old content, the new, half of it or
/// none. A crash of this process leaves the old or the new as well, and nobody waits for the disk.
pub(crate) fn replace_for_now(path: &Path, content: &[u8]) -> Result<(), FileError> {
    replace_with(path, |temporary| write(temporary, content).map(drop))
}

fn replace_with(path: &Path, write: impl FnOnce(&Path) -> io::Result<()>) -> Result<(), FileError> {
    let (Some(dir), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(explain("write", path, io::ErrorKind::InvalidInput.into()));
    };
    let mut temporary = TEMPORARY.to_owned();
    temporary.push_str(&name.to_string_lossy());
    let temporary = dir.join(temporary);
    let written = write(&temporary).and_then(|()| fs::rename(&temporary, path));
    if let Err(source) = written {
        // The first error is the one to tell; a leftover is removed by the next sweep.
        let _ = fs::remove_file(&temporary);
        return Err(explain("write", path, source));
    }
    Ok(())
}

/// What the names of half-written files begin with.
pub(crate) const TEMPORARY: &str = ".new-";

fn write(path: &Path, content: &[u8]) -> io::Result<File> {
    let mut file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .custom_flags(OFlags::NOFOLLOW.bits().cast_signed())
        .open(path)?;
    file.write_all(content)?;
    Ok(file)
}

/// No file of ours is nearly as long.
const MOST: u64 = 16 << 20;

/// Reads a file of ours. Who may write to our directory may have put something else in its place, and some of it is waited for
/// when it is opened (a pipe), or changed (a device): what is no plain file, or far too long, is [`io::ErrorKind::InvalidData`].
pub(crate) fn read_plain(path: &Path) -> io::Result<Vec<u8>> {
    let invalid = |what: &str| io::Error::new(io::ErrorKind::InvalidData, what);
    let not_plain = || invalid("it is no plain file");
    if !fs::symlink_metadata(path)?.is_file() {
        return Err(not_plain());
    }
    let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK;
    let file = OpenOptions::new().read(true).custom_flags(flags.bits().cast_signed()).open(path)?;
    // It may have been exchanged in between.
    if !file.metadata()?.is_file() {
        return Err(not_plain());
    }
    let mut content = Vec::new();
    file.take(MOST + 1).read_to_end(&mut content)?;
    if content.len() as u64 > MOST { Err(invalid("it is far too long")) } else { Ok(content) }
}

/// Removes a file, which a crash of the machine may bring back; one that is not there is no error.
pub(crate) fn remove(path: &Path) -> Result<(), FileError> {
    match fs::remove_file(path) {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(source) => Err(explain("remove", path, source)),
    }
}

/// Names are in the directory, so a rename is only safe once the directory is on disk.
pub(crate) fn sync_dir(dir: &Path) -> Result<(), FileError> {
    File::open(dir).and_then(|dir| dir.sync_all()).map_err(|source| explain("sync", dir, source))
}

/// Opens a log for appending, for this user alone. Two generations may append to one file.
pub(crate) fn open_log(path: &Path) -> Result<File, FileError> {
    if let Some(dir) = path.parent() {
        private_dir(dir)?;
    }
    OpenOptions::new()
        .append(true)
        .create(true)
        .mode(0o600)
        // A link planted in the log directory must not choose which file a service writes.
        .custom_flags(OFlags::NOFOLLOW.bits().cast_signed())
        .open(path)
        .map_err(|source| explain("open", path, source))
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]

    use super::*;

    #[test]
    fn a_full_disk_is_typed_and_says_what_to_do() {
        let path = Path::new("/dev/full");
        let mut file = OpenOptions::new().write(true).open(path).unwrap();
        let error = explain("write", path, file.write_all(b"x").unwrap_err());
        assert!(
            matches!(&error, FileError::DiskFull(full) if full.path == path && full.free.is_some()),
            "{error:?}"
        );
        assert!(error.to_string().contains("free some space"), "{error}");
    }

    #[test]
    fn a_small_file_keeps_its_block_and_is_written_over_where_there_is_no_other() {
        let dir = std::env::temp_dir().join(format!("formic-block-{}", std::process::id()));
        fs::create_dir_all(&dir).unwrap();
        let path = dir.join("file");
        replace_even_if_full(&path, b"[1]").unwrap();
        assert_eq!(fs::metadata(&path).unwrap().len(), BLOCK as u64);
        overwrite(&path, b"[2, 3]").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"[2, 3]");
        assert!(overwrite(&dir.join("none"), b"[]").is_err(), "nothing to write over");
        fs::remove_dir_all(dir).unwrap();
    }

    #[test]
    fn other_errors_keep_their_source() {
        let error = explain("open", Path::new("/nowhere"), io::Error::from_raw_os_error(2));
        assert!(matches!(error, FileError::Io { action: "open", .. }));
        assert_eq!(error.to_string(), "open /nowhere");
    }

    #[test]
    fn free_space_is_told_of_what_exists_only() {
        assert!(disk_free("/").is_ok());
        assert!(disk_free("/no/such/place").is_err());
    }
}
