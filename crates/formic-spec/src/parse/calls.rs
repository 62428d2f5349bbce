//! Who calls whom, and how: what stands at the called service, what `[client.<name>]` says over it to everybody, and over both what
//! a single caller says, `[service.<caller>.client.<name>]` or `[gateway.client.<name>]`.
//!
//! Each caller is told one whole policy for each service. Parts are judged together, for what one leaves out another says.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};
use toml::de::DeValue;

use super::section::{Entries, Notes, Section};
use super::service::Located;
use super::traffic::{self, Part};
use crate::fault::{FaultKind, quote};
use crate::manifest::GATEWAY;
use crate::revision;

/// What one section named `client` says, by the service that is called.
pub(super) type Said = Vec<(String, Part)>;

/// How services are called.
#[derive(Default)]
pub(super) struct Calls {
    /// By everybody for whom nothing else is said.
    pub(super) all: BTreeMap<String, Value>,
    /// By those for whom it is; whole.
    pub(super) single: BTreeMap<String, BTreeMap<String, Value>>,
}

/// Reads the tables of a section named `client`, each about a service that is called; `above` is the section's own path.
pub(super) fn read(entries: Entries<'_, '_>, above: &str, notes: &mut Notes<'_>) -> Said {
    let mut said = Vec::new();
    for (key, table) in entries {
        let name = key.get_ref().to_string();
        let path: String = format!("{above}.{name}").chars().take(200).collect();
        notes.name(&name, &key.span(), &path, "the name of a service");
        let DeValue::Table(inner) = table.get_ref() else {
            let message =
                format!("{} must be a table, not of type {}", quote(&path), table.get_ref().type_str());
            let help = format!("write [{above}.name.traffic] with its keys below");
            notes.push(&table.span(), FaultKind::WrongType, &path, message, Some(help));
            continue;
        };
        let mut section = Section::new(inner, key.span(), path);
        if let Some(part) = traffic::read(&mut section, notes) {
            said.push((name, part));
        }
        section.finish(notes);
    }
    said
}

/// Puts together what callers are told. Every service is a caller, and is told all of it.
pub(super) fn settle(
    everybody: Said,
    gateway: Said,
    services: &mut [Located],
    notes: &mut Notes<'_>,
) -> Calls {
    let mut parts: BTreeMap<String, Vec<Part>> = BTreeMap::new();
    for located in &mut *services {
        if let Some(own) = located.traffic.take() {
            parts.insert(located.service.name.clone(), vec![own]);
        }
    }
    for (name, part) in everybody {
        parts.entry(name).or_default().push(part);
    }
    let mut calls = Calls::default();
    for (name, parts) in &parts {
        let merged = traffic::merge(&parts.iter().collect::<Vec<_>>(), notes);
        calls.all.extend(merged.map(|merged| (name.clone(), merged)));
    }
    let callers = services.iter_mut().map(|located| {
        let said = std::mem::take(&mut located.calls);
        (located.service.name.clone(), said)
    });
    let callers: Vec<_> = callers.chain([(GATEWAY.to_owned(), gateway)]).collect();
    for (caller, said) in callers {
        for (name, part) in said {
            let below = parts.get(&name).map(Vec::as_slice).unwrap_or_default();
            let all: Vec<&Part> = below.iter().chain([&part]).collect();
            if let Some(merged) = traffic::merge(&all, notes) {
                calls.single.entry(caller.clone()).or_default().insert(name, merged);
            }
        }
    }
    for located in services {
        let told = told(&calls.all, calls.single.get(&located.service.name));
        if !told.is_empty() {
            let told: Map<String, Value> =
                told.into_iter().map(|(name, traffic)| (name, json!({ "traffic": traffic }))).collect();
            located.service.settings.insert(revision::CALLS.into(), Value::Object(told).to_string());
        }
    }
    calls
}

/// What a caller is told: what everybody is, and over it what is said for this one.
pub(crate) fn told(
    all: &BTreeMap<String, Value>,
    single: Option<&BTreeMap<String, Value>>,
) -> BTreeMap<String, Value> {
    let mut told = all.clone();
    told.extend(single.into_iter().flatten().map(|(name, traffic)| (name.clone(), traffic.clone())));
    told
}
