//! A hand-written service, and servers to put it behind.

use std::collections::VecDeque;
use std::future::Future;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use connectrpc::ConnectRpcService;
use formic_client::ATTEMPT;
use formic_core::{Code, Endpoint, Error, Instance, InstanceId, Kind, Method, RpcService, ServiceName};
use formic_registry::{Memory, Registry};
use formic_rpc::bridge::Bridge;
use formic_rpc::context::Scope;
use formic_rpc::rt::buffa_types::google::protobuf::StringValue;
use formic_rpc::trace::TRACEPARENT;
use formic_rpc::{
    Answer, Body, BoxFuture, Call, Channel, Codec, Handle, Response, Streaming, TraceContext, rt,
};
use futures::StreamExt;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto::Builder;
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

pub(crate) const SAY: Method = Method::new("/test.Echo/Say", Kind::Unary);
pub(crate) const GET: Method = Method::new("/test.Echo/Get", Kind::Unary).idempotent(true);
pub(crate) const FAIL: Method = Method::new("/test.Echo/Fail", Kind::Unary);
pub(crate) const HANG: Method = Method::new("/test.Echo/Hang", Kind::Unary);
pub(crate) const RELAY: Method = Method::new("/test.Echo/Relay", Kind::Unary);
pub(crate) const REPEAT: Method = Method::new("/test.Echo/Repeat", Kind::ServerStream);
pub(crate) const TICK: Method = Method::new("/test.Echo/Tick", Kind::ServerStream);
pub(crate) const COLLECT: Method = Method::new("/test.Echo/Collect", Kind::ClientStream);
pub(crate) const CHAT: Method = Method::new("/test.Echo/Chat", Kind::BidiStream);
/// Typed: numbers, up to [`COUNTED`] and an end of the kind that is asked for.
pub(crate) const COUNT: Method = Method::new("/test.Echo/Count", Kind::ServerStream);
/// Typed: what comes goes back.
pub(crate) const RETURN: Method = Method::new("/test.Echo/Return", Kind::BidiStream);
const METHODS: [Method; 11] = [SAY, GET, FAIL, HANG, RELAY, REPEAT, TICK, COLLECT, CHAT, COUNT, RETURN];

/// After so many messages streams of `Count` end, and those of which each message comes alone.
pub(crate) const COUNTED: usize = 1_000;
pub(crate) const APART: usize = 25_000;

/// The message that makes a stream of `Chat` fail.
pub(crate) const BREAK_OFF: &str = "break off";

/// What a test sees of the service.
#[derive(Default)]
pub(crate) struct Echo {
    /// Calls that reached a handler.
    pub(crate) calls: AtomicUsize,
    /// Handlers and streams that were dropped before their end.
    pub(crate) dropped: AtomicUsize,
    /// The attempt header of each call.
    pub(crate) attempts: Mutex<Vec<Option<String>>>,
    /// Errors that the next calls answer with.
    pub(crate) script: Mutex<VecDeque<Error>>,
    /// Messages of streams of `Count` that were made.
    pub(crate) counted: AtomicUsize,
    /// After how many messages streams of `Repeat` fail, and how.
    pub(crate) falls: Mutex<Option<(usize, Error)>>,
    /// Handlers take so long before they answer or begin to.
    pub(crate) delay: Mutex<Duration>,
    /// Where `Relay` goes on to.
    pub(crate) next: Mutex<Option<Channel>>,
}

struct Dropping(Arc<Echo>, bool);

impl Drop for Dropping {
    fn drop(&mut self) {
        if !self.1 {
            self.0.dropped.fetch_add(1, Ordering::SeqCst);
        }
    }
}

impl Echo {
    pub(crate) fn new() -> Arc<Self> {
        Arc::default()
    }

    pub(crate) fn calls(&self) -> usize {
        self.calls.load(Ordering::SeqCst)
    }

    pub(crate) fn dropped(&self) -> usize {
        self.dropped.load(Ordering::SeqCst)
    }

    pub(crate) fn attempts(&self) -> Vec<Option<String>> {
        self.attempts.lock().unwrap().clone()
    }

