//! All services of an application under one hand.

use serde::{Deserialize, Serialize};

use super::apply::{Change, plain};
use super::decision::{Decision, What};
use super::shape::shape;
use super::survey::Index;
use super::{Deployment, Release};
use crate::places::Places;
use crate::state::{Desired, Observed, Time};

/// The state of every service's rollouts. Plain data: written down after each change, read at a start.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Fleet {
    /// The generation of what is wanted.
    pub generation: u64,
    /// The number of the last rollout.
    pub rollouts: u64,
    /// The services, in the order in which they were given.
    pub deployments: Vec<Deployment>,
}

/// What [`Fleet::advance`] comes to.
#[derive(Debug, Clone, PartialEq)]
pub struct Advance {
    /// What is wanted of each slot now, for [`plan`](crate::plan()).
    pub desired: Desired,
    /// What was decided.
    pub decisions: Vec<Decision>,
    /// Whether the fleet is another than before and must be written down before the plan is carried out.
    pub changed: bool,
    /// When to advance anew though nothing happened. Can be now: then at once, when it is written down.
    pub wake_at: Option<Time>,
}

/// What [`Fleet::apply`] comes to.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Applied {
    /// For each service, what the request means for it.
    pub changes: Vec<(String, Change)>,
    /// What was decided.
    pub decisions: Vec<Decision>,
}

/// What was asked for is older than what is wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stale {
    /// The generation of what is wanted.
    pub present: u64,
}

impl Fleet {
    /// Makes this wanted. What it does not name is removed. The same generation again changes nothing. Cron
    /// jobs are the matter of the [`Timetable`](crate::Timetable), and are left out.
    ///
    /// # Errors
    /// An older generation than the present one is refused.
    pub fn apply(&mut self, desired: &Desired, now: Time) -> Result<Applied, Stale> {
        if desired.generation < self.generation {
            return Err(Stale { present: self.generation });
        }
        if desired.generation == self.generation {
            return Ok(Applied::default());
        }
        self.generation = desired.generation;
        let mut applied = Applied::default();
        let mut before = std::mem::take(&mut self.deployments);
        for service in desired.services.iter().filter(|service| service.cron.is_none()) {
            let present = before.iter().position(|deployment| deployment.wanted.service.name == service.name);
            let (change, what) = match present {
                Some(at) => {
                    let mut deployment = before.remove(at);
                    let done = deployment.apply(service.clone(), self.rollouts + 1, now);
                    self.deployments.push(deployment);
                    done
                }
                None => {
                    let service = plain(service);
                    let number = self.rollouts + 1;
                    let (deployment, what) = Deployment::new(service, number, now);
                    self.deployments.push(deployment);
                    (Change::Rollout(number), Some(what))
                }
            };
            if let Change::Rollout(number) = change {
                self.rollouts = number;
            }
            applied.changes.push((service.name.clone(), change));
            applied
                .decisions
                .extend(what.into_iter().filter_map(|what| self.decision(&service.name, now, what)));
        }
        applied.changes.extend(before.into_iter().map(|gone| (gone.wanted.service.name, Change::Removed)));
        Ok(applied)
    }

    /// Another number of instances of a service. It is no part of a revision: a way back keeps it.
    pub fn scale(&mut self, service: &str, replicas: u32, now: Time) -> Vec<Decision> {
        let what = self.deployment_mut(service).and_then(|deployment| deployment.scale(replicas, now));
        self.changed(service, now, what)
    }

    /// New instances of the same revision in the place of all that there are.
    pub fn restart(&mut self, service: &str, now: Time) -> Vec<Decision> {
        let number = self.rollouts + 1;
        let Some(deployment) = self.deployment_mut(service) else { return Vec::new() };
        let what = deployment.restart(number, now);
        self.rollouts = number;
        self.changed(service, now, Some(what))
    }

    /// The rollout of a service stands still from now on.
    pub fn pause(&mut self, service: &str, now: Time) -> Vec<Decision> {
        let what = self.deployment_mut(service).and_then(|deployment| deployment.pause(now));
        self.changed(service, now, what)
    }

    /// The rollout of a service goes on.
    pub fn resume(&mut self, service: &str, now: Time) -> Vec<Decision> {
        let what = self.deployment_mut(service).and_then(|deployment| deployment.resume(now));
        self.changed(service, now, what)
    }

    /// To be called when the machine was started anew since the fleet was written down: its clock, and so
    /// every deadline, is another.
    pub fn restart_clock(&mut self, now: Time) {
        self.deployments.iter_mut().for_each(|deployment| deployment.restart_clock(now));
    }

    /// Goes on with every rollout, as far as what there is allows.
    pub fn advance(&mut self, observed: &Observed, now: Time) -> Advance {
        self.advance_at(&Places::new(observed), now)
    }

    /// The same, of what is sorted already.
    pub fn advance_at(&mut self, places: &Places<'_>, now: Time) -> Advance {
        let index = Index::new(places, &self.deployments);
        let mut advance = Advance {
            desired: Desired { generation: self.generation, services: Vec::new() },
            decisions: Vec::new(),
            changed: false,
            wake_at: None,
        };
        for deployment in &mut self.deployments {
            let before = deployment.rollout.clone();
            let survey = index.survey(deployment, now);
            let (decisions, wake_at) = deployment.step(&index, &survey, now);
            // A step that leaves the rollout as it is leaves the releases alone, too, and so what was found of them.
            let changed = deployment.rollout != before;
            let survey = if changed { index.survey(deployment, now) } else { survey };
            advance.changed |= changed;
            advance.decisions.extend(decisions.into_iter().map(|what| Decision {
                at: now,
                service: deployment.wanted.service.name.clone(),
                rollout: deployment.rollout.number,
                what,
            }));
            advance.wake_at = advance.wake_at.into_iter().chain(wake_at).min();
            advance.desired.services.push(shape(deployment, &survey));
        }
        advance
    }

    /// The deployment of a service.
    #[must_use]
    pub fn deployment(&self, service: &str) -> Option<&Deployment> {
        self.deployments.iter().find(|deployment| deployment.wanted.service.name == service)
    }

    /// The last revision of a service that succeeded.
    #[must_use]
    pub fn good(&self, service: &str) -> Option<&Release> {
        self.deployment(service)?.good.as_ref()
    }

    fn deployment_mut(&mut self, service: &str) -> Option<&mut Deployment> {
        self.deployments.iter_mut().find(|deployment| deployment.wanted.service.name == service)
    }

    /// What is wanted has changed if something was decided: a plan made before is stale.
    fn changed(&mut self, service: &str, now: Time, what: Option<What>) -> Vec<Decision> {
        if let Some(what) = what {
            // A pause leaves alone what is wanted.
            let wanted = !matches!(what, What::Paused | What::Resumed { .. });
            self.generation += u64::from(wanted);
            return self.decision(service, now, what).into_iter().collect();
        }
        Vec::new()
    }

    fn decision(&self, service: &str, now: Time, what: What) -> Option<Decision> {
        let rollout = self.deployment(service)?.rollout.number;
        Some(Decision { at: now, service: service.to_owned(), rollout, what })
    }
}

impl std::fmt::Display for Stale {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "generation {} is wanted by now, which is newer", self.present)
    }
}

impl std::error::Error for Stale {}
