//! What changes from one desired state to another, field by field.
//!
//! Made from the serialised form, so that a field that a later version adds is shown without a word here.

use std::collections::{BTreeMap, BTreeSet};

use formic_plan::Service;
use formic_settings::is_secret;
use serde::Serialize;
use serde_json::Value;

mod masked;

use masked::masked;
pub use masked::without_passwords;

/// What stands for a value that nobody is to read.
const HIDDEN: &str = "(hidden)";
/// What stands for such a value where it differs from another one.
pub const HIDDEN_CHANGED: &str = "(hidden, changed)";

/// What happens to a service.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ChangeKind {
    /// It was not there.
    Added,
    /// It is not there any more.
    Removed,
    /// It is another.
    Changed,
}

/// The changes of one service.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ServiceChange {
    /// Its name.
    pub service: String,
    /// What happens to it.
    pub change: ChangeKind,
    /// Of a changed one each field that differs, of an added one each that is set.
    pub fields: Vec<FieldChange>,
}

/// A field that differs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct FieldChange {
    /// Its place, such as `replicas` or `env.LOG`.
    pub field: String,
    /// What it was; empty if it was not there.
    pub from: String,
    /// What it becomes; empty if it is not there any more.
    pub to: String,
}

// === impl ChangeKind ===

impl ChangeKind {
    /// The word for it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Added => "added",
            Self::Removed => "removed",
            Self::Changed => "changed",
        }
    }
}

/// What changes, in the order of the names.
#[must_use]
pub fn diff(old: &[Service], new: &[Service]) -> Vec<ServiceChange> {
    let by_name = |services: &[Service]| -> BTreeMap<String, Service> {
        services.iter().map(|service| (service.name.clone(), service.clone())).collect()
    };
    let (old, new) = (by_name(old), by_name(new));
    let names: BTreeSet<&String> = old.keys().chain(new.keys()).collect();
    let change = |name: &String| {
        let (from, to) = (old.get(name), new.get(name));
        let change = match (from, to) {
            (Some(from), Some(to)) if from == to => return None,
            (Some(_), Some(_)) => ChangeKind::Changed,
            (None, _) => ChangeKind::Added,
            (Some(_), None) => ChangeKind::Removed,
        };
        let fields = if to.is_none() { Vec::new() } else { fields(from, to) };
        Some(ServiceChange { service: name.clone(), change, fields })
    };
    names.into_iter().filter_map(change).collect()
}

fn fields(from: Option<&Service>, to: Option<&Service>) -> Vec<FieldChange> {
    let (from, to) = (flat(from), flat(to));
    let names: BTreeSet<&String> = from.keys().chain(to.keys()).collect();
    names
        .into_iter()
        .filter(|name| from.get(*name) != to.get(*name))
        .map(|name| {
            let shown = |values: &BTreeMap<String, String>, hidden: &str| match values.get(name) {
                Some(_) if is_hidden(name) => hidden.to_owned(),
                Some(value) => masked(value),
                None => String::new(),
            };
            let hidden = if from.contains_key(name) { HIDDEN_CHANGED } else { HIDDEN };
            let (from, mut to) = (shown(&from, HIDDEN), shown(&to, hidden));
            if from == to && !to.is_empty() {
                // They differ in nothing that may be read.
                to = format!("{to} {HIDDEN_CHANGED}");
            }
            FieldChange { field: name.clone(), from, to }
        })
        .collect()
}

/// Names that may hold what nobody else should read.
fn is_hidden(name: &str) -> bool {
    // Which versions of which secrets a service is given: no values.
    !name.starts_with("secrets.") && is_secret(name)
}

/// Every field that says something, by its place as a manifest has it.
fn flat(service: Option<&Service>) -> BTreeMap<String, String> {
    let mut out = BTreeMap::new();
    let Some(service) = service else { return out };
    let Ok(Value::Object(mut fields)) = serde_json::to_value(service) else { return out };
    fields.remove("name");
    // The same as `health.deadline`.
    fields.remove("ready_within");
    if let Some(grace) = fields.remove("grace") {
        leaf("stop.grace", &grace, &mut out);
    }
    fields.remove("revision");
    // A part of the revision by its whole hash: it says nothing that the other fields do not.
    fields.remove("process");
    out.insert("revision".into(), service.revision.short().to_owned());
    if let Some(Value::Object(start)) = fields.remove("start") {
        for (name, value) in start {
            if name == "stop_signal" {
                leaf("stop.signal", &value, &mut out);
            } else if let ("privileges", Value::Object(fields)) = (name.as_str(), &value) {
                // Keys of the service itself, where people write them.
                fields.iter().for_each(|(name, value)| leaf(name, value, &mut out));
            } else if name != "system" {
                leaf(&name, &value, &mut out);
            }
        }
    }
    for (name, value) in fields {
        leaf(&name, &value, &mut out);
    }
    out
}

