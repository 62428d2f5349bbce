//! The ports of a server: its API and its metrics over TCP. The keeper holds the sockets, so that they stay open from one
//! brain to the next: whoever connects in between waits a moment and is answered by the next one.
//!
//! A brain whose port cannot be opened, because a file of it is gone, goes on without it and tries again: what it manages
//! must not depend on a certificate.

use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::time::Duration;

use formic_server::{Bound, Running};
use formic_supervise::keeper;
use tokio::net::TcpListener;

use super::Place;
use super::door::Door;
use crate::engine::control::Control;
use crate::engine::metrics;
use crate::exit::{Failure, Outcome};

/// The names that the keeper knows the sockets by.
const API: &str = "server.api";
const METRICS: &str = "server.metrics";

/// How often a port that cannot be opened is tried again.
const AGAIN: Duration = Duration::from_secs(5);

/// What is answered at a port.
enum Served<'a> {
    Api(&'a Door),
    Metrics,
}

impl Served<'_> {
    async fn on(&self, listener: TcpListener, control: &Control) -> Outcome<Running> {
        match self {
            Self::Api(door) => door.open(control, listener).await,
            Self::Metrics => {
                let bound =
                    Bound::tcp(listener).map_err(|error| Failure::user("no address").because(error))?;
                metrics::serve(bound, control)
            }
        }
    }
}

/// Opens the ports and keeps them open. Cancelled with the brain; the sockets stay with the keeper.
pub(super) async fn run(place: Place, control: Control, keeper: keeper::Client) {
    let api = place.door.as_ref().map(|door| (door.listen, Served::Api(door)));
    let scraped = place.metrics.map(|address| (address, Served::Metrics));
    let api = kept(API, &keeper, api, &control);
    let scraped = kept(METRICS, &keeper, scraped, &control);
    let _open = tokio::join!(api, scraped);
    std::future::pending::<()>().await;
}

/// Tries until it is served. A port that is not wanted any more is closed.
async fn kept(
    name: &str,
    keeper: &keeper::Client,
    wanted: Option<(SocketAddr, Served<'_>)>,
    control: &Control,
) -> Option<Running> {
    let Some((address, served)) = wanted else {
        if let Err(error) = keeper.release(name).await {
            tracing::warn!(%error, "the keeper does not say whether {name} is closed");
        }
        return None;
    };
    loop {
        let opened = async {
            let listener = socket(name, keeper, address).await?;
            let address = listener.local_addr().unwrap_or(address);
            Ok::<_, Failure>((served.on(listener, control).await?, address))
        };
        match opened.await {
            Ok((running, address)) => {
                tracing::info!(%address, "{name} is open");
                return Some(running);
            }
            Err(failure) => tracing::error!(%address, %failure, "{name} is not open, and is tried again"),
        }
        tokio::time::sleep(AGAIN).await;
    }
}

/// The socket that the keeper holds, if it is for this address; else a new one, which it holds from now on.
async fn socket(name: &str, keeper: &keeper::Client, address: SocketAddr) -> Outcome<TcpListener> {
    let failed = |error: std::io::Error| Failure::user(format!("cannot listen on {address}")).because(error);
    let refused = |error: keeper::ClientError| Failure::user("the keeper does not answer").because(error);
    if let Some(held) = keeper.take(name).await.map_err(refused)? {
        let held = std::net::TcpListener::from(held);
        if held
            .local_addr()
            .is_ok_and(|is| is.ip() == address.ip() && [is.port(), 0].contains(&address.port()))
        {
            return TcpListener::from_std(held).map_err(failed);
        }
        drop(held);
        keeper.release(name).await.map_err(refused)?;
    }
    let listener = TcpListener::bind(address).await.map_err(failed)?;
    let std = listener.into_std().map_err(failed)?;
    let copy: OwnedFd = std.try_clone().map_err(failed)?.into();
    keeper.hold(name, copy).await.map_err(refused)?;
    TcpListener::from_std(std).map_err(failed)
}

/// A port that is taken is better told by the command than by the log.
pub(super) fn are_free(place: &Place) -> Outcome {
    // A service manager that kept the sockets for the next keeper has them open.
    if std::env::var_os("LISTEN_FDS").is_some() {
        return Ok(());
    }
    for address in place.door.iter().map(|door| door.listen).chain(place.metrics) {
        std::net::TcpListener::bind(address)
            .map_err(|error| Failure::user(format!("cannot listen on {address}")).because(error))?;
    }
    Ok(())
}
