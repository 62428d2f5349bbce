//! A caller attends to the engine: it takes over the policies that it is told, and answers what it sees.
//!
//! The caller asks, and not the engine: so no port of a service or of the gateway has a door for this, and whoever
//! may speak to the engine's socket is the only one who may ask. A caller that loses the engine keeps the policies
//! that it has and comes back.

use std::collections::HashMap;
use std::time::Duration;

use formic_client::{BackendView, Client, Traffic, TrafficView};
use formic_core::ServiceName;
use formic_registry::Backoff;
use formic_rpc::Channel;

use crate::control::v1 as pb;

/// The waits between attempts to reach the engine, which is on this machine.
const MIN_BACKOFF: Duration = Duration::from_millis(50);
const MAX_BACKOFF: Duration = Duration::from_secs(2);

/// How long an answer may take to get to the engine.
const REPORT: Duration = Duration::from_secs(2);

/// What one caller does for the engine.
#[derive(Debug)]
pub struct Attendant {
    /// The way to the engine.
    pub engine: Channel,
    /// The client whose policies these are, and which is asked.
    pub client: Client,
    /// Who calls.
    pub instance: String,
    /// Of which service.
    pub service: String,
    /// The policies that the client began with, as far as the engine has told them.
    pub told: HashMap<ServiceName, Traffic>,
}

// === impl Attendant ===

impl Attendant {
    /// Attends for ever; dropping it ends it, and the policies stay. Cancel safe.
    pub async fn run(mut self) {
        let traffic = pb::TrafficServiceClient::new(self.engine.clone());
        let mut backoff = Backoff::new(MIN_BACKOFF, MAX_BACKOFF);
        loop {
            match traffic
                .attend(pb::AttendRequest { caller: Some(self.name()).into(), ..Default::default() })
                .await
            {
                Ok(response) => {
                    let mut stream = response.into_message();
                    // Generations compare within one life of the engine only, which one stream is.
                    let mut latest = 0;
                    while let Ok(Some(message)) = stream.message().await {
                        backoff = Backoff::new(MIN_BACKOFF, MAX_BACKOFF);
                        if let Some(policies) = message.policies.into_option()
                            && policies.generation >= latest
                        {
                            latest = policies.generation;
                            self.take_over(&policies.services);
                        }
                        if let Some(question) = message.question.into_option() {
                            let report = self.answer(&question);
                            if let Err(error) = traffic.report(report).timeout(REPORT).await {
                                tracing::debug!(%error, "the engine did not take an answer");
                            }
                        }
                    }
                }
                Err(error) => tracing::debug!(%error, "the engine is away; the last known policies stay"),
            }
            tokio::time::sleep(backoff.next_wait()).await;
        }
    }

    fn name(&self) -> pb::Caller {
        pb::Caller { instance: self.instance.clone(), service: self.service.clone(), ..Default::default() }
    }

    /// Changes what is told otherwise than before; what the author's own code has set stays as long as that does.
    fn take_over(&mut self, text: &str) {
        let told = match read(text) {
            Ok(told) => told,
            Err(error) => {
                tracing::warn!(%error, "the engine's traffic policies cannot be read; the last known ones stay");
                return;
            }
        };
        for (name, traffic) in told.iter().filter(|(name, traffic)| self.told.get(*name) != Some(*traffic)) {
            match self.client.set_traffic(name, traffic.clone()) {
                Ok(()) => tracing::info!(service = %name, "traffic policy changed"),
                Err(error) => tracing::warn!(service = %name, %error, "the last known policy stays"),
            }
        }
        for name in self.told.keys().filter(|name| !told.contains_key(*name)) {
            match self.client.reset_traffic(name) {
                Ok(()) => tracing::info!(service = %name, "traffic policy is the default again"),
                Err(error) => tracing::warn!(service = %name, %error, "the last known policy stays"),
            }
        }
        self.told = told;
    }

    fn answer(&self, question: &pb::Question) -> pb::ReportRequest {
        let mut report = pb::ReportRequest { number: question.number, ..Default::default() };
        // Asking makes no service known that was never called.
        let known = self.client.services();
        let Some(name) = known.into_iter().find(|name| name.as_str() == question.service) else {
            return report;
        };
        if !question.readmit.is_empty() {
            report.readmitted = self.client.readmit(&name, &question.readmit);
        }
        let view = self.client.traffic(&name);
        if view.called {
            report.traffic = Some(caller_to_pb(self.name(), &view)).into();
        }
        report
    }
}

fn read(text: &str) -> Result<HashMap<ServiceName, Traffic>, serde_json::Error> {
    let all: HashMap<String, Traffic> = serde_json::from_str(text)?;
    // A name that is none is nobody's.
    Ok(all.into_iter().filter_map(|(name, traffic)| Some((ServiceName::new(name).ok()?, traffic))).collect())
}

