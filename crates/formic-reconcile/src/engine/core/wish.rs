//! What people may ask for: another desired state, new instances, a look ahead, the end.

use std::collections::BTreeSet;
use std::sync::Arc;

use formic_plan::{Desired, End, Instance, InstanceId, Service, State, StopCause, plan};

use super::Core;
use crate::diff::{ServiceChange, diff};
use crate::engine::cell::StopKind;
use crate::engine::effects::{Answer, Effect};
use crate::engine::{Applied, Change, Command, Generation, Preview, Refused, Slot};
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
            Command::Restart(services, answer) => {
                let result = self.restart(&services);
                self.effects.push(Effect::Answer(Answer::Restarted(answer, result)));
            }
            Command::Preview(services, answer) => {
                let preview = Box::new(self.preview(services));
                self.effects.push(Effect::Answer(Answer::Previewed(answer, preview)));
            }
            Command::History(answer) => {
                let history = self.history.iter().cloned().collect();
                self.effects.push(Effect::Answer(Answer::History(answer, history)));
            }
            Command::Stop { now, done } => {
                if self.stopping.is_none() {
                    let news = self.news(Kind::ShutDown, "", "", "everything is told to stop".into());
                    self.effects.push(news);
                    self.desired = Desired::nothing(self.desired.generation + 1);
                }
                self.stopping.get_or_insert_default().extend(done);
                if now {
                    let live = self.observed.instances.iter().filter(|instance| instance.is_live());
                    let live: Vec<InstanceId> = live.map(|instance| instance.id.clone()).collect();
                    for id in live {
                        self.stop(&id, StopKind::Kill, StopCause::ShutDown);
                    }
                }
            }
        }
    }

    /// Takes another desired state, whole. One that was made from another state than the present one is
    /// refused; one that is the present one changes nothing.
    fn change(&mut self, change: Change) -> Result<Applied, Refused> {
        let present = self.desired.generation;
        let refused = match change.index {
            _ if self.stopping.is_some() => Some(Refused::Stopping),
            Some(asked) if asked != present => Some(Refused::Stale { asked, present }),
            _ => None,
        };
        if let Some(refused) = refused {
            let news = self.news(Kind::Refused, "", "", format!("{} is refused: {refused}", change.cause));
            self.effects.push(news);
            return Err(refused);
        }
        if !self.history.is_empty() && change.services == self.desired.services && change.tag == *self.tag {
            return Ok(Applied { index: present, changed: false });
        }
        let index = present + 1;
        let changes = diff(&self.desired.services, &change.services);
        let text = format!("index {index} by {}: {}", change.cause, summary(&changes));
        let news = self.news(Kind::Applied, "", "", text);
        self.effects.push(news);
        self.tag = Arc::new(change.tag);
        self.desired = Desired { generation: index, services: change.services };
        self.history.push_back(Arc::new(Generation {
            index,
            unix_ms: self.now.unix_ms,
            cause: change.cause,
            services: self.desired.services.clone(),
            tag: Arc::clone(&self.tag),
        }));
        if self.history.len() > KEPT {
            self.history.pop_front();
        }
        Ok(Applied { index, changed: true })
    }

    /// What would be done if these services were wanted now.
    fn preview(&self, services: Vec<Service>) -> Preview {
        let desired = Desired { generation: self.desired.generation + 1, services };
        let slot = |instance: &Instance| Slot {
            service: instance.service.clone(),
            slot: instance.slot,
            instance: instance.id.clone(),
        };
        Preview {
            index: self.desired.generation,
            services: self.desired.services.clone(),
            plan: plan(&desired, &self.observed, self.now.time),
            live: self.observed.instances.iter().filter(|i| i.is_live()).map(slot).collect(),
        }
    }

    /// Takes note of what is to be replaced. What waits for its back-off, or has given up, is started at
    /// once: somebody thinks that it may work now.
    fn restart(&mut self, services: &[String]) -> Result<u32, Refused> {
        if self.stopping.is_some() {
            return Err(Refused::Stopping);
        }
        if let Some(unknown) = services.iter().find(|name| self.desired.service(name).is_none()) {
            return Err(Refused::Unknown(unknown.clone()));
        }
        let mut count = 0;
        let now = self.now.time;
        for instance in self.observed.instances.iter_mut().filter(|i| services.contains(&i.service)) {
            match &mut instance.state {
                State::Stopping { .. } | State::Exited { end: End::Stopped, .. } => continue,
                State::Backoff { until, .. } => *until = now,
                State::Exited { end, .. } => *end = End::Stopped,
                _ => drop(self.restarting.insert(instance.id.clone())),
            }
            count += 1;
        }
        for name in services {
            let news = self.news(Kind::Restart, name, "", "a restart was asked for".into());
            self.effects.push(news);
        }
        Ok(count)
    }

    /// Stops what is to be replaced: what does not answer at once, what answers one by one and only while
    /// all others of its service answer. Says whether it did anything.
    pub(super) fn restart_next(&mut self) -> bool {
        if self.restarting.is_empty() {
            return false;
        }
        let open = |i: &&Instance| i.is_live() && !matches!(i.state, State::Stopping { .. });
        let left: BTreeSet<InstanceId> =
            self.observed.instances.iter().filter(open).map(|i| i.id.clone()).collect();
        self.restarting.retain(|id| left.contains(id));
        let mut next = Vec::new();
        for service in &self.desired.services {
            let own = || self.observed.instances.iter().filter(|i| i.service == service.name);
            let ready = own().filter(|i| i.is_ready() && i.slot < service.replicas).count();
            let mut missing = (service.replicas as usize).saturating_sub(ready);
            let mut asked: Vec<&Instance> = own().filter(|i| self.restarting.contains(&i.id)).collect();
            asked.sort_by_key(|instance| instance.slot);
            for instance in asked {
                if !instance.is_ready() {
                    next.push((instance.id.clone(), instance.grace));
                } else if missing == 0 {
                    missing += 1;
                    next.push((instance.id.clone(), instance.grace));
                }
            }
        }
        for (id, grace) in &next {
            self.restarting.remove(id);
            self.stop(id, StopKind::Ask(grace.get()), StopCause::Requested);
        }
        !next.is_empty()
    }
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
