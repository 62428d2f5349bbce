//! A running instance: how it ends, and how to end it.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};
use std::time::Duration;

use formic_core::{InstanceId, ServiceName};
use tokio::io::unix::AsyncFd;
use tokio::sync::watch;
use tokio::time::Instant;

use crate::beside::Commands;
use crate::cgroup::{Group, Groups};
use crate::exit::ExitStatus;
use crate::failpoint;
use crate::handed::{self, listens_on};
use crate::identity::Identity;
use crate::keeper;
use crate::pidfd::{PidFd, Waited, ended};
use crate::record::{Record, State, Store};
use crate::snapshot::{Scanner, Snapshot};
use crate::stop_signal::StopSignal;
use crate::subreaper::Leaders;
use crate::tree::{Ending, Session, TreeError};
use crate::usage::Usage;

/// A deadline that is never reached, for those who are not being stopped.
const FAR: Duration = Duration::from_secs(365 * 24 * 3600);

/// Longer grace is taken as this, so that no clock overflows.
const MAX_GRACE: Duration = Duration::from_secs(24 * 3600);

/// A process of an instance. Clones are the same process; dropping all of them leaves it running,
/// in the care of its supervisor.
#[derive(Clone, Debug)]
pub struct Process(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    leader: Leader,
    identity: Identity,
    session: Session,
    group: Option<Group>,
    /// Whether the kernel killed it for want of memory, once its cgroup is gone.
    oom_killed: OnceLock<bool>,
    id: InstanceId,
    service: ServiceName,
    record: Mutex<Record>,
    status: OnceLock<ExitStatus>,
    /// When asking turns to killing; whoever is most impatient decides.
    deadline: watch::Sender<Instant>,
    /// One at a time ends the tree; the others wait here and find it done.
    ending: tokio::sync::Mutex<Option<Stopped>>,
    /// What is run beside it.
    commands: Commands,
    care: Arc<Care>,
    table: Weak<Table>,
}

/// The main process, as far as it is held.
#[derive(Debug)]
pub(crate) enum Leader {
    /// Our child.
    Child(AsyncFd<PidFd>),
    /// The child of an engine that is gone, taken over while it lived or was not yet reaped.
    Adopted(AsyncFd<PidFd>),
    /// It ended, and was reaped, while there was no engine.
    Gone(ExitStatus),
}

impl Leader {
    fn pidfd(&self) -> Option<&AsyncFd<PidFd>> {
        match self {
            Self::Child(pidfd) | Self::Adopted(pidfd) => Some(pidfd),
            Self::Gone(_) => None,
        }
    }
}

/// How long the reaper of an adopted process may take to reap it, after which how it ended is unknown.
const REAPING_LIMIT: Duration = Duration::from_secs(2);

/// Asked again after this much, and then less and less often.
const REAPING_FIRST: Duration = Duration::from_millis(1);

/// What all processes of one supervisor share.
#[derive(Debug)]
pub(crate) struct Care {
    pub(crate) store: Store,
    pub(crate) scanner: Scanner,
    pub(crate) groups: Option<Groups>,
    /// Whether the kernel keeps how a process ended for others than its parent.
    pub(crate) exit_info: bool,
    /// Who reaps what an earlier engine started, and remembers how it ended.
    pub(crate) keeper: Option<keeper::Client>,
}

impl Care {
    /// How a process ended that another has reaped, if that other is the keeper.
    pub(crate) async fn exit_of(&self, identity: &Identity) -> Option<ExitStatus> {
        match self.keeper.as_ref()?.exit_of(identity).await {
            Ok(status) => status,
            Err(error) => {
                tracing::warn!(%error, "cannot ask the keeper how a process ended");
                None
            }
        }
    }
}

/// The processes of one supervisor.
#[derive(Debug, Default)]
pub(crate) struct Table(Mutex<Rows>);

/// See [`Table`].
#[derive(Debug, Default)]
pub(crate) struct Rows {
    /// The ids in use, those being started included.
    pub(crate) ids: HashSet<InstanceId>,
    pub(crate) processes: HashMap<InstanceId, Process>,
}

impl Table {
    pub(crate) fn lock(&self) -> MutexGuard<'_, Rows> {
        // Every change is one insert or remove: a panic elsewhere leaves it whole.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// How a stop went.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Stopped {
    /// How the main process ended.
    pub status: ExitStatus,
    /// The processes that had to be killed, because the grace was over.
    pub killed: BTreeSet<u32>,
    /// Whether the kernel had killed of it for want of memory, within its limit or the machine's.
    pub oom_killed: bool,
    /// How long it took.
    pub took: Duration,
}

