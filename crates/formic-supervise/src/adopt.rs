//! After a crash of the engine: take over what the last one left running, and touch nothing unproven.
//!
//! For an engine whose instances outlive it; [`sweep`](crate::sweep()) is for one whose instances must not.
//! Every record has one of a few fates, and each is reached again when the engine dies on the way to it:
//! what is adopted keeps its record until it is stopped, a deadline that was set goes on, what never ran is
//! ended, and what cannot be proven is kept, told, and its place is not filled. Guessing is how two copies
//! of one service come to write one database.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use formic_core::{InstanceId, ServiceName};
use tokio::task::JoinSet;

use crate::cgroup::Group;
use crate::disk::{self, FileError};
use crate::exit::ExitStatus;
use crate::gate::Gate;
use crate::judge::{self, AMBIGUOUS, Judge, Whose};
use crate::launch::is_file_name;
use crate::process::{Leader, Process};
use crate::record::{Entry, Record, State, Unreadable};
use crate::stop_signal::StopSignal;
use crate::subreaper::Leaders;

/// What was found of one instance.
#[derive(Clone, Debug)]
pub struct Adopted {
    /// The instance.
    pub id: InstanceId,
    /// Its service, unless the record is unreadable or missing.
    pub service: Option<ServiceName>,
    /// What became of it.
    pub fate: Fate,
}

/// See [`Adopted`].
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Fate {
    /// It runs, and is ours again.
    Running(Process),
    /// It was being stopped: [`Process::stop`] goes on, to the deadline that it was given first.
    Stopping {
        /// The process.
        process: Process,
        /// What is left of its grace.
        left: Duration,
    },
    /// Its main process ended in the meantime. [`Process::wait`] says how, and [`Process::stop`] ends what
    /// is left of its tree and removes the record.
    Ended(Process),
    /// All of it is gone, and its engine died before it had written down elsewhere what follows from that
    /// ([`Supervisor::keep_ends`](crate::Supervisor::keep_ends)). The record stays until it is
    /// [released](crate::Supervisor::release_ended).
    Over {
        /// How its main process ended.
        status: ExitStatus,
    },
    /// Its program was never executed. What there was of it is gone, and so is the record.
    NeverRan,
    /// The machine was started anew since. The record is gone.
    OtherBoot,
    /// This directory is a copy, and the instance that of the one it is a copy of. It was left alone; the copied record is
    /// gone.
    Elsewhere {
        /// The directory that it was started for.
        dir: PathBuf,
    },
    /// It may be running, and that cannot be proven. Nothing was done, and the record stays.
    Quarantined {
        /// The processes in question.
        pids: Vec<u32>,
        /// Why nobody can say.
        reason: String,
    },
    /// The record could not be read, nothing carries its id, and it was set aside.
    Damaged {
        /// Where it is now.
        set_aside: PathBuf,
    },
    /// Processes carried the mark of an instance that has no record, or were in its cgroup. They were ended.
    Unrecorded {
        /// The processes that were found.
        pids: Vec<u32>,
    },
}

