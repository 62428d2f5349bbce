//! What a manifest says beside its services. It travels with the desired state, so that a rollback brings
//! it back too.

use formic_spec::{Manifest, Route};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::exit::{Failure, Outcome};

/// The gateway's side of a desired state, and what cannot be enforced of it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Facts {
    /// Where the gateway answers; empty without one.
    pub(crate) gateway: String,
    /// What it lets in.
    pub(crate) exposed: Vec<String>,
    /// What it passes on as plain HTTP.
    #[serde(default)]
    pub(crate) routes: Vec<Route>,
    /// What the manifest asks for and this version does not do, in words, so that nobody relies on it.
    pub(crate) notes: Vec<String>,
}

impl Facts {
    pub(crate) fn of(manifest: &Manifest) -> Self {
        let gateway = manifest.gateway.as_ref();
        Self {
            gateway: gateway.map(|gateway| format!("http://{}", gateway.listen)).unwrap_or_default(),
            exposed: gateway.map(|gateway| gateway.expose.clone()).unwrap_or_default(),
            routes: manifest.routes.clone(),
            notes: notes(manifest),
        }
    }

    /// What came with a desired state; before the first there is nothing.
    pub(crate) fn from_tag(tag: &Value) -> Self {
        Self::deserialize(tag).unwrap_or_default()
    }

    /// For a desired state.
    pub(crate) fn tag(&self) -> Outcome<Value> {
        serde_json::to_value(self)
            .map_err(|error| Failure::bug("the facts of a manifest do not encode").because(error))
    }
}

fn notes(manifest: &Manifest) -> Vec<String> {
    let mut notes = Vec::new();
    for service in &manifest.services {
        let asked: Vec<&str> = [
            service.resources.memory.as_ref().map(|_| "memory"),
            service.resources.cpu.as_ref().map(|_| "cpu"),
            service.resources.pids.as_ref().map(|_| "pids"),
        ]
        .into_iter()
        .flatten()
        .collect();
        if !asked.is_empty() {
            notes.push(format!(
                "{}: unenforced ({}: limits come with cgroups)",
                service.name,
                asked.join(", ")
            ));
        }
    }
    notes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn facts_travel_with_the_desired_state() {
        let text = "[app]\nname = 'shop'\n[gateway]\nlisten = '127.0.0.1:1'\nexpose = ['a']\n\
                    [route.'/x']\nservice = 'a'\n[service.a]\ncargo = 'a'\nresources = { memory = '1MiB' }\n";
        let facts = Facts::of(&Manifest::parse(text, "formic.toml").expect("a manifest"));
        assert_eq!((facts.gateway.as_str(), facts.exposed.len()), ("http://127.0.0.1:1", 1));
        assert_eq!(facts.routes[0].service, "a");
        assert_eq!(facts.notes, ["a: unenforced (memory: limits come with cgroups)"]);
        assert_eq!(Facts::from_tag(&facts.tag().expect("encodes")), facts);
        assert_eq!(Facts::from_tag(&Value::Null), Facts::default());
    }
}
