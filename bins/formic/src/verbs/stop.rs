//! `formic stop` and `formic down`: drain and stop services, or the whole running application.

use formic_api::control::v1 as pb;
use serde_json::json;

use crate::app::App;
use crate::cli::{Down, Stop};
use crate::exit::Outcome;
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

async fn whole(app: &App, now: bool, json: bool) -> Outcome {
    let name = app.meant()?.status.app.clone();
    let workloads = workloads(&app.status);
    if !json {
        output::talk(&format!("stopping {name} in {}", app.place()));
    }
    let request = pb::StopRequest { now, ..Default::default() };
    let response = app.control().stop(request).timeout(PATIENCE).await?;
    let (killed, goes_on) = (response.killed, response.goes_on);
    if json {
        output::json(&json!({
            "app": name, "stopped": true, "killed": killed, "workloads": workloads, "server_goes_on": goes_on,
        }));
        return Ok(());
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
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

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
