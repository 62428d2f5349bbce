//! `formic apply`: the manifest is read again, and what it says becomes what is wanted.

use std::time::{Duration, Instant};

use formic_api::control::v1 as pb;
use formic_core::{Code, Error};
use formic_rpc::Streaming;
use serde_json::json;

use crate::app::{AWAY, App, LOOK};
use crate::cli::{Apply, Wait};
use crate::exit::{Failure, Outcome};
use crate::verbs::plan::{self, Wanted};
use crate::{app, output, signals};

pub(crate) async fn run(args: Apply) -> Outcome {
    let app = app::find(&args.listing.target).await?;
    let Wanted { manifest, artifacts } = plan::wanted(&app, args.no_build).await?;
    let request = pb::ApplyRequest {
        manifest,
        artifacts: artifacts.into_iter().collect(),
        index: args.index,
        ..Default::default()
    };
    let response = app.meant()?.deploy().apply(request).await?.into_message();
    finish(&app, &response, args.wait, args.listing.json).await
}

/// Says what a change has done, and waits for it if that was asked for. That nobody reads what was changed is no reason
/// to call it a success.
pub(crate) async fn finish(app: &App, response: &pb::ChangeResponse, wait: Wait, json: bool) -> Outcome {
    if !json {
        if response.changed && !(response.changes.is_empty() && response.beside.is_empty()) {
            let _ = output::try_line(&plan::changes(&response.changes, &response.beside));
        }
        let what = if response.changed { "is wanted now" } else { "was wanted already; nothing changed" };
        output::talk(&format!("index {} of {} {what}", response.index, app.status.app));
    }
    let waited = if wait.wait { Some(settled(app, response, wait.timeout).await) } else { None };
    let told = json!({
        "app": app.status.app, "index": response.index, "changed": response.changed,
        "changes": plan::changes_json(&response.changes),
        "beside": plan::fields_json(&response.beside), "ready": waited.as_ref().map(Result::is_ok),
    });
    let status = match waited.transpose() {
        Err(failure) => return Err(failure.beside(told)),
        Ok(status) => status,
    };
    if json {
        output::json(&told);
    } else if let Some(status) = status {
        output::talk(&done(&status, response));
    }
    Ok(())
}

/// What has come true: what was stopped or taken out does not answer.
pub(crate) fn done(status: &pb::StatusResponse, response: &pb::ChangeResponse) -> String {
    let wanted =
        |name: &str| status.services.iter().any(|service| service.name == name && service.wanted > 0);
    let names: Vec<&str> = response.changes.iter().map(|change| change.service.as_str()).collect();
    if !names.is_empty() && !names.iter().any(|name| wanted(name)) {
        let (has, noun) = if names.len() == 1 { ("has", "it") } else { ("have", "them") };
        return format!("{} {has} stopped; nothing of {noun} runs", names.join(", "));
    }
    let broken: Vec<String> = status.services.iter().filter(|service| is_broken(service)).map(row).collect();
    if !broken.is_empty() {
        return format!("what was changed runs and answers; as before, {}", broken.join("; "));
    }
    let completed = status.services.iter().any(|service| service.state == "completed");
    if completed { "all of it runs and answers, or has done its work" } else { "all of it runs and answers" }
        .into()
}

