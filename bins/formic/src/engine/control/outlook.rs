//! What becomes of each instance until a change has come true. The engine's own plan knows the next step alone: of an
//! update it says `start`, and nothing of the instances that are replaced later.

use std::collections::BTreeSet;

use formic_api::control::v1 as pb;
use formic_plan::{Action, Change as Step, Service};
use formic_reconcile::{Preview, Slot};
use formic_spec::Strategy;

/// One row an instance, in the order of the services' names, and one for each that is to be started.
pub(super) fn actions(preview: &Preview, wanted: &[Service]) -> Vec<pb::PlannedAction> {
    let mut names: BTreeSet<&str> = wanted.iter().map(|service| service.name.as_str()).collect();
    names.extend(preview.live.iter().map(|live| live.service.as_str()));
    let mut rows = Vec::new();
    for name in names {
        let of_it = |service: &&Service| service.name == name;
        let service = wanted.iter().find(of_it);
        let step = preview.steps.iter().find(|(changed, _)| changed == name).map(|(_, step)| *step);
        let mut live: Vec<&Slot> = preview.live.iter().filter(|live| live.service == name).collect();
        live.sort_by_key(|live| live.slot);
        match (service, step) {
            // A run goes to its end, and what is due comes by the clock: nothing there is updated.
            (Some(service), _) if service.cron.is_some() => rows.extend(now(preview, name, &live)),
            (None, _) => rows.extend(live.iter().map(|live| of(live, "stop", "not wanted any more"))),
            (Some(service), Some(Step::Rollout(_))) => rows.extend(rollout(service, &live)),
            (Some(service), Some(Step::InPlace)) => {
                let before = preview.services.iter().find(of_it);
                rows.extend(in_place(preview, before, service, &live));
            }
            _ => rows.extend(now(preview, name, &live)),
        }
    }
    rows
}

/// Those of another process make room for the same number of new ones; what is wanted beyond is started, what is not
/// wanted beyond is stopped.
fn rollout(service: &Service, live: &[&Slot]) -> Vec<pb::PlannedAction> {
    let wanted = service.replicas as usize;
    let (stays, old): (Vec<&Slot>, Vec<&Slot>) =
        live.iter().copied().partition(|live| live.process == *service.process());
    let kept = stays.len().min(wanted);
    let replaced = old.len().min(wanted - kept);
    let by = format!("by {}, {}", service.revision.short(), pace(service, replaced));
    let mut rows: Vec<_> = stays[..kept].iter().map(|live| of(live, "keep", "")).collect();
    rows.extend(old[..replaced].iter().map(|live| of(live, "replace", &by)));
    rows.extend(
        stays[kept..].iter().chain(&old[replaced..]).map(|live| of(live, "stop", "more than wanted")),
    );
    rows.sort_by_key(|row| row.slot);
    rows.extend(starts(service, wanted - kept - replaced, live));
    rows
}

/// How many at a time: those that may be there beyond the wanted ones, and those that may be missing.
fn pace(service: &Service, replaced: usize) -> String {
    let (update, replicas) = (&service.update, service.replicas);
    if service.job.is_some() {
        return "after its end".into();
    }
    if update.strategy == Strategy::BlueGreen {
        return "all beside the old ones".into();
    }
    let at_once = update.surge(replicas).saturating_add(update.unavailable(replicas)).max(1);
    let at_once = (at_once as usize).min(replaced.max(1));
    if replaced == 1 { "one for one".into() } else { format!("{at_once} at a time") }
}

