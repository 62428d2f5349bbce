//! A command run beside an instance and as part of it: as its user, with its mark and in its cgroup, so that whatever
//! the command leaves behind is found and ended with the instance.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io;
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process_group};
use tokio::sync::{OwnedRwLockReadGuard, RwLock, watch};

use crate::account::Account;
use crate::launch::marker;
use crate::privileges::Taken;
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
    /// Runs it for at most `limit` and says whether it ended with 0. If this is dropped before, it is killed with
    /// its group; what left the group, or was left behind by a command that ended, stays with the instance. Of an
    /// instance that is being ended nothing is asked any more: what runs is killed, nothing is started, and the
    /// answer is no.
    ///
    /// # Errors
    /// If it cannot be started, or did not end in time and was killed.
    pub async fn run(&self, instance: &Process, limit: Duration) -> io::Result<bool> {
        // Held until the group is killed, in whichever way this ends.
        let Some(mut permit) = instance.commands().enter().await else { return Ok(false) };
        let user = instance.record().account;
        let mut command = tokio::process::Command::new(&self.program);
        command
            .args(&self.args)
            .env_clear()
            .envs(user.as_ref().map(Account::variables).unwrap_or_default())
            .envs(&self.env)
            .envs(marker(instance.id(), instance.run_dir()))
            .current_dir(&self.cwd)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            // A group of its own, so that all of it can be killed; not a session, which only instances have.
            .process_group(0)
            .kill_on_drop(true);
        if let Some(user) = Taken::of(user) {
            become_first(&mut command, user);
        }
        // Dropped before the permit, as it stands after it.
        let mut running = Running(command.spawn()?);
        if let Some(pid) = running.0.id() {
            instance.admit(pid)?;
        }
        // Both arms are cancel safe: neither takes anything from the process or the permit.
        tokio::select! {
            ended = tokio::time::timeout(limit, running.0.wait()) => {
                if let Ok(ended) = ended {
                    return Ok(ended?.success());
                }
            }
            () = permit.closed() => {
                running.end().await;
                return Ok(false);
            }
        }
        running.end().await;
        Err(io::Error::new(io::ErrorKind::TimedOut, "it did not end in time"))
    }
}

/// Has a command become this user before it becomes its program.
fn become_first(command: &mut tokio::process::Command, user: Taken) {
    #[expect(unsafe_code, reason = "what is done between fork and exec must be said to be harmless there")]
    // SAFETY: only system calls, over what was made ready before the fork.
    unsafe {
        command.pre_exec(move || user.take_on());
    }
}

/// A command that runs. It does not outlive this, and neither does its group.
struct Running(tokio::process::Child);

impl Running {
    fn kill(&self) {
        // Without a number it was reaped. With one it was not, so the number is its own still.
        if let Some(group) = self.0.id().and_then(|pid| Pid::from_raw(pid.cast_signed())) {
            let _ = kill_process_group(group, Signal::KILL);
        }
    }

    async fn end(&mut self) {
        self.kill();
        // One that the kernel holds is reaped by the runtime when it ends.
        let _ = tokio::time::timeout(REAPING, self.0.wait()).await;
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.kill();
    }
}

/// The commands that run beside one instance. Once it is being ended there are none.
#[derive(Debug)]
pub(crate) struct Commands {
    closed: watch::Sender<bool>,
    running: Arc<RwLock<()>>,
}

/// The right to run one.
pub(crate) struct Permit {
    closed: watch::Receiver<bool>,
    _running: OwnedRwLockReadGuard<()>,
}

impl Default for Commands {
    fn default() -> Self {
        Self { closed: watch::Sender::new(false), running: Arc::default() }
    }
}

impl Commands {
    async fn enter(&self) -> Option<Permit> {
        let running = Arc::clone(&self.running).read_owned().await;
        let closed = self.closed.subscribe();
        // Asked with the right in hand: who closes waits for it.
        let is_open = !*closed.borrow();
        is_open.then_some(Permit { closed, _running: running })
    }

    /// Ends those that run, and lets none begin. Cancel safe: called again, it goes on.
    pub(crate) async fn close(&self) {
        self.closed.send_replace(true);
        drop(self.running.write().await);
    }
}

impl Permit {
    /// Waits until the instance is being ended.
    async fn closed(&mut self) {
        if self.closed.wait_for(|closed| *closed).await.is_err() {
            // Nobody is left to end it.
            std::future::pending().await
        }
    }
}
