//! What an engine before this one has left, and what follows from it.
//!
//! What runs goes on as what it was: ready is ready, a deadline stays where it was, a count of restarts does not
//! fall. What is gone ended while nobody looked, and its restart follows the rules, with how it ended where its record
//! says that. What cannot be proven is quarantined.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use formic_plan::{Instance, InstanceId, Outcome, StopCause};
use formic_supervise::{Adopted, ExitStatus};
use serde_json::Value;

use super::Core;
use crate::engine::cell::{Cell, StopKind, outcome};
use crate::engine::effects::Effect;
use crate::journal::Kind;

/// An instance that an engine before this one has left a trace of.
#[derive(Debug)]
pub(crate) struct Found {
    pub(crate) id: InstanceId,
    /// What was written beside its record when it was started.
    pub(crate) note: Value,
    /// The port that was chosen for it, by its record.
    pub(crate) port: Option<u16>,
    pub(crate) fate: Fate,
}

/// What became of it.
#[derive(Clone, Debug)]
pub(crate) enum Fate {
    /// It runs.
    Running { pid: u32 },
    /// It was being stopped, and has so long left.
    Stopping { pid: u32, left: Duration },
    /// Its leader ended meanwhile; how is told by its process.
    Ended { pid: u32 },
    /// All of it is gone, and how is in its record: the engine before died before it had written down what follows.
    Over { status: ExitStatus },
    /// Its program was never executed.
    NeverRan,
    /// Nothing of it is there any more.
    Gone,
    /// It is an instance of another folder, of which this one is a copy.
    Elsewhere { dir: PathBuf },
    /// It may be running.
    Quarantined { reason: String },
}

// === impl Fate ===

impl Fate {
    fn is_elsewhere(&self) -> bool {
        matches!(self, Self::Elsewhere { .. })
    }

    /// Whether its program runs no more.
    fn is_end(&self) -> bool {
        matches!(self, Self::Ended { .. } | Self::Over { .. })
    }
}

// === impl Found ===

impl From<Adopted> for Found {
    fn from(adopted: Adopted) -> Self {
        use formic_supervise::Fate as Left;
        let id = InstanceId::from(adopted.id.as_str());
        let (note, port) = match &adopted.fate {
            Left::Running(process) | Left::Ended(process) | Left::Stopping { process, .. } => {
                let record = process.record();
                (record.note, record.port)
            }
            _ => (Value::Null, None),
        };
        let fate = match adopted.fate {
            Left::Running(process) => Fate::Running { pid: process.pid() },
            Left::Stopping { process, left } => Fate::Stopping { pid: process.pid(), left },
            Left::Ended(process) => Fate::Ended { pid: process.pid() },
            Left::Over { status } => Fate::Over { status },
            Left::NeverRan => Fate::NeverRan,
            Left::Elsewhere { dir } => Fate::Elsewhere { dir },
            Left::Quarantined { reason, .. } => Fate::Quarantined { reason },
            _ => Fate::Gone,
        };
        Self { id, note, port, fate }
    }
}

// === impl Core ===

impl Core {
    /// How those that run were last seen in the registry.
    pub(crate) fn remembered(&self, found: &[Found]) -> Vec<formic_core::Instance> {
        let runs = |found: &&Found| matches!(found.fate, Fate::Running { .. });
        let cells = found.iter().filter(runs).filter_map(|found| self.roster.cell(&found.id));
        cells.filter_map(|cell| cell.registered.clone()).collect()
    }

    /// Takes over what is there. Comes before anything is decided.
    pub(super) fn adopt(&mut self, found: Vec<Found>) {
        let mut found: HashMap<InstanceId, Found> =
            found.into_iter().map(|found| (found.id.clone(), found)).collect();
        // What is on disk of it in the database is newer than what was written at its start; without a
        // database there is that. Not of what has ended: a record may outlive what the database knows of its
        // instance, and would bring it back beside the one that has its place.
        let unknown = found.values().filter(|found| !self.roster.contains(&found.id) && !found.fate.is_end());
        let noted: Vec<(Instance, Cell)> =
            unknown.filter_map(|found| serde_json::from_value(found.note.clone()).ok()).collect();
        for (instance, cell) in noted {
            self.roster.add(instance, cell);
        }
        let live = self.roster.iter().filter(|instance| instance.is_live());
        let live: Vec<InstanceId> = live.map(|instance| instance.id.clone()).collect();
        let adopted =
            live.iter().filter(|id| found.get(*id).is_none_or(|found| !found.fate.is_elsewhere())).count();
        for id in live {
            let (fate, port) = found.remove(&id).map_or((Fate::Gone, None), |found| (found.fate, found.port));
            if let Some(cell) = self.roster.cell_mut(&id) {
                // It is in the record before the process runs, in the database only after it was told of.
                cell.port = port.or(cell.port).or_else(|| cell.start.as_ref()?.port?.fixed());
            }
            self.left(&id, fate);
        }
        let mut strays: Vec<Found> = found.into_values().collect();
        strays.sort_by(|a, b| a.id.cmp(&b.id));
        for Found { id, fate, .. } in strays {
            self.stray(&id, fate);
        }
        if adopted > 0 {
            self.calm_until = self.now.time + super::CALM;
            let text = format!("took over {adopted} instances of the engine before");
            let news = self.news(Kind::Adopted, "", "", text);
            self.effects.push(news);
        }
    }