/// A tree could not be ended.
#[derive(Debug, thiserror::Error)]
pub enum StopError {
    /// Processes are left that do not even die of SIGKILL: the kernel holds them, or they are another user's.
    #[error("stop {instance}: {} left after SIGKILL: {pids:?}", if pids.len() == 1 { "a process is" } else { "processes are" })]
    Survivors {
        /// The instance.
        instance: InstanceId,
        /// Their numbers.
        pids: Vec<u32>,
    },
    /// Processes are in a session of its number, which its main process, gone, no longer proves to be its own.
    #[error("stop {instance}: nothing proves whose the processes of its session are: {pids:?}")]
    Unproven {
        /// The instance.
        instance: InstanceId,
        /// Their numbers.
        pids: Vec<u32>,
    },
    /// `/proc` could not be read, so nobody can say what is left.
    #[error("stop {instance}: look at /proc")]
    Scan {
        /// The instance.
        instance: InstanceId,
        /// What the system said.
        #[source]
        source: io::Error,
    },
}

impl StopError {
    pub(crate) fn new(instance: &InstanceId, error: TreeError) -> Self {
        let instance = instance.clone();
        match error {
            TreeError::Scan(source) => Self::Scan { instance, source },
            TreeError::Survivors(pids) => Self::Survivors { instance, pids },
            TreeError::Unproven(pids) => Self::Unproven { instance, pids },
        }
    }
}

// === impl Process ===

impl Process {
    pub(crate) fn new(
        leader: Leader,
        identity: Identity,
        record: Record,
        care: Arc<Care>,
        table: &Arc<Table>,
    ) -> Self {
        // A deadline that an earlier engine set still holds.
        let left = record.state.left().unwrap_or(FAR);
        let status = OnceLock::new();
        if let Leader::Gone(gone) = leader {
            let _ = status.set(gone);
        }
        Self(Arc::new(Inner {
            leader,
            session: Session::new(Some(identity.pid)),
            group: care.store.group(&record),
            oom_killed: OnceLock::new(),
            identity,
            id: record.id.clone(),
            service: record.service.clone(),
            record: Mutex::new(record),
            status,
            deadline: watch::Sender::new(Instant::now() + left),
            ending: tokio::sync::Mutex::new(None),
            commands: Commands::default(),
            care,
            table: Arc::downgrade(table),
        }))
    }

    /// Whether its main process is held, ended or not.
    pub(crate) fn is_held(&self) -> bool {
        self.0.leader.pidfd().is_some()
    }

    /// Whether the main process has ended, however that was.
    pub(crate) fn has_ended(&self) -> bool {
        self.0.leader.pidfd().is_none_or(|pidfd| pidfd.get_ref().has_ended())
    }

    /// Learns from a snapshot who is in its session while that is proven.
    pub(crate) fn learn(&self, snapshot: &Snapshot) {
        self.0.session.learn(self.0.leader.pidfd().map(AsyncFd::get_ref), snapshot);
    }

    /// The instance.
    #[must_use]
    pub fn id(&self) -> &InstanceId {
        &self.0.id
    }

    /// The service it is an instance of.
    #[must_use]
    pub fn service(&self) -> &ServiceName {
        &self.0.service
    }

