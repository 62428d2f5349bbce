//! The top of a channel: what every call gets before it is anybody's.

use std::sync::Arc;
use std::time::Duration;

use formic_core::{Error, Method, Priority, RpcService, priority};
use formic_rpc::context::Scope;
use formic_rpc::trace::TRACEPARENT;
use formic_rpc::{Answer, BoxFuture, Call, Handle, Intercepted, Interceptor};
use http::{HeaderName, HeaderValue};
use tokio::task::coop::consume_budget;
use tokio::time::Instant;

use crate::deadline::Deadline;
use crate::dispatch::{Begun, Dispatch, Terminal};
use crate::trace;

/// What says how much a call matters.
pub(crate) const PRIORITY: HeaderName = HeaderName::from_static(priority::HEADER);

/// Deadline, trace and priority, then interceptors, then the call itself.
pub(crate) struct Stack {
    timeout: Duration,
    dispatch: Arc<Dispatch>,
    /// Only where there are interceptors: without, a call is one future in one box.
    intercepted: Option<Arc<dyn Handle>>,
}

impl Stack {
    pub(crate) fn new(dispatch: Arc<Dispatch>, timeout: Duration, chain: Vec<Arc<dyn Interceptor>>) -> Self {
        let intercepted =
            (!chain.is_empty()).then(|| Intercepted::wrap(Arc::new(Terminal(Arc::clone(&dispatch))), chain));
        Self { timeout, dispatch, intercepted }
    }
}

impl Handle for Stack {
    fn method(&self, path: &str) -> Option<Method> {
        self.dispatch.method(path)
    }

    fn call(&self, mut call: Call) -> BoxFuture<'static, Result<Answer, Error>> {
        let scope = Scope::current();
        let now = Instant::now();
        let deadline = match Deadline::settle(&mut call, scope.deadline, self.timeout, now) {
            Ok(deadline) => deadline,
            Err(error) => return fail(error),
        };
        let trace = trace::next(scope.trace, &call.metadata);
        if scope.priority != Priority::Normal && !call.metadata.as_headers().contains_key(PRIORITY) {
            let headers = call.metadata.as_headers_mut();
            headers.insert(PRIORITY, HeaderValue::from_static(scope.priority.as_str()));
        }
        match &self.intercepted {
            None => {
                let dispatch = Arc::clone(&self.dispatch);
                match dispatch.begin(call, Some(trace), scope.retried, now) {
                    Begun::Away(away) => Box::pin(deadline.bound(move || away.run())),
                    Begun::Here(here) => Box::pin(deadline.bound(move || here.run())),
                }
            }
            Some(intercepted) => {
                call.metadata.as_headers_mut().insert(TRACEPARENT, trace.to_header());
                let intercepted = Arc::clone(intercepted);
                Box::pin(deadline.bound(move || intercepted.call(call)))
            }
        }
    }

    fn services(&self) -> Vec<RpcService> {
        self.dispatch.services()
    }
}

/// A channel that can go nowhere; each call says why.
pub(crate) struct Refusal(pub(crate) Error);

impl Handle for Refusal {
    fn method(&self, _path: &str) -> Option<Method> {
        None
    }

    fn call(&self, _call: Call) -> BoxFuture<'static, Result<Answer, Error>> {
        fail(self.0.clone())
    }
}

/// A call that failed before it began.
fn fail(error: Error) -> BoxFuture<'static, Result<Answer, Error>> {
    Box::pin(async {
        consume_budget().await;
        Err(error)
    })
}