/// Running instances take it up. Which of too many are stopped is the planner's choice; where it waits with some of
/// them, the last ones are taken.
fn in_place(
    preview: &Preview,
    before: Option<&Service>,
    service: &Service,
    live: &[&Slot],
) -> Vec<pb::PlannedAction> {
    let wanted = service.replicas as usize;
    let ends = |action: &Action| match action {
        Action::Stop { instance, .. } | Action::Kill { instance, .. } => Some(instance.clone()),
        _ => None,
    };
    let ended: BTreeSet<_> = preview.plan.actions.iter().filter_map(ends).collect();
    let mut order: Vec<&Slot> = live.to_vec();
    order.sort_by_key(|slot| (ended.contains(&slot.instance), slot.slot));
    let revised = before.is_none_or(|before| before.revision != service.revision);
    let how = if revised { "in-place" } else { "keep" };
    let by =
        if revised { format!("takes up {} as it runs", service.revision.short()) } else { String::new() };
    let rows = order.iter().enumerate().map(|(at, live)| {
        if at < wanted { of(live, how, &by) } else { of(live, "stop", "more than wanted") }
    });
    let mut rows: Vec<_> = rows.collect();
    rows.sort_by_key(|row| row.slot);
    if service.job.is_some() {
        // One that came to its end is not run again. Which that is the planner knows.
        let begins = |action: &&Action| matches!(action, Action::Start { .. } | Action::Wait { .. });
        let begun = preview.plan.actions.iter().filter(begins);
        rows.extend(begun.filter_map(|action| doing(action, &service.name, live)));
    } else {
        rows.extend(starts(service, wanted.saturating_sub(live.len()), live));
    }
    rows
}

fn starts(service: &Service, count: usize, live: &[&Slot]) -> Vec<pb::PlannedAction> {
    let free = (0..).filter(|slot| !live.iter().any(|live| live.slot == *slot));
    free.take(count).map(|slot| row(&service.name, slot, "", "start", "wanted")).collect()
}

/// What changes nothing goes on with what it does at this moment; what nothing is done with is kept.
fn now(preview: &Preview, name: &str, live: &[&Slot]) -> Vec<pb::PlannedAction> {
    let mut rows: Vec<_> =
        preview.plan.actions.iter().filter_map(|action| doing(action, name, live)).collect();
    let idle = live.iter().filter(|live| !rows.iter().any(|row| row.instance == live.instance.as_str()));
    let idle: Vec<_> = idle.map(|live| of(live, "keep", "")).collect();
    rows.extend(idle);
    rows.sort_by_key(|row| row.slot);
    rows
}

fn doing(action: &Action, name: &str, live: &[&Slot]) -> Option<pb::PlannedAction> {
    let row = |word: &str, slot: u32, instance: &str, cause: &str| row(name, slot, instance, word, cause);
    match action {
        Action::Kill { instance, service, slot } if service == name => {
            Some(row("kill", *slot, instance.as_str(), "did not stop in time"))
        }
        Action::Stop { instance, service, slot, cause, .. } if service == name => {
            Some(row("stop", *slot, instance.as_str(), &cause.to_string()))
        }
        Action::Start { service, slot, cause, .. } if service == name => {
            Some(row("start", *slot, "", &cause.to_string()))
        }
        Action::Adjust { instance, service, slot, revision } if service == name => {
            Some(row("in-place", *slot, instance.as_str(), &format!("takes up {revision} as it runs")))
        }
        Action::Wait { service, slot, cause } if service == name => {
            let there = live.iter().find(|live| live.slot == *slot);
            let instance = there.map(|live| live.instance.as_str()).unwrap_or_default();
            Some(row("wait", *slot, instance, &cause.to_string()))
        }
        _ => None,
    }
}

fn of(live: &Slot, action: &str, cause: &str) -> pb::PlannedAction {
    row(&live.service, live.slot, live.instance.as_str(), action, cause)
}

fn row(service: &str, slot: u32, instance: &str, action: &str, cause: &str) -> pb::PlannedAction {
    pb::PlannedAction {
        action: action.into(),
        service: service.into(),
        slot,
        instance: instance.into(),
        cause: cause.into(),
        ..Default::default()
    }
}

#[cfg(test)]
mod tests {
    use formic_plan::{Desired, InstanceId, Observed, Time, plan};
    use formic_spec::{HumanDuration, Revision, Share};
    use serde_json::json;

    use super::*;

    fn service(name: &str, revision: u32, replicas: u32) -> Service {
        Service {
            name: name.into(),
            revision: Revision::of(&json!(revision)),
            replicas,
            process: None,
            depends_on: Vec::new(),
            conditions: Default::default(),
            dependents: Default::default(),
            update: Default::default(),
            job: None,
            cron: None,
            sets: None,
            completed: false,
            ready_within: HumanDuration::from_secs(1),
            grace: HumanDuration::from_secs(1),
            start: serde_json::Value::Null,
        }
    }

