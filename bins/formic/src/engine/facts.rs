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
    /// What single callers are told instead, by their names, whole.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) calls: BTreeMap<String, BTreeMap<String, Value>>,
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
            calls: manifest.calls.clone(),
            stopped: BTreeMap::new(),
            notes: manifest
                .notes()
                .into_iter()
                .chain(notes(manifest, |limits| features.unenforced(limits)))
                .collect(),
        }
    }

    /// How a caller calls services, by their names.
    pub(crate) fn traffic_of(&self, caller: &str) -> BTreeMap<String, Value> {
        let mut told = self.traffic.clone();
        told.extend(self.calls.get(caller).cloned().unwrap_or_default());
        told
    }

    /// What is noted as long as these services are there: of one that is gone nothing is unenforced or unseen, and where none is
    /// left nothing is to be relied on.
    pub(crate) fn notes_beside(self, services: &[&str]) -> Vec<String> {
        let is_there = |note: &String| {
            let of = [UNENFORCED, UNSEEN].iter().find_map(|about| note.split_once(about));
            of.is_none_or(|(service, _)| services.contains(&service))
        };
        if services.is_empty() { Vec::new() } else { self.notes.into_iter().filter(is_there).collect() }
    }

    /// What came with a desired state; before the first there is nothing.
    pub(crate) fn from_tag(tag: &Value) -> Self {
        Self::deserialize(tag).unwrap_or_default()
    }

    /// The present ones once this service is what it was in earlier ones: exposed or not, routed and called as it was then.
    fn bring_back(&mut self, earlier: &Self, service: &str) {
        self.exposed.retain(|name| name != service);
        self.exposed.extend(earlier.exposed.iter().filter(|name| *name == service).cloned());
        self.routes.retain(|route| route.service != service);
        let taken = |route: &&Route| self.routes.iter().any(|other| other.name == route.name);
        let own = earlier.routes.iter().filter(|route| route.service == service);
        let own: Vec<Route> = own.filter(|route| !taken(route)).cloned().collect();
        self.routes.extend(own);
        match earlier.traffic.get(service) {
            Some(policy) => drop(self.traffic.insert(service.to_owned(), policy.clone())),
            None => drop(self.traffic.remove(service)),
        }
        for calls in self.calls.values_mut() {
            calls.remove(service);
        }
        for (caller, calls) in &earlier.calls {
            if let Some(policy) = calls.get(service) {
                self.calls.entry(caller.clone()).or_default().insert(service.to_owned(), policy.clone());
            }
        }
        self.calls.retain(|_, calls| !calls.is_empty());
    }

    /// See [`formic_reconcile::WayBack`].
    pub(crate) fn way_back(present: &Value, earlier: &Value, service: &str) -> Value {
        let mut facts = Self::from_tag(present);
        facts.bring_back(&Self::from_tag(earlier), service);
        // What does not encode stays.
        facts.tag().unwrap_or_else(|_| present.clone())
    }

    /// For a desired state.
    pub(crate) fn tag(&self) -> Outcome<Value> {
        serde_json::to_value(self)
            .map_err(|error| Failure::bug("the facts of a manifest do not encode").because(error))
    }
}

/// Between a service's name and what of it is not enforced.
const UNENFORCED: &str = ": unenforced ";
/// Behind the name of a service of which not everything is found, before the reason.
const UNSEEN: &str = ": what leaves its session is not found ";

