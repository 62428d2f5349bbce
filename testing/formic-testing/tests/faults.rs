//! The faults themselves: that they happen as they were ordered, in memory, on servers, on sockets.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::sync::Arc;
use std::time::Duration;

use formic_client::{Client, Config as ClientConfig};
use formic_core::{Code, Error};
use formic_probe::{Order, ProbeClient, ProbeServer, Prober, Report};
use formic_rpc::Streaming;
use formic_server::{Config, Server};
use formic_telemetry::Metrics;
use formic_testing::{Fabric, Fault, Faults, Network, Transient, transport, wait_until};
use tokio::time::Instant;

const SAY: &str = "/probe.v1.Probe/Say";
const MS: Duration = Duration::from_millis(1);
const LONG: Duration = Duration::from_secs(5);

fn order(text: &str) -> Order {
    Order { text: text.into(), ..Order::default() }
}

async fn say(probe: &ProbeClient) -> Result<String, Error> {
    probe.say(order("hi")).timeout(LONG).await.map(|report| report.text.clone())
}

async fn drain(mut stream: Streaming<Report>) -> (usize, Option<Code>) {
    let mut count = 0;
    loop {
        match stream.message().await {
            Ok(Some(_)) => count += 1,
            Ok(None) => return (count, None),
            Err(error) => return (count, Some(error.code())),
        }
    }
}

#[tokio::test(start_paused = true)]
async fn in_a_network_in_memory() {
    let (faults, network, prober) = (Faults::new(), Network::new(), Prober::new());
    let counts = prober.counts();
    network.serve("probe", prober);
    network.inject(&faults);
    let probe = ProbeClient::new(network.client("probe"));
    let meet = |fault| faults.calls().to("probe").method(SAY).meet(fault);
    assert_eq!(say(&probe).await.unwrap(), "hi");

    // What a caller sees, how long it takes, and whether the handler has seen it.
    let busy = Error::resource_exhausted("busy");
    let cases = [
        (Fault::Latency(300 * MS), None, 300, 1),
        (Fault::SlowBody(200 * MS), None, 200, 1),
        (Fault::Error(busy), Some(Code::ResourceExhausted), 0, 0),
        (Fault::Drop, Some(Code::DeadlineExceeded), 5_000, 0),
        (Fault::DropAnswer, Some(Code::DeadlineExceeded), 5_000, 1),
        (Fault::Refuse, Some(Code::Unavailable), 0, 0),
        (Fault::Reset, Some(Code::Unavailable), 0, 0),
        (Fault::ResetAnswer, Some(Code::Unavailable), 0, 1),
        (Fault::Break(0), Some(Code::Unavailable), 0, 1),
    ];
    for (fault, code, millis, began) in cases {
        let rule = meet(fault.clone());
        let (before, clock) = (counts.began(), Instant::now());
        let outcome = say(&probe).await;
        assert_eq!(outcome.as_ref().err().map(Error::code), code, "{fault:?}");
        let took = clock.elapsed();
        assert!((millis * MS..(millis + 5) * MS).contains(&took), "{fault:?}: {took:?}");
        assert_eq!(counts.began() - before, began, "{fault:?}");
        assert_eq!(rule.happened(), 1, "{fault:?}");
        let unsent = outcome.is_err_and(|error| error.is_unsent());
        assert_eq!(unsent, matches!(fault, Fault::Refuse), "{fault:?}");
    }

    let count = |number| probe.count(Order { number, ..Order::default() });
    faults.calls().to("probe").meet(Fault::Break(3));
    assert_eq!(drain(count(9).await.unwrap().into_message()).await, (3, Some(Code::Unavailable)));
    faults.calls().to("probe").meet(Fault::SlowBody(100 * MS));
    let clock = Instant::now();
    assert_eq!(drain(count(5).await.unwrap().into_message()).await, (5, None));
    assert_eq!(clock.elapsed().as_millis() / 100, 5);
}

#[tokio::test(start_paused = true)]
async fn names_are_parted_and_joined() {
    let (faults, network) = (Faults::new(), Network::new());
    network.serve("probe", Prober::new());
    network.inject(&faults);
    let order = ProbeClient::new(network.client_of("order", "probe"));
    let web = ProbeClient::new(network.client_of("web", "probe"));
    faults.part("order", "probe");
    assert_eq!(say(&order).await.unwrap_err().code(), Code::DeadlineExceeded);
    let seen = web.say(Order::default()).await.unwrap();
    assert!(seen.seen.metadata.keys().all(|name| !name.contains("formic-testing")), "{:?}", seen.seen);
    assert_eq!(faults.happened(), 1);
    let waiting = tokio::task::spawn({
        let order = order.clone();
        async move { say(&order).await }
    });
    tokio::time::sleep(100 * MS).await;
    faults.join("order", "probe");
    assert_eq!(waiting.await.unwrap().unwrap(), "hi", "what waited comes through");
    say(&order).await.unwrap();
    // A caller of one's own that is no part of the network.
    let direct = ProbeClient::new(faults.between("cron", "probe", &network.client("probe")));
    faults.calls().from("cron").meet(Fault::Drop);
    assert_eq!(say(&direct).await.unwrap_err().code(), Code::DeadlineExceeded);
    say(&direct).await.unwrap();
}

