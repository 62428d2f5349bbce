//! `formic apply`: the manifest is read again, and what it says becomes what is wanted.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use formic_api::control::v1 as pb;
use formic_core::{Code, Error};
use formic_rpc::Streaming;
use formic_spec::Manifest;
use serde_json::json;

use crate::app::{AWAY, App, CHANGE, LOOK};
use crate::cli::{Apply, Wait};
use crate::engine::control::farewell::is_stopped;
use crate::exit::{Failure, Outcome};
use crate::verbs::plan::{self, Wanted};
use crate::{app, output, signals};

/// What becomes of a change whose server is gone.
const GOES_ON: &str = "what was asked for goes on as soon as it runs again";

pub(crate) async fn run(args: Apply) -> Outcome {
    let app = app::find(&args.listing.target).await?;
    let Wanted { manifest, artifacts } = plan::wanted(&app, args.no_build).await?;
    let notes = Manifest::parse(&manifest, "").map(|manifest| manifest.notes()).unwrap_or_default();
    let request = pb::ApplyRequest {
        manifest,
        artifacts: artifacts.into_iter().collect(),
        index: args.index,
        ..Default::default()
    };
    let response = app.meant()?.deploy().apply(request).timeout(CHANGE).await?.into_message();
    if !args.listing.json {
        notes.iter().for_each(|note| output::talk(&format!("note: {note}")));
    }
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
    // One that answers may be at the end of an update, which is nobody's worry.
    let is_well = |s: &pb::ServiceStatus| {
        matches!(s.state.as_str(), "ready" | "completed" | "stopped" | "scheduled" | "running")
    };
    let others = status.services.iter().filter(|service| !is_done(service) && !is_well(service));
    let others: Vec<String> = others.map(row).collect();
    if !others.is_empty() {
        return format!("what was changed runs and answers; as before, {}", others.join("; "));
    }
    let completed = status.services.iter().any(|service| service.state == "completed");
    if completed { "all of it runs and answers, or has done its work" } else { "all of it runs and answers" }
        .into()
}

/// Waits until every service that was changed is what the index says, or one of them has failed.
pub(crate) async fn settled(
    app: &App,
    response: &pb::ChangeResponse,
    timeout: Duration,
) -> Outcome<pb::StatusResponse> {
    let changes = Changes::of(response, &app.status);
    let mut last = None;
    let watch = async {
        let mut answered = Instant::now();
        loop {
            let states = app.control().watch_status(pb::StatusRequest::default()).await;
            let outcome = match states {
                Ok(states) => {
                    let outcome = followed(states.into_message(), &changes, &mut last).await;
                    answered = Instant::now();
                    outcome
                }
                Err(error) => Err(error),
            };
            match outcome {
                Ok(Some(outcome)) => return outcome,
                // Nobody is there to go on with it.
                Err(error) if is_stopped(&error) => {
                    let text =
                        format!("the server of {} was stopped before all of it was done", app.status.app);
                    return Err(Failure::unreachable(text).help(GOES_ON));
                }
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
                .help(GOES_ON));
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
            let of_this = |s: &&pb::ServiceStatus| changes.services.is_empty() || changes.has(s);
            let open = services.filter(of_this).filter(|service| !is_done(service)).map(still);
            let open: Vec<String> = open.collect();
            Err(Failure::user(format!("not done after {} s: {}", timeout.as_secs(), open.join("; "))))
        }
    }
}

/// What was changed, and what it was before.
struct Changes<'a> {
    index: u64,
    services: Vec<&'a str>,
    /// The rollouts that were over before: what they came to says nothing of this change.
    over: HashMap<&'a str, u64>,
}

impl<'a> Changes<'a> {
    fn of(response: &'a pb::ChangeResponse, before: &'a pb::StatusResponse) -> Self {
        let over = before.services.iter().filter(|service| is_over(&service.rollout));
        Self {
            index: response.index,
            services: response.changes.iter().map(|change| change.service.as_str()).collect(),
            over: over.map(|service| (service.name.as_str(), service.rollout_number)).collect(),
        }
    }

