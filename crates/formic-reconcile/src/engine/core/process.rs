//! From plans to processes and back: a stop that comes before the process does, a leader that ends before
//! its children, a kill after a stop that takes too long.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use formic_core::{Members, ServiceName};
use formic_plan::{Action, Instance, InstanceId, Outcome, Plan, StartCause, State, StopCause};
use formic_spec::{HumanDuration, Port, Probe, RestartPolicy};
use formic_supervise::ExitStatus;

use super::Core;
use crate::announce::shown;
use crate::engine::cell::{Cell, Output, StopKind, outcome};
use crate::engine::effects::{Effect, Probing, Spawn};
use crate::engine::launch::{Place, check, data_dir, launch};
use crate::journal::Kind;
use crate::probe::Heard;
use crate::start::Start;

/// What a leader that ended by itself has left behind gets so long to end by itself too.
const LEFT_BEHIND: Duration = Duration::from_secs(1);

/// What an instance is missing that never got ready and never announced itself.
const SILENT: &str = ". It never announced itself: a Formic service does so by itself; any other program needs a `port`, or \
                      `health = { ready = \"none\" }` or another way to ask it";

/// For so long an instance that has not announced itself is only starting.
const SILENT_AFTER_MS: i64 = 3_000;

impl Core {
    /// What a service is missing whose instances never announce themselves; nothing if that is not so.
    pub(super) fn why_silent(&self, service: &str) -> Option<String> {
        let silent = self.roster.of(service).filter(|(i, _)| !i.is_ready()).any(|(i, cell)| {
            let waited = |cell: &Cell| self.now.unix_ms - cell.started_unix_ms >= SILENT_AFTER_MS;
            let overdue = i.exit().is_some_and(|exit| exit.overdue);
            cell.is_silent() && (overdue || cell.pid.is_some() && waited(cell))
        });
        silent.then(|| format!("{}.", SILENT.trim_start_matches(". ")))
    }

    pub(super) fn start(&mut self, service: &str, slot: u32, cause: &StartCause) {
        let Some(wanted) = self.desired.service(service).cloned() else { return };
        let id = InstanceId::from(format!("{service}-{:08x}", self.random.u32(..)));
        let previous = self.roster.slot(service, slot).cloned();
        let instance = Instance::begin(id.clone(), &wanted, slot, previous.as_ref(), self.now.time);
        let seat = self.seat(&instance, wanted.replicas, previous.as_ref());
        let output = Output::of(&self.config.logs, service, &id);
        let spec = wanted.at(slot).map_or(&wanted.start, |template| template.start);
        let spec: Option<Start> = serde_json::from_value(spec.clone()).ok();
        let mut cell = Cell::new(spec.clone(), seat, self.now.unix_ms, output);
        if let Some(previous) = &previous {
            cell.last_exit = previous.exit().map(ToString::to_string).unwrap_or_default();
        }
        if let Some(kept) = &mut self.kept {
            previous.iter().for_each(|previous| kept.forget(&previous.id));
            kept.touch(&id);
        }
        self.roster.begin(instance.clone(), cell);
        let text = format!("starts as {service}/{slot} at {}: {cause}", instance.revision);
        self.record(Kind::Start, &id, text);
        if let (Some(spec), Ok(name)) = (spec, ServiceName::new(service)) {
            let place = Place { seat, port: spec.port.and_then(Port::fixed) };
            let launch = launch(&self.config, &self.inherited, &instance, place, name, &spec);
            let data = data_dir(&self.config.data, service, seat);
            let Start { limits, port, listen, secrets, stop_signal, privileges, .. } = spec;
            let note = self.noted(&id);
            let spawn =
                Spawn { id, launch, limits, port, listen, data, secrets, stop_signal, privileges, note };
            self.effects.push(Effect::Spawn(Box::new(spawn)));
        } else {
            let why = "the desired state does not say how to start it";
            self.record(Kind::Failed, &id, why.into());
            self.ended(&id, Outcome::NotStarted(why.into()));
        }
    }

    /// Which data folder an instance gets. One that is started again gets its own. A new one gets a free one;
    /// if there is none, because it runs beside the one that it takes the place of, the two share: no two
    /// instances of one release do.
    fn seat(&self, new: &Instance, replicas: u32, previous: Option<&Instance>) -> u32 {
        let held = |i: &Instance| {
            let held = i.is_live() || matches!(i.state, State::Backoff { .. });
            held && Some(&i.id) != previous.map(|previous| &previous.id)
        };
        let all = || self.roster.of(&new.service).filter(|(i, _)| held(i));
        let holders = || all().map(|(i, cell)| (i, cell.seat));
        let own = previous.and_then(|previous| self.roster.cell(&previous.id)).map(|cell| cell.seat);
        if let Some(own) = own.filter(|seat| *seat < replicas)
            && holders().all(|(_, seat)| seat != own)
        {
            return own;
        }
        let (mut all, mut same) = (HashSet::new(), HashSet::new());
        for (holder, seat) in holders() {
            all.insert(seat);
            if holder.process() == new.process() && holder.rollout == new.rollout {
                same.insert(seat);
            }
        }
        let first = |taken: &HashSet<u32>| (0..replicas).find(|seat| !taken.contains(seat));
        first(&all).or_else(|| first(&same)).or_else(|| (0..).find(|seat| !all.contains(seat))).unwrap_or(0)
    }

