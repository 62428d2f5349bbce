//! Calls whose message is large: let in, or turned away, before it is read.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use connectrpc::Protocol as Theirs;
use formic_client::Protocol as Ours;
use formic_core::{Code, Error, Shed};
use formic_probe::foreign::{self, Http};
use formic_probe::{Action, Order, ProbeClient, Prober};
use formic_rpc::{Answer, Channel, Codec};
use formic_server::overload::{By, Rate};
use formic_server::{Config, Running, Serving};
use http::{Request, Response};
use http_body_util::BodyExt;
use http_body_util::combinators::UnsyncBoxBody;
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, DuplexStream, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

use crate::overload;
use crate::raw::{get, until_closed};
use crate::suite::{order, told};
use crate::ways::{Everywhere, everywhere, multiplexed, ours, server, until, within};

const LARGE: usize = 4 << 20;

/// A server that works on one call, which does not end.
async fn full() -> (Everywhere, JoinSet<()>) {
    let server = everywhere(Config { max_in_flight: 1, ..Config::default() }).await;
    let held = hold(&server.running, &server.prober).await;
    (server, held)
}

async fn hold(running: &Running, prober: &Prober) -> JoinSet<()> {
    let mut held = JoinSet::new();
    let probe = ProbeClient::new(running.channel());
    held.spawn(async move { drop(probe.say(told(Action::ACTION_HANG, 0)).await) });
    let counts = prober.counts();
    until("the call to be held", || counts.busy() == 1).await;
    held
}

const PROTO: &str = "content-type: application/proto\r\n";

/// The head of a request over HTTP/1.1 without the blank line.
fn head(rest: &str) -> String {
    format!("POST /probe.v1.Probe/Say HTTP/1.1\r\nhost: a\r\n{rest}")
}

#[tokio::test]
async fn over_http_1_a_full_server_answers_the_head() {
    let (server, mut held) = full().await;
    for rest in [
        format!("{PROTO}content-length: {LARGE}\r\n"),
        format!("{PROTO}transfer-encoding: chunked\r\n"),
        // What connectrpc answers, and what waits to be asked for its message.
        format!("{PROTO}accept-encoding: gzip\r\ncontent-length: {LARGE}\r\n"),
        format!("{PROTO}expect: 100-continue\r\ncontent-length: {LARGE}\r\n"),
        format!("content-type: application/grpc-web+proto\r\ncontent-length: {LARGE}\r\n"),
        format!("content-type: application/json\r\ncontent-length: {LARGE}\r\n"),
    ] {
        let mut stream = TcpStream::connect(server.addr).await.unwrap();
        stream.write_all(format!("{}\r\n", head(&rest)).as_bytes()).await.unwrap();
        let answer = until_closed(&mut stream).await.to_lowercase();
        let web = rest.contains("grpc-web");
        let status = if web { "http/1.1 200" } else { "http/1.1 429" };
        let code = if web { "grpc-status: 8" } else { "resource_exhausted" };
        assert!(answer.starts_with(status) && answer.contains(code), "{rest}: {answer}");
        assert!(answer.contains("grpc-retry-pushback-ms"), "{rest}: {answer}");
        assert!(answer.contains("connection: close\r\n"), "{rest}: {answer}");
    }
    assert_eq!(server.prober.counts().began(), 1, "no handler has seen them");
    held.shutdown().await;
    // Let in, it goes as before.
    until("the place to be free", || server.running.in_flight() == 0).await;
    let text = "x".repeat(20 << 10);
    let body = format!("{{\"text\":\"{text}\"}}");
    let rest = format!("content-type: application/json\r\ncontent-length: {}\r\n", body.len());
    let mut stream = TcpStream::connect(server.addr).await.unwrap();
    stream.write_all(format!("{}\r\n{body}", head(&rest)).as_bytes()).await.unwrap();
    let second = format!("{}connection: close\r\n\r\n{body}", head(&rest));
    stream.write_all(second.as_bytes()).await.unwrap();
    let answers = until_closed(&mut stream).await;
    assert_eq!(answers.matches("HTTP/1.1 200").count(), 2, "one after the other: {answers}");
}

pub(crate) type Pieces = UnsyncBoxBody<Bytes, io::Error>;