/// See [`crate::Supervisor::adopt`].
pub(crate) async fn adopt(gate: &Arc<Gate>, grace: Duration) -> Result<Vec<Adopted>, FileError> {
    let judge = gate.judge();
    let entries = judge.load().await?;
    let recorded: BTreeSet<InstanceId> = entries.iter().map(|entry| entry.id.clone()).collect();
    let adopter = Arc::new(Adopter { judge, gate: gate.clone(), grace });

    let mut tasks = JoinSet::new();
    for entry in entries {
        let adopter = adopter.clone();
        tasks.spawn(async move {
            let id = entry.id.clone();
            adopter.one(entry).await.unwrap_or_else(|error| Some(unclear(id, &error)))
        });
    }
    // After the records were read: what was recorded before is in them.
    let snapshot = adopter.judge.snapshot().await?;
    let marked = snapshot.marked().into_iter().map(|id| (InstanceId::new(id), None));
    let mut found: BTreeMap<_, Option<Group>> = marked.collect();
    found.extend(adopter.judge.groups()?.into_iter().map(|(id, group)| (id, Some(group))));
    for (id, group) in found {
        if is_file_name(id.as_str()) && !recorded.contains(&id) && !adopter.is_known(&id) {
            let adopter = adopter.clone();
            tasks.spawn(async move {
                let outcome = adopter.unrecorded(id.clone(), group).await;
                outcome.unwrap_or_else(|error| Some(unclear(id, &error)))
            });
        }
    }
    let mut adopted: Vec<_> = tasks.join_all().await.into_iter().flatten().collect();
    // While the main processes prove their sessions: who is in them is known even when they do not any more.
    let snapshot = adopter.judge.snapshot().await?;
    for found in &adopted {
        if let Fate::Running(process) | Fate::Stopping { process, .. } | Fate::Ended(process) = &found.fate {
            process.learn(&snapshot);
        }
    }
    adopted.sort_by(|a, b| a.id.cmp(&b.id));
    Ok(adopted)
}

/// See [`crate::Supervisor::release`].
pub(crate) async fn release(gate: &Arc<Gate>, id: &InstanceId) -> Result<bool, FileError> {
    let (gate, id) = (gate.clone(), id.clone());
    let removed = tokio::task::spawn_blocking(move || {
        // Locked all the while: nobody starts an instance of this id between the question and the act.
        let rows = gate.table.lock();
        if rows.ids.contains(&id) || !is_file_name(id.as_str()) || !gate.care.store.path(&id).exists() {
            return Ok(false);
        }
        gate.care.store.remove(&id).map(|()| true)
    });
    removed.await.map_err(|error| disk::explain("release", Path::new("a record"), error.into()))?
}

struct Adopter {
    judge: Judge,
    gate: Arc<Gate>,
    grace: Duration,
}

impl Adopter {
    fn is_known(&self, id: &InstanceId) -> bool {
        self.gate.table.lock().ids.contains(id)
    }

    /// `None` for one that is being started just now.
    async fn one(&self, entry: Entry) -> Result<Option<Adopted>, FileError> {
        let known = {
            let rows = self.gate.table.lock();
            rows.ids.contains(&entry.id).then(|| rows.processes.get(&entry.id).cloned())
        };
        if let Some(process) = known {
            return Ok(process.map(told));
        }
        let service = entry.record.as_ref().ok().map(|record| record.service.clone());
        let fate = match entry.record {
            Ok(record) => self.known(record).await?,
            Err(why) => {
                let mut pids = self.judge.found(&entry.id, None).await?;
                if let Some((_, group)) = self.judge.groups()?.into_iter().find(|(id, _)| *id == entry.id) {
                    let members =
                        group.members().map_err(|source| disk::explain("read", group.dir(), source))?;
                    pids.extend(members.iter().map(|member| member.pid));
                    pids.sort_unstable();
                    pids.dedup();
                }
                match why {
                    // Nobody is harmed for a record that is damaged: what carries its id may serve just now.
                    Unreadable::Damaged(_) if pids.is_empty() => {
                        self.judge.care.store.set_aside(&entry.path)?;
                        let mut set_aside = entry.path.into_os_string();
                        set_aside.push(".damaged");
                        Fate::Damaged { set_aside: set_aside.into() }
                    }
                    why => Fate::Quarantined { pids, reason: format!("its record cannot be read: {why}") },
                }
            }
        };
        Ok(Some(Adopted { id: entry.id, service, fate }))
    }