    /// Has every handler take so long from now on.
    pub(crate) fn take(&self, delay: Duration) {
        *self.delay.lock().unwrap() = delay;
    }

    pub(crate) fn fail_next(&self, errors: impl IntoIterator<Item = Error>) {
        self.script.lock().unwrap().extend(errors);
    }
}

/// The service itself.
pub(crate) struct Service(pub(crate) Arc<Echo>);

impl Handle for Service {
    fn method(&self, path: &str) -> Option<Method> {
        METHODS.into_iter().find(|method| method.path() == path)
    }

    fn services(&self) -> Vec<RpcService> {
        vec![formic_rpc::handle::describe("test.Echo", &METHODS)]
    }

    fn call(&self, call: Call) -> BoxFuture<'static, Result<Answer, Error>> {
        let echo = Arc::clone(&self.0);
        Box::pin(async move {
            echo.calls.fetch_add(1, Ordering::SeqCst);
            echo.attempts.lock().unwrap().push(call.metadata.get(ATTEMPT).map(Into::into));
            if let Some(error) = echo.script.lock().unwrap().pop_front() {
                return Err(error);
            }
            let mut guard = Dropping(Arc::clone(&echo), false);
            let delay = *echo.delay.lock().unwrap();
            if !delay.is_zero() {
                tokio::time::sleep(delay).await;
            }
            let deadline = call.deadline;
            let user = call.metadata.get("x-user").map(ToOwned::to_owned);
            let traceparent = trace_of(&call).map(|trace| trace.to_string()).unwrap_or_default();
            let mut answer = match call.method.name() {
                "Say" | "Get" => Answer::new(call.body),
                "Fail" => {
                    let number = call.body.into_message()?[0];
                    let code = Code::from_number(u32::from(number)).unwrap();
                    guard.1 = true;
                    return Err(Error::new(code, "as asked")
                        .with_info("test", "ASKED", [("number", number.to_string())])
                        .with_field("number", "was given"));
                }
                "Hang" => std::future::pending().await,
                "Relay" => {
                    let next = echo.next.lock().unwrap().clone();
                    match next {
                        Some(next) => next.call(call_of(RELAY.idempotent(true), "")).await?,
                        None => {
                            let left = deadline.unwrap() - tokio::time::Instant::now();
                            let text = format!("{} {traceparent}", left.as_millis());
                            Answer::new(Body::Message(text.into()))
                        }
                    }
                }
                "Repeat" => {
                    let message = call.body.into_message()?;
                    let falls = echo.falls.lock().unwrap().clone();
                    let many = (0..3).map(move |n| match &falls {
                        Some((at, error)) if *at == n => Err(error.clone()),
                        _ => Ok(message.clone()),
                    });
                    Answer::new(Body::stream(futures::stream::iter(many)))
                }
                "Tick" => {
                    let ticks = futures::stream::unfold(Dropping(Arc::clone(&echo), false), |guard| async {
                        tokio::time::sleep(Duration::from_millis(20)).await;
                        Some((Ok(Bytes::from_static(b"tick")), guard))
                    });
                    Answer::new(Body::stream(ticks))
                }
                "Collect" => {
                    let mut stream = call.body.into_stream();
                    let mut all = Vec::new();
                    while let Some(message) = stream.next().await {
                        all.extend_from_slice(&message?);
                    }
                    Answer::new(Body::Message(all.into()))
                }
                "Chat" => {
                    let answers = call.body.into_stream().map(|message| match message? {
                        message if message == BREAK_OFF => Err(Error::internal("as asked")),
                        message => Ok(Bytes::from([b"re: ", &message[..]].concat())),
                    });
                    Answer::new(Body::stream(answers))
                }
                "Count" => {
                    let how: StringValue = rt::decode(&call.body.into_message()?, call.codec)?;
                    let numbers = Streaming::new(numbers(how.value, Dropping(Arc::clone(&echo), false)));
                    rt::stream_answer(Response::new(numbers), call.codec)?
                }
                "Return" => {
                    let (_, codec, messages) = rt::streaming::<StringValue>(call);
                    rt::stream_answer(Response::new(messages), codec)?
                }
                other => return Err(Error::unimplemented(other)),
            };
            guard.1 = true;
            if let Some(user) = user {
                answer.metadata.insert("x-greeting", &format!("hello {user}")).unwrap();
                if matches!(answer.body, Body::Message(_)) {
                    answer.trailers.insert("x-farewell", &format!("bye {user}")).unwrap();
                }
            }
            Ok(answer)
        })
    }
}

