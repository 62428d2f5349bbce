//! What is made again, what is not, and how it is marked.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use formic_client::{Client, Config, budget};
use formic_core::{Code, Endpoint, Error, Method};
use formic_registry::Memory;
use formic_rpc::context::Scope;
use formic_rpc::{Channel, Streaming};
use tokio::net::TcpListener;

use crate::server::*;

/// What a misbehaving server does with every request.
#[derive(Clone, Copy)]
enum Act {
    /// Answers RST_STREAM with REFUSED_STREAM.
    Refuse,
    /// Takes the request and resets the connection.
    Vanish,
}

/// A server that speaks HTTP/2 and misbehaves to order; counts what it did.
async fn misbehaving(
    act: Act,
) -> (Endpoint, Arc<std::sync::atomic::AtomicUsize>, tokio::task::JoinHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = listener.local_addr().unwrap().into();
    let fired = Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let count = Arc::clone(&fired);
    let task = tokio::spawn(async move {
        loop {
            let (io, _) = listener.accept().await.unwrap();
            let mut connection = h2::server::handshake(io).await.unwrap();
            // One connection after the other is enough here.
            while let Some(Ok((request, mut respond))) = connection.accept().await {
                count.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
                match act {
                    Act::Refuse => respond.send_reset(h2::Reason::REFUSED_STREAM),
                    Act::Vanish => break,
                }
                drop(request);
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

fn no_budget() -> Config {
    Config {
        budget: budget::Config { ratio: 0.0, per_second: 0, ..budget::Config::default() },
        ..Config::default()
    }
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
    assert!(fired.load(std::sync::atomic::Ordering::SeqCst) > 0, "no stream was refused");
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
    assert_eq!(fired.load(std::sync::atomic::Ordering::SeqCst), lost);
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
    let fired = fired.load(std::sync::atomic::Ordering::SeqCst);
    assert!(fired > 0, "the other server was never asked");
    let marked = server.echo.attempts().iter().filter(|attempt| attempt.as_deref() == Some("2")).count();
    assert_eq!(marked, fired, "each repetition is marked");
    task.abort();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_goes_away_loses_no_call() {
    // Twenty servers in turn say goodbye under load; nothing is lost, idempotent or not.
    let registry = Memory::new();
    let stable = Server::start(&Echo::new()).await;
    register(&registry, "stable", &stable.endpoint).await;
    let client = Client::new(Arc::new(registry.clone()), Config::default());
    let channel = client.of("echo");
    let stop = tokio_util::sync::CancellationToken::new();
    let load: Vec<_> = (0..8)
        .map(|_| {
            let (channel, stop) = (channel.clone(), stop.clone());
            tokio::spawn(async move {
                let mut made = 0;
                while !stop.is_cancelled() {
                    channel.call(call_of(SAY, "x")).await.unwrap();
                    made += 1;
                }
                made
            })
        })
        .collect();
    let mut served = 0;
    for n in 0..20 {
        let server = Server::start(&Echo::new()).await;
        register(&registry, &format!("passing-{n}"), &server.endpoint).await;
        until("the new server to be called", || server.echo.calls() > 20).await;
        // It is still registered, so calls run into its goodbye.
        server.drain();
        tokio::time::sleep(Duration::from_millis(10)).await;
        formic_registry::Registry::deregister(
            &registry,
            &formic_core::InstanceId::new(format!("passing-{n}")),
        )
        .await
        .unwrap();
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
async fn an_error_that_ends_a_stream_is_the_callers() {
    const IDEMPOTENT: Method = REPEAT.idempotent(true);
    let (server, channel) = single(Config::default()).await;
    server.echo.fail_next(unavailable(1));
    let mut stream = channel.call(call_of(IDEMPOTENT, "x")).await.unwrap().body.into_stream();
    // Over Connect the stream has begun by then: its error is its last message.
    let first = next(&mut stream).await.unwrap();
    assert_eq!(first.unwrap_err().code(), Code::Unavailable);
    assert_eq!(server.echo.calls(), 1);
}

#[tokio::test]
async fn an_exhausted_budget_ends_retries() {
    let (server, channel) = single(no_budget()).await;
    server.echo.fail_next(unavailable(1));
    assert_eq!(channel.call(call_of(GET, "x")).await.unwrap_err().code(), Code::Unavailable);
    assert_eq!(server.echo.calls(), 1);
    // What was used up comes back with calls.
    let config = Config {
        budget: budget::Config { ratio: 0.5, per_second: 0, ..budget::Config::default() },
        ..Config::default()
    };
    let (server, channel) = single(config).await;
    channel.call(call_of(GET, "x")).await.unwrap();
    server.echo.fail_next(unavailable(1));
    channel.call(call_of(GET, "x")).await.unwrap();
    server.echo.fail_next(unavailable(1));
    assert!(channel.call(call_of(GET, "x")).await.is_err(), "3 calls and half of it, one taken");
    assert_eq!(server.echo.calls(), 4);
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

#[tokio::test]
async fn a_storm_three_services_deep_does_not_multiply() {
    // a → b → c, and c is always unavailable; every method is idempotent.
    const GET_ON: Method = RELAY.idempotent(true);
    let c = Server::start(&Echo::new()).await;
    c.echo.fail_next(unavailable(1_000));
    let to_c = Client::without_registry(Config::default()).at(c.endpoint.clone());
    let b = Server::start(&Echo::new()).await;
    *b.echo.next.lock().unwrap() = Some(to_c);
    let to_b = Client::without_registry(Config::default()).at(b.endpoint.clone());
    let a = Server::start(&Echo::new()).await;
    *a.echo.next.lock().unwrap() = Some(to_b);
    let to_a = Client::without_registry(Config::default()).at(a.endpoint.clone());
    assert_eq!(to_a.call(call_of(GET_ON, "")).await.unwrap_err().code(), Code::Unavailable);
    // Each layer repeats what it was not told is a repetition: 2 at the first, and below it what the
    // first of the two caused may be repeated, the second not.
    assert_eq!(a.echo.calls(), 2);
    assert!(c.echo.calls() <= 4, "{} calls at the bottom of one", c.echo.calls());
}
