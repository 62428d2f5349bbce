//! Real clients and real servers without sockets: the bytes between them go through memory, so that a test
//! may pause the clock, and through the same faults that relays have.
//!
//! [`Network`](crate::Network) is the quicker way and enough for the logic of services. This one is for what
//! happens between processes: connections, balancing, retries, drains.
//!
//! One thing knows nothing of a paused clock: the deadline that a call brings over the wire, which the server
//! reads by the real one. So a test that pauses the clock gives its calls deadlines beyond all of its own
//! time (`Config::timeout` of the client), and looks at deadlines in a network in memory.

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

use formic_client::{BoxIo, Client, Config, Connect};
use formic_core::{Endpoint, Instance, InstanceId, ServiceName};
use formic_registry::{Memory, Registry as _};
use formic_rpc::BoxFuture;
use formic_rpc::rt::IntoHandle;
use formic_server::{Running, Server, Serving};
use formic_telemetry::Metrics;
use futures::Stream;
use tokio::io::{DuplexStream, duplex};
use tokio::sync::mpsc;

use crate::faults::{Inner, Link, pump};
use crate::{Faults, transport};

/// What is on its way in each direction of a connection.
const BUFFER: usize = 64 << 10;

/// Beyond all that a test takes, also of a paused clock.
const LONG: std::time::Duration = std::time::Duration::from_secs(3600);

/// Addresses that lead nowhere but here.
#[derive(Clone, Debug, Default)]
pub struct Fabric(Arc<State>);

#[derive(Debug, Default)]
struct State {
    servers: Mutex<HashMap<Endpoint, Node>>,
    faults: Mutex<Option<Arc<Inner>>>,
    registry: Arc<Memory>,
}

#[derive(Clone, Debug)]
struct Node {
    name: String,
    connections: mpsc::UnboundedSender<DuplexStream>,
}

impl Fabric {
    /// Nobody is there yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Connections made from now on meet these faults, between the names of clients and servers.
    pub fn inject(&self, faults: &Faults) {
        *self.0.faults.lock().unwrap_or_else(PoisonError::into_inner) = Some(Arc::clone(&faults.0));
    }

    /// Starts an instance of a service, as another process would be one: with a server of its own, and found by the clients of this
    /// fabric. [`Running::stop`] drains it; dropping it is its sudden end.
    ///
    /// # Panics
    /// If the name is none, or the service takes the name of a built-in one.
    pub async fn serve<S, Marker>(&self, name: &str, service: S) -> Running
    where
        Arc<S>: IntoHandle<Marker>,
    {
        let server = Server::new(formic_server::Config::default(), Metrics::new());
        let server = server.serve(Arc::new(service).into_handle()).and_then(Server::build);
        let mut running = server.unwrap_or_else(|error| panic!("{name} cannot be served: {error}"));
        let service = ServiceName::new(name).unwrap_or_else(|error| panic!("{name} is no name: {error}"));
        let endpoint = self.listen(name, &mut running);
        running.health().set(Serving::Ready);
        let instance = Instance {
            id: InstanceId::new(format!("{name}-{endpoint}")),
            service,
            version: String::new(),
            endpoint,
            metadata: BTreeMap::default(),
            rpc: running.services().to_vec(),
        };
        let registered = self.0.registry.register(instance, LONG).await;
        registered.unwrap_or_else(|error| panic!("{name} cannot be registered: {error}"));
        running
    }

    /// A client of this name, which finds what [`serve`](Self::serve) has started. Its calls may take as long as they like.
    #[must_use]
    pub fn client(&self, name: &str) -> Client {
        self.client_with(name, |_| {})
    }

    /// The same, with a configuration of its own.
    #[must_use]
    pub fn client_with(&self, name: &str, with: impl FnOnce(&mut Config)) -> Client {
        let connector = Some(self.connector(name));
        let mut config = Config { connector, transport: transport(), timeout: LONG, ..Config::default() };
        with(&mut config);
        Client::new(self.0.registry.clone(), config)
    }

    /// Has a server accept connections under a name; answers the address that clients reach it at.
    pub fn listen(&self, name: &str, running: &mut Running) -> Endpoint {
        let mut servers = self.0.servers.lock().unwrap_or_else(PoisonError::into_inner);
        // An address is never used twice, as that of a process that was restarted is not.
        let number = u16::try_from(servers.len() + 1).unwrap_or(u16::MAX);
        let endpoint = Endpoint::Tcp(SocketAddr::from(([192, 0, 2, 1], number)));
        let (connections, accepted) = mpsc::unbounded_channel();
        servers.insert(endpoint.clone(), Node { name: name.into(), connections });
        running.listen_on(Accepted(accepted));
        endpoint
    }

    /// How a client of this name connects, for its configuration.
    #[must_use]
    pub fn connector(&self, name: &str) -> Arc<dyn Connect> {
        Arc::new(Connector { state: Arc::clone(&self.0), name: name.into() })
    }
}

struct Accepted(mpsc::UnboundedReceiver<DuplexStream>);

impl Stream for Accepted {
    type Item = DuplexStream;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<DuplexStream>> {
        self.0.poll_recv(cx)
    }
}

struct Connector {
    state: Arc<State>,
    name: String,
}

impl Connect for Connector {
    fn connect(&self, endpoint: &Endpoint) -> BoxFuture<'static, io::Result<BoxIo>> {
        let node = self.state.servers.lock().unwrap_or_else(PoisonError::into_inner).get(endpoint).cloned();
        let faults = self.state.faults.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let outcome = connect(node, faults, &self.name);
        Box::pin(std::future::ready(outcome))
    }
}

fn connect(node: Option<Node>, faults: Option<Arc<Inner>>, from: &str) -> io::Result<BoxIo> {
    let refused = || io::Error::from(io::ErrorKind::ConnectionRefused);
    let node = node.ok_or_else(refused)?;
    let (ours, theirs) = duplex(BUFFER);
    let Some(faults) = faults else {
        node.connections.send(theirs).map_err(|_| refused())?;
        return Ok(Box::new(ours));
    };
    let link = Link::new(faults, from, &node.name);
    let fault = link.open().map_err(|_| refused())?;
    let (inner, outer) = duplex(BUFFER);
    node.connections.send(outer).map_err(|_| refused())?;
    // Ends with its connection, which one of both sides lets go of.
    drop(tokio::task::spawn(pump(theirs, inner, link, fault)));
    Ok(Box::new(ours))
}
