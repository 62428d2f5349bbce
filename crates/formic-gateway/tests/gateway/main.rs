//! A gateway in front of services on loopback, with a daemon that the test plays.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod calls;
mod door;
mod known;
mod picks;
mod web;
mod zone;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use formic_api::control::v1 as control;
use formic_core::{Endpoint, Error, Instance, InstanceId, ServiceName};
use formic_gateway::Config;
use formic_probe::{Named, PlainServer, ProbeServer, Prober};
use formic_registry::{Memory, Registry};
use formic_rpc::{Channel, Context, Handle, Reply, Request, Sender, Streaming, reply};
use formic_server::Server;
use formic_telemetry::Metrics;
use formic_testing::Transient;
use http_body_util::{BodyExt, Full};
use hyper_util::rt::TokioIo;
use tokio_util::sync::CancellationToken;

/// How long anything that should happen may take on a busy machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// What the gateway hears of the daemon: the test holds the other ends of the streams.
#[derive(Clone, Default)]
pub(crate) struct Daemon {
    watchers: Arc<Mutex<Vec<Sender<control::WatchRoutesResponse>>>>,
    /// What a new watcher is told first.
    first: Arc<Mutex<Option<control::WatchRoutesResponse>>>,
}

pub(crate) fn routes(generation: u64, exposed: &[&str]) -> control::WatchRoutesResponse {
    let exposed = exposed.iter().map(ToString::to_string).collect();
    control::WatchRoutesResponse { generation, exposed, ..Default::default() }
}

impl Daemon {
    pub(crate) fn exposing(exposed: &[&str]) -> Self {
        let daemon = Self::default();
        *daemon.first.lock().unwrap() = Some(routes(1, exposed));
        daemon
    }

    pub(crate) fn watchers(&self) -> usize {
        self.watchers.lock().unwrap().len()
    }

    pub(crate) async fn say(&self, generation: u64, exposed: &[&str]) {
        self.tell(routes(generation, exposed)).await;
    }

    pub(crate) async fn tell(&self, routes: control::WatchRoutesResponse) {
        let watcher = self.watchers.lock().unwrap().last().unwrap().clone();
        watcher.send(Ok(routes)).await.unwrap();
    }

    /// Ends every watch, and refuses new ones.
    pub(crate) fn goes_away(&self) {
        *self.first.lock().unwrap() = None;
        self.watchers.lock().unwrap().clear();
    }
}

impl control::ControlService for Daemon {
    async fn status(
        &self,
        _: Context,
        _: Request<'_, control::StatusRequest>,
    ) -> Reply<control::StatusResponse> {
        Err(Error::unimplemented("not played"))
    }

    async fn watch_status(
        &self,
        _: Context,
        _: Request<'_, control::StatusRequest>,
    ) -> Reply<Streaming<control::StatusResponse>> {
        Err(Error::unimplemented("not played"))
    }

    async fn logs(
        &self,
        _: Context,
        _: Request<'_, control::LogsRequest>,
    ) -> Reply<Streaming<control::LogLine>> {
        Err(Error::unimplemented("not played"))
    }

    async fn measure(
        &self,
        _: Context,
        _: Request<'_, control::MeasureRequest>,
    ) -> Reply<control::MeasureResponse> {
        Err(Error::unimplemented("not played"))
    }

    async fn stop(&self, _: Context, _: Request<'_, control::StopRequest>) -> Reply<control::StopResponse> {
        Err(Error::unimplemented("not played"))
    }

    async fn watch_routes(
        &self,
        _: Context,
        _: Request<'_, control::WatchRoutesRequest>,
    ) -> Reply<Streaming<control::WatchRoutesResponse>> {
        let first = self.first.lock().unwrap().clone();
        let Some(first) = first else { return Err(Error::unavailable("the daemon is away")) };
        let (sender, stream) = Streaming::channel(8);
        sender.send(Ok(first)).await.map_err(|_| Error::canceled("gone"))?;
        self.watchers.lock().unwrap().push(sender);
        reply(stream)
    }
}

