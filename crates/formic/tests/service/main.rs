//! A service as its author writes it, run within the test and called over its port.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod edges;
mod life;
mod sees;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use formic::core::Endpoint;
use formic::registry::{DynRegistry, Memory};
use formic::{Channel, Client, Service, ServiceName};
use formic_probe::{Order, ProbeClient};
use tokio_util::sync::CancellationToken;

/// How long anything that should happen may take on a busy machine; less than a drain may take by default.
pub(crate) const PATIENCE: Duration = Duration::from_secs(15);

/// A service that runs within the test.
pub(crate) struct Run {
    pub(crate) addr: SocketAddr,
    pub(crate) stop: CancellationToken,
    pub(crate) ended: tokio::task::JoinHandle<formic::Result>,
}

pub(crate) fn name(text: &str) -> ServiceName {
    ServiceName::new(text).unwrap()
}

pub(crate) fn registry() -> DynRegistry {
    Arc::new(Memory::new())
}

/// A service that does not wait before it drains, with a grace that no test waits out.
pub(crate) fn service(registry: &DynRegistry) -> Service {
    Service::embedded_with(name("probe"), Arc::clone(registry), |settings| {
        settings.drain.propagation = Duration::from_millis(10);
        settings.drain.grace = Duration::from_secs(30);
    })
}

/// Starts it, and waits until it has announced itself.
pub(crate) async fn start(service: Service, registry: &DynRegistry) -> Run {
    let stop = CancellationToken::new();
    let ended = tokio::spawn(service.run_until(stop.clone().cancelled_owned()));
    let found = formic_testing::wait_for("the service to be registered", PATIENCE, async || {
        registry.get(&name("probe")).await.unwrap().into_iter().next()
    });
    let Endpoint::Tcp(addr) = found.await.endpoint else { panic!("no TCP") };
    Run { addr, stop, ended }
}

impl Run {
    pub(crate) async fn stop(self) -> formic::Result {
        self.stop.cancel();
        within("the end of the service", self.ended).await.unwrap()
    }

    /// A channel over the socket, from outside.
    pub(crate) fn channel(&self) -> Channel {
        Client::without_registry(Default::default()).at(self.addr.into())
    }

    pub(crate) fn probe(&self) -> ProbeClient {
        ProbeClient::new(self.channel())
    }
}

pub(crate) fn order(text: &str) -> Order {
    Order { text: text.into(), ..Order::default() }
}

pub(crate) async fn within<T>(what: &str, future: impl Future<Output = T>) -> T {
    formic_testing::in_time(what, PATIENCE, future).await
}
