//! What is made again, what is not, and how it is marked.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use formic_client::{Algorithm, Client, Config, Protocol, Traffic, budget};
use formic_core::{Code, Endpoint, Error, InstanceId, Method};
use formic_registry::{Memory, Registry};
use formic_rpc::context::Scope;
use formic_rpc::{Channel, Streaming};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::server::*;

/// What a misbehaving server does with every request.
#[derive(Clone, Copy)]
enum Act {
    /// Answers RST_STREAM with REFUSED_STREAM.
    Refuse,
    /// Takes the request and resets the connection.
    Vanish,
    /// Says goodbye, and that it has looked at nothing.
    GoAway,
}

/// A server that speaks HTTP/2 and misbehaves to order; counts what it did.
async fn misbehaving(act: Act) -> (Endpoint, Arc<AtomicUsize>, tokio::task::JoinHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = listener.local_addr().unwrap().into();
    let fired = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&fired);
    let task = tokio::spawn(async move {
        loop {
            let (io, _) = listener.accept().await.unwrap();
            if let Act::GoAway = act {
                say_goodbye(io, &count).await;
                continue;
            }
            let mut connection = h2::server::handshake(io).await.unwrap();
            // One connection after the other is enough here.
            while let Some(Ok((request, mut respond))) = connection.accept().await {
                count.fetch_add(1, Ordering::SeqCst);
                match act {
                    Act::Refuse => respond.send_reset(h2::Reason::REFUSED_STREAM),
                    Act::Vanish | Act::GoAway => break,
                }
                drop(request);
            }
        }
    });
    (endpoint, fired, task)
}

/// HTTP/2 by hand, for no library says goodbye so rudely: at the first HEADERS frame a GOAWAY that names
/// no stream, which leaves the connection open.
async fn say_goodbye(mut io: tokio::net::TcpStream, count: &AtomicUsize) {
    const PREFACE: usize = 24;
    const HEADERS: u8 = 1;
    io.write_all(&[0, 0, 0, 4, 0, 0, 0, 0, 0]).await.unwrap();
    io.read_exact(&mut [0; PREFACE]).await.unwrap();
    let mut head = [0; 9];
    while io.read_exact(&mut head).await.is_ok() {
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
        io.read_exact(&mut vec![0; length]).await.unwrap();
        if head[3] == HEADERS {
            count.fetch_add(1, Ordering::SeqCst);
            io.write_all(&[0, 0, 8, 7, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]).await.unwrap();
        }
    }
}

/// A server whose streams break off after their first message.
async fn half_a_stream() -> (Endpoint, Arc<AtomicUsize>, tokio::task::JoinHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = listener.local_addr().unwrap().into();
    let fired = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&fired);
    let task = tokio::spawn(async move {
        loop {
            let (io, _) = listener.accept().await.unwrap();
            let mut connection = h2::server::handshake(io).await.unwrap();
            if let Some(Ok((_request, mut respond))) = connection.accept().await {
                count.fetch_add(1, Ordering::SeqCst);
                let head = http::Response::builder().header("content-type", "application/connect+proto");
                let mut body = respond.send_response(head.body(()).unwrap(), false).unwrap();
                body.send_data(Bytes::from_static(b"\0\0\0\0\x04half"), false).unwrap();
                // What is written goes out, and then the connection is gone.
                let flushed = std::future::poll_fn(|cx| connection.poll_closed(cx));
                let _ = tokio::time::timeout(Duration::from_millis(100), flushed).await;
            }
        }
    });
    (endpoint, fired, task)
}

/// A good server and something else, behind one name.
async fn beside(other: &Endpoint, config: Config) -> (Server, Channel, Client) {
    let echo = Echo::new();
    let server = Server::start(&echo).await;
    let registry = Memory::new();
    register(&registry, "good", &server.endpoint).await;
    register(&registry, "other", other).await;
    let client = Client::new(Arc::new(registry), config);
    (server, client.of("echo"), client)
}

async fn single(config: Config) -> (Server, Channel) {
    let server = Server::start(&Echo::new()).await;
    let channel = Client::without_registry(config).at(server.endpoint.clone());
    (server, channel)
}

fn budgeted(ratio: f64) -> Config {
    let budget = budget::Config { ratio, per_second: 0, ..budget::Config::default() };
    Config { traffic: Traffic { budget, ..Traffic::default() }, ..Config::default() }
}

fn no_budget() -> Config {
    budgeted(0.0)
}

fn unavailable(times: usize) -> VecDeque<Error> {
    (0..times).map(|_| Error::unavailable("not now")).collect()
}