    fn has(&self, service: &pb::ServiceStatus) -> bool {
        self.services.contains(&service.name.as_str())
    }

    /// Whether its rollout, of one that was changed, is no older than the change.
    fn brings(&self, service: &pb::ServiceStatus) -> bool {
        let before = self.over.get(service.name.as_str());
        before.is_none_or(|before| *before == 0 || *before < service.rollout_number)
    }
}

/// What becomes of the change, as the states tell it that come from an engine; nothing if they end before.
async fn followed(
    mut states: Streaming<pb::StatusResponse>,
    changes: &Changes<'_>,
    last: &mut Option<pb::StatusResponse>,
) -> Result<Option<Outcome<pb::StatusResponse>>, Error> {
    while let Some(status) = states.message().await? {
        match verdict(&status, changes) {
            _ if status.index < changes.index => {}
            Verdict::Failed(text) => {
                let failure = Failure::user(text).help("`formic why <service>` and `formic logs` say more");
                return Ok(Some(Err(failure)));
            }
            // The way back of what has failed is a state of its own.
            Verdict::Failing => {}
            _ if status.index > changes.index => {
                let (index, now) = (changes.index, status.index);
                let text = format!("index {index} was followed by index {now} before all of it was done");
                return Ok(Some(Err(Failure::user(text))));
            }
            Verdict::Done => return Ok(Some(Ok(status))),
            Verdict::Open => {}
        }
        *last = Some(status);
    }
    Ok(None)
}

fn row(service: &pb::ServiceStatus) -> String {
    let reason = if service.reason.is_empty() { String::new() } else { format!(" ({})", service.reason) };
    format!("{} is {}{reason}", service.name, service.state)
}

/// The same of one that is waited for: one that is as it is to be may wait for its rollout, or for the last of the old ones.
fn still(service: &pb::ServiceStatus) -> String {
    let row = row(service);
    if !service.reason.is_empty() {
        return row;
    }
    let rollout = match service.rollout.as_str() {
        "pending" => "its update has not begun",
        "progressing" => "its update is under way",
        "verifying" => "its update waits until all are ready for as long as `min_ready` says",
        "promoting" => "its update gives the new ones all calls",
        "paused" => {
            return format!("{row} (its update is paused; `formic resume {}` lets it go on)", service.name);
        }
        "reverting" => "its update goes back",
        _ if is_leaving(service) => "old instances are on their way out",
        _ => return row,
    };
    format!("{row} ({rollout})")
}

/// Whether instances of it are on their way out.
fn is_leaving(service: &pb::ServiceStatus) -> bool {
    service.instances.iter().any(|instance| matches!(instance.state.as_str(), "stopping" | "ending"))
}

/// Whether nothing more comes of a rollout.
fn is_over(rollout: &str) -> bool {
    matches!(rollout, "succeeded" | "reverted" | "failed")
}

/// As many instances as are wanted answer or have come to their end with success, nothing on its way out, and no rollout that is under way.
fn is_done(service: &pb::ServiceStatus) -> bool {
    let leaving = is_leaving(service);
    // A cron job is what it is to be as soon as it is known, but for a run that was told to stop.
    if service.cron.is_set() {
        return !leaving;
    }
    let over = is_over(&service.rollout);
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

/// What became of a change.
#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    /// It may become either.
    Open,
    /// Something of it has failed, and what becomes of the rest is not known yet.
    Failing,
    /// What has failed of it, and why.
    Failed(String),
    /// It has come true.
    Done,
}

