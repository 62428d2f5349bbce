//! What people may ask for: another desired state, new instances, a look ahead, the end.

use std::sync::Arc;

use tokio::sync::oneshot;

use formic_plan::{
    Change as Step, Decision, Desired, Fleet, Instance, InstanceId, Service, StopCause, Time, plan_at,
};

use super::Core;
use super::cron::in_order;
use crate::diff::{ServiceChange, diff};
use crate::engine::cell::StopKind;
use crate::engine::effects::{Answer, Effect};
use crate::engine::{Applied, Change, Command, Generation, Preview, Refused, Restarted, Slot, Stopped};
use crate::journal::Kind;

/// So many desired states are kept to go back to.
const KEPT: usize = 50;

impl Core {
    pub(super) fn command(&mut self, command: Command) {
        match command {
            Command::Change(change, answer) => {
                let result = self.change(change);
                self.effects.push(Effect::Answer(Answer::Changed(answer, result)));
            }
            Command::Restart { services, cause, answer } => {
                let result = self.restart(&services, cause);
                self.effects.push(Effect::Answer(Answer::Restarted(answer, result)));
            }
            Command::Pause { service, resume, cause, answer } => {
                let result = self.pause(&service, resume, &cause);
                self.effects.push(Effect::Answer(Answer::Paused(answer, result)));
            }
            Command::Preview(services, answer) => {
                let preview = Box::new(self.preview(services));
                self.effects.push(Effect::Answer(Answer::Previewed(answer, preview)));
            }
            Command::History(answer) => {
                let history = self.history.iter().cloned().collect();
                self.effects.push(Effect::Answer(Answer::History(answer, history)));
            }
            Command::Why(service, answer) => {
                let text = self.why(&service);
                self.effects.push(Effect::Answer(Answer::Why(answer, text)));
            }
            Command::RunNow { service, cause, answer } => {
                let result = Box::new(self.run_now(&service, &cause));
                self.effects.push(Effect::Answer(Answer::Ran(answer, result)));
            }
            Command::Runs(answer) => {
                let timetable = Box::new(self.timetable.clone());
                self.effects.push(Effect::Answer(Answer::Runs(answer, timetable)));
            }
            Command::Down { now, cause, done } => self.down(now, cause, done),
            Command::Release { id, cause, answer } => {
                let released = self.release(&id, &cause);
                if released {
                    self.effects.push(Effect::Release { id });
                }
                self.effects.push(Effect::Answer(Answer::Released(answer, released)));
            }
            Command::Note { kind, service, text } => {
                let news = self.news(kind, &service, "", text);
                self.effects.push(news);
            }
            Command::Stop { now, done } => {
                if self.stopping.is_none() {
                    let news = self.news(Kind::ShutDown, "", "", "everything is told to stop".into());
                    self.effects.push(news);
                    self.desired = Desired::nothing(self.fleet.generation + 1);
                }
                self.stopping.get_or_insert_default().extend(done);
                if now {
                    self.kill_all();
                }
            }
        }
    }

    fn kill_all(&mut self) {
        let live = self.roster.iter().filter(|i| i.is_live() && !i.is_quarantined());
        let mut live: Vec<(Time, InstanceId)> = live.map(|i| (i.started, i.id.clone())).collect();
        // As they were started: so it is told, and a place in the roster says nothing of that.
        live.sort_by_key(|(started, _)| *started);
        for (_, id) in live {
            self.stop(&id, StopKind::Kill, StopCause::ShutDown);
        }
    }

    /// Nothing is wanted from now on, and the engine stays: an apply or a way back brings it up again.
    fn down(&mut self, now: bool, cause: String, done: oneshot::Sender<Result<Stopped, Refused>>) {
        if self.downs.is_empty() {
            self.killed = 0;
            let tag = (*self.tag).clone();
            let change = Change { services: Vec::new(), tag, index: None, cause };
            // Refused only where everything is about to stop anyway.
            let _ = self.change(change);
        }
        self.downs.push(done);
        if now {
            self.kill_all();
        }
    }

