//! Cron jobs: which runs are due, which run, and what came of the last ones.
//!
//! Pure like the rest: the executor gives both clocks. The one that does not jump measures; the one on the
//! wall says when something is due. A [`Timetable`] is plain data, written down after each change; a run is
//! due once, because it is written down before it is started. A run that a start of the machine cut off is
//! run again.
//!
//! - Each run is one instance, with a number of its own. It is tried again as its job's rule says.
//! - While one runs, the next that is due is left out, begins when that one was stopped and is gone, or
//!   begins beside it (`concurrency`).
//! - What was due while the engine was away is made up for once, if that is not longer ago than `catch_up`.
//! - A clock that is set back makes nothing due twice.
//! - A job of which no instance is wanted (`replicas` 0) is stopped: what runs of it is stopped, nothing is due, and
//!   what would have been due meanwhile is not made up for.
//! - A run keeps what it was started with: a change of the job is for the next one.

mod tell;

use std::collections::BTreeSet;

use formic_spec::Concurrency;
use serde::{Deserialize, Serialize};

use crate::life::{End, Exit, Instance, State};
use crate::needs::have_completed;
use crate::rollout::Release;
use crate::set::{Role, Set};
use crate::state::{Desired, Observed, Service, Time};

/// So many runs of a job are started beside one another at most; more are left out.
const MOST: usize = 100;

/// All cron jobs of an application.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Timetable {
    /// The jobs, in the order in which they were given.
    pub entries: Vec<Entry>,
}

/// A cron job.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Entry {
    /// What is run, and when.
    pub service: Service,
    /// Up to when it is decided what was due, in milliseconds since 1970.
    pub decided_unix_ms: u64,
    /// The number of the last run.
    pub last: u64,
    /// Runs that go on, and as many that ended as are remembered; the oldest first.
    pub runs: Vec<Run>,
}

/// One run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Run {
    /// Its number, from 1.
    pub number: u64,
    /// When it was due, in milliseconds since 1970.
    pub due_unix_ms: u64,
    /// What came of it.
    pub state: RunState,
    /// Somebody asked for it; its schedule did not.
    #[serde(default)]
    pub by_hand: bool,
    /// When it began, in milliseconds since 1970.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub began_unix_ms: Option<u64>,
    /// When it came to its end or failed, in milliseconds since 1970.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended_unix_ms: Option<u64>,
    /// What it was started with, while it runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service: Option<Service>,
}

/// What came of a run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "snake_case")]
#[non_exhaustive]
pub enum RunState {
    /// It begins when those before it are gone.
    Waiting,
    /// It runs, in this slot.
    Running {
        /// Which.
        slot: u32,
        /// Since when.
        since: Time,
    },
    /// It came to its end.
    Succeeded {
        /// How.
        exit: Exit,
    },
    /// It did not.
    Failed {
        /// How it ended.
        exit: Exit,
    },
    /// The next one took its place.
    Replaced,
    /// The job was stopped.
    Stopped,
    /// It was left out: another one ran.
    Overlapped,
    /// It was left out: the engine was away for too long.
    Missed,
}

/// Something about a run, as it happened.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Due {
    /// Of which job.
    pub service: String,
    /// The run as it is now.
    pub run: Run,
}

/// What [`Timetable::tick`] comes to.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Tick {
    /// The jobs with the slots that are to run now: to be added to what is wanted.
    pub services: Vec<Service>,
    /// What happened. If anything did, the timetable is to be written down before the plan is carried out.
    pub happened: Vec<Due>,
    /// When something is due next, in milliseconds since 1970.
    pub wake_unix_ms: Option<u64>,
}

// === impl Timetable ===

impl Timetable {
    /// Takes the cron jobs of what is wanted; those that it does not name are gone. Nothing is due before now.
    pub fn apply(&mut self, desired: &Desired, unix_ms: u64) {
        let mut before = std::mem::take(&mut self.entries);
        for service in desired.services.iter().filter(|service| service.cron.is_some()) {
            let service = Service { sets: None, ..service.clone() };
            let present = before.iter().position(|entry| entry.service.name == service.name);
            self.entries.push(match present {
                Some(at) => {
                    let entry = before.remove(at);
                    // Another schedule says nothing of moments that have passed.
                    let same = entry.service.cron.as_ref().map(|cron| &cron.schedule)
                        == service.cron.as_ref().map(|cron| &cron.schedule);
                    // Nor is made up for what was due while it was stopped.
                    let goes_on = same && !entry.is_stopped();
                    let decided_unix_ms = if goes_on { entry.decided_unix_ms } else { unix_ms };
                    Entry { service, decided_unix_ms, ..entry }
                }
                None => Entry { service, decided_unix_ms: unix_ms, last: 0, runs: Vec::new() },
            });
        }
    }

