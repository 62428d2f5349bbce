//! `limits`: how a service defends itself against more calls than it can answer. What each means is said
//! where it is done, in `formic-server`; here they are read, each fault with who set it.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::{Map, Value, json};

use super::{Reader, show};
use crate::Error;
use crate::suggest::nearest;

/// The keys of the table.
pub(crate) const KEYS: [&str; 9] =
    ["adaptive", "min_in_flight", "max_in_flight", "queue", "memory", "idle", "priority", "exempt", "rate"];

/// The keys of one rate limit.
const RATE: [&str; 4] = ["by", "per_second", "burst", "methods"];

/// More than any machine answers at a time.
const MOST: u64 = 10_000_000;

/// The limits of a service.
#[derive(Clone, Debug, PartialEq)]
pub struct Limits {
    /// Whether the number of calls worked on at a time follows from how their latency grows with it.
    pub adaptive: bool,
    /// The adaptive limit does not fall below this.
    pub min_in_flight: usize,
    /// Calls in flight in all; more are refused.
    pub max_in_flight: usize,
    /// Calls that may wait for their turn.
    pub queue: usize,
    /// What all multiplexed connections together may hold, in bytes.
    pub memory: usize,
    /// A multiplexed connection without a call for so long is closed.
    pub idle: Duration,
    /// The metadata that says a call's priority.
    pub priority: String,
    /// Methods that the adaptive limit leaves alone: `/package.Service/Method` or `/package.Service/*`.
    pub exempt: Vec<String>,
    /// Rate limits by their names.
    pub rate: BTreeMap<String, RateLimit>,
}

/// One rate limit.
#[derive(Clone, Debug, PartialEq)]
pub struct RateLimit {
    /// What is counted separately: `all`, `peer`, or `metadata:` and a name.
    pub by: String,
    /// Calls a second in the long run.
    pub per_second: f64,
    /// Calls at once after a pause.
    pub burst: u32,
    /// Which methods count; all, if empty.
    pub methods: Vec<String>,
}

impl Default for Limits {
    fn default() -> Self {
        // The server's own defaults, where their reasons are.
        Self {
            adaptive: true,
            min_in_flight: 4,
            max_in_flight: 16_384,
            queue: 1024,
            memory: 512 << 20,
            idle: Duration::from_secs(3600),
            priority: "formic-priority".into(),
            exempt: Vec::new(),
            rate: BTreeMap::new(),
        }
    }
}

impl Limits {
    pub(super) fn to_value(&self) -> Value {
        let rates = self.rate.iter().map(|(name, rate)| {
            let rate = json!({
                "by": rate.by, "per_second": rate.per_second, "burst": rate.burst, "methods": rate.methods,
            });
            (name.clone(), rate)
        });
        json!({
            "adaptive": self.adaptive, "min_in_flight": self.min_in_flight, "max_in_flight": self.max_in_flight,
            "queue": self.queue, "memory": show_size(self.memory), "idle": show(self.idle), "priority": self.priority, "exempt": self.exempt,
            "rate": Value::Object(rates.collect()),
        })
    }

    pub(super) fn take(&mut self, read: &mut Reader<'_>) {
        let Some(table) = read.table("limits") else { return };
        read.known("limits", &table, &KEYS);
        if let Some(adaptive) = read.boolean("limits.adaptive") {
            self.adaptive = adaptive;
        }
        for (key, field) in [
            ("limits.min_in_flight", &mut self.min_in_flight),
            ("limits.max_in_flight", &mut self.max_in_flight),
            ("limits.queue", &mut self.queue),
        ] {
            if let Some(number) = read.count(key) {
                *field = usize::try_from(number).unwrap_or(usize::MAX);
            }
        }
        if let Some(memory) = read.size("limits.memory") {
            self.memory = memory;
        }
        if let Some(idle) = read.duration("limits.idle") {
            self.idle = idle;
        }
        if let Some(name) = read.text("limits.priority").filter(|name| read.header("limits.priority", name)) {
            self.priority = name;
        }
        self.exempt = read.patterns("limits.exempt");
        self.rate.clear();
        for name in read.table("limits.rate").unwrap_or_default().keys() {
            if let Some(rate) = rate(read, name) {
                self.rate.insert(name.clone(), rate);
            }
        }
    }
}