/// What of the services' limits is not enforced on this machine, in words, so that nobody relies on it.
fn notes(manifest: &Manifest, unenforced: impl Fn(&Limits) -> Vec<Unenforced>) -> Vec<String> {
    let mut notes = Vec::new();
    for service in &manifest.services {
        let missing = unenforced(&limits(&service.resources));
        if !missing.is_empty() {
            let missing: Vec<String> = missing.iter().map(ToString::to_string).collect();
            notes.push(format!("{}{UNENFORCED}({})", service.name, missing.join(", ")));
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
    others.map(|service| unseen_of(&service.name)).collect()
}

fn unseen_of(service: &str) -> String {
    format!("{service}{UNSEEN}(no cgroup, and without CAP_SYS_PTRACE no look at other users)")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn facts_travel_with_the_desired_state() {
        let text = "[app]\nname = 'shop'\n[gateway]\nlisten = '127.0.0.1:1'\nexpose = ['a']\n\
                    [route.'/x']\nservice = 'a'\n[service.a]\ncargo = 'a'\nresources = { memory = '1MiB' }\n\
                    [service.a.traffic]\npolicy = 'random'\n\
                    [gateway.client.a.traffic]\npolicy = 'p2c'\n";
        let bare = Features::detect().expect("the machine's").masked(["cgroup"]);
        let facts = Facts::bare(&Manifest::parse(text, "formic.toml").expect("a manifest"), &bare);
        assert_eq!((facts.gateway.as_str(), facts.exposed.len()), ("http://127.0.0.1:1", 1));
        assert_eq!(facts.routes[0].service, "a");
        assert_eq!(facts.traffic["a"]["policy"], "random");
        assert_eq!(facts.traffic_of("b"), facts.traffic);
        assert_eq!(facts.traffic_of("gateway")["a"]["policy"], "p2c");
        assert_eq!(facts.notes.len(), 1);
        assert!(facts.notes[0].starts_with("a: unenforced (memory: "), "{:?}", facts.notes);
        assert_eq!(Facts::from_tag(&facts.tag().expect("encodes")), facts);
        // With the service its note goes; what is about no service stays while there is any.
        let mut facts = facts;
        facts.notes.insert(1, unseen_of("a"));
        facts.notes.push("secrets are on the disk: for want of memory".into());
        assert_eq!(facts.clone().notes_beside(&["a", "b"]), facts.notes);
        assert_eq!(facts.clone().notes_beside(&["b"]), facts.notes[2..]);
        assert!(facts.notes_beside(&[]).is_empty());
        assert_eq!(Facts::from_tag(&Value::Null), Facts::default());
    }

    #[test]
    fn a_service_that_goes_back_has_its_routes_and_its_policy_back_and_no_others() {
        let of = |text: &str| {
            let text = format!(
                "[app]\nname = 'shop'\n[service.a]\ncommand = ['a']\nport = 21\n[service.b]\ncommand = ['b']\nport = 22\n{text}"
            );
            let bare = Features::detect().expect("the machine's").masked(["cgroup"]);
            Facts::bare(&Manifest::parse(&text, "formic.toml").expect("a manifest"), &bare)
        };
        let gateway = |expose: &str| format!("[gateway]\nlisten = '127.0.0.1:1'\nexpose = [{expose}]\n");
        let earlier = of(&format!(
            "{}[route.'/a']\nservice = 'a'\n[route.'/b']\nservice = 'b'\n[service.a.traffic]\npolicy = 'random'\n\
             [service.b.client.a.traffic]\nsubset = 2\n",
            gateway("'a'")
        ));
        let present = of(&format!(
            "{}[route.'/moved']\nservice = 'a'\n[route.'/c']\nservice = 'b'\n[service.b.traffic]\npolicy = 'random'\n\
             [service.a.client.b.traffic]\nsubset = 3\n",
            gateway("'b'")
        ));
        let tag = |facts: &Facts| facts.tag().expect("encodes");
        let back = Facts::from_tag(&Facts::way_back(&tag(&present), &tag(&earlier), "a"));
        let routes: Vec<(&str, &str)> =
            back.routes.iter().map(|route| (route.name.as_str(), route.service.as_str())).collect();
        assert_eq!(routes, [("/c", "b"), ("/a", "a")]);
        assert_eq!(back.exposed, ["b", "a"]);
        assert_eq!(back.traffic.keys().collect::<Vec<_>>(), ["a", "b"]);
        assert_eq!(
            (&back.calls["b"]["a"]["subset"], &back.calls["a"]["b"]["subset"]),
            (&2.into(), &3.into())
        );
        // And one that was not called in any way of its own then is not now.
        let back = Facts::from_tag(&Facts::way_back(&tag(&present), &tag(&earlier), "b"));
        assert!(back.traffic.is_empty() && back.calls.is_empty() && back.exposed.is_empty(), "{back:?}");
    }
}
