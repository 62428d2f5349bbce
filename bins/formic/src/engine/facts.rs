//! What a manifest says beside its services. It travels with the desired state, so that a rollback brings
//! it back too.

mod changes;

use std::collections::BTreeMap;

use formic_spec::{Manifest, Route};
use formic_supervise::{Containment, Features, Limits, Unenforced};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::desired::limits;
use super::vault::Vault;
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
    /// How services are called, by their names; checked. Callers are told while they run.
    #[serde(default)]
    pub(crate) traffic: BTreeMap<String, Value>,
    /// How many instances those services had that were stopped.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) stopped: BTreeMap<String, u32>,
    /// What the manifest asks for and this version does not do, in words, so that nobody relies on it.
    pub(crate) notes: Vec<String>,
}

impl Facts {
    pub(crate) fn of(manifest: &Manifest, features: &Features, vault: &Vault) -> Self {
        let mut facts = Self::bare(manifest, features);
        facts.notes.extend(unseen(manifest, features));
        facts.notes.extend(vault.note(manifest));
        facts
    }

    fn bare(manifest: &Manifest, features: &Features) -> Self {
        let gateway = manifest.gateway.as_ref();
        Self {
            gateway: gateway.map(|gateway| format!("http://{}", gateway.listen)).unwrap_or_default(),
            exposed: gateway.map(|gateway| gateway.expose.clone()).unwrap_or_default(),
            routes: manifest.routes.clone(),
            traffic: manifest.traffic.clone(),
            stopped: BTreeMap::new(),
            notes: notes(manifest, |limits| features.unenforced(limits)),
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

/// What of the services' limits is not enforced on this machine, in words, so that nobody relies on it.
fn notes(manifest: &Manifest, unenforced: impl Fn(&Limits) -> Vec<Unenforced>) -> Vec<String> {
    let mut notes = Vec::new();
    for service in &manifest.services {
        let missing = unenforced(&limits(&service.resources));
        if !missing.is_empty() {
            let missing: Vec<String> = missing.iter().map(ToString::to_string).collect();
            notes.push(format!("{}: unenforced ({})", service.name, missing.join(", ")));
        }
    }
    notes
}

/// Processes of another user that leave the session of their instance cannot be found where there is no cgroup and this engine
/// may not read the marks of others, as in many containers.
fn unseen(manifest: &Manifest, features: &Features) -> Vec<String> {
    if features.containment != Containment::Session || formic_supervise::sees_others() {
        return Vec::new();
    }
    let others = manifest.services.iter().filter(|service| service.privileges.user.is_some());
    let note = |name: &str| {
        format!(
            "{name}: what leaves its session is not found (no cgroup, and without CAP_SYS_PTRACE no look at other users)"
        )
    };
    others.map(|service| note(&service.name)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn facts_travel_with_the_desired_state() {
        let text = "[app]\nname = 'shop'\n[gateway]\nlisten = '127.0.0.1:1'\nexpose = ['a']\n\
                    [route.'/x']\nservice = 'a'\n[service.a]\ncargo = 'a'\nresources = { memory = '1MiB' }\n\
                    [service.a.traffic]\npolicy = 'random'\n";
        let bare = Features::detect().expect("the machine's").masked(["cgroup"]);
        let facts = Facts::bare(&Manifest::parse(text, "formic.toml").expect("a manifest"), &bare);
        assert_eq!((facts.gateway.as_str(), facts.exposed.len()), ("http://127.0.0.1:1", 1));
        assert_eq!(facts.routes[0].service, "a");
        assert_eq!(facts.traffic["a"]["policy"], "random");
        assert_eq!(facts.notes.len(), 1);
        assert!(facts.notes[0].starts_with("a: unenforced (memory: "), "{:?}", facts.notes);
        assert_eq!(Facts::from_tag(&facts.tag().expect("encodes")), facts);
        assert_eq!(Facts::from_tag(&Value::Null), Facts::default());
    }
}
