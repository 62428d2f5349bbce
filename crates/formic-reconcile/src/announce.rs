//! Programs that know nothing of Formic: whoever is ready at the port that it was given is in the registry
//! under the name of its service, so that callers and the gateway find it like any other instance.

use std::net::Ipv4Addr;
use std::sync::Arc;

use formic_core::{Endpoint, Instance, InstanceId, ServiceName};
use formic_registry::{DynRegistry, Registrar, registrar};

/// Where people are told that an instance answers.
pub(crate) fn shown(instance: &Instance) -> String {
    instance.metadata.get(Instance::PUBLIC).cloned().unwrap_or_else(|| instance.endpoint.to_string())
}

/// Registers one instance while it is ready. Dropping it deregisters.
pub(crate) struct Announcer {
    registry: DynRegistry,
    instance: Instance,
    registrar: Option<Registrar>,
}

impl Announcer {
    pub(crate) fn new(
        registry: &DynRegistry,
        id: &InstanceId,
        service: &ServiceName,
        version: &str,
        port: u16,
    ) -> Self {
        let instance = Instance {
            id: id.clone(),
            service: service.clone(),
            version: version.to_owned(),
            endpoint: Endpoint::Tcp((Ipv4Addr::LOCALHOST, port).into()),
            metadata: Default::default(),
            rpc: Vec::new(),
        };
        Self { registry: Arc::clone(registry), instance, registrar: None }
    }

    /// It answers; one that has registered itself, and so said more of itself than is known here, is left as
    /// it is.
    pub(crate) async fn ready(&mut self) {
        let known = self.registry.get(&self.instance.service).await.unwrap_or_default();
        let others = |known: &Instance| known.id == self.instance.id && *known != self.instance;
        if self.registrar.is_none() && !known.iter().any(others) {
            let registrar = Registrar::start(
                Arc::clone(&self.registry),
                self.instance.clone(),
                registrar::Config::default(),
            );
            self.registrar = Some(registrar);
        }
    }

    /// It does not answer any more.
    pub(crate) async fn unready(&mut self) {
        if let Some(registrar) = self.registrar.take() {
            registrar.shutdown().await;
        }
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]

    use std::time::Duration;

    use formic_registry::Memory;

    use super::*;

    async fn addresses(registry: &DynRegistry) -> Vec<String> {
        let found = registry.get(&ServiceName::new("reports").unwrap()).await.unwrap();
        found.iter().map(|instance| format!("{} {}", instance.id, instance.endpoint)).collect()
    }

    async fn until(registry: &DynRegistry, expected: &[&str]) {
        let looking = async {
            while addresses(registry).await != expected {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        let found = tokio::time::timeout(Duration::from_secs(5), looking).await;
        assert!(found.is_ok(), "{:?}", addresses(registry).await);
    }

    #[tokio::test]
    async fn who_is_ready_is_in_the_registry() {
        let registry: DynRegistry = Arc::new(Memory::new());
        let (id, service) = (InstanceId::new("reports-1"), ServiceName::new("reports").unwrap());
        let mut announcer = Announcer::new(&registry, &id, &service, "abc", 8001);
        assert_eq!(addresses(&registry).await, [""; 0]);
        announcer.ready().await;
        until(&registry, &["reports-1 127.0.0.1:8001"]).await;
        announcer.unready().await;
        until(&registry, &[]).await;
        announcer.ready().await;
        until(&registry, &["reports-1 127.0.0.1:8001"]).await;
        drop(announcer);
        until(&registry, &[]).await;
    }

    #[tokio::test]
    async fn who_has_registered_itself_is_left_alone() {
        let registry: DynRegistry = Arc::new(Memory::new());
        let (id, service) = (InstanceId::new("reports-1"), ServiceName::new("reports").unwrap());
        let mut own = Announcer::new(&registry, &id, &service, "abc", 8001);
        own.ready().await;
        until(&registry, &["reports-1 127.0.0.1:8001"]).await;
        let mut other = Announcer::new(&registry, &id, &service, "abc", 9999);
        other.ready().await;
        other.unready().await;
        assert_eq!(addresses(&registry).await, ["reports-1 127.0.0.1:8001"]);
    }
}
