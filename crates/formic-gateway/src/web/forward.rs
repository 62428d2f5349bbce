//! One request through a route: attempts, limits and time.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body as AxumBody;
use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use formic_client::Client;
use formic_core::{Code, Error, ServiceName};
use formic_rpc::Peer;
use formic_telemetry::metrics::InFlight;
use formic_telemetry::{Metrics, Side};
use http::request::Parts;
use http::{HeaderValue, Method, StatusCode, header};
use http_body::Body;
use hyper::body::Incoming;
use hyper::client::conn::http1::SendRequest;
use hyper::upgrade::OnUpgrade;
use tokio::time::{Instant, timeout_at};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::backend::{Backend, Load};
use super::body::{Download, Progress, Upload};
use super::table::WebRoute;
use super::{headers, tunnel};
use crate::routes::Routes;

/// How many instances are tried before a request is given up that none could be connected for.
const ATTEMPTS: usize = 3;

/// How long a request waits for a first instance; covers the restart of a service's only one, as for calls.
const PATIENCE: Duration = Duration::from_secs(1);

/// Passes requests on that a route is for. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Web(Arc<Inner>);

struct Inner {
    routes: Routes,
    /// Whose budgets further attempts draw on.
    client: Client,
    metrics: Metrics,
    max_body: u64,
    /// To instances.
    connections: TaskTracker,
    tunnels: TaskTracker,
    stop: CancellationToken,
}

/// Why a request is not answered by an instance.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Refusal {
    Devious,
    CallerBroke,
    TooLarge,
    NoInstance,
    Unreachable,
    Broken,
    Late,
}

/// The layer: what no route is for goes on.
pub(crate) async fn pass_on(State(web): State<Web>, request: Request, next: Next) -> Response {
    match web.route(&request) {
        Some(route) => web.forward(&route, request).await,
        None => next.run(request).await,
    }
}

// === impl Web ===

impl Web {
    pub(crate) fn new(routes: Routes, client: Client, metrics: Metrics, max_body: usize) -> Self {
        let max_body = max_body as u64;
        let (connections, tunnels, stop) = (TaskTracker::new(), TaskTracker::new(), CancellationToken::new());
        Self(Arc::new(Inner { routes, client, metrics, max_body, connections, tunnels, stop }))
    }

    /// Ends: tunnels get until then. Requests must be over.
    pub(crate) async fn stop(&self, until: Instant) {
        self.0.tunnels.close();
        if timeout_at(until, self.0.tunnels.wait()).await.is_err() {
            tracing::warn!(tunnels = self.0.tunnels.len(), "the grace is over; open tunnels were cut off");
        }
        self.0.stop.cancel();
        self.0.tunnels.wait().await;
        self.0.connections.close();
        self.0.connections.wait().await;
    }

    /// The route of a request that is neither a call nor for the gateway itself.
    fn route(&self, request: &Request) -> Option<Arc<WebRoute>> {
        let table = self.0.routes.now();
        let path = request.uri().path();
        if table.web.is_empty() || table.find(path).is_some() || is_own(request) {
            return None;
        }
        let host = headers::host(request.uri(), request.headers());
        table.web.find(&host, path, request.method(), request.headers()).cloned()
    }

    async fn forward(&self, route: &Arc<WebRoute>, request: Request) -> Response {
        let path = format!("/{}/{}", route.service, method_name(request.method()));
        let metrics = self.0.metrics.method(Side::Client, &path).begin();
        match self.answer(route, request, metrics).await {
            Ok(response) => response,
            Err((refusal, mut metrics)) => {
                metrics.outcome(&Err::<(), _>(Error::new(refusal.code(), "")));
                tracing::debug!(service = %route.service, ?refusal, "a request was not passed on");
                refusal.response(&route.service)
            }
        }
    }

