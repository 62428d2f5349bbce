//! How an instance is ended: its whole tree, with a deadline that outlives the engine.

use std::collections::BTreeSet;
use std::io;
use std::sync::atomic::Ordering;
use std::time::Duration;

use formic_core::InstanceId;
use tokio::time::Instant;

use super::Process;
use crate::adrift::Inherited;
use crate::cgroup::Group;
use crate::disk::FileError;
use crate::exit::ExitStatus;
use crate::failpoint;
use crate::record::State;
use crate::stop_signal::{StopSignal, raw};
use crate::subreaper::Leaders;
use crate::tree::{Ending, TreeError};

/// Longer grace is taken as this, so that no clock overflows.
const MAX_GRACE: Duration = Duration::from_secs(24 * 3600);

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
    /// Ends the whole tree: the signal of its record (SIGTERM, unless another was asked for) to the main
    /// process; to those that outlive it as well; SIGKILL for whatever is left after `grace`; at most 5 s
    /// more until all are gone. Then reaps the main process and removes the record, or leaves it, and beside it how it ended
    /// ([`Supervisor::keep_ends`](crate::Supervisor::keep_ends)). Zero grace kills at once; on an ended process it clears
    /// up behind it.
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
            inherited: Inherited::of(&self.record()),
            group: self.0.group.as_ref(),
            // What a person has started there is nobody's descendant, and may have left the cgroup.
            is_kin: self.0.is_kin && !self.0.care.store.is_entered(self.id()),
            leader: self.0.leader.pidfd(),
            ask: raw(signal),
            deadline: self.0.deadline.subscribe(),
        };
        let ended = tree.run().await.map_err(|error| StopError::new(self.id(), error))?;
        failpoint::hit("stop.gone");
        let status = self.settled().await;
        let oom_killed = *self.0.oom_killed.get_or_init(|| self.oom_killed());
        let stopped = Stopped { status, killed: ended.killed, oom_killed, took: begun.elapsed() };
        *ending = Some(stopped.clone());
        self.0.session.tell_of_suspects(self.id());
        if self.let_go().await && self.0.group.is_none() {
            self.tell_of_strays().await;
        }
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

    /// The last instance is gone: what is there still was one's of them, but no more can be said, and so it is left alone.
    async fn tell_of_strays(&self) {
        match self.0.care.scanner.strays().await {
            Ok(strays) if strays.is_empty() => {}
            Ok(strays) => tracing::warn!(
                pids = ?strays,
                "processes are left that instances have started and that nothing proves to be one's: they go on"
            ),
            Err(error) => {
                tracing::debug!(%error, "whether instances have left processes behind is not known")
            }
        }
    }

    /// The tree is gone: note how it ended, reap, forget, remove the record unless ends are kept. Whether no other is
    /// held now.
    pub(crate) async fn let_go(&self) -> bool {
        let process = self.clone();
        let done = tokio::task::spawn_blocking(move || {
            // Before the record: a crash in between leaves a record of nothing, which the next engine clears.
            if let Some(Err(error)) = process.0.group.as_ref().map(Group::remove) {
                tracing::warn!(instance = %process.id(), %error, "cannot remove the cgroup of a stopped instance");
            }
            // Before the id is free: a namesake's record must not be the one that is written or removed.
            let recorded = process.record_end();
            failpoint::hit("stop.noted");
            let mut leaders = Leaders::lock();
            // Reaped and forgotten under one lock: no other may take the number for its own in between.
            if let Some(pidfd) = process.0.leader.pidfd() {
                pidfd.get_ref().reap();
                leaders.remove(process.pid());
            }
            drop(leaders);
            failpoint::hit("stop.reaped");
            let last = process.0.table.upgrade().is_some_and(|table| {
                let mut rows = table.lock();
                rows.processes.remove(process.id());
                rows.ids.remove(process.id());
                rows.processes.is_empty()
            });
            (recorded, last)
        });
        // A blocking task that fails has panicked, which it tells itself.
        let Ok((recorded, last)) = done.await else { return false };
        if let Err(error) = recorded {
            tracing::warn!(instance = %self.id(), %error, "cannot put the end of an instance on record");
        }
        last
    }

    /// How it ended is noted, if that is kept; else there is no record any more.
    fn record_end(&self) -> Result<(), FileError> {
        let store = &self.0.care.store;
        if !self.0.care.keeps_ends.load(Ordering::Relaxed) {
            return store.remove(self.id());
        }
        match self.0.status.get() {
            // Whoever comes next may learn it still.
            None | Some(ExitStatus::Unknown) => Ok(()),
            Some(status) => store.note_end(&self.record(), *status),
        }
    }
}
