//! The decisions: what is wanted, what is there, and what follows from what happens. Pure: no clock, no
//! process, no runtime.
//!
//! [`Core::handle`] takes events and gives back effects as data, so that every order of events can be a
//! test. The rules of restarts and of order are not here but in `formic_plan`; here is what a plan means
//! for processes: a stop that comes before the process does, a leader that ends before its children, a
//! kill after a stop that takes too long.

use std::collections::{BTreeMap, HashMap};
use std::ffi::OsString;
use std::time::Duration;

use formic_core::ServiceName;
use formic_plan::{Action, Desired, Instance, InstanceId, Observed, Outcome, StopCause, Time, plan};
use formic_supervise::ExitStatus;
use tokio::sync::oneshot;

use super::cell::{Cell, Output, StopKind, outcome};
use super::effects::{Answer, Effect, Probing, Spawn};
use super::launch::{data_dir, launch};
use super::{Config, Stopped};
use crate::start::Start;

/// What a leader that ended by itself has left behind gets so long to end by itself too.
const LEFT_BEHIND: Duration = Duration::from_secs(1);

/// A moment, on the planner's clock and on the wall's.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Now {
    pub(crate) time: Time,
    /// Milliseconds since 1970.
    pub(crate) unix_ms: i64,
}

/// Something that happened.
#[derive(Debug)]
pub(crate) enum Event {
    /// Something is wanted.
    Apply(Desired, oneshot::Sender<Result<(), u64>>),
    /// Nothing is wanted any more.
    Stop { at_once: bool, done: Option<oneshot::Sender<Stopped>> },
    /// An instance has a process.
    Started { id: InstanceId, pid: u32 },
    /// An instance could not be started.
    NotStarted { id: InstanceId, why: String },
    /// The first process of an instance ended.
    LeaderExited { id: InstanceId, status: ExitStatus },
    /// All processes of an instance are gone.
    Gone { id: InstanceId, status: ExitStatus, killed: bool },
    /// An instance could not be stopped.
    NotStopped { id: InstanceId, why: String },
    /// A probe succeeds, or fails after it did. The address is where the instance answers, if it said so.
    Probed { id: InstanceId, ready: bool, address: Option<String> },
    /// The registry has these instances at these addresses.
    Addresses(HashMap<String, String>),
    /// It is time to look again.
    Timer,
}

/// What follows from events.
#[derive(Debug)]
pub(crate) struct Turn {
    /// To be carried out in this order.
    pub(crate) effects: Vec<Effect>,
    /// When to look again though nothing happened.
    pub(crate) wake_at: Option<Time>,
    /// A stop is complete.
    pub(crate) ended: Option<Stopped>,
}

/// Everything that decisions are made from.
pub(crate) struct Core {
    config: Config,
    /// The part of the engine's environment that instances get.
    inherited: BTreeMap<String, OsString>,
    random: fastrand::Rng,
    pub(super) desired: Desired,
    pub(super) observed: Observed,
    pub(super) cells: HashMap<InstanceId, Cell>,
    /// Who waits for the end, once there is to be one.
    stopping: Option<Vec<oneshot::Sender<Stopped>>>,
    killed: u32,
    effects: Vec<Effect>,
}

impl std::fmt::Debug for Core {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Core")
            .field("app", &self.config.app)
            .field("generation", &self.desired.generation)
            .field("instances", &self.observed.instances.len())
            .finish_non_exhaustive()
    }
}

impl Core {
    /// Wants nothing yet.
    pub(crate) fn new(config: Config, inherited: BTreeMap<String, OsString>, random: fastrand::Rng) -> Self {
        Self {
            config,
            inherited,
            random,
            desired: Desired::nothing(0),
            observed: Observed::default(),
            cells: HashMap::new(),
            stopping: None,
            killed: 0,
            effects: Vec::new(),
        }
    }

    /// Takes note of what happened, in order, and then plans once.
    pub(crate) fn handle(&mut self, events: impl IntoIterator<Item = Event>, now: Now) -> Turn {
        for event in events {
            self.note(event, now);
        }
        let (idle, mut wake_at) = self.act(now);
        if !idle {
            // What has just been done has deadlines of its own.
            (_, wake_at) = self.act(now);
        }
        self.forget();
        let ended = self.end();
        Turn { effects: std::mem::take(&mut self.effects), wake_at, ended }
    }