fn server(prober: &Prober) -> Server {
    let server = Server::new(Config::default(), Metrics::new());
    server.serve(Arc::new(ProbeServer::new(prober.clone()))).unwrap()
}

#[tokio::test]
async fn on_a_real_server_and_around_a_real_client() {
    let (faults, prober) = (Faults::new(), Prober::new());
    let transient = Transient::start(server(&prober).intercept(faults.server("probe"))).await;
    let slow = faults.calls().to("probe").meet(Fault::Latency(30 * MS));
    let interceptors = vec![faults.client("order")];
    let config = ClientConfig { interceptors, transport: transport(), ..ClientConfig::default() };
    let client = Client::without_registry(config);
    let probe = ProbeClient::new(client.at(transient.addr().into()));
    let clock = Instant::now();
    say(&probe).await.unwrap();
    assert!(clock.elapsed() >= 30 * MS && slow.happened() == 1);

    let failed = faults.calls().to("probe").meet(Fault::Error(Error::aborted("as ordered")));
    assert_eq!(say(&probe).await.unwrap_err().code(), Code::Aborted);
    let refused = faults.calls().from("order").method(SAY).times(2).meet(Fault::Refuse);
    let began = prober.counts().began();
    for _ in 0..2 {
        assert!(say(&probe).await.unwrap_err().is_unsent());
    }
    say(&probe).await.unwrap();
    assert_eq!((failed.happened(), refused.happened(), prober.counts().began()), (1, 2, began + 1));
    transient.stop(LONG).await;
}

/// A client of its own, and so with connections of its own.
fn probe_at(transient: &Transient, config: ClientConfig) -> ProbeClient {
    let config = ClientConfig { connections: 1, transport: transport(), ..config };
    ProbeClient::new(Client::without_registry(config).at(transient.addr().into()))
}

#[tokio::test]
async fn between_names_on_a_real_server_and_a_real_client() {
    let (faults, prober) = (Faults::new(), Prober::new());
    let transient = Transient::start(server(&prober).intercept(faults.server("probe"))).await;
    let caller = |name| {
        probe_at(
            &transient,
            ClientConfig { interceptors: vec![faults.client(name)], ..ClientConfig::default() },
        )
    };
    let (order, web) = (caller("order"), caller("web"));
    let aborted = Fault::Error(Error::aborted("as ordered"));
    let rule = faults.calls().from("order").to("probe").always().meet(aborted);
    assert_eq!(say(&order).await.unwrap_err().code(), Code::Aborted);
    let seen = web.say(Order::default()).await.unwrap();
    assert!(seen.seen.metadata.keys().all(|name| !name.contains("formic-testing")), "{:?}", seen.seen);
    rule.stop();
    assert_eq!(rule.happened(), 1);

    faults.part("order", "probe");
    let soon = Duration::from_secs(1);
    let began = prober.counts().began();
    let error = order.say(Order::default()).timeout(soon).await.unwrap_err();
    assert_eq!((error.code(), prober.counts().began()), (Code::DeadlineExceeded, began));
    assert!(faults.has_held("order", "probe"));
    say(&web).await.unwrap();
    faults.join("order", "probe");
    say(&order).await.unwrap();
    transient.stop(LONG).await;
}

#[tokio::test]
async fn on_the_transport_of_a_real_client() {
    let (faults, prober) = (Faults::new(), Prober::new());
    // Servers that know nothing of it.
    let (one, other) = (Transient::start(server(&prober)).await, Transient::start(server(&prober)).await);
    faults.name(&one.addr().into(), "probe");
    let to = |transient| {
        let connector = Some(faults.transport("order"));
        probe_at(transient, ClientConfig { connector, ..ClientConfig::default() })
    };
    let refused = faults.calls().from("order").to("probe").always().meet(Fault::Refuse);
    assert_eq!(say(&to(&one)).await.unwrap_err().code(), Code::Unavailable);
    assert_eq!((say(&to(&other)).await.unwrap(), prober.counts().began()), ("hi".into(), 1));
    refused.stop();
    assert!(refused.happened() > 0);
    // One without a name is called by its address.
    let address = other.addr().to_string();
    let reset = faults.calls().to(&address).always().meet(Fault::Reset);
    assert_eq!(say(&to(&other)).await.unwrap_err().code(), Code::Unavailable);
    reset.stop();

    // A connection that is there falls silent, and speaks again.
    let (probe, free) = (to(&one), to(&other));
    say(&probe).await.unwrap();
    let began = prober.counts().began();
    faults.part("order", "probe");
    let error = probe.say(order("hi")).timeout(Duration::from_secs(1)).await.unwrap_err();
    assert_eq!((error.code(), prober.counts().began()), (Code::DeadlineExceeded, began));
    say(&free).await.unwrap();
    faults.join("order", "probe");
    say(&probe).await.unwrap();
    assert!(faults.has_held("order", "probe") && reset.happened() > 0);
}

