//! The limits of the server hold over the multiplexed wire as they do over HTTP, against clients that are nothing but bytes.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use formic_core::{Endpoint, Error, Kind, Method, RpcService};
use formic_mux::codec::frame::request;
use formic_mux::codec::{HEADER, Header, Type, write};
use formic_mux::{Limits, codec};
use formic_rpc::{Answer, Body, BoxFuture, Call, Handle};
use formic_server::{Bound, Config, Running, Server, Serving};
use formic_telemetry::Metrics;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::ways::{until, within};

pub(crate) const ECHO: Method = Method::new("/flood.Service/Echo", Kind::Unary);
pub(crate) const FLOOD: Method = Method::new("/flood.Service/Flood", Kind::ServerStream);

pub(crate) const DEADLINE_EXCEEDED: u8 = 4;
const RESOURCE_EXHAUSTED: u8 = 8;

struct Flood;

impl Handle for Flood {
    fn method(&self, path: &str) -> Option<Method> {
        [ECHO, FLOOD].into_iter().find(|method| method.path() == path)
    }

    fn services(&self) -> Vec<RpcService> {
        vec![formic_rpc::handle::describe("flood.Service", &[ECHO, FLOOD])]
    }

    fn call(&self, call: Call) -> BoxFuture<'static, Result<Answer, Error>> {
        let endless = || futures::stream::repeat_with(|| Ok::<_, Error>(Bytes::from(vec![0; 10_000])));
        let body = if call.method.path() == ECHO.path() { call.body } else { Body::stream(endless()) };
        Box::pin(std::future::ready(Ok(Answer::new(body))))
    }
}

pub(crate) async fn start(config: Config) -> (Running, SocketAddr) {
    let mut running = Server::new(config, Metrics::new()).serve(Arc::new(Flood)).unwrap().build().unwrap();
    let any = Endpoint::Tcp(SocketAddr::from(([127, 0, 0, 1], 0)));
    let Endpoint::Tcp(addr) = running.listen(Bound::bind(&any).await.unwrap()) else { unreachable!() };
    running.health().set(Serving::Ready);
    (running, addr)
}

/// A client that has greeted, with as little credit as can be offered.
pub(crate) async fn greet(addr: SocketAddr) -> TcpStream {
    let mut io = TcpStream::connect(addr).await.unwrap();
    let mut greeting = Vec::new();
    Limits { stream_credit: 64 << 10, connection_credit: 64 << 10, ..Limits::default() }.write(&mut greeting);
    io.write_all(&greeting).await.unwrap();
    let mut theirs = vec![0; greeting.len()];
    within("the greeting", io.read_exact(&mut theirs)).await.unwrap();
    assert_eq!(theirs[..8], codec::MAGIC);
    io
}

pub(crate) fn request(id: u32, method: &Method, timeout: Duration, flags: u8, message: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    write::frame(&mut out, Type::Request, id, |out| {
        out.push(request::MESSAGE | request::TIMEOUT | flags);
        write::varint(out, 1);
        write::bytes(out, method.path().as_bytes());
        out.extend_from_slice(&u64::try_from(timeout.as_micros()).unwrap().to_be_bytes());
        write::varint(out, 0);
        out.extend_from_slice(message);
    });
    out
}

/// The code of the error that ends a call; what comes before is thrown away.
pub(crate) async fn error_of(io: &mut TcpStream, call: u32) -> u8 {
    loop {
        let mut head = [0; HEADER];
        within("a frame", io.read_exact(&mut head)).await.unwrap();
        let header = Header::parse(&head).unwrap();
        let mut payload = vec![0; header.length];
        within("the rest of it", io.read_exact(&mut payload)).await.unwrap();
        if (header.kind, header.id) == (Type::Error, call) {
            return payload[1];
        }
    }
}

const HOUR: Duration = Duration::from_secs(3600);

#[tokio::test]
async fn half_a_request_is_let_go_whatever_its_deadline() {
    let (_running, addr) =
        start(Config { body_timeout: Duration::from_millis(150), ..Config::default() }).await;
    // Half of a message, and a message without the end of its request.
    for flags in [request::MORE, 0] {
        let mut io = greet(addr).await;
        io.write_all(&request(1, &ECHO, HOUR, flags, b"hello")).await.unwrap();
        assert_eq!(error_of(&mut io, 1).await, DEADLINE_EXCEEDED);
    }
}

#[tokio::test]
async fn who_reads_nothing_is_let_go() {
    let (_running, addr) =
        start(Config { write_timeout: Duration::from_millis(300), ..Config::default() }).await;
    let mut io = greet(addr).await;
    let began = Instant::now();
    let asking = async {
        for id in 1.. {
            // Answers that need no credit.
            if io.write_all(&request(id, &ECHO, HOUR, request::END, &[0; 60_000])).await.is_err() {
                break;
            }
        }
    };
    within("the server to close the connection", asking).await;
    assert!(began.elapsed() >= Duration::from_millis(250), "{:?}", began.elapsed());
}

#[tokio::test]
async fn answers_that_nobody_takes_give_their_places_back() {
    let (running, addr) = start(Config { max_in_flight: 8, ..Config::default() }).await;
    let mut io = greet(addr).await;
    let soon = Duration::from_secs(5);
    for id in 1..=8 {
        io.write_all(&request(id, &FLOOD, soon, request::END, b"")).await.unwrap();
    }
    until("all places to be taken", || running.in_flight() == 8).await;
    let mut stranger = greet(addr).await;
    stranger.write_all(&request(1, &FLOOD, HOUR, request::END, b"")).await.unwrap();
    assert_eq!(error_of(&mut stranger, 1).await, RESOURCE_EXHAUSTED);
    for id in 1..=8 {
        assert_eq!(error_of(&mut io, id).await, DEADLINE_EXCEEDED, "call {id}");
    }
    until("the places to be free", || running.in_flight() == 0).await;
}
