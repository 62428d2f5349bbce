//! A running instance: how it ends, and how to end it.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};
use std::time::Duration;

use formic_core::{InstanceId, ServiceName};
use tokio::io::unix::AsyncFd;
use tokio::sync::watch;
use tokio::time::Instant;

use crate::exit::ExitStatus;
use crate::identity::Identity;
use crate::pidfd::{PidFd, ended};
use crate::record::{Record, State, Store, now_ms};
use crate::snapshot::{Claim, Scanner};
use crate::subreaper::Leaders;
use crate::tree::{Ending, TreeError};

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
    pidfd: AsyncFd<PidFd>,
    identity: Identity,
    id: InstanceId,
    service: ServiceName,
    record: Mutex<Record>,
    status: OnceLock<ExitStatus>,
    /// When asking turns to killing; whoever is most impatient decides.
    deadline: watch::Sender<Instant>,
    /// One at a time ends the tree; the others wait here and find it done.
    ending: tokio::sync::Mutex<Option<Stopped>>,
    care: Arc<Care>,
    table: Weak<Table>,
}

/// What all processes of one supervisor share.
#[derive(Debug)]
pub(crate) struct Care {
    pub(crate) store: Store,
    pub(crate) scanner: Scanner,
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
        }
    }
}

// === impl Process ===

impl Process {
    pub(crate) fn new(
        pidfd: AsyncFd<PidFd>,
        identity: Identity,
        record: Record,
        care: Arc<Care>,
        table: &Arc<Table>,
    ) -> Self {
        Self(Arc::new(Inner {
            pidfd,
            identity,
            id: record.id.clone(),
            service: record.service.clone(),
            record: Mutex::new(record),
            status: OnceLock::new(),
            deadline: watch::Sender::new(Instant::now() + FAR),
            ending: tokio::sync::Mutex::new(None),
            care,
            table: Arc::downgrade(table),
        }))
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

    /// How the main process ended, or `None` while it runs.
    #[must_use]
    pub fn try_wait(&self) -> Option<ExitStatus> {
        if let Some(status) = self.0.status.get() {
            return Some(*status);
        }
        // Left unreaped: its number names the session until the whole tree is gone.
        let status = self.0.pidfd.get_ref().peek()?;
        Some(*self.0.status.get_or_init(|| status))
    }

    /// Waits until the main process has ended. Cancel safe, and many may wait. Its tree may live on:
    /// call [`Process::stop`] in any case, which also lets go of the instance.
    pub async fn wait(&self) -> ExitStatus {
        ended(&self.0.pidfd).await;
        self.try_wait().unwrap_or(ExitStatus::Unknown)
    }

    /// Ends the whole tree: SIGTERM to the main process; to those that outlive it as well; SIGKILL for
    /// whatever is left after `grace`; at most 5 s more until all are gone. Then reaps the main process
    /// and removes the record. Zero grace kills at once; on an ended process it clears up behind it.
    ///
    /// Cancel safe: called again, it goes on. Called while another waits in it, the shorter grace holds.
    ///
    /// # Errors
    /// If processes are left, or nobody can say. The instance stays known and may be stopped again.
    pub async fn stop(&self, grace: Duration) -> Result<Stopped, StopError> {
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
        // Killing is not announced: by the time it is on disk, it is done.
        if !grace.is_zero() && self.try_wait().is_none() {
            self.note_stopping(grace.min(MAX_GRACE)).await;
        }
        let session = Some(self.pid());
        let mut tree = Ending {
            scanner: &self.0.care.scanner,
            claim: Claim { instance: self.id().as_str().to_owned(), session },
            leader: Some(&self.0.pidfd),
            deadline: self.0.deadline.subscribe(),
        };
        let ended = tree.run().await.map_err(|error| StopError::new(self.id(), error))?;
        let status = self.try_wait().unwrap_or(ExitStatus::Unknown);
        let stopped = Stopped { status, killed: ended.killed, took: begun.elapsed() };
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
    async fn note_stopping(&self, grace: Duration) {
        let grace = u64::try_from(grace.as_millis()).unwrap_or(u64::MAX);
        let record = {
            let mut record = self.lock_record();
            record.state = State::Stopping { deadline_ms: now_ms().saturating_add(grace) };
            record.clone()
        };
        let care = self.0.care.clone();
        let written = tokio::task::spawn_blocking(move || care.store.write(&record)).await;
        // A full disk must not keep anything from being stopped.
        if let Ok(Err(error)) = written {
            tracing::warn!(instance = %self.id(), %error, "cannot record that an instance is being stopped");
        }
    }

    /// The tree is gone: reap, forget, remove the record.
    pub(crate) async fn let_go(&self) {
        let process = self.clone();
        let done = tokio::task::spawn_blocking(move || {
            // Before the id is free: a namesake's record must not be the one that is removed.
            let removed = process.0.care.store.remove(process.id());
            let mut leaders = Leaders::lock();
            // Reaped and forgotten under one lock: no other may take the number for its own in between.
            process.0.pidfd.get_ref().reap();
            leaders.remove(process.pid());
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