    async fn answer(
        &self,
        route: &WebRoute,
        mut request: Request,
        metrics: InFlight,
    ) -> Result<Response, (Refusal, InFlight)> {
        let caller = request.extensions_mut().remove::<OnUpgrade>();
        let sent = self.send(route, request).await;
        let (response, sender, backend, load) = match sent {
            Ok(sent) => sent,
            Err(refusal) => return Err((refusal, metrics)),
        };
        let (mut parts, body) = response.into_parts();
        let code = code(parts.status);
        if parts.status == StatusCode::SWITCHING_PROTOCOLS {
            let protocol = headers::upgrade(parts.version, &parts.headers);
            let instance = parts.extensions.remove::<OnUpgrade>();
            let (Some(protocol), Some(caller), Some(instance)) = (protocol, caller, instance) else {
                return Err((Refusal::Broken, metrics));
            };
            headers::strip(&mut parts.headers);
            headers::set_upgrade(&mut parts.headers, protocol);
            let stop = self.0.stop.clone();
            self.0.tunnels.spawn(async move {
                let mut metrics = metrics;
                stop.run_until_cancelled(tunnel::carry(caller, instance, load)).await;
                metrics.outcome(&Ok::<_, Error>(()));
            });
            return Ok(Response::from_parts(parts, AxumBody::empty()));
        }
        headers::strip(&mut parts.headers);
        let body = Download::new(body, (backend, sender), code, metrics, load);
        Ok(Response::from_parts(parts, AxumBody::new(body)))
    }

    /// Whether a program that takes `%2F` and `//` for plain slashes would see a path that is another route's. Many do.
    fn is_ambiguous(&self, route: &WebRoute, parts: &Parts) -> bool {
        headers::with_plain_slashes(parts.uri.path()).is_some_and(|path| {
            let host = headers::host(&parts.uri, &parts.headers);
            let table = self.0.routes.now();
            let found = table.web.find(&host, &path, &parts.method, &parts.headers);
            found.is_none_or(|found| **found != *route)
        })
    }

    /// Sends the request to an instance and waits for the beginning of the answer. Another instance gets it
    /// only as long as surely none has, and as long as the service's budget lets it: where most instances are gone, the
    /// requests of all the others must not fall on those that are left several times over.
    async fn send(
        &self,
        route: &WebRoute,
        request: Request,
    ) -> Result<(http::Response<Incoming>, SendRequest<Upload>, Arc<Backend>, Load), Refusal> {
        let (mut parts, body) = request.into_parts();
        if headers::is_devious(parts.uri.path()) || self.is_ambiguous(route, &parts) {
            return Err(Refusal::Devious);
        }
        let limit = route.max_body.unwrap_or(self.0.max_body);
        if body.size_hint().lower() > limit {
            return Err(Refusal::TooLarge);
        }
        let peer = parts.extensions.get::<Peer>().cloned();
        headers::rewrite(&mut parts, route, peer.as_ref()).map_err(|_| Refusal::Devious)?;
        let progress = Progress::new();
        // Sent again if its connection turns out to have ended just then: it asks only, and has no body.
        let mut spare = (body.is_end_stream() && parts.method.is_safe()).then(|| parts.clone());
        let mut request = http::Request::from_parts(parts, Upload::new(body, limit, Arc::clone(&progress)));
        let mut tried = Vec::new();
        let allowance = self.0.client.allowance(&route.service);
        allowance.call();
        loop {
            let Some(backend) = self.pick(&route.service, &tried).await else {
                return Err(if tried.is_empty() { Refusal::NoInstance } else { Refusal::Unreachable });
            };
            let load = backend.begin();
            let idle = backend.idle();
            let used = idle.is_some();
            let connected = match idle {
                Some(sender) => Ok(sender),
                None => backend.connect(&self.0.connections, &self.0.stop).await,
            };
            let mut sender = match connected {
                Ok(sender) => sender,
                Err(error) => {
                    tracing::debug!(instance = %backend.id(), %error, "cannot connect");
                    tried.push(backend);
                    if tried.len() < ATTEMPTS && allowance.withdraw() {
                        continue;
                    }
                    return Err(Refusal::Unreachable);
                }
            };
            let answer = patiently(sender.try_send_request(request), &progress, route.timeout).await;
            let mut error = match answer {
                None => return Err(Refusal::Late),
                Some(Ok(response)) => return Ok((response, sender, backend, load)),
                Some(Err(error)) => error,
            };
            if progress.is_too_large() {
                return Err(Refusal::TooLarge);
            }
            if progress.is_broken() {
                return Err(Refusal::CallerBroke);
            }
            tracing::debug!(instance = %backend.id(), error = %error.error(), "a request broke off");
            // A connection that had ended before it was written to; of the instance that says nothing, and one that takes
            // its place is no attempt.
            if let Some(unsent) = error.take_message() {
                request = unsent;
                if !used {
                    tried.push(backend);
                    if tried.len() >= ATTEMPTS || !allowance.withdraw() {
                        return Err(Refusal::Unreachable);
                    }
                }
            } else if let (true, Some(parts)) = (used, spare.take())
                && allowance.withdraw()
            {
                request = http::Request::from_parts(parts, Upload::empty(Arc::clone(&progress)));
            } else {
                return Err(Refusal::Broken);
            }
        }
    }

