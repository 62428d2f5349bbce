//! After a crash of the engine: end what the last one left running, and nothing else.
//!
//! For an engine in the foreground, whose instances must not outlive it. Only what is proven to be an
//! instance's is signalled: its main process by identity, its session while that identity holds, and
//! every process that carries both its id and this run directory in its environment. What might be an
//! instance's and cannot be proven is left alone, kept on record and told: guessing is how two copies
//! of one service come to write one database.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use formic_core::{InstanceId, ServiceName};
use serde::Serialize;
use tokio::io::unix::AsyncFd;
use tokio::task::JoinSet;

use crate::adrift::Inherited;
use crate::cgroup::{Group, Groups};
use crate::disk::{self, FileError};
use crate::features::Features;
use crate::identity::boot_id;
use crate::judge::{AMBIGUOUS, Judge, Leader, Whose};
use crate::pidfd::PidFd;
use crate::process::{Care, StopError};
use crate::record::{Entry, Record, Store, Unreadable};
use crate::snapshot::Scanner;
use crate::stop_signal::StopSignal;

/// What was done about one record.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Swept {
    /// The instance.
    pub id: InstanceId,
    /// Its service, unless the record is unreadable or missing.
    pub service: Option<ServiceName>,
    /// What became of it.
    pub outcome: Outcome,
}

/// See [`Swept`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// The machine was started anew since; nothing can be left.
    OtherBoot,
    /// Nothing of it was running.
    Gone,
    /// It was running and was ended.
    Stopped {
        /// The processes that were found.
        pids: Vec<u32>,
    },
    /// It may be running, and that cannot be proven or ended. Its record stays.
    Quarantined {
        /// The processes in question.
        pids: Vec<u32>,
        /// Why they were left alone, or are left.
        reason: String,
    },
    /// This directory is a copy, and the instance that of the one it is a copy of. It was left alone; the copied record is
    /// gone.
    Elsewhere {
        /// The directory that it was started for.
        dir: PathBuf,
    },
    /// The record could not be read and was set aside; what carried its id was ended.
    Damaged {
        /// Where it is now.
        set_aside: PathBuf,
        /// The processes that were found by its id.
        pids: Vec<u32>,
    },
}

/// Ends what an earlier engine left behind, with this grace (or what is left of the grace it had given),
/// and removes the records. Only while holding the [`crate::Lock`] of the application and before starting
/// anything.
///
/// # Errors
/// If the records or `/proc` cannot be read.
pub async fn sweep(run_dir: &Path, features: &Features, grace: Duration) -> Result<Vec<Swept>, FileError> {
    let store = Store::open(run_dir)?;
    let boot_id = boot_id().map_err(|source| disk::explain("read", Path::new("/proc"), source))?;
    let scanner = Scanner::new(store.home());
    let groups = Groups::find(store.home(), &features.cgroups);
    let care = Care {
        store,
        scanner,
        groups,
        exit_info: features.exit_info,
        keeper: None,
        keeps_ends: Default::default(),
    };
    let judge = Judge { care: Arc::new(care), boot_id, features: features.clone() };
    let entries = judge.load().await?;
    let sweeper = Arc::new(Sweeper { judge, grace });
    let mut tasks = JoinSet::new();
    let mut groups: BTreeMap<_, _> = sweeper.judge.groups()?.into_iter().collect();
    for entry in entries {
        let (sweeper, group) = (sweeper.clone(), groups.remove(&entry.id));
        tasks.spawn(async move { sweeper.one(entry, group).await });
    }
    for (id, group) in groups {
        let sweeper = sweeper.clone();
        tasks.spawn(async move { sweeper.unrecorded(id, group).await });
    }
    let mut swept = tasks.join_all().await.into_iter().collect::<Result<Vec<_>, _>>()?;
    swept.sort_by(|a, b| a.id.cmp(&b.id));
    Ok(swept)
}

struct Sweeper {
    judge: Judge,
    grace: Duration,
}

