//! What every call gets, over every transport: metrics, admission, deadline, trace, panics.

use std::collections::VecDeque;
use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context as TaskContext, Poll};
use std::time::Duration;

use formic_core::{Error, Method, Priority, RpcService, Shed};
use formic_rpc::context::{Scope, mark_repeated};
use formic_rpc::table::Table;
use formic_rpc::trace::TRACEPARENT;
use formic_rpc::{Answer, Body, BoxFuture, ByteStream, Call, Handle, Run, Runs, TraceContext};
use formic_telemetry::{InFlight, MethodMetrics, Metrics, Side};
use futures::FutureExt;
use http::HeaderName;
use tokio::time::{Instant, Sleep};

use crate::Config;
use crate::leaving::{self, Leave, Leaving};
use crate::overload::Head;
use crate::overload::gate::{Entry, Gate};

mod pass;
#[cfg(test)]
mod tests;

pub(crate) use pass::{Entrance, Pass};

/// Marks a call that is itself a repetition; what it causes is not repeated again.
pub const ATTEMPT: &str = "formic-attempt";

const TRACEPARENT_NAME: HeaderName = HeaderName::from_static(TRACEPARENT);
const ATTEMPT_NAME: HeaderName = HeaderName::from_static(ATTEMPT);

/// The layers around a server's routes, in one handle.
pub struct Pipeline {
    inner: Arc<dyn Handle>,
    methods: Table<Known>,
    /// For methods that the inner handle answers but cannot list (a proxy's).
    other: Known,
    in_flight: Arc<AtomicUsize>,
    max_in_flight: usize,
    gate: Arc<Gate>,
    leave: Arc<Leave>,
}

impl std::fmt::Debug for Pipeline {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pipeline").field("in_flight", &self.in_flight).finish_non_exhaustive()
    }
}

/// What is settled for a method beforehand.
struct Known {
    /// `None` only for what the inner handle answers and cannot list.
    method: Option<Method>,
    metrics: Arc<MethodMetrics>,
    /// Answered even by a full server.
    always: bool,
    /// Its number at the gate; none if the adaptive limit is not about it.
    gated: Option<usize>,
}

/// Whether a server that is merely busy answers: a probe that it refused would have it restarted, and who
/// looks for what is wrong would be locked out.
fn always(service: &str) -> bool {
    service.starts_with("grpc.health.") || service.starts_with("grpc.reflection.")
}

/// A call counted as in flight until it is dropped.
struct Admitted(Arc<AtomicUsize>);

impl Drop for Admitted {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

impl Pipeline {
    /// Wraps a handle.
    #[must_use]
    pub fn new(inner: Arc<dyn Handle>, metrics: &Metrics, config: &Config) -> Self {
        let paths: Vec<_> = inner
            .services()
            .iter()
            .flat_map(|service| service.methods.iter().map(move |method| (&service.name, &method.name)))
            .map(|(service, method)| (always(service), format!("/{service}/{method}")))
            .collect();
        let overload = metrics.overload();
        let gate = Gate::new(&config.overload, config.max_in_flight, paths.len(), overload);
        let known = |(number, (always, path)): (usize, (bool, String))| {
            let metrics = metrics.method(Side::Server, &path);
            let method = inner.method(&path);
            // How long a request takes that streams is for its caller to say.
            let streams = method.as_ref().is_none_or(|method| method.kind.client_streams());
            let gated = (!always && !streams && gate.limits(&path)).then_some(number);
            (path, Known { method, metrics, always, gated })
        };
        let methods = paths.into_iter().enumerate().map(known).collect();
        let metrics = metrics.method(Side::Server, "/other/other");
        let other = Known { method: None, metrics, always: false, gated: None };
        let (in_flight, gate, max_in_flight) = (Arc::default(), Arc::new(gate), config.max_in_flight);
        let leave = Arc::new(Leave::new(config.drain_streams));
        Self { inner, methods, other, in_flight, max_in_flight, gate, leave }
    }

    /// Tells handlers that the server finishes its calls, and ends streams that have no end, within `grace`.
    pub fn drain(&self, grace: Duration) {
        self.leave.begin(grace);
    }

    /// How many calls are worked on at a time, as of now.
    #[must_use]
    pub fn limit(&self) -> usize {
        self.gate.limit()
    }

    /// Calls that are being answered now.
    #[must_use]
    pub fn in_flight(&self) -> usize {
        self.in_flight.load(Ordering::Acquire)
    }

    fn known(&self, path: &str) -> &Known {
        self.methods.get(path).unwrap_or(&self.other)
    }

    fn admit(&self, known: &Known, head: &Head<'_>) -> Result<(Admitted, Entry), Error> {
        if !known.always {
            self.gate.rate(head)?;
        }
        self.place(known, head)
    }

    /// A place for a call that the rates have counted; they count none that has to go.
    fn place(&self, known: &Known, head: &Head<'_>) -> Result<(Admitted, Entry), Error> {
        let place = self.take_place(known, head);
        if place.is_err() {
            self.gate.give_back(head);
        }
        place
    }

