//! Every way to a server: protocols, codecs, versions of HTTP, sockets, memory.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use connectrpc::Protocol as Theirs;
use formic_client::{Client, Config as ClientConfig, Protocol as Ours, Transport};
use formic_core::Endpoint;
use formic_probe::foreign::{self, Http};
use formic_probe::{NameRequest, Named, Order, Plain, PlainServer, ProbeClient, ProbeServer, Prober};
use formic_registry::Memory;
use formic_rpc::{Channel, Codec};
use formic_server::{Bound, Config, Running, Server, Serving};
use formic_telemetry::Metrics;

/// A busy machine may be long over a greeting.
const PATIENT: Duration = Duration::from_secs(10);

/// One way to call a server.
pub(crate) struct Way {
    pub(crate) name: String,
    pub(crate) channel: Channel,
    /// The socket's name for the caller.
    pub(crate) peer: &'static str,
    pub(crate) http: Option<Http>,
}

impl Way {
    pub(crate) fn probe(&self) -> ProbeClient {
        ProbeClient::new(self.channel.clone())
    }
}

/// A server on TCP, on a unix socket and in memory at once.
pub(crate) struct Everywhere {
    pub(crate) running: Running,
    pub(crate) addr: SocketAddr,
    pub(crate) unix: PathBuf,
    pub(crate) prober: Prober,
}

/// A prober and a second service.
pub(crate) fn server(config: Config, prober: &Prober) -> Server {
    let server = Server::new(config, Metrics::new());
    let server = server.serve(Arc::new(ProbeServer::new(prober.clone()))).unwrap();
    server.serve(Arc::new(PlainServer::new(Named("plain")))).unwrap()
}

pub(crate) async fn everywhere(config: Config) -> Everywhere {
    let prober = Prober::new();
    let mut running = server(config, &prober).build().unwrap();
    let any = Endpoint::Tcp(SocketAddr::from(([127, 0, 0, 1], 0)));
    let Endpoint::Tcp(addr) = running.listen(Bound::bind(&any).await.unwrap()) else { unreachable!() };
    let unix = std::env::temp_dir().join(format!("fs-{}-{:08x}.sock", std::process::id(), fastrand::u32(..)));
    running.listen(Bound::bind(&Endpoint::Unix(unix.clone())).await.unwrap());
    running.health().set(Serving::Ready);
    Everywhere { running, addr, unix, prober }
}

/// Our client to one endpoint.
pub(crate) fn ours(endpoint: Endpoint, protocol: Ours) -> Channel {
    let config = ClientConfig { protocol, connect_timeout: PATIENT, ..ClientConfig::default() };
    Client::new(Arc::new(Memory::new()), config).at(endpoint)
}

/// Our client to one endpoint, over the multiplexed wire.
pub(crate) fn multiplexed(endpoint: Endpoint) -> Channel {
    let transport = Transport::Multiplexed;
    let config = ClientConfig { transport, connect_timeout: PATIENT, ..ClientConfig::default() };
    Client::new(Arc::new(Memory::new()), config).at(endpoint)
}

impl Everywhere {
    pub(crate) fn tcp(&self) -> Channel {
        ours(self.addr.into(), Ours::Connect)
    }

    pub(crate) fn ways(&self) -> Vec<Way> {
        let mut ways =
            vec![Way { name: "memory".into(), channel: self.running.channel(), peer: "", http: None }];
        for codec in [Codec::Proto, Codec::Json] {
            for protocol in [Ours::Connect, Ours::Grpc] {
                ways.push(Way {
                    name: format!("ours, TCP, {protocol:?}, {codec:?}"),
                    channel: ours(self.addr.into(), protocol).with_codec(codec),
                    peer: "127.0.0.1:",
                    http: Some(Http::Two),
                });
            }
            for (endpoint, kind, peer) in [
                (Endpoint::Tcp(self.addr), "TCP", "127.0.0.1:"),
                (Endpoint::Unix(self.unix.clone()), "unix", "unix"),
            ] {
                let channel = multiplexed(endpoint).with_codec(codec);
                ways.push(Way { name: format!("multiplexed, {kind}, {codec:?}"), channel, peer, http: None });
            }
            ways.push(Way {
                name: format!("ours, unix, {codec:?}"),
                channel: ours(Endpoint::Unix(self.unix.clone()), Ours::Connect).with_codec(codec),
                peer: "unix",
                http: Some(Http::Two),
            });
            let wires = [
                (Http::One, Theirs::Connect),
                (Http::One, Theirs::GrpcWeb),
                (Http::Two, Theirs::Connect),
                (Http::Two, Theirs::Grpc),
                (Http::Two, Theirs::GrpcWeb),
            ];
            for (http, protocol) in wires {
                ways.push(Way {
                    name: format!("theirs, HTTP {http:?}, {protocol:?}, {codec:?}"),
                    channel: foreign::channel(self.addr, http, protocol, codec),
                    peer: "127.0.0.1:",
                    http: Some(http),
                });
            }
        }
        ways
    }
}

/// Used by tests that need a second service.
pub(crate) fn plain(channel: &Channel) -> formic_probe::PlainClient {
    formic_probe::PlainClient::new(channel.clone())
}

#[tokio::test]
async fn two_services_share_a_server() {
    // The trait is implemented once; what is tested is that routing tells the two apart.
    fn is_plain<T: Plain>(_: &T) {}
    is_plain(&Named("plain"));
    let server = everywhere(Config::default()).await;
    for way in server.ways() {
        let named = plain(&way.channel).name(NameRequest::default()).await.unwrap();
        assert_eq!(named.name, "plain", "{}", way.name);
        let said = way.probe().say(Order { text: "hi".into(), ..Order::default() }).await.unwrap();
        assert_eq!(said.text, "hi", "{}", way.name);
    }
}

/// Bounds a wait and says what for.
pub(crate) async fn within<T>(what: &str, future: impl Future<Output = T>) -> T {
    formic_testing::in_time(what, Duration::from_secs(20), future).await
}

/// Waits until something is so.
pub(crate) async fn until(what: &str, so: impl FnMut() -> bool) {
    formic_testing::wait_until(what, Duration::from_secs(20), so).await;
}
