//! `formic gateway`: the system instance in front of an application.

use std::sync::Arc;

use formic_api::LocalRegistry;
use formic_core::{Endpoint, Instance, InstanceId, ServiceName};
use formic_gateway::Addresses;
use formic_registry::{DynRegistry, Registrar};
use formic_telemetry::{LogFormat, Metrics};
use tokio_util::sync::CancellationToken;

use crate::app;
use crate::exit::{Failure, Outcome};
use crate::signals::Ends;

fn variable(name: &str) -> Outcome<String> {
    std::env::var(name).map_err(|_| {
        Failure::user(format!("{name} is not set"))
            .help("the engine starts the gateway and sets it; `formic up` runs both")
    })
}

pub(crate) async fn run() -> Outcome {
    // Before anything that takes time: the engine may ask for the end while the gateway starts.
    let mut ends = Ends::listen()?;
    formic_telemetry::logs::init(
        LogFormat::Auto,
        &std::env::var("FORMIC_LOG").unwrap_or_else(|_| "info".into()),
    )
    .map_err(Failure::user)?;
    let mut config: formic_gateway::Config = serde_json::from_str(&variable("FORMIC_CONFIG")?)
        .map_err(|error| Failure::user("FORMIC_CONFIG is not a gateway's").because(error))?;
    if let Some(transport) = app::transport() {
        config.transport = transport;
    }
    let daemon: Endpoint =
        variable("FORMIC_DAEMON")?.parse().map_err(|error| Failure::user("FORMIC_DAEMON").because(error))?;
    let Endpoint::Unix(socket) = daemon else {
        return Err(Failure::user("FORMIC_DAEMON is not a unix socket"));
    };
    let daemon = app::channel(socket);
    let registry: DynRegistry = Arc::new(LocalRegistry::new(daemon.clone()));
    let stop = CancellationToken::new();
    let id = variable("FORMIC_INSTANCE")?;
    config.instance = id.clone();
    let version = std::env::var("FORMIC_VERSION").unwrap_or_default();
    let name = ServiceName::new(std::env::var("FORMIC_SERVICE").unwrap_or_else(|_| "gateway".into()))
        .map_err(|error| Failure::user("FORMIC_SERVICE").because(error))?;
    // Opened by the engine, and the next gateway's too.
    let handed = formic_handed::take()
        .map_err(|error| Failure::user("the sockets that were handed over").because(error))?;
    let handed = handed.into_iter().next().map(|(_, socket)| socket.into());
    let (listening, listens) = tokio::sync::oneshot::channel();
    let serving = formic_gateway::run(
        config,
        handed,
        Arc::clone(&registry),
        daemon,
        Metrics::new(),
        stop.clone(),
        move |addresses| {
            // The receiver goes only when the gateway is on its way out.
            let _ = listening.send(addresses);
        },
    );
    let announcing = async {
        let addresses = tokio::select! {
            () = ends.next() => None,
            addresses = listens => addresses.ok(),
        };
        if let Some(Addresses { public, own }) = addresses {
            tracing::info!(address = %public, "ready");
            let instance = Instance {
                id: InstanceId::new(id),
                service: name,
                version,
                endpoint: own,
                metadata: [(Instance::PUBLIC.to_owned(), public.to_string())].into(),
                rpc: Vec::new(),
            };
            let config = formic_registry::registrar::Config::default();
            let registrar = Registrar::start(registry, instance, config);
            ends.next().await;
            registrar.shutdown().await;
        }
        stop.cancel();
        // Asked twice: whoever asks does not want to wait for the drain.
        ends.next().await;
    };
    tokio::select! {
        served = serving => served.map_err(|error| Failure::user(error.to_string())),
        () = announcing => Err(Failure::interrupted()),
    }
}
