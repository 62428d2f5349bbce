//! `formic describe`: methods, message fields and instances of a service.

use std::collections::HashMap;
use std::path::Path;

use formic_api::control::v1 as pb;
use formic_core::{Instance, Kind};
use formic_settings::nearest;
use serde_json::json;

use crate::app::STATE;
use crate::cli::Describe;
use crate::exit::{Failure, Outcome};
use crate::reflect::{MethodInfo, Schema};
use crate::verbs::services::instances;
use crate::verbs::status;
use crate::{app, output, reflect};

pub(crate) async fn run(args: Describe) -> Outcome {
    let app = app::find_here(&args.listing.target, "`formic describe`, which asks the instances,").await?;
    let all = instances(&app).await?;
    let wanted = args.service.as_str();
    let serves = |i: &&Instance| i.service.as_str() == wanted || i.rpc.iter().any(|rpc| rpc.name == wanted);
    let found: Vec<&Instance> = all.iter().filter(serves).collect();
    let Some(first) = found.first() else {
        let names = all.iter().flat_map(|i| {
            std::iter::once(i.service.as_str()).chain(i.rpc.iter().map(|rpc| rpc.name.as_str()))
        });
        let failure = Failure::user(format!("no instance of {wanted:?} is registered"));
        // One that is not ready is not registered, or will not answer.
        if let Some(service) = app.status.services.iter().find(|service| service.name == wanted) {
            let fault = |i: &pb::InstanceStatus| {
                Some(format!("{} {}", i.id, fault_in_words(i.probe_failure.as_option()?)))
            };
            let mut lines = vec![format!("{wanted} {}", state_in_words(service))];
            lines.extend(service.instances.iter().filter_map(fault));
            return Err(failure.help(lines.join("\n")));
        }
        return Err(match nearest(wanted, names) {
            Some(near) => failure.help(format!("did you mean {near:?}?")),
            None => {
                let mut known: Vec<&str> = all.iter().map(|instance| instance.service.as_str()).collect();
                known.sort_unstable();
                known.dedup();
                failure.help(match known.as_slice() {
                    [] => "no service is registered yet".to_owned(),
                    known => format!("it has {}", known.join(", ")),
                })
            }
        });
    };
    let names: Vec<String> = first
        .rpc
        .iter()
        .map(|rpc| rpc.name.clone())
        .filter(|name| name == wanted || first.service.as_str() == wanted)
        .collect();
    let schema = reflect::schema(&app.client().at(first.endpoint.clone()), &names).await?;
    let services = app.status.services.iter();
    let known: Known<'_> =
        services.flat_map(|service| &service.instances).map(|i| (i.id.as_str(), i)).collect();
    let name = first.service.as_str();
    let service = Shown {
        name,
        status: app.status.services.iter().find(|service| service.name == name),
        logs: kept_logs(&app.folder, name, &known),
    };
    if args.listing.json {
        output::json(&to_json(&service, &found, &known, &schema));
    } else {
        output::data(&render(&service, &found, &known, &schema, output::limit()));
    }
    Ok(())
}

/// A service, as far as it is the same for all of its instances.
struct Shown<'a> {
    name: &'a str,
    /// What the engine knows of it.
    status: Option<&'a pb::ServiceStatus>,
    /// The instances that have ended and whose logs are kept.
    logs: Vec<String>,
}

/// Its state, and why it is no better, in words.
fn state_in_words(service: &pb::ServiceStatus) -> String {
    let pb::ServiceStatus { state, ready, wanted, reason, .. } = service;
    // Of what goes on without anybody who wants it, no number is wanted.
    let count = if *wanted > 0 { format!(", {ready} of {wanted} ready") } else { String::new() };
    let reason = if reason.is_empty() { String::new() } else { format!(": {reason}") };
    format!("is {state}{count}{reason}")
}

/// The ids of those that `formic logs --instance` shows and that do not run any more, in order.
fn kept_logs(folder: &Path, service: &str, known: &Known<'_>) -> Vec<String> {
    let files =
        std::fs::read_dir(folder.join(STATE).join("logs").join(service)).into_iter().flatten().flatten();
    let ids = files.filter_map(|file| Some(file.file_name().to_str()?.strip_suffix(".out.log")?.to_owned()));
    let runs = |id: &String| known.get(id.as_str()).is_some_and(|instance| instance.pid != 0);
    let mut ids: Vec<String> = ids.filter(|id| !runs(id)).collect();
    ids.sort();
    ids
}

/// What the engine knows of the instances, by their ids.
type Known<'a> = HashMap<&'a str, &'a pb::InstanceStatus>;

/// How the probe of an instance fails, in words.
fn fault_in_words(failure: &pb::ProbeFailure) -> String {
    let pb::ProbeFailure { reason, in_row, last_unix_ms, .. } = failure;
    let why = if reason.is_empty() { String::new() } else { format!(": {reason}") };
    let times = match *in_row {
        // The engine knows no more of it, not even when.
        0 => return format!("fails its probe{why}"),
        1 => "once".to_owned(),
        in_row => format!("{in_row} times in a row"),
    };
    format!("fails its probe{why} ({times}, last at {} UTC)", output::second(*last_unix_ms))
}

/// What an instance was started with, in words.
fn in_words(rights: &pb::Rights) -> String {
    let pb::Rights { user, uid, gid, .. } = rights;
    let who = if user.is_empty() { format!("{uid}:{gid}") } else { format!("{user} ({uid}:{gid})") };
    let mut words = vec![format!("runs as {who}")];
    words.extend(rights.no_new_privileges.map(|none| {
        if none { "gets no new privileges".to_owned() } else { "may get new privileges".to_owned() }
    }));
    let limits = [("nofile", rights.nofile), ("nproc", rights.nproc), ("core", rights.core)];
    words.extend(limits.iter().filter_map(|(name, limit)| Some(format!("{name} {}", (*limit)?))));
    words.join(", ")
}

