//! Plain TCP in front of programs that know nothing of sockets that are handed to them: who connects to a service's public
//! address is carried, byte for byte, to an instance that is ready.
//!
//! ```text
//! accept   as many connections as there may be; more wait in the socket's own queue
//! pool     who is ready, as last known; the one with the fewest connections; another if that does not answer
//! carry    bytes both ways, each way closed by itself, until both are
//! ```
//!
//! A connection stays with its instance for as long as both want: a roll ends none before the instance itself does, and new
//! ones go to those that are ready by then. The engine opened the sockets, so no connection is refused while there is nobody.
//!
//! Refused: the PROXY protocol, which a program that knows nothing would take for data; and moving a connection to another
//! instance, as nobody here knows what was said on it.

mod pool;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use formic_core::{Endpoint, Error, ServiceName};
use formic_registry::{Cache, DynRegistry};
use formic_server::{Bound, ListenError, Server, Serving};
use formic_telemetry::Metrics;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use self::pool::Pool;
use crate::run::{Addresses, GatewayError};

/// How a proxy is set up. Who is ready comes by watch.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// The services in front of which it stands, by their names, which are those of the sockets too.
    pub services: BTreeMap<String, Front>,
    /// How long connections may go on at the end.
    pub grace: Duration,
}

/// What one service's callers may expect.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Front {
    /// Where they come.
    pub listen: SocketAddr,
    /// How long a connection waits for an instance that takes it.
    pub connect_timeout: Duration,
    /// How many connections there may be at a time.
    pub max_connections: u32,
}

/// After an error of the system's own, for want of descriptors perhaps.
const PAUSE: Duration = Duration::from_millis(50);

/// How long a caller may send nothing to an instance that has said all.
const SILENCE: Duration = Duration::from_secs(5);

/// What is passed on at a time, each way.
const BUFFER: usize = 16 << 10;

/// What there was of one service's connections.
#[derive(Debug, Default)]
struct Counts {
    open: AtomicU64,
    total: AtomicU64,
    unserved: AtomicU64,
}

/// Everything that one connection needs.
#[derive(Debug)]
struct Line {
    name: String,
    front: Front,
    pool: Pool,
    counts: Arc<Counts>,
    slots: Arc<Semaphore>,
}

/// Counts a connection as open while it lives.
struct Open(Arc<Counts>);

