//! As whom an instance runs: who that is on this machine, and what has to be that user's for it: its data, and the way to
//! what it is given.
//!
//! All that an engine keeps is its own user's alone. An instance of another user gets the right to pass through the
//! folders above what is its own, and to list or open nothing else in them.

mod own;

use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use formic_supervise::{Account, Launch, NoAccount, Privileges, Ulimits};
use tokio::sync::mpsc;

use self::own::own;
use formic_core::error::in_full;

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

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]
    #![expect(clippy::print_stdout, reason = "a test that cannot run says so")]

    use std::os::unix::fs::MetadataExt as _;
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::*;

    /// Somebody else, if files can be given away here. In a user namespace there are only those users that it has been given.
    fn another(test: &str) -> Option<Account> {
        let user = Account { name: None, uid: 1_999_999_999, gid: 7, groups: vec![7], home: None };
        let map = fs::read_to_string("/proc/self/uid_map").unwrap_or_default();
        let can = user.check().is_ok() && map.trim().ends_with(" 4294967295");
        if !can {
            println!("formic-test-skipped: account::{test}: only root can give files away");
        }
        can.then_some(user)
    }

    /// Says that it is over, however a test ends.
    struct Over<'a>(&'a AtomicBool);

    impl Drop for Over<'_> {
        fn drop(&mut self) {
            self.0.store(true, Ordering::Relaxed);
        }
    }

    #[test]
    fn folders_without_end_in_one_another_are_refused() {
        let top = std::env::temp_dir().join(format!("formic-account-deep-{}", std::process::id()));
        let deepest = (0..own::DEEPEST).fold(top.clone(), |folder, _| folder.join("d"));
        let below = deepest.join("d");
        fs::create_dir_all(&below).unwrap();
        // They may not be given away here, which is another error.
        let user = Account { name: None, uid: 1_999_999_999, gid: 7, groups: vec![7], home: None };
        let too_deep = || own(&top, &user).is_err_and(|error| error.kind() == io::ErrorKind::InvalidData);
        let refused = too_deep();
        fs::remove_dir(&below).unwrap();
        let refused_then = too_deep();
        fs::remove_dir_all(&top).unwrap();
        assert_eq!((refused, refused_then), (true, false));
    }

    #[test]
    fn a_link_that_takes_a_folders_place_meanwhile_leads_nowhere() {
        let Some(user) = another("a_link_that_takes_a_folders_place_meanwhile_leads_nowhere") else { return };
        let top = std::env::temp_dir().join(format!("formic-account-race-{}", std::process::id()));
        let (data, elsewhere) = (top.join("data"), top.join("elsewhere"));
        fs::create_dir_all(data.join("deep")).unwrap();
        fs::create_dir_all(&elsewhere).unwrap();
        for name in 0..20 {
            fs::write(elsewhere.join(name.to_string()), "x").unwrap();
        }
        std::os::unix::fs::symlink(&elsewhere, data.join("link")).unwrap();
        // Its present user has it now be a folder, now a link to what is somebody else's.
        let (over, swaps) = (AtomicBool::new(false), std::sync::atomic::AtomicU64::new(0));
        std::thread::scope(|scope| {
            let swapping = scope.spawn(|| {
                use rustix::fs::{CWD, RenameFlags, renameat_with};
                while !over.load(Ordering::Relaxed) {
                    let (deep, link) = (data.join("deep"), data.join("link"));
                    renameat_with(CWD, &deep, CWD, &link, RenameFlags::EXCHANGE).unwrap();
                    swaps.fetch_add(1, Ordering::Relaxed);
                }
            });
            // The thread is waited for where something here panics, too.
            let _over = Over(&over);
            let mut owned = 0;
            // Often enough for the one to come between any two steps of the other.
            while owned < 3_000 || swaps.load(Ordering::Relaxed) < 3_000 {
                assert!(!swapping.is_finished(), "nothing is exchanged any more");
                let given = own(&data, &user);
                rustix::fs::chown(&data, Some(rustix::fs::Uid::ROOT), None).unwrap();
                given.unwrap();
                owned += 1;
            }
        });
        for entry in
            [elsewhere.clone()].into_iter().chain((0..20).map(|name| elsewhere.join(name.to_string())))
        {
            assert_eq!(fs::symlink_metadata(&entry).unwrap().uid(), 0, "{}", entry.display());
        }
        fs::remove_dir_all(&top).unwrap();
    }

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
        let Some(user) = another("a_folder_becomes_its_users_and_others_only_pass_through_what_is_above")
        else {
            return;
        };
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
