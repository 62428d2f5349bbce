//! Why a service is as it is: one paragraph for a person.
//!
//! Read off the same values that the plan is made from, so that the answer cannot differ from what is done.

use std::fmt::Write;

use formic_spec::HumanDuration;

use crate::action::{Action, Plan, WaitCause};
use crate::backoff::Along;
use crate::life::{State, StopCause};
use crate::rollout::{Deployment, Phase};
use crate::set::Role;
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
        let _ = write!(text, ": {}", counts(row, facts));
    }
    if let (ServiceState::Kept, Some(detail)) = (row.state, &row.detail) {
        let _ = write!(text, ": {detail}");
    }
    text.push('.');
    if let Some(deployment) = deployment {
        text.push(' ');
        text.push_str(&rollout(deployment, goes_on(service, facts), now));
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

/// How many are ready, and at which revision: an update has some of both.
fn counts(row: &ServiceStatus, facts: Facts<'_>) -> String {
    let (ready, of) = (row.ready, row.replicas);
    if row.state == ServiceState::Completed {
        return format!("{ready} of {of} came to the end");
    }
    let Some(revision) = &row.revision else { return format!("{ready} of {of} ready") };
    let wanted = facts.desired.service(&row.service);
    let serves = |slot| {
        let role = wanted.and_then(|service| service.at(slot)).map(|template| template.role);
        role != Some(Role::Standby)
    };
    let own = facts.observed.instances.iter().filter(|i| i.service == row.service);
    let others = own.filter(|i| i.is_ready() && serves(i.slot) && i.revision != *revision).count();
    let own = ready.saturating_sub(u32::try_from(others).unwrap_or(u32::MAX));
    match others {
        0 => format!("{ready} of {of} ready at {revision}"),
        _ => format!("{own} of {of} ready at {revision}, and {others} at what was before"),
    }
}

/// Whether anything is still tried of a service: one that lives, or is started again.
fn goes_on(service: &str, facts: Facts<'_>) -> bool {
    let over = |state: &State| matches!(state, State::Exited { .. });
    facts.observed.instances.iter().any(|i| i.service == service && !over(&i.state))
}

fn rollout(deployment: &Deployment, goes_on: bool, now: Time) -> String {
    let rollout = &deployment.rollout;
    let (number, to) = (rollout.number, &rollout.to);
    let ago = |at: Time| HumanDuration::rough(now.since(at));
    let left = |at: Time| HumanDuration::rough(at.since(now));
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
                "Rollout {number} to {to} failed {} ago: {cause}. There is nothing to go back to{}.",
                ago(*at),
                if goes_on { ", so it goes on trying" } else { "" }
            )
        }
        Phase::RevertNoop { at, cause } => {
            format!(
                "Rollout {number} to {to} failed {} ago: {cause}. The last revision that succeeded is the same{}.",
                ago(*at),
                if goes_on { ", so it goes on trying" } else { "" }
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
        if instance.ending && !instance.is_stopping() {
            sentences.push(format!("{name} has ended; what it left behind is being ended."));
            continue;
        }
        if let Some(Along { at, with }) = instance.history.along.as_ref().filter(|_| !instance.is_stopping())
        {
            let ago = HumanDuration::rough(now.since(*at));
            sentences.push(format!("{name} was restarted {ago} ago after what it depends on: {with}."));
        }
        match &instance.state {
            State::Backoff { exit, until } => {
                let left = HumanDuration::rough(until.since(now));
                let loops = if instance.history.crash_looping { ", again and again" } else { "" };
                sentences.push(format!("{name} {exit}{loops}; it starts again in {left}."));
            }
            State::Exited { exit, end: crate::End::Failed } => {
                sentences.push(format!("{name} {exit} and is not started again."));
            }
            State::Unready { since } => {
                let ago = HumanDuration::rough(now.since(*since));
                let why = instance.failing.as_ref().map(|why| format!(": {why}")).unwrap_or_default();
                sentences.push(format!("{name} has not answered its probe for {ago}{why}."));
            }
            State::Starting { since } => {
                let ago = HumanDuration::rough(now.since(*since));
                let failing = instance.failing.iter();
                sentences.extend(
                    failing.map(|why| format!("{name} was started {ago} ago and is not ready yet: {why}.")),
                );
            }
            State::Stopping { cause, deadline } => {
                let left = HumanDuration::rough(deadline.since(now));
                let along = instance.history.along.iter().filter(|_| *cause == StopCause::Dependency);
                let with: String = along.map(|along| format!(": {}", along.with)).collect();
                sentences.push(format!("{name} is stopping ({cause}{with}), {left} are left to it."));
            }
            State::Quarantined { since, reason } => {
                let ago = HumanDuration::rough(now.since(*since));
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