impl Drop for Open {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Runs a proxy until `stop`, on the sockets that it was handed, by the names of their services. `ready` is told where it
/// answers once it knows who is ready.
///
/// # Errors
/// If it cannot listen.
pub async fn run(
    config: Config,
    mut handed: BTreeMap<String, std::net::TcpListener>,
    registry: DynRegistry,
    metrics: Metrics,
    stop: CancellationToken,
    ready: impl FnOnce(Addresses) + Send,
) -> Result<(), GatewayError> {
    let cache = Cache::new(registry);
    let (tasks, cut) = (TaskTracker::new(), CancellationToken::new());
    let mut following = JoinSet::new();
    let mut all = BTreeMap::new();
    let mut lines = Vec::new();
    for (name, front) in config.services {
        let service = ServiceName::new(&name)
            .map_err(|error| GatewayError::Build(Error::invalid_argument(error.to_string())))?;
        let counts = Arc::<Counts>::default();
        all.insert(name.clone(), Arc::clone(&counts));
        let (pool, follow) = Pool::follow(cache.instances(&service));
        following.spawn(follow);
        let slots = usize::try_from(front.max_connections).unwrap_or(usize::MAX).min(Semaphore::MAX_PERMITS);
        let socket = handed.remove(&name);
        lines.push((Line { name, front, pool, counts, slots: Arc::new(Semaphore::new(slots)) }, socket));
    }
    metrics.add_source(move || told(&all));
    let mut running =
        Server::new(formic_server::Config::default(), metrics).build().map_err(GatewayError::Build)?;
    let own = Endpoint::Tcp((Ipv4Addr::LOCALHOST, 0).into());
    let own = running.listen(Bound::bind(&own).await.map_err(GatewayError::Listen)?);
    let mut public = None;
    for (line, socket) in lines {
        let address = line.front.listen;
        let listener = listen(socket, address)
            .await
            .map_err(|error| GatewayError::Listen(ListenError::Io(Endpoint::Tcp(address), error)))?;
        public.get_or_insert(Endpoint::Tcp(listener.local_addr().unwrap_or(address)));
        tasks.spawn(accept(Arc::new(line), listener, tasks.clone(), stop.clone(), cut.clone()));
    }
    running.health().set(Serving::Ready);
    ready(Addresses { public: public.unwrap_or_else(|| own.clone()), own });
    stop.cancelled().await;
    // Another accepts on the same sockets by now; what is here goes on for its time.
    tasks.close();
    if tokio::time::timeout(config.grace, tasks.wait()).await.is_err() {
        tracing::warn!(connections = tasks.len(), "the grace is over; connections are cut off");
    }
    cut.cancel();
    tasks.wait().await;
    following.shutdown().await;
    cache.shutdown().await;
    running.stop(Duration::ZERO).await;
    Ok(())
}

async fn listen(socket: Option<std::net::TcpListener>, address: SocketAddr) -> io::Result<TcpListener> {
    let Some(socket) = socket else { return TcpListener::bind(address).await };
    socket.set_nonblocking(true)?;
    TcpListener::from_std(socket)
}

/// Takes connections, as many at a time as there may be. Ends with `stop`; what it has taken goes on.
async fn accept(
    line: Arc<Line>,
    listener: TcpListener,
    tasks: TaskTracker,
    stop: CancellationToken,
    cut: CancellationToken,
) {
    loop {
        // Cancel safe: a place that was not given is nobody's, and a connection that was not taken waits in the queue.
        let next = async {
            // Never closed.
            let slot = Arc::clone(&line.slots).acquire_owned().await.ok();
            (slot, listener.accept().await)
        };
        match stop.run_until_cancelled(next).await {
            None => return,
            Some((slot, Ok((caller, _)))) => {
                line.counts.total.fetch_add(1, Ordering::Relaxed);
                line.counts.open.fetch_add(1, Ordering::Relaxed);
                let (open, line, cut) = (Open(Arc::clone(&line.counts)), Arc::clone(&line), cut.clone());
                tasks.spawn(async move {
                    cut.run_until_cancelled(carry(&line, caller)).await;
                    drop((open, slot));
                });
            }
            Some((slot, Err(error))) => {
                drop(slot);
                tracing::warn!(service = line.name, %error, "a connection cannot be taken");
                sleep(PAUSE).await;
            }
        }
    }
}

/// One connection, from its first byte to its last.
async fn carry(line: &Line, mut caller: TcpStream) {
    let until = Instant::now() + line.front.connect_timeout;
    let Some(mut reached) = line.pool.reach(until).await else {
        line.counts.unserved.fetch_add(1, Ordering::Relaxed);
        tracing::warn!(service = line.name, "nobody took a connection in time; it is closed");
        return;
    };
    // What a program writes is to arrive now, as it would without anybody in between.
    let _ = caller.set_nodelay(true);
    let said_all = CancellationToken::new();
    let (from_caller, to_caller) = caller.split();
    let (from_instance, to_instance) = tokio::io::split(&mut reached.io);
    let up = pass(from_caller, to_instance, &said_all);
    let down = async {
        // Nothing of the instance's ends because the caller has said all.
        let passed = pass(from_instance, to_caller, &CancellationToken::new()).await;
        said_all.cancel();
        passed
    };
    match tokio::try_join!(up, down) {
        Ok((up, down)) => tracing::debug!(service = line.name, up, down, "a connection ended"),
        Err(error) => tracing::debug!(service = line.name, %error, "a connection broke"),
    }
}

/// Passes bytes on to their end, which is passed on too. Says how many. Once the other side `is_over`, whoever sends nothing
/// for a while is at an end: an instance that is gone has said all, and its caller may not have noticed.
async fn pass(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    is_over: &CancellationToken,
) -> io::Result<u64> {
    let mut buffer = vec![0; BUFFER];
    let mut passed = 0;
    loop {
        let silence = async {
            is_over.cancelled().await;
            sleep(SILENCE).await;
        };
        // Cancel safe: bytes that were not read stay where they are.
        let read = tokio::select! {
            biased;
            read = from.read(&mut buffer) => read?,
            () = silence => 0,
        };
        if read == 0 {
            to.shutdown().await?;
            return Ok(passed);
        }
        to.write_all(&buffer[..read]).await?;
        passed += read as u64;
    }
}

/// For those who scrape.
fn told(all: &BTreeMap<String, Arc<Counts>>) -> String {
    let mut out = String::new();
    let mut family = |name: &str, kind: &str, help: &str, of: fn(&Counts) -> &AtomicU64| {
        let suffix = if kind == "counter" { "_total" } else { "" };
        // Writing to a string cannot fail.
        let _ = writeln!(out, "# HELP {name} {help}.\n# TYPE {name} {kind}");
        for (service, counts) in all {
            let value = of(counts).load(Ordering::Relaxed);
            let _ = writeln!(out, "{name}{suffix}{{service=\"{service}\"}} {value}");
        }
    };
    family("formic_proxy_open_connections", "gauge", "Connections that are carried", |of| &of.open);
    family("formic_proxy_connections", "counter", "Connections that were taken", |of| &of.total);
    family("formic_proxy_unserved", "counter", "Connections that no instance took in time", |of| {
        &of.unserved
    });
    out
}

#[cfg(test)]
mod tests;