    /// The number of the main process, to be shown. Not to be signalled.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.0.identity.pid
    }

    /// The identity of the main process.
    #[must_use]
    pub fn identity(&self) -> &Identity {
        &self.0.identity
    }

    /// What is on disk about it.
    #[must_use]
    pub fn record(&self) -> Record {
        self.lock_record().clone()
    }

    /// The file of its standard output.
    #[must_use]
    pub fn stdout(&self) -> PathBuf {
        self.lock_record().stdout.clone()
    }

    /// The file of its standard error.
    #[must_use]
    pub fn stderr(&self) -> PathBuf {
        self.lock_record().stderr.clone()
    }

    /// The socket with which it listens there: the same socket, for the next one that is to have it. `None` if it has
    /// none. For an engine that has taken the process over, and with it no socket. Where it keeps the socket is the
    /// program's own affair: many give it another number than the one it was handed under.
    ///
    /// # Errors
    /// The system does not let this process look into that one.
    pub fn listener(&self, address: SocketAddr) -> io::Result<Option<OwnedFd>> {
        let Some(pidfd) = self.0.leader.pidfd() else { return Ok(None) };
        // Should the number be another's by now, what is taken below is still of the right process.
        for number in handed::sockets(self.pid())? {
            match pidfd.get_ref().descriptor(number) {
                Ok(socket) if listens_on(&socket, address) => return Ok(Some(socket)),
                Err(error) if error.kind() == io::ErrorKind::PermissionDenied => return Err(error),
                // Another socket, or closed meanwhile.
                _ => {}
            }
        }
        Ok(None)
    }

    /// How the main process ended, or `None` while it runs. Of an adopted one `None` also while nobody can
    /// say yet: [`Process::wait`] waits for those who can.
    #[must_use]
    pub fn try_wait(&self) -> Option<ExitStatus> {
        if let Some(status) = self.0.status.get() {
            return Some(*status);
        }
        let status = match &self.0.leader {
            // Left unreaped: its number names the session until the whole tree is gone.
            Leader::Child(pidfd) => match pidfd.get_ref().peek() {
                Waited::Running => None,
                Waited::Ended(status) => Some(status),
                // It may only be called ended if it has.
                Waited::NotOurs => pidfd.get_ref().has_ended().then_some(ExitStatus::Unknown),
            },
            // The engine may be where orphans go, and so its parent by now.
            Leader::Adopted(pidfd) => match pidfd.get_ref().peek() {
                Waited::Running => None,
                Waited::Ended(status) => Some(status),
                Waited::NotOurs => pidfd.get_ref().exit_of_another(self.0.care.exit_info),
            },
            Leader::Gone(status) => Some(*status),
        }?;
        Some(*self.0.status.get_or_init(|| status))
    }

    /// Whether the kernel has killed any of its processes for want of memory. Known with a memory controller
    /// only, see [`crate::Features::unenforced`].
    #[must_use]
    pub fn oom_killed(&self) -> bool {
        let now = || self.0.group.as_ref().is_some_and(|group| group.oom_kills() > 0);
        self.0.oom_killed.get().copied().unwrap_or_else(now)
    }

    /// What it uses. Reads some files of the kernel's: not for every call of a service, but for every scrape.
    #[must_use]
    pub fn usage(&self) -> Usage {
        match &self.0.group {
            Some(group) if group.exists() => Usage::of_group(group),
            // A process that was reaped has no number of its own any more.
            _ if self.0.leader.pidfd().is_some_and(|pidfd| !pidfd.get_ref().is_reaped()) => {
                Usage::of_process(self.pid())
            }
            _ => Usage::default(),
        }
    }

    /// Where the records of its supervisor are.
    pub(crate) fn run_dir(&self) -> &std::path::Path {
        self.0.care.store.dir()
    }

    /// What is run beside it.
    pub(crate) fn commands(&self) -> &Commands {
        &self.0.commands
    }

    /// Takes a process into its cgroup, if it has one.
    pub(crate) fn admit(&self, pid: u32) -> io::Result<()> {
        match &self.0.group {
            Some(group) if group.exists() => match group.admit(pid) {
                // It has ended already.
                Err(error) if error.raw_os_error() == Some(libc::ESRCH) => Ok(()),
                done => done,
            },
            _ => Ok(()),
        }
    }

    /// Waits until the main process has ended. Cancel safe, and many may wait. Its tree may live on:
    /// call [`Process::stop`] in any case, which also lets go of the instance.
    pub async fn wait(&self) -> ExitStatus {
        if let Some(pidfd) = self.0.leader.pidfd() {
            ended(pidfd).await;
        }
        self.settled().await
    }

    /// How it ended, now that it has: what is told at once, or by whoever reaps it, or unknown.
    async fn settled(&self) -> ExitStatus {
        let limit = Instant::now() + REAPING_LIMIT;
        let mut pause = REAPING_FIRST;
        loop {
            // Asked before the status: what is reaped in between is asked about once more.
            let last = Instant::now() >= limit
                || self.0.leader.pidfd().is_none_or(|pidfd| pidfd.get_ref().is_reaped());
            if let Some(status) = self.try_wait() {
                return status;
            }
            if last {
                if let Some(status) = self.0.care.exit_of(&self.0.identity).await {
                    return *self.0.status.get_or_init(|| status);
                }
                return *self.0.status.get_or_init(|| ExitStatus::Unknown);
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(Duration::from_millis(50));
        }
    }

    /// Ends the whole tree: the signal of its record (SIGTERM, unless another was asked for) to the main
    /// process; to those that outlive it as well; SIGKILL for whatever is left after `grace`; at most 5 s
    /// more until all are gone. Then reaps the main process and removes the record. Zero grace kills at
    /// once; on an ended process it clears up behind it.
    ///
    /// Cancel safe: called again, it goes on. Called while another waits in it, the shorter grace holds.
    ///
    /// # Errors
    /// If processes are left, or nobody can say. The instance stays known and may be stopped again.
    pub async fn stop(&self, grace: Duration) -> Result<Stopped, StopError> {
        let recorded = self.lock_record().stop_signal;
        self.stop_by(recorded, grace).await
    }

    /// The same by this signal instead of the one in its record, which becomes this: what another engine has begun
    /// goes on by the signal that was sent.
    ///
    /// # Errors
    /// As [`Process::stop`].
    pub async fn stop_by(&self, signal: StopSignal, grace: Duration) -> Result<Stopped, StopError> {
        let begun = Instant::now();
        let asked = begun + grace.min(MAX_GRACE);
        self.0.deadline.send_if_modified(|deadline| {
            let sooner = asked < *deadline;
            *deadline = asked.min(*deadline);
            sooner
        });
        let mut ending = self.0.ending.lock().await;
        if let Some(stopped) = &*ending {
            return Ok(stopped.clone());
        }
        let signal = {
            let record = self.lock_record();
            let has_begun = matches!(record.state, State::Stopping { .. });
            if has_begun { record.stop_signal } else { signal }
        };
        // Killing is not announced: by the time it is on disk, it is done.
        let left = self.0.deadline.borrow().saturating_duration_since(begun);
        if !left.is_zero() && self.try_wait().is_none() {
            self.note_stopping(signal, left).await;
        }
        // They carry its mark: one that began while the tree is looked through might be seen by no look.
        self.0.commands.close().await;
        let mut tree = Ending {
            scanner: &self.0.care.scanner,
            instance: self.id().as_str(),
            session: &self.0.session,
            group: self.0.group.as_ref(),
            leader: self.0.leader.pidfd(),
            ask: signal.signal(),
            deadline: self.0.deadline.subscribe(),
        };
        let ended = tree.run().await.map_err(|error| StopError::new(self.id(), error))?;
        failpoint::hit("stop.gone");
        let status = self.settled().await;
        let oom_killed = *self.0.oom_killed.get_or_init(|| self.oom_killed());
        let stopped = Stopped { status, killed: ended.killed, oom_killed, took: begun.elapsed() };
        *ending = Some(stopped.clone());
        self.let_go().await;
        Ok(stopped)
    }

    /// Kills the whole tree now, whatever grace another has given it.
    ///
    /// # Errors
    /// As [`Process::stop`].
    pub async fn kill(&self) -> Result<Stopped, StopError> {
        self.stop(Duration::ZERO).await
    }

    /// The deadline goes to disk first, so that an engine that dies meanwhile does not reset it.
    async fn note_stopping(&self, signal: StopSignal, left: Duration) {
        let record = {
            let mut record = self.lock_record();
            record.stop_signal = signal;
            record.state = State::stopping(left);
            record.clone()
        };
        let care = self.0.care.clone();
        failpoint::hit("stop.recorded.before");
        let written = tokio::task::spawn_blocking(move || care.store.write(&record)).await;
        failpoint::hit("stop.recorded.after");
        // A full disk must not keep anything from being stopped.
        if let Ok(Err(error)) = written {
            tracing::warn!(instance = %self.id(), %error, "cannot record that an instance is being stopped");
        }
    }

    /// The tree is gone: reap, forget, remove the record.
    pub(crate) async fn let_go(&self) {
        let process = self.clone();
        let done = tokio::task::spawn_blocking(move || {
            // Before the record: a crash in between leaves a record of nothing, which the next engine clears.
            if let Some(Err(error)) = process.0.group.as_ref().map(Group::remove) {
                tracing::warn!(instance = %process.id(), %error, "cannot remove the cgroup of a stopped instance");
            }
            // Before the id is free: a namesake's record must not be the one that is removed.
            failpoint::hit("stop.unrecorded.before");
            let removed = process.0.care.store.remove(process.id());
            failpoint::hit("stop.unrecorded.after");
            let mut leaders = Leaders::lock();
            // Reaped and forgotten under one lock: no other may take the number for its own in between.
            if let Some(pidfd) = process.0.leader.pidfd() {
                pidfd.get_ref().reap();
                leaders.remove(process.pid());
            }
            drop(leaders);
            if let Some(table) = process.0.table.upgrade() {
                let mut rows = table.lock();
                rows.processes.remove(process.id());
                rows.ids.remove(process.id());
            }
            removed
        });
        if let Ok(Err(error)) = done.await {
            tracing::warn!(instance = %self.id(), %error, "cannot remove the record of a stopped instance");
        }
    }

    fn lock_record(&self) -> MutexGuard<'_, Record> {
        // Changed by single assignments only.
        self.0.record.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
