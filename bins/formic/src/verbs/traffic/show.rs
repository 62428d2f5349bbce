//! What callers see, for people and for programs. Where a table does not fit, each endpoint gets a few short lines.

use std::collections::BTreeMap;

use formic_api::control::v1 as pb;
use formic_client::Traffic;
use serde_json::{Value, json};

use crate::output;

/// A column: its head, and its cell for an endpoint.
type Column = (&'static str, fn(&pb::EndpointTraffic) -> String);

const COLUMNS: [Column; 10] = [
    ("INSTANCE", |e| e.instance.clone()),
    ("ADDRESS", |e| e.endpoint.clone()),
    ("ZONE", |e| e.zone.clone()),
    ("VERSION", |e| e.version.clone()),
    ("WEIGHT", |e| if e.weight == 1.0 { String::new() } else { e.weight.to_string() }),
    ("IN FLIGHT", |e| e.in_flight.to_string()),
    ("EWMA", |e| latency(e.latency_ms)),
    ("SUCCESS", success),
    ("STATE", |e| e.state.clone()),
    ("BY", |e| if e.transport.is_empty() { NOTHING.into() } else { e.transport.clone() }),
];

/// What stands in the place of a value that there is not.
const NOTHING: &str = "-";

/// What is seen, within a terminal's width if there is one.
pub(super) fn render(service: &str, seen: &pb::TrafficResponse, limit: Option<usize>) -> String {
    let mut out = Vec::new();
    if seen.callers.is_empty() && seen.silent.is_empty() {
        let nobody = format!("no service and no gateway has called {service} yet");
        // Whoever tries a service by hand looks here next.
        out.extend(wrap(&nobody, limit));
        out.extend(wrap("calls of `formic call` end with it and are not counted here", limit));
    }
    for caller in &seen.callers {
        if !out.is_empty() {
            out.push(String::new());
        }
        let name = caller.caller.as_option().map(|caller| caller.instance.as_str()).unwrap_or_default();
        out.extend(wrap(&format!("{name} calls {service}: {}", policy(&caller.policy)), limit));
        let left = caller.retries_left.floor();
        out.extend(wrap(&format!("budget: {left} further attempts left"), limit));
        if !same(&caller.policy, &caller.wanted) {
            out.extend(wrap(
                "note: this is not the manifest's policy: its code has set another, or it has not heard yet",
                limit,
            ));
        }
        out.extend(caller.notes.iter().flat_map(|note| wrap(&format!("note: {note}"), limit)));
        if caller.endpoints.is_empty() {
            out.push(format!("no instance of {service} is known"));
        } else {
            out.extend(endpoints(&caller.endpoints, limit));
        }
    }
    for silent in &seen.silent {
        out.extend(wrap(&format!("{} did not answer in time", silent.instance), limit));
    }
    out.join("\n")
}

fn endpoints(endpoints: &[pb::EndpointTraffic], limit: Option<usize>) -> Vec<String> {
    // What says nothing of anybody needs no column.
    let columns: Vec<&Column> = COLUMNS
        .iter()
        .filter(|(_, cell)| endpoints.iter().any(|e| !matches!(cell(e).as_str(), "" | NOTHING)))
        .collect();
    let header: Vec<&str> = columns.iter().map(|(head, _)| *head).collect();
    let rows: Vec<Vec<String>> =
        endpoints.iter().map(|endpoint| columns.iter().map(|(_, cell)| cell(endpoint)).collect()).collect();
    let table = output::table(&header, &rows, None);
    let fits = |limit: usize| table.lines().all(|line| line.chars().count() <= limit);
    if limit.is_none_or(fits) {
        let mut out: Vec<String> = table.lines().map(str::to_owned).collect();
        let why = endpoints.iter().filter_map(|e| Some(format!("{}: {}", e.instance, reason(e)?)));
        out.extend(why.flat_map(|why| wrap(&why, limit)));
        return out;
    }
    endpoints.iter().flat_map(|endpoint| block(endpoint, limit)).collect()
}

/// An endpoint below one another.
fn block(e: &pb::EndpointTraffic, limit: Option<usize>) -> Vec<String> {
    let mut out = wrap(&format!("{} {}", e.instance, e.state), limit);
    let mut facts = vec![e.endpoint.clone()];
    facts.extend((!e.transport.is_empty()).then(|| format!("by {}", e.transport)));
    facts.push(format!("{} in flight", e.in_flight));
    facts.push(format!("EWMA {}", latency(e.latency_ms)));
    facts.extend(Some(success(e)).filter(|text| !text.is_empty()));
    facts.extend((!e.zone.is_empty()).then(|| format!("zone {}", e.zone)));
    facts.extend((!e.version.is_empty()).then(|| format!("version {}", e.version)));
    facts.extend((e.weight != 1.0).then(|| format!("weight {}", e.weight)));
    facts.extend(reason(e));
    let within = limit.map(|limit| limit.saturating_sub(2));
    out.extend(wrap(&facts.join(", "), within).into_iter().map(|line| format!("  {line}")));
    out
}

/// Why it gets no calls, and until when.
fn reason(e: &pb::EndpointTraffic) -> Option<String> {
    if e.reason.is_empty() {
        return None;
    }
    let probe = match e.probe_in.as_str() {
        "" | "0s" | "0ms" => "probed by the next call".to_owned(),
        wait => format!("probed in {wait}"),
    };
    let times = if e.ejections > 1 { format!(", out {} times in a row", e.ejections) } else { String::new() };
    Some(format!("{}; {probe}{times}", e.reason))
}

fn latency(ms: f64) -> String {
    match ms {
        ms if ms <= 0.0 => NOTHING.into(),
        ms if ms < 10.0 => format!("{ms:.2}ms"),
        ms if ms < 1000.0 => format!("{ms:.0}ms"),
        ms => format!("{:.1}s", ms / 1000.0),
    }
}

fn success(e: &pb::EndpointTraffic) -> String {
    let share = |rate: f64| {
        // 99.96 % is not all.
        let percent = (rate * 1000.0).floor() / 10.0;
        format!("{percent}% of {}", e.calls)
    };
    e.success_rate.map(share).unwrap_or_default()
}

/// A policy in a line: its name, and what else is not as by default.
fn policy(text: &str) -> String {
    let default = serde_json::to_value(Traffic::default()).unwrap_or_default();
    let Ok(Value::Object(all)) = serde_json::from_str::<Value>(text) else { return "no policy".into() };
    let name = all.get("policy").and_then(Value::as_str).unwrap_or("p2c");
    let mut out = vec![format!("policy {name}")];
    // By name: whether a map keeps its order is for the build to say.
    let all: BTreeMap<&String, &Value> = all.iter().collect();
    let differs = |(key, value): &(&String, &Value)| *key != "policy" && default.get(*key) != Some(*value);
    for (key, value) in all.into_iter().filter(differs) {
        match (key.as_str(), value.as_array()) {
            ("rules", Some(rules)) => {
                let names = rules.iter().filter_map(|rule| rule.get("name")?.as_str());
                out.push(format!("rules {}", names.collect::<Vec<_>>().join(", ")));
            }
            _ => out.push(format!("{key} {}", short(value, default.get(key)))),
        }
    }
    out.join("; ")
}

/// A value; of a table only what is not as by default.
fn short(value: &Value, default: Option<&Value>) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Object(fields) => {
            let differs =
                |(key, value): &(&String, &Value)| default.and_then(|d| d.get(*key)) != Some(*value);
            let inner = |(key, value): (&String, &Value)| {
                format!("{key} {}", short(value, default.and_then(|default| default.get(key))))
            };
            let mut all: Vec<String> = fields.iter().filter(differs).map(inner).collect();
            all.sort_unstable();
            format!("({})", all.join(", "))
        }
        other => other.to_string(),
    }
}

