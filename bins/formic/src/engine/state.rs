//! The folder of state beside the manifest: `.formic/`, private, ignoring itself in git.

use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use crate::app::{LOCK, SOCKET, STATE};
use crate::exit::{Failure, Outcome};

/// The places within `.formic/`.
#[derive(Clone, Debug)]
pub(crate) struct State(PathBuf);

/// The folders in it that must be the engine's own: what is in them is run, read and written with its rights.
const OWN: [&str; 7] = ["", "artifacts", "data", "keeper", "logs", "run", DATABASE];

/// Where the engine's state is in it.
pub(crate) const DATABASE: &str = "state";

/// Starting with less free space than this ends in half-written databases.
const MIN_FREE: u64 = 16 << 20;

impl State {
    /// Makes the folder, or takes it as it is where it is this user's own, with mode 0700; with 0711 if instances of other users pass through it.
    pub(crate) fn open(folder: &Path) -> Outcome<Self> {
        Self::taken_over(folder)?.with_room()
    }

    /// The same for a server, which may be one that goes on.
    pub(crate) fn of_server(folder: &Path) -> Outcome<Self> {
        let state = Self::taken_over(folder)?;
        let records = |entry: std::fs::DirEntry| entry.path().extension().is_some_and(|end| end == "json");
        if std::fs::read_dir(state.run())
            .is_ok_and(|mut entries| entries.any(|entry| entry.is_ok_and(records)))
        {
            return Ok(state);
        }
        state.with_room()
    }

    fn with_room(self) -> Outcome<Self> {
        if let Ok(free) = formic_supervise::disk_free(&self.0)
            && free < MIN_FREE
        {
            return Err(Failure::user(format!(
                "only {} KiB are free where {} is; services could not keep their data",
                free / 1024,
                self.0.display()
            ))
            .help("free at least 16 MiB and try again"));
        }
        Ok(self)
    }

    /// The same for one who goes on with what runs, however full the disk is: what fills it is stopped, and cut, by nobody else.
    pub(crate) fn taken_over(folder: &Path) -> Outcome<Self> {
        let state = Self(folder.join(STATE));
        let failed = |error: io::Error| {
            let failure = Failure::user(format!("cannot keep state in {}", state.0.display()));
            let failure = match error.kind() {
                io::ErrorKind::StorageFull => failure.help("the disk is full: free some space and try again"),
                io::ErrorKind::PermissionDenied => {
                    failure.help("the folder of the manifest must be writable")
                }
                io::ErrorKind::AlreadyExists | io::ErrorKind::NotADirectory => {
                    let other = state.folders().into_iter().find(|dir| dir.exists() && !dir.is_dir());
                    let other = other.unwrap_or_else(|| state.0.clone());
                    failure.help(format!(
                        "{} must be a folder: look what it is, and move it away",
                        other.display()
                    ))
                }
                _ => failure,
            };
            failure.because(error)
        };
        let make = || -> io::Result<()> {
            for dir in state.folders() {
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
        // Before anything is written into it.
        own(&state.0)?;
        make().map_err(failed)?;
        Ok(state)
    }

    /// The folders that must be there.
    fn folders(&self) -> [PathBuf; 5] {
        [self.0.clone(), self.logs(), self.data(), self.run(), self.artifacts()]
    }

    /// The folder itself.
    pub(crate) fn folder(&self) -> &Path {
        &self.0
    }

    /// The engine's state: the secrets, and what a server wants.
    pub(crate) fn database(&self) -> PathBuf {
        self.0.join(DATABASE)
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

/// Refuses folders that another user may exchange, or has. A link counts as what it leads to, if it is the user's own too.
fn own(state: &Path) -> Outcome {
    let user = rustix::process::geteuid().as_raw();
    for dir in OWN.map(|name| if name.is_empty() { state.to_path_buf() } else { state.join(name) }) {
        let Ok(there) = std::fs::symlink_metadata(&dir) else { continue };
        let behind = std::fs::metadata(&dir).map_or(user, |behind| behind.uid());
        if let Some(other) = [there.uid(), behind].into_iter().find(|uid| *uid != user) {
            let text = format!("{} belongs to user {other}, and this is user {user}", dir.display());
            return Err(Failure::user(text).help(format!(
                "what is in there is run and written as user {user}: run this as the other user, or look what it is and remove it or \
                 make it your own, as by `chown -R {user} {}`",
                state.display()
            )));
        }
    }
    Ok(())
}
