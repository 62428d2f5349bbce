//! The policy at work: rules, ejection, hedging, replacement while calls run, and what people see of it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use formic_balance::traffic::{Budget, Ejection, Filter, Retry, Rule};
use formic_client::{Algorithm, Client, Config, State, Traffic};
use formic_core::{Code, Error, ServiceName, Shed};
use formic_registry::{Memory, Registry};
use formic_rpc::{Answer, BoxFuture, Call, Channel, Handle};
use formic_telemetry::Metrics;
use tokio::sync::Semaphore;

use crate::server::*;

const MS: Duration = Duration::from_millis(1);

pub(crate) fn echo() -> ServiceName {
    ServiceName::new("echo").unwrap()
}

/// So many servers behind one name, each a version of its own.
struct Rig {
    servers: Vec<Server>,
    registry: Memory,
    client: Client,
    channel: Channel,
}

async fn rig(servers: usize, traffic: Traffic) -> Rig {
    let registry = Memory::new();
    let mut all = Vec::new();
    for n in 0..servers {
        let server = Server::start(&Echo::new()).await;
        let mut instance = instance(&format!("i{n}"), server.endpoint.clone());
        instance.version = (n + 1).to_string();
        registry.register(instance, Duration::from_secs(600)).await.unwrap();
        all.push(server);
    }
    let client = Client::new(Arc::new(registry.clone()), Config { traffic, ..Config::default() });
    let channel = client.of("echo");
    channel.call(call_of(SAY, "x")).await.unwrap();
    let rig = Rig { servers: all, registry, client, channel };
    until("every instance to be known", || rig.client.traffic(&echo()).endpoints.len() == servers).await;
    rig
}

impl Rig {
    fn calls(&self) -> Vec<usize> {
        self.servers.iter().map(|server| server.echo.calls()).collect()
    }

    fn state(&self, n: usize) -> State {
        self.client.traffic(&echo()).endpoints[n].state
    }
}

pub(crate) fn only(version: &str) -> Traffic {
    let rule = Rule {
        name: "only".into(),
        when: BTreeMap::from([("x-user".into(), "beta".into())]),
        to: Filter { version: Some(version.into()), ..Filter::default() },
        ..Rule::default()
    };
    Traffic { rules: vec![rule], policy: Algorithm::RoundRobin, ..Traffic::default() }
}

#[tokio::test]
async fn a_header_chooses_the_version_and_the_policy_changes_while_calls_run() {
    let rig = rig(3, only("2")).await;
    let beta = || {
        let mut call = call_of(SAY, "x");
        call.metadata.insert("x-user", "beta").unwrap();
        rig.channel.call(call)
    };
    let before = rig.calls();
    for _ in 0..9 {
        beta().await.unwrap();
    }
    assert_eq!(rig.calls()[1] - before[1], 9);
    // Calls from several sides, while the policy changes under them: none is lost.
    let stop = Arc::new(AtomicBool::new(false));
    let load: Vec<_> = (0..4)
        .map(|_| {
            let (channel, stop) = (rig.channel.clone(), Arc::clone(&stop));
            tokio::spawn(async move {
                while !stop.load(Ordering::Relaxed) {
                    channel.call(call_of(SAY, "x")).await.unwrap();
                }
            })
        })
        .collect();
    for turn in 0..60 {
        let policy = Algorithm::ALL[turn % 5];
        rig.client.set_traffic(&echo(), Traffic { policy, ..only(["1", "3"][turn % 2]) }).unwrap();
        tokio::time::sleep(2 * MS).await;
    }
    stop.store(true, Ordering::Relaxed);
    for task in load {
        within("the load to end", task).await.expect("no call failed");
    }
    let before = rig.calls();
    for _ in 0..9 {
        beta().await.unwrap();
    }
    assert_eq!(rig.calls()[2] - before[2], 9, "the last policy sends them to version 3");
}

