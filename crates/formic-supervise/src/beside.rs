//! A command run beside an instance and as part of it: with its mark and in its cgroup, so that whatever
//! the command leaves behind is found and ended with the instance.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process_group};

use crate::launch::marker;
use crate::process::Process;

/// How long a killed command may take to be reaped.
const REAPING: Duration = Duration::from_secs(2);

/// A command that asks something of an instance. What it prints is thrown away.
#[derive(Clone)]
pub struct Beside {
    /// The program; without a slash it is looked up in `PATH` of `env`.
    pub program: OsString,
    /// Its arguments, without the program's name.
    pub args: Vec<OsString>,
    /// The whole environment, but for the mark.
    pub env: BTreeMap<String, OsString>,
    /// The directory it starts in.
    pub cwd: PathBuf,
}

// Not derived: the environment holds secrets.
impl std::fmt::Debug for Beside {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Beside").field("program", &self.program).finish_non_exhaustive()
    }
}

impl Beside {
    /// Runs it for at most `limit` and says whether it ended with 0. If this is dropped before, it is
    /// killed; what it had started then stays with the instance.
    ///
    /// # Errors
    /// If it cannot be started, or did not end in time and was killed.
    pub async fn run(&self, instance: &Process, limit: Duration) -> io::Result<bool> {
        let mut command = tokio::process::Command::new(&self.program);
        command
            .args(&self.args)
            .env_clear()
            .envs(&self.env)
            .envs(marker(instance.id(), instance.run_dir()))
            .current_dir(&self.cwd)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            // A group of its own, so that all of it can be killed; not a session, which only instances have.
            .process_group(0)
            .kill_on_drop(true);
        let mut child = command.spawn()?;
        if let Some(pid) = child.id() {
            instance.admit(pid)?;
        }
        if let Ok(ended) = tokio::time::timeout(limit, child.wait()).await {
            return Ok(ended?.success());
        }
        // It is not reaped, so the number is its own still.
        if let Some(group) = child.id().and_then(|pid| Pid::from_raw(pid.cast_signed())) {
            let _ = kill_process_group(group, Signal::KILL);
        }
        // One that the kernel holds is reaped by the runtime when it ends.
        let _ = tokio::time::timeout(REAPING, child.wait()).await;
        Err(io::Error::new(io::ErrorKind::TimedOut, "it did not end in time"))
    }
}
