//! The registry whose content is known beforehand: a list in a config file, or the only peer of a test.
//!
//! The file is not called `static`, which Rust keeps for itself.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use formic_core::{Endpoint, Instance, InstanceId, ServiceName};
use futures::{FutureExt, StreamExt, future, stream};

use crate::{BoxFuture, Error, Lease, Registry, ServiceEntry, Snapshot, Watch};

const READ_ONLY: Error = Error::ReadOnly {
    registry: "static",
    hint: "its instances are those of the settings; add this one there, or choose another registry",
};

/// A registry of fixed content; clones share it.
#[derive(Clone, Debug, Default)]
pub struct Static {
    instances: Arc<BTreeMap<InstanceId, Instance>>,
}

impl Static {
    /// Holds exactly these instances; of several with one id, the last.
    pub fn new(instances: impl IntoIterator<Item = Instance>) -> Self {
        let keyed = instances.into_iter().map(|instance| (instance.id.clone(), instance));
        Self { instances: Arc::new(keyed.collect()) }
    }

    fn of(&self, service: Option<&ServiceName>) -> impl Iterator<Item = &Instance> {
        self.instances.values().filter(move |instance| service.is_none_or(|name| *name == instance.service))
    }
}

/// Services by name with their endpoints: the shape of a config file.
impl<E: IntoIterator<Item = Endpoint>> FromIterator<(ServiceName, E)> for Static {
    fn from_iter<I: IntoIterator<Item = (ServiceName, E)>>(services: I) -> Self {
        let pairs = services.into_iter().flat_map(|(service, endpoints)| {
            endpoints.into_iter().map(move |endpoint| (service.clone(), endpoint))
        });
        Self::new(pairs.collect::<BTreeSet<_>>().into_iter().map(|(service, endpoint)| Instance {
            // Made of what it names, so that balancer state survives a reordered list.
            id: InstanceId::new(format!("{service}@{endpoint}")),
            service,
            version: String::new(),
            endpoint,
            metadata: BTreeMap::new(),
            rpc: Vec::new(),
        }))
    }
}

impl Registry for Static {
    fn register(&self, _instance: Instance, _ttl: Duration) -> BoxFuture<'_, Result<Lease, Error>> {
        future::ready(Err(READ_ONLY)).boxed()
    }

    fn renew<'a>(&'a self, _lease: &'a Lease) -> BoxFuture<'a, Result<(), Error>> {
        future::ready(Err(READ_ONLY)).boxed()
    }

    fn deregister<'a>(&'a self, _id: &'a InstanceId) -> BoxFuture<'a, Result<(), Error>> {
        future::ready(Err(READ_ONLY)).boxed()
    }

    fn get<'a>(&'a self, service: &'a ServiceName) -> BoxFuture<'a, Result<Vec<Instance>, Error>> {
        future::lazy(|_| Ok(self.of(Some(service)).cloned().collect())).boxed()
    }

    fn list(&self) -> BoxFuture<'_, Result<Vec<ServiceEntry>, Error>> {
        future::lazy(|_| {
            let mut counts: BTreeMap<&ServiceName, usize> = BTreeMap::new();
            for instance in self.instances.values() {
                *counts.entry(&instance.service).or_default() += 1;
            }
            let entry =
                |(name, instances): (&ServiceName, usize)| ServiceEntry { service: name.clone(), instances };
            Ok(counts.into_iter().map(entry).collect())
        })
        .boxed()
    }

    fn watch(&self, service: Option<ServiceName>) -> Watch {
        let instances = self.of(service.as_ref()).cloned().collect();
        // Once, and then silence: an end would mean a registry that went away.
        Watch::new(stream::iter([Ok(Snapshot { generation: 0, instances })]).chain(stream::pending()))
    }

    fn read_only(&self) -> bool {
        true
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use super::*;

    fn name(text: &str) -> ServiceName {
        ServiceName::new(text).unwrap()
    }

    fn two() -> Static {
        let endpoint = |port| Endpoint::Tcp(([127, 0, 0, 1], port).into());
        [(name("order"), vec![endpoint(2), endpoint(1), endpoint(1)]), (name("user"), vec![endpoint(3)])]
            .into_iter()
            .collect()
    }

    #[tokio::test]
    async fn serves_what_it_was_given() {
        let registry = two();
        let found = registry.get(&name("order")).await.unwrap();
        let ids: Vec<_> = found.iter().map(|instance| instance.id.as_str()).collect();
        assert_eq!(ids, ["order@127.0.0.1:1", "order@127.0.0.1:2"]);
        assert!(registry.get(&name("absent")).await.unwrap().is_empty());
        let counts: Vec<_> =
            registry.list().await.unwrap().into_iter().map(|entry| entry.instances).collect();
        assert_eq!(counts, [2, 1]);
        assert_eq!(registry.watch(Some(name("user"))).next().await.unwrap().instances.len(), 1);
        assert_eq!(registry.watch(None).next().await.unwrap().instances.len(), 3);
    }

    #[tokio::test(start_paused = true)]
    async fn its_watch_does_not_end() {
        let mut watch = two().watch(None);
        watch.next().await.unwrap();
        assert!(tokio::time::timeout(Duration::from_secs(3600), watch.next()).await.is_err());
    }

    #[tokio::test]
    async fn registration_is_refused_with_advice() {
        let registry = two();
        let instance = registry.get(&name("user")).await.unwrap().remove(0);
        let error = registry.register(instance, Duration::from_secs(1)).await.unwrap_err();
        assert!(!error.is_retryable() && registry.read_only());
        assert!(error.to_string().contains("choose another registry"), "{error}");
    }
}
