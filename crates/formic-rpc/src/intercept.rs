//! Interceptors: code of the author's own around every call, on servers and on clients, over every
//! transport, unary and streaming alike.

use std::sync::Arc;

use formic_core::{Error, Method, RpcService};

use crate::{Answer, BoxFuture, Call, Handle};

/// Sees a call on its way in and the answer on its way out.
///
/// Any `Fn(Call, Next) -> impl Future<Output = Result<Answer, Error>>` is one.
pub trait Interceptor: Send + Sync + 'static {
    /// Handles the call; `next.run(call)` goes on, anything else answers here.
    fn intercept(&self, call: Call, next: Next) -> BoxFuture<'static, Result<Answer, Error>>;
}

impl<F, Fut> Interceptor for F
where
    F: Fn(Call, Next) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Result<Answer, Error>> + Send + 'static,
{
    fn intercept(&self, call: Call, next: Next) -> BoxFuture<'static, Result<Answer, Error>> {
        Box::pin(self(call, next))
    }
}

/// One that is shared.
impl Interceptor for Arc<dyn Interceptor> {
    fn intercept(&self, call: Call, next: Next) -> BoxFuture<'static, Result<Answer, Error>> {
        (**self).intercept(call, next)
    }
}

/// The rest of the way to the handler.
#[derive(Clone)]
pub struct Next {
    chain: Arc<[Arc<dyn Interceptor>]>,
    at: usize,
    handle: Arc<dyn Handle>,
}

impl std::fmt::Debug for Next {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Next({} of {})", self.at, self.chain.len())
    }
}

impl Next {
    /// Goes on with the call.
    pub fn run(mut self, call: Call) -> BoxFuture<'static, Result<Answer, Error>> {
        match self.chain.get(self.at).map(Arc::clone) {
            Some(interceptor) => {
                self.at += 1;
                interceptor.intercept(call, self)
            }
            None => self.handle.call(call),
        }
    }
}

/// A handle behind interceptors; the first one added is the outermost.
pub struct Intercepted {
    chain: Arc<[Arc<dyn Interceptor>]>,
    handle: Arc<dyn Handle>,
}

impl std::fmt::Debug for Intercepted {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Intercepted({})", self.chain.len())
    }
}

impl Intercepted {
    /// Wraps a handle; without interceptors the handle stays as it is.
    #[must_use]
    pub fn wrap(handle: Arc<dyn Handle>, chain: Vec<Arc<dyn Interceptor>>) -> Arc<dyn Handle> {
        if chain.is_empty() { handle } else { Arc::new(Self { chain: chain.into(), handle }) }
    }
}

impl Handle for Intercepted {
    fn method(&self, path: &str) -> Option<Method> {
        self.handle.method(path)
    }

    fn call(&self, call: Call) -> BoxFuture<'static, Result<Answer, Error>> {
        Next { chain: Arc::clone(&self.chain), at: 0, handle: Arc::clone(&self.handle) }.run(call)
    }

    fn services(&self) -> Vec<RpcService> {
        self.handle.services()
    }

    fn descriptors(&self) -> Vec<&'static [u8]> {
        self.handle.descriptors()
    }
}
