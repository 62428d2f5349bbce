//! Secrets on their way to instances: from the engine's state to files that only their user can read, in a folder
//! of each instance's own, in memory where the machine has such a folder.
//!
//! A value is nowhere else: what is written down, shown or logged of an instance has names and versions. The
//! files go when the instance is gone, and with the last of them the folder; what an engine that died has left goes when the
//! next one begins, of whichever application where its own is gone ([`left`]).
//!
//! Refused: `memfd`s instead of files (a program would have to be told a number, and a language that opens a path
//! would need `/proc`); one folder for all instances (a version that goes would go for those that still have it).

mod left;

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::fs;
use std::io::{self, Write as _};
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt, lchown};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use formic_state::{Secret, State};
use formic_supervise::Account;
use serde::{Deserialize, Serialize};

/// The variable that says where an instance's secrets are.
pub(crate) const DIR_ENV: &str = "FORMIC_SECRETS_DIR";

/// The mode of the folder of all instances once one of them has another user than the engine's.
const PASSED: u32 = 0o711;

/// A secret that an instance is given, by the name of its file: which, and not what.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Given {
    /// Its name among the engine's secrets.
    pub secret: String,
    /// Which version of it.
    pub version: u64,
    /// The variable that has its value too.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub env: Option<String>,
}

/// What hands secrets to instances.
#[derive(Clone, Debug)]
pub struct Secrets {
    state: Arc<State>,
    root: PathBuf,
    /// The folder of the application's state, whose the secrets are.
    of: PathBuf,
    /// Held while the folder of all instances is made or removed, so that none is made in one that is gone, or that is
    /// another's by then.
    making: Arc<Mutex<()>>,
}

/// An instance cannot have its secrets.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error(
        "version {version} of the secret {secret} is not kept any more; `formic secret set {secret}` sets it anew"
    )]
    Missing { secret: String, version: u64 },
    #[error("the secret {secret} cannot be the variable {variable}: it holds a NUL byte")]
    Nul { secret: String, variable: String },
    #[error("the secrets cannot be read")]
    State(#[from] formic_state::Error),
    #[error("the secrets cannot be written to {}", folder.display())]
    Io {
        folder: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("this engine has no secrets")]
    None,
}

impl Secrets {
    /// Takes a folder for the files, which nobody else may be able to look into; what is in it is of an engine
    /// that died. It is there only while something is in it. `of` is the folder whose the state is.
    ///
    /// # Errors
    /// It cannot be made, it is not a folder of this user's own, or the system refuses.
    pub fn new(state: Arc<State>, root: impl Into<PathBuf>, of: impl Into<PathBuf>) -> io::Result<Self> {
        let secrets = Self { state, root: root.into(), of: of.into(), making: Arc::default() };
        secrets.open()?;
        secrets.close();
        Ok(secrets)
    }

    /// Removes what engines that were killed have left in a folder of many, of applications whose folder is gone. `prefix`
    /// is what the names of such folders begin with, of this user's.
    pub fn sweep_left(base: &Path, prefix: &str) {
        left::sweep(base, prefix);
    }

    /// Makes the folder, if it is not there.
    fn open(&self) -> io::Result<()> {
        fs::DirBuilder::new().recursive(true).mode(0o700).create(&self.root)?;
        // Others can make names where all may, as in /dev/shm.
        let found = fs::symlink_metadata(&self.root)?;
        let own = fs::metadata("/proc/self")?.uid();
        if !found.is_dir() || found.uid() != own {
            return Err(io::Error::new(io::ErrorKind::PermissionDenied, "it belongs to somebody else"));
        }
        // What an engine before this one has handed to other users is theirs still.
        let mode = if found.mode() & 0o7777 == PASSED { PASSED } else { 0o700 };
        fs::set_permissions(&self.root, fs::Permissions::from_mode(mode))
    }

    /// Where the secrets are kept.
    #[must_use]
    pub fn state(&self) -> &Arc<State> {
        &self.state
    }

    /// Removes the files of all instances but these.
    pub fn sweep(&self, live: &BTreeSet<String>) {
        for entry in fs::read_dir(&self.root).into_iter().flatten().flatten() {
            if entry.file_name().to_str().is_none_or(|name| !live.contains(name) && name != left::OWNER) {
                remove(&entry.path());
            }
        }
        self.close();
    }

    /// Removes the folder itself, when no instance has anything in it.
    fn close(&self) {
        let _making = self.making.lock().unwrap_or_else(PoisonError::into_inner);
        let entries = fs::read_dir(&self.root).into_iter().flatten().flatten();
        if entries.into_iter().all(|entry| entry.file_name() == left::OWNER) {
            let _ = fs::remove_file(self.root.join(left::OWNER));
            let _ = fs::remove_dir(&self.root);
        }
    }

    /// Writes an instance's files, and gives the variables that tell of them.
    pub(crate) fn deliver(
        &self,
        instance: &str,
        given: &BTreeMap<String, Given>,
        user: Option<&Account>,
    ) -> Result<BTreeMap<String, OsString>, Error> {
        let folder = self.root.join(instance);
        let delivered = self.write(&folder, given).and_then(|env| {
            let handed = user.map_or(Ok(()), |user| self.hand_over(&folder, user));
            handed.map(|()| env).map_err(|source| Error::Io { folder: folder.clone(), source })
        });
        if delivered.is_err() {
            self.take_back(instance);
        }
        delivered
    }

