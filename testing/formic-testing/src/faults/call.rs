//! What befalls single calls: around a handler, or around a channel.

use std::sync::Arc;
use std::time::Duration;

use formic_core::{Error, Method, RpcService};
use formic_rpc::{Answer, Body, BoxFuture, Call, Channel, Handle, Interceptor, Next};
use futures::StreamExt;
use tokio::time::sleep;

use super::{Fault, Inner};

/// Says who calls, where a fault asks; taken off before the service sees it.
const FROM: &str = "formic-testing-from";

/// Has a call say who makes it.
pub(crate) fn sign(call: &mut Call, caller: &str) -> Result<(), Error> {
    let signed = call.metadata.insert(FROM, caller);
    signed.map_err(|error| Error::invalid_argument(error.to_string()))
}

/// Who makes a call, if it says so; it says so no longer.
pub(crate) fn signature(call: &mut Call) -> Option<String> {
    let from = call.metadata.get(FROM).map(ToOwned::to_owned);
    if from.is_some() {
        call.metadata.remove(FROM);
    }
    from
}

impl Inner {
    /// Passes a call on, unless something befalls it.
    pub(crate) async fn befall(
        self: Arc<Self>,
        from: Option<String>,
        to: Option<String>,
        call: Call,
        next: impl FnOnce(Call) -> BoxFuture<'static, Result<Answer, Error>> + Send,
    ) -> Result<Answer, Error> {
        let (from, to) = (from.as_deref(), to.as_deref());
        self.reach(from, to).await;
        let fault = self.take(from, to, Some(call.method.path()));
        let outcome = match fault {
            None => next(call).await,
            Some(Fault::Latency(by)) => {
                sleep(by).await;
                next(call).await
            }
            Some(Fault::Error(error)) => Err(error),
            Some(Fault::Drop) => std::future::pending().await,
            Some(Fault::DropAnswer) => {
                let _ = next(call).await;
                std::future::pending().await
            }
            Some(Fault::Refuse) => Err(Error::unavailable("the connection was refused").with_unsent()),
            Some(Fault::Reset) => Err(lost()),
            Some(Fault::ResetAnswer) => {
                let _ = next(call).await;
                Err(lost())
            }
            Some(Fault::SlowBody(by)) => slow(next(call).await, by).await,
            Some(Fault::Break(after)) => broken(next(call).await, after),
        };
        // What was said while they were parted waits with everything else.
        self.reach(to, from).await;
        outcome
    }
}

fn lost() -> Error {
    Error::unavailable("the connection was lost")
}

async fn slow(outcome: Result<Answer, Error>, by: Duration) -> Result<Answer, Error> {
    let answer = outcome?;
    let body = match answer.body {
        Body::Message(bytes) => {
            sleep(by).await;
            Body::Message(bytes)
        }
        Body::Stream(stream) => Body::stream(stream.then(move |message| async move {
            sleep(by).await;
            message
        })),
    };
    Ok(Answer { body, ..answer })
}

fn broken(outcome: Result<Answer, Error>, after: usize) -> Result<Answer, Error> {
    let answer = outcome?;
    match answer.body {
        Body::Message(_) => Err(lost()),
        Body::Stream(stream) => {
            let end = futures::stream::once(std::future::ready(Err(lost())));
            Ok(Answer { body: Body::stream(stream.take(after).chain(end)), ..answer })
        }
    }
}

pub(super) fn server(inner: Arc<Inner>, name: &str) -> Arc<dyn Interceptor> {
    let to = name.to_owned();
    Arc::new(move |mut call: Call, next: Next| {
        let from = signature(&mut call);
        Arc::clone(&inner).befall(from, Some(to.clone()), call, |call| next.run(call))
    })
}

pub(super) fn client(inner: Arc<Inner>, name: &str) -> Arc<dyn Interceptor> {
    let from = name.to_owned();
    Arc::new(move |mut call: Call, next: Next| {
        let (inner, from) = (Arc::clone(&inner), from.clone());
        async move {
            sign(&mut call, &from)?;
            inner.befall(Some(from), None, call, |call| next.run(call)).await
        }
    })
}

pub(super) fn channel(inner: Arc<Inner>, from: &str, to: &str, channel: &Channel) -> Channel {
    let handle = Arc::clone(channel.handle());
    Channel::new(Arc::new(Between { inner, from: from.into(), to: to.into(), handle }))
}

/// A handle behind faults.
struct Between {
    inner: Arc<Inner>,
    from: String,
    to: String,
    handle: Arc<dyn Handle>,
}

impl Handle for Between {
    fn method(&self, path: &str) -> Option<Method> {
        self.handle.method(path)
    }

    fn call(&self, call: Call) -> BoxFuture<'static, Result<Answer, Error>> {
        let (from, to) = (Some(self.from.clone()), Some(self.to.clone()));
        let (deadline, handle) = (call.deadline, Arc::clone(&self.handle));
        let befalling = Arc::clone(&self.inner).befall(from, to, call, move |call| handle.call(call));
        Box::pin(async move {
            // What is underneath would keep the deadline, but what is dropped does not come to it.
            match deadline {
                None => befalling.await,
                Some(deadline) => tokio::time::timeout_at(deadline, befalling).await.unwrap_or_else(|_| {
                    Err(Error::deadline_exceeded("the deadline passed before the answer was there"))
                }),
            }
        })
    }

    fn services(&self) -> Vec<RpcService> {
        self.handle.services()
    }
}