    fn take_place(&self, known: &Known, head: &Head<'_>) -> Result<(Admitted, Entry), Error> {
        let before = self.in_flight.fetch_add(1, Ordering::AcqRel);
        let admitted = Admitted(Arc::clone(&self.in_flight));
        if known.always {
            return Ok((admitted, Entry::Free));
        }
        // Of many the last eighth is not for what matters little, and the last sixteenth for what matters most only.
        if before >= self.max_in_flight - self.max_in_flight / 8
            && before >= most(self.max_in_flight, self.gate.priority(head))
        {
            return Err(self.gate.refuse(Shed::InFlight, head));
        }
        Ok((admitted, self.gate.enter(known.gated, head)?))
    }
}

/// How many calls a server takes, as far as calls of this priority go.
fn most(max_in_flight: usize, priority: Priority) -> usize {
    max_in_flight
        - match priority {
            Priority::High => 0,
            Priority::Normal => max_in_flight / 16,
            Priority::Low => max_in_flight / 8,
        }
}

fn trace_of(call: &Call) -> TraceContext {
    let random = || fastrand::u64(1..);
    let header = || call.metadata.as_headers().get(TRACEPARENT_NAME)?.to_str().ok()?.parse().ok();
    // Some transports have a field for it instead of a header.
    match call.trace.or_else(header) {
        Some(parent) => parent.child(random()),
        None => TraceContext { trace_id: fastrand::u128(1..), span_id: random(), sampled: false },
    }
}

/// The error of a handler; marked if something that the handler called was repeated, whatever it made of that.
fn told(mut error: Error, repeated: bool) -> Error {
    if repeated {
        mark_repeated(&mut error);
    }
    error
}

fn late() -> Error {
    Error::deadline_exceeded("the deadline passed before the answer was there")
}

fn panicked(payload: &(dyn std::any::Any + Send), method: &str) -> Error {
    let text = payload
        .downcast_ref::<&str>()
        .map(ToString::to_string)
        .or_else(|| payload.downcast_ref::<String>().cloned())
        .unwrap_or_default();
    // The text may hold what callers must not see: it is for the log alone.
    tracing::error!(method, panic = text, "a handler panicked");
    Error::internal("the handler panicked")
}

impl Handle for Pipeline {
    fn method(&self, path: &str) -> Option<Method> {
        // One look instead of one in each table below; this is asked several times a call.
        let known = self.methods.get(path).and_then(|known| known.method.clone());
        known.or_else(|| self.inner.method(path))
    }

    fn services(&self) -> Vec<RpcService> {
        self.inner.services()
    }

    fn descriptors(&self) -> Vec<&'static [u8]> {
        self.inner.descriptors()
    }

    fn call(&self, mut call: Call) -> BoxFuture<'static, Result<Answer, Error>> {
        let pass = call.extensions.remove::<Pass>();
        let head = Head::from(&call);
        let known = self.known(head.path);
        let mut metrics = known.metrics.begin();
        let deadline = call.deadline;
        // Nobody waits for it any more, so it takes neither a place nor a token.
        let expired = deadline.is_some_and(|deadline| deadline <= Instant::now());
        let admitted = match pass {
            _ if expired => Err(late()),
            None => self.admit(known, &head),
            // Whose place was given away asks for another; of the rates it was let in already.
            Some(pass) => pass.place().map_or_else(|| self.place(known, &head), Ok),
        };
        let (admitted, entry) = match admitted {
            Ok(admitted) => admitted,
            Err(error) => {
                let refused = Err(error);
                metrics.outcome(&refused);
                return Box::pin(std::future::ready(refused));
            }
        };
        let trace = trace_of(&call);
        call.trace = Some(trace);
        call.drain = Some(self.leave.drain().clone());
        let leave = Arc::clone(&self.leave);
        let retried = call.metadata.as_headers().contains_key(ATTEMPT_NAME);
        let priority = self.gate.priority(&Head::from(&call));
        let scope = Scope { deadline, trace: Some(trace), retried, priority };
        let method = call.method.clone();
        let inner = Arc::clone(&self.inner);
        Box::pin(async move {
            // No future of its own, which would hold the call a second time.
            let answered = 'answering: {
                let mut permit = match entry {
                    Entry::Free => None,
                    Entry::Open(permit) => Some(permit),
                    Entry::Wait(turn) => match turn.come(deadline).await {
                        Ok(permit) => Some(permit),
                        Err(error) => break 'answering Err(error),
                    },
                };
                // The handler is called inside, so that a panic before its first await is caught too.
                let serving = async move {
                    match inner.call(call).await {
                        Ok(answer) => {
                            let streams = matches!(answer.body, Body::Stream(_));
                            Ok((answer, streams && Scope::is_repeated()))
                        }
                        Err(error) => Err(told(error, Scope::is_repeated())),
                    }
                };
                let handler = AssertUnwindSafe(scope.run(serving)).catch_unwind();
                let outcome = match deadline {
                    Some(deadline) => match tokio::time::timeout_at(deadline, handler).await {
                        Ok(outcome) => outcome,
                        Err(_) => break 'answering Err(late()),
                    },
                    None => handler.await,
                };
                let outcome = outcome.unwrap_or_else(|panic| Err(panicked(&*panic, method.path())));
                if let Some(permit) = &mut permit {
                    permit.answered(&outcome);
                }
                outcome
            };
            let (mut answer, repeated) = match answered {
                Ok((answer, repeated)) => (Ok(answer), repeated),
                Err(error) => (Err(error), false),
            };
            if !matches!(&answer, Ok(Answer { body: Body::Stream(_), .. })) {
                metrics.outcome(&answer);
            } else {
                // The call goes on until its stream ends; dropped before, it is one that was cancelled.
                answer = answer.map(|answer| Answer {
                    body: match answer.body {
                        Body::Stream(stream) => Body::Stream(ByteStream::of_runs(Outgoing {
                            stream: Some(stream),
                            sleep: deadline.map(|deadline| Box::pin(tokio::time::sleep_until(deadline))),
                            ready: VecDeque::new(),
                            ended: None,
                            leaving: Leaving::new(leave),
                            scope,
                            repeated,
                            method,
                            metrics,
                            _admitted: admitted,
                        })),
                        body @ Body::Message(_) => body,
                    },
                    ..answer
                });
            }
            answer
        })
    }
}