/// A connection over HTTP/2.
pub(crate) async fn connect(
    addr: SocketAddr,
) -> (http2::SendRequest<Pieces>, JoinSet<Result<(), hyper::Error>>) {
    let io = TokioIo::new(TcpStream::connect(addr).await.unwrap());
    let (sender, connection) = http2::handshake(TokioExecutor::new(), io).await.unwrap();
    let mut tasks = JoinSet::new();
    tasks.spawn(connection);
    (sender, tasks)
}

/// A request whose message never comes.
fn unsent(addr: SocketAddr, path: &str, headers: &[(&str, &str)]) -> Request<Pieces> {
    let mut request = Request::post(format!("http://{addr}{path}"));
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let never = futures::stream::pending::<Result<http_body::Frame<Bytes>, io::Error>>();
    request.body(http_body_util::StreamBody::new(never).boxed_unsync()).unwrap()
}

/// The whole of an answer, its trailers behind its message.
pub(crate) async fn text(response: Response<hyper::body::Incoming>) -> String {
    let head = format!("{:?} {:?}", response.status(), response.headers());
    let body = within("the end of an answer", response.into_body().collect()).await.unwrap();
    let trailers = body.trailers().cloned();
    format!("{head} {} {trailers:?}", String::from_utf8_lossy(&body.to_bytes()))
}

#[tokio::test]
async fn over_http_2_a_full_server_answers_the_head_and_the_connection_goes_on() {
    let (server, _held) = full().await;
    let (mut sender, _tasks) = connect(server.addr).await;
    for (path, kind, encoding) in [
        ("/probe.v1.Probe/Say", "application/proto", "identity"),
        ("/probe.v1.Probe/Say", "application/proto", ""),
        ("/probe.v1.Probe/Say", "application/grpc", ""),
        ("/probe.v1.Probe/Say", "application/grpc-web+proto", ""),
        ("/probe.v1.Probe/Count", "application/connect+proto", ""),
        ("/probe.v1.Probe/Count", "application/grpc+proto", ""),
    ] {
        let mut headers = vec![("content-type", kind)];
        if !encoding.is_empty() {
            headers.push(("accept-encoding", encoding));
        }
        let request = unsent(server.addr, path, &headers);
        let answer = within(kind, sender.send_request(request)).await.unwrap();
        let answer = text(answer).await;
        let refused = answer.contains("resource_exhausted") || answer.contains("\"grpc-status\": \"8\"");
        assert!(refused || answer.contains("grpc-status: 8"), "{kind}: {answer}");
        assert!(answer.contains("grpc-retry-pushback-ms"), "{kind}: {answer}");
        let request =
            get(server.addr, "/healthz").map(|body| body.map_err(|_| unreachable!()).boxed_unsync());
        let well = within("the next request", sender.send_request(request)).await.unwrap();
        assert_eq!(well.status(), 200, "after {kind}");
    }
    assert_eq!(server.prober.counts().began(), 1, "no handler has seen them");
}

/// A connection that counts what is read of it.
struct Metered(TcpStream, Arc<AtomicUsize>);

impl AsyncRead for Metered {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let polled = Pin::new(&mut self.0).poll_read(cx, buffer);
        self.1.fetch_add(buffer.filled().len() - before, Ordering::Relaxed);
        polled
    }
}

impl AsyncWrite for Metered {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, data)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}

