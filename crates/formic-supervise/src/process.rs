//! A running instance, and how it ends.

mod stop;

use std::collections::{HashMap, HashSet};
use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};
use std::time::Duration;

use formic_core::{InstanceId, ServiceName};
use tokio::io::unix::AsyncFd;
use tokio::sync::watch;
use tokio::time::Instant;

pub use self::stop::{StopError, Stopped};
use crate::account::Account;
use crate::beside::Commands;
use crate::cgroup::{Group, Groups};
use crate::exit::ExitStatus;
use crate::handed::{self, listens_on};
use crate::home::Home;
use crate::identity::Identity;
use crate::keeper;
use crate::pidfd::{PidFd, Waited, ended};
use crate::privileges::Bounds;
use crate::record::{Record, Store};
use crate::snapshot::{Scanner, Snapshot};
use crate::tree::Session;
use crate::usage::Usage;

/// A deadline that is never reached, for those who are not being stopped.
const FAR: Duration = Duration::from_secs(365 * 24 * 3600);

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
    /// Whether what it leaves behind goes where this engine looks.
    is_kin: bool,
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
    /// See [`crate::Supervisor::keep_ends`].
    pub(crate) keeps_ends: AtomicBool,
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

/// What an instance may do, as it was started.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rights {
    /// Whom it was started as, if not as the engine's own user.
    pub account: Option<Account>,
    /// What it was bound to; unknown of one that an engine started which did not write that down.
    pub bounds: Option<Bounds>,
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
        let is_kin = match (&leader, care.scanner.kin()) {
            (Leader::Child(_), kin) => kin.is_some(),
            // One of a keeper before this one came to another when that died. Asked before: its number is its own till then.
            (Leader::Adopted(pidfd), Some(kin)) => {
                kin.is_parent_of(identity.pid) && !pidfd.get_ref().is_reaped()
            }
            (Leader::Adopted(_), None) | (Leader::Gone(_), _) => false,
        };
        Self(Arc::new(Inner {
            leader,
            is_kin,
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

    /// Whether the number of its main process means that one and no other, ended or not.
    pub(crate) fn has_its_number(&self) -> bool {
        self.0.leader.pidfd().is_some_and(|pidfd| !pidfd.get_ref().is_reaped())
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

    /// What it was started with.
    #[must_use]
    pub fn rights(&self) -> Rights {
        let record = self.lock_record();
        Rights { account: record.account.clone(), bounds: record.bounds }
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
            _ if self.has_its_number() => Usage::of_process(self.pid()),
            _ => Usage::default(),
        }
    }

    /// Where the records of its supervisor are.
    pub(crate) fn home(&self) -> &Home {
        self.0.care.store.home()
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

    fn lock_record(&self) -> MutexGuard<'_, Record> {
        // Changed by single assignments only.
        self.0.record.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
