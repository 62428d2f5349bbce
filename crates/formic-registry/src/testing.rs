//! A registry that fails on demand, for this crate's own tests.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use formic_core::{Endpoint, Instance, InstanceId, ServiceName};
use futures::{FutureExt, StreamExt, future, stream};
use tokio::sync::watch;

use crate::{BoxFuture, Error, Lease, Memory, Registry, ServiceEntry, Watch};

pub(crate) fn name(text: &str) -> ServiceName {
    ServiceName::new(text).unwrap()
}

pub(crate) fn instance(service: &str, id: &str) -> Instance {
    let port = 1000 + id.bytes().map(u16::from).sum::<u16>();
    Instance {
        id: InstanceId::new(id),
        service: name(service),
        version: String::new(),
        endpoint: Endpoint::Tcp(([127, 0, 0, 1], port).into()),
        metadata: BTreeMap::new(),
        rpc: Vec::new(),
    }
}

/// Memory behind a connection that can be cut, and a process that can be restarted.
#[derive(Debug)]
pub(crate) struct Flaky {
    memory: Mutex<Memory>,
    failing: watch::Sender<bool>,
    refusing: AtomicBool,
    hanging: AtomicBool,
    faults: AtomicU64,
}

impl Flaky {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self {
            memory: Mutex::default(),
            failing: watch::channel(false).0,
            refusing: AtomicBool::new(false),
            hanging: AtomicBool::new(false),
            faults: AtomicU64::new(0),
        })
    }

    pub(crate) fn memory(&self) -> Memory {
        self.memory.lock().unwrap().clone()
    }

    /// Cuts the connection, or mends it.
    pub(crate) fn fail(&self, failing: bool) {
        self.failing.send_replace(failing);
    }

    pub(crate) fn refuse(&self, refusing: bool) {
        self.refusing.store(refusing, Ordering::Relaxed);
    }

    pub(crate) fn hang(&self, hanging: bool) {
        self.hanging.store(hanging, Ordering::Relaxed);
    }

    /// Forgets everything.
    pub(crate) fn restart(&self) {
        *self.memory.lock().unwrap() = Memory::new();
    }

    /// How many faults have fired.
    pub(crate) fn faults(&self) -> u64 {
        self.faults.load(Ordering::Relaxed)
    }

    fn fault(&self) -> Option<Error> {
        let error = if *self.failing.borrow() {
            Error::unavailable("the connection is cut")
        } else if self.refusing.load(Ordering::Relaxed) {
            Error::Invalid("refused".into())
        } else {
            return None;
        };
        self.faults.fetch_add(1, Ordering::Relaxed);
        Some(error)
    }

    async fn guarded<T>(&self, call: impl Future<Output = Result<T, Error>>) -> Result<T, Error> {
        if self.hanging.load(Ordering::Relaxed) {
            future::pending::<()>().await;
        }
        match self.fault() {
            Some(error) => Err(error),
            None => call.await,
        }
    }
}

impl Registry for Flaky {
    fn register(&self, instance: Instance, ttl: Duration) -> BoxFuture<'_, Result<Lease, Error>> {
        async move { self.guarded(self.memory().register(instance, ttl)).await }.boxed()
    }

    fn renew<'a>(&'a self, lease: &'a Lease) -> BoxFuture<'a, Result<(), Error>> {
        async move { self.guarded(self.memory().renew(lease)).await }.boxed()
    }

    fn deregister<'a>(&'a self, id: &'a InstanceId) -> BoxFuture<'a, Result<(), Error>> {
        async move { self.guarded(self.memory().deregister(id)).await }.boxed()
    }

    fn get<'a>(&'a self, service: &'a ServiceName) -> BoxFuture<'a, Result<Vec<Instance>, Error>> {
        async move { self.guarded(self.memory().get(service)).await }.boxed()
    }

    fn list(&self) -> BoxFuture<'_, Result<Vec<ServiceEntry>, Error>> {
        async move { self.guarded(self.memory().list()).await }.boxed()
    }

    fn watch(&self, service: Option<ServiceName>) -> Watch {
        if self.hanging.load(Ordering::Relaxed) {
            return Watch::new(stream::pending());
        }
        if let Some(error) = self.fault() {
            return Watch::failed(error);
        }
        let mut failing = self.failing.subscribe();
        let cut = async move {
            let _ = failing.wait_for(|failing| *failing).await;
        };
        let broken = stream::once(future::ready(Err(Error::unavailable("the connection broke"))));
        Watch::new(self.memory().watch(service).take_until(cut).chain(broken))
    }
}
