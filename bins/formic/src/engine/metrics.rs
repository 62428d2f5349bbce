//! The engine's `/metrics`: on its own socket always, on a port of its own if asked for.

use std::net::SocketAddr;

use formic_core::Endpoint;
use formic_server::{Bound, Running, Server, Serving};
use formic_telemetry::Metrics;

use super::control::Control;
use crate::exit::{Failure, Outcome};

/// The metrics of an engine, those of its instances among them.
pub(crate) fn of(control: &Control) -> Metrics {
    let metrics = Metrics::new();
    let control = control.clone();
    metrics.add_source(move || control.metrics());
    metrics
}

/// A port for those who scrape; nothing else is served there.
pub(crate) async fn listen(address: Option<SocketAddr>, control: &Control) -> Outcome<Option<Running>> {
    let Some(address) = address else { return Ok(None) };
    let bound = Bound::bind(&Endpoint::Tcp(address))
        .await
        .map_err(|error| Failure::user("cannot listen for scrapes of the metrics").because(error))?;
    serve(bound, control).map(Some)
}

/// The same, on a socket that listens already.
pub(crate) fn serve(bound: Bound, control: &Control) -> Outcome<Running> {
    let failed = |error: formic_core::Error| Failure::bug(error.to_string());
    let mut server = Server::new(formic_server::Config::default(), of(control)).build().map_err(failed)?;
    server.listen(bound);
    server.health().set(Serving::Ready);
    Ok(server)
}
