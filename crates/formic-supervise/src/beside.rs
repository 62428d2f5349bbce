//! A command run beside an instance and as part of it: as its user and within its bounds, with its mark and in its cgroup,
//! so that whatever the command leaves behind is found and ended with the instance.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::ffi::OsString;
use std::io;
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use rustix::process::{Gid, Pid, Signal, Uid, kill_process_group};
use tokio::io::AsyncReadExt as _;
use tokio::net::unix::pipe;
use tokio::sync::{OwnedRwLockReadGuard, RwLock, watch};

use crate::account::Account;
use crate::exit::ExitStatus;
use crate::launch::marker;
use crate::privileges::Ready;
use crate::process::{Process, Rights};

/// How long a killed command may take to be reaped.
const REAPING: Duration = Duration::from_secs(2);
/// How much is kept of what a command says.
const SAID: usize = 1024;

/// A command that asks something of an instance. Of what it prints, only the beginning of its standard error is kept.
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

/// How a command ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// With what; nothing if the instance was being ended.
    pub status: Option<ExitStatus>,
    /// The beginning of what it wrote to standard error.
    pub said: Vec<u8>,
}

impl Answer {
    /// Whether it ended with 0.
    #[must_use]
    pub fn success(&self) -> bool {
        self.status.is_some_and(ExitStatus::success)
    }

    /// No answer.
    fn none() -> Self {
        Self { status: None, said: Vec::new() }
    }
}

impl Beside {
    /// Runs it for at most `limit` and says how it ended. If this is dropped before, it is killed with
    /// its group; what left the group, or was left behind by a command that ended, stays with the instance. Of an
    /// instance that is being ended nothing is asked any more: what runs is killed, nothing is started, and there
    /// is no answer.
    ///
    /// # Errors
    /// If it cannot be started, or did not end in time and was killed.
    pub async fn run(&self, instance: &Process, limit: Duration) -> io::Result<Answer> {
        // Held until the group is killed, in whichever way this ends.
        let Some(mut permit) = instance.commands().enter().await else { return Ok(Answer::none()) };
        let Rights { account: user, bounds } = instance.rights();
        let (mut said, stderr) = Said::new(user.as_ref())?;
        let mut command = tokio::process::Command::new(&self.program);
        command
            .args(&self.args)
            .env_clear()
            .envs(user.as_ref().map(Account::variables).unwrap_or_default())
            .envs(&self.env)
            .envs(marker(instance.id(), instance.home()))
            .current_dir(&self.cwd)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(stderr)
            // A group of its own, so that all of it can be killed; not a session, which only instances have.
            .process_group(0)
            .kill_on_drop(true);
        become_first(&mut command, Ready::of(user, bounds));
        // Dropped before the permit, as it stands after it.
        let mut running = Running(command.spawn()?);
        // With it goes this process's own end of the pipe that it writes to.
        drop(command);
        if let Some(pid) = running.0.id() {
            instance.admit(pid)?;
        }
        // All arms are cancel safe: two take nothing, and the third keeps what it takes at once.
        tokio::select! {
            ended = tokio::time::timeout(limit, running.0.wait()) => {
                if let Ok(ended) = ended {
                    let status = ExitStatus::from_wait(ended?.into_raw());
                    return Ok(Answer { status: Some(status), said: said.all() });
                }
            }
            () = permit.closed() => {
                running.end().await;
                return Ok(Answer::none());
            }
            never = said.listen() => match never {},
        }
        running.end().await;
        Err(io::Error::new(io::ErrorKind::TimedOut, "it did not end in time"))
    }
}

/// Has a command take these on before it becomes its program.
fn become_first(command: &mut tokio::process::Command, ready: Ready) {
    #[expect(unsafe_code, reason = "what is done between fork and exec must be said to be harmless there")]
    // SAFETY: only system calls, over what was made ready before the fork.
    unsafe {
        command.pre_exec(move || ready.take_on().map_err(|(_, error)| error));
    }
}

/// What a command writes to standard error: read as it comes, so that it need not wait for room, and for no longer than
/// it runs, as what it leaves behind may hold the other end for ever.
struct Said {
    pipe: pipe::Receiver,
    first: Vec<u8>,
}

impl Said {
    fn new(user: Option<&Account>) -> io::Result<(Self, Stdio)> {
        let (reader, writer) = io::pipe()?;
        if let Some(Account { uid, gid, .. }) = user {
            // So that it can be opened again by its path. Where that is not to be, it can be written to all the same.
            let (uid, gid) = (Uid::from_raw(*uid), Gid::from_raw(*gid));
            let _ = rustix::fs::fchown(&writer, Some(uid), Some(gid));
        }
        let pipe = pipe::Receiver::from_owned_fd(reader.into())?;
        Ok((Self { pipe, first: Vec::new() }, writer.into()))
    }

    /// Reads for ever.
    async fn listen(&mut self) -> Infallible {
        let mut chunk = [0; 4096];
        // Not by `try_read`, which takes nothing of the task's budget: one that never stops writing would keep the task from
        // all else then, from the limit too.
        while let Ok(read @ 1..) = self.pipe.read(&mut chunk).await {
            self.keep(&chunk[..read]);
        }
        std::future::pending().await
    }

    fn keep(&mut self, part: &[u8]) {
        let room = SAID - self.first.len();
        self.first.extend_from_slice(&part[..part.len().min(room)]);
    }

    /// The beginning, with what has not been read yet. Asked of the kernel: the runtime may not have heard of it.
    fn all(mut self) -> Vec<u8> {
        let mut chunk = [0; SAID];
        while self.first.len() < SAID
            && let Ok(read @ 1..) = rustix::io::read(&self.pipe, &mut chunk)
        {
            self.keep(&chunk[..read]);
        }
        self.first
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