    async fn known(&self, record: Record) -> Result<Fate, FileError> {
        if record.boot_id != self.judge.boot_id {
            self.judge.care.store.remove(&record.id)?;
            return Ok(Fate::OtherBoot);
        }
        match self.judge.whose(&record)? {
            Whose::Ours => {}
            Whose::Elsewhere(dir) => {
                self.judge.care.store.remove(&record.id)?;
                return Ok(Fate::Elsewhere { dir });
            }
            Whose::Unclear { pids, reason } => return Ok(Fate::Quarantined { pids, reason }),
        }
        // Its tree was gone before that was written, and its numbers may be others' by now. Who came to it after that carries its mark,
        // or is in its cgroup.
        if let Some(status) = self.judge.care.store.end_of(&record) {
            let group = self.judge.care.store.group(&record);
            let (pids, ended) = self
                .judge
                .end(&record.id, None, None, group.as_ref(), (StopSignal::default(), Duration::ZERO))
                .await?;
            return Ok(match ended {
                Ok(()) => Fate::Over { status },
                Err(error) => Fate::Quarantined { pids, reason: error.to_string() },
            });
        }
        if record.state == State::Intent {
            // The gate was closed: it has executed nothing, and has ended by itself unless it is about to.
            let group = self.judge.care.store.group(&record);
            let (pids, ended) = self
                .judge
                .end(&record.id, None, None, group.as_ref(), (StopSignal::default(), Duration::ZERO))
                .await?;
            if let Err(error) = ended {
                return Ok(Fate::Quarantined { pids, reason: error.to_string() });
            }
            self.judge.care.store.remove(&record.id)?;
            return Ok(Fate::NeverRan);
        }
        let leader = match self.judge.leader(&record)? {
            judge::Leader::Ours(pidfd) => Leader::Adopted(pidfd),
            judge::Leader::Nobody | judge::Leader::NotOurs => {
                let status = match &record.identity {
                    Some(identity) => self.judge.care.exit_of(identity).await,
                    None => None,
                };
                Leader::Gone(status.unwrap_or(ExitStatus::Unknown))
            }
            judge::Leader::Ambiguous => {
                let pids = record.identity.iter().map(|identity| identity.pid).collect();
                return Ok(Fate::Quarantined { pids, reason: AMBIGUOUS.to_owned() });
            }
        };
        let Some(identity) = record.identity.clone() else {
            let pids = self.judge.found(&record.id, None).await?;
            return Ok(Fate::Quarantined { pids, reason: "its record names no process".to_owned() });
        };
        let process = Process::new(leader, identity, record, self.judge.care.clone(), &self.gate.table);
        {
            // In this order everywhere: main processes, then the table.
            let mut leaders = Leaders::lock();
            let mut rows = self.gate.table.lock();
            if process.is_held() {
                leaders.insert(process.pid());
            }
            rows.ids.insert(process.id().clone());
            rows.processes.insert(process.id().clone(), process.clone());
        }
        Ok(told(process).fate)
    }

    async fn unrecorded(&self, id: InstanceId, group: Option<Group>) -> Result<Option<Adopted>, FileError> {
        let (pids, ended) =
            self.judge.end(&id, None, None, group.as_ref(), (StopSignal::default(), self.grace)).await?;
        let fate = match ended {
            Err(error) => Fate::Quarantined { pids, reason: error.to_string() },
            // Seen by the snapshot and gone by itself before it was looked for.
            Ok(()) if pids.is_empty() => return Ok(None),
            Ok(()) => Fate::Unrecorded { pids },
        };
        Ok(Some(Adopted { id, service: None, fate }))
    }
}

/// One that could not be judged. The others are, all the same.
fn unclear(id: InstanceId, error: &FileError) -> Adopted {
    Adopted { id, service: None, fate: Fate::Quarantined { pids: Vec::new(), reason: error.to_string() } }
}

/// The fate of a process that is held.
fn told(process: Process) -> Adopted {
    let (id, service) = (process.id().clone(), Some(process.service().clone()));
    let fate = if process.has_ended() {
        Fate::Ended(process)
    } else {
        match process.record().state.left() {
            Some(left) => Fate::Stopping { process, left },
            None => Fate::Running(process),
        }
    };
    Adopted { id, service, fate }
}
