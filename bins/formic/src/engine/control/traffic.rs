//! The service about traffic: policies go out to callers as they are wanted, and what callers see comes back.

use std::sync::Arc;

use formic_api::control::v1 as pb;
use formic_core::Error;
use formic_reconcile::{Command, Kind};
use formic_rpc::{Context, Reply, Request, Streaming, reply};
use serde_json::Value;

use super::{Control, by};
use crate::engine::facts::Facts;

/// The policies of a desired state, as a caller of this name takes them.
fn policies(generation: u64, tag: &Value, caller: &str) -> pb::Policies {
    let told = Facts::from_tag(tag).traffic_of(caller);
    // A map of JSON values always encodes.
    let services = serde_json::to_string(&told).unwrap_or_else(|_| "{}".into());
    pb::Policies { generation, services, ..Default::default() }
}

impl Control {
    /// What is asked about must be called by somebody, or be a service of the application.
    fn is_called(&self, service: &str, answers: &[(pb::Caller, pb::ReportRequest)]) -> Result<(), Error> {
        let view = self.engine.view();
        let known = view.borrow().services.iter().any(|known| known.name == service);
        if known || answers.iter().any(|(_, report)| report.traffic.as_option().is_some()) {
            return Ok(());
        }
        Err(self.unknown(service))
    }
}

impl pb::TrafficService for Control {
    async fn traffic(
        &self,
        _: Context,
        request: Request<'_, pb::TrafficRequest>,
    ) -> Reply<pb::TrafficResponse> {
        let (service, from) = (request.service, request.from);
        if !from.is_empty() && !self.callers.knows(from) {
            return Err(Error::not_found(format!("{from:?} is no caller: no instance of this name reports")));
        }
        let answers = self.callers.ask(service, from, "").await;
        self.is_called(service, &answers.given)?;
        let facts = Facts::from_tag(&self.engine.view().borrow().tag);
        let shown = |policy: Option<&Value>| policy.map(ToString::to_string).unwrap_or_default();
        let callers = answers.given.into_iter().filter_map(|(caller, report)| {
            let mut seen = report.traffic.into_option()?;
            seen.wanted = shown(facts.traffic_of(&caller.service).get(service));
            Some(seen)
        });
        reply(pb::TrafficResponse {
            callers: callers.collect(),
            silent: answers.silent,
            wanted: shown(facts.traffic.get(service)),
            ..Default::default()
        })
    }

    async fn readmit(
        &self,
        context: Context,
        request: Request<'_, pb::ReadmitRequest>,
    ) -> Reply<pb::ReadmitResponse> {
        let (service, instance) = (request.service, request.instance);
        if instance.is_empty() {
            return Err(Error::invalid_argument("an instance is needed")
                .with_field("instance", "must be the id or the address of an instance"));
        }
        let answers = self.callers.ask(service, "", instance).await;
        self.is_called(service, &answers.given)?;
        let knew = answers.given.into_iter().filter(|(_, report)| report.readmitted);
        let callers: Vec<_> = knew.map(|(caller, _)| caller).collect();
        if callers.is_empty() && answers.silent.is_empty() {
            return Err(Error::not_found(format!("no caller knows an instance {instance:?} of {service}")));
        }
        let knew: Vec<&str> = callers.iter().map(|caller| caller.instance.as_str()).collect();
        let whom = if knew.is_empty() { "nobody that answered".to_owned() } else { knew.join(", ") };
        let text = format!("{instance} counts again with {whom}, by {}", by("traffic --reset", &context));
        // What was done stays done if the engine has no room to hear of it.
        let _ = self.engine.send(Command::Note { kind: Kind::Traffic, service: service.to_owned(), text });
        reply(pb::ReadmitResponse { callers, silent: answers.silent, ..Default::default() })
    }

    async fn attend(
        &self,
        _: Context,
        request: Request<'_, pb::AttendRequest>,
    ) -> Reply<Streaming<pb::AttendResponse>> {
        self.here_only("what callers do for the engine")?;
        let caller =
            request.to_owned_message().caller.into_option().filter(|caller| !caller.instance.is_empty());
        let caller = caller.ok_or_else(|| {
            Error::invalid_argument("a caller is needed").with_field("caller.instance", "must be set")
        })?;
        let name = caller.service.clone();
        let (place, view, tag) = (self.callers.attend(caller), self.engine.view(), None::<Arc<Value>>);
        let state = (place, view, tag, String::new(), name);
        reply(Streaming::new(futures::stream::unfold(
            state,
            |(mut place, mut view, mut tag, told, name)| async move {
                loop {
                    // Most changes of a view are about instances, and cost no more than this look.
                    let (index, now) = {
                        let view = view.borrow_and_update();
                        (view.index, Arc::clone(&view.tag))
                    };
                    // An engine that does not know yet what is wanted takes no policy from anybody.
                    if !now.is_null() && tag.as_ref().is_none_or(|tag| !Arc::ptr_eq(tag, &now)) {
                        let policies = policies(index, &now, &name);
                        tag = Some(now);
                        if told != policies.services {
                            let told = policies.services.clone();
                            let message =
                                pb::AttendResponse { policies: Some(policies).into(), ..Default::default() };
                            return Some((Ok(message), (place, view, tag, told, name)));
                        }
                    }
                    tokio::select! {
                        changed = view.changed() => changed.ok()?,
                        question = place.questions.recv() => {
                            // None: the caller came again, and this is its earlier self.
                            let question = Some(question?).into();
                            let message = pb::AttendResponse { question, ..Default::default() };
                            return Some((Ok(message), (place, view, tag, told, name)));
                        }
                    }
                }
            },
        )))
    }

    async fn report(&self, _: Context, request: Request<'_, pb::ReportRequest>) -> Reply<pb::ReportResponse> {
        self.here_only("what callers do for the engine")?;
        self.callers.report(request.to_owned_message());
        reply(pb::ReportResponse::default())
    }
}
