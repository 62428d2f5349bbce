//! What a person wants to know of each service: one word, some numbers, and the reason.

use std::collections::HashMap;
use std::fmt;

use formic_spec::{HumanDuration, Revision};
use serde::{Deserialize, Serialize};

use crate::backoff::History;
use crate::life::{End, Instance, State};
use crate::needs::{is_completed, met};
use crate::places::{Place, Places};
use crate::set::Role;
use crate::state::{Desired, Observed, Service, Time};

/// A row of the table.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServiceStatus {
    /// The service.
    pub service: String,
    /// Its state in a word.
    pub state: ServiceState,
    /// The revision that is wanted, or, of a service that is not wanted, the one that last ran.
    pub revision: Option<Revision>,
    /// How many instances are wanted.
    pub replicas: u32,
    /// How many there are.
    pub live: u32,
    /// How many do what they are for: they are ready and get calls, or have come to their end with success.
    pub ready: u32,
    /// How often instances were restarted after exits of their own.
    pub restarts: u32,
    /// Why it is not simply ready.
    pub detail: Option<String>,
}

/// The state of a service in a word.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ServiceState {
    /// Wanted, and waiting for its dependencies or its turn.
    Pending,
    /// Starting, without a failure so far.
    Starting,
    /// As many instances are ready as are wanted.
    Ready,
    /// It runs, and not all of it answers.
    Degraded,
    /// Failed, and tried again soon.
    Backoff,
    /// Failed again and again, and tried again at the longest delay.
    CrashLooping,
    /// Of what nobody can say whether it runs, and nothing is done about it.
    Quarantined,
    /// Told to stop.
    Stopping,
    /// Not running, as wanted.
    Stopped,
    /// It has come to its end with success, and is not started again.
    Completed,
    /// It has failed for good: it is not started again.
    Failed,
    /// A cron job, of which nothing runs now.
    Scheduled,
    /// A cron job, of which a run goes on.
    Running,
    /// It runs, and nobody has said anything yet of what is wanted: the state was begun anew.
    Kept,
}

/// The status of each service, wanted ones first and in their order.
#[must_use]
pub fn status(desired: &Desired, observed: &Observed, now: Time) -> Vec<ServiceStatus> {
    status_at(desired, &Places::new(observed), now)
}

/// The same, of what is sorted already.
#[must_use]
pub fn status_at(desired: &Desired, places: &Places<'_>, now: Time) -> Vec<ServiceStatus> {
    let by_name: HashMap<&str, &Service> =
        desired.services.iter().map(|service| (service.name.as_str(), service)).collect();
    let needs = |service: &Service| {
        let met = |name: &str| {
            let all = || places.of(name).iter().copied();
            let completed = || by_name.get(name).is_some_and(|service| is_completed(service, all()));
            met(service.condition(name), all(), completed)
        };
        service.depends_on.iter().filter(|name| !met(name)).cloned().collect::<Vec<_>>()
    };
    let mut rows: Vec<ServiceStatus> = desired
        .services
        .iter()
        .map(|service| {
            let all = places.of(&service.name);
            // Where slots change hands, what died in one that is not wanted any more says nothing.
            let told = |i: &&&Instance| service.sets.is_none() || i.is_live() || service.at(i.slot).is_some();
            let instances: Vec<&Instance> = all.iter().filter(told).copied().collect();
            let mut row = row(&service.name, Some(service), &instances, &needs, now);
            row.restarts = restarts(all);
            row
        })
        .collect();
    let mut others: Vec<_> = places.iter().filter(|place| !by_name.contains_key(place.service)).collect();
    others.sort_by_key(|place| place.service);
    rows.extend(others.into_iter().map(|Place { service: name, instances }| {
        let mut row = row(name, None, instances, &needs, now);
        let goes_on = |i: &&Instance| i.is_live() && !i.is_stopping();
        if desired.generation == 0 && instances.iter().any(goes_on) {
            row.state = ServiceState::Kept;
            row.detail = Some(KEPT.to_owned());
        }
        row
    }));
    rows
}

/// What is said of what runs while nobody has said what is wanted.
const KEPT: &str = "it goes on as it is; nobody has said what is wanted since the state was begun anew";

