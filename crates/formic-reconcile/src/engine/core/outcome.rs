//! What became of the desired states that were: so that a way back by hand leads to one that worked, and not again to
//! the one that the engine has just gone back from.

use std::sync::Arc;

use formic_plan::{Phase, Rollout};
use formic_state::Outcome;

use super::Core;
use crate::engine::Generation;

impl Core {
    /// Takes down what became of the present state, as far as it is known by now.
    pub(super) fn conclude(&mut self) {
        let Some(present) = self.history.back() else { return };
        if self.is_stopping() || !matches!(present.outcome, None | Some(Outcome::Failed)) {
            return;
        }
        let rollouts = || self.fleet.deployments.iter().map(|deployment| &deployment.rollout);
        let failed =
            |rollout: &Rollout| matches!(rollout.phase, Phase::Failed { .. } | Phase::RevertNoop { .. });
        if !rollouts().all(Rollout::is_over) {
            return;
        }
        let before = self.history.iter().rev().nth(1);
        let failures = self.fleet.deployments.iter().filter(|deployment| failed(&deployment.rollout));
        let mut failures =
            failures.filter(|deployment| brings(present, before, &deployment.wanted.service.name));
        let outcome = if failures.next().is_some() { Outcome::Failed } else { Outcome::Succeeded };
        if present.outcome != Some(outcome) {
            self.came_to(self.history.len() - 1, outcome);
        }
    }

    /// These services go back: the states that wanted what has failed did not work, from the present one back to the
    /// one that brought it.
    pub(super) fn reverted(&mut self, services: &[String]) {
        for name in services {
            let process = |state: &Generation| {
                state.services.iter().find(|service| service.name == *name).map(|s| s.process().clone())
            };
            let Some(failed) = self.history.back().and_then(|present| process(present)) else { continue };
            let wanted =
                self.history.iter().rev().take_while(|state| process(state).as_ref() == Some(&failed));
            // One of the same before it may have worked: a restart goes back to nothing.
            let wanted = wanted.take_while(|state| state.outcome != Some(Outcome::Succeeded)).count();
            for at in self.history.len() - wanted..self.history.len() {
                self.came_to(at, Outcome::Reverted);
            }
        }
    }

    /// Another state follows the present one.
    pub(super) fn superseded(&mut self) {
        if self.history.back().is_some_and(|present| present.outcome.is_none()) {
            self.came_to(self.history.len() - 1, Outcome::Superseded);
        }
    }

    fn came_to(&mut self, at: usize, outcome: Outcome) {
        let Some(state) = self.history.get_mut(at) else { return };
        Arc::make_mut(state).outcome = Some(outcome);
        if let Some(kept) = &mut self.kept {
            kept.concluded(state.index);
        }
    }
}

/// Whether a state wants another of this service than the one before it. One that changes nothing is a restart, which
/// may be anybody's.
fn brings(state: &Generation, before: Option<&Arc<Generation>>, name: &str) -> bool {
    let Some(before) = before else { return true };
    let of = |state: &Generation| state.services.iter().find(|service| service.name == name).cloned();
    state.services == before.services || of(state) != of(before)
}
