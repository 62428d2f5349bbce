//! What is HTTP's: which requests are calls, the plain routes beside them, and one body type for all.

use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use connectrpc::{ConnectRpcBody, ConnectRpcService, DeadlinePolicy, Limits};
use formic_core::{RpcMethod, RpcService};
use formic_mux::learn::Learnt;
use formic_rpc::bridge::Bridge;
use formic_rpc::table::Table;
use formic_rpc::{Handle, Peer};
use formic_telemetry::Metrics;
use http::{HeaderValue, Method, Request, Response, StatusCode, Version, header};
use http_body::{Body, Frame, SizeHint};
use http_body_util::Full;
use hyper::body::Incoming;
use tokio::sync::Notify;
use tower::{Service, ServiceExt};

use crate::batch::Batch;
use crate::door::Door;
use crate::door::http as door;
use crate::farewell::{Talk, Turn};
use crate::patience::Sender;
use crate::unary::{self, Bounds, Plain};
use crate::{Config, Guard, Health, Serving};

/// A change to the whole HTTP side: tower layers over calls, routes and all.
pub(crate) type Layering = Box<dyn FnOnce(axum::Router) -> axum::Router + Send>;

/// The HTTP side of a server; cloned for every connection.
#[derive(Clone)]
pub(crate) struct Edge(Arc<Shared>);

struct Shared {
    handle: Arc<dyn Handle>,
    rpc: ConnectRpcService<Bridge>,
    door: Arc<Door>,
    health: Health,
    metrics: Metrics,
    router: Option<axum::Router>,
    layered: Option<axum::Router>,
    body_timeout: Duration,
    bounds: Bounds,
    /// By the paths of methods: how long their handlers compute.
    learnt: Table<Arc<Learnt>>,
    guard: Option<Arc<dyn Guard>>,
}

/// What an edge is made of besides what answers calls.
pub(crate) struct Parts {
    pub(crate) door: Door,
    pub(crate) health: Health,
    pub(crate) metrics: Metrics,
    pub(crate) router: Option<axum::Router>,
    pub(crate) layers: Vec<Layering>,
    pub(crate) guard: Option<Arc<dyn Guard>>,
}

impl Edge {
    pub(crate) fn new(handle: Arc<dyn Handle>, config: &Config, parts: Parts) -> Self {
        let Parts { door, health, metrics, router, layers, guard } = parts;
        let limits = Limits::default()
            .with_max_message_size(config.max_message)
            .with_max_request_body_size(config.max_message);
        let deadlines =
            DeadlinePolicy::new().with_default_timeout(config.default_deadline).with_max(config.max_deadline);
        let rpc = ConnectRpcService::new(Bridge(Arc::clone(&handle)))
            .with_limits(limits)
            .with_deadline_policy(deadlines);
        let body_timeout = config.body_timeout;
        let bounds = Bounds::new(config);
        let door = Arc::new(door);
        let services = handle.services();
        let methods =
            services.iter().flat_map(|service| service.methods.iter().map(move |method| (service, method)));
        let path =
            |(service, method): (&RpcService, &RpcMethod)| format!("/{}/{}", service.name, method.name);
        let learnt = methods.map(|method| (path(method), Arc::default())).collect();
        let layered = None;
        let mut shared = Shared {
            handle,
            rpc,
            door,
            health,
            metrics,
            router,
            layered,
            body_timeout,
            bounds,
            learnt,
            guard,
        };
        if !layers.is_empty() {
            // With layers everything goes through axum; without, calls take the short way.
            let inner = Self(Arc::new(Shared {
                handle: Arc::clone(&shared.handle),
                rpc: shared.rpc.clone(),
                door: Arc::clone(&shared.door),
                health: shared.health.clone(),
                metrics: shared.metrics.clone(),
                router: shared.router.take(),
                layered: None,
                body_timeout,
                bounds,
                learnt: Table::default(),
                guard: None,
            }));
            let all = tower::service_fn(move |request: Request<axum::body::Body>| {
                let inner = inner.clone();
                async move { Ok::<_, Infallible>(inner.respond(request).await.map(axum::body::Body::new)) }
            });
            let base = axum::Router::new().fallback_service(all);
            shared.layered = Some(layers.into_iter().fold(base, |router, layer| layer(router)));
        }
        Self(Arc::new(shared))
    }

    /// Whether a request is a call that nothing of the author's stands around.
    fn is_plain_call(&self, called: Option<&formic_core::Method>) -> bool {
        self.0.layered.is_none() && self.0.guard.is_none() && called.is_some()
    }