#[tokio::test]
async fn clients_with_a_large_message_see_the_refusal_and_send_little() {
    const ROUNDS: usize = 10;
    let prober = Prober::new();
    let config = Config { max_in_flight: 1, ..Config::default() };
    let mut running = server(config, &prober).build().unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    let (read, connections) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let (reading, accepted) = (Arc::clone(&read), Arc::clone(&connections));
    running.listen_on(Box::pin(futures::stream::unfold(listener, move |listener| {
        let (reading, accepted) = (Arc::clone(&reading), Arc::clone(&accepted));
        async move {
            let (stream, _) = listener.accept().await.ok()?;
            accepted.fetch_add(1, Ordering::Relaxed);
            Some((Metered(stream, reading), listener))
        }
    })));
    running.health().set(Serving::Ready);
    let _held = hold(&running, &prober).await;
    let large = || Order { data: vec![7; LARGE - 1024], ..Order::default() };
    let refused = async |name: &str, channel: &Channel| {
        let error = within(name, ProbeClient::new(channel.clone()).say(large()).into_future()).await;
        let error = error.unwrap_err();
        assert_eq!(error.shed_reason(), Some(Shed::InFlight), "{name}: {error:?}");
        assert!(error.retry_after().is_some(), "{name}");
    };
    let ways = [
        ("ours, Connect", ours(addr.into(), Ours::Connect)),
        ("ours, gRPC", ours(addr.into(), Ours::Grpc)),
        ("ours, multiplexed", multiplexed(addr.into())),
        ("theirs, Connect", foreign::channel(addr, Http::Two, Theirs::Connect, Codec::Proto)),
        ("theirs, gRPC", foreign::channel(addr, Http::Two, Theirs::Grpc, Codec::Proto)),
    ];
    for (name, channel) in &ways {
        let before = (read.load(Ordering::Relaxed), connections.load(Ordering::Relaxed));
        for _ in 0..ROUNDS {
            refused(name, channel).await;
        }
        let bytes = read.load(Ordering::Relaxed) - before.0;
        // What the window of a request allows before an answer can be there, and no more.
        assert!(bytes < ROUNDS * (256 << 10), "{name}: {bytes} bytes were read");
        assert_eq!(connections.load(Ordering::Relaxed) - before.1, 1, "{name}: the connection goes on");
    }
    // HTTP/1.1 knows no window, and its connections end; the answer comes through all the same.
    let channel = foreign::channel(addr, Http::One, Theirs::Connect, Codec::Proto);
    for _ in 0..ROUNDS {
        refused("HTTP/1.1", &channel).await;
    }
    assert_eq!(prober.counts().began(), 1, "no handler has seen them");
}

#[tokio::test]
async fn what_is_too_large_is_refused_unread() {
    let server = everywhere(Config { max_message: 64 << 10, ..Config::default() }).await;
    let rest = format!("{PROTO}content-length: {}\r\n", (64 << 10) + 1);
    let mut stream = TcpStream::connect(server.addr).await.unwrap();
    stream.write_all(format!("{}\r\n", head(&rest)).as_bytes()).await.unwrap();
    let answer = until_closed(&mut stream).await;
    assert!(answer.starts_with("HTTP/1.1 429") && answer.contains("exceeds limit 65536"), "{answer}");
}

#[tokio::test]
async fn a_large_call_takes_one_token_and_an_expired_one_none() {
    let mut config = Config::default();
    let rate = Rate { name: "all".into(), by: By::All, per_second: 1e-6, burst: 2, methods: Vec::new() };
    config.overload.rates = vec![rate];
    let server = everywhere(config).await;
    // Nobody waits for it any more.
    let rest = format!("{PROTO}connect-timeout-ms: 0\r\ncontent-length: {LARGE}\r\n");
    let mut stream = TcpStream::connect(server.addr).await.unwrap();
    stream.write_all(format!("{}\r\n", head(&rest)).as_bytes()).await.unwrap();
    let answer = until_closed(&mut stream).await;
    assert!(answer.starts_with("HTTP/1.1 504") && answer.contains("deadline_exceeded"), "{answer}");
    let channel = foreign::channel(server.addr, Http::Two, Theirs::Grpc, Codec::Proto);
    for (name, channel) in [("Connect", server.tcp()), ("gRPC", channel)] {
        let large = Order { data: vec![7; 1 << 20], ..order("let in") };
        let said = within(name, ProbeClient::new(channel).say(large).into_future()).await.unwrap();
        assert_eq!(said.text, "let in", "{name}");
    }
    let mut stream = TcpStream::connect(server.addr).await.unwrap();
    let rest = format!("{PROTO}content-length: {LARGE}\r\n");
    stream.write_all(format!("{}\r\n", head(&rest)).as_bytes()).await.unwrap();
    let answer = until_closed(&mut stream).await;
    assert!(answer.starts_with("HTTP/1.1 429") && answer.contains("rate limit"), "{answer}");
    assert_eq!(server.prober.counts().began(), 2);
}