    /// What is due, what runs, and what ended.
    pub fn tick(&mut self, observed: &Observed, now: Time, unix_ms: u64) -> Tick {
        let mut tick = Tick::default();
        for entry in &mut self.entries {
            let own: Vec<&Instance> =
                observed.instances.iter().filter(|i| i.service == entry.service.name).collect();
            let mut happened = entry.settle(&own, unix_ms);
            happened.extend(entry.stop(unix_ms));
            happened.extend(entry.fall_due(unix_ms));
            happened.extend(entry.begin(&own, now, unix_ms));
            entry.forget();
            tick.happened
                .extend(happened.into_iter().map(|run| Due { service: entry.service.name.clone(), run }));
            tick.services.push(entry.wanted(&own));
            tick.wake_unix_ms = tick.wake_unix_ms.into_iter().chain(entry.next(unix_ms)).min();
        }
        tick
    }

    /// The job of this name.
    #[must_use]
    pub fn entry(&self, service: &str) -> Option<&Entry> {
        self.entries.iter().find(|entry| entry.service.name == service)
    }

    /// Runs a job now, whatever its schedule says; beside others only if it allows that. Nothing if there is
    /// no such job, or if it is stopped.
    pub fn run_now(&mut self, service: &str, unix_ms: u64) -> Vec<Due> {
        let entry =
            self.entries.iter_mut().find(|entry| entry.service.name == service && !entry.is_stopped());
        let changed = entry.map(|entry| entry.add(unix_ms, true)).unwrap_or_default();
        changed.into_iter().map(|run| Due { service: service.to_owned(), run }).collect()
    }

    /// To be called when the machine was started anew since it was written down: the clock that measures is
    /// another.
    pub fn restart_clock(&mut self, now: Time) {
        for run in self.entries.iter_mut().flat_map(|entry| &mut entry.runs) {
            if let RunState::Running { since, .. } = &mut run.state {
                *since = now;
            }
        }
    }
}

// === impl Entry ===

impl Entry {
    /// Whether somebody has stopped it: none of its instances is wanted, and nothing is due.
    #[must_use]
    pub const fn is_stopped(&self) -> bool {
        self.service.replicas == 0
    }

    /// When it is due next.
    #[must_use]
    pub fn next(&self, unix_ms: u64) -> Option<u64> {
        if self.is_stopped() {
            return None;
        }
        self.service.cron.as_ref()?.schedule.next(unix_ms)
    }

    /// What came to an end.
    fn settle(&mut self, own: &[&Instance], unix_ms: u64) -> Vec<Run> {
        let mut ended = Vec::new();
        for run in &mut self.runs {
            let RunState::Running { slot, since } = run.state else { continue };
            // What died in its slot before it began is no part of it, whatever number it has.
            let its = |i: &&&Instance| i.slot == slot && i.rollout == run.number && i.started >= since;
            let Some(last) = own.iter().find(its) else { continue };
            run.state = match &last.state {
                State::Exited { exit, end: End::Completed } => RunState::Succeeded { exit: exit.clone() },
                State::Exited { exit, end: End::Failed } => RunState::Failed { exit: exit.clone() },
                // One that was cut off, by a start of the machine say, is run again in its slot.
                _ => continue,
            };
            (run.service, run.ended_unix_ms) = (None, Some(unix_ms));
            ended.push(run.clone());
        }
        ended
    }

    /// What goes on of one that was stopped.
    fn stop(&mut self, unix_ms: u64) -> Vec<Run> {
        let mut stopped = Vec::new();
        let stops = self.is_stopped();
        for run in self.runs.iter_mut().filter(|run| stops && run.is_open()) {
            (run.state, run.service, run.ended_unix_ms) = (RunState::Stopped, None, Some(unix_ms));
            stopped.push(run.clone());
        }
        stopped
    }

