//! The tree of values and the memory of who set each.

use std::collections::BTreeMap;
use std::fmt;

use serde::Serialize;
use serde_json::{Map, Value};

/// Who set a value.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case", tag = "layer", content = "at")]
pub enum Source {
    /// Built in.
    Default,
    /// The program.
    Code,
    /// A file, with the line if it is known.
    File(String),
    /// A variable of the environment.
    Environment(String),
    /// A flag of the command line.
    Flag(String),
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::Code => f.write_str("code"),
            Self::File(at) => write!(f, "{at}"),
            Self::Environment(name) => write!(f, "environment {name}"),
            Self::Flag(flag) => write!(f, "flag {flag}"),
        }
    }
}

/// One setting, explained.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Row {
    /// Path of the key, with dots.
    pub key: String,
    /// Its value; `***` for secrets.
    pub value: Value,
    /// Who set it.
    pub source: Source,
}

/// Values, each with its source.
#[derive(Clone, Debug, Default)]
pub struct Layers {
    tree: Map<String, Value>,
    sources: BTreeMap<String, Source>,
}

/// Keys that hold what must not be shown.
const SECRET: [&str; 7] = ["secret", "password", "passwd", "token", "key", "credential", "private"];

impl Layers {
    /// Lays a tree over the present one. Tables are merged, everything else is replaced.
    pub fn lay(&mut self, tree: &Map<String, Value>, source: &Source) {
        merge(&mut self.tree, tree, "", source, &mut self.sources);
    }

    /// Sets one value by its dotted path.
    pub fn set(&mut self, path: &str, value: Value, source: &Source) {
        let parts: Vec<String> = path.split('.').map(Into::into).collect();
        self.set_at(&parts, value, source);
    }

    /// Sets one value by the parts of its path.
    pub fn set_at(&mut self, path: &[String], value: Value, source: &Source) {
        let nested = path
            .iter()
            .rev()
            .fold(value, |value, part| Value::Object(Map::from_iter([(part.clone(), value)])));
        if let Value::Object(tree) = nested {
            self.lay(&tree, source);
        }
    }

    /// The merged tree.
    #[must_use]
    pub fn tree(&self) -> &Map<String, Value> {
        &self.tree
    }

    /// Who set a value: the nearest entry at or above its path.
    #[must_use]
    pub fn source(&self, path: &str) -> Source {
        let mut path = path;
        loop {
            if let Some(source) = self.sources.get(path) {
                return source.clone();
            }
            match path.rsplit_once('.') {
                Some((above, _)) => path = above,
                None => return Source::Default,
            }
        }
    }

    /// Every leaf with its value and source, sorted; secrets are hidden.
    #[must_use]
    pub fn explain(&self) -> Vec<Row> {
        let mut rows = Vec::new();
        self.walk(&self.tree, "", &mut rows);
        rows
    }

    fn walk(&self, tree: &Map<String, Value>, prefix: &str, rows: &mut Vec<Row>) {
        for (name, value) in tree {
            let key = join(prefix, name);
            match value {
                Value::Object(inner) if !inner.is_empty() => self.walk(inner, &key, rows),
                value => {
                    let hidden = !value.is_null() && is_secret(&key);
                    let value = if hidden { "***".into() } else { value.clone() };
                    rows.push(Row { source: self.source(&key), value, key });
                }
            }
        }
    }
}

/// Whether a value at this path, or of this name, is kept out of sight: one list for settings, manifests and arguments.
#[must_use]
pub fn is_secret(path: &str) -> bool {
    let path = path.to_ascii_lowercase();
    SECRET.iter().any(|secret| path.contains(secret))
}

pub(crate) fn join(prefix: &str, name: &str) -> String {
    if prefix.is_empty() { name.into() } else { format!("{prefix}.{name}") }
}

fn merge(
    below: &mut Map<String, Value>,
    above: &Map<String, Value>,
    prefix: &str,
    source: &Source,
    sources: &mut BTreeMap<String, Source>,
) {
    for (name, value) in above {
        let key = join(prefix, name);
        match (below.get_mut(name), value) {
            (Some(Value::Object(present)), Value::Object(new)) => merge(present, new, &key, source, sources),
            (_, Value::Object(new)) => {
                let mut inner = Map::new();
                merge(&mut inner, new, &key, source, sources);
                below.insert(name.clone(), Value::Object(inner));
                sources.insert(key, source.clone());
            }
            (_, value) => {
                below.insert(name.clone(), value.clone());
                sources.insert(key, source.clone());
            }
        }
    }
}