fn row(
    name: &str,
    service: Option<&Service>,
    instances: &[&Instance],
    needs: &dyn Fn(&Service) -> Vec<String>,
    now: Time,
) -> ServiceStatus {
    let count = |of: &dyn Fn(&Instance) -> bool| {
        u32::try_from(instances.iter().filter(|i| of(i)).count()).unwrap_or(u32::MAX)
    };
    let replicas = service.map_or(0, |service| service.replicas);
    let standby = service.filter(|service| service.has_standby());
    let serves = |i: &Instance| {
        let role = standby.and_then(|service| service.at(i.slot)).map(|template| template.role);
        i.is_ready() && role != Some(Role::Standby)
    };
    // What another revision has done is not what is wanted.
    let is_done = |i: &Instance| {
        let wanted = || service.and_then(|service| service.at(i.slot));
        i.is_completed() && wanted().is_some_and(|template| i.is_restarted_by(&template))
    };
    let (live, rests) = (count(&Instance::is_live), service.is_some_and(|service| service.completed));
    let completed = if rests { replicas } else { count(&is_done) };
    let ready = count(&serves).saturating_add(completed);
    let any = |of: &dyn Fn(&State) -> bool| instances.iter().any(|i| of(&i.state));

    let state = if replicas == 0 {
        if live > 0 { ServiceState::Stopping } else { ServiceState::Stopped }
    } else if completed >= replicas {
        ServiceState::Completed
    } else if ready >= replicas {
        ServiceState::Ready
    } else if ready > completed {
        let failed = |history: &History| history.restarts > 0 || history.row > 0 || history.was_ready;
        let failed = instances.iter().any(|i| !i.is_ready() && !i.is_completed() && failed(&i.history));
        if failed { ServiceState::Degraded } else { ServiceState::Starting }
    } else if instances.iter().any(|i| i.history.crash_looping) {
        ServiceState::CrashLooping
    } else if any(&|s| matches!(s, State::Quarantined { .. })) {
        ServiceState::Quarantined
    } else if any(&|s| matches!(s, State::Backoff { .. })) {
        ServiceState::Backoff
    } else if instances.iter().any(|i| i.ending) {
        ServiceState::Stopping
    } else if any(&|s| matches!(s, State::Unready { .. })) {
        ServiceState::Degraded
    } else if any(&|s| matches!(s, State::Starting { .. })) {
        ServiceState::Starting
    } else if any(&|s| matches!(s, State::Stopping { .. })) {
        ServiceState::Stopping
    } else if count(&|i| matches!(i.state, State::Exited { end: End::Completed | End::Failed, .. }))
        >= replicas
    {
        ServiceState::Failed
    } else {
        ServiceState::Pending
    };
    let state = match state {
        ServiceState::Ready if service.is_some_and(|service| service.cron.is_some()) => ServiceState::Running,
        ServiceState::Stopped | ServiceState::Completed | ServiceState::Failed
            if service.is_some_and(|service| service.cron.is_some()) =>
        {
            ServiceState::Scheduled
        }
        other => other,
    };

    let detail = detail(state, service, instances, needs, now);
    let last = || instances.iter().max_by_key(|i| i.recency()).map(|i| i.revision.clone());
    ServiceStatus {
        service: name.into(),
        state,
        revision: service.map(|service| service.revision.clone()).or_else(last),
        replicas,
        live,
        ready,
        restarts: restarts(instances),
        detail,
    }
}

fn restarts(instances: &[&Instance]) -> u32 {
    instances.iter().map(|i| i.history.restarts).fold(0, u32::saturating_add)
}

/// Why, in a few words; the newest failure where there are several.
fn detail(
    state: ServiceState,
    service: Option<&Service>,
    instances: &[&Instance],
    needs: &dyn Fn(&Service) -> Vec<String>,
    now: Time,
) -> Option<String> {
    let service = service.filter(|service| service.replicas > 0)?;
    if matches!(state, ServiceState::Ready | ServiceState::Running | ServiceState::Completed) {
        return None;
    }
    if let Some((instance, reason)) = instances.iter().find_map(|i| match &i.state {
        State::Quarantined { reason, .. } => Some((i, reason)),
        _ => None,
    }) {
        return Some(format!("{} may be running: {reason}", instance.id));
    }
    let ended = instances.iter().filter(|i| i.exit().is_some() && !i.is_completed());
    let newest = ended.max_by_key(|i| i.recency());
    if let Some(instance) = newest {
        let Instance { service, slot, .. } = instance;
        match &instance.state {
            State::Backoff { exit, until } => {
                let left = HumanDuration::rough(until.since(now));
                return Some(format!("{service}/{slot} {exit}, starts again in {left}"));
            }
            State::Exited { exit, end: End::Failed } => {
                return Some(format!("{service}/{slot} {exit}, is not started again"));
            }
            _ => {}
        }
    }
    if let Some(instance) = instances.iter().find(|i| i.ending) {
        let Instance { service, slot, .. } = instance;
        return Some(format!("{service}/{slot} has ended; what it left behind is being ended"));
    }
    if let Some(instance) = instances.iter().find(|i| matches!(i.state, State::Unready { .. })) {
        let why = instance.failing.as_ref().map(|why| format!(": {why}")).unwrap_or_default();
        return Some(format!("{}/{} does not answer its probe{why}", instance.service, instance.slot));
    }
    let starting = instances.iter().filter(|i| matches!(i.state, State::Starting { .. }));
    if let Some((Instance { service, slot, .. }, why)) =
        starting.filter_map(|i| Some((i, i.failing.as_ref()?))).next()
    {
        return Some(format!("{service}/{slot} is not ready yet: {why}"));
    }
    if state != ServiceState::Pending {
        return None;
    }
    let needs = needs(service);
    (!needs.is_empty()).then(|| format!("needs {}", needs.join(", ")))
}

impl fmt::Display for ServiceState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Pending => "pending",
            Self::Starting => "starting",
            Self::Ready => "ready",
            Self::Degraded => "degraded",
            Self::Backoff => "backoff",
            Self::CrashLooping => "crash-looping",
            Self::Quarantined => "quarantined",
            Self::Stopping => "stopping",
            Self::Stopped => "stopped",
            Self::Completed => "completed",
            Self::Failed => "failed",
            Self::Scheduled => "scheduled",
            Self::Running => "running",
            Self::Kept => "kept",
        })
    }
}