    /// What became of an instance that is known.
    fn left(&mut self, id: &InstanceId, fate: Fate) {
        let now = self.now.time;
        // Whether it was waiting for somebody to look: it is judged anew.
        let was_quarantined = self.roster.instance(id).is_some_and(Instance::is_quarantined);
        let (pid, left) = match fate {
            Fate::Quarantined { reason } => {
                self.tell(id, format!("may be running, and is left alone: {reason}"));
                self.record(Kind::Failed, id, format!("is quarantined: {reason}"));
                if let Some(instance) = self.instance(id) {
                    instance.quarantined(reason, now);
                }
                return;
            }
            Fate::Gone => {
                self.record(Kind::Exit, id, "ended while no engine was there; nobody saw how".into());
                self.ended(id, Outcome::Unknown);
                return;
            }
            Fate::Over { status } => {
                self.record(Kind::Exit, id, format!("is gone: {status}"));
                self.ended(id, outcome(status));
                self.over.push(id.clone());
                return;
            }
            Fate::NeverRan => {
                self.record(Kind::Exit, id, "was never started: the engine before died first".into());
                if let Some(instance) = self.instance(id) {
                    instance.given_up(now);
                }
                return;
            }
            Fate::Elsewhere { dir } => {
                self.record(Kind::Failed, id, elsewhere(&dir));
                if let Some(instance) = self.instance(id) {
                    instance.given_up(now);
                }
                return;
            }
            Fate::Running { pid } | Fate::Ended { pid } => (pid, None),
            Fate::Stopping { pid, left } => (pid, Some(left)),
        };
        if let Some(cell) = self.roster.cell_mut(id) {
            cell.pid = Some(pid);
        }
        self.effects.push(Effect::Follow { id: id.clone() });
        let Some(instance) = self.instance(id) else { return };
        let deadline = match instance.state {
            formic_plan::State::Stopping { deadline, .. } => Some(deadline.since(now)),
            // One that could not be stopped before.
            _ if was_quarantined => Some(Duration::ZERO),
            _ => None,
        };
        match left.or(deadline) {
            // Told again does no harm, and whether it was told before the engine died nobody knows.
            Some(left) => {
                instance.stopping(StopCause::Requested, now);
                let kind = StopKind::Ask(left);
                let mut signal = None;
                if let Some(cell) = self.roster.cell_mut(id) {
                    cell.asked = Some(kind);
                    signal = cell.stop_signal();
                }
                self.effects.push(Effect::Stop { id: id.clone(), kind, signal });
            }
            None => self.probe(id),
        }
    }

    /// Something that was found and that nobody knows of.
    fn stray(&mut self, id: &InstanceId, fate: Fate) {
        match fate {
            Fate::Quarantined { reason } => {
                let text = format!("is unknown, may be running, and is left alone: {reason}");
                self.record(Kind::Failed, id, text);
            }
            // It was wanted by nobody any more, or what was written beside its record cannot be read.
            Fate::Running { .. } | Fate::Stopping { .. } | Fate::Ended { .. } => {
                self.record(Kind::Stop, id, "is not known to this engine, and is stopped".into());
                let kind = StopKind::Ask(Duration::from_secs(5));
                self.effects.push(Effect::Stop { id: id.clone(), kind, signal: None });
            }
            Fate::Elsewhere { dir } => self.record(Kind::Failed, id, elsewhere(&dir)),
            // What follows from it is on disk.
            Fate::Over { .. } => self.over.push(id.clone()),
            Fate::NeverRan | Fate::Gone => {}
        }
    }
}

/// What is told of an instance whose record was copied along with the folder.
fn elsewhere(dir: &Path) -> String {
    format!("is an instance of {}, of which this folder is a copy, and is left alone", dir.display())
}
