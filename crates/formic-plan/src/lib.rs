//! The planner: from what is wanted and what is there to what is to be done. Pure: no clock, no
//! randomness, no I/O.
//!
//! [`plan`] is a function of `(desired, observed, now)` and of nothing else. It is level-triggered: it
//! is not told what happened, so nothing that happened can be missed, and calling it once too often is
//! harmless. A [`Plan`] is a value: it can be printed, compared, serialised and thrown away.
//!
//! # What the executor does
//!
//! It keeps one [`Observed`]: for each slot of each service the instance that runs there or, when none
//! does, the last one that did. An instance goes through its life by the methods of [`Instance`], which
//! hold every rule about restarts:
//!
//! | what happens | what the executor calls |
//! |---|---|
//! | it carries out [`Action::Start`] | [`Instance::begin`], in the place of the dead one, then starts the process |
//! | the process could not be started | [`Instance::exited`] with [`Outcome::NotStarted`] |
//! | a probe succeeds, or fails after it did | [`Instance::ready`], [`Instance::unready`] |
//! | it carries out [`Action::Stop`] | [`Instance::stopping`], then SIGTERM; done again it does nothing |
//! | it carries out [`Action::Kill`] | kills the whole tree; done again it does nothing |
//! | it carries out [`Action::Adjust`] | writes limits anew, then [`Instance::adjusted`] |
//! | its main process has ended, and not all of it is gone | [`Instance::main_ended`] |
//! | the whole process tree is gone | [`Instance::exited`] |
//!
//! After each event, and at [`Plan::wake_at`], it plans anew. [`Action::Wait`] is nothing to carry out:
//! it says why nothing is done. [`status()`] says what a person wants to know. Instances of services
//! that are no longer desired may be dropped from `Observed` once they are dead.
//!
//! # The rules
//!
//! - At most one live instance per slot. A slot is refilled when its instance is gone, not when it is
//!   told to go.
//! - An instance is first started when each service that it depends on has **at least one** ready
//!   instance: one can answer, and waiting for all replicas would make every dependant as fragile as
//!   the weakest replica. Once it has been ready, its restarts wait for nobody, so one broken leaf does
//!   not pull down everything above it.
//! - A service that goes away (not desired any more, or zero replicas) stops after the services that go
//!   away with it and depend on it. An empty `Desired` is therefore an orderly shutdown. Dependencies
//!   are taken from the instances themselves, so the order holds when the manifest has changed or is
//!   gone. A circle between old and new dependencies is let go all at once.
//! - A dependency can also be waited for to be started, or to have run to its end. One that is restarted
//!   takes its dependants along if it says so (`rest_for_one`): they stop, then it starts, and they after it.
//! - A changed revision replaces instances in place, one ready instance of a service at a time, and only
//!   while all its other slots are ready. Where a [`Fleet`] sees to rollouts, its sets say which slot runs
//!   what, and the planner replaces nothing by itself.
//! - What a running process can take up is changed in it.
//! - An instance that is not ready in time is stopped, and that counts as a failure. Its slot is its
//!   own meanwhile: no other instance is started in its stead. One that does not stop in time is killed.
//! - Restarts back off as [`backoff`] says; after more unready exits than the rule's intensity (five in two
//!   minutes) a service is crash-looping: it is tried again at the longest delay, for ever.
//!
//! # Rollouts
//!
//! [`Fleet`] is one level above: it leads services from revision to revision and back, and says at each
//! moment what is wanted of each slot. [`why`] tells a person what all of it comes to.
//!
//! ```
//! use formic_plan::{Desired, Instance, Observed, Service, Time, plan};
//! use formic_spec::{Manifest, Revision};
//!
//! let manifest = Manifest::parse(
//!     "[app]\nname = 'shop'\n[service.order]\ncargo = 'order'\ndepends_on = ['user']\n[service.user]\ncargo = 'user'\n",
//!     "formic.toml",
//! )?;
//! let services = manifest.services.iter().filter_map(|service| {
//!     let revision = manifest.revision(&service.name, "digest of the binary")?;
//!     Some(Service::of(service, revision, serde_json::Value::Null))
//! });
//! let desired = Desired { generation: 1, services: services.collect() };
//! let mut observed = Observed::default();
//! let now = Time::from_millis(0);
//!
//! let first = plan(&desired, &observed, now);
//! assert_eq!(first.starts().collect::<Vec<_>>(), [("user", 0)]);
//!
//! let mut user = Instance::begin("user-1".into(), &desired.services[1], 0, None, now);
//! user.ready(now);
//! observed.instances.push(user);
//! assert_eq!(plan(&desired, &observed, now).starts().collect::<Vec<_>>(), [("order", 0)]);
//! # Ok::<(), formic_spec::Faults>(())
//! ```
//!
//! Refused: a planner that is told the event (it would have to be told every one, once, in order);
//! actions that carry the command line (the executor has the service's `start` data, which the planner
//! never reads).

mod action;
mod backoff;
mod life;
mod needs;
mod places;
mod planner;
mod rollout;
mod set;
mod state;
mod status;
mod timetable;
mod why;

pub use action::{Action, Plan, StartCause, WaitCause};
pub use backoff::{Along, History, RESET_AFTER, STEADY_AFTER, backoff};
pub use life::{End, Exit, Instance, InstanceId, Outcome, State, StopCause};
pub use places::{Index, Places};
pub use planner::{plan, plan_at};
pub use rollout::{
    Advance, Applied, CRASHES, Change, Decision, Deployment, Failure, Fleet, Kept, Phase, Release, Rollout,
    Stale, What,
};
pub use set::{Role, Set, Template};
pub use state::{Desired, Observed, Service, Time};
pub use status::{ServiceState, ServiceStatus, status, status_at};
pub use timetable::{Due, Entry, Run, RunState, Tick, Timetable};
pub use why::{Facts, why};
