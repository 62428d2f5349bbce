//! The registry within one process: what tests use, and what the daemon serves to others.
//!
//! It starts no task. Leases expire when somebody looks: every call sweeps first, and a watch that is
//! being polled sleeps until the next expiry. So it needs no owner and no shutdown, and a paused tokio
//! clock drives it.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use formic_core::{Instance, InstanceId, Members, ServiceName};
use futures::{FutureExt, future, stream};
use tokio::sync::watch;
use tokio::time::Instant;

use crate::registry::validate;
use crate::{BoxFuture, Error, Lease, LeaseId, Registry, ServiceEntry, Snapshot, Watch};

/// A registry in memory; clones share it.
#[derive(Clone, Debug, Default)]
pub struct Memory {
    state: Arc<Mutex<State>>,
}

#[derive(Debug)]
struct Entry {
    service: ServiceName,
    lease: LeaseId,
    ttl: Duration,
    expires: Instant,
}

/// What a watcher follows: one service, or everything.
type Topic = Option<ServiceName>;

#[derive(Debug)]
struct State {
    entries: BTreeMap<InstanceId, Entry>,
    /// The same entries by service, so that a lookup does not walk all of them.
    services: BTreeMap<ServiceName, Members>,
    /// The same, all of them.
    all: Members,
    /// The same entries by expiry, soonest first.
    deadlines: BTreeSet<(Instant, InstanceId)>,
    topics: HashMap<Topic, watch::Sender<Snapshot>>,
    generation: u64,
    next_lease: u64,
}

impl Default for State {
    fn default() -> Self {
        Self {
            entries: BTreeMap::new(),
            services: BTreeMap::new(),
            all: Members::new(),
            deadlines: BTreeSet::new(),
            topics: HashMap::new(),
            generation: 0,
            // Random, so that a restarted registry does not take a lease of its former life for one
            // of its own; 52 bits, so that JSON readers keep every digit.
            next_lease: fastrand::u64(1..1 << 52),
        }
    }
}

// === impl Memory ===

impl Memory {
    /// An empty registry.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// The state, without what has expired.
    fn lock(&self) -> MutexGuard<'_, State> {
        // A panic inside leaves at worst one update half applied; the next one rewrites it.
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.sweep(Instant::now());
        state
    }
}

impl Registry for Memory {
    fn register(&self, instance: Instance, ttl: Duration) -> BoxFuture<'_, Result<Lease, Error>> {
        future::lazy(move |_| {
            let ttl = validate(&instance, ttl)?;
            Ok(self.lock().insert(instance, ttl))
        })
        .boxed()
    }

    fn renew<'a>(&'a self, lease: &'a Lease) -> BoxFuture<'a, Result<(), Error>> {
        future::lazy(|_| self.lock().renew(lease)).boxed()
    }

    fn deregister<'a>(&'a self, id: &'a InstanceId) -> BoxFuture<'a, Result<(), Error>> {
        future::lazy(|_| {
            let mut state = self.lock();
            if let Some(service) = state.remove(id) {
                state.publish([service]);
            }
            Ok(())
        })
        .boxed()
    }

    fn get<'a>(&'a self, service: &'a ServiceName) -> BoxFuture<'a, Result<Vec<Instance>, Error>> {
        future::lazy(|_| Ok(self.lock().of(service).cloned().collect())).boxed()
    }

    fn list(&self) -> BoxFuture<'_, Result<Vec<ServiceEntry>, Error>> {
        future::lazy(|_| {
            let state = self.lock();
            let entry = |(name, members): (&ServiceName, &Members)| ServiceEntry {
                service: name.clone(),
                instances: members.len(),
            };
            Ok(state.services.iter().map(entry).collect())
        })
        .boxed()
    }

    fn watch(&self, service: Option<ServiceName>) -> Watch {
        let receiver = self.lock().subscribe(service);
        let this = self.clone();
        Watch::new(stream::unfold((this, receiver, true), |(this, mut receiver, first)| async move {
            if !first && !this.changed(&mut receiver).await {
                return None;
            }
            let snapshot = receiver.borrow_and_update().clone();
            Some((Ok(snapshot), (this, receiver, false)))
        }))
    }
}