#[tokio::test]
async fn on_connections_of_any_client() {
    let (faults, prober) = (Faults::new(), Prober::new());
    let transient = Transient::start(server(&prober)).await;
    let relay = faults.relay("order", "probe", transient.addr()).await;
    // Each with connections of its own.
    let fresh = || {
        let config = ClientConfig { connections: 1, transport: transport(), ..ClientConfig::default() };
        let client = Client::without_registry(config);
        ProbeClient::new(client.at(relay.addr().into()))
    };
    let soon = Duration::from_secs(1);
    assert_eq!(say(&fresh()).await.unwrap(), "hi");

    faults.calls().to("probe").meet(Fault::Latency(20 * MS));
    let (probe, clock) = (fresh(), Instant::now());
    say(&probe).await.unwrap();
    assert!(clock.elapsed() >= 40 * MS, "both ways: {:?}", clock.elapsed());

    for fault in [Fault::Drop, Fault::DropAnswer] {
        let rule = faults.calls().to("probe").always().meet(fault.clone());
        let error = fresh().say(order("hi")).timeout(soon).await.unwrap_err();
        assert!(matches!(error.code(), Code::DeadlineExceeded | Code::Unavailable), "{fault:?}: {error:?}");
        assert!(rule.happened() > 0);
        rule.stop();
    }
    for fault in [Fault::Reset, Fault::ResetAnswer, Fault::Break(40)] {
        let rule = faults.calls().from("order").to("probe").always().meet(fault.clone());
        let error = say(&fresh()).await.unwrap_err();
        assert_eq!(error.code(), Code::Unavailable, "{fault:?}: {error:?}");
        rule.stop();
    }
    let slow = faults.calls().to("probe").meet(Fault::SlowBody(2 * MS));
    let probe = fresh();
    let clock = Instant::now();
    let report = probe.say(Order { data: vec![7; 1 << 10], ..Order::default() }).timeout(LONG).await.unwrap();
    assert_eq!(report.data.len(), 1 << 10, "slow and whole");
    assert!(clock.elapsed() >= 32 * MS && slow.happened() == 1, "{:?}", clock.elapsed());

    // A connection that is there falls silent, and speaks again.
    let probe = fresh();
    say(&probe).await.unwrap();
    faults.part("order", "probe");
    let error = probe.say(order("hi")).timeout(soon).await.unwrap_err();
    assert_eq!(error.code(), Code::DeadlineExceeded);
    faults.join("order", "probe");
    say(&probe).await.unwrap();

    // Or breaks, and is made again.
    let hanging = tokio::task::spawn({
        let probe = probe.clone();
        let hang = Order { action: formic_probe::Action::ACTION_HANG.into(), ..Order::default() };
        async move { probe.say(hang).timeout(LONG).await.map(drop) }
    });
    wait_until("the call to be with its handler", LONG, || prober.counts().busy() == 1).await;
    let connections = relay.connections();
    relay.cut();
    assert_eq!(hanging.await.unwrap().unwrap_err().code(), Code::Unavailable);
    say(&probe).await.unwrap();
    assert_eq!(relay.connections(), connections + 1);
}

/// As the documentation shows it.
#[tokio::test(start_paused = true)]
async fn between_processes_that_are_found_balanced_and_lost() {
    let (faults, fabric) = (Faults::new(), Fabric::new());
    fabric.inject(&faults);
    let _first = fabric.serve("probe", Prober::new()).await;
    let second = fabric.serve("probe", Prober::new()).await;
    let probe = ProbeClient::new(fabric.client("order").of("probe"));
    let lost = faults.calls().to("probe").times(1).meet(Fault::Reset);
    for _ in 0..20 {
        assert_eq!(probe.get(order("hi")).await.unwrap().text, "hi");
    }
    assert_eq!(lost.happened(), 1);
    drop(second);
    for _ in 0..20 {
        assert_eq!(probe.get(order("hi")).await.unwrap().text, "hi");
    }
}