    fn write(
        &self,
        folder: &Path,
        given: &BTreeMap<String, Given>,
    ) -> Result<BTreeMap<String, OsString>, Error> {
        let io = |source| Error::Io { folder: folder.to_owned(), source };
        {
            let _making = self.making.lock().unwrap_or_else(PoisonError::into_inner);
            self.open().and_then(|()| left::note(&self.root, &self.of)).map_err(io)?;
            fs::DirBuilder::new().recursive(true).mode(0o700).create(folder).map_err(io)?;
        }
        let mut env = BTreeMap::from([(DIR_ENV.to_owned(), folder.as_os_str().to_owned())]);
        for (file, Given { secret, version, env: variable }) in given {
            let (name, version) = (secret.clone(), *version);
            let found = self.state.secret(secret, Some(version))?;
            let (_, value) = found.ok_or(Error::Missing { secret: name, version })?;
            put(&folder.join(file), &value).map_err(io)?;
            if let Some(variable) = variable {
                if value.expose().contains(&0) {
                    return Err(Error::Nul { secret: secret.clone(), variable: variable.clone() });
                }
                env.insert(variable.clone(), OsString::from_vec(value.expose().to_vec()));
            }
        }
        Ok(env)
    }

    /// Makes an instance's files its user's.
    fn hand_over(&self, folder: &Path, user: &Account) -> io::Result<()> {
        for entry in fs::read_dir(folder)? {
            lchown(entry?.path(), Some(user.uid), Some(user.gid))?;
        }
        lchown(folder, Some(user.uid), Some(user.gid))?;
        // Through, and not to see whose folders are there.
        fs::set_permissions(&self.root, fs::Permissions::from_mode(PASSED))
    }

    /// Removes an instance's files.
    pub(crate) fn take_back(&self, instance: &str) {
        remove(&self.root.join(instance));
        self.close();
    }
}

fn put(path: &Path, value: &Secret) -> io::Result<()> {
    let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(0o400).open(path)?;
    file.write_all(value.expose())
}

fn remove(folder: &Path) {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            tracing::warn!(folder = %folder.display(), %error, "the files of secrets cannot be removed");
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]

    use super::*;

    struct Folder(PathBuf);

    impl Drop for Folder {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    fn secrets(name: &str) -> (Secrets, Folder) {
        let folder = std::env::temp_dir().join(format!("formic-secrets-{name}-{}", std::process::id()));
        let state = State::in_memory().unwrap();
        let mut write = state.write().unwrap();
        for value in ["one", "two"] {
            write.set_secret("password", &Secret::new(value), 1).unwrap();
        }
        write.set_secret("binary", &Secret::new([0, 1]), 1).unwrap();
        write.commit().unwrap();
        let secrets = Secrets::new(Arc::new(state), &folder, std::env::temp_dir()).unwrap();
        assert!(!folder.exists(), "nobody has any");
        (secrets, Folder(folder))
    }

    fn given(secret: &str, version: u64, env: Option<&str>) -> BTreeMap<String, Given> {
        let given = Given { secret: secret.into(), version, env: env.map(Into::into) };
        BTreeMap::from([("db".to_owned(), given)])
    }

    #[test]
    fn each_instance_has_its_version_in_a_file_that_its_user_alone_can_read() {
        let (secrets, folder) = secrets("deliver");
        let env = secrets.deliver("order-1", &given("password", 1, None), None).unwrap();
        secrets.deliver("order-2", &given("password", 2, Some("PASSWORD")), None).unwrap();
        let dir = PathBuf::from(&env[DIR_ENV]);
        assert_eq!((env.len(), dir.parent()), (1, Some(folder.0.as_path())));
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o7777;
        assert_eq!((mode(&dir.join("db")), mode(&dir), mode(&folder.0)), (0o400, 0o700, 0o700));
        let read = |instance: &str| fs::read_to_string(folder.0.join(instance).join("db"));
        assert_eq!((read("order-1").unwrap(), read("order-2").unwrap()), ("one".into(), "two".into()));
        secrets.take_back("order-1");
        assert!(read("order-1").is_err() && read("order-2").is_ok());
        secrets.deliver("order-3", &given("password", 1, None), None).unwrap();
        secrets.sweep(&BTreeSet::from(["order-3".to_owned()]));
        assert!(read("order-2").is_err() && read("order-3").is_ok());
        secrets.take_back("order-3");
        assert!(!folder.0.exists(), "with the last of them goes the folder");
    }

    #[test]
    fn what_cannot_be_handed_over_leaves_nothing_behind() {
        let (secrets, folder) = secrets("missing");
        let missing = secrets.deliver("order-1", &given("password", 3, None), None).unwrap_err();
        assert!(missing.to_string().contains("version 3 of the secret password"), "{missing}");
        let variable = secrets.deliver("order-1", &given("password", 2, Some("P")), None).unwrap();
        assert_eq!(variable["P"], "two");
        secrets.take_back("order-1");
        assert!(secrets.deliver("order-1", &given("binary", 1, Some("B")), None).is_err());
        assert!(!folder.0.exists());
        fs::create_dir(&folder.0).unwrap();
        // A name that is somebody else's plan.
        let link = folder.0.join("link");
        std::os::unix::fs::symlink(std::env::temp_dir(), &link).unwrap();
        assert!(Secrets::new(Arc::clone(secrets.state()), &link, &folder.0).is_err());
    }
}