    /// Gives up an instance of which nobody can say whether it runs. Says whether there was one.
    fn release(&mut self, id: &InstanceId, cause: &str) -> bool {
        let now = self.now.time;
        let Some(instance) = self.instance(id).filter(|instance| instance.is_quarantined()) else {
            return false;
        };
        instance.given_up(now);
        if let Some(cell) = self.roster.cell_mut(id) {
            cell.pid = None;
            cell.address.clear();
            cell.registered = None;
        }
        self.record(Kind::Exit, id, format!("is given up by {cause}; what runs of it is left alone"));
        true
    }

    /// Takes another desired state, whole. One that was made from another state than the present one is
    /// refused; one that is the present one changes nothing.
    fn change(&mut self, change: Change) -> Result<Applied, Refused> {
        let present = self.fleet.generation;
        let refused = match change.index {
            _ if self.stopping.is_some() || !self.downs.is_empty() => Some(Refused::Stopping),
            Some(asked) if asked != present => Some(Refused::Stale { asked, present }),
            _ => None,
        };
        if let Some(refused) = refused {
            let news = self.news(Kind::Refused, "", "", format!("{} is refused: {refused}", change.cause));
            self.effects.push(news);
            return Err(refused);
        }
        if self.distrust.take().is_some() {
            let news =
                self.news(Kind::Applied, "", "", format!("what is wanted is said anew, by {}", change.cause));
            self.effects.push(news);
        }
        let change = Change { services: in_order(change.services), ..change };
        let before = self.wanted();
        if !self.history.is_empty() && change.services == before && change.tag == *self.tag {
            return Ok(Applied { index: present, changed: false });
        }
        let (_, decisions) = propose(&mut self.fleet, &change.services, self.now.time);
        let desired = Desired { generation: self.fleet.generation, services: change.services.clone() };
        self.timetable.apply(&desired, self.now.wall());
        self.tag = Arc::new(change.tag);
        let changes = diff(&before, &change.services);
        let index = self.fleet.generation;
        let text = format!("index {index} by {}: {}", change.cause, summary(&changes));
        let news = self.news(Kind::Applied, "", "", text);
        self.effects.push(news);
        self.record_decisions(&decisions);
        self.remember(change.cause);
        Ok(Applied { index, changed: true })
    }

    /// All services as they are wanted, without what is under way.
    pub(super) fn wanted(&self) -> Vec<Service> {
        let cron = self.timetable.entries.iter().map(|entry| &entry.service);
        let others = self.fleet.deployments.iter().map(|deployment| &deployment.wanted.service);
        others.chain(cron).cloned().collect()
    }

    /// Keeps what is wanted now as a state to go back to.
    pub(super) fn remember(&mut self, cause: String) {
        self.superseded();
        self.history.push_back(Arc::new(Generation {
            index: self.fleet.generation,
            unix_ms: self.now.unix_ms,
            cause,
            services: self.wanted(),
            tag: Arc::clone(&self.tag),
            outcome: None,
            why: String::new(),
            restarted: Vec::new(),
        }));
        if self.history.len() > KEPT {
            self.history.pop_front();
        }
    }

    /// What would be done if these services were wanted now.
    fn preview(&self, services: Vec<Service>) -> Preview {
        let mut fleet = self.fleet.clone();
        let (steps, _) = propose(&mut fleet, &services, self.now.time);
        let mut desired = fleet.advance_at(&self.roster.places(), self.now.time).desired;
        let mut timetable = self.timetable.clone();
        timetable.apply(&Desired { generation: fleet.generation, services }, self.now.wall());
        let tick = timetable.tick(self.roster.observed(), self.now.time, self.now.wall());
        desired.services.extend(tick.services);
        let slot = |instance: &Instance| Slot {
            service: instance.service.clone(),
            slot: instance.slot,
            instance: instance.id.clone(),
            process: instance.process().clone(),
        };
        Preview {
            index: self.fleet.generation,
            services: self.wanted(),
            steps,
            plan: plan_at(&desired, &self.roster.places(), self.now.time),
            live: self.roster.iter().filter(|i| i.is_live()).map(slot).collect(),
        }
    }

