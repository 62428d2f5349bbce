//! What changes beside the services from one desired state to another: a route that moves is a change, though no service
//! knows of it.

use std::collections::BTreeMap;

use formic_reconcile::FieldChange;
use formic_spec::{GATEWAY, Route};
use serde_json::Value;

use super::Facts;

impl Facts {
    /// Each field that differs, by its place as a manifest has it. A route that is not there on one side is one field.
    pub(crate) fn changes(&self, to: &Self) -> Vec<FieldChange> {
        let (from, to) = (self.fields(), to.fields());
        let mut places: Vec<&String> = from.keys().chain(to.keys()).collect();
        places.sort();
        places.dedup();
        let shown =
            |fields: &BTreeMap<String, String>, place: &str| fields.get(place).cloned().unwrap_or_default();
        let changed = places.into_iter().filter(|place| from.get(*place) != to.get(*place));
        changed
            .map(|place| FieldChange {
                field: place.clone(),
                from: shown(&from, place),
                to: shown(&to, place),
            })
            .collect()
    }

    fn fields(&self) -> BTreeMap<String, String> {
        let mut fields = BTreeMap::new();
        if !self.gateway.is_empty() {
            fields.insert("gateway.listen".to_owned(), self.gateway.clone());
        }
        if !self.exposed.is_empty() {
            fields.insert("gateway.expose".to_owned(), self.exposed.join(", "));
        }
        for route in &self.routes {
            fields.insert(format!("routes.{}", route.name), told(route));
        }
        for (service, policy) in &self.traffic {
            leaves(&format!("service.{service}.traffic"), policy, &mut fields);
        }
        for (caller, policies) in &self.calls {
            let caller = if caller == GATEWAY { caller.clone() } else { format!("service.{caller}") };
            for (service, policy) in policies {
                let place = format!("{caller}.client.{service}.traffic");
                let (mut own, mut below) = (BTreeMap::new(), BTreeMap::new());
                leaves(&place, policy, &mut own);
                leaves(&place, self.traffic.get(service).unwrap_or(&Value::Null), &mut below);
                // What is as for everybody is not told twice.
                own.retain(|place, value| below.get(place) != Some(value));
                fields.append(&mut own);
            }
        }
        fields
    }
}

/// A route in a line: the service, and what else is set.
fn told(route: &Route) -> String {
    let mut rest = BTreeMap::new();
    if let Ok(Value::Object(mut fields)) = serde_json::to_value(route) {
        fields.remove("name");
        fields.remove("service");
        for (name, value) in &fields {
            leaves(name, value, &mut rest);
        }
    }
    let rest: Vec<String> = rest.iter().map(|(name, value)| format!("{name} {value}")).collect();
    if rest.is_empty() { route.service.clone() } else { format!("{} ({})", route.service, rest.join(", ")) }
}

fn leaves(place: &str, value: &Value, out: &mut BTreeMap<String, String>) {
    match value {
        Value::Null | Value::Bool(false) => {}
        Value::Object(fields) => {
            fields.iter().for_each(|(name, value)| leaves(&format!("{place}.{name}"), value, out));
        }
        Value::Array(values) if values.is_empty() => {}
        Value::String(text) => drop(out.insert(place.to_owned(), text.clone())),
        other => drop(out.insert(place.to_owned(), other.to_string())),
    }
}

#[cfg(test)]
mod tests {
    use formic_spec::Manifest;
    use formic_supervise::Features;

    use super::*;

    fn facts(more: &str) -> Facts {
        let text = format!(
            "[app]\nname = 'shop'\n[gateway]\nlisten = '127.0.0.1:1'\nexpose = ['a']\n\
             [service.a]\ncargo = 'a'\n[service.b]\ncargo = 'b'\n{more}"
        );
        let manifest = Manifest::parse(&text, "formic.toml").expect("a manifest");
        Facts::bare(&manifest, &Features::detect().expect("the machine's"))
    }

    fn told(from: &Facts, to: &Facts) -> Vec<(String, bool, bool)> {
        let changes = from.changes(to);
        changes.into_iter().map(|c| (c.field, c.from.is_empty(), c.to.is_empty())).collect()
    }

    #[test]
    fn routes_exposure_and_traffic_are_told() {
        let bare = facts("");
        let routed = facts("[route.'/web']\nservice = 'a'\n");
        assert_eq!(told(&bare, &bare), []);
        assert_eq!(told(&bare, &routed), [("routes./web".to_owned(), true, false)]);
        assert_eq!(told(&routed, &bare), [("routes./web".to_owned(), false, true)]);
        let moved = facts("[route.'/web']\nservice = 'b'\n");
        let change = &routed.changes(&moved)[0];
        assert!(change.from.starts_with('a') && change.to.starts_with('b'), "{change:?}");
        let policy = facts("[service.a.traffic]\npolicy = 'random'\n");
        assert!(told(&bare, &policy).contains(&("service.a.traffic.policy".to_owned(), true, false)));
        let own = facts(
            "[service.a.traffic]\npolicy = 'random'\n\
             [service.b.client.a.traffic]\nsubset = 2\n[gateway.client.b.traffic]\nsubset = 3\n",
        );
        let own: Vec<String> =
            policy.changes(&own).into_iter().map(|c| format!("{}={}", c.field, c.to)).collect();
        assert_eq!(own, ["gateway.client.b.traffic.subset=3", "service.b.client.a.traffic.subset=2"]);
        let mut hidden = bare.clone();
        hidden.exposed.clear();
        assert_eq!(told(&bare, &hidden), [("gateway.expose".to_owned(), false, true)]);
    }
}
