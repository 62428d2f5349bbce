//! As whom an instance runs: who that is on this machine, and what has to be that user's for it: its data, and the way to
//! what it is given.
//!
//! All that an engine keeps is its own user's alone. An instance of another user gets the right to pass through the
//! folders above what is its own, and to list or open nothing else in them.

use std::fs;
use std::io;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, lchown};
use std::path::{Path, PathBuf};

use formic_supervise::{Account, Launch, NoAccount, Privileges, Ulimits};
use tokio::sync::mpsc;

use crate::engine::in_full;

/// Others may pass through, and see nothing.
const PASS: u32 = 0o011;

/// What a manifest says, in the supervisor's words. Looks users up, which may take a while.
///
/// # Errors
/// If there is no such user here, or if this engine cannot start programs as one.
pub fn privileges(said: &formic_spec::Privileges) -> Result<Privileges, NoAccount> {
    let account = match &said.user {
        Some(user) => {
            let account = Account::find(user, said.group.as_deref())?;
            account.check()?;
            Some(account)
        }
        None => None,
    };
    let formic_spec::Ulimits { nofile, nproc, core } = said.ulimits;
    let ulimits = Ulimits {
        nofile: nofile.map(u64::from),
        nproc: nproc.map(u64::from),
        core: core.map_or(0, formic_spec::ByteSize::bytes),
    };
    Ok(Privileges { account, no_new_privileges: said.no_new_privileges, ulimits })
}

/// Where a user other than the engine's reaches it, in the engine's folder.
#[must_use]
pub fn socket(folder: &Path, uid: u32) -> PathBuf {
    folder.join(format!("api-{uid}.sock"))
}

/// Finds out as whom an instance runs, and gives that user what is its own.
pub(crate) async fn settle(
    said: formic_spec::Privileges,
    logs: &Path,
    data: &Path,
    launch: &mut Launch,
    doors: Option<mpsc::UnboundedSender<u32>>,
) -> Result<Privileges, String> {
    // Asked anew each time: who is in which group may have changed. Not on this thread, as a directory may be asked.
    let found = match said.user {
        Some(_) => tokio::task::spawn_blocking(move || privileges(&said)).await,
        None => Ok(privileges(&said)),
    };
    let taken = found.map_err(|panic| panic.to_string())?.map_err(|error| in_full(&error))?;
    if let Some(user) = taken.account.clone().filter(|user| !user.is_own()) {
        let folder = logs.parent().unwrap_or(logs).to_owned();
        let (program, data) = (PathBuf::from(&launch.program), data.to_owned());
        let (uid, way) = (user.uid, socket(&folder, user.uid));
        let given = move || give(&folder, &data, &program, &user);
        let given = tokio::task::spawn_blocking(given).await.map_err(|panic| panic.to_string())?;
        given.map_err(|error| format!("its data cannot be given to its user: {error}"))?;
        if let Some(doors) = doors {
            // The engine's own socket is its user's alone. Nobody hears it in an engine that is ending.
            let _ = doors.send(uid);
            launch.env.insert("FORMIC_DAEMON".into(), format!("unix:{}", way.display()).into());
        }
    }
    Ok(taken)
}

/// Gives an instance's data to its user, with the way to it and to a program that the engine keeps.
fn give(folder: &Path, data: &Path, program: &Path, account: &Account) -> io::Result<()> {
    for of in [data, program] {
        if let Some(above) = of.parent().filter(|above| above.starts_with(folder)) {
            open_way(folder, above)?;
        }
    }
    own(data, account)
}

/// Lets others pass through all folders from one down to another.
fn open_way(from: &Path, to: &Path) -> io::Result<()> {
    for folder in to.ancestors().take_while(|folder| folder.starts_with(from)) {
        let mode = fs::metadata(folder)?.permissions().mode();
        if mode & PASS != PASS {
            fs::set_permissions(folder, fs::Permissions::from_mode(mode & 0o7777 | PASS))?;
        }
    }
    Ok(())
}

