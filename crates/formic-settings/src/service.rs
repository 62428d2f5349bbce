//! The settings of a service, and where each may come from.

use std::collections::BTreeMap;
use std::time::Duration;

use formic_core::ServiceName;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value, json};

use crate::Error;
use crate::flags::{self, scalar};
use crate::layers::{Layers, Source};

/// The bounds of a drain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Drain {
    /// How long the news of the deregistration may take to spread.
    pub propagation: Duration,
    /// How long calls in flight may take.
    pub grace: Duration,
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
    /// `local`, `mdns` or `memory`; by default the daemon's if there is one, else mDNS.
    pub registry: Option<String>,
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
    layers: Layers,
    print: Option<String>,
}

impl Default for ServiceSettings {
    fn default() -> Self {
        Self {
            listen: "127.0.0.1:0".into(),
            advertise: None,
            daemon: None,
            registry: None,
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
            },
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
        let table = self.layers.tree().get("config").cloned().unwrap_or_else(|| json!({}));
        serde_json::from_value(table).map_err(|error| {
            let text = error.to_string();
            // serde names the field in backticks where it can; that leads to who set it.
            let field = text.split('`').nth(1).unwrap_or_default();
            let key = if field.is_empty() { "config".into() } else { format!("config.{field}") };
            Error::Value { origin: self.layers.source(&key).to_string(), key, expected: text }
        })
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
            "listen": self.listen, "advertise": self.advertise, "daemon": self.daemon, "registry": self.registry,
            "instance": self.instance, "version": self.version, "data_dir": self.data_dir, "labels": self.labels,
            "log": self.log, "log_format": self.log_format, "timeout": show(self.timeout),
            "drain": { "propagation": show(self.drain.propagation), "grace": show(self.drain.grace) },
        });
        match value {
            Value::Object(tree) => tree,
            _ => Map::new(),
        }
    }

    fn take(&mut self, layers: Layers) -> Result<(), Error> {
        let read = Reader(&layers);
        self.listen = read.text("listen")?.unwrap_or_default();
        self.advertise = read.text("advertise")?;
        self.daemon = read.text("daemon")?;
        self.registry = read.text("registry")?;
        self.instance = read.text("instance")?;
        self.version = read.text("version")?;
        self.data_dir = read.text("data_dir")?;
        self.log = read.text("log")?.unwrap_or_default();
        self.log_format = read.text("log_format")?.unwrap_or_default();
        self.timeout = read.duration("timeout")?.unwrap_or(self.timeout);
        self.drain.propagation = read.duration("drain.propagation")?.unwrap_or(self.drain.propagation);
        self.drain.grace = read.duration("drain.grace")?.unwrap_or(self.drain.grace);
        if let Some(Value::Object(labels)) = layers.tree().get("labels") {
            let text = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
            self.labels = labels.iter().map(|(name, value)| (name.clone(), text(value))).collect();
        }
        self.layers = layers;
        Ok(())
    }
}

struct Reader<'a>(&'a Layers);

impl Reader<'_> {
    fn get(&self, path: &str) -> Option<&Value> {
        let mut parts = path.split('.');
        let first = self.0.tree().get(parts.next()?)?;
        parts.try_fold(first, |value, part| value.get(part)).filter(|value| !value.is_null())
    }

    fn wrong(&self, path: &str, expected: &str) -> Error {
        Error::Value { key: path.into(), expected: expected.into(), origin: self.0.source(path).to_string() }
    }

    fn text(&self, path: &str) -> Result<Option<String>, Error> {
        match self.get(path) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text.clone())),
            Some(other) => Err(self.wrong(path, &format!("expected text, got {other}"))),
        }
    }

    fn duration(&self, path: &str) -> Result<Option<Duration>, Error> {
        let Some(text) = self.text(path)? else { return Ok(None) };
        let at = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
        let scale = match &text[at..] {
            "ms" => 0.001,
            "s" => 1.0,
            "m" => 60.0,
            _ => f64::NAN,
        };
        let seconds = text[..at].parse::<f64>().unwrap_or(f64::NAN) * scale;
        if (0.0..=86_400.0).contains(&seconds) {
            Ok(Some(Duration::from_secs_f64(seconds)))
        } else {
            Err(self.wrong(path, &format!("expected a duration such as 250ms, 5s or 1m, got {text:?}")))
        }
    }
}

