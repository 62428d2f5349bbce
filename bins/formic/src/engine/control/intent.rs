//! Single services out of the state that is wanted: stopped, started again, removed; and updates that stand
//! still.

use std::collections::BTreeSet;

use formic_api::control::v1 as pb;
use formic_core::Error;
use formic_plan::Service;
use formic_reconcile::{Change, Command};
use formic_rpc::Context;

use super::deploy::refused;
use super::{Control, by, wire};
use crate::engine::facts::Facts;

/// What is to become of services.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Intent {
    Stop,
    Start,
    Remove,
}

impl Intent {
    fn word(self) -> &'static str {
        match self {
            Self::Stop => "stop",
            Self::Start => "start",
            Self::Remove => "rm",
        }
    }
}

impl Control {
    /// Makes the desired state what is intended for these services.
    pub(super) async fn intend(
        &self,
        intent: Intent,
        request: pb::ServicesRequest,
        context: &Context,
    ) -> Result<pb::ChangeResponse, Error> {
        let present = self.present().await?;
        let names: BTreeSet<String> = request.services.into_iter().collect();
        if let Some(unknown) = names.iter().find(|name| !present.services.iter().any(|s| s.name == **name)) {
            return Err(self.unknown(unknown));
        }
        let mut facts = Facts::from_tag(&present.tag);
        let mut services = present.services.clone();
        intend(intent, &names, &mut services, &mut facts)?;
        let names: Vec<String> = names.into_iter().collect();
        let change = Change {
            services,
            tag: facts.tag().map_err(refused)?,
            index: Some(request.index.unwrap_or(present.index)),
            cause: by(format_args!("{} {}", intent.word(), names.join(" ")), context),
        };
        self.change(change).await
    }

    /// Lets the update of a service stand still, or go on.
    pub(super) async fn pause(
        &self,
        service: &str,
        resume: bool,
        context: &Context,
    ) -> Result<pb::PauseResponse, Error> {
        if !self.engine.view().borrow().services.iter().any(|known| known.name == service) {
            return Err(self.unknown(service));
        }
        let word = if resume { "resume" } else { "pause" };
        let cause = by(format_args!("{word} {service}"), context);
        let ask = |answer| Command::Pause { service: service.to_owned(), resume, cause, answer };
        let changed = self.ask(ask).await?.map_err(|error| wire::refused(&error))?;
        Ok(pb::PauseResponse { changed, ..Default::default() })
    }
}

/// The state with what is intended.
fn intend(
    intent: Intent,
    names: &BTreeSet<String>,
    services: &mut Vec<Service>,
    facts: &mut Facts,
) -> Result<(), Error> {
    let is_system =
        |s: &Service| s.start.get("system").and_then(serde_json::Value::as_bool).unwrap_or_default();
    if let Some(system) = services.iter().find(|s| names.contains(&s.name) && is_system(s)) {
        return Err(Error::failed_precondition(format!(
            "{} is part of Formic, and runs as long as the manifest has it",
            system.name
        )));
    }
    for service in services.iter_mut().filter(|service| names.contains(&service.name)) {
        match intent {
            Intent::Stop if service.replicas > 0 => {
                facts.stopped.insert(service.name.clone(), service.replicas);
                service.replicas = 0;
            }
            // Of one that never had any, one.
            Intent::Start if service.replicas == 0 => {
                service.replicas = facts.stopped.remove(&service.name).unwrap_or(1);
            }
            _ => {}
        }
    }
    if intent == Intent::Remove {
        let stays = |s: &&Service| !names.contains(&s.name) && !is_system(s);
        for service in services.iter().filter(stays) {
            if let Some(needed) = service.depends_on.iter().find(|name| names.contains(*name)) {
                return Err(Error::failed_precondition(format!(
                    "{} depends on {needed}; remove it too, or first",
                    service.name
                )));
            }
        }
        services.retain(|service| !names.contains(&service.name));
        for service in services.iter_mut() {
            // What is left of these are the gateway's.
            service.depends_on.retain(|name| !names.contains(name));
        }
        facts.exposed.retain(|name| !names.contains(name));
        facts.routes.retain(|route| !names.contains(&route.service));
        facts.stopped.retain(|name, _| !names.contains(name));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]

    use formic_spec::Revision;
    use serde_json::json;

    use super::*;

    fn service(name: &str, replicas: u32, depends_on: &[&str]) -> Service {
        serde_json::from_value(json!({
            "name": name, "revision": Revision::of(&name.into()), "replicas": replicas,
            "depends_on": depends_on, "ready_within": "1s", "grace": "1s",
            "start": { "system": name == "gateway" },
        }))
        .unwrap()
    }

    struct Wanted {
        services: Vec<Service>,
        facts: Facts,
    }

    impl Wanted {
        fn new() -> Self {
            let services = vec![
                service("user", 3, &[]),
                service("order", 1, &["user"]),
                service("gateway", 1, &["user", "order"]),
            ];
            Self {
                services,
                facts: Facts { exposed: vec!["user".into(), "order".into()], ..Facts::default() },
            }
        }

        fn intend(&mut self, intent: Intent, names: &[&str]) -> Result<(), String> {
            let names = names.iter().map(|name| (*name).to_owned()).collect();
            let done = intend(intent, &names, &mut self.services, &mut self.facts);
            done.map_err(|error| error.message().to_owned())
        }

        fn replicas(&self) -> Vec<u32> {
            self.services.iter().map(|service| service.replicas).collect()
        }
    }

    #[test]
    fn what_was_stopped_starts_with_as_many_as_it_had() {
        let mut wanted = Wanted::new();
        wanted.intend(Intent::Stop, &["user"]).unwrap();
        // Twice is once.
        wanted.intend(Intent::Stop, &["user", "order"]).unwrap();
        assert_eq!(wanted.replicas(), [0, 0, 1]);
        wanted.intend(Intent::Start, &["user"]).unwrap();
        assert_eq!(wanted.replicas(), [3, 0, 1]);
        assert_eq!(wanted.facts.stopped, [("order".to_owned(), 1)].into());
        wanted.intend(Intent::Start, &["user"]).unwrap();
        assert_eq!(wanted.replicas(), [3, 0, 1]);
    }

    #[test]
    fn what_is_needed_is_not_removed_and_the_gateway_forgets_what_is() {
        let mut wanted = Wanted::new();
        assert!(wanted.intend(Intent::Remove, &["user"]).unwrap_err().contains("order depends on user"));
        assert_eq!(wanted.services.len(), 3);
        wanted.intend(Intent::Remove, &["order"]).unwrap();
        assert_eq!(
            (wanted.services[1].depends_on.as_slice(), &wanted.facts.exposed[..]),
            (&["user".to_owned()][..], &["user".to_owned()][..])
        );
        assert!(wanted.intend(Intent::Stop, &["gateway"]).unwrap_err().contains("part of Formic"));
    }
}
