//! The registry as those see it who call: without instances that run and are to get no calls.
//!
//! Such are the new ones of a blue-green update until all of them are ready, and the old ones that are kept
//! for a way back. They register themselves like all others and are probed like all others; nobody is told
//! of them.

use std::collections::BTreeSet;
use std::time::Duration;

use formic_core::{Instance, InstanceId, ServiceName};
use formic_registry::{BoxFuture, DynRegistry, Error, Lease, Registry, ServiceEntry, Snapshot, Watch};
use tokio::sync::watch;

/// A registry without what is hidden.
#[derive(Debug)]
pub(crate) struct Gated {
    inner: DynRegistry,
    hidden: watch::Receiver<BTreeSet<String>>,
}

/// One watcher's place.
struct Following {
    inner: Watch,
    hidden: watch::Receiver<BTreeSet<String>>,
    /// The last whole set.
    last: Option<Snapshot>,
    /// How often what is hidden has changed. Added to the generation, it keeps that growing.
    changes: u64,
    open: bool,
}

impl Gated {
    pub(crate) fn new(inner: DynRegistry, hidden: watch::Receiver<BTreeSet<String>>) -> Self {
        Self { inner, hidden }
    }

    fn shown(&self, instance: &Instance) -> bool {
        !self.hidden.borrow().contains(instance.id.as_str())
    }
}

impl Registry for Gated {
    fn register(&self, instance: Instance, ttl: Duration) -> BoxFuture<'_, Result<Lease, Error>> {
        self.inner.register(instance, ttl)
    }

    fn renew<'a>(&'a self, lease: &'a Lease) -> BoxFuture<'a, Result<(), Error>> {
        self.inner.renew(lease)
    }

    fn deregister<'a>(&'a self, id: &'a InstanceId) -> BoxFuture<'a, Result<(), Error>> {
        self.inner.deregister(id)
    }

    fn get<'a>(&'a self, service: &'a ServiceName) -> BoxFuture<'a, Result<Vec<Instance>, Error>> {
        Box::pin(async move {
            let mut instances = self.inner.get(service).await?;
            instances.retain(|instance| self.shown(instance));
            Ok(instances)
        })
    }

    fn list(&self) -> BoxFuture<'_, Result<Vec<ServiceEntry>, Error>> {
        Box::pin(async move {
            let mut entries = self.inner.list().await?;
            if !self.hidden.borrow().is_empty() {
                for entry in &mut entries {
                    entry.instances = self.get(&entry.service).await?.len();
                }
                entries.retain(|entry| entry.instances > 0);
            }
            Ok(entries)
        })
    }

    fn watch(&self, service: Option<ServiceName>) -> Watch {
        let state = Following {
            inner: self.inner.watch(service),
            hidden: self.hidden.clone(),
            last: None,
            changes: 0,
            open: true,
        };
        Watch::new(futures::stream::unfold(Some(state), |state| async {
            let mut state = state?;
            match state.next().await {
                Ok(snapshot) => Some((Ok(snapshot), Some(state))),
                Err(error) => Some((Err(error), None)),
            }
        }))
    }
}

impl Following {
    /// The next set, when either side has changed.
    async fn next(&mut self) -> Result<Snapshot, Error> {
        loop {
            // Both are cancel safe. Without an engine nothing more is hidden or shown.
            tokio::select! {
                next = self.inner.next() => self.last = Some(next?),
                changed = self.hidden.changed(), if self.open => match changed {
                    Ok(()) => self.changes += 1,
                    Err(_) => {
                        self.open = false;
                        // Nothing has changed.
                        continue;
                    }
                },
            }
            let hidden = self.hidden.borrow_and_update();
            if let Some(last) = &self.last {
                let mut instances = last.instances.clone();
                // Few are hidden, and the rest is shared with the set before.
                for id in hidden.iter() {
                    drop(instances.remove(&InstanceId::new(id.as_str())));
                }
                return Ok(Snapshot { generation: last.generation + self.changes, instances });
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]

    use std::sync::Arc;

    use formic_registry::Memory;

    use super::*;

    fn instance(id: &str) -> Instance {
        Instance {
            id: InstanceId::new(id),
            service: ServiceName::new("order").unwrap(),
            version: String::new(),
            endpoint: "127.0.0.1:1".parse().unwrap(),
            metadata: Default::default(),
            rpc: Vec::new(),
        }
    }

    #[tokio::test]
    async fn what_is_hidden_is_seen_by_nobody_until_it_is_shown_again() {
        let inner: DynRegistry = Arc::new(Memory::new());
        let (hide, hidden) = watch::channel(BTreeSet::from(["b".to_owned()]));
        let gated = Gated::new(Arc::clone(&inner), hidden);
        for id in ["a", "b"] {
            gated.register(instance(id), Duration::from_secs(60)).await.unwrap();
        }
        let service = ServiceName::new("order").unwrap();
        let ids = |snapshot: &Snapshot| -> Vec<String> {
            snapshot.instances.iter().map(|instance| instance.id.to_string()).collect()
        };
        let got = gated.get(&service).await.unwrap();
        assert_eq!(got.iter().map(|instance| instance.id.as_str()).collect::<Vec<_>>(), ["a"]);
        assert_eq!(gated.list().await.unwrap()[0].instances, 1);
        let mut watch = gated.watch(None);
        let first = watch.next().await.unwrap();
        assert_eq!(ids(&first), ["a"]);
        hide.send_replace(BTreeSet::from(["a".to_owned()]));
        let second = watch.next().await.unwrap();
        assert_eq!(ids(&second), ["b"]);
        assert!(second.generation > first.generation);
        // The engine's end hides nothing more; what is registered is still followed.
        drop(hide);
        gated.register(instance("c"), Duration::from_secs(60)).await.unwrap();
        let third = watch.next().await.unwrap();
        assert_eq!(ids(&third), ["b", "c"]);
        assert!(third.generation > second.generation);
    }

    #[tokio::test]
    async fn a_service_of_which_all_is_hidden_is_not_listed() {
        let (_hide, hidden) = watch::channel(BTreeSet::from(["a".to_owned()]));
        let gated = Gated::new(Arc::new(Memory::new()), hidden);
        gated.register(instance("a"), Duration::from_secs(60)).await.unwrap();
        assert!(gated.list().await.unwrap().is_empty());
    }
}
