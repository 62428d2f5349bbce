//! The trait that everything which answers calls implements, and the table of several of them.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use formic_core::{Error, Method, RpcMethod, RpcService};

use crate::table::Table;
use crate::{Answer, Call};

/// A boxed future that may move between threads.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// Something that answers calls: a generated server, a layer around one, a client's transport.
///
/// Dropping the future of [`call`](Handle::call) cancels the call.
pub trait Handle: Send + Sync + 'static {
    /// The method at `/package.Service/Method`, if it is answered here.
    fn method(&self, path: &str) -> Option<Method>;

    /// Answers one call.
    fn call(&self, call: Call) -> BoxFuture<'static, Result<Answer, Error>>;

    /// What is served, for registries and reflection. A proxy may serve what it cannot list.
    fn services(&self) -> Vec<RpcService> {
        Vec::new()
    }

    /// Encoded `FileDescriptorSet`s that describe the services, for reflection.
    fn descriptors(&self) -> Vec<&'static [u8]> {
        Vec::new()
    }
}

impl<H: Handle + ?Sized> Handle for Arc<H> {
    fn method(&self, path: &str) -> Option<Method> {
        (**self).method(path)
    }

    fn call(&self, call: Call) -> BoxFuture<'static, Result<Answer, Error>> {
        (**self).call(call)
    }

    fn services(&self) -> Vec<RpcService> {
        (**self).services()
    }

    fn descriptors(&self) -> Vec<&'static [u8]> {
        (**self).descriptors()
    }
}

/// Several handles behind one, found by the name of the RPC service.
#[derive(Default)]
pub struct Routes {
    by_service: Table<Arc<dyn Handle>>,
    handles: Vec<Arc<dyn Handle>>,
}

impl std::fmt::Debug for Routes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_set().entries(self.by_service.keys()).finish()
    }
}

impl Routes {
    /// An empty table.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a handle under the names of its services.
    ///
    /// # Errors
    /// If one of the names is taken: two implementations of one service would shadow each other.
    pub fn add(&mut self, handle: Arc<dyn Handle>) -> Result<(), Error> {
        for service in handle.services() {
            if self.by_service.contains_key(&service.name) {
                return Err(Error::already_exists(format!("{} is served twice", service.name)));
            }
            self.by_service.insert(service.name, Arc::clone(&handle));
        }
        self.handles.push(handle);
        Ok(())
    }

    fn find(&self, path: &str) -> Option<&Arc<dyn Handle>> {
        self.by_service.get(formic_core::method::split(path).0)
    }
}

impl Handle for Routes {
    fn method(&self, path: &str) -> Option<Method> {
        self.find(path)?.method(path)
    }

    fn call(&self, call: Call) -> BoxFuture<'static, Result<Answer, Error>> {
        match self.find(call.method.path()) {
            Some(handle) => handle.call(call),
            None => {
                let error = Error::unimplemented(format!("no method {}", call.method.path()));
                Box::pin(std::future::ready(Err(error)))
            }
        }
    }

    fn services(&self) -> Vec<RpcService> {
        self.handles.iter().flat_map(|handle| handle.services()).collect()
    }

    fn descriptors(&self) -> Vec<&'static [u8]> {
        self.handles.iter().flat_map(|handle| handle.descriptors()).collect()
    }
}

/// The registry's form of a service from the methods that generated code knows.
#[must_use]
pub fn describe(name: &str, methods: &[Method]) -> RpcService {
    RpcService {
        name: name.into(),
        methods: methods
            .iter()
            .map(|method| RpcMethod {
                name: method.name().into(),
                kind: method.kind,
                idempotent: method.idempotent,
                safe: method.safe,
            })
            .collect(),
    }
}