/// A stream that is ready again and again is asked for so many messages, or bytes, at a time, so that its guards are not passed
/// for each message alone.
const MESSAGES: usize = 32;
const BYTES: usize = 16 << 10;

/// What takes so long to make is passed on as it comes.
const LONG: Duration = Duration::from_millis(1);

/// A response stream under the same guards as the call it belongs to.
struct Outgoing {
    stream: Option<ByteStream>,
    /// Messages that were ready, and perhaps what came after them.
    ready: VecDeque<Run>,
    ended: Option<Result<(), Error>>,
    sleep: Option<Pin<Box<Sleep>>>,
    leaving: Leaving,
    scope: Scope,
    /// What it is made of was repeated.
    repeated: bool,
    method: Method,
    metrics: InFlight,
    _admitted: Admitted,
}

impl Outgoing {
    /// Takes what is ready, within the scope of the call. A panic ends it as an error does, after what came before.
    fn gather(&mut self, cx: &mut TaskContext<'_>) {
        let Self { stream, ready, ended, scope, repeated, method, .. } = self;
        let Some(stream) = stream else { return };
        let (mut messages, mut bytes, began) = (0, 0, Instant::now());
        let gather = || {
            while ended.is_none() && messages < MESSAGES && bytes < BYTES {
                match stream.poll_run(cx, MESSAGES - messages) {
                    Poll::Ready(Some(Ok(run))) => {
                        messages += run.len();
                        bytes += run.size();
                        ready.push_back(run);
                        if began.elapsed() >= LONG {
                            break;
                        }
                    }
                    Poll::Ready(Some(Err(error))) => *ended = Some(Err(error)),
                    Poll::Ready(None) => *ended = Some(Ok(())),
                    Poll::Pending => break,
                }
            }
        };
        if let Err(panic) = std::panic::catch_unwind(AssertUnwindSafe(|| scope.resume(repeated, gather))) {
            *ended = Some(Err(panicked(&*panic, method.path())));
        }
        if let Some(Err(error)) = ended
            && *repeated
        {
            mark_repeated(error);
        }
    }

    /// Drops what the handler gave. A panic in that is the handler's, and not of whoever has polled this.
    fn let_go(&mut self) -> Result<(), Error> {
        let Some(stream) = self.stream.take() else { return Ok(()) };
        let dropped = std::panic::catch_unwind(AssertUnwindSafe(|| drop(stream)));
        dropped.map_err(|panic| panicked(&*panic, self.method.path()))
    }

    fn end(&mut self, ended: Result<(), Error>) -> Poll<Option<Result<Run, Error>>> {
        let dropped = self.let_go();
        let ended = ended.and(dropped);
        self.metrics.outcome(&ended);
        Poll::Ready(ended.err().map(Err))
    }
}

impl Drop for Outgoing {
    fn drop(&mut self) {
        // Whom it could be told to waits no more.
        _ = self.let_go();
    }
}

impl Runs for Outgoing {
    fn poll_run(
        mut self: Pin<&mut Self>,
        cx: &mut TaskContext<'_>,
        _: usize,
    ) -> Poll<Option<Result<Run, Error>>> {
        let this = &mut *self;
        if let Some(run) = this.ready.pop_front() {
            return Poll::Ready(Some(Ok(run)));
        }
        if this.stream.is_none() {
            return Poll::Ready(None);
        }
        if this.ended.is_none() {
            if let Some(sleep) = &mut this.sleep
                && sleep.as_mut().poll(cx).is_ready()
            {
                return this.end(Err(late()));
            }
            if this.leaving.is_over(cx) {
                return this.end(Err(leaving::gone()));
            }
            this.gather(cx);
        }
        if let Some(run) = this.ready.pop_front() {
            this.leaving.spoke();
            return Poll::Ready(Some(Ok(run)));
        }
        match this.ended.take() {
            Some(ended) => this.end(ended),
            None if this.leaving.is_quiet(cx) => this.end(Err(leaving::gone())),
            None => Poll::Pending,
        }
    }
}