    fn preview(services: Vec<Service>, steps: &[(&str, Step)]) -> Preview {
        let live = services.iter().flat_map(|service| {
            (0..service.replicas).map(|slot| Slot {
                service: service.name.clone(),
                slot,
                instance: InstanceId::from(format!("{}-{slot}", service.name)),
                process: service.process().clone(),
            })
        });
        Preview {
            index: 1,
            live: live.collect(),
            services,
            steps: steps.iter().map(|(name, step)| ((*name).to_owned(), *step)).collect(),
            plan: plan(&Desired::nothing(1), &Observed::default(), Time::default()),
        }
    }

    fn told(preview: &Preview, wanted: &[Service]) -> Vec<String> {
        let told = |row: &pb::PlannedAction| {
            let text = format!("{} {}/{} {} {}", row.action, row.service, row.slot, row.instance, row.cause);
            text.trim_end().to_owned()
        };
        actions(preview, wanted).iter().map(told).collect()
    }

    #[test]
    fn an_update_replaces_every_instance_and_says_how_many_at_a_time() {
        let preview = preview(vec![service("api", 1, 1), service("web", 1, 4)], &[("web", Step::Rollout(2))]);
        let mut wanted = service("web", 2, 4);
        wanted.update.surge = Share::Count(2);
        let by = wanted.revision.short().to_owned();
        let rows = told(&preview, &[service("api", 1, 1), wanted.clone()]);
        let replaced = (0..4).map(|slot| format!("replace web/{slot} web-{slot} by {by}, 2 at a time"));
        assert_eq!(rows, [vec!["keep api/0 api-0".to_owned()], replaced.collect()].concat());
        // More of the new than there were of the old, and fewer.
        wanted.replicas = 5;
        let rows = told(&preview, &[service("api", 1, 1), wanted.clone()]);
        assert_eq!((rows.len(), rows[5].as_str()), (6, "start web/4  wanted"));
        wanted.replicas = 1;
        let rows = told(&preview, &[service("api", 1, 1), wanted]);
        assert_eq!(rows[1], format!("replace web/0 web-0 by {by}, one for one"));
        assert!(rows[2..].iter().all(|row| row.starts_with("stop web/")), "{rows:?}");
        assert_eq!(rows.len(), 5);
    }

    #[test]
    fn what_runs_the_wanted_revision_already_is_kept() {
        let mut before = preview(vec![service("web", 1, 2)], &[("web", Step::Rollout(3))]);
        let wanted = service("web", 2, 2);
        before.live[1].process = wanted.process().clone();
        let rows = told(&before, &[wanted]);
        assert!(rows[0].starts_with("replace web/0") && rows[1] == "keep web/1 web-1", "{rows:?}");
    }

    #[test]
    fn a_number_alone_keeps_starts_and_stops_and_what_is_not_wanted_goes() {
        let preview = preview(vec![service("old", 1, 1), service("web", 1, 2)], &[("web", Step::InPlace)]);
        let rows = told(&preview, &[service("web", 1, 3)]);
        assert_eq!(
            rows,
            [
                "stop old/0 old-0 not wanted any more",
                "keep web/0 web-0",
                "keep web/1 web-1",
                "start web/2  wanted"
            ]
        );
        let rows = told(&preview, &[service("web", 1, 1)]);
        assert_eq!(rows[1..], ["keep web/0 web-0", "stop web/1 web-1 more than wanted"]);
        // A revision that running processes can take up.
        let mut wanted = service("web", 2, 2);
        wanted.process = Some(Revision::of(&json!(1)));
        assert!(told(&preview, &[wanted])[1].starts_with("in-place web/0 web-0 takes up"));
    }

    #[test]
    fn a_job_that_came_to_its_end_is_not_said_to_start_again() {
        let job = |revision| Service {
            job: Some(formic_spec::Job { retries: 0, deadline: None }),
            process: Some(Revision::of(&json!(1))),
            ..service("migrate", revision, 1)
        };
        let mut preview = preview(vec![job(1)], &[("migrate", Step::InPlace)]);
        preview.live.clear();
        assert_eq!(told(&preview, &[job(2)]), Vec::<String>::new());
        // What the planner starts is told.
        let wanted = Desired { generation: 1, services: vec![job(2)] };
        preview.plan = plan(&wanted, &Observed::default(), Time::default());
        assert_eq!(told(&preview, &[job(2)]), ["start migrate/0  wanted"]);
    }
}