#[tokio::test]
async fn a_rule_that_matches_nobody_is_seen_and_a_strict_one_fails_its_calls() {
    let mut traffic = only("9");
    let rig = rig(2, traffic.clone()).await;
    let beta = || {
        let mut call = call_of(SAY, "x");
        call.metadata.insert("x-user", "beta").unwrap();
        rig.channel.call(call)
    };
    beta().await.unwrap();
    let notes = rig.client.traffic(&echo()).notes;
    assert_eq!(notes, ["rule \"only\": no instance has version \"9\", so the rule is passed over"]);
    traffic.rules[0].strict = true;
    rig.client.set_traffic(&echo(), traffic).unwrap();
    let error = beta().await.unwrap_err();
    assert_eq!((error.code(), error.is_unsent()), (Code::Unavailable, true));
    assert!(error.message().contains("\"only\""), "{error}");
    rig.channel.call(call_of(SAY, "x")).await.unwrap();
    // A client's first call, which waits for the registry, is told the same.
    let mut traffic = only("9");
    (traffic.rules[0].strict, traffic.rules[0].when) = (true, BTreeMap::new());
    let client = Client::new(Arc::new(rig.registry.clone()), Config { traffic, ..Config::default() });
    let error = client.of("echo").call(call_of(SAY, "x")).await.unwrap_err();
    assert!(error.is_unsent() && error.message().contains("\"only\""), "{error}");
}

#[tokio::test]
async fn a_policy_that_is_not_valid_changes_nothing_and_says_everything() {
    let rig = rig(1, Traffic::default()).await;
    let wrong = Traffic { policy: Algorithm::Hash, subset: Some(0), ..Traffic::default() };
    let invalid = rig.client.set_traffic(&echo(), wrong.clone()).unwrap_err();
    assert_eq!(invalid.0.len(), 2, "{invalid}");
    assert_eq!(rig.client.traffic(&echo()).policy, Traffic::default());
    // Given in code it fails the calls, and says why.
    let client = Client::without_registry(Config { traffic: wrong, ..Config::default() });
    for channel in [client.of("echo"), client.at(rig.servers[0].endpoint.clone())] {
        let error = channel.call(call_of(SAY, "x")).await.unwrap_err();
        assert_eq!(error.code(), Code::FailedPrecondition);
        assert!(error.message().contains("subset: expected at least 1"), "{error}");
    }
}

#[tokio::test]
async fn a_failing_endpoint_is_ejected_told_of_and_comes_back() {
    // A wait that a test can wait for, and that some calls of a busy machine fit into.
    let ejection = Ejection { min_wait: 2_000 * MS, max_wait: 2_000 * MS, ..Ejection::default() };
    let traffic = Traffic { ejection, policy: Algorithm::RoundRobin, ..Traffic::default() };
    let rig = rig(2, traffic).await;
    rig.servers[0].echo.fail_next((0..1_000).map(|_| Error::internal("broken")));
    let mut failed = 0;
    while rig.state(0) != State::Ejected {
        failed += usize::from(rig.channel.call(call_of(SAY, "x")).await.is_err());
        assert!(failed <= 10, "it is not ejected");
    }
    let view = &rig.client.traffic(&echo()).endpoints[0];
    assert!(view.reason.as_deref().unwrap().contains("calls failed"), "{view:?}");
    assert_eq!(failed, 5);
    let before = rig.calls();
    for _ in 0..20 {
        rig.channel.call(call_of(SAY, "x")).await.unwrap();
    }
    assert_eq!(rig.calls()[0], before[0], "it is left alone");
    // Healed, it is found out by calls that may be lost, and gets its share again.
    rig.servers[0].echo.script.lock().unwrap().clear();
    within("it to be back", async {
        while rig.state(0) == State::Ejected {
            rig.channel.call(call_of(GET, "x")).await.unwrap();
            tokio::time::sleep(5 * MS).await;
        }
    })
    .await;
    assert!(matches!(rig.state(0), State::Warming | State::Suspect), "{:?}", rig.state(0));
}

#[tokio::test]
async fn an_ejection_ends_by_hand() {
    let rig = rig(2, Traffic { policy: Algorithm::RoundRobin, ..Traffic::default() }).await;
    rig.servers[1].echo.fail_next((0..5).map(|_| Error::internal("broken")));
    while rig.state(1) != State::Ejected {
        let _ = rig.channel.call(call_of(SAY, "x")).await;
    }
    assert!(rig.client.readmit(&echo(), "i1"));
    assert!(!rig.client.readmit(&echo(), "nobody"));
    assert_eq!(rig.state(1), State::Warming);
}