/// A gateway and what is behind it: `shop` with the prober, exposed, and `vault` with the other service,
/// not exposed.
pub(crate) struct Front {
    pub(crate) addr: SocketAddr,
    pub(crate) prober: Prober,
    pub(crate) registry: Arc<Memory>,
    pub(crate) daemon: Daemon,
    pub(crate) shop: Option<Transient>,
    pub(crate) stop: CancellationToken,
    pub(crate) ended: tokio::task::JoinHandle<()>,
    _vault: Transient,
}

async fn register(registry: &Memory, name: &str, server: &Transient) {
    let instance = Instance {
        id: InstanceId::new(format!("{name}-1")),
        service: ServiceName::new(name).unwrap(),
        version: String::new(),
        endpoint: server.addr().into(),
        metadata: BTreeMap::new(),
        rpc: server.running().services().to_vec(),
    };
    registry.register(instance, Duration::from_secs(3600)).await.unwrap();
}

async fn serve(handle: Arc<dyn Handle>) -> Transient {
    Transient::start(Server::new(Default::default(), Metrics::new()).serve(handle).unwrap()).await
}

pub(crate) fn config() -> Config {
    serde_json::from_str(r#"{"app":"shop","listen":"127.0.0.1:0"}"#).unwrap()
}

pub(crate) async fn front(change: impl FnOnce(&mut Config)) -> Front {
    let prober = Prober::new();
    let shop = serve(Arc::new(ProbeServer::new(prober.clone()))).await;
    let vault = serve(Arc::new(PlainServer::new(Named("vault")))).await;
    let registry = Arc::new(Memory::new());
    register(&registry, "shop", &shop).await;
    register(&registry, "vault", &vault).await;
    let daemon = Daemon::exposing(&["shop"]);
    let mut config = config();
    change(&mut config);
    let channel = Channel::new(Arc::new(control::ControlServiceServer::new(daemon.clone())));
    let stop = CancellationToken::new();
    let (told, ready) = tokio::sync::oneshot::channel();
    let running = formic_gateway::run(
        config,
        None,
        registry.clone(),
        channel,
        Metrics::new(),
        stop.clone(),
        |endpoint| drop(told.send(endpoint)),
    );
    let ended = tokio::spawn(async move { running.await.unwrap() });
    let Endpoint::Tcp(addr) = within("the gateway to be ready", ready).await.unwrap().public else {
        panic!("TCP")
    };
    Front { addr, prober, registry, daemon, shop: Some(shop), stop, ended, _vault: vault }
}

impl Front {
    /// One request, on a connection of its own.
    pub(crate) async fn send(&self, request: http::Request<Full<Bytes>>) -> http::Response<Bytes> {
        let io = TokioIo::new(tokio::net::TcpStream::connect(self.addr).await.unwrap());
        let (mut sender, connection) = hyper::client::conn::http1::handshake(io).await.unwrap();
        let mut tasks = tokio::task::JoinSet::new();
        tasks.spawn(connection);
        let (head, body) = within("an answer", sender.send_request(request)).await.unwrap().into_parts();
        http::Response::from_parts(head, body.collect().await.unwrap().to_bytes())
    }

    pub(crate) async fn json(&self, path: &str, body: &str) -> http::Response<Bytes> {
        self.send(post(path, body)).await
    }
}

pub(crate) fn post(path: &str, body: &str) -> http::Request<Full<Bytes>> {
    http::Request::post(path)
        .header("host", "localhost")
        .header("content-type", "application/json")
        .body(Full::from(body.to_owned()))
        .unwrap()
}

pub(crate) fn get(path: &str, accept: &str) -> http::Request<Full<Bytes>> {
    http::Request::get(path)
        .header("host", "localhost")
        .header("accept", accept)
        .body(Full::default())
        .unwrap()
}

pub(crate) fn text(response: &http::Response<Bytes>) -> String {
    String::from_utf8_lossy(response.body()).into_owned()
}

pub(crate) async fn within<T>(what: &str, future: impl Future<Output = T>) -> T {
    formic_testing::in_time(what, PATIENCE, future).await
}

pub(crate) async fn until(what: &str, so: impl FnMut() -> bool) {
    formic_testing::wait_until(what, PATIENCE, so).await;
}
