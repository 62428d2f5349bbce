//! What became of the desired states that were: so that a way back by hand leads to one that worked, and not again to
//! the one that the engine has just gone back from.

use std::collections::BTreeSet;
use std::sync::Arc;

use formic_plan::{Phase, Rollout};
use formic_state::Outcome;

use super::Core;
use crate::engine::Generation;
use crate::journal::Kind;

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
        // One that has not begun may wait for what has failed, and would do so for ever.
        let rests = |rollout: &Rollout| rollout.is_over() || matches!(rollout.phase, Phase::Pending { .. });
        let waits = !rollouts().all(Rollout::is_over);
        if !rollouts().all(rests) {
            return;
        }
        let waited: BTreeSet<&String> = rollouts()
            .filter_map(|rollout| match &rollout.phase {
                Phase::Pending { needs } => Some(needs),
                _ => None,
            })
            .flatten()
            .collect();
        // What was gone back from had what this one has kept of it.
        let earlier = self.history.iter().rev().skip(1);
        let before = earlier.clone().find(|state| state.outcome != Some(Outcome::Reverted));
        let failures = self.fleet.deployments.iter().filter(|deployment| failed(&deployment.rollout));
        let counts = |name: &String| waited.contains(name) || brings(present, before, name);
        let failures = failures.filter(|deployment| counts(&deployment.wanted.service.name));
        let failures: Vec<String> = failures
            .map(|deployment| failure(&deployment.wanted.service.name, &deployment.rollout))
            .collect();
        if waits && failures.is_empty() {
            return;
        }
        let outcome = if failures.is_empty() { Outcome::Succeeded } else { Outcome::Failed };
        let why = failures.join("; ");
        if present.outcome != Some(outcome) || present.why != why {
            if let Some(present) = self.history.back_mut() {
                Arc::make_mut(present).why.clear();
            }
            self.came_to(self.history.len() - 1, outcome, &why);
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
            let why = self.fleet.deployment(name).map(|deployment| failure(name, &deployment.rollout));
            let why = why.unwrap_or_default();
            let wanted =
                self.history.iter().rev().take_while(|state| process(state).as_ref() == Some(&failed));
            // One of the same before it may have worked: a restart goes back to nothing.
            let wanted = wanted.take_while(|state| state.outcome != Some(Outcome::Succeeded)).count();
            for at in self.history.len() - wanted..self.history.len() {
                self.came_to(at, Outcome::Reverted, &why);
            }
        }
    }

    /// What came with these services comes back with them: from the newest state that wanted what they go back to. Of the rest
    /// of the change that has failed with them nothing is taken back, and that is told.
    pub(super) fn bring_back(&mut self, services: &[String]) {
        let Some(failed) = self.history.back().map(Arc::clone) else { return };
        for name in services {
            let Some(deployment) = self.fleet.deployment(name) else { continue };
            let good = deployment.wanted.service.process();
            let had = |state: &&Arc<Generation>| {
                let service = state.services.iter().find(|service| service.name == *name);
                state.outcome != Some(Outcome::Reverted)
                    && service.is_some_and(|service| service.process() == good)
            };
            let Some(state) = self.history.iter().rev().find(had) else { continue };
            if let Some(way_back) = self.way_back {
                self.tag = Arc::new(way_back(&self.tag, &state.tag, name));
            }
        }
        let Some(before) = self.history.iter().rev().nth(1) else { return };
        let others = failed.services.iter().filter(|service| {
            let earlier = before.services.iter().find(|earlier| earlier.name == service.name);
            !services.contains(&service.name) && earlier != Some(*service)
        });
        let mut stays: Vec<&str> = others.map(|service| service.name.as_str()).collect();
        if self.tag != before.tag {
            stays.push("routes and the like that are not its own");
        }
        if stays.is_empty() {
            return;
        }
        let (back, index, stays) = (services.join(", "), failed.index, stays.join(", "));
        let text = format!("what index {index} changed besides {back} stays as it is: {stays}");
        let news = self.news(Kind::Rollout, "", "", text);
        self.effects.push(news);
    }

    /// Another state follows the present one.
    pub(super) fn superseded(&mut self) {
        if self.history.back().is_some_and(|present| present.outcome.is_none()) {
            self.came_to(self.history.len() - 1, Outcome::Superseded, "");
        }
    }

    /// Why is told of every service that came to the same.
    fn came_to(&mut self, at: usize, outcome: Outcome, why: &str) {
        let Some(state) = self.history.get_mut(at).map(Arc::make_mut) else { return };
        if state.outcome != Some(outcome) {
            state.why.clear();
        } else if !state.why.is_empty() {
            state.why.push_str("; ");
        }
        state.why.push_str(why);
        state.outcome = Some(outcome);
        if let Some(kept) = &mut self.kept {
            kept.concluded(state.index);
        }
    }
}

/// Why a rollout is no success.
fn failure(service: &str, rollout: &Rollout) -> String {
    rollout.failure().map(|why| format!("{service}: {why}")).unwrap_or_default()
}

/// Whether a state wants another of this service than the one before it, or new instances. Of a restart by an engine that did
/// not write down whose, it may be anybody's.
fn brings(state: &Generation, before: Option<&Arc<Generation>>, name: &str) -> bool {
    let Some(before) = before else { return true };
    let of = |state: &Generation| state.services.iter().find(|service| service.name == name).cloned();
    if state.restarted.is_empty() && state.services == before.services {
        return true;
    }
    state.restarted.iter().any(|restarted| restarted == name) || of(state) != of(before)
}