fn rate(read: &mut Reader<'_>, name: &str) -> Option<RateLimit> {
    let path = format!("limits.rate.{name}");
    if name.is_empty() || !name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte)) {
        read.wrong("limits.rate", format!("expected names of letters, digits, - and _, got {name:?}"));
        return None;
    }
    let table = read.table(&path)?;
    read.known(&path, &table, &RATE);
    let at = |key: &str| format!("{path}.{key}");
    let by = read.text(&at("by")).unwrap_or_else(|| "all".into());
    match by.strip_prefix("metadata:") {
        Some(header) => {
            if !read.header(&at("by"), header) {
                return None;
            }
        }
        None if by == "all" || by == "peer" => {}
        None => {
            read.wrong(&at("by"), format!("expected all, peer or metadata:NAME, got {by:?}"));
            return None;
        }
    }
    let per_second = match table.get("per_second").map(|value| (value.as_f64(), value)) {
        Some((Some(number), _)) if number > 0.0 && number <= 1e9 => number,
        Some((_, value)) => {
            read.wrong(&at("per_second"), format!("expected a number above 0, got {value}"));
            return None;
        }
        None => {
            let hint = "a rate limit says how many calls a second it allows".to_owned();
            read.faults.push(Error::Missing { key: at("per_second"), hint });
            return None;
        }
    };
    let burst = match read.count(&at("burst")) {
        Some(burst) => u32::try_from(burst).unwrap_or(u32::MAX).max(1),
        // A second's worth: callers seldom come evenly.
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "between 1 and 1e9")]
        None => per_second.ceil() as u32,
    };
    Some(RateLimit { by, per_second, burst, methods: read.patterns(&at("methods")) })
}

impl Reader<'_> {
    fn table(&mut self, path: &str) -> Option<Map<String, Value>> {
        match self.get(path)? {
            Value::Object(table) => Some(table.clone()),
            other => {
                let expected = format!("expected a table, got {other}");
                self.wrong(path, expected);
                None
            }
        }
    }

    fn known(&mut self, path: &str, table: &Map<String, Value>, known: &[&str]) {
        for key in table.keys().filter(|key| !known.contains(&key.as_str())) {
            let near = nearest(key, known.iter().copied());
            let key = format!("{path}.{key}");
            let origin = self.layers.source(&key).to_string();
            let hint = near.map(|near| format!(", did you mean `{near}`?")).unwrap_or_default();
            self.faults.push(Error::Key { key, hint, origin });
        }
    }

    fn boolean(&mut self, path: &str) -> Option<bool> {
        match self.get(path)? {
            Value::Bool(yes) => Some(*yes),
            other => {
                let expected = format!("expected true or false, got {other}");
                self.wrong(path, expected);
                None
            }
        }
    }

    fn count(&mut self, path: &str) -> Option<u64> {
        match self.get(path)? {
            Value::Number(number) if number.as_u64().is_some_and(|number| number <= MOST) => number.as_u64(),
            other => {
                let expected = format!("expected a number from 0 to {MOST}, got {other}");
                self.wrong(path, expected);
                None
            }
        }
    }

    fn size(&mut self, path: &str) -> Option<usize> {
        let text = self.text(path)?;
        let size = size(&text);
        if size.is_none() {
            let expected = format!("expected a size of at least 1MiB, such as 64MiB or 1GiB, got {text:?}");
            self.wrong(path, expected);
        }
        size
    }

    fn header(&mut self, path: &str, name: &str) -> bool {
        let valid = !name.is_empty()
            && name
                .bytes()
                .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"-_.".contains(&byte));
        if !valid {
            self.wrong(path, format!("expected the name of metadata, in lower case, got {name:?}"));
        }
        valid
    }

    fn patterns(&mut self, path: &str) -> Vec<String> {
        let list = match self.get(path) {
            None => return Vec::new(),
            Some(Value::Array(list)) => list.clone(),
            Some(other) => {
                let expected = format!("expected a list of methods, got {other}");
                self.wrong(path, expected);
                return Vec::new();
            }
        };
        let mut patterns = Vec::new();
        for item in list {
            match item.as_str().filter(|text| *text == "*" || text.starts_with('/')) {
                Some(text) => patterns.push(text.to_owned()),
                None => {
                    self.wrong(
                        path,
                        format!("expected /package.Service/Method, /package.Service/* or *, got {item}"),
                    );
                }
            }
        }
        patterns
    }
}

/// What sizes are written in; the smallest is the least that a server can do with.
const UNITS: [(&str, usize); 2] = [("GiB", 1 << 30), ("MiB", 1 << 20)];

