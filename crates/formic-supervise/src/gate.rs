//! The engine's side of the gate, up to the moment when it opens.

use std::ffi::{CString, OsString};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::fchown;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;

use formic_core::InstanceId;
use rustix::process::Signal;
use tokio::sync::Semaphore;

use crate::birth::{self, Failed};
use crate::cgroup::Group;
use crate::disk::{self, FileError};
use crate::failpoint;
use crate::features::Features;
use crate::identity::Identity;
use crate::judge::Judge;
use crate::launch::{Launch, Start, marker};
use crate::pidfd::{PidFd, watch};
use crate::process::{Care, Leader, Process, Table};
use crate::record::{FORMAT, Record, State, now_ms};
use crate::spawn_error::SpawnError;
use crate::subreaper::Leaders;
use crate::trampoline::{ARGUMENT, Trampoline};

/// Makes trampolines.
#[derive(Debug)]
pub(crate) struct Gate {
    pub(crate) trampoline: Trampoline,
    pub(crate) features: Features,
    pub(crate) boot_id: String,
    pub(crate) care: Arc<Care>,
    pub(crate) table: Arc<Table>,
    /// How many come up to their gate at the same time: a thousand at once would only wait for each other, each with a
    /// thread.
    pub(crate) turns: Semaphore,
}

// === impl Gate ===

impl Gate {
    /// Logs, intent, fork: everything before the trampoline is spoken to.
    pub(crate) fn fork(&self, asked: &Start) -> Result<Gated, SpawnError> {
        let launch = &asked.launch;
        let start = |source| SpawnError::Start { trampoline: self.trampoline.program.clone(), source };
        let record = Record {
            format: FORMAT,
            id: launch.id.clone(),
            service: launch.service.clone(),
            slot: launch.slot,
            revision: launch.revision.clone(),
            state: State::Intent,
            boot_id: self.boot_id.clone(),
            home: Some(self.care.store.home().clone()),
            identity: None,
            containment: self.features.containment,
            cgroup: self.care.groups.as_ref().map(|groups| groups.of(&launch.id).dir().to_owned()),
            sockets: asked.sockets.iter().map(|socket| socket.name.clone()).collect(),
            port: asked.port,
            stop_signal: asked.stop_signal,
            account: asked.privileges.account.clone(),
            bounds: Some(asked.privileges.bounds()),
            started_at_ms: now_ms(),
            stdout: absolute(&launch.stdout)?,
            stderr: absolute(&launch.stderr)?,
            note: asked.note.clone(),
        };
        self.reserve(&launch.id)?;
        let (care, table) = (self.care.clone(), self.table.clone());
        // From here on, whatever fails takes back everything before it.
        let mut gated =
            Gated { pidfd: None, group: None, engine: None, record, admitted: false, care, table };

        let stdout = disk::open_log(&launch.stdout)?;
        let stderr = disk::open_log(&launch.stderr)?;
        if let Some(account) = &asked.privileges.account {
            // A program may open its standard output by its path again, as `/dev/stdout`.
            for (log, path) in [(&stdout, &launch.stdout), (&stderr, &launch.stderr)] {
                fchown(log, Some(account.uid), Some(account.gid))
                    .map_err(|source| disk::explain("hand over", path, source))?;
            }
        }
        let (ours, theirs) = UnixStream::pair().map_err(start)?;
        ours.set_nonblocking(true).map_err(start)?;
        failpoint::hit("start.intent.before");
        self.care.store.write(&gated.record)?;
        failpoint::hit("start.intent.after");
        if let Some(groups) = &self.care.groups {
            let made = groups.create(&launch.id, &asked.limits);
            let dir = groups.of(&launch.id).dir().to_owned();
            gated.group = Some(made.map_err(|source| disk::explain("limit", &dir, source))?);
        }
        let forked = self.fork_trampoline(launch, gated.group.as_ref(), theirs.into(), stdout, stderr);
        let Forked { pidfd, in_group } = forked.map_err(start)?;
        let pidfd = gated.pidfd.insert(pidfd);
        failpoint::hit("start.forked");
        if let Some(group) = gated.group.as_ref().filter(|_| !in_group) {
            // Behind its gate it does nothing yet, so it need not have been born there.
            group.admit(pidfd.pid()).map_err(|source| disk::explain("enter", group.dir(), source))?;
        }
        gated.record.identity = Some(Identity::of(pidfd, &self.boot_id, &self.features).map_err(start)?);
        gated.engine = Some(ours);
        Ok(gated)
    }

    /// Who judges the records of earlier engines.
    pub(crate) fn judge(&self) -> Judge {
        Judge { care: self.care.clone(), boot_id: self.boot_id.clone(), features: self.features.clone() }
    }

    fn reserve(&self, id: &InstanceId) -> Result<(), SpawnError> {
        let mut rows = self.table.lock();
        // A file without a process here is one that a sweep has left in quarantine.
        if self.care.store.path(id).exists() || !rows.ids.insert(id.clone()) {
            return Err(SpawnError::Duplicate(id.clone()));
        }
        Ok(())
    }