#[tokio::test]
async fn who_is_slow_to_send_keeps_nobody_out_and_is_answered_all_the_same() {
    let server = everywhere(Config { max_in_flight: 1, ..Config::default() }).await;
    let body = format!("{{\"text\":\"{}\"}}", "x".repeat(20 << 10));
    let kind = "content-type: application/json\r\n";
    let start = async || {
        let rest = format!("{kind}connection: close\r\ncontent-length: {}\r\n", body.len());
        let mut stream = TcpStream::connect(server.addr).await.unwrap();
        stream.write_all(format!("{}expect: 100-continue\r\n\r\n", head(&rest)).as_bytes()).await.unwrap();
        // It is asked for its message, so it was let in.
        let mut go_on = [0; 25];
        within("to be let in", stream.read_exact(&mut go_on)).await.unwrap();
        assert_eq!(&go_on, b"HTTP/1.1 100 Continue\r\n\r\n");
        stream.write_all(&body.as_bytes()[..100]).await.unwrap();
        stream
    };
    let mut slow = start().await;
    // It has the only place, for a moment.
    until("the place to be given away", || server.running.in_flight() == 0).await;
    let probe = ProbeClient::new(server.tcp());
    assert_eq!(probe.say(order("meanwhile")).await.unwrap().text, "meanwhile");
    slow.write_all(&body.as_bytes()[100..]).await.unwrap();
    let answer = until_closed(&mut slow).await;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    until("the place to be free", || server.running.in_flight() == 0).await;

    // And is turned away like any other where there is none when its message is whole.
    let mut slow = start().await;
    let held = loop {
        let mut held = JoinSet::new();
        let channel = ProbeClient::new(server.running.channel());
        held.spawn(async move { channel.say(told(Action::ACTION_HANG, 0)).await.err().map(|e| e.code()) });
        tokio::select! {
            ended = held.join_next() => {
                assert_eq!(ended.unwrap().unwrap(), Some(Code::ResourceExhausted));
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
            () = until("a call to be held", || server.prober.counts().busy() == 1) => break held,
        }
    };
    slow.write_all(&body.as_bytes()[100..]).await.unwrap();
    let answer = until_closed(&mut slow).await;
    assert!(answer.starts_with("HTTP/1.1 429") && answer.contains("in flight"), "{answer}");
    drop(held);
    // Whoever leaves in the middle leaves nothing behind.
    until("the place to be free", || server.running.in_flight() == 0).await;
    drop(start().await);
    until("the place to be free", || server.running.in_flight() == 0).await;
}

/// The head of a large call to a server that has no place free, a while after the places were taken.
async fn queued(
    priority: &str,
    after: Duration,
) -> (overload::Load, DuplexStream, JoinSet<Result<Answer, Error>>) {
    fastrand::seed(4);
    let mut load = overload::limited(2).await;
    let (mut stream, end) = tokio::io::duplex(64 << 10);
    load.running.listen_on(futures::stream::iter([end]));
    let (held, _) = overload::filled(&load).await;
    tokio::time::sleep(after).await;
    let rest = "connect-timeout-ms: 5000\r\nexpect: 100-continue\r\ncontent-length: 20000\r\n";
    let head = "POST /load.Service/Work HTTP/1.1\r\nhost: a\r\nconnection: close";
    let request = format!("{head}\r\nformic-priority: {priority}\r\n{PROTO}{rest}\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    (load, stream, held)
}

#[tokio::test(start_paused = true)]
async fn a_large_call_waits_for_its_turn_unread() {
    // No call ends for a while, so it is told in time.
    let (_load, mut stream, _held) = queued("normal", Duration::ZERO).await;
    let mut answer = String::new();
    within("a refusal", stream.read_to_string(&mut answer)).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 503") && answer.contains("waited for its turn"), "{answer}");

    // Calls end soon after this one comes, which is waited for as it matters.
    let (load, mut stream, held) = queued("high", Duration::from_millis(305)).await;
    let began = load.service.began.load(Ordering::Relaxed);
    let mut go_on = [0; 25];
    within("its turn", stream.read_exact(&mut go_on)).await.unwrap();
    assert_eq!(&go_on, b"HTTP/1.1 100 Continue\r\n\r\n", "{}", String::from_utf8_lossy(&go_on));
    assert_eq!(load.service.began.load(Ordering::Relaxed), began, "the handler waits for the message");
    stream.write_all(&[0; 20_000]).await.unwrap();
    let mut answer = String::new();
    within("an answer", stream.read_to_string(&mut answer)).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    held.join_all().await;
    until("nothing to be in flight", || load.running.in_flight() == 0).await;
    assert!(load.metrics.render().contains("formic_server_working 0\n"));
}