fn show(duration: Duration) -> String {
    if duration.subsec_millis() == 0 {
        format!("{}s", duration.as_secs())
    } else {
        format!("{}ms", duration.as_millis())
    }
}

/// Variables that are one setting each.
const VARIABLES: [(&str, &str); 10] = [
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
];

/// Keys of a manifest's service that a service reads itself; the others are the engine's.
const OURS: [&str; 9] =
    ["listen", "advertise", "registry", "labels", "log", "log_format", "timeout", "drain", "config"];

/// Reads the settings of a service; everything it looks at is handed in.
///
/// # Errors
/// The first fault, with its source.
pub fn read_service(
    name: &ServiceName,
    code: impl FnOnce(&mut ServiceSettings),
    manifest: Option<&str>,
    env: impl Iterator<Item = (String, String)>,
    args: impl Iterator<Item = String>,
) -> Result<ServiceSettings, Error> {
    let mut settings = ServiceSettings::default();
    let mut layers = Layers::default();
    let defaults = settings.to_tree();
    layers.lay(&defaults, &Source::Default);
    code(&mut settings);
    let changed =
        settings.to_tree().into_iter().filter(|(key, value)| defaults.get(key) != Some(value)).collect();
    layers.lay(&changed, &Source::Code);
    if let Some(text) = manifest {
        lay_manifest(&mut layers, name, text)?;
    }
    lay_environment(&mut layers, env)?;
    let asked = flags::lay(&mut layers, args)?;
    settings.take(layers)?;
    if asked.help {
        settings.print = Some(flags::help(name.as_str()));
    } else if asked.explain {
        settings.print = Some(table(&settings.layers));
    }
    Ok(settings)
}

fn lay_manifest(layers: &mut Layers, name: &ServiceName, text: &str) -> Result<(), Error> {
    const FILE: &str = "formic.toml";
    let parsed: toml::Table =
        toml::from_str(text).map_err(|error| Error::File { file: FILE.into(), reason: error.to_string() })?;
    let Some(service) = parsed.get("service").and_then(|all| all.get(name.as_str())) else { return Ok(()) };
    let value = serde_json::to_value(service)
        .map_err(|error| Error::File { file: FILE.into(), reason: error.to_string() })?;
    if let Value::Object(mut table) = value {
        table.retain(|key, _| OURS.contains(&key.as_str()));
        layers.lay(&table, &Source::File(format!("{FILE} [service.{name}]")));
    }
    Ok(())
}

fn lay_environment(layers: &mut Layers, env: impl Iterator<Item = (String, String)>) -> Result<(), Error> {
    // Sorted, so that FORMIC_CONFIG comes before the single keys that refine it.
    let env: BTreeMap<String, String> = env.filter(|(name, _)| name.starts_with("FORMIC_")).collect();
    for (name, text) in &env {
        let source = Source::Environment(name.clone());
        if let Some((_, key)) = VARIABLES.iter().find(|(variable, _)| variable == name) {
            layers.set(key, Value::String(text.clone()), &source);
        } else if name == "FORMIC_CONFIG" {
            let table = serde_json::from_str(text)
                .map_err(|error| Error::Variable { name: name.clone(), reason: error.to_string() })?;
            layers.lay(&Map::from_iter([("config".to_owned(), Value::Object(table))]), &source);
        } else if let Some(path) = name.strip_prefix("FORMIC_CONFIG__") {
            let path = path.to_ascii_lowercase().replace("__", ".");
            layers.set(&format!("config.{path}"), scalar(text), &source);
        }
    }
    Ok(())
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
/// The first fault, with its source.
pub fn load_service(
    name: &ServiceName,
    code: impl FnOnce(&mut ServiceSettings),
    env: impl Iterator<Item = (String, String)>,
    args: impl Iterator<Item = String>,
) -> Result<ServiceSettings, Error> {
    let env: Vec<(String, String)> = env.collect();
    // Under the engine the manifest was read by the engine, and its values come by the environment.
    let managed = env.iter().any(|(variable, _)| variable == "FORMIC_DAEMON");
    let manifest = if managed { None } else { std::fs::read_to_string("formic.toml").ok() };
    read_service(name, code, manifest.as_deref(), env.into_iter(), args)
}

#[cfg(test)]
mod tests;