    /// A running instance takes up what needs no new process.
    pub(super) fn adjust(&mut self, id: &InstanceId, service: &str) {
        let Some(wanted) = self.desired.service(service).cloned() else { return };
        let Some(instance) = self.instance(id) else { return };
        instance.adjusted(&wanted);
        let (slot, revision) = (instance.slot, instance.revision.clone());
        let spec = wanted.at(slot).and_then(|template| serde_json::from_value(template.start.clone()).ok());
        if let (Some(spec), Some(cell)) = (spec, self.roster.cell_mut(id)) {
            let spec: Start = spec;
            cell.rule = spec.restart.clone();
            cell.start = Some(spec);
        }
        self.record(Kind::Adjust, id, format!("takes up {revision} as it runs"));
    }

    pub(super) fn started(&mut self, id: &InstanceId, pid: u32, chosen: Option<u16>) {
        let Some(cell) = self.roster.cell_mut(id) else {
            // Nobody knows of it, so nobody would stop it.
            self.effects.push(Effect::Stop { id: id.clone(), kind: StopKind::Kill, signal: None });
            return;
        };
        cell.pid = Some(pid);
        cell.port = chosen.or_else(|| cell.start.as_ref()?.port?.fixed());
        let stop = cell.asked.map(|kind| (kind, cell.stop_signal()));
        // It may have been quicker than the word of its start.
        let known =
            self.registered.as_ref().and_then(|all| all.get(&formic_core::InstanceId::new(id.as_str())));
        if let Some(known) = known.cloned() {
            self.enrol(id, Some(&known));
        }
        match stop {
            // It came while it was being started.
            Some((kind, signal)) => self.effects.push(Effect::Stop { id: id.clone(), kind, signal }),
            None => self.probe(id),
        }
    }

    /// Has an instance probed from now on.
    pub(super) fn probe(&mut self, id: &InstanceId) {
        let Some(cell) = self.roster.cell(id) else { return };
        let instance = self.roster.instance(id);
        let (Some(spec), Some(instance)) = (&cell.start, instance) else { return };
        let Ok(service) = ServiceName::new(&instance.service) else { return };
        let place = Place { seat: cell.seat, port: cell.port };
        let command = (spec.health.ready == Probe::Exec).then(|| {
            // In the surroundings of the instance itself.
            let launch = launch(&self.config, &self.inherited, instance, place, service.clone(), spec);
            check(&spec.health, launch)
        });
        let probing = Probing {
            id: id.clone(),
            service,
            version: instance.revision.short().to_owned(),
            health: spec.health.clone(),
            port: cell.port,
            command: command.flatten(),
            output: cell.output.clone(),
            ready: instance.is_ready(),
        };
        self.effects.push(Effect::Probe(Box::new(probing)));
    }

    pub(super) fn not_started(&mut self, id: &InstanceId, why: String, withheld: bool) {
        let now = if withheld { " now" } else { "" };
        self.record(Kind::Failed, id, format!("cannot be started{now}: {why}"));
        self.tell(id, format!("cannot be started{now}: {why}"));
        self.ended(id, if withheld { Outcome::Withheld(why) } else { Outcome::NotStarted(why) });
    }

    pub(super) fn probed(&mut self, id: &InstanceId, heard: Heard) {
        let now = self.now.time;
        if self.roster.cell(id).is_some_and(|cell| cell.leader.is_some()) {
            // What answers is not what was started.
            return;
        }
        let Some(instance) = self.instance(id) else { return };
        let before = instance.is_ready();
        match heard {
            Heard::Ready(address) => {
                instance.ready(now);
                let after = instance.is_ready();
                if let (Some(address), Some(cell)) = (address, self.roster.cell_mut(id)) {
                    cell.address = address;
                }
                if !before && after {
                    self.record(Kind::Ready, id, "is ready".into());
                }
            }
            Heard::Unready(why) => {
                instance.unready(now);
                let news = instance.failing(why.clone());
                if before && !instance.is_ready() {
                    self.record(Kind::Unready, id, format!("does not answer its probe: {why}"));
                } else if news {
                    self.record(Kind::Unready, id, format!("its probe fails: {why}"));
                }
            }
            Heard::Failing(why) => {
                if instance.failing(why.clone()) {
                    self.record(Kind::Unready, id, format!("its probe fails: {why}"));
                }
            }
        }
    }

