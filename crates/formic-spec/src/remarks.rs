//! What is no fault and yet probably not meant: a policy that nobody follows.
//!
//! A manifest may speak of services of other manifests, and of services that are called by programs that nobody here knows, so
//! none of this can be refused.

use std::collections::BTreeSet;

use formic_settings::nearest;
use serde_json::Value;

use crate::Manifest;
use crate::manifest::GATEWAY;

impl Manifest {
    /// What of the file has no effect, or another than it seems, in words.
    #[must_use]
    pub fn notes(&self) -> Vec<String> {
        let mut notes = Vec::new();
        let named: BTreeSet<&String> =
            self.traffic.keys().chain(self.calls.values().flat_map(|calls| calls.keys())).collect();
        for name in named {
            match self.service(name) {
                None => notes.push(self.unknown(name)),
                Some(service) if !self.is_exposed(name) => {
                    notes.extend(self.routed(name));
                    notes.extend(service.proxy.as_ref().map(|proxy| {
                        let listen = proxy.listen;
                        format!(
                            "the traffic policy of {name} is for calls: connections to its proxy {listen} go to the instance with the fewest"
                        )
                    }));
                }
                Some(_) => notes.extend(self.placeless(name)),
            }
        }
        notes
    }

    fn unknown(&self, name: &str) -> String {
        let near = nearest(name, self.services.iter().map(|service| service.name.as_str()));
        let hint = near.map(|near| format!("; did you mean `{near}`?")).unwrap_or_default();
        format!("there is a traffic policy for {name}, which is no service of this application{hint}")
    }

    /// Plain HTTP is spread without a look at the policy.
    fn routed(&self, name: &str) -> Option<String> {
        let routes: Vec<&str> = self
            .routes
            .iter()
            .filter(|route| route.service == name)
            .map(|route| route.name.as_str())
            .collect();
        if routes.is_empty() {
            return None;
        }
        let noun = if routes.len() == 1 { "route" } else { "routes" };
        let routes = routes.join(", ");
        Some(format!(
            "the traffic policy of {name} is for calls: what the {noun} {routes} passes on goes to the one of two instances with less to do"
        ))
    }

    /// Who does not know where it stands has nobody near.
    fn placeless(&self, name: &str) -> Option<String> {
        let gateway = self.gateway.as_ref()?;
        let told = self.traffic_of(GATEWAY);
        let prefers = told.get(name)?.get("zone").is_some_and(Value::is_object);
        let placed = gateway.labels.get("zone").is_some_and(|zone| !zone.is_empty());
        (prefers && !placed).then(|| {
            format!("the gateway is to call near instances of {name}, and has no zone: give [gateway] labels = {{ zone = \"…\" }}")
        })
    }
}
