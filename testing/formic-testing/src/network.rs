//! Services that find each other by name within one process.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use formic_client::{Client, Config};
use formic_core::{Error, Method, RpcService, ServiceName};
use formic_registry::Memory;
use formic_rpc::rt::IntoHandle;
use formic_rpc::{Answer, BoxFuture, Call, Channel, Handle, Interceptor};
use formic_server::{Running, Server};
use formic_telemetry::Metrics;

use crate::{Faults, faults};

/// A network in memory. Services may be added after their callers, replaced, and taken away.
#[derive(Clone, Debug)]
pub struct Network {
    client: Client,
    nodes: Arc<Mutex<HashMap<ServiceName, Node>>>,
    faults: Arc<Mutex<Option<Arc<faults::Inner>>>>,
}

/// Where a name leads, at the moment of each call.
#[derive(Debug)]
struct Node {
    place: Arc<Place>,
}

#[derive(Debug, Default)]
struct Place {
    name: String,
    running: Mutex<Option<Running>>,
    faults: Arc<Mutex<Option<Arc<faults::Inner>>>>,
}

impl Default for Network {
    fn default() -> Self {
        Self::new()
    }
}

impl Network {
    /// A network without services. Needs a tokio runtime around it, which `#[formic::test]` is.
    #[must_use]
    pub fn new() -> Self {
        let client = Client::new(Arc::new(Memory::new()), Config::default());
        Self { client, nodes: Arc::default(), faults: Arc::default() }
    }

    /// Serves an implementation of a generated trait under a name, in place of what was there.
    ///
    /// # Panics
    /// If the name is none, or the service takes the name of a built-in one.
    pub fn serve<S, Marker>(&self, name: &str, service: S)
    where
        Arc<S>: IntoHandle<Marker>,
    {
        self.serve_handle(name, Arc::new(service).into_handle(), Vec::new());
    }

    /// Serves any handle behind interceptors.
    ///
    /// # Panics
    /// As [`serve`](Self::serve).
    pub fn serve_handle(&self, name: &str, handle: Arc<dyn Handle>, interceptors: Vec<Arc<dyn Interceptor>>) {
        let mut server = match Server::new(formic_server::Config::default(), Metrics::new()).serve(handle) {
            Ok(server) => server,
            Err(error) => panic!("{name} cannot be served: {error}"),
        };
        for interceptor in interceptors {
            server = server.intercept(interceptor);
        }
        match server.build() {
            Ok(running) => {
                *self.place(name).running.lock().unwrap_or_else(PoisonError::into_inner) = Some(running)
            }
            Err(error) => panic!("{name} cannot be served: {error}"),
        }
    }

    /// Takes a service away; calls to it are `unavailable` until it is served again.
    ///
    /// # Panics
    /// If the name is none.
    pub fn remove(&self, name: &str) {
        *self.place(name).running.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    /// A channel to a service, which may be added later.
    ///
    /// # Panics
    /// If the name is none.
    #[must_use]
    pub fn client(&self, name: &str) -> Channel {
        self.place(name);
        self.client.of(name)
    }

    /// The same for a caller of this name, which faults between two names ask for.
    ///
    /// # Panics
    /// If the name is none.
    #[must_use]
    pub fn client_of(&self, caller: &str, name: &str) -> Channel {
        Channel::new(Arc::new(Named {
            caller: caller.into(),
            handle: Arc::clone(self.client(name).handle()),
        }))
    }

    /// Every call from now on meets these faults: by the name of its service, and of its caller where
    /// [`client_of`](Self::client_of) says it.
    pub fn inject(&self, faults: &Faults) {
        *self.faults.lock().unwrap_or_else(PoisonError::into_inner) = Some(Arc::clone(&faults.0));
    }

    fn place(&self, name: &str) -> Arc<Place> {
        let Ok(name) = ServiceName::new(name) else { panic!("{name:?} is no name of a service") };
        let mut nodes = self.nodes.lock().unwrap_or_else(PoisonError::into_inner);
        let node = nodes.entry(name.clone()).or_insert_with(|| {
            let faults = Arc::clone(&self.faults);
            let place = Arc::new(Place { name: name.to_string(), running: Mutex::default(), faults });
            self.client.add_local(&name, Arc::clone(&place) as Arc<dyn Handle>);
            Node { place }
        });
        Arc::clone(&node.place)
    }
}

/// A channel that says who calls.
struct Named {
    caller: String,
    handle: Arc<dyn Handle>,
}

impl Handle for Named {
    fn method(&self, path: &str) -> Option<Method> {
        self.handle.method(path)
    }

    fn call(&self, mut call: Call) -> BoxFuture<'static, Result<Answer, Error>> {
        match faults::sign(&mut call, &self.caller) {
            Ok(()) => self.handle.call(call),
            Err(error) => Box::pin(std::future::ready(Err(error))),
        }
    }

    fn services(&self) -> Vec<RpcService> {
        self.handle.services()
    }
}

impl Place {
    fn handle(&self) -> Option<Arc<dyn Handle>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner).as_ref().map(Running::handle)
    }
}

impl Handle for Place {
    fn method(&self, path: &str) -> Option<Method> {
        self.handle()?.method(path)
    }

    fn call(&self, mut call: Call) -> BoxFuture<'static, Result<Answer, Error>> {
        let handle = self.handle();
        let answer = |call| match handle {
            Some(handle) => handle.call(call),
            None => {
                let error = Error::unavailable("the service is not there").with_unsent();
                Box::pin(std::future::ready(Err(error))) as BoxFuture<'static, _>
            }
        };
        let from = faults::signature(&mut call);
        let faults = self.faults.lock().unwrap_or_else(PoisonError::into_inner).clone();
        match faults {
            Some(faults) => Box::pin(faults.befall(from, Some(self.name.clone()), call, answer)),
            None => answer(call),
        }
    }

    fn services(&self) -> Vec<RpcService> {
        self.handle().map(|handle| handle.services()).unwrap_or_default()
    }
}
