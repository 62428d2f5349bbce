//! Programs that know nothing of Formic: whoever is ready at the port that it was given is in the registry
//! under the name of its service, so that callers and the gateway find it like any other instance.
//!
//! It is taken out by [`Announcer::unready`] alone. An engine that ends, in whatever way, is no reason: the
//! program goes on, and whoever watches keeps what they know until the next engine says the same.

use std::net::Ipv4Addr;
use std::sync::Arc;

use formic_core::{Endpoint, Instance, InstanceId, ServiceName};
use formic_registry::{DynRegistry, Registrar, registrar};

/// Where people are told that an instance answers.
pub(crate) fn shown(instance: &Instance) -> String {
    instance.metadata.get(Instance::PUBLIC).cloned().unwrap_or_else(|| instance.endpoint.to_string())
}

/// How an instance is in the registry, if it is there. Without a copy of all those of its service: each of a thousand asks.
pub(crate) async fn known(
    registry: &DynRegistry,
    service: &ServiceName,
    id: &InstanceId,
) -> Option<Arc<Instance>> {
    let all = registry.watch(Some(service.clone())).next().await.ok()?;
    all.instances.get(id).cloned()
}

/// Registers one instance while it is ready. Dropped, it leaves the registration to its lease.
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
        if self.registrar.is_some() {
            return;
        }
        let known = known(&self.registry, &self.instance.service, &self.instance.id).await;
        if known.is_none_or(|known| *known == self.instance) {
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

impl Drop for Announcer {
    fn drop(&mut self) {
        if let Some(registrar) = self.registrar.take() {
            registrar.abandon();
        }
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]

    use std::time::Duration;

    use formic_registry::{BoxFuture, Error, Lease, Memory, Registry, ServiceEntry, Watch};

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
    }

    #[tokio::test]
    async fn the_end_of_who_announces_takes_nobody_out() {
        let registry: DynRegistry = Arc::new(Memory::new());
        let (id, service) = (InstanceId::new("reports-1"), ServiceName::new("reports").unwrap());
        let mut announcer = Announcer::new(&registry, &id, &service, "abc", 8001);
        announcer.ready().await;
        until(&registry, &["reports-1 127.0.0.1:8001"]).await;
        drop(announcer);
        tokio::time::sleep(Duration::from_millis(200)).await;
        assert_eq!(addresses(&registry).await, ["reports-1 127.0.0.1:8001"]);
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

    /// A registry that gives nobody a copy of all that a service has.
    #[derive(Debug)]
    struct Uncopied(Memory);

    impl Registry for Uncopied {
        fn register(&self, instance: Instance, ttl: Duration) -> BoxFuture<'_, Result<Lease, Error>> {
            self.0.register(instance, ttl)
        }

        fn renew<'a>(&'a self, lease: &'a Lease) -> BoxFuture<'a, Result<(), Error>> {
            self.0.renew(lease)
        }

        fn deregister<'a>(&'a self, id: &'a InstanceId) -> BoxFuture<'a, Result<(), Error>> {
            self.0.deregister(id)
        }

        fn get<'a>(&'a self, service: &'a ServiceName) -> BoxFuture<'a, Result<Vec<Instance>, Error>> {
            panic!("all of {service} are copied");
        }

        fn list(&self) -> BoxFuture<'_, Result<Vec<ServiceEntry>, Error>> {
            panic!("all services are listed");
        }

        fn watch(&self, service: Option<ServiceName>) -> Watch {
            self.0.watch(service)
        }
    }

    #[tokio::test]
    async fn one_is_found_and_announced_without_a_copy_of_the_others() {
        let memory = Memory::new();
        let registry: DynRegistry = Arc::new(Uncopied(memory.clone()));
        let service = ServiceName::new("reports").unwrap();
        let ids: Vec<InstanceId> = (0..3).map(|n| InstanceId::new(format!("reports-{n}"))).collect();
        let mut announcers: Vec<Announcer> =
            ids.iter().map(|id| Announcer::new(&registry, id, &service, "abc", 8001)).collect();
        for announcer in &mut announcers {
            announcer.ready().await;
        }
        let memory: DynRegistry = Arc::new(memory);
        let all = ids.iter().map(|id| format!("{id} 127.0.0.1:8001")).collect::<Vec<_>>();
        until(&memory, &all.iter().map(String::as_str).collect::<Vec<_>>()).await;
        let found = known(&registry, &service, &ids[1]).await.unwrap();
        assert_eq!((&found.id, &found.service), (&ids[1], &service));
        assert_eq!(known(&registry, &service, &InstanceId::new("reports-9")).await, None);
    }
}
