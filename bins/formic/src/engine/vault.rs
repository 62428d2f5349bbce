//! The secrets of an application: kept encrypted in `.formic/state`, handed to instances in memory.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use formic_plan::Service;
use formic_reconcile::{Given, Secrets, Start};
use formic_spec::{Manifest, Revision};
use formic_state::OpenError;

use super::state::State;
use crate::exit::{Failure, Outcome};

/// The state, and where instances find what they are given of it.
#[derive(Clone, Debug)]
pub(crate) struct Vault {
    pub(crate) secrets: Secrets,
    /// The machine has no folder in memory for them.
    on_disk: bool,
}

/// Opens the engine's state of a folder.
pub(crate) fn open(folder: &Path) -> Outcome<formic_state::State> {
    formic_state::State::open(folder).map_err(|error| {
        let failure = Failure::user("cannot open the engine's state");
        match error {
            OpenError::InUse { .. } => {
                failure.help("another command has it; try again, or stop the other engine").because(error)
            }
            error => match way_out(&error) {
                Some(what) => failure.help(what).because(error),
                None => failure.because(error),
            },
        }
    })
}

/// What to do about a state that does not become readable by itself.
pub(crate) fn way_out(error: &OpenError) -> Option<&'static str> {
    Some(match error {
        OpenError::Damaged { .. } => {
            "`formic server --set-aside-state` keeps the damaged file under another name and begins an empty one"
        }
        OpenError::Newer { .. } => {
            "use the newer release; or `formic server --set-aside-state` keeps that file under another name and begins an empty one"
        }
        OpenError::NotOurs { .. } => {
            "put the right file in its place; or `formic server --set-aside-state` keeps this one under another name and begins an empty one"
        }
        OpenError::KeyMissing { .. } | OpenError::KeyWrong { .. } => {
            "put the key back from a backup; or `formic server --set-aside-state` keeps what is there under other names and begins an empty state, without secrets and history"
        }
        OpenError::KeyExposed { .. } => {
            "`chmod 600` it if it is the right one; or `formic server --set-aside-state` keeps what is there under other names and begins an empty state, without secrets and history"
        }
        OpenError::KeyUnreadable { .. } => {
            "give it back to the engine's user, with mode 0600; or `formic server --set-aside-state` keeps what is there under other names and begins an empty state, without secrets and history"
        }
        _ => return None,
    })
}

impl Vault {
    /// Of an application's folder of state.
    pub(crate) fn of(state: &State, kept: Arc<formic_state::State>) -> Outcome<Self> {
        let prefix = format!("formic-{}-", rustix::process::geteuid().as_raw());
        let (name, of) = (format!("{prefix}{}", short(&state.database())), state.folder());
        for base in in_memory() {
            Secrets::sweep_left(&base, &prefix);
            // What others have put in its place, or what is full, is passed over.
            if let Ok(secrets) = Secrets::new(Arc::clone(&kept), base.join(&name), of) {
                return Ok(Self { secrets, on_disk: false });
            }
        }
        let secrets = Secrets::new(kept, state.secrets(), of);
        let failed = |error| Failure::user("cannot make a folder for secrets").because(error);
        Ok(Self { secrets: secrets.map_err(failed)?, on_disk: true })
    }

    /// The present version of each secret.
    pub(crate) fn versions(&self) -> Outcome<BTreeMap<String, u64>> {
        let kept = self.secrets.state().secrets();
        let kept = kept.map_err(|error| Failure::user("the secrets cannot be read").because(error))?;
        Ok(kept.into_iter().filter_map(|info| Some((info.name, *info.versions.last()?))).collect())
    }

    /// What nobody should take for granted.
    pub(crate) fn note(&self, manifest: &Manifest) -> Option<String> {
        let used = manifest.services.iter().any(|service| !service.secrets.is_empty());
        let note =
            "secrets are handed over in files on the disk: this machine has no folder in memory for them";
        (used && self.on_disk).then(|| note.to_owned())
    }

    /// The secrets of these services that are not kept any more, as `password 3`.
    pub(crate) fn lost(&self, services: &[Service]) -> Vec<String> {
        let given = services.iter().flat_map(given);
        let lost = |given: &Given| {
            let found = self.secrets.state().secret(&given.secret, Some(given.version));
            !matches!(found, Ok(Some(_)))
        };
        given.filter(lost).map(|given| format!("{} {}", given.secret, given.version)).collect()
    }
}

/// What a service is given.
pub(crate) fn given(service: &Service) -> Vec<Given> {
    let start: Result<Start, _> = serde_json::from_value(service.start.clone());
    start.map(|start| start.secrets.into_values().collect()).unwrap_or_default()
}

/// What the instances of a service of the manifest are given, with the present versions.
pub(crate) fn present(
    service: &formic_spec::Service,
    versions: &BTreeMap<String, u64>,
) -> Outcome<BTreeMap<String, Given>> {
    let mut given = BTreeMap::new();
    for (file, used) in &service.secrets {
        let secret = used.secret.clone();
        let Some(version) = versions.get(&secret).copied() else {
            return Err(Failure::user(format!("{} is given the secret {secret}, which is not set", service.name))
                .help(format!("set it with `formic secret set {secret}`, which reads the value from standard input or --file")));
        };
        given.insert(file.clone(), Given { secret, version, env: used.env.clone() });
    }
    Ok(given)
}

/// Whether everything that the services are given is set.
pub(crate) fn complete(manifest: &Manifest, versions: &BTreeMap<String, u64>) -> Outcome {
    manifest.services.iter().try_for_each(|service| present(service, versions).map(drop))
}

/// Folders in memory that this user can write to; the best first.
fn in_memory() -> Vec<PathBuf> {
    let own = std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from).filter(|path| path.is_absolute());
    own.into_iter().chain([PathBuf::from("/dev/shm")]).filter(|path| is_in_memory(path)).collect()
}

fn is_in_memory(path: &Path) -> bool {
    /// `TMPFS_MAGIC` and `RAMFS_MAGIC` of the kernel.
    const MAGIC: [u64; 2] = [0x0102_1994, 0x8584_58f6];
    rustix::fs::statfs(path)
        .is_ok_and(|found| u64::try_from(found.f_type).is_ok_and(|found| MAGIC.contains(&found)))
}

/// A name for a folder that tells it from others.
fn short(folder: &Path) -> String {
    Revision::of(&folder.display().to_string().into()).short().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_that_cannot_be_used_has_a_way_out() {
        let path = PathBuf::from("/state/secrets.key");
        let source = || std::io::Error::from(std::io::ErrorKind::PermissionDenied);
        let unfit = [
            OpenError::KeyMissing { path: path.clone() },
            OpenError::KeyWrong { path: path.clone(), reason: "it is no text" },
            OpenError::KeyExposed { path: path.clone(), mode: 0o644 },
            OpenError::KeyUnreadable { path: path.clone(), source: source() },
        ];
        for error in unfit {
            assert!(way_out(&error).is_some_and(|what| what.contains("--set-aside-state")), "{error}");
        }
        // One that cannot be written is no reason to begin anew.
        assert_eq!(way_out(&OpenError::Io { what: "write", path, source: source() }), None);
    }
}
