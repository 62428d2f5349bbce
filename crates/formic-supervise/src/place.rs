//! Where an instance runs, for a command that a person wants to run there too: its environment, its
//! directory, its cgroup, its user. Not its session, which no other process can join.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::io;
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};

use formic_core::InstanceId;

use crate::pidfd::PidFd;
use crate::privileges::Taken;
use crate::record::Record;
use crate::{INSTANCE_ENV, RUN_DIR_ENV};

/// The surroundings of the main process of an instance.
#[derive(Clone)]
pub struct Place {
    env: Vec<(OsString, OsString)>,
    cwd: PathBuf,
    group: Option<PathBuf>,
    user: Option<Taken>,
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
    /// If there is no such process, if it is another's or has written over its environment, or if we may
    /// not look.
    pub fn of(pid: u32, id: &InstanceId) -> io::Result<Self> {
        let gone = || io::Error::new(io::ErrorKind::NotFound, "its process is gone");
        let pidfd = PidFd::open(pid)?.ok_or_else(gone)?;
        let env = variables(&fs::read(format!("/proc/{pid}/environ"))?);
        let cwd = fs::read_link(format!("/proc/{pid}/cwd"))?;
        // Asked after the descriptor was taken: if the number was used again in between, it shows.
        if pidfd.has_ended() {
            return Err(gone());
        }
        let value = |name: &str| env.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_os_str());
        if value(INSTANCE_ENV) != Some(OsStr::new(id.as_str())) {
            let text = format!("process {pid} does not carry the mark of {id} in its environment");
            return Err(io::Error::new(io::ErrorKind::InvalidData, text));
        }
        let record = value(RUN_DIR_ENV).and_then(|run_dir| recorded(Path::new(run_dir), id));
        let (group, account) = record.map(|record| (record.cgroup, record.account)).unwrap_or_default();
        Ok(Self { env, cwd, group: group.filter(|dir| dir.is_dir()), user: Taken::of(account) })
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

/// Its record, if there is one.
fn recorded(run_dir: &Path, id: &InstanceId) -> Option<Record> {
    let record = fs::read(run_dir.join(format!("{id}.json"))).ok()?;
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
}