impl Sweeper {
    async fn one(&self, entry: Entry, group: Option<Group>) -> Result<Swept, FileError> {
        let service = entry.record.as_ref().ok().map(|record| record.service.clone());
        let outcome = match entry.record {
            Ok(record) => self.known(&record).await?,
            Err(Unreadable::Format(format)) => {
                let pids = self.judge.found(&entry.id, None).await?;
                let reason = Unreadable::Format(format).to_string();
                Outcome::Quarantined { pids, reason }
            }
            Err(Unreadable::Damaged(reason)) => {
                tracing::warn!(instance = %entry.id, %reason, "a record is damaged");
                match self
                    .end(&entry.id, None, None, group.as_ref(), (StopSignal::default(), self.grace))
                    .await?
                {
                    Ok(pids) => {
                        self.judge.care.store.set_aside(&entry.path)?;
                        let mut set_aside = entry.path.into_os_string();
                        set_aside.push(".damaged");
                        Outcome::Damaged { set_aside: set_aside.into(), pids }
                    }
                    Err(left) => left,
                }
            }
        };
        Ok(Swept { id: entry.id, service, outcome })
    }

    /// A cgroup whose record is gone: it was to be removed next, or somebody removed the file.
    async fn unrecorded(&self, id: InstanceId, group: Group) -> Result<Swept, FileError> {
        let outcome =
            match self.end(&id, None, None, Some(&group), (StopSignal::default(), self.grace)).await? {
                Ok(pids) if pids.is_empty() => Outcome::Gone,
                Ok(pids) => Outcome::Stopped { pids },
                Err(left) => left,
            };
        Ok(Swept { id, service: None, outcome })
    }

    async fn known(&self, record: &Record) -> Result<Outcome, FileError> {
        if record.boot_id != self.judge.boot_id {
            self.judge.care.store.remove(&record.id)?;
            return Ok(Outcome::OtherBoot);
        }
        match self.judge.whose(record)? {
            Whose::Ours => {}
            Whose::Elsewhere(dir) => {
                self.judge.care.store.remove(&record.id)?;
                return Ok(Outcome::Elsewhere { dir });
            }
            Whose::Unclear { pids, reason } => return Ok(Outcome::Quarantined { pids, reason }),
        }
        // Of one that is known to have ended the numbers may be others' by now: by mark and cgroup alone.
        let over = self.judge.care.store.end_of(record).is_some();
        let pid = record.identity.as_ref().map(|identity| identity.pid);
        let leader = if over { Leader::NotOurs } else { self.judge.leader(record)? };
        let (leader, session, suspect) = match leader {
            Leader::Ours(pidfd) => (Some(pidfd), pid, None),
            Leader::Nobody => (None, None, pid),
            Leader::NotOurs => (None, None, None),
            Leader::Ambiguous => {
                return Ok(Outcome::Quarantined {
                    pids: pid.into_iter().collect(),
                    reason: AMBIGUOUS.to_owned(),
                });
            }
        };
        let grace = record.state.left().map_or(self.grace, |left| left.min(self.grace));
        let group = self.judge.care.store.group(record);
        let (ask, inherited) = ((record.stop_signal, grace), Inherited::of(record));
        let ended =
            self.judge.end_of(&record.id, leader.as_ref(), session, group.as_ref(), ask, inherited).await?;
        match Self::left(ended) {
            Ok(pids) => {
                if suspect.is_some() {
                    // The session may be the instance's, or that of a later namesake that ended as well.
                    let unproven = self.judge.found(&record.id, suspect).await?;
                    if !unproven.is_empty() {
                        let reason =
                            "they are in a session of its number, which its main process no longer proves";
                        return Ok(Outcome::Quarantined { pids: unproven, reason: reason.to_owned() });
                    }
                }
                self.judge.care.store.remove(&record.id)?;
                Ok(if pids.is_empty() { Outcome::Gone } else { Outcome::Stopped { pids } })
            }
            Err(left) => Ok(left),
        }
    }

    /// Ends a tree; the inner error is what is left of it.
    async fn end(
        &self,
        id: &InstanceId,
        leader: Option<&AsyncFd<PidFd>>,
        session: Option<u32>,
        group: Option<&Group>,
        ask: (StopSignal, Duration),
    ) -> Result<Result<Vec<u32>, Outcome>, FileError> {
        Ok(Self::left(self.judge.end(id, leader, session, group, ask).await?))
    }

    fn left((pids, ended): (Vec<u32>, Result<(), StopError>)) -> Result<Vec<u32>, Outcome> {
        match ended {
            Ok(()) => Ok(pids),
            Err(error) => Err(Outcome::Quarantined { pids, reason: error.to_string() }),
        }
    }
}