/// What became of the services that were changed. What failed before and was not changed is no failure of this.
fn verdict(status: &pb::StatusResponse, changes: &Changes<'_>) -> Verdict {
    let (mut failed, mut is_open) = (Vec::new(), false);
    for service in status.services.iter().filter(|service| changes.has(service)) {
        let goes_back = matches!(service.rollout.as_str(), "failed" | "reverting" | "reverted");
        if goes_back && changes.brings(service) {
            let back = if service.rollout == "failed" { "" } else { "; it goes back to what worked" };
            failed.push(format!("{} failed: {}{back}", service.name, service.rollout_failure));
        } else if service.wanted > 0 && !service.cron.is_set() && is_broken(service) {
            failed.push(row(service));
        } else if matches!(service.rollout.as_str(), "progressing" | "verifying" | "promoting") {
            // One that is pending may wait for what has failed.
            is_open = true;
        }
    }
    if !failed.is_empty() {
        return if is_open { Verdict::Failing } else { Verdict::Failed(failed.join("\n")) };
    }
    // Of what was not changed nothing is waited for, however long it takes, unless nothing was changed: that is a wait for all.
    // And of that nothing more comes of what has failed again and again.
    let is_given_up = |service: &pb::ServiceStatus| is_broken(service) && !changes.has(service);
    let mut waited_for = status.services.iter().filter(|s| changes.services.is_empty() || changes.has(s));
    if waited_for.all(|service| is_done(service) || is_given_up(service)) {
        Verdict::Done
    } else {
        Verdict::Open
    }
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

    fn of<'a>(services: &[&'a str]) -> Changes<'a> {
        Changes { index: 1, services: services.to_vec(), over: HashMap::new() }
    }

    #[test]
    fn what_failed_before_says_nothing_of_a_change_that_began_no_rollout() {
        let mut before = status("reverted", 1);
        before.services[0].rollout_number = 3;
        let change = pb::ServiceChange { service: "order".into(), ..Default::default() };
        let response = pb::ChangeResponse { changes: vec![change], ..Default::default() };
        let changes = Changes::of(&response, &before);
        // It is scaled up.
        let mut now = before.clone();
        now.services[0].wanted = 2;
        assert_eq!(verdict(&now, &changes), Verdict::Open);
        now.services[0].ready = 2;
        assert_eq!(verdict(&now, &changes), Verdict::Done);
        // Another one that goes back is this change's, and so is one that was under way.
        now.services[0].rollout_number = 4;
        assert!(matches!(verdict(&now, &changes), Verdict::Failed(_)));
        before.services[0].rollout = "progressing".into();
        let mut failed = before.clone();
        failed.services[0].rollout = "reverted".into();
        assert!(matches!(verdict(&failed, &Changes::of(&response, &before)), Verdict::Failed(_)));
    }

    #[test]
    fn all_that_fails_is_told() {
        let mut both = status("reverting", 1);
        both.services.push(pb::ServiceStatus { name: "user".into(), ..both.services[0].clone() });
        both.services[1].rollout = "verifying".into();
        assert_eq!(verdict(&both, &of(&["order", "user"])), Verdict::Failing);
        assert!(matches!(verdict(&both, &of(&["order"])), Verdict::Failed(_)));
        both.services[1].rollout = "failed".into();
        let Verdict::Failed(text) = verdict(&both, &of(&["order", "user"])) else { panic!("it has failed") };
        assert_eq!(text.lines().count(), 2, "{text}");
        // What waits for it may wait for ever.
        both.services[1].rollout = "pending".into();
        assert!(matches!(verdict(&both, &of(&["order", "user"])), Verdict::Failed(_)));
    }

    #[test]
    fn what_is_waited_for_says_why_it_is_not_done() {
        let told = |rollout: &str, reason: &str| {
            let mut status = status(rollout, 1);
            (status.services[0].state, status.services[0].reason) = ("ready".into(), reason.into());
            still(&status.services[0])
        };
        assert_eq!(
            told("verifying", ""),
            "order is ready (its update waits until all are ready for as long as `min_ready` says)"
        );
        assert_eq!(told("progressing", "1 of 2 answers"), "order is ready (1 of 2 answers)");
        assert!(told("paused", "").contains("`formic resume order`"));
        assert_eq!(told("succeeded", ""), "order is ready");
        let mut leaving = status("succeeded", 1);
        leaving.services[0].instances =
            vec![pb::InstanceStatus { state: "stopping".into(), ..Default::default() }];
        assert_eq!(still(&leaving.services[0]), "order is starting (old instances are on their way out)");
    }

    #[test]
    fn a_change_is_done_when_its_rollout_is() {
        assert_eq!(verdict(&status("succeeded", 1), &of(&["order"])), Verdict::Done);
        assert_eq!(verdict(&status("succeeded", 0), &of(&["order"])), Verdict::Open);
        assert_eq!(verdict(&status("verifying", 1), &of(&["order"])), Verdict::Open);
        let mut leaving = status("succeeded", 1);
        leaving.services[0].instances =
            vec![pb::InstanceStatus { state: "stopping".into(), ..Default::default() }];
        assert_eq!(verdict(&leaving, &of(&["order"])), Verdict::Open);
        let failed = verdict(&status("reverting", 1), &of(&["order"]));
        assert_eq!(
            failed,
            Verdict::Failed("order failed: order-1 exited with code 78; it goes back to what worked".into())
        );
        // One more than is wanted goes sooner or later, and then it is done.
        let runs = |pid| pb::InstanceStatus { pid, state: "ready".into(), ..Default::default() };
        let mut scaled = status("succeeded", 2);
        scaled.services[0].instances = vec![runs(7), runs(8)];
        assert_eq!(verdict(&scaled, &of(&["order"])), Verdict::Open);
        scaled.services[0].instances[1].state = "standby".into();
        assert_eq!(verdict(&scaled, &of(&["order"])), Verdict::Done);
        // What was stopped has come true once nothing of it runs, and that is what is said.
        let mut stopped = status("succeeded", 0);
        stopped.services[0].wanted = 0;
        let change = pb::ServiceChange { service: "order".into(), ..Default::default() };
        let response = pb::ChangeResponse { changes: vec![change], ..Default::default() };
        assert_eq!(verdict(&stopped, &of(&["order"])), Verdict::Done);
        assert_eq!(done(&stopped, &response), "order has stopped; nothing of it runs");
        assert_eq!(done(&status("succeeded", 1), &response), "all of it runs and answers");
        // A cron job's run that goes on is no reason to wait, and one that was told to stop is.
        let mut cron = status("", 0);
        cron.services[0].cron = pb::CronStatus::default().into();
        cron.services[0].instances = vec![runs(7)];
        assert_eq!(verdict(&cron, &of(&["order"])), Verdict::Done);
        cron.services[0].instances[0].state = "stopping".into();
        assert_eq!(verdict(&cron, &of(&["order"])), Verdict::Open);
        // A job that came to its end is all that was wanted, in this change and in later ones.
        let mut job = status("succeeded", 1);
        job.services[0].state = "completed".into();
        assert_eq!(verdict(&job, &of(&["order"])), Verdict::Done);
        assert_eq!(verdict(&job, &of(&["user"])), Verdict::Done);
        (job.services[0].state, job.services[0].ready) = ("failed".into(), 0);
        assert_eq!(verdict(&job, &of(&["order"])), Verdict::Failed("order is failed".into()));
        assert_eq!(verdict(&job, &of(&["user"])), Verdict::Done);
        job.services[0].state = "crash-looping".into();
        assert_eq!(verdict(&job, &of(&["user"])), Verdict::Done);
        assert_eq!(
            done(&job, &pb::ChangeResponse::default()),
            "what was changed runs and answers; as before, order is crash-looping"
        );
        // Others are not waited for, and told of.
        let mut two = status("succeeded", 1);
        two.services
            .push(pb::ServiceStatus { name: "slow".into(), ..status("pending", 0).services[0].clone() });
        assert_eq!(verdict(&two, &of(&["order"])), Verdict::Done);
        assert_eq!(verdict(&two, &of(&[])), Verdict::Open);
        assert_eq!(
            done(&two, &pb::ChangeResponse::default()),
            "what was changed runs and answers; as before, slow is starting"
        );
        (two.services[1].state, two.services[1].ready) = ("ready".into(), 1);
        assert_eq!(done(&two, &pb::ChangeResponse::default()), "all of it runs and answers");
        // That is no news for somebody who changed another service.
        assert_eq!(verdict(&status("reverted", 1), &of(&["user"])), Verdict::Done);
    }
}
