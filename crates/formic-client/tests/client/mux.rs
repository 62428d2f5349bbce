//! Who is called over the multiplexed wire, and what happens when that fails.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use formic_client::{BoxIo, Client, Config, Connect, Observer, Report, Transport};
use formic_core::{Code, Endpoint, ServiceName};
use formic_registry::Memory;
use formic_rpc::BoxFuture;
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;

use crate::server::*;

/// What calls travelled over.
#[derive(Default)]
struct Travelled(Mutex<Vec<&'static str>>);

impl Observer for Travelled {
    fn on_call(&self, report: &Report<'_>) {
        self.0.lock().unwrap().push(report.transport);
    }
}

impl Travelled {
    fn take(&self) -> Vec<&'static str> {
        std::mem::take(&mut self.0.lock().unwrap())
    }
}

fn client(registry: &Memory, transport: Transport) -> (Client, Arc<Travelled>) {
    let travelled = Arc::new(Travelled::default());
    let observer = Some(Arc::clone(&travelled) as Arc<dyn Observer>);
    // A busy machine may be long over a greeting.
    let config =
        Config { transport, observer, connect_timeout: Duration::from_secs(10), ..Config::default() };
    (Client::new(Arc::new(registry.clone()), config), travelled)
}

#[tokio::test]
async fn who_announces_it_is_called_over_it_on_one_connection() {
    let (registry, server) = (Memory::new(), Server::start_mux(&Echo::new()).await);
    register_mux(&registry, "one", &server.endpoint).await;
    let (client, travelled) = client(&registry, Transport::Auto);
    let channel = client.of("echo");
    let calls = (0..200).map(|_| channel.call(call_of(SAY, "hi")));
    for answer in within("200 calls", futures::future::join_all(calls)).await {
        assert_eq!(text(answer.unwrap()), "hi");
    }
    assert_eq!(server.accepted.load(Ordering::SeqCst), 1);
    assert_eq!(travelled.take(), vec!["multiplexed"; 200]);
    let view = client.traffic(&ServiceName::new("echo").unwrap());
    assert_eq!(view.endpoints[0].transport, "multiplexed");
}

#[tokio::test]
async fn who_does_not_answer_it_is_called_over_http_and_not_asked_again() {
    let (registry, server) = (Memory::new(), Server::start(&Echo::new()).await);
    register_mux(&registry, "liar", &server.endpoint).await;
    let (client, travelled) = client(&registry, Transport::Auto);
    let channel = client.of("echo");
    assert_eq!(text(channel.call(call_of(SAY, "hi")).await.unwrap()), "hi");
    assert_eq!(travelled.take(), ["http"]);
    // The greeting that was not answered, and the connection that was used.
    assert_eq!(server.accepted.load(Ordering::SeqCst), 2);
    let calls = (0..50).map(|_| channel.call(call_of(SAY, "hi")));
    for answer in within("50 calls", futures::future::join_all(calls)).await {
        answer.unwrap();
    }
    assert!(server.accepted.load(Ordering::SeqCst) <= 3, "it was greeted again");
}

#[tokio::test]
async fn who_announces_nothing_is_called_over_http_unless_told_otherwise() {
    let (registry, server) = (Memory::new(), Server::start(&Echo::new()).await);
    register(&registry, "plain", &server.endpoint).await;
    let (auto, travelled) = client(&registry, Transport::Auto);
    auto.of("echo").call(call_of(SAY, "hi")).await.unwrap();
    assert_eq!((travelled.take(), server.accepted.load(Ordering::SeqCst)), (vec!["http"], 1));
    let view = auto.traffic(&ServiceName::new("echo").unwrap());
    assert_eq!(view.endpoints[0].transport, "http");
    // Of one that it was never connected to nothing is known.
    register(&registry, "unmet", &dead().await).await;
    let over = || -> Vec<String> {
        let endpoints = auto.traffic(&ServiceName::new("echo").unwrap()).endpoints;
        endpoints.into_iter().map(|endpoint| endpoint.transport).collect()
    };
    until("the other to be known", || over().len() == 2).await;
    assert_eq!(over(), ["http", ""]);

    let multiplexed = Server::start_mux(&Echo::new()).await;
    let (told, travelled) = client(&registry, Transport::Multiplexed);
    told.at(multiplexed.endpoint.clone()).call(call_of(SAY, "hi")).await.unwrap();
    assert_eq!(travelled.take(), ["multiplexed"]);

    // And the other way round: HTTP is forced on one who announces the other wire, and speaks nothing else.
    register_mux(&registry, "plain", &multiplexed.endpoint).await;
    let (http, _) = client(&registry, Transport::Http);
    let call = http.of("echo").call(call_of(SAY, "hi"));
    assert!(within("the call to fail", call).await.is_err());
}

