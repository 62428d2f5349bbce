//! Where an instance runs, for a command that a person wants to run there too: its environment, its
//! directory, its cgroup, its user. Not its session, which no other process can join.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::io;
use std::os::fd::AsRawFd as _;
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};

use formic_core::InstanceId;
use rustix::fs::OFlags;

use crate::account::Account;
use crate::disk;
use crate::pidfd::PidFd;
use crate::privileges::Taken;
use crate::record::{self, Record};
use crate::{INSTANCE_ENV, RUN_DIR_ENV};

/// The surroundings of the main process of an instance.
#[derive(Clone)]
pub struct Place {
    env: Vec<(OsString, OsString)>,
    cwd: PathBuf,
    group: Option<PathBuf>,
    user: Option<Taken>,
    /// The file that says that somebody was there.
    entered: Option<PathBuf>,
}

// Not derived: the environment holds secrets.
impl std::fmt::Debug for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Place").field("cwd", &self.cwd).field("group", &self.group).finish_non_exhaustive()
    }
}

impl Place {
    /// Of the process of this number, if it is the instance's: the mark in its environment says so.
    ///
    /// # Errors
    /// If there is no such process, if it is another's or has written over its environment, if we may
    /// not look, or if a command there would run as another user than the process does.
    pub fn of(pid: u32, id: &InstanceId) -> io::Result<Self> {
        let gone = || io::Error::new(io::ErrorKind::NotFound, "its process is gone");
        let pidfd = PidFd::open(pid)?.ok_or_else(gone)?;
        let env = variables(&fs::read(format!("/proc/{pid}/environ"))?);
        let cwd = fs::read_link(format!("/proc/{pid}/cwd"))?;
        let status = fs::read(format!("/proc/{pid}/status"))?;
        // Asked after the descriptor was taken: if the number was used again in between, it shows.
        if pidfd.has_ended() {
            return Err(gone());
        }
        let value = |name: &str| env.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_os_str());
        if value(INSTANCE_ENV) != Some(OsStr::new(id.as_str())) {
            let text = format!("process {pid} does not carry the mark of {id} in its environment");
            return Err(io::Error::new(io::ErrorKind::InvalidData, text));
        }
        let run_dir = value(RUN_DIR_ENV).map(Path::new);
        let own = rustix::process::geteuid().as_raw();
        // Only root can become another user. It believes no record that the instance may have written itself.
        let record = match own {
            0 => run_dir.and_then(|run_dir| recorded_by_root(run_dir, id, pid)),
            _ => run_dir.and_then(|run_dir| recorded(run_dir, id)),
        };
        let entered = run_dir.filter(|_| record.is_some()).map(|run_dir| record::entered(run_dir, id));
        let (group, account) = record.map(|record| (record.cgroup, record.account)).unwrap_or_default();
        if own == 0 {
            check_user(account.as_ref(), own, real_uid(&status)?)?;
        }
        Ok(Self { env, cwd, group: group.filter(|dir| dir.is_dir()), user: Taken::of(account), entered })
    }

    /// Becomes this program there, in the place of the present process: with its terminal, its input and
    /// output, and its exit code. Returns only if that fails.
    ///
    /// A relative path with a slash is meant from the instance's directory; without a slash the program is
    /// looked up in the instance's `PATH`. `more` is for variables that the instance may not have.
    pub fn become_program(
        self,
        program: &OsStr,
        args: &[OsString],
        more: &[(OsString, OsString)],
    ) -> io::Error {
        // Before anything runs there: whoever ends the instance looks for it on the whole machine then.
        if let Some(entered) = &self.entered {
            // New or not at all: nothing that stands there, and no link, is written to. On a full disk people are let in too.
            let _ = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(entered);
        }
        if let Some(group) = &self.group
            && let Err(error) = fs::write(group.join("cgroup.procs"), std::process::id().to_string())
        {
            return error;
        }
        if let Some(Err(error)) = self.user.as_ref().map(Taken::take_on) {
            return error;
        }
        let missing = more.iter().filter(|(name, _)| !self.env.iter().any(|(known, _)| known == name));
        // `Command` looks a program up in the `PATH` that it is given, and goes to `cwd` before it starts it.
        std::process::Command::new(program)
            .args(args)
            .env_clear()
            .envs(missing.cloned())
            .envs(self.env)
            .current_dir(self.cwd)
            .exec()
    }
}

fn variables(environ: &[u8]) -> Vec<(OsString, OsString)> {
    let variable = |text: &[u8]| {
        let at = text.iter().position(|byte| *byte == b'=')?;
        let (name, value) = (OsStr::from_bytes(&text[..at]), OsString::from_vec(text[at + 1..].to_vec()));
        (!name.is_empty()).then(|| (name.to_owned(), value))
    };
    environ.split(|byte| *byte == 0).filter_map(variable).collect()
}

/// Refuses what would run as another user than the process does. The process says where its record is, and can say
/// wrong; as whom it runs, the kernel says.
fn check_user(account: Option<&Account>, own: u32, real: u32) -> io::Result<()> {
    let meant = account.map_or(own, |account| account.uid);
    if meant == real {
        return Ok(());
    }
    let text = format!(
        "its process runs as user {real}, which no record says: a command there would run as user {meant}"
    );
    Err(io::Error::new(io::ErrorKind::PermissionDenied, text))
}

