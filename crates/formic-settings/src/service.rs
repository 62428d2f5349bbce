//! The settings of a service, and where each may come from.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use formic_core::{Endpoint, ServiceName};
use serde::de::DeserializeOwned;
use serde_json::{Map, Value, json};

use crate::addresses::{self, Addresses, PREFIX};
use crate::layers::{Layers, Source, is_secret, join};
use crate::typed::Typed;
use crate::{Error, file, flags, whole};

mod limits;

pub(crate) use limits::KEYS as LIMITS;
pub use limits::{Limits, RateLimit};

/// The bounds of a drain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Drain {
    /// How long the news of the deregistration may take to spread.
    pub propagation: Duration,
    /// How long calls in flight may take.
    pub grace: Duration,
    /// How long streams of answers may go on, within the grace.
    pub streams: Duration,
}

/// What a service is told from outside.
#[derive(Clone, Debug)]
pub struct ServiceSettings {
    /// Where to listen. Loopback until configured otherwise.
    pub listen: String,
    /// The address that others call, where it differs.
    pub advertise: Option<String>,
    /// The daemon, `unix:/path`.
    pub daemon: Option<String>,
    /// `local`, `mdns`, `memory` or `static`; by default the daemon's if there is one, else mDNS.
    pub registry: Option<String>,
    /// Where services are, for the registry `static`.
    pub addresses: Addresses,
    /// The id of this instance; made up if nobody gives one.
    pub instance: Option<String>,
    /// What was deployed.
    pub version: Option<String>,
    /// Where state is kept.
    pub data_dir: Option<String>,
    /// Labels of the instance: zone, weight, what rules may ask for.
    pub labels: BTreeMap<String, String>,
    /// Log filter.
    pub log: String,
    /// Log format.
    pub log_format: String,
    /// Deadline of a call without one.
    pub timeout: Duration,
    /// The bounds of the drain.
    pub drain: Drain,
    /// How it defends itself against more calls than it can answer.
    pub limits: Limits,
    /// `auto`, or `http`: what is spoken to this service, and by it.
    pub transport: String,
    /// What counts for calls that the service makes.
    pub client: ClientSettings,
    layers: Layers,
    print: Option<String>,
}

/// What counts for calls that a service makes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ClientSettings {
    /// `auto`, `http`, or `multiplexed` for endpoints that do not announce it too; else as the service's.
    pub transport: Option<String>,
    /// A folder that multiplexed connections are recorded in.
    pub capture: Option<String>,
}

impl Default for ServiceSettings {
    fn default() -> Self {
        Self {
            listen: "127.0.0.1:0".into(),
            advertise: None,
            daemon: None,
            registry: None,
            addresses: Addresses::new(),
            instance: None,
            version: None,
            data_dir: None,
            labels: BTreeMap::new(),
            log: "info".into(),
            log_format: "auto".into(),
            // A person waits no longer.
            timeout: Duration::from_secs(5),
            drain: Drain {
                // Registries here push; this covers a watcher that is being scheduled.
                propagation: Duration::from_millis(100),
                // Within the engine's own default of 30 s, so that the service ends before it is killed.
                grace: Duration::from_secs(20),
                streams: Duration::from_secs(5),
            },
            limits: Limits::default(),
            transport: "auto".into(),
            client: ClientSettings::default(),
            layers: Layers::default(),
            print: None,
        }
    }
}

impl ServiceSettings {
    /// The author's own settings, read from the `config` table.
    ///
    /// # Errors
    /// `Value`, naming the key and who set it.
    pub fn config<T: DeserializeOwned>(&self) -> Result<T, Error> {
        let empty = json!({});
        let table = self.layers.tree().get("config").unwrap_or(&empty);
        T::deserialize(Typed::new(&self.layers, table, "config")).map_err(|fault| {
            let path = fault.path.unwrap_or_else(|| "config".into());
            if let Some(field) = fault.missing {
                let (key, inner) = (join(&path, field), join(path.trim_start_matches("config"), field));
                let inner = inner.trim_start_matches('.');
                let variable = inner.to_ascii_uppercase().replace('.', "__");
                let hint = format!(
                    "give it in `config` of formic.toml, as FORMIC_CONFIG__{variable} or by --set {inner}=…"
                );
                return Error::Missing { key, hint };
            }
            let expected = if is_secret(&path) { fault.hidden } else { fault.shown };
            Error::Value { origin: self.layers.source(&path).to_string(), key: path, expected }
        })
    }