    /// The rollout of a service stands still, or goes on.
    fn pause(&mut self, service: &str, resume: bool, cause: &str) -> Result<bool, Refused> {
        if self.is_stopping() {
            return Err(Refused::Stopping);
        }
        if self.fleet.deployment(service).is_none() {
            return Err(Refused::Unknown(service.to_owned()));
        }
        let now = self.now.time;
        let decisions = if resume { self.fleet.resume(service, now) } else { self.fleet.pause(service, now) };
        self.record_decisions_of(&decisions, &format!(", by {cause}"));
        Ok(!decisions.is_empty())
    }

    /// New instances in the place of all that there are.
    fn restart(&mut self, services: &[String], cause: String) -> Result<Restarted, Refused> {
        if self.is_stopping() {
            return Err(Refused::Stopping);
        }
        if let Some(cron) = services.iter().find(|name| self.timetable.entry(name).is_some()) {
            return Err(Refused::CronJob(cron.clone()));
        }
        if let Some(unknown) = services.iter().find(|name| self.fleet.deployment(name).is_none()) {
            return Err(Refused::Unknown(unknown.clone()));
        }
        let is_stopped =
            |name: &&String| self.fleet.deployment(name).is_some_and(|of| of.wanted.service.replicas == 0);
        if let Some(stopped) = services.iter().find(is_stopped) {
            return Err(Refused::StoppedService(stopped.clone()));
        }
        let present = self.fleet.generation;
        for name in services {
            let news = self.news(Kind::Restart, name, "", format!("is to get new instances, by {cause}"));
            self.effects.push(news);
            let decisions = self.fleet.restart(name, self.now.time);
            self.record_decisions(&decisions);
        }
        self.fleet.generation = present + 1;
        self.remember(cause);
        if let Some(state) = self.history.back_mut() {
            Arc::make_mut(state).restarted = services.to_vec();
        }
        let wanted = self.fleet.deployments.iter().map(|deployment| &deployment.wanted.service);
        let restarted = wanted.filter(|service| services.contains(&service.name));
        let instances = restarted.map(|service| service.replicas).sum();
        Ok(Restarted { index: self.fleet.generation, instances })
    }
}

/// Makes these the wanted services of a fleet, one generation on. A number of instances that changes alone
/// is no part of a revision: a rollout that goes back keeps it.
fn propose(fleet: &mut Fleet, services: &[Service], now: Time) -> (Vec<(String, Step)>, Vec<Decision>) {
    let present = fleet.generation;
    let mut decisions = Vec::new();
    let mut scaled = Vec::new();
    for service in services {
        let Some(deployment) = fleet.deployment(&service.name) else { continue };
        let wanted = &deployment.wanted.service;
        let rest = Service { replicas: wanted.replicas, ..service.clone() };
        if wanted.replicas != service.replicas && rest == *wanted {
            scaled.push(service.name.clone());
            decisions.extend(fleet.scale(&service.name, service.replicas, now));
        }
    }
    fleet.generation = present;
    let desired = Desired { generation: present + 1, services: services.to_vec() };
    let mut applied = fleet.apply(&desired, now).unwrap_or_default();
    for (name, step) in &mut applied.changes {
        if scaled.contains(name) {
            *step = Step::InPlace;
        }
    }
    decisions.extend(applied.decisions);
    (applied.changes, decisions)
}

/// `order changed (replicas), payment added`.
fn summary(changes: &[ServiceChange]) -> String {
    if changes.is_empty() {
        return "no service changed".into();
    }
    let of = |change: &ServiceChange| {
        let fields: Vec<&str> = change.fields.iter().map(|field| field.field.as_str()).collect();
        match change.change {
            crate::diff::ChangeKind::Changed if !fields.is_empty() && fields.len() <= 4 => {
                format!("{} changed ({})", change.service, fields.join(", "))
            }
            kind => format!("{} {}", change.service, kind.as_str()),
        }
    };
    changes.iter().map(of).collect::<Vec<_>>().join(", ")
}
