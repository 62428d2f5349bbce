//! What people ask for: another revision, another count, a restart, a pause.

use super::{Deployment, Phase, Release, Rollout, What};
use crate::state::{Service, Time};

/// What a request comes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Change {
    /// It is so already.
    None,
    /// Running instances take it up.
    InPlace,
    /// A rollout of this number.
    Rollout(u64),
    /// The service is not wanted any more.
    Removed,
}

impl Deployment {
    pub(super) fn new(service: Service, number: u64, now: Time) -> (Self, What) {
        let release = Release { service, rollout: number, since: 0 };
        let began = What::Began {
            to: release.service.revision.clone(),
            from: None,
            restart: false,
            supersedes: None,
        };
        let rollout = Rollout::new(number, &release, None, now);
        (Self { wanted: release, good: None, rollout }, began)
    }

    /// What a request for this would come to, without doing it: for a plan that is only shown.
    #[must_use]
    pub fn change(&self, service: &Service, next: u64) -> Change {
        let wanted = &self.wanted.service;
        if plain(service) == *wanted {
            Change::None
        } else if service.process() == wanted.process() {
            Change::InPlace
        } else {
            Change::Rollout(next)
        }
    }

    /// Makes this the wanted one. `next` is the number that a rollout would have.
    pub(super) fn apply(&mut self, service: Service, next: u64, now: Time) -> (Change, Option<What>) {
        let change = self.change(&service, next);
        let what = match change {
            Change::None | Change::Removed => None,
            Change::InPlace => Some(self.in_place(plain(&service), now)),
            Change::Rollout(number) => {
                let release = Release { service: plain(&service), rollout: number, since: 0 };
                Some(self.begin(release, false, now))
            }
        };
        (change, what)
    }

    /// Another number of instances. It is no part of a revision, so a way back keeps it.
    pub(super) fn scale(&mut self, replicas: u32, now: Time) -> Option<What> {
        if self.wanted.service.replicas == replicas {
            return None;
        }
        let service = Service { replicas, ..self.wanted.service.clone() };
        let what = self.in_place(service, now);
        if let Some(good) = &mut self.good {
            good.service.replicas = replicas;
        }
        Some(what)
    }

    /// New instances of the same, in the place of all that there are.
    pub(super) fn restart(&mut self, number: u64, now: Time) -> What {
        let release = Release { rollout: number, since: number, ..self.wanted.clone() };
        self.begin(release, true, now)
    }

    /// Stands still from now on. Does nothing unless a rollout is under way.
    pub(super) fn pause(&mut self, now: Time) -> Option<What> {
        let left = match &self.rollout.phase {
            Phase::Progressing { deadline } | Phase::Verifying { deadline } => deadline.since(now).into(),
            Phase::Pending { .. } => self.wanted.service.update.progress_deadline,
            _ => return None,
        };
        self.rollout.phase = Phase::Paused { left };
        Some(What::Paused)
    }

    /// Goes on, with the time that was left.
    pub(super) fn resume(&mut self, now: Time) -> Option<What> {
        let Phase::Paused { left } = self.rollout.phase else { return None };
        let deadline = now + left.get();
        self.rollout.phase = Phase::Progressing { deadline };
        Some(What::Resumed { deadline })
    }

    /// The clock began anew, at a start of the machine: what was counted on it is counted again from now.
    pub(super) fn restart_clock(&mut self, now: Time) {
        let update = &self.wanted.service.update;
        let deadline = now + update.progress_deadline.get();
        match &mut self.rollout.phase {
            Phase::Progressing { deadline: at } | Phase::Verifying { deadline: at } => *at = deadline,
            // What was kept is gone with everything else.
            Phase::Succeeded { at, kept } => (*at, *kept) = (now, None),
            Phase::Failed { at, .. } | Phase::Reverted { at, .. } | Phase::RevertNoop { at, .. } => *at = now,
            Phase::Reverting { since, .. } => *since = now,
            Phase::Pending { .. } | Phase::Promoting | Phase::Paused { .. } => {}
        }
        self.rollout.started = self.rollout.started.min(now);
    }

    fn begin(&mut self, release: Release, restart: bool, now: Time) -> What {
        let supersedes = (!self.rollout.is_over()).then_some(self.rollout.number);
        let from = self.wanted.service.revision.clone();
        self.rollout = Rollout::new(release.rollout, &release, Some(from.clone()), now);
        self.wanted = release;
        What::Began { to: self.wanted.service.revision.clone(), from: Some(from), restart, supersedes }
    }

    fn in_place(&mut self, service: Service, now: Time) -> What {
        let what = What::InPlace {
            to: service.revision.clone(),
            from: self.wanted.service.revision.clone(),
            replicas: service.replicas,
        };
        if self.rollout.to == self.wanted.service.revision {
            self.rollout.to = service.revision.clone();
        }
        // What succeeded, or is gone back to, is this one with its change.
        if let Some(good) = self.good.as_mut().filter(|good| good.rollout == self.wanted.rollout) {
            good.service = service.clone();
        }
        self.wanted.service = service;
        // More may be wanted than before: the time for the next one begins anew.
        let deadline = now + self.wanted.service.update.progress_deadline.get();
        if let Phase::Progressing { deadline: at } | Phase::Verifying { deadline: at } =
            &mut self.rollout.phase
        {
            *at = deadline;
        }
        self.rollout.done &= self.wanted.service.job.is_some();
        // A job that was stopped before its end has succeeded in nothing.
        let is_job = self.wanted.service.job.is_some() && self.wanted.service.replicas > 0;
        if is_job && !self.rollout.done && matches!(self.rollout.phase, Phase::Succeeded { .. }) {
            self.rollout.phase = Phase::Pending { needs: Vec::new() };
        }
        what
    }
}

impl Rollout {
    fn new(number: u64, to: &Release, from: Option<formic_spec::Revision>, now: Time) -> Self {
        Self {
            number,
            to: to.service.revision.clone(),
            from,
            started: now,
            best: 0,
            done: false,
            phase: Phase::Pending { needs: Vec::new() },
        }
    }
}

/// Without the sets of a moment.
pub(super) fn plain(service: &Service) -> Service {
    Service { sets: None, completed: false, ..service.clone() }
}
