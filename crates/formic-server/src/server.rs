//! A server's life: built, bound, started, ready, draining, stopped.
//!
//! The drain is staged, and every stage is bounded: not ready → (the owner deregisters and waits for
//! the news to spread) → no new connections, GOAWAY on the old → calls in flight finish within the
//! grace → what is left is cut off.

mod connections;

use std::sync::Arc;
use std::time::Duration;

use formic_core::{Endpoint, Error};
use formic_rpc::{Channel, Handle, Intercepted, Interceptor, Peer, Routes};
use formic_telemetry::{Arrivals, Metrics};
use futures::{Stream, StreamExt};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use self::connections::Connections;
use crate::door::Door;
use crate::http::{Edge, Layering, Parts};
use crate::listener::Bound;
use crate::mux::{self, Counted};
use crate::pipeline::Pipeline;
use crate::unary::Bounds;
use crate::{Config, Guard, Health, Serving, reflection};

/// A server under construction.
#[must_use = "a server does nothing until it is started"]
pub struct Server {
    config: Config,
    metrics: Metrics,
    routes: Routes,
    interceptors: Vec<Arc<dyn Interceptor>>,
    router: Option<axum::Router>,
    layers: Vec<Layering>,
    guard: Option<Arc<dyn Guard>>,
    /// A proxy answers instead of the routes for whatever these do not know.
    proxy: Option<Arc<dyn Handle>>,
}

impl std::fmt::Debug for Server {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Server").field("routes", &self.routes).finish_non_exhaustive()
    }
}

impl Server {
    /// A server that serves nothing yet.
    pub fn new(config: Config, metrics: Metrics) -> Self {
        Self {
            config,
            metrics,
            routes: Routes::new(),
            interceptors: Vec::new(),
            router: None,
            layers: Vec::new(),
            guard: None,
            proxy: None,
        }
    }

    /// Changes the limits.
    pub fn configure(mut self, with: impl FnOnce(&mut Config)) -> Self {
        with(&mut self.config);
        self
    }

    /// Adds a service.
    ///
    /// # Errors
    /// If one of its names is served already.
    pub fn serve(mut self, handle: Arc<dyn Handle>) -> Result<Self, Error> {
        self.routes.add(handle)?;
        Ok(self)
    }

    /// Hands calls to methods that no service here has to this handle.
    pub fn proxy(mut self, handle: Arc<dyn Handle>) -> Self {
        self.proxy = Some(handle);
        self
    }

    /// Adds an interceptor inside of those added before.
    pub fn intercept(mut self, interceptor: Arc<dyn Interceptor>) -> Self {
        self.interceptors.push(interceptor);
        self
    }

    /// Answers other HTTP requests on the same port.
    pub fn router(mut self, router: axum::Router) -> Self {
        self.router = Some(match self.router.take() {
            Some(present) => present.merge(router),
            None => router,
        });
        self
    }

    /// Changes the whole HTTP side, calls included: `|router| router.layer(…)`.
    pub fn layer(mut self, layer: impl FnOnce(axum::Router) -> axum::Router + Send + 'static) -> Self {
        self.layers.push(Box::new(layer));
        self
    }

    /// Has every request decided on before it is read, pages and reflection too. A guarded server answers HTTP alone.
    pub fn guard(mut self, guard: Arc<dyn Guard>) -> Self {
        self.guard = Some(guard);
        self
    }

    /// The finished server without a listener; it answers in memory, and on [`Running::listen`].
    ///
    /// # Errors
    /// If an author's service takes the name of a built-in one.
    pub fn build(mut self) -> Result<Running, Error> {
        let services = self.routes.services();
        let names: Vec<String> = services.iter().map(|service| service.name.clone()).collect();
        let health = Health::new(names.iter().cloned());
        let mut listed = names;
        listed.extend(["grpc.health.v1.Health", "grpc.reflection.v1.ServerReflection"].map(String::from));
        listed.push("grpc.reflection.v1alpha.ServerReflection".into());
        let health_handle = health.handle();
        let mut sets = self.routes.descriptors();
        sets.extend(health_handle.descriptors());
        let index = reflection::Index::new(&sets, listed);
        // The author's interceptors see the author's calls; probes stay out of their way.
        let authored = Intercepted::wrap(Arc::new(self.routes), self.interceptors);
        let mut routes = Routes::new();
        routes.add(authored)?;
        routes.add(health_handle)?;
        for handle in reflection::handles(index) {
            routes.add(handle)?;
        }
        let inner: Arc<dyn Handle> = match self.proxy.take() {
            Some(proxy) => Arc::new(OrProxy { routes, proxy }),
            None => Arc::new(routes),
        };
        let pipeline = Arc::new(Pipeline::new(inner, &self.metrics, &self.config));
        let handle: Arc<dyn Handle> = Arc::clone(&pipeline) as Arc<dyn Handle>;
        // Layers stand around HTTP, and what the author put there must stand around every call.
        let multiplexed = self.config.multiplexed && self.layers.is_empty() && self.guard.is_none();
        let arrivals = |name| self.metrics.arrivals(name);
        let (over_mux, over_http) = (arrivals("multiplexed"), arrivals("http"));
        let counted = |arrivals: &Arrivals| Counted::around(&handle, arrivals);
        let door = |arrivals: &Arrivals| Door {
            pipeline: Arc::clone(&pipeline),
            arrivals: arrivals.clone(),
            bounds: Bounds::new(&self.config),
        };
        let mux = multiplexed
            .then(|| mux::accept(counted(&over_mux), door(&over_mux), &self.config, &self.metrics));
        let handle = counted(&over_http);
        let parts = Parts {
            door: door(&over_http),
            health: health.clone(),
            metrics: self.metrics,
            router: self.router,
            layers: self.layers,
            guard: self.guard,
        };
        let edge = Edge::new(handle, &self.config, parts);
        Ok(Running {
            pipeline,
            services,
            health,
            edge,
            mux,
            arrivals: [over_mux, over_http],
            config: Arc::new(self.config),
            accepting: CancellationToken::new(),
            draining: CancellationToken::new(),
            loops: JoinSet::new(),
        })
    }
}

