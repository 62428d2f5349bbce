//! A call to a service of this process: the handle is called directly, and sees what it would see of a
//! call over a network.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use formic_core::{Error, Priority};
use formic_rpc::context::Scope;
use formic_rpc::trace::TRACEPARENT;
use formic_rpc::{Answer, Body, ByteStream, Call, Handle, Peer, Run, Runs, TraceContext};
use http::HeaderValue;

use crate::stack::PRIORITY;
use crate::{ATTEMPT, headers, retry};

/// The name that a handler sees of a caller in its own process.
const PEER: &str = "in-process";

/// Calls the handle on the caller's task. What the handler calls in turn inherits from this call, not
/// from the caller's own.
pub(crate) async fn call(
    handle: Arc<dyn Handle>,
    mut call: Call,
    trace: Option<TraceContext>,
    retried: bool,
) -> Result<Answer, Error> {
    let metadata = call.metadata.as_headers_mut();
    let foreign: Vec<_> = metadata.keys().filter(|name| headers::is_wire(name)).cloned().collect();
    for name in foreign {
        metadata.remove(name);
    }
    if let Some(trace) = trace {
        metadata.insert(TRACEPARENT, trace.to_header());
    }
    if retried {
        metadata.insert(ATTEMPT, HeaderValue::from_static("2"));
    }
    let trace = trace.or_else(|| call.metadata.get(TRACEPARENT)?.parse().ok());
    // What the caller's layers told each other is not the handler's business, as it would not be over a
    // network.
    call.extensions = http::Extensions::new();
    call.trace = trace;
    call.peer = Some(Peer(PEER.into()));
    if let Body::Stream(stream) = call.body {
        call.body = Body::Stream(ByteStream::of_runs(Unhurried(stream)));
    }
    let priority = Priority::of(&call.metadata, &PRIORITY);
    let scope = Scope { deadline: call.deadline, trace, retried, priority };
    let served = async move {
        let mut outcome = handle.call(call).await;
        if let Err(error) = &mut outcome
            && Scope::is_repeated()
        {
            retry::mark(error);
        }
        outcome
    };
    let mut answer = scope.run(served).await?;
    if let Body::Stream(stream) = answer.body {
        answer.body = Body::Stream(ByteStream::of_runs(Scoped { stream, scope }));
    }
    Ok(answer)
}

/// Where nothing stands between, no message is made before somebody asks for it.
struct Unhurried(ByteStream);

impl Runs for Unhurried {
    fn poll_run(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        _: usize,
    ) -> Poll<Option<Result<Run, Error>>> {
        self.0.poll_run(cx, 1)
    }
}

/// A response stream that is made by the handler's code, whoever polls it.
struct Scoped {
    stream: ByteStream,
    scope: Scope,
}

impl Runs for Scoped {
    fn poll_run(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        _: usize,
    ) -> Poll<Option<Result<Run, Error>>> {
        let this = &mut *self;
        // As `Unhurried`.
        this.scope.enter(|| this.stream.poll_run(cx, 1))
    }
}
