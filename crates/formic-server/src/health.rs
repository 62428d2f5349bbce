//! Health: `grpc.health.v1` and the plain `/healthz` and `/readyz` share one state.
//!
//! *Healthy* means that the process answers; *ready* means that it wants traffic. A service turns
//! ready once it has started, and not ready as the first act of its drain.

use std::collections::BTreeSet;
use std::sync::Arc;

use formic_core::Error;
use formic_rpc::{Context, Handle, Reply, Request, Streaming, reply};
use tokio::sync::watch;

use crate::r#gen::grpc::health::v1 as pb;
use pb::health_check_response::ServingStatus;

/// Whether a server wants traffic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Serving {
    /// Not started yet.
    Starting,
    /// Wants traffic.
    Ready,
    /// On its way out.
    Draining,
}

/// The state of a server, shared by everything that asks for it.
#[derive(Clone, Debug)]
pub struct Health {
    state: Arc<watch::Sender<Serving>>,
    services: Arc<BTreeSet<String>>,
}

impl Health {
    /// A server that starts, with the RPC services it will answer for.
    #[must_use]
    pub fn new(services: impl IntoIterator<Item = String>) -> Self {
        Self {
            state: Arc::new(watch::Sender::new(Serving::Starting)),
            services: Arc::new(services.into_iter().collect()),
        }
    }

    /// Changes the state; everybody who watches sees it at once.
    pub fn set(&self, state: Serving) {
        self.state.send_replace(state);
    }

    /// The state.
    #[must_use]
    pub fn get(&self) -> Serving {
        *self.state.borrow()
    }

    /// The `grpc.health.v1.Health` service over this state.
    #[must_use]
    pub fn handle(&self) -> Arc<dyn Handle> {
        Arc::new(pb::HealthServer::new(self.clone()))
    }

    fn status(&self, service: &str) -> Option<ServingStatus> {
        // The empty name means the whole server.
        if !service.is_empty() && !self.services.contains(service) {
            return None;
        }
        Some(match self.get() {
            Serving::Ready => ServingStatus::SERVING,
            Serving::Starting | Serving::Draining => ServingStatus::NOT_SERVING,
        })
    }
}

fn response(status: ServingStatus) -> pb::HealthCheckResponse {
    pb::HealthCheckResponse { status: status.into(), ..Default::default() }
}

impl pb::Health for Health {
    async fn check(
        &self,
        _: Context,
        request: Request<'_, pb::HealthCheckRequest>,
    ) -> Reply<pb::HealthCheckResponse> {
        match self.status(request.service) {
            Some(status) => reply(response(status)),
            None => Err(Error::not_found(format!("no service {:?} here", request.service))),
        }
    }

    async fn watch(
        &self,
        _: Context,
        request: Request<'_, pb::HealthCheckRequest>,
    ) -> Reply<Streaming<pb::HealthCheckResponse>> {
        let (health, service) = (self.clone(), request.service.to_owned());
        let receiver = self.state.subscribe();
        let stream = futures::stream::unfold((receiver, None, false), move |(mut receiver, last, over)| {
            let (health, service) = (health.clone(), service.clone());
            async move {
                if over {
                    return None;
                }
                loop {
                    // Nothing comes after the drain has begun, and a watcher must not hold it up.
                    let draining = *receiver.borrow_and_update() == Serving::Draining;
                    let status = health.status(&service).unwrap_or(ServingStatus::SERVICE_UNKNOWN);
                    if last != Some(status) {
                        return Some((Ok(response(status)), (receiver, Some(status), draining)));
                    }
                    if draining {
                        return None;
                    }
                    receiver.changed().await.ok()?;
                }
            }
        });
        reply(Streaming::new(stream))
    }
}
