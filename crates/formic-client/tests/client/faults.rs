//! The client over connections that fail to order.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use formic_client::traffic::Hash;
use formic_client::{Algorithm, Client, Config, State, Traffic, Transport};
use formic_core::{Code, Error, ServiceName};
use formic_registry::Memory;
use formic_rpc::{Channel, Handle, Streaming};
use formic_server::{Running, Serving};
use formic_telemetry::Metrics;
use formic_testing::{Fabric, Fault, Faults, Relay};
use tokio::time::Instant;

use crate::server::*;

const MS: Duration = Duration::from_millis(1);

/// Two instances of one service, each behind a relay.
struct Pair {
    faults: Faults,
    one: (Server, Relay),
    two: (Server, Relay),
    channel: Channel,
    client: Client,
}

async fn pair(config: Config) -> Pair {
    pair_of(config, false).await
}

async fn pair_of(config: Config, mux: bool) -> Pair {
    let (faults, registry) = (Faults::new(), Memory::new());
    let mut ends = Vec::new();
    for name in ["one", "two"] {
        let echo = Echo::new();
        let server = if mux { Server::start_mux(&echo).await } else { Server::start(&echo).await };
        let relay = faults.relay("web", name, server.addr()).await;
        register(&registry, name, &relay.addr().into()).await;
        ends.push((server, relay));
    }
    let (two, one) = (ends.pop().unwrap(), ends.pop().unwrap());
    // A busy machine may be long over a greeting.
    let config = Config { connect_timeout: Duration::from_secs(10), ..config };
    let client = Client::new(Arc::new(registry), config);
    Pair { faults, one, two, channel: client.of("echo"), client }
}

/// Each of the two has its turn, so that some calls surely meet the one that a test is about.
fn in_turn() -> Config {
    let traffic = Traffic { policy: Algorithm::RoundRobin, ..Traffic::default() };
    Config { traffic, ..Config::default() }
}

/// All calls of a user meet one of the two.
async fn pair_by_user() -> Pair {
    let hash = Some(Hash { key: "x-user".into(), bound: 100.0 });
    let traffic = Traffic { policy: Algorithm::Hash, hash, ..Traffic::default() };
    pair(Config { traffic, ..Config::default() }).await
}

impl Pair {
    async fn call(&self, method: formic_core::Method, within: Duration) -> Result<String, Error> {
        let mut call = call_of(method, "hi");
        call.deadline = Some(Instant::now() + within);
        self.channel.call(call).await.map(text)
    }

    fn ejected(&self) -> bool {
        let view = self.client.traffic(&ServiceName::new("echo").unwrap());
        view.endpoints.iter().any(|endpoint| matches!(endpoint.state, State::Ejected | State::Probing))
    }

    fn calls(&self) -> usize {
        self.one.0.echo.calls() + self.two.0.echo.calls()
    }
}

const LONG: Duration = Duration::from_secs(5);

#[tokio::test]
async fn connections_that_break_under_a_call_are_made_good_where_that_is_safe() {
    for fault in [Fault::Reset, Fault::ResetAnswer, Fault::Break(30), Fault::Refuse] {
        let pair = pair(in_turn()).await;
        let broken = pair.faults.calls().to("one").always().meet(fault.clone());
        for _ in 0..20 {
            assert_eq!(pair.call(GET, LONG).await.unwrap(), "hi", "{fault:?}");
        }
        assert!(broken.happened() > 0);
        // What may not be repeated is answered or fails; no handler sees it twice.
        let (before, mut calls) = (pair.calls(), 0);
        for _ in 0..20 {
            calls += 1;
            if let Err(error) = pair.call(SAY, LONG).await {
                assert_eq!(error.code(), Code::Unavailable, "{fault:?}: {error:?}");
                assert!(!matches!(fault, Fault::Refuse), "surely unsent, and there is another instance");
            }
        }
        assert!(pair.calls() - before <= calls, "{fault:?}: a call was made twice");
    }
}

#[tokio::test]
async fn an_instance_that_is_slow_to_reach_is_called_less() {
    let pair = pair(Config::default()).await;
    let late = pair.faults.calls().to("one").always().meet(Fault::Latency(20 * MS));
    for _ in 0..100 {
        pair.call(SAY, LONG).await.unwrap();
    }
    assert!(late.happened() > 0);
    let (one, two) = (pair.one.0.echo.calls(), pair.two.0.echo.calls());
    assert!(two > 2 * one, "{one} and {two}");
}

#[tokio::test]
async fn an_instance_out_of_reach_costs_time_and_comes_back() {
    let pair = pair(in_turn()).await;
    for _ in 0..10 {
        pair.call(SAY, LONG).await.unwrap();
    }
    pair.faults.part("web", "one");
    let mut late = 0;
    for _ in 0..20 {
        match pair.call(SAY, 200 * MS).await {
            Ok(_) => {}
            Err(error) => {
                assert_eq!(error.code(), Code::DeadlineExceeded, "{error:?}");
                late += 1;
            }
        }
    }
    assert!((1..15).contains(&late), "{late} of 20 were sent where nobody answers");
    pair.faults.join("web", "one");
    for _ in 0..10 {
        pair.call(SAY, LONG).await.unwrap();
    }
}

