//! Probing: asks an instance until it is ready, then goes on asking.

mod log;
mod way;

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use formic_core::{Endpoint, Instance, InstanceId, ServiceName};
use formic_registry::DynRegistry;
use formic_spec::Health;
use tokio::time::Instant;

pub(crate) use self::way::Way;
use crate::announce::{Announcer, shown};
use crate::measures::Measures;

/// The pause between probes of an instance that is starting: its readiness is what people wait for.
const EAGER: Duration = Duration::from_millis(15);
/// The same where each probe is a process.
const EAGER_COMMAND: Duration = Duration::from_millis(100);
/// Probes in a row that must fail before a ready instance counts as unready; one may be lost to load.
const PATIENCE: u32 = 3;

/// What is probed.
pub(crate) struct Target {
    pub(crate) instance: InstanceId,
    pub(crate) service: ServiceName,
    pub(crate) version: String,
    pub(crate) health: Health,
    pub(crate) way: Way,
    pub(crate) port: Option<u16>,
    pub(crate) registry: DynRegistry,
    pub(crate) measures: Measures,
    /// Whether it was ready when it was last heard of, by an engine before this one.
    pub(crate) ready: bool,
}

impl Target {
    /// Probes for ever; tells of every change, and with readiness where the instance said that it answers.
    /// One that has a port is in the registry while it is ready.
    pub(crate) async fn watch(mut self, mut changed: impl FnMut(bool, Option<String>)) {
        let announcer =
            |port| Announcer::new(&self.registry, &self.instance, &self.service, &self.version, port);
        let mut announcer = self.port.map(announcer);
        if matches!(self.way, Way::None) {
            if let Some(announcer) = &mut announcer {
                announcer.ready().await;
            }
            changed(true, None);
            return std::future::pending().await;
        }
        let eager = if matches!(self.way, Way::Exec { .. }) { EAGER_COMMAND } else { EAGER };
        let mut ready = self.ready;
        let mut failures = 0;
        if let Some(announcer) = announcer.as_mut().filter(|_| ready) {
            announcer.ready().await;
        }
        loop {
            let began = Instant::now();
            let answers = tokio::time::timeout(self.health.timeout.get(), self.once()).await.unwrap_or(false);
            if self.way.is_answered() {
                self.measures.probed(&self.instance, answers.then(|| began.elapsed()));
            }
            failures = if answers { 0 } else { failures + 1 };
            if answers && !ready {
                ready = true;
                if let Some(announcer) = &mut announcer {
                    announcer.ready().await;
                }
                let registered = tokio::time::timeout(self.health.timeout.get(), self.registered()).await;
                changed(true, registered.ok().flatten().as_ref().map(shown));
            } else if ready && failures >= PATIENCE {
                ready = false;
                if let Some(announcer) = &mut announcer {
                    announcer.unready().await;
                }
                changed(false, None);
            }
            tokio::time::sleep(if ready { self.health.interval.get() } else { eager }).await;
        }
    }

    async fn once(&mut self) -> bool {
        let limit = self.health.timeout.get();
        let endpoint = if self.way.needs_endpoint() {
            let Some(endpoint) = self.endpoint().await else { return false };
            Some(endpoint)
        } else {
            None
        };
        self.way.ask(endpoint, &self.health.path, limit).await
    }

    /// At the port that it was given, else where it said that it answers.
    async fn endpoint(&self) -> Option<Endpoint> {
        match self.port {
            Some(port) => Some(Endpoint::Tcp(SocketAddr::from((Ipv4Addr::LOCALHOST, port)))),
            None => self.registered().await.map(|found| found.endpoint),
        }
    }

    /// What the instance said of itself.
    async fn registered(&self) -> Option<Instance> {
        let instances = self.registry.get(&self.service).await.ok()?;
        instances.into_iter().find(|found| found.id == self.instance)
    }
}
