//! One step of a rollout: from what there is to the next phase.

use super::survey::{Index, Survey};
use super::{Deployment, Failure, Kept, Phase, Release, What};
use crate::state::Time;

impl Deployment {
    /// Goes on from what there is. Says what was decided, and when to look again though nothing happens.
    pub(super) fn step(
        &mut self,
        index: &Index<'_>,
        survey: &Survey<'_>,
        now: Time,
    ) -> (Vec<What>, Option<Time>) {
        let mut decisions = Vec::new();
        let update = &self.wanted.service.update;
        let of = self.wanted.service.replicas;
        // Asked where the phase goes by it: most rollouts are over.
        let available = || survey.available(update.min_ready.get());
        match self.rollout.phase.clone() {
            Phase::Pending { needs } => {
                let unmet = index.unmet(&self.wanted.service);
                if unmet.is_empty() || of == 0 || !survey.new.is_empty() {
                    let deadline = now + update.progress_deadline.get();
                    self.rollout.phase = Phase::Progressing { deadline };
                    self.progress(survey, now, &mut decisions);
                } else if unmet != needs {
                    decisions.push(What::Waits { needs: unmet.clone() });
                    self.rollout.phase = Phase::Pending { needs: unmet };
                }
            }
            Phase::Progressing { .. } | Phase::Verifying { .. } => {
                self.progress(survey, now, &mut decisions);
            }
            Phase::Promoting => self.succeed(now, &mut decisions),
            Phase::Succeeded { at, kept: Some(kept) } if now >= kept.until => {
                decisions.push(What::Released { revision: kept.revision });
                self.rollout.phase = Phase::Succeeded { at, kept: None };
            }
            // They went on trying, and all of them work after all.
            Phase::Failed { .. } | Phase::RevertNoop { .. } if of > 0 && available() >= of => {
                decisions.push(What::Promotes);
                self.rollout.phase = Phase::Promoting;
            }
            Phase::Reverting { cause, .. } if survey.ready() >= of => {
                decisions.push(What::Reverted { to: self.wanted.service.revision.clone() });
                self.rollout.phase = Phase::Reverted { at: now, cause };
            }
            _ => {}
        }
        let wake = self.wake(survey, now);
        (decisions, wake)
    }

    fn progress(&mut self, survey: &Survey<'_>, now: Time, decisions: &mut Vec<What>) {
        let (Phase::Progressing { mut deadline } | Phase::Verifying { mut deadline }) = self.rollout.phase
        else {
            return;
        };
        let update = &self.wanted.service.update;
        let (of, ready) = (self.wanted.service.replicas, survey.ready());
        if let Some(cause) = survey.failure(self.rollout.number) {
            return self.fail(cause, now, decisions);
        }
        if ready.min(of) > self.rollout.best {
            self.rollout.best = ready.min(of);
            deadline = now + update.progress_deadline.get();
            decisions.push(What::Progressed { ready: self.rollout.best, of, deadline });
        }
        if survey.available(update.min_ready.get()) >= of {
            decisions.push(What::Promotes);
            self.rollout.phase = Phase::Promoting;
        } else if now >= deadline && self.wanted.service.job.is_none() {
            self.fail(Failure::Deadline { ready, of, other: survey.held_up() }, now, decisions);
        } else if ready >= of {
            if matches!(self.rollout.phase, Phase::Progressing { .. }) {
                decisions.push(What::Verifies);
            }
            self.rollout.phase = Phase::Verifying { deadline };
        } else {
            self.rollout.phase = Phase::Progressing { deadline };
        }
    }

    /// At once back to what succeeded last. That is the same rollout, not another.
    fn fail(&mut self, cause: Failure, now: Time, decisions: &mut Vec<What>) {
        // To run an old job again is no way back.
        let good = self.good.as_ref().filter(|_| self.wanted.service.job.is_none());
        match good {
            None => {
                decisions.push(What::Failed { cause: cause.clone() });
                self.rollout.phase = Phase::Failed { at: now, cause };
            }
            Some(good) if good.service.process() == self.wanted.service.process() => {
                decisions.push(What::RevertNoop { cause: cause.clone() });
                self.rollout.phase = Phase::RevertNoop { at: now, cause };
            }
            Some(good) => {
                decisions.push(What::Reverts { to: good.service.revision.clone(), cause: cause.clone() });
                let good = good.clone();
                self.wanted = good;
                self.rollout.phase = Phase::Reverting { since: now, cause };
            }
        }
    }

    /// What was wanted is what succeeded last from now on.
    fn succeed(&mut self, now: Time, decisions: &mut Vec<What>) {
        let keep_old = self.wanted.service.update.keep_old;
        let before: Option<Release> = self.good.replace(self.wanted.clone());
        let before = before.filter(|before| before.service.process() != self.wanted.service.process());
        let keeps = !keep_old.is_zero() && self.wanted.service.job.is_none();
        let kept = before.filter(|_| keeps).map(|before| Kept {
            revision: before.service.revision.clone(),
            process: before.service.process().clone(),
            until: now + keep_old.get(),
        });
        decisions.push(What::Succeeded { kept_until: kept.as_ref().map(|kept| kept.until) });
        self.rollout.done = self.wanted.service.job.is_some() && self.wanted.service.replicas > 0;
        self.rollout.phase = Phase::Succeeded { at: now, kept };
    }

    fn wake(&self, survey: &Survey<'_>, now: Time) -> Option<Time> {
        let min_ready = self.wanted.service.update.min_ready.get();
        match &self.rollout.phase {
            // A job has its own deadline, which the planner sees to.
            Phase::Progressing { .. } | Phase::Verifying { .. } if self.wanted.service.job.is_some() => None,
            Phase::Progressing { deadline } | Phase::Verifying { deadline } => {
                survey.next_available(min_ready).into_iter().chain([*deadline]).min()
            }
            Phase::Failed { .. } | Phase::RevertNoop { .. } => survey.next_available(min_ready),
            // Once it is written down.
            Phase::Promoting => Some(now),
            Phase::Succeeded { kept: Some(kept), .. } => Some(kept.until),
            _ => None,
        }
    }
}