    /// Answers one request that may have to be let in first; notes one that is not.
    async fn guarded(
        self,
        mut request: Request<Sender<Incoming>>,
        denied: Arc<Notify>,
    ) -> Response<EdgeBody> {
        if let Some(guard) = &self.0.guard {
            let peer = request.extensions().get::<Peer>().cloned();
            let authorization = request.headers().get(header::AUTHORIZATION).map(HeaderValue::as_bytes);
            match guard.admit(peer, authorization).await {
                Ok(peer) => {
                    drop(request.extensions_mut().remove::<Peer>());
                    if let Some(peer) = peer {
                        request.extensions_mut().insert(peer);
                    }
                    // No handler needs it, so none can tell it on.
                    request.headers_mut().remove(header::AUTHORIZATION);
                }
                Err(refusal) => {
                    denied.notify_one();
                    return refusal.response(|body| EdgeBody::Full(Full::from(body)));
                }
            }
        }
        self.serve(request).await
    }

    /// The way of a call that nothing of the author's stands around.
    fn way<B>(&self, request: Request<B>, method: formic_core::Method, peer: Option<Peer>) -> Way
    where
        B: Body<Data = Bytes> + Unpin + Send + 'static,
        B::Error: std::error::Error + Send + Sync + 'static,
    {
        let shared = &self.0;
        match unary::codec(&request, &method) {
            Some(codec) => {
                let plain = Plain { request, method, codec, peer, bounds: shared.bounds };
                Way::Plain(Box::pin(unary::answer(Arc::clone(&shared.handle), plain)))
            }
            None => Way::Call(shared.rpc.clone().call(with_peer(request, peer))),
        }
    }

    /// How long the request may pause.
    fn patience(&self, called: Option<&formic_core::Method>) -> Option<Duration> {
        // What is no call may be the author's own, an upload of any length.
        called.filter(|method| !method.kind.client_streams()).map(|_| self.0.body_timeout)
    }

    /// Answers one request of a connection.
    async fn serve(self, request: Request<Sender<Incoming>>) -> Response<EdgeBody> {
        match &self.0.layered {
            Some(router) => axum(router.clone(), request).await,
            None => self.respond(request).await,
        }
    }

    async fn respond<B>(&self, request: Request<B>) -> Response<EdgeBody>
    where
        B: Body<Data = Bytes> + Unpin + Send + 'static,
        B::Error: std::error::Error + Send + Sync + 'static,
    {
        let path = request.uri().path();
        if let Some(method) = self.0.handle.method(path) {
            if !door::is_for(&request, &method) {
                return self.call(request).await;
            }
            let peer = request.extensions().get::<Peer>().cloned();
            let entered = match self.0.door.ask(request, peer.as_ref()) {
                door::Answer::Open(request) => Ok(request),
                door::Answer::Wait(waiting) => waiting.await,
                door::Answer::Closed(response) => Err(response),
            };
            return match entered {
                Ok(request) => self.call(request).await,
                Err(response) => response,
            };
        }
        if let Some(response) = self.plain(request.method(), path) {
            return response;
        }
        // Something that speaks the protocol but asks for what is not there gets the protocol's answer.
        if speaks_rpc(&request) {
            return self.call(request).await;
        }
        match &self.0.router {
            Some(router) => axum(router.clone(), request).await,
            None => text(
                StatusCode::NOT_FOUND,
                "there is no such page; calls go to /package.Service/Method\n".into(),
            ),
        }
    }

    async fn call<B>(&self, request: Request<B>) -> Response<EdgeBody>
    where
        B: Body<Data = Bytes> + Send + 'static,
        B::Error: std::error::Error + Send + Sync + 'static,
    {
        let Ok(response) = self.0.rpc.clone().call(request).await;
        response.map(EdgeBody::Rpc)
    }

    fn plain(&self, method: &Method, path: &str) -> Option<Response<EdgeBody>> {
        if method != Method::GET && method != Method::HEAD {
            return None;
        }
        match path {
            "/healthz" => Some(text(StatusCode::OK, "ok\n".into())),
            "/readyz" => Some(match self.0.health.get() {
                Serving::Ready => text(StatusCode::OK, "ready\n".into()),
                Serving::Starting => text(StatusCode::SERVICE_UNAVAILABLE, "starting\n".into()),
                Serving::Draining => text(StatusCode::SERVICE_UNAVAILABLE, "draining\n".into()),
            }),
            "/metrics" => {
                let mut response = text(StatusCode::OK, self.0.metrics.render());
                let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
                response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
                Some(response)
            }
            _ => None,
        }
    }
}

fn speaks_rpc<B>(request: &Request<B>) -> bool {
    let kind = request.headers().get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
    let kind = kind.unwrap_or_default();
    request.method() == Method::POST
        && (kind.starts_with("application/grpc")
            || kind.starts_with("application/connect+")
            || request.headers().contains_key("connect-protocol-version")
            || (formic_core::method::split(request.uri().path()).0.contains('.')
                && (kind.starts_with("application/json") || kind.starts_with("application/proto"))))
}

async fn axum<B>(router: axum::Router, request: Request<B>) -> Response<EdgeBody>
where
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: std::error::Error + Send + Sync + 'static,
{
    let Ok(response) = router.oneshot(request.map(axum::body::Body::new)).await;
    response.map(EdgeBody::Axum)
}