/// The first of the four users in what `/proc` says of a process: the real one.
fn real_uid(status: &[u8]) -> io::Result<u32> {
    let status = String::from_utf8_lossy(status);
    let users = status.lines().find_map(|line| line.strip_prefix("Uid:"));
    let real = users.and_then(|users| users.split_whitespace().next()?.parse::<u32>().ok());
    real.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "its user cannot be read"))
}

/// The record of this process, if it is in a folder that only root writes to.
fn recorded_by_root(run_dir: &Path, id: &InstanceId, pid: u32) -> Option<Record> {
    // What is not a folder is not opened, as that may wait for ever.
    let flags = OFlags::DIRECTORY.bits().cast_signed();
    let dir = fs::OpenOptions::new().read(true).custom_flags(flags).open(run_dir).ok()?;
    let found = dir.metadata().ok()?;
    if found.uid() != 0 || found.mode() & 0o022 != 0 {
        return None;
    }
    // Of the folder that was looked at, wherever the path leads by now.
    let record = recorded(Path::new(&format!("/proc/self/fd/{}", dir.as_raw_fd())), id)?;
    // It may be the folder of another application, with an instance of the same name.
    record.identity.as_ref().is_some_and(|identity| identity.pid == pid).then_some(record)
}

/// Its record, if there is one.
fn recorded(run_dir: &Path, id: &InstanceId) -> Option<Record> {
    let record = disk::read_plain(&run_dir.join(format!("{id}.json"))).ok()?;
    serde_json::from_slice(&record).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variables_are_read_with_their_equals_signs() {
        let found = variables(b"A=1\0B=x=y\0\0=odd\0C=\0broken\0");
        let found: Vec<String> =
            found.iter().map(|(name, value)| format!("{}:{}", name.display(), value.display())).collect();
        assert_eq!(found, ["A:1", "B:x=y", "C:"]);
    }

    #[test]
    fn a_process_without_the_mark_is_no_instance() {
        let error = Place::of(std::process::id(), &InstanceId::new("a-1")).map(|_| ()).map_err(|e| e.kind());
        assert_eq!(error, Err(io::ErrorKind::InvalidData));
        let error = Place::of(u32::MAX >> 2, &InstanceId::new("a-1")).map(|_| ()).map_err(|e| e.kind());
        assert_eq!(error, Err(io::ErrorKind::NotFound));
    }

    #[test]
    fn nobody_is_let_in_as_another_user_than_the_process_is() {
        let account = |uid| Account { name: None, uid, gid: 7, groups: vec![7], home: None };
        let refused = |account: Option<Account>, real| {
            check_user(account.as_ref(), 0, real).is_err_and(|e| e.kind() == io::ErrorKind::PermissionDenied)
        };
        assert!(!refused(None, 0) && !refused(Some(account(1000)), 1000));
        // Without a record, and with that of another.
        assert!(refused(None, 1000) && refused(Some(account(1000)), 1001) && refused(Some(account(0)), 1000));
    }

    #[test]
    fn the_real_user_of_a_process_is_read() {
        let status = b"Name:\ta\xff\nTgid:\t7\nUid:\t1000\t0\t0\t0\nGid:\t5\t5\t5\t5\n";
        assert_eq!(real_uid(status).ok(), Some(1000));
        assert!(real_uid(b"Name:\tx\n").is_err());
        let own = fs::read("/proc/self/status").and_then(|status| real_uid(&status)).ok();
        assert_eq!(own, Some(rustix::process::getuid().as_raw()));
    }

    #[test]
    fn a_record_in_a_folder_that_others_write_to_is_not_believed() {
        use std::os::unix::fs::PermissionsExt as _;
        let dir = std::env::temp_dir().join(format!("formic-place-{}", std::process::id()));
        let made = fs::create_dir_all(&dir).and_then(|()| {
            let record = serde_json::json!({
                "format": 1, "id": "a-1", "service": "a", "slot": 0, "revision": "r", "state": "spawned",
                "boot_id": "b", "containment": "session", "started_at_ms": 0, "stdout": "", "stderr": "",
                "identity": { "boot_id": "b", "pid": 7, "start_time": 1 },
            });
            fs::write(dir.join("a-1.json"), record.to_string())
        });
        let id = InstanceId::new("a-1");
        let believed = |mode, pid| {
            let set = fs::set_permissions(&dir, fs::Permissions::from_mode(mode));
            set.is_ok() && recorded_by_root(&dir, &id, pid).is_some()
        };
        let is_root = rustix::process::geteuid().as_raw() == 0;
        let is_one = recorded(&dir, &id).is_some();
        let found = (believed(0o700, 7), believed(0o700, 8), believed(0o777, 7));
        let _ = fs::remove_dir_all(&dir);
        assert!(made.is_ok() && is_one);
        assert_eq!(found, (is_root, false, false));
    }
}
