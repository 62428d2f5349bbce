//! What of `formic.toml` a service reads itself: its own section, each value with its line.
//!
//! The manifest as a whole is the engine's to check; here only the keys of this one service are looked
//! at, so that `cargo run` and the engine say the same of them.

use formic_core::ServiceName;
use serde_json::{Map, Value};
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use crate::Error;
use crate::layers::{Layers, Source};
use crate::service::LIMITS;
use crate::suggest::nearest;

/// Its name, in the present folder.
pub(crate) const FILE: &str = "formic.toml";

/// The version of the manifest that is understood.
const FORMAT: &str = "1";

/// Keys of a manifest's service that a service reads itself, with the inner keys of the tables among
/// them; a table without such a list takes any key.
const OURS: [(&str, &[&str]); 13] = [
    ("listen", &[]),
    ("advertise", &[]),
    ("registry", &[]),
    ("addresses", &[]),
    ("labels", &[]),
    ("log", &[]),
    ("log_format", &[]),
    ("timeout", &[]),
    ("drain", &["grace", "propagation", "streams"]),
    ("limits", &LIMITS),
    ("transport", &[]),
    (CLIENT, &["transport", "capture"]),
    ("config", &[]),
];

/// Keys that are the engine's.
const ENGINES: [&str; 24] = [
    "cargo",
    "command",
    "image",
    "args",
    "replicas",
    "depends_on",
    "env",
    "port",
    "health",
    "resources",
    "stop",
    "restart",
    "update",
    "cwd",
    "traffic",
    "sockets",
    "proxy",
    "secrets",
    "job",
    "cron",
    "user",
    "group",
    "ulimits",
    "no_new_privileges",
];

/// What a manifest says of the calls to a service.
const TRAFFIC: &str = "traffic";

/// Where a service says how it calls others, for all of them and for single ones.
const CLIENT: &str = "client";

/// Lays the section of a service over the settings.
pub(crate) fn lay(layers: &mut Layers, name: &ServiceName, text: &str, faults: &mut Vec<Error>) {
    let fault = |reason: String| Error::File { file: FILE.into(), reason };
    let root = match DeTable::parse(text) {
        Ok(root) => root.into_inner(),
        Err(error) => return faults.push(fault(error.to_string())),
    };
    if let Some(DeValue::Integer(format)) = root.get("format").map(Spanned::get_ref)
        && format.as_str() != FORMAT
    {
        let found = format.as_str();
        let reason = format!("it has format {found}, and this service was built for format {FORMAT}");
        return faults.push(fault(reason));
    }
    lay_clients(layers, &root, text, faults);
    let services = root.get("service").map(Spanned::get_ref);
    let Some(DeValue::Table(services)) = services else { return };
    let Some(DeValue::Table(section)) = services.get(name.as_str()).map(Spanned::get_ref) else { return };
    let mut file = Lines { text, layers, faults, section: format!("service.{name}") };
    let mut entries: Vec<_> = section.iter().collect();
    entries.sort_by_key(|(key, _)| key.span().start);
    for (key, value) in entries {
        let word = key.get_ref().as_ref();
        match OURS.iter().find(|(ours, _)| *ours == word) {
            Some((_, inner)) => file.put(&mut vec![word.to_owned()], value, inner),
            None if ENGINES.contains(&word) => {}
            None => file.unknown(word, key.span().start, OURS.map(|(ours, _)| ours).as_slice()),
        }
    }
}