#[tokio::test]
async fn what_happens_to_traffic_is_counted() {
    let traffic = Traffic {
        policy: Algorithm::RoundRobin,
        // One further attempt, and no more.
        budget: Budget { ratio: 0.0, per_second: 1, window: 1_000 * MS },
        ..Traffic::default()
    };
    let (rig, metrics) = (rig(2, Traffic::default()).await, Metrics::new());
    let config = Config { traffic, observer: Some(Arc::new(metrics.clone())), ..Config::default() };
    let client = Client::new(Arc::new(rig.registry.clone()), config);
    let channel = client.of("echo");
    channel.call(call_of(SAY, "x")).await.unwrap();
    rig.servers[0].echo.fail_next((0..1_000).map(|_| Error::unavailable("broken")));
    let is_out = || client.traffic(&echo()).endpoints[0].state == State::Ejected;
    for _ in 0..100 {
        let _ = channel.call(call_of(GET, "x")).await;
    }
    assert!(is_out());
    assert!(client.readmit(&echo(), rig.servers[0].endpoint.to_string()) && !is_out());
    let text = metrics.render();
    for (name, least) in [("ejections", 1), ("returns", 1), ("retries", 1), ("budget_exhausted", 1)] {
        let line = format!("formic_client_{name}_total{{service=\"echo\"}} ");
        let (_, rest) = text.split_once(&line).unwrap_or_else(|| panic!("{line} is not in {text}"));
        let count: u32 = rest.lines().next().unwrap().parse().unwrap();
        assert!(count >= least, "{name}: {count}");
    }
    assert!(!text.contains("formic_client_hedges_total{"), "nothing is hedged");
}

#[tokio::test]
async fn who_left_is_seen_until_its_last_call_is_over() {
    let registry = Memory::new();
    let (held, gate) = (Echo::new(), Arc::new(Semaphore::new(0)));
    let handle = Held(Service(Arc::clone(&held)), Arc::clone(&gate));
    let server = Server::start_with(&held, handle).await;
    let other = Server::start(&Echo::new()).await;
    register(&registry, "one", &server.endpoint).await;
    let config = Config { timeout: 60_000 * MS, ..Config::default() };
    let client = Client::new(Arc::new(registry.clone()), config);
    let mut call = std::pin::pin!(client.of("echo").call(call_of(SAY, "x")));
    let states = || -> Vec<(String, State, u32)> {
        let all = client.traffic(&echo()).endpoints.into_iter();
        all.map(|one| (one.instance, one.state, one.in_flight)).collect()
    };
    let left = async {
        until("the call to be on its way", || states() == [("one".into(), State::Ready, 1)]).await;
        register(&registry, "other", &other.endpoint).await;
        registry.deregister(&formic_core::InstanceId::new("one")).await.unwrap();
        until("the one to be seen as leaving", || {
            states().iter().any(|one| *one == ("one".into(), State::Draining, 1)) && states().len() == 2
        })
        .await;
    };
    tokio::select! {
        answer = &mut call => panic!("{answer:?}"),
        () = left => {}
    }
    gate.add_permits(1);
    assert_eq!(text(within("an answer", call).await.unwrap()), "x");
    assert_eq!(states().len(), 1);
}

#[tokio::test]
async fn a_rejection_with_push_back_is_no_failure() {
    let rig = rig(2, Traffic { policy: Algorithm::RoundRobin, ..Traffic::default() }).await;
    let busy = || Error::resource_exhausted("busy").with_retry_after(60_000 * MS);
    rig.servers[0].echo.fail_next((0..50).map(|_| busy()));
    for _ in 0..60 {
        let _ = rig.channel.call(call_of(SAY, "x")).await;
    }
    let view = &rig.client.traffic(&echo()).endpoints[0];
    assert_eq!(view.state, State::Ready, "{view:?}");
    assert!(view.latency_ms > 1_000.0, "but it counts as slow: {view:?}");
}

/// Holds its calls until it is let go on.
struct Held(Service, Arc<Semaphore>);

