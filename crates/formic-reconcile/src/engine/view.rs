//! What the core knows, as people are shown it.

use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::Arc;

use formic_plan::{Instance, Phase, Role, State, Time};

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
        let rows = before.services.iter().flat_map(|service| &service.instances);
        let rows: HashMap<&str, &Arc<InstanceView>> = rows.map(|row| (row.id.as_str(), row)).collect();
        let mut by_service: HashMap<&str, Vec<&Instance>> = HashMap::new();
        for instance in &self.observed.instances {
            by_service.entry(&instance.service).or_default().push(instance);
        }
        let mut services = View::services(&self.desired, &self.observed, now);
        for service in &mut services {
            let mut own = by_service.remove(service.name.as_str()).unwrap_or_default();
            let wanted = self.desired.service(&service.name);
            let role = |i: &Instance| wanted.and_then(|w| w.at(i.slot)).map(|template| template.role);
            // What died in a slot that is not wanted any more says nothing, unless all is to go.
            own.retain(|i| self.is_stopping() || i.is_live() || role(i).is_some());
            own.sort_by_key(|instance| instance.slot);
            let cell = |i: &Instance| self.cells.get(&i.id);
            let row = |i: &Instance| match rows.get(i.id.as_str()) {
                Some(before) if is_row(before, i, cell(i), role(i)) => Arc::clone(before),
                _ => Arc::new(row(i, cell(i), role(i))),
            };
            service.instances = own.into_iter().map(row).collect();
            service.cron = self.cron(&service.name);
            if let Some(deployment) = self.fleet.deployment(&service.name) {
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

fn row(instance: &Instance, cell: Option<&Cell>, role: Option<Role>) -> InstanceView {
    InstanceView {
        id: instance.id.as_str().to_owned(),
        slot: instance.slot,
        version: instance.revision.short().to_owned(),
        state: word(instance, role),
        address: address(cell).to_owned(),
        pid: cell.and_then(|cell| cell.pid).unwrap_or_default(),
        restarts: instance.history.restarts,
        started_unix_ms: cell.map_or(0, |cell| cell.started_unix_ms),
        last_exit: last_exit(instance, cell).into_owned(),
        probe_failure: failure(instance).to_owned(),
    }
}

/// Whether a row is what [`row`] would make, which is not made for it.
fn is_row(row: &InstanceView, instance: &Instance, cell: Option<&Cell>, role: Option<Role>) -> bool {
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
        && *state == word(instance, role)
        && at == address(cell)
        && *pid == cell.and_then(|cell| cell.pid).unwrap_or_default()
        && *restarts == instance.history.restarts
        && *started_unix_ms == cell.map_or(0, |cell| cell.started_unix_ms)
        && *exit == *last_exit(instance, cell)
        && probe_failure == failure(instance)
}

fn word(instance: &Instance, role: Option<Role>) -> &'static str {
    match instance.state {
        State::Starting { .. } | State::Ready { .. } | State::Unready { .. } if instance.ending => "ending",
        State::Starting { .. } => "starting",
        State::Ready { .. } if role == Some(Role::Standby) => "standby",
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
