//! `formic stop` and `formic down`: drain and stop services, or the whole running application.

use formic_api::control::v1 as pb;
use serde_json::json;

use crate::app::App;
use crate::cli::{Down, Stop};
use crate::exit::{Failure, Outcome};
use crate::verbs::intent;
use crate::verbs::server::instances;
use crate::{app, output};

/// Longer than any grace that a manifest may give; the daemon bounds each step itself.
const PATIENCE: std::time::Duration = std::time::Duration::from_secs(900);

pub(crate) async fn run(args: Stop) -> Outcome {
    let app = app::find(&args.listing.target).await?;
    if !args.services.is_empty() {
        return intent::stop(&app, args).await;
    }
    whole(&app, args.now, args.listing.json).await
}

/// Stops every workload. Under `formic up` the engine is there for them alone, and ends with them.
pub(crate) async fn down(args: Down) -> Outcome {
    let app = app::find(&args.listing.target).await?;
    whole(&app, args.now, args.listing.json).await
}

/// What there is to stop: a job that has ended, or a run that is over, is still listed and has no process.
fn workloads(status: &pb::StatusResponse) -> usize {
    let instances = status.services.iter().flat_map(|service| &service.instances);
    instances.filter(|instance| instance.pid != 0).count()
}

/// Those that may be running, and that nobody but people may end.
pub(crate) fn left_alone(status: &pb::StatusResponse) -> Vec<String> {
    let instances = status.services.iter().flat_map(|service| &service.instances);
    instances.filter(|instance| instance.state == "quarantined").map(|instance| instance.id.clone()).collect()
}

/// What is said of them.
pub(crate) fn told(left: &[String]) -> String {
    let be = if left.len() == 1 { "is" } else { "are" };
    format!("{} {be} quarantined, may be running, and {be} left alone", left.join(", "))
}

async fn whole(app: &App, now: bool, json: bool) -> Outcome {
    let name = app.meant()?.status.app.clone();
    let (workloads, left) = (workloads(&app.status), left_alone(&app.status));
    if !json {
        output::talk(&format!("stopping {name} in {}", app.place()));
    }
    let request = pb::StopRequest { now, ..Default::default() };
    let response = app.control().stop(request).timeout(PATIENCE).await?;
    let (killed, goes_on) = (response.killed, response.goes_on);
    let said = json!({
        "app": name, "stopped": left.is_empty(), "killed": killed, "workloads": workloads, "left_alone": left,
        "server_goes_on": goes_on,
    });
    if json && left.is_empty() {
        output::json(&said);
    }
    if json {
        return all_of_it(&left, said);
    }
    let engine = if goes_on { "" } else { " and the engine that ran them" };
    let noun = if workloads == 1 { "workload" } else { "workloads" };
    let what = format!("stopped {name}: its {workloads} {noun}{engine}");
    if killed > 0 {
        let killed = instances(killed);
        output::talk(&format!("{what}; {killed} outlived the time to stop and had to be killed"));
    } else {
        output::talk(&what);
    }
    if goes_on {
        output::talk(
            "its server goes on, with nothing to run: `formic apply` or `formic rollback` starts it again, `formic server stop` ends the server",
        );
    }
    all_of_it(&left, said)
}

/// To stop a part is no success.
fn all_of_it(left: &[String], said: serde_json::Value) -> Outcome {
    let Some(one) = left.first() else { return Ok(()) };
    Err(Failure::user(told(left)).beside(said).help(format!(
        "`formic why` of its service says what is known, and which process it may be; `formic release {one}` gives it up"
    )))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_left_alone_is_no_success() {
        let instance = |id: &str, state: &str| pb::InstanceStatus {
            id: id.into(),
            state: state.into(),
            ..Default::default()
        };
        let instances = vec![instance("a-1", "ready"), instance("a-2", "quarantined")];
        let service = pb::ServiceStatus { instances, ..Default::default() };
        let left = left_alone(&pb::StatusResponse { services: vec![service], ..Default::default() });
        assert_eq!(left, ["a-2"]);
        assert!(all_of_it(&left, json!({})).is_err() && all_of_it(&[], json!({})).is_ok());
        assert!(told(&left).starts_with("a-2 is quarantined"));
    }

    #[test]
    fn what_has_ended_is_no_workload() {
        let instance = |pid| pb::InstanceStatus { pid, ..Default::default() };
        let service = |pids: &[u32]| pb::ServiceStatus {
            instances: pids.iter().map(|pid| instance(*pid)).collect(),
            ..Default::default()
        };
        let services = vec![service(&[7, 8]), service(&[0]), service(&[])];
        assert_eq!(workloads(&pb::StatusResponse { services, ..Default::default() }), 2);
    }
}