/// For the wire.
fn caller_to_pb(caller: pb::Caller, view: &TrafficView) -> pb::CallerTraffic {
    pb::CallerTraffic {
        caller: Some(caller).into(),
        local: view.local,
        // A policy of plain data always encodes.
        policy: serde_json::to_string(&view.policy).unwrap_or_default(),
        retries_left: view.retries_left,
        endpoints: view.endpoints.iter().map(endpoint_to_pb).collect(),
        notes: view.notes.clone(),
        panic: view.panic,
        fit: view.fit,
        counted: view.counted,
        ..Default::default()
    }
}

fn endpoint_to_pb(view: &BackendView) -> pb::EndpointTraffic {
    pb::EndpointTraffic {
        instance: view.instance.clone(),
        endpoint: view.endpoint.clone(),
        zone: view.zone.clone(),
        version: view.version.clone(),
        weight: view.weight,
        in_flight: view.in_flight,
        latency_ms: view.latency_ms,
        calls: view.calls,
        success_rate: view.success_rate,
        state: view.state.as_str().into(),
        reason: view.reason.clone().unwrap_or_default(),
        probe_in: view.probe_in.clone().unwrap_or_default(),
        ejections: view.ejections,
        transport: view.transport.clone(),
        ..Default::default()
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]

    use formic_client::Algorithm;

    use super::*;

    fn attendant(told: &str) -> Attendant {
        let client = Client::without_registry(formic_client::Config {
            services: read(told).unwrap(),
            ..formic_client::Config::default()
        });
        let engine = client.of("engine");
        Attendant { engine, client, instance: "a-1".into(), service: "a".into(), told: read(told).unwrap() }
    }

    fn policy(attendant: &Attendant, name: &str) -> Algorithm {
        attendant.client.traffic(&ServiceName::new(name).unwrap()).policy.policy
    }

    #[test]
    fn a_panic_and_its_numbers_go_over_the_wire() {
        let attendant = attendant("{}");
        let view = attendant.client.traffic(&ServiceName::new("b").unwrap());
        let view = TrafficView { panic: true, fit: 1, counted: 4, ..view };
        let sent = caller_to_pb(attendant.name(), &view);
        assert_eq!((sent.panic, sent.fit, sent.counted), (true, 1, 4));
    }

    #[test]
    fn policies_come_change_and_go() {
        let mut attendant = attendant(r#"{"b":{"policy":"random"}}"#);
        assert_eq!(policy(&attendant, "b"), Algorithm::Random);
        attendant.take_over(r#"{"b":{"policy":"round_robin"},"c":{"policy":"least_request"}}"#);
        assert_eq!(
            (policy(&attendant, "b"), policy(&attendant, "c")),
            (Algorithm::RoundRobin, Algorithm::LeastRequest)
        );
        attendant.take_over(r#"{"c":{"policy":"least_request"}}"#);
        assert_eq!(
            (policy(&attendant, "b"), policy(&attendant, "c")),
            (Algorithm::P2c, Algorithm::LeastRequest)
        );
    }

    #[test]
    fn what_cannot_be_read_or_is_faulty_leaves_the_last_known() {
        let mut attendant = attendant(r#"{"b":{"policy":"random"}}"#);
        attendant.take_over("{");
        attendant.take_over(r#"{"b":{"policy":"fastest"}}"#);
        attendant.take_over(r#"{"b":{"policy":"hash"}}"#);
        assert_eq!(policy(&attendant, "b"), Algorithm::Random);
    }

    #[test]
    fn what_the_author_has_set_stays_until_the_engine_says_something_new() {
        let mut attendant = attendant(r#"{"b":{"policy":"random"}}"#);
        let b = ServiceName::new("b").unwrap();
        let own = Traffic { policy: Algorithm::LeastRequest, ..Traffic::default() };
        attendant.client.set_traffic(&b, own).unwrap();
        attendant.take_over(r#"{"b":{"policy":"random"}}"#);
        assert_eq!(policy(&attendant, "b"), Algorithm::LeastRequest);
        attendant.take_over(r#"{"b":{"policy":"round_robin"}}"#);
        assert_eq!(policy(&attendant, "b"), Algorithm::RoundRobin);
    }

    #[test]
    fn asking_about_nobody_makes_nobody_known() {
        let attendant = attendant("{}");
        let question =
            pb::Question { number: 7, service: "b".into(), readmit: "b-1".into(), ..Default::default() };
        let report = attendant.answer(&question);
        assert_eq!((report.number, report.readmitted), (7, false));
        assert!(report.traffic.as_option().is_none() && attendant.client.services().len() <= 1);
    }
}