/// How services are called: what stands at each of them, and over it what `[client.<name>]` says.
fn lay_clients(layers: &mut Layers, root: &DeTable<'_>, text: &str, faults: &mut Vec<Error>) {
    for above in ["service", "client"] {
        let Some(DeValue::Table(services)) = root.get(above).map(Spanned::get_ref) else { continue };
        for (name, section) in services {
            let DeValue::Table(section) = section.get_ref() else { continue };
            let name = name.get_ref().to_string();
            let mut file = Lines { text, layers, faults, section: format!("{above}.{name}") };
            if let Some(value) = section.get(TRAFFIC) {
                file.put(&mut vec!["client".into(), name, TRAFFIC.into()], value, &[]);
            }
            for (key, _) in section.iter().filter(|(key, _)| above == "client" && key.get_ref() != TRAFFIC) {
                file.unknown(key.get_ref(), key.span().start, &[TRAFFIC]);
            }
        }
    }
}

struct Lines<'a> {
    text: &'a str,
    layers: &'a mut Layers,
    faults: &'a mut Vec<Error>,
    section: String,
}

impl Lines<'_> {
    fn source(&self, offset: usize) -> Source {
        let line = self.text.get(..offset).unwrap_or_default().matches('\n').count() + 1;
        Source::File(format!("{FILE}:{line}"))
    }

    fn put(&mut self, path: &mut Vec<String>, value: &Spanned<DeValue<'_>>, known: &[&str]) {
        let source = self.source(value.span().start);
        let DeValue::Table(table) = value.get_ref() else {
            let value = self.json(value, &path.join("."));
            self.layers.set_at(path, value, &source);
            return;
        };
        if table.is_empty() {
            self.layers.set_at(path, Value::Object(Map::new()), &source);
        }
        for (key, value) in table {
            let word = key.get_ref().as_ref();
            path.push(word.to_owned());
            if known.is_empty() || known.contains(&word) {
                self.put(path, value, &[]);
            } else if let (CLIENT, DeValue::Table(called)) = (path[0].as_str(), value.get_ref()) {
                self.put_called(path, called);
            } else {
                self.unknown(&path.join("."), key.span().start, known);
            }
            path.pop();
        }
    }

    /// How this service calls one other, over what is said to everybody.
    fn put_called(&mut self, path: &mut Vec<String>, called: &DeTable<'_>) {
        for (key, value) in called {
            path.push(key.get_ref().to_string());
            if key.get_ref() == TRAFFIC {
                self.put(path, value, &[]);
            } else {
                self.unknown(&path.join("."), key.span().start, &[TRAFFIC]);
            }
            path.pop();
        }
    }

    fn unknown(&mut self, key: &str, offset: usize, known: &[&str]) {
        let word = key.rsplit('.').next().unwrap_or(key);
        let near = nearest(word, known.iter().copied());
        self.faults.push(Error::Key {
            key: format!("{}.{key}", self.section),
            hint: near.map(|near| format!(", did you mean `{near}`?")).unwrap_or_default(),
            origin: self.source(offset).to_string(),
        });
    }

    fn json(&mut self, value: &Spanned<DeValue<'_>>, path: &str) -> Value {
        let number = match value.get_ref() {
            DeValue::String(text) => return Value::from(text.as_ref()),
            DeValue::Boolean(yes) => return Value::from(*yes),
            DeValue::Datetime(at) => return Value::from(at.to_string()),
            DeValue::Array(items) => return items.iter().map(|item| self.json(item, path)).collect(),
            DeValue::Table(table) => {
                let entry = |(key, value): (&Spanned<std::borrow::Cow<'_, str>>, &Spanned<DeValue<'_>>)| {
                    (key.get_ref().to_string(), self.json(value, path))
                };
                return Value::Object(table.iter().map(entry).collect());
            }
            DeValue::Integer(number) => {
                i64::from_str_radix(number.as_str(), number.radix()).ok().map(Value::from)
            }
            DeValue::Float(number) => {
                let float = number.as_str().parse().ok().and_then(serde_json::Number::from_f64);
                float.map(Value::Number)
            }
        };
        number.unwrap_or_else(|| {
            self.faults.push(Error::Value {
                key: path.to_owned(),
                expected: "a number must be finite and of 64 bits".into(),
                origin: self.source(value.span().start).to_string(),
            });
            Value::Null
        })
    }
}