    /// How services are called, `client.<name>.traffic`, as a type that floors above know; what it finds wrong
    /// with a value is a key within it and a text.
    ///
    /// # Errors
    /// Every fault, naming the key and who set it.
    pub fn clients<T: DeserializeOwned>(
        &self,
        check: impl Fn(&T) -> Vec<(String, String)>,
    ) -> Result<BTreeMap<ServiceName, T>, Error> {
        let (mut clients, mut faults) = (BTreeMap::new(), Vec::new());
        let Some(Value::Object(all)) = self.layers.tree().get("client") else { return Ok(clients) };
        for (name, client) in all {
            let path = format!("client.{name}");
            let origin = || self.layers.source(&path).to_string();
            let Ok(service) = ServiceName::new(name) else {
                let expected = format!("{name:?} cannot be the name of a service");
                faults.push(Error::Value { key: path.clone(), expected, origin: origin() });
                continue;
            };
            for key in client.as_object().into_iter().flat_map(Map::keys).filter(|key| *key != "traffic") {
                let key = join(&path, key);
                faults.push(Error::Key { origin: origin(), key, hint: ", did you mean `traffic`?".into() });
            }
            let Some(traffic) = client.get("traffic") else { continue };
            let typed = whole::read(&self.layers, traffic, &join(&path, "traffic"), &check, &mut faults);
            typed.into_iter().for_each(|typed| drop(clients.insert(service.clone(), typed)));
        }
        Error::of(faults).map_or(Ok(clients), Err)
    }

    /// What `--explain` or `--help` shall print instead of running, if one of them was asked for.
    #[must_use]
    pub fn explanation(&self) -> Option<String> {
        self.print.clone()
    }

    /// Every setting and who set it.
    #[must_use]
    pub fn layers(&self) -> &Layers {
        &self.layers
    }

    fn to_tree(&self) -> Map<String, Value> {
        let value = json!({
            "listen": self.listen, "advertise": self.advertise, "daemon": self.daemon, "registry": self.registry, "addresses": self.addresses,
            "instance": self.instance, "version": self.version, "data_dir": self.data_dir, "labels": self.labels,
            "log": self.log, "log_format": self.log_format, "timeout": show(self.timeout),
            "drain": {
                "propagation": show(self.drain.propagation), "grace": show(self.drain.grace),
                "streams": show(self.drain.streams),
            },
            "limits": self.limits.to_value(),
            "transport": self.transport,
            "client": { "transport": self.client.transport, "capture": self.client.capture },
        });
        match value {
            Value::Object(tree) => tree,
            _ => Map::new(),
        }
    }

    fn take(&mut self, layers: Layers, faults: &mut Vec<Error>) {
        let mut read = Reader { layers: &layers, faults };
        self.listen = read.address("listen").unwrap_or_default();
        self.advertise = read.address("advertise");
        self.daemon = read.address("daemon");
        (self.registry, self.addresses) = read.registry();
        self.instance = read.text("instance");
        self.version = read.text("version");
        self.data_dir = read.text("data_dir");
        self.log = read.text("log").unwrap_or_default();
        self.log_format = read.word("log_format", &["auto", "pretty", "json"]).unwrap_or_default();
        self.timeout = read.duration("timeout").unwrap_or(self.timeout);
        self.drain.propagation = read.duration("drain.propagation").unwrap_or(self.drain.propagation);
        self.drain.grace = read.duration("drain.grace").unwrap_or(self.drain.grace);
        self.drain.streams = read.duration("drain.streams").unwrap_or(self.drain.streams);
        self.labels = read.labels();
        self.limits.take(&mut read);
        self.transport = read.word("transport", &["auto", "http"]).unwrap_or_default();
        self.client.transport = read.word("client.transport", &["auto", "http", "multiplexed"]);
        self.client.capture = read.text("client.capture");
        self.layers = layers;
    }
}