/// The trace that a call brings: as a header, or in a field that the transport has for it.
fn trace_of(call: &Call) -> Option<TraceContext> {
    let header = || call.metadata.get(TRACEPARENT)?.parse().ok();
    call.trace.or_else(header)
}

/// What a server does around its handlers, as far as callers depend on it.
struct Around(Arc<dyn Handle>);

impl Handle for Around {
    fn method(&self, path: &str) -> Option<Method> {
        self.0.method(path)
    }

    fn services(&self) -> Vec<RpcService> {
        self.0.services()
    }

    fn call(&self, call: Call) -> BoxFuture<'static, Result<Answer, Error>> {
        let trace = trace_of(&call);
        let retried = call.metadata.get(ATTEMPT).is_some();
        let scope = Scope { deadline: call.deadline, trace, retried, ..Scope::default() };
        Box::pin(scope.run(self.0.call(call)))
    }
}

/// How the service is served over the multiplexed wire.
fn accept(echo: &Arc<Echo>) -> Arc<formic_mux::Accept> {
    let long = Duration::from_secs(60);
    Arc::new(formic_mux::Accept {
        handle: Arc::new(Around(Arc::new(Service(Arc::clone(echo))))),
        door: None,
        limits: formic_mux::Limits::default(),
        greeting: long,
        body_timeout: long,
        alive: (long, long),
        default_deadline: long,
        max_deadline: long,
        idle: long,
        budget: Arc::new(formic_mux::Budget::new(512 << 20)),
        book: formic_mux::learn::Book::default(),
    })
}

fn idle_after(echo: &Arc<Echo>, idle: Duration) -> Arc<formic_mux::Accept> {
    let mut accept = Arc::into_inner(accept(echo)).unwrap();
    accept.idle = idle;
    Arc::new(accept)
}

/// Answers on one connection to its end, over the multiplexed wire with so many calls at a time.
pub(crate) async fn answer_mux<S>(io: S, echo: &Arc<Echo>, calls: u32)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let mut accept = Arc::into_inner(accept(echo)).unwrap();
    accept.limits.calls = calls;
    formic_mux::serve(io, &[], Arc::new(accept), None, CancellationToken::new()).await;
}

/// A server of the service. Dropping it kills it: no goodbye, connections reset.
pub(crate) struct Server {
    pub(crate) endpoint: Endpoint,
    pub(crate) echo: Arc<Echo>,
    /// Connections that are open.
    pub(crate) open: Arc<AtomicUsize>,
    /// Connections that ever were.
    pub(crate) accepted: Arc<AtomicUsize>,
    drain: CancellationToken,
    accepting: tokio::task::JoinHandle<()>,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.accepting.abort();
        if let Endpoint::Unix(path) = &self.endpoint {
            let _ = std::fs::remove_file(path);
        }
    }
}

struct Open(Arc<AtomicUsize>);

impl Drop for Open {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

enum Listener {
    Tcp(TcpListener),
    Unix(UnixListener),
}

impl Server {
    pub(crate) async fn start(echo: &Arc<Echo>) -> Self {
        Self::start_at(echo, ([127, 0, 0, 1], 0).into()).await
    }

    /// With something around the service.
    pub(crate) async fn start_with(echo: &Arc<Echo>, handle: impl Handle) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let endpoint = listener.local_addr().unwrap().into();
        Self::run(echo, Listener::Tcp(listener), endpoint, Arc::new(handle), None)
    }

    pub(crate) async fn start_at(echo: &Arc<Echo>, addr: SocketAddr) -> Self {
        let listener = TcpListener::bind(addr).await.unwrap();
        let endpoint = listener.local_addr().unwrap().into();
        Self::run(echo, Listener::Tcp(listener), endpoint, Arc::new(Service(Arc::clone(echo))), None)
    }