impl Handle for Held {
    fn method(&self, path: &str) -> Option<formic_core::Method> {
        self.0.method(path)
    }

    fn services(&self) -> Vec<formic_core::RpcService> {
        self.0.services()
    }

    fn call(&self, call: Call) -> BoxFuture<'static, Result<Answer, Error>> {
        let (inner, gate) = (self.0.call(call), Arc::clone(&self.1));
        Box::pin(async move {
            let _let_go = gate.acquire_owned().await;
            inner.await
        })
    }
}

#[tokio::test]
async fn a_shed_call_goes_elsewhere_at_once_where_it_may() {
    let rig = rig(2, Traffic { policy: Algorithm::RoundRobin, ..Traffic::default() }).await;
    for server in &rig.servers {
        server.echo.fail_next([Error::shed(Shed::InFlight, "busy", 60_000 * MS)]);
        let began = std::time::Instant::now();
        // Whichever it meets first, the other answers.
        for _ in 0..2 {
            assert_eq!(text(rig.channel.call(call_of(GET, "x")).await.unwrap()), "x");
        }
        assert!(began.elapsed() < 5_000 * MS, "the wait was the other's");
    }
    let marked = |server: &Server| server.echo.attempts().iter().filter(|attempt| attempt.is_some()).count();
    assert_eq!(rig.servers.iter().map(marked).sum::<usize>(), 2);
    rig.servers[0].echo.fail_next([Error::shed(Shed::Rate, "your quota", 60_000 * MS)]);
    let outcomes = [rig.channel.call(call_of(GET, "x")).await, rig.channel.call(call_of(GET, "x")).await];
    assert_eq!(outcomes.iter().filter(|outcome| outcome.is_err()).count(), 1, "a quota is the caller's");
}

#[tokio::test]
async fn a_panic_is_seen_and_counted() {
    let registry = Memory::new();
    let mut servers = Vec::new();
    for n in 0..3 {
        let server = Server::start(&Echo::new()).await;
        register(&registry, &format!("i{n}"), &server.endpoint).await;
        servers.push(server);
    }
    let metrics = Metrics::new();
    // With one of three out, that is.
    let ejection =
        Ejection { panic: 0.9, min_wait: 60_000 * MS, max_wait: 60_000 * MS, ..Ejection::default() };
    let traffic = Traffic { policy: Algorithm::RoundRobin, ejection, ..Traffic::default() };
    let config = Config { traffic, observer: Some(Arc::new(metrics.clone())), ..Config::default() };
    let client = Client::new(Arc::new(registry), config);
    let channel = client.of("echo");
    channel.call(call_of(SAY, "x")).await.unwrap();
    let view = client.traffic(&echo());
    assert_eq!((view.panic, view.fit, view.counted), (false, 3, 3));
    servers[0].echo.fail_next((0..5).map(|_| Error::internal("broken")));
    for _ in 0..60 {
        let _ = channel.call(call_of(SAY, "x")).await;
    }
    assert_eq!(client.traffic(&echo()).endpoints[0].state, State::Ejected);
    let view = client.traffic(&echo());
    let note = "panic: 2 of 3 instances are in, so those that are ejected get calls, too";
    assert!(view.panic && view.notes == [note], "{view:?}");
    assert_eq!((view.fit, view.counted), (2, 3));
    let before = servers[0].echo.calls();
    for _ in 0..6 {
        channel.call(call_of(SAY, "x")).await.unwrap();
    }
    assert!(servers[0].echo.calls() > before, "and it does get calls");
    let counted = || metrics.render().contains("formic_client_panics_total{service=\"echo\"} 1");
    until("the panic to be counted", counted).await;
}