    /// What the clock says.
    fn fall_due(&mut self, unix_ms: u64) -> Vec<Run> {
        if self.is_stopped() {
            return Vec::new();
        }
        let Some(cron) = self.service.cron.clone() else { return Vec::new() };
        let decided = self.decided_unix_ms;
        let Some(due) = cron.schedule.previous(unix_ms).filter(|due| *due > decided) else {
            return Vec::new();
        };
        self.decided_unix_ms = due;
        if u128::from(unix_ms.saturating_sub(due)) > cron.catch_up.as_millis() {
            return vec![self.note(due, RunState::Missed, false)];
        }
        self.add(due, false)
    }

    /// One more run, or the reason why not.
    fn add(&mut self, due_unix_ms: u64, by_hand: bool) -> Vec<Run> {
        let busy = self.runs.iter().filter(|run| run.is_open()).count();
        let mut changed = Vec::new();
        let state = match self.concurrency() {
            Concurrency::Forbid if busy > 0 => RunState::Overlapped,
            Concurrency::Allow if busy >= MOST => RunState::Overlapped,
            Concurrency::Replace => {
                for run in self.runs.iter_mut().filter(|run| run.is_open()) {
                    (run.state, run.service) = (RunState::Replaced, None);
                    changed.push(run.clone());
                }
                RunState::Waiting
            }
            Concurrency::Forbid | Concurrency::Allow => RunState::Waiting,
        };
        changed.push(self.note(due_unix_ms, state, by_hand));
        changed
    }

    fn concurrency(&self) -> Concurrency {
        self.service.cron.as_ref().map(|cron| cron.concurrency).unwrap_or_default()
    }

    fn note(&mut self, due_unix_ms: u64, state: RunState, by_hand: bool) -> Run {
        self.last += 1;
        let service = (state == RunState::Waiting).then(|| self.service.clone());
        let number = self.last;
        let (began_unix_ms, ended_unix_ms) = (None, None);
        let run = Run { number, due_unix_ms, state, by_hand, began_unix_ms, ended_unix_ms, service };
        self.runs.push(run.clone());
        run
    }

    /// What waits begins, each in a slot that is free.
    fn begin(&mut self, own: &[&Instance], now: Time, unix_ms: u64) -> Vec<Run> {
        let mut taken: BTreeSet<u32> = own.iter().filter(|i| i.is_live()).map(|i| i.slot).collect();
        taken.extend(self.runs.iter().filter_map(|run| match run.state {
            RunState::Running { slot, .. } => Some(slot),
            _ => None,
        }));
        let concurrency = self.concurrency();
        let mut begun = Vec::new();
        for run in self.runs.iter_mut().filter(|run| run.state == RunState::Waiting) {
            if concurrency != Concurrency::Allow && !taken.is_empty() {
                break;
            }
            let Some(slot) = (0..).find(|slot| !taken.contains(slot)) else { break };
            taken.insert(slot);
            run.state = RunState::Running { slot, since: now };
            run.began_unix_ms = Some(unix_ms);
            begun.push(run.clone());
        }
        begun
    }

    /// Ended runs beyond those that are remembered.
    fn forget(&mut self) {
        let history = self.service.cron.as_ref().map_or(0, |cron| cron.history as usize);
        let mut surplus = self.runs.iter().filter(|run| !run.is_open()).count().saturating_sub(history);
        self.runs.retain(|run| {
            let forget = !run.is_open() && surplus > 0;
            surplus -= usize::from(forget);
            !forget
        });
    }

    /// The job with the slots of the runs that go on.
    fn wanted(&self, own: &[&Instance]) -> Service {
        let sets = self.runs.iter().filter_map(|run| match (&run.state, &run.service) {
            (RunState::Running { slot, .. }, Some(service)) => {
                let release = Release { service: service.clone(), rollout: run.number, since: run.number };
                Some(Set::of(&release, Role::Serving, vec![*slot]))
            }
            _ => None,
        });
        let sets: Vec<Set> = sets.collect();
        let replicas = u32::try_from(sets.len()).unwrap_or(u32::MAX);
        // One that is stopped is nothing that its schedule brings back.
        let cron = self.service.cron.clone().filter(|_| !self.is_stopped());
        // Whoever waits for its end goes by its last run, as long as it has runs.
        let completed = self.is_stopped() && have_completed(own.iter().copied(), 1, |_| true);
        Service { sets: Some(sets), replicas, cron, completed, ..self.service.clone() }
    }
}

// === impl Run ===

impl Run {
    /// Whether something is still to come of it.
    #[must_use]
    pub const fn is_open(&self) -> bool {
        matches!(self.state, RunState::Running { .. } | RunState::Waiting)
    }
}