    /// The registry has these. What is as it was is not looked at: there may be a thousand, and one has changed.
    pub(super) fn registered(&mut self, known: Members) {
        let Some(before) = self.registered.replace(known.clone()) else {
            // What was written down of those that run may be old.
            let running: Vec<InstanceId> = self.roster.ids().cloned().collect();
            return running
                .iter()
                .for_each(|id| self.enrol(id, known.get(&formic_core::InstanceId::new(id.as_str()))));
        };
        known.compare(&before, |(was, is)| {
            if let Some(changed) = is.or(was) {
                self.enrol(&InstanceId::from(changed.id.as_str()), is);
            }
        });
    }

    /// How an instance is in the registry. Of one that does not run it says nothing.
    fn enrol(&mut self, id: &InstanceId, known: Option<&Arc<formic_core::Instance>>) {
        let Some(cell) = self.roster.cell_mut(id).filter(|cell| cell.pid.is_some()) else { return };
        cell.address = known.map(|known| shown(known)).unwrap_or_default();
        cell.announced |= known.is_some();
        if cell.registered.as_ref() != known.map(Arc::as_ref) {
            cell.registered = known.map(|known| known.as_ref().clone());
            if let Some(kept) = &mut self.kept {
                kept.touch(id);
            }
        }
    }

    pub(super) fn leader_exited(&mut self, id: InstanceId, status: ExitStatus) {
        let Some(cell) = self.roster.cell_mut(&id).filter(|cell| cell.pid.is_some()) else { return };
        let news = cell.leader.replace(status).is_none();
        let (asked, done, signal) = (cell.asked.is_some(), is_done(cell, status), cell.stop_signal());
        // The leader's end is not the tree's: what it left behind goes now. A stop that was asked for is on
        // its way already.
        if !asked {
            let now = self.now.time;
            if let Some(instance) = self.instance(&id) {
                instance.main_ended(now);
            }
            // Told at once: it takes a look at others of the machine's processes until its tree is known to be gone.
            if news {
                self.record(Kind::Exit, &id, format!("ended by itself: {status}"));
                if !done {
                    self.tell(&id, format!("ended by itself: {status}"));
                }
            }
            self.effects.push(Effect::Stop { id, kind: StopKind::Ask(LEFT_BEHIND), signal });
        }
    }

    pub(super) fn stop(&mut self, id: &InstanceId, kind: StopKind, cause: StopCause) {
        let now = self.now.time;
        let mut failing = None;
        let with = (cause == StopCause::Dependency).then(|| self.ended_before(id)).flatten();
        if let Some(instance) = self.instance(id) {
            if let Some(with) = with.clone() {
                instance.taken_along(with, now);
            }
            instance.stopping(cause, now);
            failing.clone_from(&instance.failing);
        }
        let Some(cell) = self.roster.cell_mut(id) else { return };
        // What a leader left behind is being ended already; only a kill is quicker.
        let sweeping = cell.leader.is_some() && cell.asked.is_none() && kind != StopKind::Kill;
        if !cell.ask(kind) {
            return;
        }
        let (running, signal, is_silent) = (cell.pid.is_some(), cell.stop_signal(), cell.is_silent());
        match kind {
            StopKind::Ask(grace) => {
                let with = with.map(|with| format!(": {with}")).unwrap_or_default();
                let text = format!("is told to stop within {}: {cause}{with}", HumanDuration::from(grace));
                self.record(Kind::Stop, id, text);
            }
            // Only a plan kills without a cause of its own, and only for this.
            StopKind::Kill if cause == StopCause::Requested => {
                self.record(Kind::Kill, id, "is killed: it did not stop in time".into())
            }
            StopKind::Kill => self.record(Kind::Kill, id, format!("is killed: {cause}")),
        }
        if cause == StopCause::NotReady {
            let why = failing.filter(|_| !is_silent).map(|why| format!(" ({why})")).unwrap_or_default();
            let mut text = format!("did not get ready in time{why}; it is stopped");
            if is_silent {
                text.push_str(SILENT);
                self.record(Kind::Failed, id, text.clone());
            }
            self.tell(id, text);
        }
        if running && !sweeping {
            self.effects.push(Effect::Stop { id: id.clone(), kind, signal });
        }
    }