fn size(text: &str) -> Option<usize> {
    let text = text.trim();
    let (number, unit) = UNITS.iter().find_map(|(name, unit)| Some((text.strip_suffix(name)?, unit)))?;
    number.trim_end().parse::<usize>().ok().filter(|number| *number > 0)?.checked_mul(*unit)
}

fn show_size(bytes: usize) -> String {
    let fits = UNITS.iter().find(|(_, unit)| bytes.is_multiple_of(*unit));
    fits.map_or_else(|| bytes.to_string(), |(name, unit)| format!("{}{name}", bytes / unit))
}

#[cfg(test)]
mod tests {
    use formic_core::ServiceName;

    use super::*;
    use crate::{ServiceSettings, Source, read_service};

    fn read(manifest: &str, env: &str) -> Result<ServiceSettings, Error> {
        let name = ServiceName::new("order").expect("valid");
        let env = [("FORMIC_LIMITS".to_owned(), env.to_owned())];
        let env = env.into_iter().filter(|(_, text)| !text.is_empty());
        read_service(&name, |_| {}, Some(manifest), env, std::iter::once("--explain".into()))
    }

    const MANIFEST: &str = r#"
[service.order.limits]
queue = 7
memory = "64MiB"
idle = "5m"
exempt = ["/shop.Order/Watch"]
[service.order.limits.rate.user]
by = "metadata:x-user"
per_second = 2.5
[service.order.limits.rate.all]
per_second = 100
burst = 1000
methods = ["/shop.Order/*"]
"#;

    #[test]
    fn limits_come_from_every_layer_and_are_explained() {
        let settings = read(MANIFEST, r#"{"adaptive":false,"rate":{"user":{"burst":9}}}"#).expect("valid");
        let limits = &settings.limits;
        assert_eq!((limits.adaptive, limits.queue, limits.max_in_flight), (false, 7, 16_384));
        assert_eq!(limits.exempt, ["/shop.Order/Watch"]);
        assert_eq!((limits.memory, limits.idle), (64 << 20, Duration::from_secs(300)));
        let user = &limits.rate["user"];
        assert_eq!((user.by.as_str(), user.per_second, user.burst), ("metadata:x-user", 2.5, 9));
        let all = &limits.rate["all"];
        assert_eq!((all.by.as_str(), all.burst, all.methods.len()), ("all", 1000, 1));
        let source = Source::Environment("FORMIC_LIMITS".into());
        assert_eq!(settings.layers().source("limits.adaptive"), source);
        assert_eq!(settings.layers().source("limits.rate.user.burst"), source);
        assert_eq!(settings.layers().source("limits.min_in_flight"), Source::Default);
        assert_eq!(settings.layers().source("limits.queue").to_string(), "formic.toml:3");
        let text = settings.explanation().expect("asked for");
        assert!(text.contains("limits.rate.all.burst") && text.contains("limits.queue"), "{text}");
        let burst = read("[service.order.limits.rate.a]\nper_second = 2.5\n", "").expect("valid").limits;
        assert_eq!(burst.rate["a"].burst, 3, "a second's worth");
        assert_eq!(read("", "").expect("valid").limits, Limits::default());
    }

    #[test]
    fn every_fault_is_said() {
        let wrong = r#"{"adaptiv":true,"adaptive":"no","queue":-1,"min_in_flight":1.5,"priority":"X Y",
            "exempt":["Watch"],"rate":{"a":{"per_second":0},"b":{},"c":{"per_second":1,"by":"phone"},
            "d":{"per_second":1,"brust":2},"e e":{"per_second":1}}}"#;
        let text = read("", wrong).expect_err("wrong").to_string();
        for part in [
            "limits.adaptiv`, did you mean `adaptive`",
            "limits.adaptive",
            "limits.queue",
            "limits.min_in_flight",
            "limits.priority",
            "/package.Service/Method",
            "limits.rate.a.per_second",
            "limits.rate.b.per_second` is missing",
            "limits.rate.c.by",
            "did you mean `burst`",
            "e e",
            "FORMIC_LIMITS",
        ] {
            assert!(text.contains(part), "{part} in\n{text}");
        }
        let text = read("[service.order.limits]\nqeue = 1\n", "").expect_err("wrong").to_string();
        assert!(text.contains("did you mean `queue`") && text.contains("formic.toml:2"), "{text}");
    }
}