impl Memory {
    /// Waits for a change, letting leases expire meanwhile. Cancel safe: `changed` is, and a sweep is
    /// synchronous.
    async fn changed(&self, receiver: &mut watch::Receiver<Snapshot>) -> bool {
        loop {
            let expiry = self.lock().deadlines.first().map(|(expires, _)| *expires);
            let expired = async {
                match expiry {
                    Some(expiry) => tokio::time::sleep_until(expiry).await,
                    // Whatever is registered from now on to this topic wakes the receiver.
                    None => future::pending().await,
                }
            };
            tokio::select! {
                changed = receiver.changed() => return changed.is_ok(),
                () = expired => {}
            }
        }
    }
}

// === impl State ===

impl State {
    fn of(&self, service: &ServiceName) -> impl Iterator<Item = &Instance> {
        self.services.get(service).into_iter().flatten()
    }

    fn insert(&mut self, instance: Instance, ttl: Duration) -> Lease {
        let (id, service) = (instance.id.clone(), instance.service.clone());
        let lease = LeaseId(self.next_lease);
        self.next_lease += 1;
        let before = self.remove(&id);
        let expires = Instant::now() + ttl;
        self.deadlines.insert((expires, id.clone()));
        let instance = Arc::new(instance);
        self.services.entry(service.clone()).or_default().insert(Arc::clone(&instance));
        self.all.insert(instance);
        self.entries.insert(id.clone(), Entry { service: service.clone(), lease, ttl, expires });
        self.publish(before.into_iter().chain([service]));
        Lease { id: lease, instance: id, ttl }
    }

    fn renew(&mut self, lease: &Lease) -> Result<(), Error> {
        let expired = || Error::LeaseExpired { instance: lease.instance.clone() };
        let entry = self.entries.get_mut(&lease.instance).filter(|entry| entry.lease == lease.id);
        let entry = entry.ok_or_else(expired)?;
        self.deadlines.remove(&(entry.expires, lease.instance.clone()));
        entry.expires = Instant::now() + entry.ttl;
        self.deadlines.insert((entry.expires, lease.instance.clone()));
        Ok(())
    }

    /// Removes an entry and says which service it belonged to; the caller publishes.
    fn remove(&mut self, id: &InstanceId) -> Option<ServiceName> {
        let entry = self.entries.remove(id)?;
        self.deadlines.remove(&(entry.expires, id.clone()));
        self.all.remove(id);
        let service = entry.service;
        if let Some(members) = self.services.get_mut(&service) {
            members.remove(id);
            if members.is_empty() {
                self.services.remove(&service);
            }
        }
        Some(service)
    }

    fn sweep(&mut self, now: Instant) {
        let mut touched = BTreeSet::new();
        while let Some((expires, id)) = self.deadlines.first().cloned()
            && expires <= now
        {
            tracing::debug!(instance = %id, "lease expired");
            touched.extend(self.remove(&id));
            self.deadlines.remove(&(expires, id));
        }
        if !touched.is_empty() {
            self.publish(touched);
        }
    }

    /// Tells the watchers of these services, and of everything, what is there now.
    fn publish(&mut self, services: impl IntoIterator<Item = ServiceName>) {
        self.generation += 1;
        self.topics.retain(|_, sender| sender.receiver_count() > 0);
        for topic in services.into_iter().map(Some).chain([None]) {
            if let Some(sender) = self.topics.get(&topic) {
                sender.send_replace(self.snapshot(topic.as_ref()));
            }
        }
    }

    fn subscribe(&mut self, topic: Topic) -> watch::Receiver<Snapshot> {
        let snapshot = self.snapshot(topic.as_ref());
        self.topics.entry(topic).or_insert_with(|| watch::channel(snapshot).0).subscribe()
    }

    fn snapshot(&self, service: Option<&ServiceName>) -> Snapshot {
        let instances = match service {
            Some(service) => self.services.get(service).cloned().unwrap_or_default(),
            None => self.all.clone(),
        };
        Snapshot { generation: self.generation, instances }
    }
}

#[cfg(all(test, feature = "conformance"))]
mod tests;
