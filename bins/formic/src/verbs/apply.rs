//! `formic apply`: the manifest is read again, and what it says becomes what is wanted.

use std::time::Duration;

use formic_api::control::v1 as pb;
use serde_json::json;
use tokio::time::Instant;

use crate::app::App;
use crate::cli::{Apply, Wait};
use crate::exit::{Failure, Outcome};
use crate::verbs::plan::{self, Wanted};
use crate::{app, output};

pub(crate) async fn run(args: Apply) -> Outcome {
    let app = app::find(args.listing.target.app.as_deref()).await?;
    let Wanted { manifest, artifacts } = plan::wanted(&app, args.no_build).await?;
    let request = pb::ApplyRequest {
        manifest,
        artifacts: artifacts.into_iter().collect(),
        index: args.index,
        ..Default::default()
    };
    let response = app.deploy().apply(request).await?.into_message();
    finish(&app, &response, args.wait, args.listing.json).await
}

/// Says what a change has done, after waiting for it if that was asked for.
pub(crate) async fn finish(app: &App, response: &pb::ChangeResponse, wait: Wait, json: bool) -> Outcome {
    let waited = if wait.wait { Some(settled(app, response.index, wait.timeout).await) } else { None };
    if json {
        output::json(&json!({
            "app": app.status.app, "index": response.index, "changed": response.changed,
            "changes": plan::changes_json(&response.changes), "ready": waited.as_ref().map(Result::is_ok),
        }));
    } else {
        if response.changed && !response.changes.is_empty() {
            output::line(&plan::changes(&response.changes));
        }
        let what = if response.changed { "is wanted now" } else { "was wanted already; nothing changed" };
        output::talk(&format!("index {} of {} {what}", response.index, app.status.app));
    }
    waited.unwrap_or(Ok(()))?;
    if wait.wait && !json {
        output::talk("all of it runs and answers");
    }
    Ok(())
}

/// All must be well for so long before it counts: a program without a probe is ready until it ends.
const STEADY: Duration = Duration::from_secs(1);

/// Waits until every service is what the index says, or one of them has failed.
async fn settled(app: &App, index: u64, timeout: Duration) -> Outcome {
    let mut last = None;
    let watch = async {
        let mut states = app.control().watch_status(pb::StatusRequest::default()).await?.into_message();
        let mut steady = None;
        loop {
            let hold = async {
                match steady {
                    Some(since) => tokio::time::sleep_until(since + STEADY).await,
                    None => std::future::pending().await,
                }
            };
            // A state that has begun to arrive when the time is up is of no interest any more.
            let status = tokio::select! {
                status = states.message() => status?,
                () = hold => return Ok(()),
            };
            let Some(status) = status else { break };
            if status.index > index {
                return Err(Failure::user(format!(
                    "index {index} was followed by index {} before all of it was ready",
                    status.index
                )));
            }
            match verdict(&status) {
                _ if status.index < index => {}
                Some(Ok(())) => drop(steady.get_or_insert_with(Instant::now)),
                Some(Err(text)) => {
                    return Err(Failure::user(text).help("`formic why <service>` and `formic logs` say more"));
                }
                None => steady = None,
            }
            last = Some(status);
        }
        Err(Failure::unreachable(format!("{} has stopped", app.status.app)))
    };
    match tokio::time::timeout(timeout, watch).await {
        Ok(outcome) => outcome,
        Err(_) => {
            let services = last.iter().flat_map(|status| &status.services);
            let open: Vec<String> = services.filter(|service| !is_done(service)).map(row).collect();
            Err(Failure::user(format!("not ready after {} s: {}", timeout.as_secs(), open.join("; "))))
        }
    }
}

fn row(service: &pb::ServiceStatus) -> String {
    let reason = if service.reason.is_empty() { String::new() } else { format!(" ({})", service.reason) };
    format!("{} is {}{reason}", service.name, service.state)
}

/// As many ready instances as are wanted, all of the revision that is wanted, and nothing else.
fn is_done(service: &pb::ServiceStatus) -> bool {
    let live = |i: &&pb::InstanceStatus| !matches!(i.state.as_str(), "backoff" | "exited");
    let mut live = service.instances.iter().filter(live);
    service.ready >= service.wanted && live.all(|i| i.version == service.version && i.state == "ready")
}

/// Whether it has come true or has failed; nothing as long as it may become either.
fn verdict(status: &pb::StatusResponse) -> Option<Result<(), String>> {
    let failed =
        |s: &&pb::ServiceStatus| s.wanted > 0 && matches!(s.state.as_str(), "crash-looping" | "stopped");
    if let Some(service) = status.services.iter().find(failed) {
        return Some(Err(row(service)));
    }
    status.services.iter().all(is_done).then_some(Ok(()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(state: &str, instances: &[(&str, &str)]) -> pb::StatusResponse {
        let ready = instances.iter().filter(|(_, state)| *state == "ready").count();
        let instance = |(version, state): &(&str, &str)| pb::InstanceStatus {
            version: (*version).into(),
            state: (*state).into(),
            ..Default::default()
        };
        let service = pb::ServiceStatus {
            name: "order".into(),
            version: "new".into(),
            state: state.into(),
            ready: u32::try_from(ready).unwrap_or(0),
            wanted: 1,
            instances: instances.iter().map(instance).collect(),
            reason: "why".into(),
            ..Default::default()
        };
        pb::StatusResponse { services: vec![service], ..Default::default() }
    }

    #[test]
    fn a_change_is_done_when_only_the_new_runs() {
        assert_eq!(verdict(&status("ready", &[("new", "ready")])), Some(Ok(())));
        assert_eq!(verdict(&status("ready", &[("old", "ready")])), None);
        assert_eq!(verdict(&status("ready", &[("new", "ready"), ("new", "stopping")])), None);
        assert_eq!(verdict(&status("backoff", &[("new", "backoff")])), None);
        let failed = verdict(&status("crash-looping", &[("new", "backoff")]));
        assert_eq!(failed, Some(Err("order is crash-looping (why)".into())));
    }
}
