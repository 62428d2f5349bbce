//! What people are shown: the planner's status, with addresses and process numbers.

use std::sync::Arc;

use formic_plan::{Desired, Places, Run, ServiceState, Time};
use serde::Serialize;

/// The whole application at one moment.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct View {
    /// The services, in the order of the desired state.
    pub services: Vec<ServiceView>,
    /// Index of the desired state.
    pub index: u64,
    /// Why nothing follows from the desired state; empty where all does.
    pub held: String,
    /// What came with the desired state for whoever shows it; the engine does not read it.
    #[serde(skip)]
    pub tag: Arc<serde_json::Value>,
}

/// A service.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ServiceView {
    /// Its name.
    pub name: String,
    /// Short hash of its revision.
    pub version: String,
    /// Its state in a word.
    pub state: ServiceState,
    /// Instances that are ready, or have come to their end with success.
    pub ready: u32,
    /// Wanted instances.
    pub wanted: u32,
    /// Its instances. Those that are as they were are the same ones in the next view.
    pub instances: Vec<Arc<InstanceView>>,
    /// Part of Formic, and not of the manifest.
    pub system: bool,
    /// Why it is not simply ready.
    pub reason: String,
    /// How far the last change of its revision is, in a word.
    pub rollout: &'static str,
    /// Why that failed, if it did.
    pub rollout_failure: String,
    /// The number of that change; a later one has a greater number.
    pub rollout_number: u64,
    /// How often instances were restarted after ends of their own, in places that are not wanted now too.
    pub restarts: u32,
    /// When it is due, if it is a cron job.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cron: Option<CronView>,
}

/// A cron job.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct CronView {
    /// When, as the manifest says it.
    pub schedule: String,
    /// In which time zone.
    pub zone: String,
    /// When next, in milliseconds since 1970.
    pub next_unix_ms: Option<u64>,
    /// The last run that is over.
    pub last: Option<Run>,
}

/// An instance.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct InstanceView {
    /// Its id.
    pub id: String,
    /// Its place in the service.
    pub slot: u32,
    /// Short hash of its revision.
    pub version: String,
    /// starting, ready, standby (ready, and gets no calls), unready, stopping, ending (what its main process left
    /// behind), quarantined, backoff, exited.
    pub state: &'static str,
    /// Where it answers, once it has registered.
    pub address: String,
    /// Its process; 0 once it is gone.
    pub pid: u32,
    /// Restarts of this place.
    pub restarts: u32,
    /// When it was started, in milliseconds since 1970.
    pub started_unix_ms: i64,
    /// How the one before it, or it, ended.
    pub last_exit: String,
    /// Why its probe fails; empty while it does not, and for the first second of an instance that starts.
    pub probe_failure: String,
}

impl View {
    pub(crate) fn services(desired: &Desired, places: &Places<'_>, now: Time) -> Vec<ServiceView> {
        let is_system = |at: usize, name: &str| {
            // What is wanted comes first, and in its order.
            let wanted = desired.services.get(at).filter(|wanted| wanted.name == name);
            wanted.and_then(|wanted| wanted.start.get("system")?.as_bool()).unwrap_or(false)
        };
        let row = |(at, status): (usize, formic_plan::ServiceStatus)| ServiceView {
            version: status.revision.as_ref().map(|r| r.short().to_owned()).unwrap_or_default(),
            state: status.state,
            ready: status.ready,
            wanted: status.replicas,
            instances: Vec::new(),
            system: is_system(at, &status.service),
            reason: status.detail.unwrap_or_default(),
            rollout: "",
            rollout_failure: String::new(),
            rollout_number: 0,
            restarts: status.restarts,
            cron: None,
            name: status.service,
        };
        formic_plan::status_at(desired, places, now).into_iter().enumerate().map(row).collect()
    }

    /// Whether every service has what is wanted, or has done what was wanted; a cron job has, whatever its runs do.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        let good = |state| matches!(state, ServiceState::Ready | ServiceState::Completed);
        let ready = |service: &ServiceView| good(service.state) || service.cron.is_some();
        !self.services.is_empty() && self.services.iter().all(ready)
    }
}
