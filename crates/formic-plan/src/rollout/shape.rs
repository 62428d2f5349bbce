//! Which slots run what at this moment. Read anew each time from what there is.

use std::collections::BTreeSet;

use formic_spec::Strategy;

use super::survey::Survey;
use super::{Deployment, Phase, Release};
use crate::life::Instance;
use crate::set::{Role, Set};
use crate::state::Service;

/// What is to become of the instances that are not of the wanted release.
struct Others<'a> {
    /// Live ones that stay.
    stay: Vec<&'a Instance>,
    /// Dead ones that are started again.
    again: Vec<&'a Instance>,
    role: Role,
}

/// The service with its sets.
pub(super) fn shape(deployment: &Deployment, survey: &Survey<'_>) -> Service {
    let Release { service, .. } = &deployment.wanted;
    let replicas = service.replicas;
    // Of a job the old one is gone before the new one begins.
    let surge = if service.job.is_some() { 0 } else { service.update.surge(replicas) };
    let most = replicas.saturating_add(surge);
    let others = others(deployment, survey);

    // Room for those that would be live and are not. One that waits for its restart has a place already.
    let mut room = most.saturating_sub(survey.live);
    let mut slots: Vec<u32> = Vec::new();
    for instance in survey.new.iter().take(replicas as usize) {
        let waits = matches!(instance.state, crate::life::State::Backoff { .. });
        if waits && room == 0 {
            continue;
        }
        room -= u32::from(waits);
        slots.push(instance.slot);
    }
    let mut again = Vec::new();
    for instance in others.again {
        if room > 0 {
            room -= 1;
            again.push(instance);
        }
    }
    let missing = replicas.saturating_sub(u32::try_from(survey.new.len()).unwrap_or(u32::MAX));
    // A job that has come to its end, whatever end, is not run again.
    let rests = match deployment.rollout.phase {
        Phase::Paused { .. } => true,
        Phase::Succeeded { .. } | Phase::Failed { .. } => service.job.is_some(),
        _ => false,
    };
    let add = if rests { 0 } else { missing.min(room) };
    if add > 0 {
        let held: BTreeSet<u32> = again.iter().chain(&survey.new).map(|instance| instance.slot).collect();
        let free = (0..).filter(|slot| survey.taken.binary_search(slot).is_err() && !held.contains(slot));
        slots.extend(free.take(add as usize));
    }

    let mut sets = vec![Set::of(&deployment.wanted, own_role(deployment, &others.stay), slots)];
    for instance in others.stay.iter().chain(&again) {
        add_old(&mut sets, deployment, instance, others.role);
    }
    for set in &mut sets {
        set.slots.sort_unstable();
    }
    Service { sets: Some(sets), completed: deployment.has_completed(), ..service.clone() }
}

/// Which of the others stay, and whether calls go to them.
fn others<'a>(deployment: &Deployment, survey: &Survey<'a>) -> Others<'a> {
    let service = &deployment.wanted.service;
    let (replicas, update) = (service.replicas, &service.update);
    let needed = replicas.saturating_sub(update.unavailable(replicas));
    let first = |number: u32, of: Vec<&'a Instance>| -> Vec<&'a Instance> {
        of.into_iter().take(number as usize).collect()
    };
    let (mut old, fallen) = (survey.old.clone(), survey.fallen.clone());
    // Of several old revisions only one ever got calls.
    if update.strategy == Strategy::BlueGreen
        && let Some(process) =
            old.iter().find(|i| is_good(deployment, i)).or(old.first()).map(|i| i.process())
    {
        old.retain(|instance| instance.process() == process);
    }
    let stayed = |number: u32| {
        let stay = first(number, old.clone());
        let left = number.saturating_sub(u32::try_from(stay.len()).unwrap_or(u32::MAX));
        Others { stay, again: first(left, fallen.clone()), role: Role::Serving }
    };
    let none = || Others { stay: Vec::new(), again: Vec::new(), role: Role::Standby };
    if replicas == 0 || service.job.is_some() {
        return none();
    }
    match &deployment.rollout.phase {
        // Nothing is taken away while nothing comes.
        Phase::Pending { .. } | Phase::Paused { .. } => stayed(u32::MAX),
        Phase::Progressing { .. }
        | Phase::Verifying { .. }
        | Phase::Failed { .. }
        | Phase::RevertNoop { .. } => match update.strategy {
            Strategy::BlueGreen => stayed(replicas),
            Strategy::Rolling => stayed(needed.saturating_sub(survey.available(update.min_ready.get()))),
        },
        Phase::Promoting => {
            let ready = old.into_iter().filter(|instance| instance.is_ready()).collect();
            Others { stay: first(update.surge(replicas), ready), ..none() }
        }
        Phase::Succeeded { kept: Some(kept), .. } => {
            let ready = old.into_iter().filter(|i| i.is_ready() && *i.process() == kept.process);
            Others { stay: first(update.surge(replicas), ready.collect()), ..none() }
        }
        // What failed and answers still does so until those that it took the place of are back.
        Phase::Reverting { .. } if update.strategy == Strategy::Rolling => {
            let ready = old.into_iter().filter(|instance| instance.is_ready()).collect();
            Others {
                stay: first(needed.saturating_sub(survey.ready()), ready),
                role: Role::Serving,
                ..none()
            }
        }
        Phase::Reverting { .. } | Phase::Reverted { .. } | Phase::Succeeded { kept: None, .. } => none(),
    }
}

fn is_good(deployment: &Deployment, instance: &Instance) -> bool {
    deployment.good.as_ref().is_some_and(|good| good.is_run_by(instance))
}

/// After blue-green, calls go to the new instances when all of them are there, not one by one.
fn own_role(deployment: &Deployment, stay: &[&Instance]) -> Role {
    let under_way = matches!(
        deployment.rollout.phase,
        Phase::Pending { .. }
            | Phase::Progressing { .. }
            | Phase::Verifying { .. }
            | Phase::Paused { .. }
            | Phase::Failed { .. }
            | Phase::RevertNoop { .. }
    );
    let all_at_once = deployment.wanted.service.update.strategy == Strategy::BlueGreen;
    if under_way && all_at_once && stay.iter().any(|instance| instance.is_ready()) {
        Role::Standby
    } else {
        Role::Serving
    }
}

/// Puts an instance of another release into the set of its like.
fn add_old(sets: &mut Vec<Set>, deployment: &Deployment, instance: &Instance, role: Role) {
    let good = deployment.good.as_ref().filter(|good| good.is_run_by(instance));
    let alike = |set: &&mut Set| set.process == *instance.process();
    if let Some(set) = sets.iter_mut().skip(1).find(alike) {
        set.slots.push(instance.slot);
        return;
    }
    let set = match good {
        Some(good) => Set::of(good, role, vec![instance.slot]),
        // Of a release that never succeeded nothing is started any more: it is named as it is.
        None => Set {
            revision: instance.revision.clone(),
            process: instance.process().clone(),
            rollout: instance.rollout,
            since: instance.rollout,
            depends_on: instance.depends_on.clone(),
            ready_within: deployment.wanted.service.ready_within,
            grace: instance.grace,
            start: serde_json::Value::Null,
            role,
            slots: vec![instance.slot],
        },
    };
    sets.push(set);
}