/// The registries that can be chosen.
const REGISTRIES: [&str; 4] = ["local", "mdns", "memory", "static"];

fn is_empty(value: &Value) -> bool {
    value.as_object().is_some_and(Map::is_empty)
}

/// Reads one setting after the other; what is wrong is noted.
struct Reader<'a> {
    layers: &'a Layers,
    faults: &'a mut Vec<Error>,
}

impl Reader<'_> {
    fn get(&self, path: &str) -> Option<&Value> {
        let mut parts = path.split('.');
        let first = self.layers.tree().get(parts.next()?)?;
        parts.try_fold(first, |value, part| value.get(part)).filter(|value| !value.is_null())
    }

    fn wrong(&mut self, path: &str, expected: String) {
        let origin = self.layers.source(path).to_string();
        self.faults.push(Error::Value { key: path.into(), expected, origin });
    }

    fn text(&mut self, path: &str) -> Option<String> {
        match self.get(path)? {
            Value::String(text) => Some(text.clone()),
            other => {
                let expected = format!("expected text, got {other}");
                self.wrong(path, expected);
                None
            }
        }
    }

    fn word(&mut self, path: &str, words: &[&str]) -> Option<String> {
        let text = self.text(path)?;
        if words.contains(&text.as_str()) {
            return Some(text);
        }
        self.wrong(path, format!("expected {}, got {text:?}", words.join(", ")));
        None
    }

    /// The registry, and what the static one knows: what its text says lies over the table.
    fn registry(&mut self) -> (Option<String>, Addresses) {
        let mut known = self.addresses();
        let inline = self.get("registry").and_then(Value::as_str).and_then(|text| text.strip_prefix(PREFIX));
        match inline.map(addresses::parse) {
            None => {}
            Some(Ok(inline)) => {
                known.extend(inline);
                return (Some("static".into()), known);
            }
            Some(Err(reason)) => {
                self.wrong("registry", format!("expected {}, but {reason}", addresses::SHAPE));
                return (None, known);
            }
        }
        let registry = self.word("registry", &REGISTRIES);
        if registry.as_deref() == Some("static")
            && known.is_empty()
            && self.get("addresses").is_none_or(is_empty)
        {
            let expected = "`static` knows no service: give the table `addresses`";
            self.wrong("registry", format!("{expected}, or write {}", addresses::SHAPE));
        }
        (registry, known)
    }

    fn addresses(&mut self) -> Addresses {
        let table = match self.get("addresses") {
            None => return Addresses::new(),
            Some(Value::Object(table)) => table.clone(),
            Some(other) => {
                let expected = format!("expected a table of services and addresses, got {other}");
                self.wrong("addresses", expected);
                return Addresses::new();
            }
        };
        let mut known = Addresses::new();
        for (name, value) in table {
            match addresses::entry(&name, &value) {
                Ok((name, endpoints)) => {
                    known.insert(name, endpoints);
                }
                Err(expected) => self.wrong(&format!("addresses.{name}"), expected),
            }
        }
        known
    }

    fn address(&mut self, path: &str) -> Option<String> {
        let text = self.text(path)?;
        if text.parse::<Endpoint>().is_ok() {
            return Some(text);
        }
        self.wrong(path, format!("expected an address such as 127.0.0.1:4000 or unix:/path, got {text:?}"));
        None
    }

    fn duration(&mut self, path: &str) -> Option<Duration> {
        let text = self.text(path)?;
        let duration = duration(&text);
        if duration.is_none() {
            self.wrong(path, format!("expected a duration such as 250ms, 5s or 1m30s, got {text:?}"));
        }
        duration
    }

    fn labels(&mut self) -> BTreeMap<String, String> {
        let mut labels = BTreeMap::new();
        let table = match self.get("labels") {
            None => return labels,
            Some(Value::Object(table)) => table.clone(),
            Some(other) => {
                let expected = format!("expected a table of names and texts, got {other}");
                self.wrong("labels", expected);
                return labels;
            }
        };
        for (name, value) in table {
            match value {
                Value::String(text) => {
                    labels.insert(name, text);
                }
                Value::Number(_) | Value::Bool(_) => {
                    labels.insert(name, value.to_string());
                }
                other => self.wrong(&format!("labels.{name}"), format!("expected text, got {other}")),
            }
        }
        labels
    }
}

