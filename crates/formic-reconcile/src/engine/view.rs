//! What the core knows, as people are shown it.

use std::sync::Arc;

#[cfg(test)]
use formic_plan::Places;
use formic_plan::{Deployment, Desired, Instance, Phase, Role, Service, State, Time};

use super::cell::Cell;
use super::core::Core;
use crate::view::{InstanceView, ServiceView, View};

/// Which instances of a service are shown, and as what.
struct Showing<'a> {
    wanted: Option<&'a Service>,
    standby: Option<&'a Service>,
    /// All is to go.
    stopping: bool,
}

impl<'a> Showing<'a> {
    /// Of the service at this place of a view.
    fn of(desired: &'a Desired, at: usize, name: &str, stopping: bool) -> Self {
        // What is wanted comes first, and in its order.
        let wanted = desired.services.get(at).filter(|wanted| wanted.name == name);
        Self { wanted, standby: wanted.filter(|wanted| wanted.has_standby()), stopping }
    }

    /// What died in a slot that is not wanted any more says nothing, unless all is to go.
    fn is_told(&self, i: &Instance) -> bool {
        self.stopping || i.is_live() || self.wanted.is_some_and(|wanted| wanted.at(i.slot).is_some())
    }

    fn is_standby(&self, i: &Instance) -> bool {
        self.standby.and_then(|service| service.at(i.slot)).is_some_and(|t| t.role == Role::Standby)
    }
}

impl Core {
    /// The whole application now. Rows that are what they were in the view before it are the same: a turn changes few of
    /// them, and there may be a thousand.
    pub(crate) fn view(&mut self, now: Time) -> View {
        let mut services = View::services(&self.desired, &self.roster.places(), now);
        let stopping = self.is_stopping();
        for (at, service) in services.iter_mut().enumerate() {
            let showing = Showing::of(&self.desired, at, &service.name, stopping);
            service.instances =
                self.roster.rows(&service.name, |i| showing.is_told(i), |i| showing.is_standby(i));
        }
        self.view_of(services)
    }

    /// The same as if there had been no view before it.
    #[cfg(test)]
    pub(crate) fn view_anew(&self, now: Time) -> View {
        let mut services = View::services(&self.desired, &Places::new(self.roster.observed()), now);
        for (at, service) in services.iter_mut().enumerate() {
            let showing = Showing::of(&self.desired, at, &service.name, self.is_stopping());
            service.instances =
                self.roster.rows_anew(&service.name, |i| showing.is_told(i), |i| showing.is_standby(i));
        }
        self.view_of(services)
    }

    /// With what is known of each service besides its instances.
    fn view_of(&self, mut services: Vec<ServiceView>) -> View {
        for (at, service) in services.iter_mut().enumerate() {
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

/// How an instance is shown.
pub(crate) fn row(instance: &Instance, cell: &Cell, standby: bool) -> InstanceView {
    InstanceView {
        id: instance.id.as_str().to_owned(),
        slot: instance.slot,
        version: instance.revision.short().to_owned(),
        state: word(instance, standby),
        address: cell.address.clone(),
        pid: cell.pid.unwrap_or_default(),
        restarts: instance.history.restarts,
        started_unix_ms: cell.started_unix_ms,
        // How it ended, else how the one before it did.
        last_exit: instance.exit().map_or_else(|| cell.last_exit.clone(), ToString::to_string),
        probe_failure: failure(instance).to_owned(),
    }
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

/// Why its probe fails, of one that is not told to stop.
fn failure(instance: &Instance) -> &str {
    let asked = matches!(instance.state, State::Starting { .. } | State::Unready { .. }) && !instance.ending;
    instance.failing.as_deref().filter(|_| asked).unwrap_or_default()
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