    /// One that speaks the multiplexed wire, and nothing else.
    pub(crate) async fn start_mux(echo: &Arc<Echo>) -> Self {
        Self::start_mux_at(echo, ([127, 0, 0, 1], 0).into()).await
    }

    pub(crate) async fn start_mux_at(echo: &Arc<Echo>, addr: SocketAddr) -> Self {
        Self::start_mux_with(echo, addr, accept(echo)).await
    }

    /// One that hangs up on whoever makes no call for so long.
    pub(crate) async fn start_mux_idle(echo: &Arc<Echo>, idle: Duration) -> Self {
        Self::start_mux_with(echo, ([127, 0, 0, 1], 0).into(), idle_after(echo, idle)).await
    }

    async fn start_mux_with(echo: &Arc<Echo>, addr: SocketAddr, accept: Arc<formic_mux::Accept>) -> Self {
        let listener = TcpListener::bind(addr).await.unwrap();
        let endpoint = listener.local_addr().unwrap().into();
        let service = Arc::new(Service(Arc::clone(echo)));
        Self::run(echo, Listener::Tcp(listener), endpoint, service, Some(accept))
    }

    pub(crate) fn start_unix(echo: &Arc<Echo>, path: &Path, mux: bool) -> Self {
        Self::start_unix_with(echo, path, mux.then(|| accept(echo)))
    }

    pub(crate) fn start_unix_idle(echo: &Arc<Echo>, path: &Path, idle: Duration) -> Self {
        Self::start_unix_with(echo, path, Some(idle_after(echo, idle)))
    }

    fn start_unix_with(echo: &Arc<Echo>, path: &Path, mux: Option<Arc<formic_mux::Accept>>) -> Self {
        // Bound by a short relative name would change the whole process: bind beside it and move it.
        let short = std::env::temp_dir().join(format!("fc-{}-{}", std::process::id(), fastrand::u32(..)));
        let listener = UnixListener::bind(&short).unwrap();
        std::fs::rename(&short, path).unwrap();
        let service = Arc::new(Service(Arc::clone(echo)));
        Self::run(echo, Listener::Unix(listener), Endpoint::Unix(path.into()), service, mux)
    }

    fn run(
        echo: &Arc<Echo>,
        listener: Listener,
        endpoint: Endpoint,
        handle: Arc<dyn Handle>,
        mux: Option<Arc<formic_mux::Accept>>,
    ) -> Self {
        let service = ConnectRpcService::new(Bridge(Arc::new(Around(handle))));
        let drain = CancellationToken::new();
        let (open, accepted) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let counted = (Arc::clone(&open), Arc::clone(&accepted), drain.clone());
        let accepting = tokio::spawn(async move {
            // Owned by this task, so that aborting it resets every connection.
            let mut connections = JoinSet::new();
            // And before that the listener, or who lost a connection would be queued for another.
            let listener = listener;
            let (open, accepted, drain) = counted;
            loop {
                macro_rules! serve {
                    ($io:expr) => {{
                        open.fetch_add(1, Ordering::SeqCst);
                        accepted.fetch_add(1, Ordering::SeqCst);
                        let (guard, drain) = (Open(Arc::clone(&open)), drain.clone());
                        let service = TowerToHyperService::new(service.clone());
                        let (io, mux) = ($io, mux.clone());
                        connections.spawn(async move {
                            let _guard = guard;
                            if let Some(accept) = mux {
                                return formic_mux::serve(io, &[], accept, None, drain).await;
                            }
                            let io = TokioIo::new(io);
                            let builder = Builder::new(TokioExecutor::new()).http2_only();
                            let connection = builder.serve_connection(io, service);
                            tokio::pin!(connection);
                            tokio::select! {
                                _ = connection.as_mut() => return,
                                () = drain.cancelled() => connection.as_mut().graceful_shutdown(),
                            }
                            let _ = connection.await;
                        });
                    }};
                }
                let stop = drain.cancelled();
                match &listener {
                    Listener::Tcp(listener) => tokio::select! {
                        accepted = listener.accept() => serve!(accepted.unwrap().0),
                        () = stop => break,
                    },
                    Listener::Unix(listener) => tokio::select! {
                        accepted = listener.accept() => serve!(accepted.unwrap().0),
                        () = stop => break,
                    },
                }
            }
            drop(listener);
            while connections.join_next().await.is_some() {}
        });
        Self { endpoint, echo: Arc::clone(echo), open, accepted, drain, accepting }
    }

