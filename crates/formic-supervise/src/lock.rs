//! One engine per application: a locked file that says who holds it.
//!
//! The kernel's lock decides and ends with its holder, however that dies, so a file that was left
//! behind is no obstacle. What is written inside is for people only.

use std::fs::{File, OpenOptions};
use std::io::{Read as _, Seek as _, Write as _};
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, OFlags, flock};
use rustix::io::{Errno, FdFlags};
use rustix::process::Signal;

use crate::disk::{self, FileError};
use crate::features::Features;
use crate::identity::{Identity, Proof, boot_id};
use crate::pidfd::PidFd;

/// The lock, held until this is dropped.
#[derive(Debug)]
pub struct Lock {
    file: File,
    path: PathBuf,
}

/// The lock could not be had.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// Another engine has it.
    #[error(
        "lock {}: it is held by {}",
        path.display(),
        pid.map_or_else(|| "another process".to_owned(), |pid| format!("process {pid}"))
    )]
    Held {
        /// The lock file.
        path: PathBuf,
        /// Who holds it, if the file says so and that process still runs.
        pid: Option<u32>,
    },
    /// The file could not be opened, locked or written.
    #[error(transparent)]
    File(#[from] FileError),
}

impl Lock {
    /// Takes the lock at once or says who has it. The file is made if need be, and stays.
    ///
    /// # Errors
    /// If another holds it, or the file system refuses.
    pub fn acquire(path: impl Into<PathBuf>, features: &Features) -> Result<Self, LockError> {
        let path = path.into();
        if let Some(dir) = path.parent().filter(|dir| !dir.as_os_str().is_empty()) {
            disk::private_dir(dir)?;
        }
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .custom_flags(OFlags::NOFOLLOW.bits().cast_signed())
            .open(&path)
            .map_err(|source| disk::explain("open", &path, source))?;
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(Errno::WOULDBLOCK) => {
                let pid = holder(&mut file, features);
                return Err(LockError::Held { path, pid });
            }
            Err(error) => return Err(disk::explain("lock", &path, error.into()).into()),
        }
        let written = Identity::own(features).and_then(|own| {
            let own = serde_json::to_vec(&own)?;
            file.rewind()?;
            // In place, and cut only then: on a full disk the room that is given back is another's at once.
            file.write_all(&own)?;
            file.set_len(own.len() as u64)?;
            file.sync_all()
        });
        match written.map_err(|source| disk::explain("write", &path, source)) {
            // The lock is had, and whoever cannot start on a full disk cannot make room on it.
            Err(error) if error.is_full() => {
                let _ = file.set_len(0);
            }
            done => done?,
        }
        Ok(Self { file, path })
    }

    /// Asks the holder of a lock to end, as `kill` does, if the file proves who that is; its number.
    ///
    /// # Errors
    /// The system refuses.
    pub fn end_holder(path: &Path, features: &Features) -> std::io::Result<Option<u32>> {
        let mut file =
            OpenOptions::new().read(true).custom_flags(OFlags::NOFOLLOW.bits().cast_signed()).open(path)?;
        // Nobody holds what can be had.
        if flock(&file, FlockOperation::NonBlockingLockShared).is_ok() {
            return Ok(None);
        }
        let Some(pidfd) = holding(&mut file, features) else { return Ok(None) };
        pidfd.signal(Signal::TERM)?;
        Ok(Some(pidfd.pid()))
    }

    /// The lock that an earlier image of this process took and left open over an exec.
    pub(crate) fn inherited(file: OwnedFd, path: PathBuf) -> Self {
        Self { file: file.into(), path }
    }

    /// Whether it is to survive an exec, and its number.
    pub(crate) fn inherit(&self, inherit: bool) -> std::io::Result<i32> {
        let flags = if inherit { FdFlags::empty() } else { FdFlags::CLOEXEC };
        rustix::io::fcntl_setfd(&self.file, flags)?;
        Ok(self.file.as_raw_fd())
    }

    /// The lock file.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        // The file stays: were it removed, one engine could lock the old file and another a new one.
        // Emptied, so that it names nobody. Closing it gives the lock back whatever happens here.
        let _ = self.file.set_len(0);
    }
}

fn holder(file: &mut File, features: &Features) -> Option<u32> {
    holding(file, features).map(|pidfd| pidfd.pid())
}

fn holding(file: &mut File, features: &Features) -> Option<PidFd> {
    let mut content = String::new();
    // An identity is some hundred bytes; more is not ours.
    file.take(4096).read_to_string(&mut content).ok()?;
    let identity: Identity = serde_json::from_str(&content).ok()?;
    match identity.prove(&boot_id().ok()?, features).ok()? {
        Proof::Proven(pidfd) | Proof::Likely(pidfd) => Some(pidfd),
        Proof::Other | Proof::Gone | Proof::OtherBoot => None,
    }
}
