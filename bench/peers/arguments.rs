//! What the peers are told on their command lines.

use std::collections::HashMap;
use std::time::Duration;

use crate::load::Plan;

/// A verb, `serve` or `call`, and `--name value` pairs.
pub struct Arguments {
    verb: String,
    values: HashMap<String, String>,
}

impl Arguments {
    pub fn read() -> Result<Self, String> {
        let mut rest = std::env::args().skip(1);
        let verb = rest.next().filter(|verb| verb == "serve" || verb == "call");
        let verb = verb.ok_or("expected serve or call")?;
        let mut values = HashMap::new();
        while let Some(name) = rest.next() {
            let name = name.strip_prefix("--").ok_or_else(|| format!("{name:?} is no flag"))?.to_owned();
            let value = rest.next().ok_or_else(|| format!("--{name} needs a value"))?;
            values.insert(name, value);
        }
        Ok(Self { verb, values })
    }

    pub fn serves(&self) -> bool {
        self.verb == "serve"
    }

    pub fn get(&self, name: &str) -> Result<&str, String> {
        self.values.get(name).map(String::as_str).ok_or_else(|| format!("--{name} is missing"))
    }

    pub fn number(&self, name: &str) -> Result<usize, String> {
        self.get(name)?.parse().map_err(|error| format!("--{name}: {error}"))
    }

    pub fn plan(&self) -> Result<Plan, String> {
        let millis = |name| Ok::<_, String>(Duration::from_millis(self.number(name)? as u64));
        Ok(Plan {
            callers: self.number("callers")?,
            warm_up: millis("warm-up-ms")?,
            measured: millis("measured-ms")?,
        })
    }
}