fn text(status: StatusCode, body: String) -> Response<EdgeBody> {
    let mut response = Response::new(EdgeBody::Full(Full::from(body)));
    *response.status_mut() = status;
    let kind = HeaderValue::from_static("text/plain; charset=utf-8");
    response.headers_mut().insert(header::CONTENT_TYPE, kind);
    response
}

/// The body of any response.
pub(crate) enum EdgeBody {
    Rpc(ConnectRpcBody),
    Full(Full<Bytes>),
    Axum(axum::body::Body),
}

impl Body for EdgeBody {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        match self.get_mut() {
            Self::Rpc(body) => Pin::new(body).poll_frame(cx).map_err(|never| match never {}),
            Self::Full(body) => Pin::new(body).poll_frame(cx).map_err(|never| match never {}),
            Self::Axum(body) => Pin::new(body).poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Rpc(body) => body.is_end_stream(),
            Self::Full(body) => body.is_end_stream(),
            Self::Axum(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Rpc(body) => body.size_hint(),
            Self::Full(body) => body.size_hint(),
            Self::Axum(body) => body.size_hint(),
        }
    }
}

/// One connection's service: notes that a request came, then answers it.
pub(crate) struct PerConnection {
    pub(crate) edge: Edge,
    pub(crate) peer: Option<Peer>,
    pub(crate) talk: Arc<Talk>,
    /// Told when a request was not let in.
    pub(crate) denied: Arc<Notify>,
    pub(crate) batch: Batch,
}

impl hyper::service::Service<Request<Incoming>> for PerConnection {
    type Response = Response<Telling>;
    type Error = Infallible;
    type Future = Answering;

    fn call(&self, request: Request<Incoming>) -> Self::Future {
        let turn = self.talk.request(request.version());
        let shared = &self.edge.0;
        let called = shared.handle.method(request.uri().path());
        let patience = self.edge.patience(called.as_ref());
        let is_call = self.edge.is_plain_call(called.as_ref());
        if request.version() == Version::HTTP_2 {
            self.batch.expect(if is_call { shared.learnt.get(request.uri().path()) } else { None });
        }
        let request = request.map(|body| Sender::new(body, patience));
        let way = match called.filter(|_| is_call) {
            Some(method) if door::is_for(&request, &method) => {
                match shared.door.ask(request, self.peer.as_ref()) {
                    door::Answer::Open(request) => self.edge.way(request, method, self.peer.clone()),
                    door::Answer::Wait(waiting) => {
                        let (edge, peer) = (self.edge.clone(), self.peer.clone());
                        Way::Other(Box::pin(async move {
                            match waiting.await {
                                Ok(request) => edge.way(request, method, peer).await,
                                Err(response) => response,
                            }
                        }))
                    }
                    door::Answer::Closed(response) => Way::Other(Box::pin(std::future::ready(response))),
                }
            }
            Some(method) => self.edge.way(request, method, self.peer.clone()),
            None => {
                let (edge, denied) = (self.edge.clone(), Arc::clone(&self.denied));
                Way::Other(Box::pin(edge.guarded(with_peer(request, self.peer.clone()), denied)))
            }
        };
        Answering { way, turn }
    }
}

fn with_peer<B>(mut request: Request<B>, peer: Option<Peer>) -> Request<B> {
    if let Some(peer) = peer {
        request.extensions_mut().insert(peer);
    }
    request
}

/// The way to a response.
pub(crate) struct Answering {
    way: Way,
    turn: Option<Turn>,
}

/// Nearly all are calls, which take connectrpc's future as it is: within one that has room for everything else
/// too, each would pay for 3.5 KB allocated, and moved.
enum Way {
    Plain(BoxFuture<Response<EdgeBody>>),
    Call(BoxFuture<Result<Response<ConnectRpcBody>, Infallible>>),
    Other(BoxFuture<Response<EdgeBody>>),
}

type BoxFuture<T> = Pin<Box<dyn Future<Output = T> + Send>>;

impl Future for Way {
    type Output = Response<EdgeBody>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        Poll::Ready(match self.get_mut() {
            Self::Plain(answer) => ready!(answer.as_mut().poll(cx)),
            Self::Call(call) => {
                let Ok(response) = ready!(call.as_mut().poll(cx));
                response.map(EdgeBody::Rpc)
            }
            Self::Other(other) => ready!(other.as_mut().poll(cx)),
        })
    }
}

impl Future for Answering {
    type Output = Result<Response<Telling>, Infallible>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.get_mut();
        let mut response = ready!(Pin::new(&mut this.way).poll(cx));
        let turn = this.turn.take();
        if let Some(turn) = &turn {
            turn.mark(response.headers_mut());
        }
        Poll::Ready(Ok(response.map(|body| Telling { body, _turn: turn })))
    }
}

/// A body whose end is its turn's.
pub(crate) struct Telling {
    body: EdgeBody,
    _turn: Option<Turn>,
}

impl Body for Telling {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        Pin::new(&mut self.get_mut().body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