fn leaf(place: &str, value: &Value, out: &mut BTreeMap<String, String>) {
    match value {
        Value::Null => {}
        Value::Object(fields) => {
            for (name, value) in fields {
                leaf(&format!("{place}.{name}"), value, out);
            }
        }
        // The service's own settings travel as one text.
        Value::String(text) if place == "env.FORMIC_CONFIG" => match serde_json::from_str::<Value>(text) {
            Ok(config @ Value::Object(_)) => leaf("config", &config, out),
            _ => drop(out.insert(place.into(), text.clone())),
        },
        // So does how it calls others.
        Value::String(text) if place == "env.FORMIC_CLIENT" => match serde_json::from_str::<Value>(text) {
            Ok(calls @ Value::Object(_)) => leaf("client", &calls, out),
            _ => drop(out.insert(place.into(), text.clone())),
        },
        Value::String(text) => drop(out.insert(place.into(), text.clone())),
        Value::Array(values) if values.is_empty() => {}
        other => drop(out.insert(place.into(), other.to_string())),
    }
}

#[cfg(test)]
mod tests {
    use formic_spec::{HumanDuration, Revision};
    use serde_json::json;

    use super::*;

    fn service(name: &str, revision: u32, replicas: u32, start: Value) -> Service {
        Service {
            name: name.into(),
            revision: Revision::of(&json!(revision)),
            replicas,
            process: None,
            depends_on: Vec::new(),
            conditions: Default::default(),
            dependents: Default::default(),
            update: Default::default(),
            job: None,
            cron: None,
            sets: None,
            completed: false,
            ready_within: HumanDuration::from_secs(60),
            grace: HumanDuration::from_secs(30),
            start,
        }
    }

    #[test]
    fn the_same_is_no_change() {
        let services = [service("order", 1, 2, json!({ "env": { "A": "1" } }))];
        assert_eq!(diff(&services, &services), []);
    }

    #[test]
    fn each_field_that_differs_is_named_and_secrets_are_hidden() {
        let config = |limit: u32| json!({ "limit": limit, "token": format!("{limit}") }).to_string();
        let start = |level: &str, limit| {
            json!({ "env": { "LOG": level, "FORMIC_CONFIG": config(limit), "DB_PASSWORD": level },
                    "privileges": { "user": level, "ulimits": { "nofile": limit } }, "args": [], "system": false, "health": { "path": "/x" } })
        };
        let old = [service("order", 1, 2, start("info", 1)), service("user", 1, 1, Value::Null)];
        let new = [service("order", 2, 3, start("debug", 2)), service("pay", 1, 1, json!({ "port": 80 }))];
        let changes = diff(&old, &new);
        let shown: Vec<String> = changes[0]
            .fields
            .iter()
            .filter(|field| field.field != "revision")
            .map(|field| format!("{}: {} > {}", field.field, field.from, field.to))
            .collect();
        assert_eq!(
            shown,
            [
                "config.limit: 1 > 2",
                "config.token: (hidden) > (hidden, changed)",
                "env.DB_PASSWORD: (hidden) > (hidden, changed)",
                "env.LOG: info > debug",
                "replicas: 2 > 3",
                "ulimits.nofile: 1 > 2",
                "user: info > debug",
            ]
        );
        let kinds: Vec<_> = changes.iter().map(|change| (change.service.as_str(), change.change)).collect();
        assert_eq!(
            kinds,
            [("order", ChangeKind::Changed), ("pay", ChangeKind::Added), ("user", ChangeKind::Removed)]
        );
        assert!(changes[1].fields.iter().any(|field| field.field == "port" && field.to == "80"));
        assert!(changes[2].fields.is_empty());
    }

    #[test]
    fn a_password_alone_that_changes_is_told_and_not_shown() {
        let of = |password: &str| {
            service(
                "order",
                1,
                1,
                json!({ "env": { "DB": format!("pg://u:{password}@h"), "KEY": password } }),
            )
        };
        let changes = diff(&[of("one")], &[of("two")]);
        let told = |field: &str| {
            let found = changes[0].fields.iter().find(|change| change.field == field);
            found.map(|change| (change.from.as_str(), change.to.as_str()))
        };
        assert_eq!(told("env.DB"), Some(("pg://u:(hidden)@h", "pg://u:(hidden)@h (hidden, changed)")));
        assert_eq!(told("env.KEY"), Some(("(hidden)", "(hidden, changed)")));
    }
}
