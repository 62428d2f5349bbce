//! `formic proxy`: the system instance in front of programs that know nothing of sockets.

use std::collections::BTreeMap;
use std::sync::Arc;

use formic_gateway::tcp;
use formic_telemetry::Metrics;
use tokio_util::sync::CancellationToken;

use super::system::{self, Part};
use crate::exit::{Failure, Outcome};

pub(crate) async fn run() -> Outcome {
    let part = Part::begin()?;
    let config: tcp::Config = system::config("proxy")?;
    // Opened by the engine, and the next proxy's too; each has the name of its service.
    let handed = formic_handed::take()
        .map_err(|error| Failure::user("the sockets that were handed over").because(error))?;
    let handed: BTreeMap<String, std::net::TcpListener> =
        handed.into_iter().map(|(name, socket)| (name, socket.into())).collect();
    let stop = CancellationToken::new();
    let (listening, listens) = tokio::sync::oneshot::channel();
    let registry = Arc::clone(&part.registry);
    let serving = tcp::run(config, handed, registry, Metrics::new(), stop.clone(), move |addresses| {
        // The receiver goes only when the proxy is on its way out.
        let _ = listening.send(addresses);
    });
    part.serve(serving, listens, stop).await
}
