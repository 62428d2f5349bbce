//! The gateway's life: listen, learn the routes, be ready, drain.

use std::collections::HashMap;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use formic_api::Attendant;
use formic_client::{Client, Traffic, Transport};
use formic_core::{Endpoint, Error, ServiceName};
use formic_registry::DynRegistry;
use formic_rpc::Channel;
use formic_server::{Bound, ListenError, Server, Serving};
use formic_telemetry::Metrics;
use http::{HeaderName, HeaderValue, Method};
use tokio_util::sync::CancellationToken;
use tower_http::cors::{AllowHeaders, AllowOrigin, CorsLayer, ExposeHeaders};

use crate::entry::Entry;
use crate::guard::{REQUEST_ID, nobody_special, request_id, too_large};
use crate::page::{self, Page};
use crate::web::{Web, pass_on};
use crate::{Config, Proxy, Routes};

/// Why a gateway cannot run.
#[derive(Debug)]
pub enum GatewayError {
    /// It cannot listen.
    Listen(ListenError),
    /// It cannot be put together.
    Build(Error),
}

impl std::fmt::Display for GatewayError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Listen(error) => write!(f, "{error}"),
            Self::Build(error) => write!(f, "{error}"),
        }
    }
}

impl std::error::Error for GatewayError {}

fn cors(origins: &[String]) -> CorsLayer {
    let origin = if origins.iter().any(|origin| origin == "*") {
        AllowOrigin::any()
    } else {
        AllowOrigin::list(origins.iter().filter_map(|origin| HeaderValue::from_str(origin).ok()))
    };
    CorsLayer::new()
        .allow_origin(origin)
        .allow_methods([Method::GET, Method::POST, Method::OPTIONS])
        .allow_headers(AllowHeaders::mirror_request())
        .expose_headers(ExposeHeaders::list([
            REQUEST_ID,
            HeaderName::from_static("grpc-status"),
            HeaderName::from_static("grpc-message"),
            HeaderName::from_static("grpc-status-details-bin"),
        ]))
        .max_age(std::time::Duration::from_secs(7200))
}

/// Who does not begin an answer that streams is found out by whoever calls it, and not by the server of the gateway itself,
/// which gives up for its caller and knows of no instances. So the time for that is over a moment earlier.
const AHEAD: Duration = Duration::from_millis(20);

/// Where a gateway answers.
#[derive(Clone, Debug)]
pub struct Addresses {
    /// Where the world finds it, and others like it if they share the socket.
    pub public: Endpoint,
    /// Where this one answers and no other.
    pub own: Endpoint,
}

/// Runs a gateway until `stop`, on the socket that it was handed, if it was. `ready` is told where it answers once
/// it has its routes.
///
/// # Errors
/// If it cannot listen.
pub async fn run(
    config: Config,
    handed: Option<std::net::TcpListener>,
    registry: DynRegistry,
    daemon: Channel,
    metrics: Metrics,
    stop: CancellationToken,
    ready: impl FnOnce(Addresses) + Send,
) -> Result<(), GatewayError> {
    // A name that is none is nobody's.
    let named = |(name, traffic): (&String, &Traffic)| Some((ServiceName::new(name).ok()?, traffic.clone()));
    let services: HashMap<ServiceName, Traffic> = config.services.iter().filter_map(named).collect();
    let client = Client::new(
        Arc::clone(&registry),
        formic_client::Config {
            timeout: config.timeout.saturating_sub(AHEAD).max(config.timeout / 2),
            services: services.clone(),
            zone: config.labels.get("zone").cloned(),
            transport: Transport::named(&config.transport).unwrap_or_default(),
            observer: Some(Arc::new(metrics.clone())),
            ..formic_client::Config::default()
        },
    );
    let mut tasks = tokio::task::JoinSet::new();
    if !config.instance.is_empty() {
        let attendant = Attendant {
            engine: daemon.clone(),
            client: client.clone(),
            instance: config.instance.clone(),
            service: "gateway".into(),
            told: services,
        };
        tasks.spawn(attendant.run());
    }
    let (mut routes, following) = Routes::follow(registry, client.cache().clone(), daemon, stop.clone());
    tasks.spawn(following);
    let bound = match handed {
        Some(socket) => Bound::handed(socket).map_err(|error| ListenError::Io(config.listen.clone(), error)),
        None => Bound::bind(&config.listen).await,
    };
    let bound = bound.map_err(GatewayError::Listen)?;
    let mut limits = formic_server::Config {
        max_message: config.max_body,
        default_deadline: config.timeout,
        ..formic_server::Config::default()
    };
    if !config.priority {
        limits.overload.priority = None;
    }
    let page = Page::new(config.app.clone(), routes.clone());
    let web = Web::new(routes.clone(), client.clone(), metrics.clone(), config.max_body);
    let mut server = Server::new(limits, metrics)
        .proxy(Proxy::new(routes.clone(), client).with_priority(config.priority).handle())
        .router(page.clone().router())
        .layer(|router| router.layer(axum::middleware::from_fn_with_state(page, page::browser)))
        .layer(move |router| router.layer(axum::middleware::from_fn_with_state(config.max_body, too_large)));
    if !config.cors.is_empty() {
        let cors = cors(&config.cors);
        server = server.layer(|router| router.layer(cors));
    }
    // Outside of what is the calls': what is routed has limits of its own and answers browsers itself.
    let passing = web.clone();
    server = server
        .layer(|router| router.layer(axum::middleware::from_fn_with_state(passing, pass_on)))
        .layer(|router| router.layer(axum::middleware::from_fn(request_id)));
    if !config.priority {
        server = server.layer(|router| router.layer(axum::middleware::from_fn(nobody_special)));
    }
    let entry = Entry::new(config.trusted.clone(), config.metrics);
    server = server
        .layer(move |router| router.layer(axum::middleware::from_fn_with_state(entry, crate::entry::enter)));
    let mut running = server.build().map_err(GatewayError::Build)?;
    let health = Arc::new(running.health().clone());
    // Without a table every call would be a 404, which callers take for an answer: they wait in the queue, or
    // are another's who listens on the same socket.
    if stop.run_until_cancelled(routes.known()).await.is_some() {
        health.set(Serving::Ready);
        let shared = bound.is_shared();
        let public = running.listen(bound);
        let own = if shared {
            // Whoever asks how it is must not be answered by another.
            let own = Endpoint::Tcp((Ipv4Addr::LOCALHOST, 0).into());
            running.listen(Bound::bind(&own).await.map_err(GatewayError::Listen)?)
        } else {
            public.clone()
        };
        ready(Addresses { public, own });
        stop.cancelled().await;
    }
    let until = tokio::time::Instant::now() + config.grace;
    let cut = running.stop(config.grace).await;
    web.stop(until).await;
    if cut > 0 {
        tracing::warn!(calls = cut, "the grace is over; calls were cut off");
    }
    tasks.shutdown().await;
    Ok(())
}