/// Whether a policy is what the manifest wants; nothing there is the default.
fn same(policy: &str, wanted: &str) -> bool {
    let read = |text: &str| serde_json::from_str::<Traffic>(if text.is_empty() { "{}" } else { text }).ok();
    read(policy) == read(wanted)
}

fn wrap(text: &str, limit: Option<usize>) -> Vec<String> {
    output::wrap(text, limit, 0)
}

/// The same for programs.
pub(super) fn to_json(service: &str, seen: &pb::TrafficResponse) -> Value {
    let parsed = |text: &str| serde_json::from_str::<Value>(text).unwrap_or(Value::Null);
    let endpoint = |e: &pb::EndpointTraffic| {
        let measured = (e.latency_ms > 0.0).then_some(e.latency_ms);
        json!({
            "instance": e.instance, "endpoint": e.endpoint, "zone": e.zone, "version": e.version,
            "weight": e.weight, "in_flight": e.in_flight, "latency_ms": measured, "calls": e.calls,
            "success_rate": e.success_rate, "state": e.state, "reason": e.reason, "probe_in": e.probe_in,
            "ejections": e.ejections, "transport": e.transport,
        })
    };
    let name = |caller: &pb::Caller| json!({ "instance": caller.instance, "service": caller.service });
    let caller = |c: &pb::CallerTraffic| {
        json!({
            "caller": c.caller.as_option().map(name), "local": c.local, "policy": parsed(&c.policy),
            "wanted": same(&c.policy, &c.wanted), "retries_left": c.retries_left, "notes": c.notes,
            "panic": c.panic, "fit": c.fit, "counted": c.counted,
            "endpoints": c.endpoints.iter().map(endpoint).collect::<Vec<_>>(),
        })
    };
    json!({
        "service": service, "wanted": parsed(&seen.wanted),
        "callers": seen.callers.iter().map(caller).collect::<Vec<_>>(),
        "silent": seen.silent.iter().map(name).collect::<Vec<_>>(),
    })
}

#[cfg(test)]
mod tests;
