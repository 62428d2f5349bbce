//! Probing: asks an instance until it is ready, then goes on asking.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use formic_client::Client;
use formic_core::{Endpoint, Error, InstanceId, Kind, Method, ServiceName};
use formic_registry::DynRegistry;
use formic_rpc::{Body, Call, Channel, Codec};
use formic_spec::{Health, Probe};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::Instant;

use crate::announce::Announcer;

/// The pause between probes of an instance that is starting: its readiness is what people wait for.
const EAGER: Duration = Duration::from_millis(15);
/// Probes in a row that must fail before a ready instance counts as unready; one may be lost to load.
const PATIENCE: u32 = 3;

/// What is probed.
pub(crate) struct Target {
    pub(crate) instance: InstanceId,
    pub(crate) service: ServiceName,
    pub(crate) version: String,
    pub(crate) health: Health,
    pub(crate) port: Option<u16>,
    pub(crate) registry: DynRegistry,
    pub(crate) client: Client,
    /// The last address and the way to it, so that a probe does not dial anew.
    pub(crate) known: Option<(Endpoint, Channel)>,
    /// Whether it was ready when it was last heard of, by an engine before this one.
    pub(crate) ready: bool,
}

impl Target {
    /// Probes for ever; tells of every change, and with readiness where the instance said that it answers.
    /// One that has a port is in the registry while it is ready.
    pub(crate) async fn watch(mut self, mut changed: impl FnMut(bool, Option<String>)) {
        let announcer =
            |port| Announcer::new(&self.registry, &self.instance, &self.service, &self.version, port);
        let mut announcer = self.port.map(announcer);
        if self.health.ready == Probe::None {
            if let Some(announcer) = &mut announcer {
                announcer.ready().await;
            }
            changed(true, None);
            return std::future::pending().await;
        }
        let mut ready = self.ready;
        let mut failures = 0;
        if let Some(announcer) = announcer.as_mut().filter(|_| ready) {
            announcer.ready().await;
        }
        loop {
            let answers = tokio::time::timeout(self.health.timeout.get(), self.once()).await.unwrap_or(false);
            failures = if answers { 0 } else { failures + 1 };
            if answers && !ready {
                ready = true;
                if let Some(announcer) = &mut announcer {
                    announcer.ready().await;
                }
                let registered = tokio::time::timeout(self.health.timeout.get(), self.registered()).await;
                changed(true, registered.ok().flatten().map(|endpoint| endpoint.to_string()));
            } else if ready && failures >= PATIENCE {
                ready = false;
                if let Some(announcer) = &mut announcer {
                    announcer.unready().await;
                }
                changed(false, None);
            }
            tokio::time::sleep(if ready { self.health.interval.get() } else { EAGER }).await;
        }
    }

    async fn once(&mut self) -> bool {
        match self.health.ready {
            Probe::Grpc => match self.registered().await {
                Some(endpoint) => self.serving(endpoint).await.unwrap_or(false),
                None => false,
            },
            Probe::Tcp => match self.address().await {
                Some(addr) => TcpStream::connect(addr).await.is_ok(),
                None => false,
            },
            Probe::Http => match self.address().await {
                Some(addr) => http(addr, &self.health.path).await.unwrap_or(false),
                None => false,
            },
            Probe::None => true,
        }
    }

    /// The port that it was given, else where it said that it answers.
    async fn address(&self) -> Option<SocketAddr> {
        match self.port {
            Some(port) => Some((Ipv4Addr::LOCALHOST, port).into()),
            None => match self.registered().await? {
                Endpoint::Tcp(addr) => Some(addr),
                Endpoint::Unix(_) => None,
            },
        }
    }

    /// Where the instance said that it answers.
    async fn registered(&self) -> Option<Endpoint> {
        let instances = self.registry.get(&self.service).await.ok()?;
        instances.into_iter().find(|found| found.id == self.instance).map(|found| found.endpoint)
    }

    /// `grpc.health.v1`: an empty request asks for the whole server, and `08 01` is SERVING. Two fixed
    /// messages of a few bytes are no reason to generate code for them here.
    async fn serving(&mut self, endpoint: Endpoint) -> Result<bool, Error> {
        let method = Method::new("/grpc.health.v1.Health/Check", Kind::Unary);
        let mut call = Call::new(method, Codec::Proto, Body::Message(bytes::Bytes::new()));
        call.deadline = Some(Instant::now() + self.health.timeout.get());
        let channel = match &self.known {
            Some((known, channel)) if *known == endpoint => channel.clone(),
            _ => {
                let channel = self.client.at(endpoint.clone());
                self.known.insert((endpoint, channel)).1.clone()
            }
        };
        let answer = channel.call(call).await?;
        Ok(answer.body.into_message()?[..] == [0x08, 0x01])
    }
}

/// A GET whose status is 2xx or 3xx.
async fn http(addr: SocketAddr, path: &str) -> std::io::Result<bool> {
    let mut stream = TcpStream::connect(addr).await?;
    let path = if path.is_empty() { "/" } else { path };
    let request = format!(
        "GET {path} HTTP/1.1\r\nHost: {addr}\r\nUser-Agent: formic-probe\r\nConnection: close\r\n\r\n"
    );
    stream.write_all(request.as_bytes()).await?;
    // "HTTP/1.1 200" is all that matters.
    let mut head = [0; 12];
    stream.read_exact(&mut head).await?;
    Ok(head.starts_with(b"HTTP/1.") && matches!(head[9], b'2' | b'3'))
}
