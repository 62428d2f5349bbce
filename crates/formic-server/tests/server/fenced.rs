//! Servers around whose calls something stands that knows HTTP alone: over the multiplexed wire nobody would ask it.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use axum::extract::Request;
use axum::middleware::{Next, from_fn};
use formic_core::{Code, Endpoint, Kind, Method};
use formic_mux::Limits;
use formic_mux::codec::MAGIC;
use formic_mux::codec::frame::request::END;
use formic_probe::{ProbeClient, Prober};
use formic_rpc::{BoxFuture, Peer};
use formic_server::{Bound, Config, Denied, Guard, Running, Server, Serving};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::suite::order;
use crate::ways::{multiplexed, server, until, within};
use crate::wire::request;

const SAY: Method = Method::new("/probe.v1.Probe/Say", Kind::Unary);

/// Lets nobody in, and counts who was judged.
struct Closed(Arc<AtomicUsize>);

impl Guard for Closed {
    fn admit(&self, _: Option<Peer>, _: Option<&[u8]>) -> BoxFuture<'static, Result<Option<Peer>, Denied>> {
        self.0.fetch_add(1, Ordering::SeqCst);
        Box::pin(std::future::ready(Err(Denied { busy: false, message: "nobody".into() })))
    }
}

async fn start(server: Server) -> (Running, SocketAddr) {
    let mut running = server.build().unwrap();
    let any = Endpoint::Tcp(SocketAddr::from(([127, 0, 0, 1], 0)));
    let Endpoint::Tcp(addr) = running.listen(Bound::bind(&any).await.unwrap()) else { unreachable!() };
    running.health().set(Serving::Ready);
    (running, addr)
}

/// A connection on which the multiplexed wire was spoken: the greeting, and a call behind it.
async fn call(addr: SocketAddr) -> TcpStream {
    let mut io = TcpStream::connect(addr).await.unwrap();
    let mut bytes = Vec::new();
    Limits::default().write(&mut bytes);
    bytes.extend(request(1, &SAY, Duration::from_secs(10), END, b""));
    io.write_all(&bytes).await.unwrap();
    io
}

async fn answers_http_alone(running: &Running, addr: SocketAddr, prober: &Prober) {
    let (mut io, mut said) = (call(addr).await, [0; 13]);
    within("an answer", io.read_exact(&mut said)).await.unwrap();
    assert_eq!(said, *b"HTTP/1.1 400 ", "{}", said.escape_ascii());
    // Nor may it be announced.
    assert!(!running.is_multiplexed());
    assert_eq!(prober.counts().began(), 0);
}

#[tokio::test]
async fn the_same_call_is_answered_where_nothing_stands_around_it() {
    let prober = Prober::new();
    let (_running, addr) = start(server(Config::default(), &prober)).await;
    let (mut io, mut said) = (call(addr).await, [0; MAGIC.len()]);
    within("the greeting", io.read_exact(&mut said)).await.unwrap();
    assert_eq!(said, MAGIC);
    until("the call to be answered", || prober.counts().began() == 1).await;
}

#[tokio::test]
async fn nobody_gets_past_a_guard_over_the_multiplexed_wire() {
    let (prober, judged) = (Prober::new(), Arc::new(AtomicUsize::new(0)));
    let guarded = server(Config::default(), &prober).guard(Arc::new(Closed(Arc::clone(&judged))));
    let (running, addr) = start(guarded).await;
    answers_http_alone(&running, addr, &prober).await;
    // Who greets it goes over to HTTP, and is judged.
    let error = ProbeClient::new(multiplexed(addr.into())).say(order("hi")).await.unwrap_err();
    assert_eq!(error.code(), Code::Unauthenticated);
    assert_eq!((judged.load(Ordering::SeqCst), prober.counts().began()), (1, 0));
}

#[tokio::test]
async fn nobody_gets_past_a_layer_over_the_multiplexed_wire() {
    let (prober, passed) = (Prober::new(), Arc::new(AtomicUsize::new(0)));
    let count = Arc::clone(&passed);
    let layered = server(Config::default(), &prober).layer(move |router| {
        router.layer(from_fn(move |request: Request, next: Next| {
            count.fetch_add(1, Ordering::SeqCst);
            next.run(request)
        }))
    });
    let (running, addr) = start(layered).await;
    answers_http_alone(&running, addr, &prober).await;
    let said = ProbeClient::new(multiplexed(addr.into())).say(order("hi")).await.unwrap();
    assert_eq!((said.text.as_str(), passed.load(Ordering::SeqCst)), ("hi", 1));
}