/// Numbers with their units, one after the other, up to a day.
fn duration(text: &str) -> Option<Duration> {
    const UNITS: [(&str, f64); 4] = [("ms", 0.001), ("s", 1.0), ("m", 60.0), ("h", 3600.0)];
    let (mut rest, mut seconds) = (text.trim(), 0.0);
    if rest.is_empty() {
        return None;
    }
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(rest.len());
        let (number, after) = rest.split_at(digits);
        let letters = after.find(|c: char| !c.is_ascii_alphabetic()).unwrap_or(after.len());
        let (unit, after) = after.split_at(letters);
        let scale = UNITS.iter().find(|(name, _)| *name == unit)?.1;
        seconds += number.parse::<f64>().ok()? * scale;
        rest = after;
    }
    (0.0..=86_400.0).contains(&seconds).then(|| Duration::from_secs_f64(seconds))
}

fn show(duration: Duration) -> String {
    if duration.subsec_millis() == 0 {
        format!("{}s", duration.as_secs())
    } else {
        format!("{}ms", duration.as_millis())
    }
}

/// Variables that are one setting each.
const VARIABLES: [(&str, &str); 16] = [
    ("FORMIC_LISTEN", "listen"),
    ("FORMIC_ADVERTISE", "advertise"),
    ("FORMIC_DAEMON", "daemon"),
    ("FORMIC_REGISTRY", "registry"),
    ("FORMIC_INSTANCE", "instance"),
    ("FORMIC_VERSION", "version"),
    ("FORMIC_DATA_DIR", "data_dir"),
    ("FORMIC_LOG", "log"),
    ("FORMIC_LOG_FORMAT", "log_format"),
    ("FORMIC_TIMEOUT", "timeout"),
    ("FORMIC_DRAIN_GRACE", "drain.grace"),
    ("FORMIC_DRAIN_PROPAGATION", "drain.propagation"),
    ("FORMIC_DRAIN_STREAMS", "drain.streams"),
    ("FORMIC_TRANSPORT", "transport"),
    ("FORMIC_CLIENT_TRANSPORT", "client.transport"),
    ("FORMIC_CLIENT_CAPTURE", "client.capture"),
];

/// Variables that hold a JSON object each.
const TABLES: [(&str, &str); 5] = [
    ("FORMIC_ADDRESSES", "addresses"),
    ("FORMIC_CLIENT", "client"),
    ("FORMIC_CONFIG", "config"),
    ("FORMIC_LABELS", "labels"),
    ("FORMIC_LIMITS", "limits"),
];

/// Reads the settings of a service; everything it looks at is handed in.
///
/// # Errors
/// Every fault, with its source.
pub fn read_service(
    name: &ServiceName,
    code: impl FnOnce(&mut ServiceSettings),
    manifest: Option<&str>,
    env: impl Iterator<Item = (String, String)>,
    args: impl Iterator<Item = String>,
) -> Result<ServiceSettings, Error> {
    let mut settings = ServiceSettings::default();
    let mut layers = Layers::default();
    let mut faults = Vec::new();
    let defaults = settings.to_tree();
    layers.lay(&defaults, &Source::Default);
    code(&mut settings);
    layers.lay(&changes(&defaults, settings.to_tree()), &Source::Code);
    if let Some(text) = manifest {
        file::lay(&mut layers, name, text, &mut faults);
    }
    lay_environment(&mut layers, env, &mut faults);
    let asked = flags::lay(&mut layers, args, &mut faults);
    settings.take(layers, &mut faults);
    if asked.help {
        // Whoever asks for help gets it, however wrong the rest is.
        settings.print = Some(flags::help(name.as_str()));
        return Ok(settings);
    }
    if asked.explain {
        settings.print = Some(table(&settings.layers));
    }
    Error::of(faults).map_or(Ok(settings), Err)
}

