//! Why a service is as it is: one paragraph for a person.
//!
//! Read off the same values that the plan is made from, so that the answer cannot differ from what is done.

use std::fmt::Write;

use formic_spec::HumanDuration;

use crate::action::{Action, Plan, WaitCause};
use crate::life::State;
use crate::rollout::{Deployment, Phase};
use crate::state::{Desired, Observed, Time};
use crate::status::{ServiceState, ServiceStatus, status};

/// What the answer is made from.
#[derive(Debug, Clone, Copy)]
pub struct Facts<'a> {
    /// What is wanted of each slot.
    pub desired: &'a Desired,
    /// What there is.
    pub observed: &'a Observed,
    /// What is to be done now.
    pub plan: &'a Plan,
}

/// Why a service is as it is, in a few sentences; nothing if nobody knows of such a service. `deployment` is
/// its part of the fleet, if there is one.
#[must_use]
pub fn why(service: &str, deployment: Option<&Deployment>, facts: Facts<'_>, now: Time) -> Option<String> {
    let rows = status(facts.desired, facts.observed, now);
    let row = rows.iter().find(|row| row.service == service)?;
    let mut text = format!("{service} is {}", row.state);
    if row.replicas > 0 {
        let _ = write!(text, ": {} of {} ready", row.ready, row.replicas);
        if let Some(revision) = &row.revision {
            let _ = write!(text, " at {revision}");
        }
    }
    text.push('.');
    if let Some(deployment) = deployment {
        text.push(' ');
        text.push_str(&rollout(deployment, now));
    }
    for sentence in instances(service, facts, now) {
        text.push(' ');
        text.push_str(&sentence);
    }
    for need in needed(service, facts.plan) {
        if let Some(other) = rows.iter().find(|row| row.service == need) {
            text.push(' ');
            text.push_str(&other_service(other));
        }
    }
    if row.restarts > 0 {
        let times = if row.restarts == 1 { "once".to_owned() } else { format!("{} times", row.restarts) };
        let _ = write!(text, " It was restarted {times}.");
    }
    Some(text)
}

fn rollout(deployment: &Deployment, now: Time) -> String {
    let rollout = &deployment.rollout;
    let (number, to) = (rollout.number, &rollout.to);
    let ago = |at: Time| HumanDuration::from(now.since(at));
    let left = |at: Time| HumanDuration::from(at.since(now));
    let present = &deployment.wanted.service.revision;
    match &rollout.phase {
        Phase::Pending { needs } if needs.is_empty() => {
            format!("Rollout {number} to {to} is about to begin.")
        }
        Phase::Pending { needs } => format!("Rollout {number} to {to} waits for {}.", needs.join(", ")),
        Phase::Progressing { deadline } => {
            format!(
                "Rollout {number} to {to} is under way; the next instance must be ready within {}.",
                left(*deadline)
            )
        }
        Phase::Verifying { .. } => {
            format!(
                "Rollout {number} to {to} has all instances ready, not yet for {}.",
                deployment.wanted.service.update.min_ready
            )
        }
        Phase::Promoting => format!("Rollout {number} to {to} gives them all calls now."),
        Phase::Succeeded { at, kept: None } => {
            format!("Rollout {number} to {to} succeeded {} ago.", ago(*at))
        }
        Phase::Succeeded { at, kept: Some(kept) } => format!(
            "Rollout {number} to {to} succeeded {} ago; instances of {} are kept without calls for another {}.",
            ago(*at),
            kept.revision,
            left(kept.until)
        ),
        Phase::Paused { left } => {
            format!(
                "Rollout {number} to {to} is paused, as requested, with {left} left for the next instance."
            )
        }
        Phase::Failed { at, cause } => {
            format!(
                "Rollout {number} to {to} failed {} ago: {cause}. There is nothing to go back to, so it goes on trying.",
                ago(*at)
            )
        }
        Phase::RevertNoop { at, cause } => {
            format!(
                "Rollout {number} to {to} failed {} ago: {cause}. The last revision that succeeded is the same, so it goes on trying.",
                ago(*at)
            )
        }
        Phase::Reverting { since, cause } => {
            format!(
                "Rollout {number} to {to} failed {} ago: {cause}. It goes back to {present}.",
                ago(*since)
            )
        }
        Phase::Reverted { at, cause } => {
            format!(
                "Rollout {number} to {to} failed: {cause}. It has been back at {present} for {}.",
                ago(*at)
            )
        }
    }
}

/// What holds up single instances.
fn instances(service: &str, facts: Facts<'_>, now: Time) -> Vec<String> {
    let mut sentences = Vec::new();
    let wanted = facts.desired.service(service);
    let told = |slot: u32| wanted.is_some_and(|service| service.at(slot).is_some());
    let own = facts.observed.instances.iter().filter(|instance| instance.service == service);
    let mut own: Vec<_> = own.filter(|instance| instance.is_live() || told(instance.slot)).collect();
    own.sort_by_key(|instance| instance.slot);
    for instance in own {
        let name = format!("{service}/{}", instance.slot);
        match &instance.state {
            State::Backoff { exit, until } => {
                let left = HumanDuration::from(until.since(now));
                let loops = if instance.history.crash_looping { ", again and again" } else { "" };
                sentences.push(format!("{name} {exit}{loops}; it starts again in {left}."));
            }
            State::Exited { exit, end: crate::End::Failed } => {
                sentences.push(format!("{name} {exit} and is not started again."));
            }
            State::Unready { since } => {
                let ago = HumanDuration::from(now.since(*since));
                sentences.push(format!("{name} has not answered its probe for {ago}."));
            }
            State::Stopping { cause, deadline } => {
                let left = HumanDuration::from(deadline.since(now));
                sentences.push(format!("{name} is stopping ({cause}), {left} are left to it."));
            }
            State::Quarantined { since, reason } => {
                let ago = HumanDuration::from(now.since(*since));
                sentences.push(format!(
                    "{name} ({}) may be running, and has been left alone for {ago}: {reason}. `formic release {}` gives its place free.",
                    instance.id, instance.id
                ));
            }
            _ => {}
        }
    }
    for action in &facts.plan.actions {
        let Action::Wait { service: of, slot, cause } = action else { continue };
        if of == service && !matches!(cause, WaitCause::Backoff(_)) {
            sentences.push(format!("{service}/{slot} waits: it {cause}."));
        }
    }
    sentences
}

/// The services that the plan says it waits for.
fn needed(service: &str, plan: &Plan) -> Vec<String> {
    let mut needed = Vec::new();
    for action in &plan.actions {
        if let Action::Wait { service: of, cause: WaitCause::Dependencies(names), .. } = action
            && of == service
        {
            needed.extend(names.iter().filter(|name| !needed.contains(*name)).cloned().collect::<Vec<_>>());
        }
    }
    needed
}

fn other_service(row: &ServiceStatus) -> String {
    let ServiceStatus { service, state, detail, .. } = row;
    match detail {
        Some(detail) if *state != ServiceState::Ready => format!("{service} is {state}: {detail}."),
        _ => format!("{service} is {state}."),
    }
}
