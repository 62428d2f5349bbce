//! What the core knows, as people are shown it.

use std::collections::HashMap;
use std::sync::Arc;

use formic_plan::{Instance, Phase, Role, State, Time};

use super::cell::Cell;
use super::core::Core;
use crate::view::{InstanceView, View};

impl Core {
    /// The whole application now.
    pub(crate) fn view(&self, now: Time) -> View {
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
            service.instances = own.into_iter().map(|i| row(i, cell(i), role(i))).collect();
            service.cron = self.cron(&service.name);
            if let Some(deployment) = self.fleet.deployment(&service.name) {
                service.rollout = phase(&deployment.rollout.phase);
                service.rollout_failure =
                    deployment.rollout.failure().map(ToString::to_string).unwrap_or_default();
            }
        }
        View { services, index: self.desired.generation, tag: Arc::clone(&self.tag) }
    }
}

fn row(instance: &Instance, cell: Option<&Cell>, role: Option<Role>) -> InstanceView {
    let own_exit = instance.exit().map(|exit| exit.to_string());
    InstanceView {
        id: instance.id.as_str().to_owned(),
        slot: instance.slot,
        version: instance.revision.short().to_owned(),
        state: match instance.state {
            State::Starting { .. } => "starting",
            State::Ready { .. } if role == Some(Role::Standby) => "standby",
            State::Ready { .. } => "ready",
            State::Unready { .. } => "unready",
            State::Stopping { .. } => "stopping",
            State::Quarantined { .. } => "quarantined",
            State::Backoff { .. } => "backoff",
            _ => "exited",
        },
        address: cell.map(|cell| cell.address.clone()).unwrap_or_default(),
        pid: cell.and_then(|cell| cell.pid).unwrap_or_default(),
        restarts: instance.history.restarts,
        started_unix_ms: cell.map_or(0, |cell| cell.started_unix_ms),
        last_exit: own_exit.or_else(|| cell.map(|cell| cell.last_exit.clone())).unwrap_or_default(),
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