    fn note(&mut self, event: Event, now: Now) {
        match event {
            Event::Timer => {}
            Event::Apply(desired, answer) => self.apply(desired, answer),
            Event::Stop { at_once, done } => {
                self.desired = Desired::nothing(self.desired.generation + 1);
                self.stopping.get_or_insert_default().extend(done);
                if at_once {
                    for id in self.live() {
                        self.stop(&id, StopKind::Kill, StopCause::ShutDown, now.time);
                    }
                }
            }
            Event::Started { id, pid } => self.started(&id, pid),
            Event::NotStarted { id, why } => {
                self.tell(&id, format!("cannot be started: {why}"));
                self.ended(&id, Outcome::NotStarted(why), now.time);
            }
            Event::LeaderExited { id, status } => {
                let Some(cell) = self.cells.get_mut(&id).filter(|cell| cell.pid.is_some()) else { return };
                cell.leader = Some(status);
                // The leader's end is not the tree's: what it left behind goes now. A stop that was asked
                // for is on its way already.
                if cell.asked.is_none() {
                    self.effects.push(Effect::Stop { id, kind: StopKind::Ask(LEFT_BEHIND) });
                }
            }
            Event::Gone { id, status, killed } => self.gone(&id, status, killed, now.time),
            Event::NotStopped { id, why } => {
                self.tell(&id, format!("cannot be stopped: {why}"));
                self.gone(&id, ExitStatus::Unknown, false, now.time);
            }
            Event::Probed { id, ready, address } => {
                if let Some(instance) = self.instance(&id) {
                    if ready { instance.ready(now.time) } else { instance.unready(now.time) }
                }
                if let (Some(address), Some(cell)) = (address, self.cells.get_mut(&id)) {
                    cell.address = address;
                }
            }
            Event::Addresses(mut known) => {
                for (id, cell) in self.cells.iter_mut().filter(|(_, cell)| cell.pid.is_some()) {
                    cell.address = known.remove(id.as_str()).unwrap_or_default();
                }
            }
        }
    }

    /// A newer generation is taken; an older one is refused, and so is any once all is to stop.
    fn apply(&mut self, desired: Desired, answer: oneshot::Sender<Result<(), u64>>) {
        let present = self.desired.generation;
        let result =
            if desired.generation < present || self.stopping.is_some() { Err(present) } else { Ok(()) };
        if result.is_ok() && desired.generation > present {
            self.desired = desired;
        }
        self.effects.push(Effect::Answer(Answer::Applied(answer, result)));
    }

    /// Plans, and makes effects of the actions; says whether there were none, and when to look again.
    fn act(&mut self, now: Now) -> (bool, Option<Time>) {
        let plan = plan(&self.desired, &self.observed, now.time);
        if !plan.is_idle() {
            tracing::debug!(%plan, "acting");
        }
        for action in &plan.actions {
            match action {
                Action::Kill { instance, .. } => {
                    self.stop(instance, StopKind::Kill, StopCause::Requested, now.time);
                }
                Action::Stop { instance, grace, cause, .. } => {
                    self.stop(instance, StopKind::Ask(grace.get()), *cause, now.time);
                }
                Action::Start { service, slot, .. } => self.start(service, *slot, now),
                Action::Wait { .. } => {}
                _ => tracing::warn!(%action, "the planner asks for something unknown"),
            }
        }
        (plan.is_idle(), plan.wake_at)
    }

    fn start(&mut self, service: &str, slot: u32, now: Now) {
        let Some(wanted) = self.desired.service(service).cloned() else { return };
        let id = InstanceId::from(format!("{service}-{:08x}", self.random.u32(..)));
        let previous = self.observed.slot(service, slot).cloned();
        let instance = Instance::begin(id.clone(), &wanted, slot, previous.as_ref(), now.time);
        let mut last_exit = String::new();
        if let Some(previous) = previous {
            last_exit = previous.exit().map(ToString::to_string).unwrap_or_default();
            self.observed.instances.retain(|i| i.id != previous.id);
            self.cells.remove(&previous.id);
        }
        let spec: Result<Start, _> = serde_json::from_value(wanted.start);
        let rule = spec.as_ref().map(|spec| spec.restart.clone()).unwrap_or_default();
        let output = Output::of(&self.config.logs, service, &id);
        let cell = Cell::new(rule, last_exit, now.unix_ms, output);
        if let (Ok(spec), Ok(name)) = (spec, ServiceName::new(service)) {
            let launch = launch(&self.config, &self.inherited, &instance, name, &spec);
            let data = data_dir(&self.config.data, service, slot);
            self.effects.push(Effect::Spawn(Box::new(Spawn { id: id.clone(), launch, data })));
            self.observed.instances.push(instance);
            self.cells.insert(id, cell);
        } else {
            self.observed.instances.push(instance);
            self.cells.insert(id.clone(), cell);
            let why = "the desired state does not say how to start it";
            self.ended(&id, Outcome::NotStarted(why.into()), now.time);
        }
    }