#[tokio::test]
async fn a_refused_connection_goes_elsewhere_whatever_the_method() {
    let (server, channel, _client) = beside(&dead().await, Config::default()).await;
    for n in 0..100 {
        let answer = channel.call(call_of(SAY, n.to_string())).await.unwrap();
        assert_eq!(text(answer), n.to_string());
    }
    assert_eq!(server.echo.calls(), 100);
    assert!(server.echo.attempts().iter().all(Option::is_none), "the first that any handler saw");
}

#[tokio::test]
async fn a_request_stream_that_never_began_goes_elsewhere_too() {
    let (server, channel, _client) = beside(&dead().await, Config::default()).await;
    for _ in 0..20 {
        let messages = Streaming::from_iter([Bytes::from_static(b"a"), Bytes::from_static(b"b")]);
        assert_eq!(text(channel.call(stream_call(COLLECT, messages)).await.unwrap()), "ab");
    }
    assert_eq!(server.echo.calls(), 20);
}

#[tokio::test]
async fn a_refused_stream_goes_elsewhere_whatever_the_method() {
    let (endpoint, fired, task) = misbehaving(Act::Refuse).await;
    let (server, channel, _client) = beside(&endpoint, Config::default()).await;
    for _ in 0..50 {
        channel.call(call_of(SAY, "x")).await.unwrap();
    }
    assert!(fired.load(Ordering::SeqCst) > 0, "no stream was refused");
    assert_eq!(server.echo.calls(), 50);
    task.abort();
}

#[tokio::test]
async fn a_stream_beyond_a_goodbye_goes_elsewhere_whatever_the_method() {
    let (endpoint, fired, task) = misbehaving(Act::GoAway).await;
    let (server, channel, _client) = beside(&endpoint, Config::default()).await;
    for _ in 0..50 {
        channel.call(call_of(SAY, "x")).await.unwrap();
    }
    assert!(fired.load(Ordering::SeqCst) > 0, "no goodbye was said");
    assert_eq!(server.echo.calls(), 50);
    task.abort();
}

#[tokio::test]
async fn a_call_that_may_have_arrived_is_not_sent_again() {
    let (endpoint, fired, task) = misbehaving(Act::Vanish).await;
    let (server, channel, _client) = beside(&endpoint, Config::default()).await;
    let mut lost = 0;
    for _ in 0..50 {
        if let Err(error) = channel.call(call_of(SAY, "x")).await {
            assert_eq!(error.code(), Code::Unavailable, "{error}");
            assert!(!error.is_unsent());
            lost += 1;
        }
    }
    assert!(lost > 0, "the other server was never asked");
    assert_eq!(fired.load(Ordering::SeqCst), lost);
    assert_eq!(server.echo.calls() + lost, 50, "each call was made once");
    task.abort();
}