/// Waits until every service is what the index says, or one that was changed has failed.
pub(crate) async fn settled(
    app: &App,
    response: &pb::ChangeResponse,
    timeout: Duration,
) -> Outcome<pb::StatusResponse> {
    let changed: Vec<&str> = response.changes.iter().map(|change| change.service.as_str()).collect();
    let mut last = None;
    let watch = async {
        let mut answered = Instant::now();
        loop {
            let states = app.control().watch_status(pb::StatusRequest::default()).await;
            let outcome = match states {
                Ok(states) => {
                    let outcome = followed(states.into_message(), response.index, &changed, &mut last).await;
                    answered = Instant::now();
                    outcome
                }
                Err(error) => Err(error),
            };
            match outcome {
                Ok(Some(outcome)) => return outcome,
                Err(error) if error.code() != Code::Unavailable => return Err(error.into()),
                // A server's brain is followed by another, which goes on with the change.
                _ if app.status.server.is_set() => {}
                _ => return Err(Failure::unreachable(format!("{} has stopped", app.status.app))),
            }
            if answered.elapsed() > AWAY {
                return Err(Failure::unreachable(format!(
                    "the server of {} does not answer any more",
                    app.status.app
                ))
                .help("what was asked for goes on as soon as it runs again"));
            }
            tokio::time::sleep(LOOK).await;
        }
    };
    let mut interrupted = signals::interrupt()?;
    let outcome = tokio::select! {
        outcome = tokio::time::timeout(timeout, watch) => outcome,
        // What was asked for is the engine's since before the wait.
        _ = interrupted.recv() => {
            output::talk(&format!("not waited for any more; index {} goes on", response.index));
            return Err(Failure::interrupted());
        }
    };
    match outcome {
        Ok(outcome) => outcome,
        Err(_) => {
            let services = last.iter().flat_map(|status| &status.services);
            let open: Vec<String> = services.filter(|service| !is_done(service)).map(row).collect();
            Err(Failure::user(format!("not done after {} s: {}", timeout.as_secs(), open.join("; "))))
        }
    }
}

/// What becomes of the change, as the states tell it that come from an engine; nothing if they end before.
async fn followed(
    mut states: Streaming<pb::StatusResponse>,
    index: u64,
    changed: &[&str],
    last: &mut Option<pb::StatusResponse>,
) -> Result<Option<Outcome<pb::StatusResponse>>, Error> {
    while let Some(status) = states.message().await? {
        match verdict(&status, changed) {
            _ if status.index < index => {}
            Some(Err(text)) => {
                let failure = Failure::user(text).help("`formic why <service>` and `formic logs` say more");
                return Ok(Some(Err(failure)));
            }
            _ if status.index > index => {
                let now = status.index;
                let text = format!("index {index} was followed by index {now} before all of it was done");
                return Ok(Some(Err(Failure::user(text))));
            }
            Some(Ok(())) => return Ok(Some(Ok(status))),
            None => {}
        }
        *last = Some(status);
    }
    Ok(None)
}

fn row(service: &pb::ServiceStatus) -> String {
    let reason = if service.reason.is_empty() { String::new() } else { format!(" ({})", service.reason) };
    format!("{} is {}{reason}", service.name, service.state)
}

/// As many instances as are wanted answer or have come to their end with success, nothing on its way out, and no rollout that is under way.
fn is_done(service: &pb::ServiceStatus) -> bool {
    let leaving =
        service.instances.iter().any(|instance| matches!(instance.state.as_str(), "stopping" | "ending"));
    // A cron job is what it is to be as soon as it is known, but for a run that was told to stop.
    if service.cron.is_set() {
        return !leaving;
    }
    let over = matches!(service.rollout.as_str(), "succeeded" | "reverted" | "failed");
    // A brain that has just begun stops nobody yet: those beyond the wanted ones run, and nothing of them shows.
    let runs = |instance: &&pb::InstanceStatus| {
        instance.pid != 0 && !matches!(instance.state.as_str(), "standby" | "quarantined")
    };
    let running = u32::try_from(service.instances.iter().filter(runs).count()).unwrap_or(u32::MAX);
    service.ready >= service.wanted && running <= service.wanted && !leaving && (over || service.wanted == 0)
}

fn is_broken(service: &pb::ServiceStatus) -> bool {
    matches!(service.state.as_str(), "crash-looping" | "failed")
}