#[tokio::test]
async fn a_push_back_holds_where_the_call_may_not_go_elsewhere() {
    let strict = |mut traffic: Traffic| {
        traffic.rules[0].strict = true;
        traffic.rules[0].when.clear();
        traffic
    };
    // By a strict rule, and within a subset.
    for traffic in [strict(only("2")), Traffic { subset: Some(1), ..Traffic::default() }] {
        let rig = rig(2, traffic).await;
        let calls = rig.calls();
        let chosen = &rig.servers[usize::from(calls[1] > calls[0])].echo;
        let before = chosen.calls();
        chosen.fail_next([Error::shed(Shed::InFlight, "busy", 300 * MS)]);
        let began = std::time::Instant::now();
        assert_eq!(text(rig.channel.call(call_of(GET, "x")).await.unwrap()), "x");
        assert!(began.elapsed() >= 300 * MS, "it was asked again after {:?}", began.elapsed());
        assert_eq!(chosen.calls() - before, 2);
        // Nobody waits for so long, and so it is not asked again.
        chosen.fail_next([Error::shed(Shed::InFlight, "busy", 60_000 * MS)]);
        rig.channel.call(call_of(GET, "x")).await.unwrap_err();
        assert_eq!(chosen.calls() - before, 3);
    }
}

#[tokio::test]
async fn a_rejection_from_further_down_is_repeated_at_no_level_and_charged_to_nobody_between() {
    let rig = rig(2, Traffic { policy: Algorithm::RoundRobin, ..Traffic::default() }).await;
    let last = Server::start(&Echo::new()).await;
    for server in &rig.servers {
        let next = Client::without_registry(Config::default()).at(last.endpoint.clone());
        *server.echo.next.lock().unwrap() = Some(next);
    }
    let before = rig.calls();
    for reason in [Shed::InFlight, Shed::QueueFull, Shed::Rate] {
        last.echo.fail_next([Error::shed(reason, "busy", 60_000 * MS)]);
        let error = rig.channel.call(call_of(RELAY.idempotent(true), "")).await.unwrap_err();
        assert_eq!((error.shed_reason(), error.retry_after()), (Some(reason), Some(60_000 * MS)));
    }
    let calls: usize = rig.calls().iter().zip(before).map(|(after, before)| after - before).sum();
    assert_eq!((calls, last.echo.calls()), (3, 3), "who asked for a minute was asked again");
    for view in rig.client.traffic(&echo()).endpoints {
        assert!(view.state == State::Ready && view.latency_ms < 1_000.0, "it is no fault of {view:?}");
    }
}

#[tokio::test]
async fn an_ejected_one_is_forgotten_neither_by_a_new_policy_nor_by_a_new_instance() {
    let rig = rig(3, Traffic { policy: Algorithm::RoundRobin, ..Traffic::default() }).await;
    rig.servers[0].echo.fail_next((0..1_000).map(|_| Error::internal("broken")));
    while rig.state(0) != State::Ejected {
        let _ = rig.channel.call(call_of(SAY, "x")).await;
    }
    rig.client.set_traffic(&echo(), Traffic { policy: Algorithm::Random, ..Traffic::default() }).unwrap();
    assert_eq!(rig.state(0), State::Ejected);
    let another = Server::start(&Echo::new()).await;
    register(&rig.registry, "i3", &another.endpoint).await;
    until("the new one to be known", || rig.client.traffic(&echo()).endpoints.len() == 4).await;
    assert_eq!(rig.state(0), State::Ejected);
    assert_eq!(rig.state(3), State::Warming);
}

#[tokio::test]
async fn codes_that_are_repeated_are_a_matter_of_policy() {
    let retry = Retry { codes: vec![Code::Internal], ..Retry::default() };
    let rig = rig(1, Traffic { retry, ..Traffic::default() }).await;
    rig.servers[0].echo.fail_next([Error::internal("a hiccup")]);
    assert_eq!(text(rig.channel.call(call_of(GET, "x")).await.unwrap()), "x");
    rig.servers[0].echo.fail_next([Error::unavailable("not now")]);
    assert!(rig.channel.call(call_of(GET, "x")).await.is_err());
}

#[tokio::test]
async fn a_view_survives_its_way_through_json() {
    let rig = rig(2, only("2")).await;
    assert_eq!(rig.client.services(), [echo()]);
    let view = rig.client.traffic(&echo());
    assert_eq!((view.service.as_str(), view.local, view.endpoints[1].version.as_str()), ("echo", false, "2"));
    let json = serde_json::to_string(&view).unwrap();
    assert_eq!(serde_json::from_str::<formic_client::TrafficView>(&json).unwrap().endpoints.len(), 2);
}
