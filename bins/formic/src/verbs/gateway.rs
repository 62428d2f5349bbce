//! `formic gateway`: the system instance in front of an application.

use std::sync::Arc;

use formic_telemetry::Metrics;
use tokio_util::sync::CancellationToken;

use super::system::{self, Part};
use crate::app;
use crate::exit::{Failure, Outcome};

pub(crate) async fn run() -> Outcome {
    let part = Part::begin()?;
    let mut config: formic_gateway::Config = system::config("gateway")?;
    // What the manifest says lies over what the engine's environment says of the whole application.
    if config.transport.is_empty() {
        config.transport = app::transport().unwrap_or_default();
    }
    config.instance = part.id.to_string();
    // Opened by the engine, and the next gateway's too.
    let handed = formic_handed::take()
        .map_err(|error| Failure::user("the sockets that were handed over").because(error))?;
    let handed = handed.into_iter().next().map(|(_, socket)| socket.into());
    let stop = CancellationToken::new();
    let (listening, listens) = tokio::sync::oneshot::channel();
    let serving = formic_gateway::run(
        config,
        handed,
        Arc::clone(&part.registry),
        part.daemon.clone(),
        Metrics::new(),
        stop.clone(),
        move |addresses| {
            // The receiver goes only when the gateway is on its way out.
            let _ = listening.send(addresses);
        },
    );
    part.serve(serving, listens, stop).await
}
