//! The registry as it is shown from afar: to be read. Who announces instances is on this machine.

use std::time::Duration;

use formic_core::{Instance, InstanceId, ServiceName};
use formic_registry::{BoxFuture, DynRegistry, Error, Lease, Registry, ServiceEntry, Watch};

#[derive(Debug)]
pub(crate) struct Shown(pub(crate) DynRegistry);

fn refused<T: Send + 'static>() -> BoxFuture<'static, Result<T, Error>> {
    Box::pin(std::future::ready(Err(Error::ReadOnly {
        registry: "server's",
        hint: "over TCP it is only shown",
    })))
}

impl Registry for Shown {
    fn register(&self, _: Instance, _: Duration) -> BoxFuture<'_, Result<Lease, Error>> {
        refused()
    }

    fn renew<'a>(&'a self, _: &'a Lease) -> BoxFuture<'a, Result<(), Error>> {
        refused()
    }

    fn deregister<'a>(&'a self, _: &'a InstanceId) -> BoxFuture<'a, Result<(), Error>> {
        refused()
    }

    fn get<'a>(&'a self, service: &'a ServiceName) -> BoxFuture<'a, Result<Vec<Instance>, Error>> {
        self.0.get(service)
    }

    fn list(&self) -> BoxFuture<'_, Result<Vec<ServiceEntry>, Error>> {
        self.0.list()
    }

    fn watch(&self, service: Option<ServiceName>) -> Watch {
        self.0.watch(service)
    }

    fn read_only(&self) -> bool {
        true
    }
}