    fn fork_trampoline(
        &self,
        launch: &Launch,
        group: Option<&Group>,
        socket: OwnedFd,
        stdout: File,
        stderr: File,
    ) -> io::Result<Forked> {
        // From its first moment it can be found as a process of the instance.
        let marker = marker(&launch.id, self.care.store.home());
        let mut leaders = Leaders::lock();
        let born = match group {
            Some(group) => {
                self.fork_into(group, &marker, [socket.as_fd(), stdout.as_fd(), stderr.as_fd()])?
            }
            None => None,
        };
        let (pid, in_group) = match born {
            Some(pid) => (pid, true),
            None => {
                let mut command = Command::new(&self.trampoline.program);
                command.arg(ARGUMENT).env_clear().envs(marker);
                command.stdin(Stdio::from(socket)).stdout(stdout).stderr(stderr);
                (command.spawn()?.id(), false)
            }
        };
        // Nobody reaps it before us, so the number is still its own.
        match PidFd::open(pid) {
            Ok(Some(pidfd)) => {
                leaders.insert(pidfd.pid());
                Ok(Forked { pidfd, in_group })
            }
            other => {
                birth::end(pid);
                Err(other.err().map_or_else(|| io::ErrorKind::NotFound.into(), io::Error::from))
            }
        }
    }

    /// `None` where it can only be moved there.
    fn fork_into(
        &self,
        group: &Group,
        marker: &[(String, OsString); 3],
        stdio: [BorrowedFd<'_>; 3],
    ) -> io::Result<Option<u32>> {
        let program = CString::new(self.trampoline.program.as_os_str().as_bytes())?;
        let args = [program.clone(), CString::new(ARGUMENT)?];
        let variable = |(name, value): &(String, OsString)| {
            CString::new([name.as_bytes(), b"=", value.as_bytes()].concat())
        };
        let env = marker.iter().map(variable).collect::<Result<Vec<_>, _>>()?;
        match birth::exec_in(group.open()?.as_fd(), &program, &args, &env, stdio) {
            Ok(pid) => Ok(Some(pid)),
            Err(Failed::Exec(error)) => Err(error),
            Err(Failed::Fork(error)) => {
                tracing::debug!(%error, "no process can be born in a cgroup here");
                Ok(None)
            }
        }
    }
}

/// A trampoline that was just made.
struct Forked {
    pidfd: PidFd,
    /// Whether it was born in its cgroup.
    in_group: bool,
}

fn absolute(path: &Path) -> Result<PathBuf, FileError> {
    std::path::absolute(path).map_err(|source| disk::explain("find", path, source))
}

/// A trampoline behind its gate. Dropped, it is ended and nothing is left of it.
#[derive(Debug)]
pub(crate) struct Gated {
    pidfd: Option<PidFd>,
    group: Option<Group>,
    /// Our end of the socket.
    pub(crate) engine: Option<UnixStream>,
    record: Record,
    admitted: bool,
    care: Arc<Care>,
    table: Arc<Table>,
}

// === impl Gated ===

impl Gated {
    /// Records that the process exists, before its program may run.
    pub(crate) fn record_spawned(mut self) -> Result<Self, FileError> {
        self.record.state = State::Spawned;
        failpoint::hit("start.recorded.before");
        self.care.store.write(&self.record)?;
        failpoint::hit("start.recorded.after");
        Ok(self)
    }

    /// Enters it among the living.
    pub(crate) fn admit(mut self) -> io::Result<Process> {
        let identity = self.record.identity.clone().ok_or(io::ErrorKind::NotFound)?;
        let pidfd = self.pidfd.take().ok_or(io::ErrorKind::NotFound)?;
        let pidfd = match watch(pidfd) {
            Ok(pidfd) => pidfd,
            Err((pidfd, source)) => {
                self.pidfd = Some(pidfd);
                return Err(source);
            }
        };
        self.admitted = true;
        let process =
            Process::new(Leader::Child(pidfd), identity, self.record.clone(), self.care.clone(), &self.table);
        self.table.lock().processes.insert(process.id().clone(), process.clone());
        Ok(process)
    }

    pub(crate) fn how_it_ended(&self) -> String {
        let status = self.pidfd.as_ref().and_then(|pidfd| pidfd.peek().status());
        status.map_or_else(String::new, |status| format!("; {status}"))
    }
}

impl Drop for Gated {
    fn drop(&mut self) {
        if self.admitted {
            return;
        }
        if let Some(pidfd) = &self.pidfd {
            // It runs our own code and has no children: killing it is enough, and waiting is short.
            if let Err(error) = pidfd.signal(Signal::KILL) {
                tracing::warn!(pid = pidfd.pid(), %error, "cannot kill a trampoline; it ends by itself");
            }
        }
        if let Some(pidfd) = &self.pidfd {
            let mut leaders = Leaders::lock();
            pidfd.reap_blocking();
            leaders.remove(pidfd.pid());
        }
        if let Some(Err(error)) = self.group.as_ref().map(Group::remove) {
            tracing::warn!(instance = %self.record.id, %error, "cannot remove the cgroup of what was not started");
        }
        if let Err(error) = self.care.store.remove(&self.record.id) {
            tracing::warn!(instance = %self.record.id, %error, "cannot remove the record of what was not started");
        }
        self.table.lock().ids.remove(&self.record.id);
    }
}
