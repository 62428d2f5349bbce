//! Why a process could not be started.

use std::io;
use std::path::PathBuf;

use formic_core::InstanceId;

use crate::disk::FileError;
use crate::launch::InvalidLaunch;
use crate::trampoline::Step;

/// A process could not be started. Nothing of it runs, and no record of it is left.
#[derive(Debug, thiserror::Error)]
pub enum SpawnError {
    /// The launch is faulty.
    #[error(transparent)]
    Invalid(#[from] InvalidLaunch),
    /// An instance of this id is there already.
    #[error("start {0}: there is an instance of this id already")]
    Duplicate(InstanceId),
    /// A log or record could not be written.
    #[error(transparent)]
    File(#[from] FileError),
    /// The caller did not permit it, for this reason.
    #[error("{0}")]
    Withheld(String),
    /// The program could not be executed. Trying again will not help until something is changed.
    #[error("{} {}", match step { Step::Prepare => "prepare", Step::Limits => "set the limits of", Step::User => "change to the user of", Step::Chdir => "enter the directory", Step::Exec => "execute" }, path.display())]
    Exec {
        /// What failed.
        step: Step,
        /// The program; for [`Step::Chdir`] the directory.
        path: PathBuf,
        /// What the system said, with its errno.
        #[source]
        source: io::Error,
    },
    /// The system gave no process, descriptor or memory, or the trampoline is not there.
    #[error("start a process by {}", trampoline.display())]
    Start {
        /// The binary that should have started it.
        trampoline: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The trampoline did not answer as one does.
    #[error("start a process: {} did not answer as a trampoline ({reason})", trampoline.display())]
    Handshake {
        /// The binary that should have been one.
        trampoline: PathBuf,
        /// What it did instead.
        reason: String,
    },
}

impl SpawnError {
    /// The errno of a failed execution.
    #[must_use]
    pub fn errno(&self) -> Option<i32> {
        match self {
            Self::Exec { source, .. } | Self::Start { source, .. } => source.raw_os_error(),
            _ => None,
        }
    }

    /// Whether the same launch may succeed later: resources were short, rather than the program wrong.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::File(FileError::DiskFull(_)) | Self::Withheld(_) | Self::Handshake { .. } => true,
            Self::File(FileError::Io { source, .. }) | Self::Start { source, .. } => is_shortage(source),
            Self::Exec { source, .. } => {
                is_shortage(source) || matches!(source.raw_os_error(), Some(libc::ETXTBSY | libc::EIO))
            }
            Self::Invalid(_) | Self::Duplicate(_) => false,
        }
    }
}

/// Whether the system had too little of what all share: descriptors, memory, processes.
fn is_shortage(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EAGAIN | libc::ENOMEM | libc::EMFILE | libc::ENFILE))
}