    /// What an instance depends on that ended last since it was started, and how: of what was itself taken along, that. Of several that
    /// are heard of together, the one that was started last.
    fn ended_before(&self, id: &InstanceId) -> Option<String> {
        let own = self.roster.instance(id)?;
        let needs = self.roster.iter().filter(|i| own.depends_on.contains(&i.service));
        let ended = needs.filter_map(|i| {
            let by_itself = i.history.last_exit.map(|at| {
                let before = self.roster.cell(&i.id).map(|cell| cell.last_exit.clone());
                let how = i.exit().map(ToString::to_string).or(before).filter(|how| !how.is_empty());
                let how = how.unwrap_or_else(|| "ended by itself".into());
                (at, format!("{}/{} {how}", i.service, i.slot))
            });
            let along = i.history.along.as_ref().map(|along| (along.at, along.with.clone()));
            let (at, with) = by_itself.into_iter().chain(along).max_by_key(|(at, _)| *at)?;
            Some(((at, i.started), with))
        });
        ended.filter(|((at, _), _)| *at > own.started).max_by_key(|(when, _)| *when).map(|(_, with)| with)
    }

    /// It may be running, and nothing here can end it: its place stays taken until somebody has looked.
    pub(super) fn not_stopped(&mut self, id: &InstanceId, why: &str) {
        let now = self.now.time;
        self.record(Kind::Failed, id, format!("cannot be stopped: {why}"));
        self.tell(id, format!("cannot be stopped: {why}"));
        if let Some(instance) = self.instance(id) {
            instance.quarantined(format!("it cannot be stopped: {why}"), now);
        }
        self.effects.push(Effect::StopProbing { id: id.clone() });
        self.effects.push(Effect::Deregister { id: id.clone() });
    }

    pub(super) fn gone(&mut self, id: &InstanceId, status: ExitStatus, killed: bool) {
        self.over.push(id.clone());
        // A kill after a stop is answered twice.
        let Some(cell) = self.roster.cell(id).filter(|cell| cell.pid.is_some()) else { return };
        let told = cell.leader.is_some();
        let status = cell.leader.unwrap_or(status);
        let done = is_done(cell, status);
        if cell.asked.is_some() {
            self.killed += u32::from(killed);
            let how = if killed { "is gone, killed" } else { "is gone" };
            self.record(Kind::Exit, id, format!("{how}: {status}"));
        } else if !told {
            self.record(Kind::Exit, id, format!("ended by itself: {status}"));
            if !done {
                self.tell(id, format!("ended by itself: {status}"));
            }
        }
        self.ended(id, outcome(status));
        // A crashed instance cannot deregister itself.
        self.effects.push(Effect::Deregister { id: id.clone() });
    }

    pub(super) fn ended(&mut self, id: &InstanceId, outcome: Outcome) {
        let (random, now) = (self.random.f64(), self.now.time);
        let Some(cell) = self.roster.cell_mut(id) else { return };
        let was_running = cell.pid.take().is_some();
        cell.address.clear();
        cell.registered = None;
        let rule = cell.rule.clone();
        if cell.start.as_ref().is_some_and(|start| !start.secrets.is_empty()) {
            self.effects.push(Effect::TakeBack { id: id.clone() });
        }
        let Some(instance) = self.instance(id) else { return };
        instance.exited(outcome, &rule, random, now);
        if matches!(instance.state, State::Backoff { .. }) {
            self.backs_off.push(id.clone());
        }
        if was_running {
            self.effects.push(Effect::StopProbing { id: id.clone() });
        }
    }

    /// What follows the ends that were taken note of. Not before it is known: a rollout that fails with one goes
    /// back, and nothing is started again.
    pub(super) fn record_backoffs(&mut self, plan: &Plan) {
        for id in std::mem::take(&mut self.backs_off) {
            let Some(instance) = self.roster.instance(&id) else { continue };
            let State::Backoff { exit, until } = &instance.state else { continue };
            let returns = plan.actions.iter().any(|action| match action {
                Action::Start { service, slot, cause: StartCause::Restart(_), .. }
                | Action::Wait { service, slot, .. } => {
                    *service == instance.service && *slot == instance.slot
                }
                _ => false,
            });
            let text = if returns && matches!(exit.outcome, Outcome::Withheld(_)) {
                format!("{exit}, is tried again in {}", HumanDuration::rough(until.since(self.now.time)))
            } else if returns {
                let left = HumanDuration::rough(until.since(self.now.time));
                let restart = instance.history.restarts.saturating_add(1);
                format!("{exit}, starts again in {left} as restart {restart}")
            } else {
                format!("{exit}, is not started again")
            };
            self.record(Kind::Backoff, &id, text);
        }
    }
}

/// Whether an end is what an instance was started for: nobody needs to be told of it.
fn is_done(cell: &Cell, status: ExitStatus) -> bool {
    cell.rule.policy != RestartPolicy::Always
        && matches!(status, ExitStatus::Code(code) if cell.rule.success_exit_codes.contains(&code))
}