#[tokio::test]
async fn a_lost_connection_is_repeated_for_an_idempotent_method() {
    let (endpoint, fired, task) = misbehaving(Act::Vanish).await;
    let (server, channel, _client) = beside(&endpoint, Config::default()).await;
    for _ in 0..50 {
        channel.call(call_of(GET, "x")).await.unwrap();
    }
    let fired = fired.load(Ordering::SeqCst);
    assert!(fired > 0, "the other server was never asked");
    let marked = server.echo.attempts().iter().filter(|attempt| attempt.as_deref() == Some("2")).count();
    assert_eq!(marked, fired, "each repetition is marked");
    task.abort();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn servers_that_drain_under_load_lose_no_call() {
    let registry = Memory::new();
    let stable = Server::start(&Echo::new()).await;
    register(&registry, "stable", &stable.endpoint).await;
    // By latency a newcomer that stumbles on a busy machine gets next to nothing, and its drain would prove nothing.
    let traffic = Traffic { policy: Algorithm::RoundRobin, ..Traffic::default() };
    let client = Client::new(Arc::new(registry.clone()), Config { traffic, ..Config::default() });
    let channel = client.of("echo");
    let stop = CancellationToken::new();
    let load: Vec<_> = (0..8)
        .map(|_| {
            let (channel, stop) = (channel.clone(), stop.clone());
            tokio::spawn(async move {
                let mut made = 0;
                while !stop.is_cancelled() {
                    channel.call(call_of(SAY, "x")).await.unwrap();
                    made += 1;
                    // Load enough for every race, and not all of the machine.
                    tokio::time::sleep(Duration::from_micros(500)).await;
                }
                made
            })
        })
        .collect();
    let mut served = 0;
    for n in 0..20 {
        let server = Server::start(&Echo::new()).await;
        let name = format!("passing-{n}");
        register(&registry, &name, &server.endpoint).await;
        until("the new server to be called", || server.echo.calls() > 20).await;
        // The order of every drain: deregister, let the word spread, say goodbye, answer what is left.
        registry.deregister(&InstanceId::new(name)).await.unwrap();
        tokio::time::sleep(Duration::from_millis(10)).await;
        server.drain();
        until("the drained server to be left", || server.open() == 0).await;
        served += server.echo.calls();
    }
    stop.cancel();
    let mut made = 0;
    for task in load {
        made += within("the load to end", task).await.expect("no call failed");
    }
    assert_eq!(made, served + stable.echo.calls(), "each call was answered once");
}

#[tokio::test]
async fn unavailable_is_repeated_once_for_an_idempotent_method_and_marked() {
    let (server, channel) = single(Config::default()).await;
    server.echo.fail_next(unavailable(1));
    assert_eq!(text(channel.call(call_of(GET, "x")).await.unwrap()), "x");
    assert_eq!(server.echo.attempts(), [None, Some("2".into())]);
    server.echo.fail_next(unavailable(2));
    assert_eq!(channel.call(call_of(GET, "x")).await.unwrap_err().code(), Code::Unavailable);
    assert_eq!(server.echo.calls(), 4);
}

#[tokio::test]
async fn unavailable_is_the_callers_for_other_methods_and_other_codes() {
    let (server, channel) = single(Config::default()).await;
    server.echo.fail_next(unavailable(1));
    assert_eq!(channel.call(call_of(SAY, "x")).await.unwrap_err().code(), Code::Unavailable);
    server.echo.fail_next([Error::internal("bug")]);
    assert_eq!(channel.call(call_of(GET, "x")).await.unwrap_err().code(), Code::Internal);
    server.echo.fail_next([Error::unavailable("busy").with_retry_after(Duration::from_secs(60))]);
    let pushed_back = channel.call(call_of(GET, "x")).await.unwrap_err();
    assert_eq!(pushed_back.retry_after(), Some(Duration::from_secs(60)));
    assert_eq!(server.echo.calls(), 3);
}

#[tokio::test]
async fn a_stream_that_fails_before_its_first_message_is_begun_again() {
    const IDEMPOTENT: Method = REPEAT.idempotent(true);
    for protocol in [Protocol::Connect, Protocol::Grpc] {
        let (server, channel) = single(Config { protocol, ..Config::default() }).await;
        server.echo.fail_next(unavailable(1));
        // Over Connect the stream has begun by then: its error is its last message.
        let mut stream = channel.call(call_of(IDEMPOTENT, "x")).await.unwrap().body.into_stream();
        for _ in 0..3 {
            assert_eq!(next(&mut stream).await.unwrap().unwrap(), "x");
        }
        assert!(next(&mut stream).await.is_none());
        assert_eq!(server.echo.attempts(), [None, Some("2".into())], "{protocol:?}");
        // Once only, and not for a method that may not be repeated.
        for (method, calls) in [(IDEMPOTENT, 2), (REPEAT, 1)] {
            let before = server.echo.calls();
            server.echo.fail_next(unavailable(calls));
            let error = match channel.call(call_of(method, "x")).await {
                Ok(answer) => next(&mut answer.body.into_stream()).await.unwrap().unwrap_err(),
                Err(error) => error,
            };
            assert_eq!((error.code(), server.echo.calls() - before), (Code::Unavailable, calls));
        }
    }
}

#[tokio::test]
async fn a_stream_that_has_given_a_message_is_not_begun_again() {
    let (endpoint, fired, task) = half_a_stream().await;
    let channel = Client::without_registry(Config::default()).at(endpoint);
    let answer = channel.call(call_of(REPEAT.idempotent(true), "x")).await.unwrap();
    let mut stream = answer.body.into_stream();
    assert_eq!(next(&mut stream).await.unwrap().unwrap(), "half");
    assert_eq!(next(&mut stream).await.unwrap().unwrap_err().code(), Code::Unavailable);
    assert!(next(&mut stream).await.is_none());
    assert_eq!(fired.load(Ordering::SeqCst), 1);
    task.abort();
}

#[tokio::test]
async fn what_a_repetition_causes_begins_no_stream_again() {
    let (server, channel) = single(Config::default()).await;
    server.echo.fail_next(unavailable(1));
    let scope = Scope { retried: true, ..Scope::default() };
    let answer = scope.run(async { channel.call(call_of(REPEAT.idempotent(true), "x")).await }).await;
    let first = next(&mut answer.unwrap().body.into_stream()).await.unwrap();
    assert_eq!(first.unwrap_err().code(), Code::Unavailable);
    assert_eq!(server.echo.calls(), 1);
}

#[tokio::test]
async fn a_short_push_back_is_waited_for() {
    let (server, channel) = single(Config::default()).await;
    let wait = Duration::from_millis(120);
    for code in [Code::ResourceExhausted, Code::Unavailable] {
        let before = server.echo.calls();
        server.echo.fail_next([Error::new(code, "busy").with_retry_after(wait)]);
        let began = tokio::time::Instant::now();
        assert_eq!(text(channel.call(call_of(GET, "x")).await.unwrap()), "x");
        assert!(began.elapsed() >= wait, "{:?}", began.elapsed());
        assert_eq!(server.echo.calls() - before, 2);
    }
}

#[tokio::test]
async fn an_exhausted_budget_ends_retries() {
    let (server, channel) = single(no_budget()).await;
    server.echo.fail_next(unavailable(1));
    assert_eq!(channel.call(call_of(GET, "x")).await.unwrap_err().code(), Code::Unavailable);
    assert_eq!(server.echo.calls(), 1);
    // What was used up comes back with calls.
    let (server, channel) = single(budgeted(0.5)).await;
    channel.call(call_of(GET, "x")).await.unwrap();
    server.echo.fail_next(unavailable(1));
    channel.call(call_of(GET, "x")).await.unwrap();
    server.echo.fail_next(unavailable(1));
    assert!(channel.call(call_of(GET, "x")).await.is_err(), "3 calls and half of it, one taken");
    assert_eq!(server.echo.calls(), 4);
}

#[tokio::test]
async fn an_empty_budget_ends_failover_too() {
    let (endpoint, fired, task) = misbehaving(Act::Refuse).await;
    let (server, channel, _client) = beside(&endpoint, no_budget()).await;
    let mut refused = 0;
    for _ in 0..50 {
        if let Err(error) = channel.call(call_of(SAY, "x")).await {
            assert!(error.code() == Code::Unavailable && error.is_unsent(), "{error:?}");
            refused += 1;
        }
    }
    assert!(refused > 0, "the other server was never asked");
    assert_eq!((fired.load(Ordering::SeqCst), server.echo.calls()), (refused, 50 - refused));
    task.abort();
}

#[tokio::test]
async fn what_a_repetition_causes_is_not_repeated_and_carries_the_mark() {
    let (server, channel) = single(Config::default()).await;
    server.echo.fail_next(unavailable(1));
    let scope = Scope { retried: true, ..Scope::default() };
    let outcome = scope.run(async { channel.call(call_of(GET, "x")).await }).await;
    assert_eq!(outcome.unwrap_err().code(), Code::Unavailable);
    assert_eq!(server.echo.attempts(), [Some("2".into())]);
}

/// a → b → c, each with a budget of a fifth; every method is idempotent.
async fn chain() -> ([Server; 3], Channel) {
    let mut servers = Vec::new();
    let mut next = None;
    for _ in 0..3 {
        let server = Server::start(&Echo::new()).await;
        *server.echo.next.lock().unwrap() = next.take();
        next = Some(Client::without_registry(budgeted(0.2)).at(server.endpoint.clone()));
        servers.push(server);
    }
    servers.reverse();
    let Ok(servers) = servers.try_into() else { panic!("three were started") };
    (servers, next.unwrap())
}

#[tokio::test]
async fn a_storm_three_services_deep_does_not_multiply() {
    const GET_ON: Method = RELAY.idempotent(true);
    const CALLS: usize = 400;
    let ([a, b, c], to_a) = chain().await;
    c.echo.fail_next(unavailable(CALLS * 8));
    for _ in 0..CALLS {
        let error = to_a.call(call_of(GET_ON, "")).await.unwrap_err();
        assert_eq!(error.code(), Code::Unavailable);
    }
    // What was repeated next to the failure is repeated nowhere above it.
    assert_eq!((a.echo.calls(), b.echo.calls()), (CALLS, CALLS));
    let bottom = c.echo.calls();
    assert!(bottom > CALLS && bottom <= CALLS + CALLS / 5, "{bottom} attempts for {CALLS} calls");
    // And what a repetition causes is not repeated below: here a fails first, and its repetition meets c.
    a.echo.fail_next(unavailable(1));
    let before = c.echo.calls();
    assert!(to_a.call(call_of(GET_ON, "")).await.is_err());
    assert_eq!((a.echo.calls(), c.echo.calls() - before), (CALLS + 2, 1));
}
