//! The service of the cron jobs: their runs, and runs by hand.

use formic_api::control::v1 as pb;
use formic_plan::{Entry, Exit, Outcome, Run, RunState};
use formic_reconcile::{Command, CronView, ServiceView};
use formic_rpc::{Context, Reply, Request, reply};

use super::{Control, by, wire};

impl pb::CronService for Control {
    async fn run(&self, context: Context, request: Request<'_, pb::RunRequest>) -> Reply<pb::RunResponse> {
        let name = request.service.to_owned();
        let known = self.engine.view().borrow().services.iter().any(|service| service.name == name);
        if !known {
            return Err(self.unknown(&name));
        }
        let (service, cause) = (name.clone(), by(format_args!("run {name}"), &context));
        let answer = self.ask(|answer| Command::RunNow { service, cause, answer }).await?;
        let run = answer.map_err(|error| wire::refused(&error))?;
        reply(pb::RunResponse { run: row(&name, &run, "").into(), ..Default::default() })
    }

    async fn runs(&self, _: Context, request: Request<'_, pb::RunsRequest>) -> Reply<pb::RunsResponse> {
        let services: Vec<String> = request.services.iter().map(|name| (*name).to_owned()).collect();
        let timetable = self.ask(Command::Runs).await?;
        let view = self.engine.view().borrow().clone();
        for name in &services {
            match view.services.iter().find(|service| service.name == *name) {
                None => return Err(self.unknown(name)),
                Some(service) if service.cron.is_none() => {
                    return Err(wire::refused(&formic_reconcile::Refused::NoCronJob(name.clone())));
                }
                Some(_) => {}
            }
        }
        let of = |entry: &&Entry| services.is_empty() || services.contains(&entry.service.name);
        let mut runs: Vec<pb::CronRun> = timetable
            .entries
            .iter()
            .filter(of)
            .flat_map(|entry| {
                let name = &entry.service.name;
                let service = view.services.iter().find(|service| service.name == *name);
                entry.runs.iter().map(move |run| row(name, run, instance(service, run)))
            })
            .collect();
        runs.sort_by_key(|run| std::cmp::Reverse((run.due_unix_ms, run.number)));
        reply(pb::RunsResponse { runs, ..Default::default() })
    }
}

/// What a run goes on in.
fn instance<'a>(service: Option<&'a ServiceView>, run: &Run) -> &'a str {
    let RunState::Running { slot, .. } = run.state else { return "" };
    let instances = service.map(|service| service.instances.as_slice()).unwrap_or_default();
    let found = instances.iter().find(|instance| instance.slot == slot && instance.state != "exited");
    found.map(|instance| instance.id.as_str()).unwrap_or_default()
}

/// When a service is run, for the status.
pub(super) fn status(service: &str, cron: &CronView) -> pb::CronStatus {
    let last = cron.last.as_ref().map(|run| row(service, run, ""));
    pb::CronStatus {
        schedule: cron.schedule.clone(),
        zone: cron.zone.clone(),
        next_unix_ms: cron.next_unix_ms.and_then(millis),
        last: last.map(Into::into).unwrap_or_default(),
        ..Default::default()
    }
}

fn row(service: &str, run: &Run, instance: &str) -> pb::CronRun {
    let exit: Option<&Exit> = match &run.state {
        RunState::Succeeded { exit } | RunState::Failed { exit } => Some(exit),
        _ => None,
    };
    pb::CronRun {
        service: service.to_owned(),
        number: run.number,
        due_unix_ms: millis(run.due_unix_ms).unwrap_or_default(),
        state: run.state.as_str().into(),
        by_hand: run.by_hand,
        began_unix_ms: run.began_unix_ms.and_then(millis),
        ended_unix_ms: run.ended_unix_ms.and_then(millis),
        exit_code: exit.and_then(|exit| match exit.outcome {
            Outcome::Code(code) => Some(code),
            _ => None,
        }),
        end: match &run.state {
            RunState::Succeeded { exit } | RunState::Failed { exit } => exit.to_string(),
            RunState::Waiting | RunState::Running { .. } => String::new(),
            other => other.to_string(),
        },
        instance: instance.to_owned(),
        ..Default::default()
    }
}

fn millis(unix_ms: u64) -> Option<i64> {
    i64::try_from(unix_ms).ok()
}