    fn started(&mut self, id: &InstanceId, pid: u32) {
        let Some(cell) = self.cells.get_mut(id) else {
            // Nobody knows of it, so nobody would stop it.
            self.effects.push(Effect::Stop { id: id.clone(), kind: StopKind::Kill });
            return;
        };
        cell.pid = Some(pid);
        // A stop that came while it was being started.
        if let Some(kind) = cell.asked {
            self.effects.push(Effect::Stop { id: id.clone(), kind });
            return;
        }
        let Some(instance) = self.observed.instances.iter().find(|instance| instance.id == *id) else {
            return;
        };
        let spec = self.desired.service(&instance.service).map(|wanted| wanted.start.clone());
        let (Some(Ok(spec)), Ok(service)) =
            (spec.map(serde_json::from_value::<Start>), ServiceName::new(&instance.service))
        else {
            return;
        };
        let probing = Probing { id: id.clone(), service, health: spec.health, port: spec.port };
        self.effects.push(Effect::Probe(Box::new(probing)));
    }

    fn stop(&mut self, id: &InstanceId, kind: StopKind, cause: StopCause, now: Time) {
        if let Some(instance) = self.instance(id) {
            instance.stopping(cause, now);
        }
        let Some(cell) = self.cells.get_mut(id) else { return };
        // What a leader left behind is being ended already; only a kill is quicker.
        let sweeping = cell.leader.is_some() && cell.asked.is_none() && kind != StopKind::Kill;
        if !cell.ask(kind) {
            return;
        }
        let running = cell.pid.is_some();
        if cause == StopCause::NotReady {
            self.tell(id, "did not get ready in time; it is stopped".into());
        }
        if running && !sweeping {
            self.effects.push(Effect::Stop { id: id.clone(), kind });
        }
    }

    fn gone(&mut self, id: &InstanceId, status: ExitStatus, killed: bool, now: Time) {
        // A kill after a stop is answered twice.
        let Some(cell) = self.cells.get(id).filter(|cell| cell.pid.is_some()) else { return };
        let status = cell.leader.unwrap_or(status);
        if cell.asked.is_some() {
            self.killed += u32::from(killed);
        } else {
            self.tell(id, format!("ended by itself: {status}"));
        }
        self.ended(id, outcome(status), now);
        // A crashed instance cannot deregister itself.
        self.effects.push(Effect::Deregister { id: id.clone() });
    }

    fn ended(&mut self, id: &InstanceId, outcome: Outcome, now: Time) {
        let random = self.random.f64();
        let Some(cell) = self.cells.get_mut(id) else { return };
        let was_running = cell.pid.take().is_some();
        cell.address.clear();
        let rule = cell.rule.clone();
        if let Some(instance) = self.instance(id) {
            instance.exited(outcome, &rule, random, now);
        }
        if was_running {
            self.effects.push(Effect::StopProbing { id: id.clone() });
        }
    }

    /// What is not wanted and gone needs no memory; during a stop it is still shown.
    fn forget(&mut self) {
        if self.stopping.is_some() {
            return;
        }
        let desired = &self.desired;
        self.observed.instances.retain(|i| i.is_live() || desired.service(&i.service).is_some());
        let observed = &self.observed.instances;
        if self.cells.len() > observed.len() {
            self.cells.retain(|id, _| observed.iter().any(|instance| instance.id == *id));
        }
    }

    fn end(&mut self) -> Option<Stopped> {
        if self.stopping.is_none() || self.observed.instances.iter().any(Instance::is_live) {
            return None;
        }
        let stopped = Stopped { killed: self.killed };
        let waiting = self.stopping.take().unwrap_or_default();
        self.effects.extend(waiting.into_iter().map(|done| Effect::Answer(Answer::Stopped(done, stopped))));
        Some(stopped)
    }

    fn live(&self) -> Vec<InstanceId> {
        let live = self.observed.instances.iter().filter(|instance| instance.is_live());
        live.map(|instance| instance.id.clone()).collect()
    }

    fn instance(&mut self, id: &InstanceId) -> Option<&mut Instance> {
        self.observed.instances.iter_mut().find(|instance| instance.id == *id)
    }

    fn tell(&mut self, id: &InstanceId, text: String) {
        let service = self.instance(id).map(|instance| instance.service.clone()).unwrap_or_default();
        let output = self.cells.get(id).map(|cell| cell.output.clone()).unwrap_or_default();
        self.effects.push(Effect::Tell { service, text, output });
    }
}

#[cfg(test)]
mod tests;
