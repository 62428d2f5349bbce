//! `formic status`: the running application at a glance; the same table that `formic up` prints.

use formic_api::control::v1 as pb;
use serde_json::json;

use crate::cli::Listing;
use crate::exit::Outcome;
use crate::verbs::run::{tell, to_json as run_json};
use crate::{app, output};

pub(crate) async fn run(args: Listing) -> Outcome {
    let app = app::find(&args.target).await?;
    if args.json {
        output::json(&to_json(&app.status));
        return Ok(());
    }
    output::line(&render(&app.status, output::limit()));
    if app.status.services.is_empty() {
        output::talk("nothing is wanted; `formic apply` starts what the manifest says");
    }
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
    let mut header = vec!["SERVICE", "VERSION", "INSTANCES", "STATE", "ADDRESS", "PID"];
    // What a narrow terminal can do without, the least important first.
    for column in ["VERSION", "PID", "ADDRESS"] {
        if limit.is_none_or(|limit| output::width_of(&header, &rows) <= limit) {
            break;
        }
        if let Some(at) = header.iter().position(|name| *name == column) {
            header.remove(at);
            rows.iter_mut().for_each(|row| drop(row.remove(at)));
        }
    }
    let mut out = vec![output::table(&header, &rows, limit)];
    let below = reasons(status).into_iter().chain(status.services.iter().filter_map(schedule));
    let below = below.chain(status.notes.iter().map(|note| format!("note: {note}")));
    out.extend(below.flat_map(|line| output::wrap(&line, limit, 2)));
    out.join("\n")
}

/// Why what is not ready is not, and what became of updates that failed.
fn reasons(status: &pb::StatusResponse) -> Vec<String> {
    let told = status.services.iter().filter(|service| !service.reason.is_empty());
    let mut lines: Vec<String> =
        told.map(|service| format!("{}: {}", service.name, service.reason)).collect();
    let failed = status.services.iter().filter(|service| !service.rollout_failure.is_empty());
    lines.extend(failed.map(|service| {
        let (name, rollout, failure) = (&service.name, &service.rollout, &service.rollout_failure);
        format!("{name}: its last update is {rollout}: {failure}")
    }));
    let paused = status.services.iter().filter(|service| service.rollout == "paused");
    lines.extend(paused.map(|service| {
        let name = &service.name;
        format!("{name}: its update is paused; `formic resume {name}` lets it go on")
    }));
    lines
}

/// When a cron job is due, and what came of its last run.
fn schedule(service: &pb::ServiceStatus) -> Option<String> {
    let cron = service.cron.as_option()?;
    let next =
        cron.next_unix_ms.map_or_else(|| "never".to_owned(), |at| format!("{} UTC", output::second(at)));
    let last = cron.last.as_option().map_or_else(String::new, |last| format!("; {}", tell(last)));
    let (name, schedule, zone) = (&service.name, &cron.schedule, &cron.zone);
    Some(if service.state == "stopped" {
        format!("{name}: stopped; nothing is due until `formic start {name}` ({schedule} {zone}){last}")
    } else {
        format!("{name}: due next {next} ({schedule} {zone}){last}")
    })
}

fn pid(instance: &pb::InstanceStatus) -> String {
    if instance.pid == 0 { String::new() } else { instance.pid.to_string() }
}

/// What an instance was started with. What is null is as the server itself has it, or unknown.
pub(crate) fn rights(rights: &pb::Rights) -> serde_json::Value {
    json!({
        "user": Some(&rights.user).filter(|user| !user.is_empty()), "uid": rights.uid, "gid": rights.gid,
        "no_new_privileges": rights.no_new_privileges,
        "ulimits": { "nofile": rights.nofile, "nproc": rights.nproc, "core": rights.core },
    })
}

/// Why a probe fails, how often it has in a row, and when the last time: null of what an engine before this one has seen.
pub(crate) fn probe_failure(failure: &pb::ProbeFailure) -> serde_json::Value {
    let pb::ProbeFailure { reason, in_row, last_unix_ms, .. } = failure;
    let known = *in_row > 0;
    json!({ "reason": reason, "in_row": known.then_some(in_row), "last_unix_ms": known.then_some(last_unix_ms) })
}

/// The same for programs.
pub(crate) fn to_json(status: &pb::StatusResponse) -> serde_json::Value {
    let instance = |i: &pb::InstanceStatus| {
        json!({
            "id": i.id, "slot": i.slot, "version": i.version, "state": i.state, "address": i.address,
            "pid": i.pid, "restarts": i.restarts, "started_unix_ms": i.started_unix_ms, "last_exit": i.last_exit,
            "rights": i.rights.as_option().map(rights),
            "probe_failure": i.probe_failure.as_option().map(probe_failure),
        })
    };
    let cron = |c: &pb::CronStatus| {
        json!({
            "schedule": c.schedule, "zone": c.zone, "next_unix_ms": c.next_unix_ms,
            "last": c.last.as_option().map(run_json),
        })
    };
    let service = |s: &pb::ServiceStatus| {
        json!({
            "name": s.name, "version": s.version, "state": s.state, "ready": s.ready, "wanted": s.wanted,
            "system": s.system, "reason": s.reason, "rollout": s.rollout, "rollout_failure": s.rollout_failure,
            "rollout_number": s.rollout_number,
            "restarts": s.restarts,
            "cron": s.cron.as_option().map(cron),
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

#[cfg(test)]
mod tests {
    use super::*;

    fn status() -> pb::StatusResponse {
        let instance = |id: &str| pb::InstanceStatus {
            id: id.into(),
            version: "bfbc6c39c85c".into(),
            state: "ready".into(),
            address: "127.0.0.1:38093".into(),
            pid: 31_451,
            ..Default::default()
        };
        let service = pb::ServiceStatus {
            name: "product".into(),
            version: "bfbc6c39c85c".into(),
            state: "ready".into(),
            ready: 2,
            wanted: 2,
            instances: vec![instance("product-30d922c0"), instance("product-d52014bd")],
            ..Default::default()
        };
        pb::StatusResponse { services: vec![service], ..Default::default() }
    }

    #[test]
    fn a_narrow_terminal_has_fewer_columns_and_whole_ones() {
        let wide = render(&status(), Some(100));
        assert!(wide.contains("VERSION") && wide.contains("PID"), "{wide}");
        let narrow = render(&status(), Some(40));
        assert_eq!(
            narrow,
            "SERVICE             INSTANCES  STATE\n\
             product             2/2        ready\n\
             \u{20} product-30d922c0             ready\n\
             \u{20} product-d52014bd             ready"
        );
        let mut paused = status();
        paused.services[0].rollout = "paused".into();
        assert!(
            render(&paused, None)
                .ends_with("product: its update is paused; `formic resume product` lets it go on")
        );
        let between = render(&status(), Some(58));
        assert!(
            between.contains("ADDRESS") && !between.contains("PID") && !between.contains('…'),
            "{between}"
        );
    }
}
