//! `formic status`: the running application at a glance; the same table that `formic up` prints.

use formic_api::control::v1 as pb;
use serde_json::json;

use crate::cli::Listing;
use crate::exit::Outcome;
use crate::{app, output};

pub(crate) async fn run(args: Listing) -> Outcome {
    let app = app::find(args.target.app.as_deref()).await?;
    if args.json {
        output::json(&to_json(&app.status));
        return Ok(());
    }
    output::line(&render(&app.status, output::limit()));
    Ok(())
}

/// The table, with the reasons of what is not ready below it.
pub(crate) fn render(status: &pb::StatusResponse, limit: Option<usize>) -> String {
    let mut rows = Vec::new();
    for service in &status.services {
        let several = service.instances.len() != 1;
        let first = service.instances.first();
        let state = match service.restarts {
            0 => service.state.clone(),
            1 => format!("{} (1 restart)", service.state),
            n => format!("{} ({n} restarts)", service.state),
        };
        rows.push(vec![
            service.name.clone(),
            service.version.clone(),
            format!("{}/{}", service.ready, service.wanted),
            state,
            if several { String::new() } else { first.map(|i| i.address.clone()).unwrap_or_default() },
            if several { String::new() } else { first.map(pid).unwrap_or_default() },
        ]);
        if several {
            rows.extend(service.instances.iter().map(|instance| {
                vec![
                    format!("  {}", instance.id),
                    instance.version.clone(),
                    String::new(),
                    instance.state.clone(),
                    instance.address.clone(),
                    pid(instance),
                ]
            }));
        }
    }
    let header = ["SERVICE", "VERSION", "INSTANCES", "STATE", "ADDRESS", "PID"];
    let mut out = output::table(&header, &rows, limit);
    for service in status.services.iter().filter(|service| !service.reason.is_empty()) {
        out.push_str(&format!("\n{}: {}", service.name, service.reason));
    }
    for service in status.services.iter().filter(|service| !service.rollout_failure.is_empty()) {
        out.push_str(&format!(
            "\n{}: its last update is {}: {}",
            service.name, service.rollout, service.rollout_failure
        ));
    }
    for note in &status.notes {
        out.push_str(&format!("\nnote: {note}"));
    }
    out
}

fn pid(instance: &pb::InstanceStatus) -> String {
    if instance.pid == 0 { String::new() } else { instance.pid.to_string() }
}

/// The same for programs.
pub(crate) fn to_json(status: &pb::StatusResponse) -> serde_json::Value {
    let instance = |i: &pb::InstanceStatus| {
        json!({
            "id": i.id, "slot": i.slot, "version": i.version, "state": i.state, "address": i.address,
            "pid": i.pid, "restarts": i.restarts, "started_unix_ms": i.started_unix_ms, "last_exit": i.last_exit,
        })
    };
    let service = |s: &pb::ServiceStatus| {
        json!({
            "name": s.name, "version": s.version, "state": s.state, "ready": s.ready, "wanted": s.wanted,
            "system": s.system, "reason": s.reason, "rollout": s.rollout, "rollout_failure": s.rollout_failure,
            "restarts": s.restarts,
            "instances": s.instances.iter().map(instance).collect::<Vec<_>>(),
        })
    };
    let server = status.server.as_option().map(|server| {
        json!({
            "keeper_pid": server.keeper_pid, "generation": server.generation, "program": server.program,
            "version": server.version, "adopted": server.adopted,
        })
    });
    json!({
        "app": status.app, "manifest": status.manifest, "pid": status.pid, "gateway": status.gateway,
        "index": status.index, "server": server,
        "services": status.services.iter().map(service).collect::<Vec<_>>(), "notes": status.notes,
    })
}