/// Makes a folder and all in it a user's. Once: what is that user's already is left alone.
fn own(folder: &Path, account: &Account) -> io::Result<()> {
    let is_theirs = |of: &fs::Metadata| (of.uid(), of.gid()) == (account.uid, account.gid);
    if is_theirs(&fs::symlink_metadata(folder)?) {
        return Ok(());
    }
    let mut folders = vec![folder.to_owned()];
    let mut next = 0;
    while let Some(folder) = folders.get(next).cloned() {
        next += 1;
        for entry in fs::read_dir(&folder)? {
            let path = entry?.path();
            let found = fs::symlink_metadata(&path)?;
            if found.is_dir() {
                folders.push(path);
            } else if found.nlink() == 1 && !is_theirs(&found) {
                // Another name of it may be in a place that is none of theirs.
                lchown(&path, Some(account.uid), Some(account.gid))?;
            }
        }
    }
    // The first one last: if this is cut off, it is done again.
    folders.iter().rev().try_for_each(|folder| lchown(folder, Some(account.uid), Some(account.gid)))
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]
    #![expect(clippy::print_stdout, reason = "a test that cannot run says so")]

    use super::*;

    #[test]
    fn what_a_manifest_says_becomes_numbers() {
        assert_eq!(privileges(&formic_spec::Privileges::default()).unwrap(), Privileges::default());
        let said = formic_spec::Privileges {
            user: Some("no-such-user".into()),
            ..formic_spec::Privileges::default()
        };
        assert!(privileges(&said).is_err());
    }

    #[test]
    fn a_folder_becomes_its_users_and_others_only_pass_through_what_is_above() {
        let user = Account { name: None, uid: 1_999_999_999, gid: 7, groups: vec![7], home: None };
        // In a user namespace there are only those users that it has been given.
        let map = fs::read_to_string("/proc/self/uid_map").unwrap_or_default();
        if user.check().is_err() || !map.trim().ends_with(" 4294967295") {
            println!(
                "formic-test-skipped: account::a_folder_becomes_its_users_and_others_only_pass_through_what_is_above: \
                 only root can give files away"
            );
            return;
        }
        let top = std::env::temp_dir().join(format!("formic-account-{}", std::process::id()));
        let (data, kept) = (top.join(".formic/data/order"), top.join(".formic/artifacts/1/order"));
        for folder in [&data.join("deep"), kept.parent().unwrap(), &top.join(".formic/run")] {
            fs::create_dir_all(folder).unwrap();
        }
        for folder in [".formic", ".formic/data", ".formic/artifacts", ".formic/artifacts/1", ".formic/run"] {
            fs::set_permissions(top.join(folder), fs::Permissions::from_mode(0o700)).unwrap();
        }
        let elsewhere = top.join("elsewhere");
        for file in [&data.join("deep/file"), &elsewhere] {
            fs::write(file, "x").unwrap();
        }
        fs::hard_link(&elsewhere, data.join("linked")).unwrap();
        std::os::unix::fs::symlink(&elsewhere, data.join("symbolic")).unwrap();
        give(&top.join(".formic"), &data, &kept, &user).unwrap();
        let mode = |path: &str| fs::metadata(top.join(path)).unwrap().permissions().mode() & 0o777;
        for folder in [".formic", ".formic/data", ".formic/artifacts", ".formic/artifacts/1"] {
            assert_eq!(mode(folder), 0o711, "{folder}");
        }
        assert_eq!(mode(".formic/run"), 0o700);
        let owner = |path: &Path| fs::symlink_metadata(path).map(|of| (of.uid(), of.gid())).unwrap();
        for path in [&data, &data.join("deep"), &data.join("deep/file"), &data.join("symbolic")] {
            assert_eq!(owner(path), (user.uid, 7), "{}", path.display());
        }
        assert_ne!(owner(&elsewhere).0, user.uid, "it has a name that is none of theirs");
        fs::remove_dir_all(&top).unwrap();
    }
}
