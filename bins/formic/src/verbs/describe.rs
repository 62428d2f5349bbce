//! `formic describe`: methods, message fields and instances of a service.

use formic_core::{Instance, Kind};
use formic_settings::nearest;
use serde_json::json;

use crate::cli::Describe;
use crate::exit::{Failure, Outcome};
use crate::reflect::{MethodInfo, Schema};
use crate::verbs::services::instances;
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
    if args.listing.json {
        output::json(&to_json(first.service.as_str(), &found, &schema));
    } else {
        output::data(&render(first.service.as_str(), &found, &schema, output::limit()));
    }
    Ok(())
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

fn render(service: &str, instances: &[&Instance], schema: &Schema, limit: Option<usize>) -> String {
    let mut out = format!("{service}\n");
    for instance in instances {
        let version = if instance.version.is_empty() { "-" } else { &instance.version };
        let line = format!("  {}  {}  {version}", instance.id, instance.endpoint);
        out.push_str(&paragraph(&line, limit));
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

fn to_json(service: &str, instances: &[&Instance], schema: &Schema) -> serde_json::Value {
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
    json!({ "service": service, "instances": instances, "rpc": rpc, "messages": messages, "enums": schema.enums })
}
