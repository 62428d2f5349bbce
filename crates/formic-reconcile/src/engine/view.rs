//! What the core knows, as people are shown it.

use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::Arc;

use formic_plan::{Deployment, Instance, Phase, Places, Role, State, Time};

use super::cell::Cell;
use super::core::Core;
use crate::view::{InstanceView, View};

impl Core {
    /// The whole application now.
    #[cfg(test)]
    pub(crate) fn view(&self, now: Time) -> View {
        self.view_after(&View::default(), now)
    }

    /// The same, with the rows of the view before it where they are what they were: a turn changes few of them, and
    /// there may be a thousand.
    pub(crate) fn view_after(&self, before: &View, now: Time) -> View {
        let before: HashMap<&str, &[Arc<InstanceView>]> = before
            .services
            .iter()
            .map(|service| (service.name.as_str(), service.instances.as_slice()))
            .collect();
        let places = Places::new(&self.observed);
        let mut services = View::services(&self.desired, &self.observed, now);
        for (at, service) in services.iter_mut().enumerate() {
            // What is wanted comes first, and in its order.
            let wanted = self.desired.services.get(at).filter(|wanted| wanted.name == service.name);
            let standby = wanted.filter(|wanted| wanted.has_standby());
            let is_standby =
                |i: &Instance| standby.and_then(|s| s.at(i.slot)).is_some_and(|t| t.role == Role::Standby);
            // What died in a slot that is not wanted any more says nothing, unless all is to go.
            let is_told = |i: &&&Instance| {
                self.is_stopping() || i.is_live() || wanted.is_some_and(|wanted| wanted.at(i.slot).is_some())
            };
            let mut rows = before.get(service.name.as_str()).copied().unwrap_or_default();
            for instance in places.of(&service.name).iter().filter(is_told) {
                // Both are by slot.
                while let [row, rest @ ..] = rows
                    && row.slot < instance.slot
                {
                    rows = rest;
                }
                let mut here = rows.iter().take_while(|row| row.slot == instance.slot);
                let own = here.find(|row| row.id == instance.id.as_str());
                let (cell, standby) = (self.cells.get(&instance.id), is_standby(instance));
                service.instances.push(match own {
                    Some(row) if is_row(row, instance, cell, standby) => Arc::clone(row),
                    _ => Arc::new(row(instance, cell, standby)),
                });
            }
            service.cron = self.cron(&service.name);
            let its = |deployment: &&Deployment| deployment.wanted.service.name == service.name;
            let deployment = self.fleet.deployments.get(at).filter(its);
            if let Some(deployment) = deployment.or_else(|| self.fleet.deployment(&service.name)) {
                service.rollout = phase(&deployment.rollout.phase);
                service.rollout_number = deployment.rollout.number;
                service.rollout_failure =
                    deployment.rollout.failure().map(ToString::to_string).unwrap_or_default();
            }
        }
        let held = self.held().unwrap_or_default().to_owned();
        View { services, index: self.desired.generation, held, tag: Arc::clone(&self.tag) }
    }
}

fn row(instance: &Instance, cell: Option<&Cell>, standby: bool) -> InstanceView {
    InstanceView {
        id: instance.id.as_str().to_owned(),
        slot: instance.slot,
        version: instance.revision.short().to_owned(),
        state: word(instance, standby),
        address: address(cell).to_owned(),
        pid: cell.and_then(|cell| cell.pid).unwrap_or_default(),
        restarts: instance.history.restarts,
        started_unix_ms: cell.map_or(0, |cell| cell.started_unix_ms),
        last_exit: last_exit(instance, cell).into_owned(),
        probe_failure: failure(instance).to_owned(),
    }
}

/// Whether a row is what [`row`] would make, which is not made for it.
fn is_row(row: &InstanceView, instance: &Instance, cell: Option<&Cell>, standby: bool) -> bool {
    let InstanceView {
        id,
        slot,
        version,
        state,
        address: at,
        pid,
        restarts,
        started_unix_ms,
        last_exit: exit,
        probe_failure,
    } = row;
    id == instance.id.as_str()
        && *slot == instance.slot
        && version == instance.revision.short()
        && *state == word(instance, standby)
        && at == address(cell)
        && *pid == cell.and_then(|cell| cell.pid).unwrap_or_default()
        && *restarts == instance.history.restarts
        && *started_unix_ms == cell.map_or(0, |cell| cell.started_unix_ms)
        && *exit == *last_exit(instance, cell)
        && probe_failure == failure(instance)
}

fn word(instance: &Instance, standby: bool) -> &'static str {
    match instance.state {
        State::Starting { .. } | State::Ready { .. } | State::Unready { .. } if instance.ending => "ending",
        State::Starting { .. } => "starting",
        State::Ready { .. } if standby => "standby",
        State::Ready { .. } => "ready",
        State::Unready { .. } => "unready",
        State::Stopping { .. } => "stopping",
        State::Quarantined { .. } => "quarantined",
        State::Backoff { .. } => "backoff",
        _ => "exited",
    }
}

fn address(cell: Option<&Cell>) -> &str {
    cell.map(|cell| cell.address.as_str()).unwrap_or_default()
}

/// Why its probe fails, of one that is not told to stop.
fn failure(instance: &Instance) -> &str {
    let asked = matches!(instance.state, State::Starting { .. } | State::Unready { .. }) && !instance.ending;
    instance.failing.as_deref().filter(|_| asked).unwrap_or_default()
}

/// How it ended, else how the one before it did.
fn last_exit<'a>(instance: &Instance, cell: Option<&'a Cell>) -> Cow<'a, str> {
    match instance.exit() {
        Some(exit) => Cow::Owned(exit.to_string()),
        None => Cow::Borrowed(cell.map(|cell| cell.last_exit.as_str()).unwrap_or_default()),
    }
}

fn phase(phase: &Phase) -> &'static str {
    match phase {
        Phase::Pending { .. } => "pending",
        Phase::Progressing { .. } => "progressing",
        Phase::Verifying { .. } => "verifying",
        Phase::Promoting => "promoting",
        Phase::Succeeded { .. } => "succeeded",
        Phase::Paused { .. } => "paused",
        Phase::Reverting { .. } => "reverting",
        Phase::Reverted { .. } => "reverted",
        _ => "failed",
    }
}