    /// Says goodbye on every connection and answers what is on its way.
    pub(crate) fn drain(&self) {
        self.drain.cancel();
    }

    pub(crate) fn addr(&self) -> SocketAddr {
        match self.endpoint {
            Endpoint::Tcp(addr) => addr,
            Endpoint::Unix(_) => panic!("a unix socket"),
        }
    }

    pub(crate) fn open(&self) -> usize {
        self.open.load(Ordering::SeqCst)
    }
}

/// Numbers, most of them ready at once; `apart` none of them, each of a hundred digits.
fn numbers(
    how: String,
    guard: Dropping,
) -> impl futures::Stream<Item = Result<StringValue, Error>> + Send + 'static {
    futures::stream::unfold((0, how, guard), |(n, how, guard)| async move {
        if n % 97 == 96 || how == "apart" {
            tokio::task::yield_now().await;
        }
        guard.0.counted.fetch_add(1, Ordering::SeqCst);
        let number = match &*how {
            "error" if n == COUNTED => Err(Error::aborted("counted")),
            "error" | "end" if n >= COUNTED => return None,
            "apart" if n >= APART => return None,
            "apart" => Ok(string(format!("{n:0100}"))),
            _ => Ok(string(n.to_string())),
        };
        Some((number, (n + 1, how, guard)))
    })
}

pub(crate) fn string(value: impl Into<String>) -> StringValue {
    StringValue { value: value.into(), ..StringValue::default() }
}

pub(crate) fn call_of(method: Method, message: impl Into<Bytes>) -> Call {
    Call::new(method, Codec::Proto, Body::Message(message.into()))
}

pub(crate) fn stream_call(method: Method, messages: Streaming<Bytes>) -> Call {
    Call::new(method, Codec::Proto, Body::stream(messages))
}

/// The text of an answer of one message.
pub(crate) fn text(answer: Answer) -> String {
    String::from_utf8(answer.body.into_message().unwrap().to_vec()).unwrap()
}

pub(crate) async fn next(stream: &mut formic_rpc::ByteStream) -> Option<Result<String, Error>> {
    let message = within("the next message of a stream", stream.next()).await?;
    Some(message.map(|message| String::from_utf8(message.to_vec()).unwrap()))
}

/// Bounds a wait, and says what for.
pub(crate) async fn within<T>(what: &str, future: impl Future<Output = T>) -> T {
    match tokio::time::timeout(Duration::from_secs(10), future).await {
        Ok(output) => output,
        Err(_) => panic!("waited too long for {what}"),
    }
}

/// Waits until something is so.
pub(crate) async fn until(what: &str, condition: impl Fn() -> bool) {
    within(what, async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
}

pub(crate) fn instance(id: &str, endpoint: Endpoint) -> Instance {
    Instance {
        id: InstanceId::new(id),
        service: ServiceName::new("echo").unwrap(),
        version: String::new(),
        endpoint,
        metadata: Default::default(),
        rpc: vec![formic_rpc::handle::describe("test.Echo", &METHODS)],
    }
}

/// Registers one that says that it speaks the multiplexed wire.
pub(crate) async fn register_mux(registry: &Memory, id: &str, endpoint: &Endpoint) {
    let mut instance = instance(id, endpoint.clone());
    instance.metadata.insert(formic_mux::ANNOUNCED.into(), "1".into());
    registry.register(instance, Duration::from_secs(600)).await.unwrap();
}

pub(crate) async fn register(registry: &Memory, id: &str, endpoint: &Endpoint) {
    registry.register(instance(id, endpoint.clone()), Duration::from_secs(600)).await.unwrap();
}

/// An address where nobody listens.
pub(crate) async fn dead() -> Endpoint {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    listener.local_addr().unwrap().into()
}

/// A folder of this test, gone with it.
pub(crate) struct Folder(pub(crate) PathBuf);

impl Folder {
    pub(crate) fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("formic-client-{}-{name}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}