fn signature(method: &MethodInfo) -> String {
    let stream =
        |yes: bool, name: &str| if yes { format!("stream {}", last(name)) } else { last(name).to_owned() };
    let input = stream(method.kind.client_streams(), &method.input);
    let output = stream(method.kind.server_streams(), &method.output);
    format!("{}({input}) returns ({output})", method.name)
}

fn last(name: &str) -> &str {
    name.rsplit('.').next().unwrap_or(name)
}

fn render(
    service: &Shown<'_>,
    instances: &[&Instance],
    known: &Known<'_>,
    schema: &Schema,
    limit: Option<usize>,
) -> String {
    let mut out = format!("{}\n", service.name);
    let logs = (!service.logs.is_empty())
        .then(|| format!("has logs of what has ended: {}", service.logs.join(", ")));
    for line in service.status.map(state_in_words).into_iter().chain(logs) {
        out.push_str(&paragraph(&format!("  {line}"), limit));
    }
    for instance in instances {
        let version = if instance.version.is_empty() { "-" } else { &instance.version };
        let line = format!("  {}  {}  {version}", instance.id, instance.endpoint);
        out.push_str(&paragraph(&line, limit));
        let Some(known) = known.get(instance.id.as_str()) else { continue };
        let told =
            [known.rights.as_option().map(in_words), known.probe_failure.as_option().map(fault_in_words)];
        for line in told.into_iter().flatten() {
            out.push_str(&paragraph(&format!("    {line}"), limit));
        }
    }
    for rpc in &schema.services {
        out.push_str(&format!("\nservice {}\n", rpc.name));
        for method in &rpc.methods {
            out.push_str(&paragraph(&format!("  {}", signature(method)), limit));
        }
        for message in schema.mentioned(rpc) {
            out.push_str(&format!("\nmessage {message}\n"));
            let rows: Vec<_> = schema.messages[message]
                .iter()
                .map(|field| vec![format!("  {}", field.number), field.name.clone(), field.kind.clone()])
                .collect();
            if rows.is_empty() {
                out.push_str("  (no fields)\n");
            }
            // The table's own header has no use here.
            let table = output::table(&["", "", ""], &rows, limit);
            for line in table.lines().skip(1) {
                out.push_str(line);
                out.push('\n');
            }
        }
    }
    for (name, values) in &schema.enums {
        out.push_str(&format!("\nenum {name}\n{}", paragraph(&format!("  {}", values.join(", ")), limit)));
    }
    out
}

/// What is set in, further where it goes on.
fn paragraph(text: &str, limit: Option<usize>) -> String {
    output::wrap(text, limit, 4).join("\n") + "\n"
}

fn to_json(
    service: &Shown<'_>,
    instances: &[&Instance],
    known: &Known<'_>,
    schema: &Schema,
) -> serde_json::Value {
    let instance = |instance: &&Instance| {
        let mut value = json!(instance);
        let known = known.get(instance.id.as_str());
        let rights = known.and_then(|known| known.rights.as_option());
        let failure = known.and_then(|known| known.probe_failure.as_option());
        value["rights"] = json!(rights.map(status::rights));
        value["probe_failure"] = json!(failure.map(status::probe_failure));
        value
    };
    let instances: Vec<_> = instances.iter().map(instance).collect();
    let kind = |kind: Kind| serde_json::to_value(kind).unwrap_or_default();
    let rpc: Vec<_> = schema
        .services
        .iter()
        .map(|rpc| {
            let methods: Vec<_> = rpc
                .methods
                .iter()
                .map(
                    |m| json!({ "name": m.name, "kind": kind(m.kind), "input": m.input, "output": m.output }),
                )
                .collect();
            json!({ "name": rpc.name, "methods": methods })
        })
        .collect();
    let messages: serde_json::Map<String, serde_json::Value> = schema
        .messages
        .iter()
        .map(|(name, fields)| {
            let fields: Vec<_> = fields
                .iter()
                .map(|f| json!({ "number": f.number, "name": f.name, "type": f.kind }))
                .collect();
            (name.clone(), json!(fields))
        })
        .collect();
    json!({
        "service": service.name, "state": service.status.map(|status| &status.state),
        "reason": service.status.map(|status| &status.reason), "logs": service.logs,
        "instances": instances, "rpc": rpc, "messages": messages, "enums": schema.enums,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_state_of_a_service_is_said_in_words() {
        let mut service =
            pb::ServiceStatus { state: "ready".into(), ready: 2, wanted: 2, ..Default::default() };
        assert_eq!(state_in_words(&service), "is ready, 2 of 2 ready");
        (service.state, service.wanted, service.reason) = ("kept".into(), 0, "it goes on as it is".into());
        assert_eq!(state_in_words(&service), "is kept: it goes on as it is");
    }

    #[test]
    fn how_often_a_probe_failed_and_when_is_said_only_where_it_is_known() {
        let mut failure = pb::ProbeFailure { reason: "no route".into(), ..Default::default() };
        assert_eq!(fault_in_words(&failure), "fails its probe: no route");
        failure.in_row = 1;
        assert!(fault_in_words(&failure).ends_with(" no route (once, last at 1970-01-01 00:00:00 UTC)"));
        failure.in_row = 2;
        assert!(fault_in_words(&failure).contains("(2 times in a row, last at "));
    }
}
