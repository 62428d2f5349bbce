//! A server on a free loopback port for as long as a test needs it.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use formic_client::{Client, Config};
use formic_core::Endpoint;
use formic_registry::Memory;
use formic_rpc::Channel;
use formic_server::{Bound, Running, Server, Serving};

/// A running server with its address. Dropping it cuts it off.
#[derive(Debug)]
pub struct Transient {
    running: Running,
    addr: SocketAddr,
}

impl Transient {
    /// Starts a server on `127.0.0.1`, port of the system's choice, ready.
    ///
    /// # Panics
    /// If the server cannot be built or loopback has no port left.
    pub async fn start(server: Server) -> Self {
        let any = Endpoint::Tcp(SocketAddr::from(([127, 0, 0, 1], 0)));
        let bound = match Bound::bind(&any).await {
            Ok(bound) => bound,
            Err(error) => panic!("{error}"),
        };
        let mut running = match server.build() {
            Ok(running) => running,
            Err(error) => panic!("the server cannot be built: {error}"),
        };
        let Endpoint::Tcp(addr) = running.listen(bound) else { unreachable!("a TCP address was bound") };
        running.health().set(Serving::Ready);
        Self { running, addr }
    }

    /// Where it listens.
    #[must_use]
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// The server.
    #[must_use]
    pub fn running(&self) -> &Running {
        &self.running
    }

    /// A channel to it over the socket.
    #[must_use]
    pub fn channel(&self) -> Channel {
        Client::new(Arc::new(Memory::new()), Config::default()).at(self.addr.into())
    }

    /// Drains it; returns how many calls were cut off.
    pub async fn stop(self, grace: Duration) -> usize {
        self.running.stop(grace).await
    }
}