/// Whoever may choose deadlines could have healthy instances ejected otherwise.
#[tokio::test]
async fn who_gives_less_time_than_calls_take_has_nobody_ejected() {
    let pair = pair_by_user().await;
    pair.faults.calls().always().meet(Fault::Latency(200 * MS));
    for _ in 0..10 {
        pair.call(SAY, LONG).await.unwrap();
    }
    // All of it meets one of them.
    for _ in 0..40 {
        let mut call = call_of(SAY, "hi");
        call.metadata.insert("x-user", "ada").unwrap();
        call.deadline = Some(Instant::now() + 10 * MS);
        assert_eq!(pair.channel.call(call).await.unwrap_err().code(), Code::DeadlineExceeded);
    }
    assert!(!pair.ejected(), "{:?}", pair.client.traffic(&ServiceName::new("echo").unwrap()));
    // Nor has who sends nothing himself, until his time is over, which would be enough for others.
    let pair = pair_by_user().await;
    pair.faults.calls().always().meet(Fault::Latency(40 * MS));
    for _ in 0..10 {
        pair.call(SAY, LONG).await.unwrap();
    }
    for method in [[COLLECT; 8], [CHAT; 8]].into_iter().flatten() {
        let mut call = stream_call(method, Streaming::new(futures::stream::pending()));
        call.metadata.insert("x-user", "ada").unwrap();
        call.deadline = Some(Instant::now() + 250 * MS);
        let outcome = match pair.channel.call(call).await {
            Ok(answer) => next(&mut answer.body.into_stream()).await.unwrap().map(drop),
            Err(error) => Err(error),
        };
        assert_eq!(outcome.unwrap_err().code(), Code::DeadlineExceeded);
    }
    assert!(!pair.ejected(), "{:?}", pair.client.traffic(&ServiceName::new("echo").unwrap()));
    assert_eq!(pair.call(SAY, LONG).await.unwrap(), "hi");
}

#[tokio::test]
async fn one_connection_that_breaks_is_one_failure_whatever_it_carried() {
    for mux in [false, true] {
        let transport = if mux { Transport::Multiplexed } else { Transport::Http };
        let traffic = Traffic { policy: Algorithm::RoundRobin, ..Traffic::default() };
        let pair = pair_of(Config { connections: 1, transport, traffic, ..Config::default() }, mux).await;
        for _ in 0..10 {
            pair.call(SAY, LONG).await.unwrap();
        }
        let before = pair.one.0.echo.calls();
        let calls = (0..40).map(|_| {
            let channel = pair.channel.clone();
            tokio::task::spawn(async move { channel.call(call_of(HANG, "")).await.map(drop) })
        });
        let calls: Vec<_> = calls.collect();
        until("all of them to hang", || pair.calls() == 50).await;
        assert!(pair.one.0.echo.calls() - before >= 10, "both have some");
        pair.one.1.cut();
        let lost =
            |calls: &[tokio::task::JoinHandle<_>]| calls.iter().filter(|call| call.is_finished()).count();
        until("its calls to be lost", || lost(&calls) >= pair.one.0.echo.calls() - before).await;
        assert!(!pair.ejected(), "{mux}: {:?}", pair.client.traffic(&ServiceName::new("echo").unwrap()));
        calls.iter().for_each(tokio::task::JoinHandle::abort);
    }
}

#[tokio::test]
async fn a_stream_whose_connection_breaks_says_so_and_its_handler_ends() {
    let pair = pair(Config::default()).await;
    let mut stream = pair.channel.call(call_of(TICK, "")).await.unwrap().body.into_stream();
    assert_eq!(next(&mut stream).await.unwrap().unwrap(), "tick");
    pair.one.1.cut();
    pair.two.1.cut();
    let error = loop {
        if let Err(error) = next(&mut stream).await.expect("an error, and no good end") {
            break error;
        }
    };
    assert_eq!(error.code(), Code::Unavailable);
    until("the handler to be dropped", || {
        pair.one.0.echo.dropped.load(Ordering::SeqCst) + pair.two.0.echo.dropped.load(Ordering::SeqCst) == 1
    })
    .await;
}

fn serve(fabric: &Fabric, echo: &Arc<Echo>) -> (Running, formic_core::Endpoint) {
    let server = formic_server::Server::new(formic_server::Config::default(), Metrics::new());
    let server = server.serve(Arc::new(Service(Arc::clone(echo))) as Arc<dyn Handle>).unwrap();
    let mut running = server.build().unwrap();
    let endpoint = fabric.listen("echo", &mut running);
    running.health().set(Serving::Ready);
    (running, endpoint)
}

/// A peer that vanished without a word is noticed by its silence, long before the deadline of the call.
#[tokio::test(start_paused = true)]
async fn a_peer_that_falls_silent_is_given_up() {
    let (fabric, faults, echo) = (Fabric::new(), Faults::new(), Echo::new());
    fabric.inject(&faults);
    let (_running, endpoint) = serve(&fabric, &echo);
    let hour = Duration::from_secs(3600);
    let config = Config { connector: Some(fabric.connector("web")), timeout: hour, ..Config::default() };
    let channel = Client::without_registry(config).at(endpoint);
    assert_eq!(text(channel.call(call_of(SAY, "hi")).await.unwrap()), "hi");
    faults.part("web", "echo");
    let began = Instant::now();
    let error = channel.call(call_of(SAY, "hi")).await.unwrap_err();
    assert_eq!(error.code(), Code::Unavailable, "{error:?}");
    let took = began.elapsed();
    assert!((Duration::from_secs(4)..Duration::from_secs(20)).contains(&took), "{took:?}");
    assert_eq!((echo.calls(), faults.happened()), (1, 1));
    // And found again once it is back.
    faults.join("web", "echo");
    let answer = loop {
        match channel.call(call_of(SAY, "again")).await {
            Ok(answer) => break answer,
            Err(error) => assert!(error.is_unsent(), "{error:?}"),
        }
        tokio::time::sleep(100 * MS).await;
        assert!(began.elapsed() < Duration::from_secs(60), "it is not found again");
    };
    assert_eq!(text(answer), "again");
}