#[tokio::test]
async fn who_comes_to_announce_it_at_the_same_address_is_called_over_it() {
    let registry = Memory::new();
    let echo = Echo::new();
    let http = Server::start(&echo).await;
    let addr = http.addr();
    register(&registry, "one", &http.endpoint).await;
    let (client, travelled) = client(&registry, Transport::Auto);
    let channel = client.of("echo");
    channel.call(call_of(SAY, "hi")).await.unwrap();
    assert_eq!(travelled.take(), ["http"]);
    // It is killed, and back as the same instance before the registry has missed it.
    drop(http);
    until("its port to be free", || std::net::TcpListener::bind(addr).is_ok()).await;
    let again = Server::start_mux_at(&echo, addr).await;
    register_mux(&registry, "one", &again.endpoint).await;
    within("the endpoint to be called over what it speaks now", async {
        while channel.call(call_of(SAY, "hi")).await.is_err()
            || travelled.take().last() != Some(&"multiplexed")
        {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await;
}

/// Two greetings have no answer, and by the fourth connection the endpoint speaks the wire.
struct Recovering {
    http: Server,
    mux: Server,
    connections: AtomicUsize,
}

impl Connect for Recovering {
    fn connect(&self, _endpoint: &Endpoint) -> BoxFuture<'static, std::io::Result<BoxIo>> {
        let server = match self.connections.fetch_add(1, Ordering::SeqCst) {
            0 | 1 => {
                let (ours, mut theirs) = tokio::io::duplex(1024);
                return Box::pin(async move {
                    tokio::spawn(async move { theirs.read_exact(&mut [0; 8]).await });
                    Ok(Box::new(ours) as BoxIo)
                });
            }
            2 => self.http.addr(),
            _ => self.mux.addr(),
        };
        Box::pin(async move { Ok(Box::new(TcpStream::connect(server).await?) as BoxIo) })
    }
}

#[tokio::test]
async fn a_fallback_to_http_lasts_no_longer_than_its_reason() {
    let echo = Echo::new();
    let (http, mux) = (Server::start(&echo).await, Server::start_mux(&echo).await);
    let there = Arc::new(Recovering { http, mux, connections: AtomicUsize::new(0) });
    let registry = Memory::new();
    register_mux(&registry, "one", &"127.0.0.1:9".parse().unwrap()).await;
    let travelled = Arc::new(Travelled::default());
    let config = Config {
        transport: Transport::Auto,
        connector: Some(Arc::clone(&there) as Arc<dyn Connect>),
        observer: Some(Arc::clone(&travelled) as Arc<dyn Observer>),
        // Longer than the jump below: the library that serves HTTP goes by another clock.
        timeout: Duration::from_secs(60),
        ..Config::default()
    };
    let client = Client::new(Arc::new(registry), config);
    let channel = client.of("echo");
    within("an answer over HTTP", async {
        while channel.call(call_of(SAY, "hi")).await.is_err() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await;
    assert_eq!(travelled.take().last(), Some(&"http"));
    for _ in 0..20 {
        channel.call(call_of(SAY, "hi")).await.unwrap();
    }
    assert_eq!((travelled.take(), there.connections.load(Ordering::SeqCst)), (vec!["http"; 20], 3));
    let mut ticking = channel.call(call_of(TICK, "")).await.unwrap().body.into_stream();
    assert_eq!(next(&mut ticking).await.unwrap().unwrap(), "tick");
    // The reason is over; that the connection of HTTP lives is none.
    tokio::time::pause();
    tokio::time::advance(Duration::from_secs(11)).await;
    tokio::time::resume();
    within("calls over the other wire", async {
        while travelled.take().last() != Some(&"multiplexed") {
            channel.call(call_of(SAY, "hi")).await.unwrap();
        }
    })
    .await;
    for _ in 0..20 {
        channel.call(call_of(SAY, "hi")).await.unwrap();
    }
    assert_eq!(there.connections.load(Ordering::SeqCst), 4, "one is enough");
    // A report is of its call, and not of what is spoken by the time that it ends.
    travelled.take();
    drop(ticking);
    assert_eq!(travelled.take(), ["http"]);
    let view = client.traffic(&ServiceName::new("echo").unwrap());
    assert_eq!(view.endpoints[0].transport, "multiplexed");
    until("the connection of HTTP to end", || there.http.open.load(Ordering::SeqCst) == 0).await;
}

#[tokio::test]
async fn a_server_that_goes_away_finishes_and_loses_nothing() {
    let registry = Memory::new();
    let (first, second) = (Server::start_mux(&Echo::new()).await, Server::start_mux(&Echo::new()).await);
    register_mux(&registry, "one", &first.endpoint).await;
    let (client, _) = client(&registry, Transport::Auto);
    let channel = client.of("echo");
    let mut ticking = channel.call(call_of(TICK, "")).await.unwrap().body.into_stream();
    assert_eq!(next(&mut ticking).await.unwrap().unwrap(), "tick");
    first.drain();
    register_mux(&registry, "two", &second.endpoint).await;
    let name = ServiceName::new("echo").unwrap();
    until("the second to be known", || client.cache().instances(&name).view().instances.len() == 2).await;
    for _ in 0..100 {
        assert_eq!(text(within("a call", channel.call(call_of(SAY, "hi"))).await.unwrap()), "hi");
    }
    assert_eq!(second.echo.calls() + first.echo.calls(), 101);
    assert_eq!(next(&mut ticking).await.unwrap().unwrap(), "tick", "what was taken goes on");
}

#[tokio::test]
async fn a_restart_on_the_same_port_is_found_again() {
    let registry = Memory::new();
    let echo = Echo::new();
    let server = Server::start_mux(&echo).await;
    let addr = server.addr();
    register_mux(&registry, "one", &server.endpoint).await;
    let (client, travelled) = client(&registry, Transport::Auto);
    let channel = client.of("echo");
    let hanging = channel.call(call_of(HANG, ""));
    let kill = async {
        until("the handler to begin", || echo.calls() == 1).await;
        drop(server);
    };
    let (lost, ()) = futures::future::join(hanging, kill).await;
    let error = lost.unwrap_err();
    assert_eq!((error.code(), error.is_unsent()), (Code::Unavailable, false), "a handler had it");
    let again = Server::start_mux_at(&echo, addr).await;
    within("the endpoint to be back", async {
        while channel.call(call_of(SAY, "hi")).await.is_err() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await;
    assert_eq!(travelled.take().last(), Some(&"multiplexed"));
    drop(again);
}