/// Whether it has come true or has failed; nothing as long as it may become either. What failed before and
/// was not changed is no failure of this.
fn verdict(status: &pb::StatusResponse, changed: &[&str]) -> Option<Result<(), String>> {
    let of_this = |service: &&pb::ServiceStatus| changed.contains(&service.name.as_str());
    for service in status.services.iter().filter(of_this) {
        if matches!(service.rollout.as_str(), "failed" | "reverting" | "reverted") {
            let back = if service.rollout == "failed" { "" } else { "; it goes back to what worked" };
            return Some(Err(format!("{} failed: {}{back}", service.name, service.rollout_failure)));
        }
        if service.wanted > 0 && !service.cron.is_set() && is_broken(service) {
            return Some(Err(row(service)));
        }
    }
    // Nothing more comes of what has failed again and again before, and waiting for it would fail a change that is done.
    let is_over = |service: &pb::ServiceStatus| is_broken(service) && !of_this(&service);
    status.services.iter().all(|service| is_done(service) || is_over(service)).then_some(Ok(()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(rollout: &str, ready: u32) -> pb::StatusResponse {
        let service = pb::ServiceStatus {
            name: "order".into(),
            state: "starting".into(),
            ready,
            wanted: 1,
            rollout: rollout.into(),
            rollout_failure: "order-1 exited with code 78".into(),
            ..Default::default()
        };
        pb::StatusResponse { services: vec![service], ..Default::default() }
    }

    #[test]
    fn a_change_is_done_when_its_rollout_is() {
        assert_eq!(verdict(&status("succeeded", 1), &["order"]), Some(Ok(())));
        assert_eq!(verdict(&status("succeeded", 0), &["order"]), None);
        assert_eq!(verdict(&status("verifying", 1), &["order"]), None);
        let mut leaving = status("succeeded", 1);
        leaving.services[0].instances =
            vec![pb::InstanceStatus { state: "stopping".into(), ..Default::default() }];
        assert_eq!(verdict(&leaving, &["order"]), None);
        let failed = verdict(&status("reverting", 1), &["order"]);
        assert_eq!(
            failed,
            Some(Err("order failed: order-1 exited with code 78; it goes back to what worked".into()))
        );
        // One more than is wanted goes sooner or later, and then it is done.
        let runs = |pid| pb::InstanceStatus { pid, state: "ready".into(), ..Default::default() };
        let mut scaled = status("succeeded", 2);
        scaled.services[0].instances = vec![runs(7), runs(8)];
        assert_eq!(verdict(&scaled, &["order"]), None);
        scaled.services[0].instances[1].state = "standby".into();
        assert_eq!(verdict(&scaled, &["order"]), Some(Ok(())));
        // What was stopped has come true once nothing of it runs, and that is what is said.
        let mut stopped = status("succeeded", 0);
        stopped.services[0].wanted = 0;
        let change = pb::ServiceChange { service: "order".into(), ..Default::default() };
        let response = pb::ChangeResponse { changes: vec![change], ..Default::default() };
        assert_eq!(verdict(&stopped, &["order"]), Some(Ok(())));
        assert_eq!(done(&stopped, &response), "order has stopped; nothing of it runs");
        assert_eq!(done(&status("succeeded", 1), &response), "all of it runs and answers");
        // A cron job's run that goes on is no reason to wait, and one that was told to stop is.
        let mut cron = status("", 0);
        cron.services[0].cron = pb::CronStatus::default().into();
        cron.services[0].instances = vec![runs(7)];
        assert_eq!(verdict(&cron, &["order"]), Some(Ok(())));
        cron.services[0].instances[0].state = "stopping".into();
        assert_eq!(verdict(&cron, &["order"]), None);
        // A job that came to its end is all that was wanted, in this change and in later ones.
        let mut job = status("succeeded", 1);
        job.services[0].state = "completed".into();
        assert_eq!(verdict(&job, &["order"]), Some(Ok(())));
        assert_eq!(verdict(&job, &["user"]), Some(Ok(())));
        (job.services[0].state, job.services[0].ready) = ("failed".into(), 0);
        assert_eq!(verdict(&job, &["order"]), Some(Err("order is failed".into())));
        assert_eq!(verdict(&job, &["user"]), Some(Ok(())));
        job.services[0].state = "crash-looping".into();
        assert_eq!(verdict(&job, &["user"]), Some(Ok(())));
        assert_eq!(
            done(&job, &pb::ChangeResponse::default()),
            "what was changed runs and answers; as before, order is crash-looping"
        );
        // That is no news for somebody who changed another service.
        assert_eq!(verdict(&status("reverted", 1), &["user"]), Some(Ok(())));
    }
}