/// What is not as it was, so that a default next to a change stays one.
fn changes(before: &Map<String, Value>, after: Map<String, Value>) -> Map<String, Value> {
    let change = |(key, value): (String, Value)| match (before.get(&key), value) {
        (Some(old), new) if *old == new => None,
        (Some(Value::Object(old)), Value::Object(new)) => Some((key, Value::Object(changes(old, new)))),
        (_, new) => Some((key, new)),
    };
    after.into_iter().filter_map(change).collect()
}

fn lay_environment(
    layers: &mut Layers,
    env: impl Iterator<Item = (String, String)>,
    faults: &mut Vec<Error>,
) {
    // Sorted, so that FORMIC_CONFIG comes before the single keys that refine it.
    let env: BTreeMap<String, String> = env.filter(|(name, _)| name.starts_with("FORMIC_")).collect();
    for (name, text) in &env {
        let source = Source::Environment(name.clone());
        if let Some((_, key)) = VARIABLES.iter().find(|(variable, _)| variable == name) {
            layers.set(key, Value::String(text.clone()), &source);
        } else if let Some((_, key)) = TABLES.iter().find(|(variable, _)| variable == name) {
            match serde_json::from_str(text) {
                Ok(table) => layers.set(key, Value::Object(table), &source),
                // serde_json says where, and for a wrong type also what, which may be a secret.
                Err(error) => faults.push(Error::Variable {
                    name: name.clone(),
                    reason: format!("expected a JSON object, see column {}", error.column()),
                }),
            }
        } else if let Some(path) = name.strip_prefix("FORMIC_CONFIG__") {
            let path = path.to_ascii_lowercase().replace("__", ".");
            layers.set(&format!("config.{path}"), flags::words(text), &source);
        }
    }
}

fn table(layers: &Layers) -> String {
    let rows = layers.explain();
    let width = |of: fn(&(String, String)) -> usize, cells: &[(String, String)]| {
        cells.iter().map(of).max().unwrap_or(0)
    };
    let cells: Vec<(String, String)> = rows
        .iter()
        .map(|row| {
            let value = match &row.value {
                Value::Null => "-".to_owned(),
                Value::String(text) => text.clone(),
                other => other.to_string(),
            };
            (row.key.clone(), value)
        })
        .collect();
    let (keys, values) = (width(|c| c.0.len(), &cells), width(|c| c.1.len(), &cells));
    let mut out = format!("{:keys$}  {:values$}  SET BY\n", "SETTING", "VALUE");
    for ((key, value), row) in cells.iter().zip(&rows) {
        out.push_str(&format!("{key:keys$}  {value:values$}  {}\n", row.source));
    }
    out
}

/// Reads the settings of this process: `formic.toml` in the present folder, and what is handed in.
///
/// # Errors
/// Every fault, with its source.
pub fn load_service(
    name: &ServiceName,
    code: impl FnOnce(&mut ServiceSettings),
    env: impl Iterator<Item = (String, String)>,
    args: impl Iterator<Item = String>,
) -> Result<ServiceSettings, Error> {
    let env: Vec<(String, String)> = env.collect();
    // Under the engine the manifest was read by the engine, and its values come by the environment.
    let managed = env.iter().any(|(variable, _)| variable == "FORMIC_DAEMON");
    let manifest = if managed { None } else { read_manifest(Path::new(file::FILE))? };
    read_service(name, code, manifest.as_deref(), env.into_iter(), args)
}

/// The text of a manifest; none if there is none.
fn read_manifest(path: &Path) -> Result<Option<String>, Error> {
    match std::fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        // Whoever wrote it wants it to be heeded.
        Err(error) => Err(Error::File { file: file::FILE.into(), reason: error.to_string() }),
    }
}

#[cfg(test)]
mod tests;