struct OrProxy {
    routes: Routes,
    proxy: Arc<dyn Handle>,
}

impl Handle for OrProxy {
    fn method(&self, path: &str) -> Option<formic_core::Method> {
        self.routes.method(path).or_else(|| self.proxy.method(path))
    }

    fn call(
        &self,
        call: formic_rpc::Call,
    ) -> formic_rpc::BoxFuture<'static, Result<formic_rpc::Answer, Error>> {
        if self.routes.method(call.method.path()).is_some() {
            self.routes.call(call)
        } else {
            self.proxy.call(call)
        }
    }

    fn services(&self) -> Vec<formic_core::RpcService> {
        self.routes.services()
    }
}

/// A server that answers. Dropping it cuts everything off; [`stop`](Self::stop) is the polite way.
pub struct Running {
    pipeline: Arc<Pipeline>,
    services: Vec<formic_core::RpcService>,
    health: Health,
    edge: Edge,
    mux: Option<Arc<formic_mux::Accept>>,
    /// Over the multiplexed wire, and over HTTP.
    arrivals: [Arrivals; 2],
    config: Arc<Config>,
    accepting: CancellationToken,
    draining: CancellationToken,
    /// One task a listener; each owns its connections.
    loops: JoinSet<()>,
}

impl std::fmt::Debug for Running {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Running").field("health", &self.health.get()).finish_non_exhaustive()
    }
}

impl Running {
    /// Accepts connections from a listener, from now on.
    pub fn listen(&mut self, bound: Bound) -> Endpoint {
        let endpoint = bound.endpoint().clone();
        self.loops.spawn(self.connections().accept_from(bound));
        endpoint
    }

    /// Serves connections that come from elsewhere than a listener of the system: out of a tunnel, or out of
    /// memory in a test. They are drained like all others.
    pub fn listen_on<S>(&mut self, accepted: impl Stream<Item = S> + Send + Unpin + 'static)
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        self.listen_with(accepted.map(|stream| (stream, None)));
    }

    /// The same, of connections whose other end is known.
    pub fn listen_with<S>(
        &mut self,
        mut accepted: impl Stream<Item = (S, Option<Peer>)> + Send + Unpin + 'static,
    ) where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let connections = self.connections();
        self.loops.spawn(async move {
            let mut tasks = JoinSet::new();
            loop {
                while tasks.try_join_next().is_some() {}
                tokio::select! {
                    () = connections.accepting.cancelled() => break,
                    Some((stream, peer)) = accepted.next() => {
                        tasks.spawn(connections.connection(stream, peer, None));
                    }
                    else => break,
                }
            }
            drop(accepted);
            while tasks.join_next().await.is_some() {}
        });
    }

    fn connections(&self) -> Connections {
        Connections {
            edge: self.edge.clone(),
            mux: self.mux.clone(),
            arrivals: self.arrivals.clone(),
            config: Arc::clone(&self.config),
            accepting: self.accepting.clone(),
            draining: self.draining.clone(),
        }
    }

    /// A channel to this server within the process: no socket, no HTTP, the same pipeline.
    #[must_use]
    pub fn channel(&self) -> Channel {
        Channel::new(self.handle())
    }

    /// The pipeline as a handle, for clients of the same process.
    #[must_use]
    pub fn handle(&self) -> Arc<dyn Handle> {
        Arc::clone(&self.pipeline) as Arc<dyn Handle>
    }

    /// The author's services, for the registry; health and reflection go without saying.
    #[must_use]
    pub fn services(&self) -> &[formic_core::RpcService] {
        &self.services
    }

    /// Whether the server wants traffic; to read and to set.
    #[must_use]
    pub fn health(&self) -> &Health {
        &self.health
    }

    /// Whether its listeners answer the multiplexed wire too.
    #[must_use]
    pub fn is_multiplexed(&self) -> bool {
        self.mux.is_some()
    }

    /// Calls that are being answered now.
    #[must_use]
    pub fn in_flight(&self) -> usize {
        self.pipeline.in_flight()
    }

    /// How many calls are worked on at a time, as of now: the adaptive limit.
    #[must_use]
    pub fn limit(&self) -> usize {
        self.pipeline.limit()
    }

    /// Drains: no new connections, GOAWAY on the old, calls in flight get `grace` to finish. Handlers can
    /// learn of it; streams of answers that are quiet, or go on and on, are ended with `unavailable`.
    /// Returns how many calls were cut off.
    pub async fn stop(mut self, grace: Duration) -> usize {
        self.health.set(Serving::Draining);
        self.accepting.cancel();
        self.draining.cancel();
        self.pipeline.drain(grace);
        let deadline = tokio::time::Instant::now() + grace;
        let finished = tokio::time::timeout_at(deadline, async {
            while self.loops.join_next().await.is_some() {}
            // Calls from within the process hang on no connection.
            while self.pipeline.in_flight() > 0 {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        });
        let cut = if finished.await.is_ok() { 0 } else { self.pipeline.in_flight() };
        self.loops.shutdown().await;
        cut
    }
}
