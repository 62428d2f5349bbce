//! The folder of state beside the manifest: `.formic/`, private, ignoring itself in git.

use std::io;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use crate::app::{LOCK, SOCKET, STATE};
use crate::exit::{Failure, Outcome};

/// The places within `.formic/`.
#[derive(Clone, Debug)]
pub(crate) struct State(PathBuf);

/// Starting with less free space than this ends in half-written databases.
const MIN_FREE: u64 = 16 << 20;

impl State {
    /// Makes the folder, or takes it as it is, with mode 0700; with 0711 if instances of other users pass through it.
    pub(crate) fn open(folder: &Path) -> Outcome<Self> {
        let state = Self(folder.join(STATE));
        let failed = |error: io::Error| {
            let failure = Failure::user(format!("cannot keep state in {}", state.0.display()));
            let failure = match error.kind() {
                io::ErrorKind::StorageFull => failure.help("the disk is full: free some space and try again"),
                io::ErrorKind::PermissionDenied => {
                    failure.help("the folder of the manifest must be writable")
                }
                _ => failure,
            };
            failure.because(error)
        };
        let make = || -> io::Result<()> {
            for dir in [state.0.clone(), state.logs(), state.data(), state.run(), state.artifacts()] {
                std::fs::DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
            }
            // It may have been there with other eyes on it.
            let passed = std::fs::metadata(&state.0)?.permissions().mode() & 0o7777 == 0o711;
            let mode = if passed { 0o711 } else { 0o700 };
            std::fs::set_permissions(&state.0, std::fs::Permissions::from_mode(mode))?;
            let ignore = state.0.join(".gitignore");
            if !ignore.exists() {
                let mut file = std::fs::OpenOptions::new()
                    .write(true)
                    .create(true)
                    .truncate(true)
                    .mode(0o600)
                    .open(ignore)?;
                io::Write::write_all(&mut file, b"*\n")?;
            }
            Ok(())
        };
        make().map_err(failed)?;
        if let Ok(free) = formic_supervise::disk_free(&state.0)
            && free < MIN_FREE
        {
            return Err(Failure::user(format!(
                "only {} KiB are free where {} is; services could not keep their data",
                free / 1024,
                state.0.display()
            ))
            .help("free at least 16 MiB and try again"));
        }
        Ok(state)
    }

    /// The folder itself.
    pub(crate) fn folder(&self) -> &Path {
        &self.0
    }

    /// The engine's state: the secrets, and what a server wants.
    pub(crate) fn database(&self) -> PathBuf {
        self.0.join("state")
    }

    pub(crate) fn lock(&self) -> PathBuf {
        self.0.join(LOCK)
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.0.join(SOCKET)
    }

    pub(crate) fn logs(&self) -> PathBuf {
        self.0.join("logs")
    }

    pub(crate) fn data(&self) -> PathBuf {
        self.0.join("data")
    }

    pub(crate) fn artifacts(&self) -> PathBuf {
        self.0.join("artifacts")
    }

    /// Where instances find secrets on a machine without a folder in memory.
    pub(crate) fn secrets(&self) -> PathBuf {
        self.0.join("secrets")
    }

    pub(crate) fn run(&self) -> PathBuf {
        self.0.join("run")
    }
}