    /// An instance that was not tried, after some patience if there is none at all.
    async fn pick(&self, service: &ServiceName, tried: &[Arc<Backend>]) -> Option<Arc<Backend>> {
        let until = Instant::now() + PATIENCE;
        let mut news = self.0.routes.news();
        loop {
            let found = self.0.routes.now().web.pick(service, tried);
            if found.is_some() || !tried.is_empty() {
                return found;
            }
            timeout_at(until, news.changed()).await.ok()?.ok()?;
        }
    }
}

/// Waits for an answer as long as something of the request still moves.
async fn patiently<T>(answer: impl Future<Output = T>, progress: &Progress, timeout: Duration) -> Option<T> {
    tokio::pin!(answer);
    loop {
        let until = progress.moved() + timeout;
        match timeout_at(until, answer.as_mut()).await {
            Ok(answer) => return Some(answer),
            Err(_) if progress.moved() + timeout > until => {}
            Err(_) => return None,
        }
    }
}

/// What the gateway answers itself, whatever the routes say: its pages for machines, and gRPC.
fn is_own(request: &Request) -> bool {
    let asks = request.method() == Method::GET || request.method() == Method::HEAD;
    let kind = request.headers().get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok());
    let path = request.uri().path();
    (asks && matches!(path, "/healthz" | "/readyz" | "/metrics"))
        // Or a route for everything would answer those who ask whether the gateway is ready.
        || path.starts_with("/grpc.health.v1.Health/")
        || path.starts_with("/grpc.reflection.")
        || kind.is_some_and(|kind| kind.starts_with("application/grpc"))
}

/// A name for metrics; callers cannot make new ones.
fn method_name(method: &Method) -> &'static str {
    const KNOWN: [&str; 8] = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "CONNECT"];
    KNOWN.into_iter().find(|known| *known == method.as_str()).unwrap_or("OTHER")
}

/// What a status is among the codes of calls; none for one that is no error.
fn code(status: StatusCode) -> Option<Code> {
    if !status.is_client_error() && !status.is_server_error() {
        return None;
    }
    Some(match status {
        StatusCode::UNAUTHORIZED => Code::Unauthenticated,
        StatusCode::FORBIDDEN => Code::PermissionDenied,
        StatusCode::NOT_FOUND => Code::NotFound,
        StatusCode::CONFLICT => Code::Aborted,
        StatusCode::TOO_MANY_REQUESTS => Code::ResourceExhausted,
        StatusCode::NOT_IMPLEMENTED => Code::Unimplemented,
        StatusCode::BAD_GATEWAY | StatusCode::SERVICE_UNAVAILABLE => Code::Unavailable,
        StatusCode::GATEWAY_TIMEOUT => Code::DeadlineExceeded,
        status if status.is_client_error() => Code::InvalidArgument,
        _ => Code::Internal,
    })
}

// === impl Refusal ===

impl Refusal {
    fn code(self) -> Code {
        match self {
            Self::Devious => Code::InvalidArgument,
            Self::CallerBroke => Code::Canceled,
            Self::TooLarge => Code::ResourceExhausted,
            Self::NoInstance | Self::Unreachable | Self::Broken => Code::Unavailable,
            Self::Late => Code::DeadlineExceeded,
        }
    }

    fn status(self) -> StatusCode {
        match self {
            Self::Devious | Self::CallerBroke => StatusCode::BAD_REQUEST,
            Self::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            Self::NoInstance => StatusCode::SERVICE_UNAVAILABLE,
            Self::Unreachable | Self::Broken => StatusCode::BAD_GATEWAY,
            Self::Late => StatusCode::GATEWAY_TIMEOUT,
        }
    }

    fn response(self, service: &ServiceName) -> Response {
        let message = match self {
            Self::Devious => "the path is not passed on as it is".to_owned(),
            Self::CallerBroke => "the request broke off".to_owned(),
            Self::TooLarge => "the request is larger than the route takes".to_owned(),
            Self::NoInstance => format!("no instance of {service} is ready"),
            Self::Unreachable => format!("no instance of {service} can be connected to"),
            Self::Broken => format!("the instance of {service} broke off before it answered"),
            Self::Late => format!("{service} took too long to answer"),
        };
        let body = serde_json::json!({ "code": self.code().as_str(), "message": message });
        let mut response = (self.status(), axum::Json(body)).into_response();
        if self == Self::NoInstance {
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
        }
        response
    }
}
