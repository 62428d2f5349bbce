//! What happens between processes, without processes and on a paused clock: real clients and real servers,
//! with memory for sockets.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use formic_balance::traffic::Hash;
use formic_balance::{Algorithm, Traffic};
use formic_client::{Client, Config as ClientConfig, Observer, Protocol, Report};
use formic_core::{Code, Instance, InstanceId, ServiceName, Shed};
use formic_probe::{Action, Order, ProbeClient, ProbeServer, Prober};
use formic_registry::{Memory, Registry};
use formic_server::{Config, Running, Server, Serving};
use formic_telemetry::Metrics;
use formic_testing::{Fabric, Fault, Faults};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

const MS: Duration = Duration::from_millis(1);
const HOUR: Duration = Duration::from_secs(3600);

/// An application of one service with several instances, and its callers.
struct Fleet {
    fabric: Fabric,
    registry: Arc<Memory>,
    prober: Prober,
    next: usize,
    ended: Arc<Ended>,
}

/// Every call of a fleet's clients as it ended: when, who was asked, what went wrong, how often it was tried.
struct Ended {
    began: Instant,
    calls: Mutex<Vec<(Duration, String)>>,
}

impl Observer for Ended {
    fn on_call(&self, report: &Report<'_>) {
        let (path, endpoint) = (report.method.path(), report.endpoint.map(ToString::to_string));
        let Report { code, duration, attempts, .. } = report;
        let call = format!("{path} {endpoint:?} {code:?} {duration:?} {attempts}");
        self.calls.lock().unwrap().push((self.began.elapsed(), call));
    }
}

struct Replica {
    id: InstanceId,
    running: Running,
}

impl Fleet {
    fn new() -> Self {
        let ended = Arc::new(Ended { began: Instant::now(), calls: Mutex::default() });
        let (fabric, registry) = (Fabric::new(), Arc::new(Memory::new()));
        Self { fabric, registry, prober: Prober::new(), next: 0, ended }
    }

    async fn start(&mut self, config: Config) -> Replica {
        self.next += 1;
        let id = InstanceId::new(format!("probe-{}", self.next));
        let server = Server::new(config, Metrics::new());
        let server = server.serve(Arc::new(ProbeServer::new(self.prober.clone()))).unwrap();
        let mut running = server.build().unwrap();
        let endpoint = self.fabric.listen("probe", &mut running);
        running.health().set(Serving::Ready);
        let instance = Instance {
            id: id.clone(),
            service: ServiceName::new("probe").unwrap(),
            version: String::new(),
            endpoint,
            metadata: Default::default(),
            rpc: running.services().to_vec(),
        };
        self.registry.register(instance, HOUR).await.unwrap();
        Replica { id, running }
    }

    /// The stages of the drain, as a service goes through them.
    async fn stop(&self, replica: Replica) {
        replica.running.health().set(Serving::Draining);
        self.registry.deregister(&replica.id).await.unwrap();
        sleep(100 * MS).await;
        assert_eq!(replica.running.stop(Duration::from_secs(20)).await, 0, "calls were cut off");
    }

    fn client(&self, protocol: Protocol) -> Client {
        self.balanced(protocol, Traffic::default())
    }

    fn balanced(&self, protocol: Protocol, traffic: Traffic) -> Client {
        let connector = Some(self.fabric.connector("web"));
        // Wire deadlines are of the real clock; see `Fabric`.
        let transport = formic_testing::transport();
        let observer: Arc<dyn Observer> = self.ended.clone();
        let config = ClientConfig {
            connector,
            observer: Some(observer),
            protocol,
            transport,
            traffic,
            timeout: HOUR / 2,
            ..ClientConfig::default()
        };
        Client::new(self.registry.clone(), config)
    }
}

fn wait(millis: u64, number: u32) -> Order {
    Order { action: Action::ACTION_WAIT.into(), millis, number, ..Order::default() }
}

/// Callers who never stop; each counts what it got.
fn load(fleet: &Fleet, over: &Arc<AtomicBool>, done: &Arc<AtomicUsize>) -> JoinSet<Vec<String>> {
    balanced_load(fleet, &Traffic::default(), over, done)
}

fn balanced_load(
    fleet: &Fleet,
    traffic: &Traffic,
    over: &Arc<AtomicBool>,
    done: &Arc<AtomicUsize>,
) -> JoinSet<Vec<String>> {
    let mut callers = JoinSet::new();
    for number in 0..9_u64 {
        let protocol = if number % 2 == 0 { Protocol::Connect } else { Protocol::Grpc };
        // `Say` may not be repeated, so nothing here is saved by a repetition.
        let probe = ProbeClient::new(fleet.balanced(protocol, traffic.clone()).of("probe"));
        let (over, done) = (Arc::clone(over), Arc::clone(done));
        callers.spawn(async move {
            let mut failures = Vec::new();
            while !over.load(Ordering::Relaxed) {
                // Another one each time, for those who go by it.
                let user = format!("user-{}", done.load(Ordering::Relaxed));
                let outcome = if number % 3 == 0 {
                    stream(&probe, 20 + number, &user).await
                } else {
                    let call = probe.say(wait(20 + 3 * number, 0)).metadata("x-user", &user);
                    call.await.map(drop).map_err(|error| format!("{error:?}"))
                };
                match outcome {
                    Ok(()) => _ = done.fetch_add(1, Ordering::Relaxed),
                    Err(error) => failures.push(error),
                }
            }
            failures
        });
    }
    callers
}

async fn stream(probe: &ProbeClient, millis: u64, user: &str) -> Result<(), String> {
    let call = probe.count(wait(millis, 8)).metadata("x-user", user);
    let mut stream = call.await.map_err(|error| format!("{error:?}"))?.into_message();
    let mut count = 0;
    while let Some(report) = stream.message().await.map_err(|error| format!("after {count}: {error:?}"))? {
        assert_eq!(report.number, count);
        count += 1;
    }
    if count == 8 { Ok(()) } else { Err(format!("{count} of 8 messages, and a good end")) }
}

/// A scene once a seed, each on a clock of its own: what a paused clock is ahead by adds up, and the
/// deadlines of the wire are of the real one.
fn each_seed<F: Future<Output = ()>>(seeds: std::ops::Range<u64>, scene: impl Fn(u64) -> F) {
    seeds.for_each(|seed| play(seed, scene(seed)));
}

fn play<T>(seed: u64, scene: impl Future<Output = T>) -> T {
    let mut runtime = tokio::runtime::Builder::new_current_thread();
    let runtime = runtime.enable_all().start_paused(true).build().unwrap();
    fastrand::seed(seed);
    runtime.block_on(scene)
}

/// Five instances are replaced one after the other, twenty times, under load; not one call fails, whoever picks.
#[test]
fn rolling_restarts_lose_nothing() {
    // Many with the default, some with each of the others.
    let each = |policy: Algorithm| vec![policy; if policy == Algorithm::default() { 8 } else { 2 }];
    let policies: Vec<Algorithm> = Algorithm::ALL.into_iter().flat_map(each).collect();
    each_seed(0..policies.len() as u64, |seed| {
        let policy = policies[seed as usize];
        async move { drop(rolling(seed, policy, 20).await) }
    });
}

/// The same seed is the same scene: every call ends at the same moment, asked of the same instance.
#[test]
fn a_rolling_restart_is_its_seed_call_for_call() {
    let again = |seed| play(seed, rolling(seed, Algorithm::P2c, 4));
    let (first, second) = (again(3), again(3));
    if let Some((one, other)) = first.iter().zip(&second).find(|(one, other)| one != other) {
        panic!("{one:?}, and then {other:?}");
    }
    assert_eq!(first.len(), second.len());
    assert!(first.len() > 400, "{} calls", first.len());
    assert_ne!(first, again(4), "another seed is another scene");
}

async fn rolling(seed: u64, policy: Algorithm, restarts: usize) -> Vec<(Duration, String)> {
    let hash = (policy == Algorithm::Hash).then(|| Hash { key: "x-user".into(), bound: 1.25 });
    let traffic = Traffic { policy, hash, ..Traffic::default() };
    let mut fleet = Fleet::new();
    let mut replicas = std::collections::VecDeque::new();
    for _ in 0..5 {
        replicas.push_back(fleet.start(Config::default()).await);
    }
    let (over, done) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let callers = balanced_load(&fleet, &traffic, &over, &done);
    sleep(200 * MS).await;
    for _ in 0..restarts {
        for _ in 0..5 {
            let before = done.load(Ordering::Relaxed);
            replicas.push_back(fleet.start(Config::default()).await);
            let old = replicas.pop_front().unwrap();
            fleet.stop(old).await;
            assert!(done.load(Ordering::Relaxed) > before, "there was no load");
        }
    }
    over.store(true, Ordering::Relaxed);
    let failures: Vec<String> = callers.join_all().await.concat();
    assert!(failures.is_empty(), "{policy:?}, seed {seed}: {} failed: {:?}", failures.len(), &failures[..1]);
    let done = done.load(Ordering::Relaxed);
    assert!(done > 100 * restarts, "{policy:?}, seed {seed}: {done} calls are no load");
    assert_eq!(fleet.prober.counts().dropped(), 0, "{policy:?}, seed {seed}");
    fleet.ended.calls.lock().unwrap().clone()
}

/// The same without a drain shows: so the scene above does not pass for nothing.
#[tokio::test(start_paused = true)]
async fn restarts_without_a_drain_lose_calls() {
    fastrand::seed(0);
    let mut fleet = Fleet::new();
    let mut replicas = std::collections::VecDeque::new();
    for _ in 0..5 {
        replicas.push_back(fleet.start(Config::default()).await);
    }
    let (over, done) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let callers = load(&fleet, &over, &done);
    sleep(200 * MS).await;
    for _ in 0..5 {
        replicas.push_back(fleet.start(Config::default()).await);
        let old = replicas.pop_front().unwrap();
        fleet.registry.deregister(&old.id).await.unwrap();
        drop(old.running);
        sleep(100 * MS).await;
    }
    over.store(true, Ordering::Relaxed);
    let failures: Vec<String> = callers.join_all().await.concat();
    assert!(!failures.is_empty(), "{} calls, none lost", done.load(Ordering::Relaxed));
}

/// The same without the courtesy of deregistering first: clients learn of it by GOAWAY alone.
#[tokio::test(start_paused = true)]
async fn a_drain_without_a_word_to_the_registry_loses_nothing() {
    fastrand::seed(9);
    let mut fleet = Fleet::new();
    let _stays = fleet.start(Config::default()).await;
    let (over, done) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let callers = load(&fleet, &over, &done);
    for _ in 0..20 {
        let goes = fleet.start(Config::default()).await;
        sleep(300 * MS).await;
        assert_eq!(goes.running.stop(Duration::from_secs(20)).await, 0);
        fleet.registry.deregister(&goes.id).await.unwrap();
    }
    over.store(true, Ordering::Relaxed);
    let failures: Vec<String> = callers.join_all().await.concat();
    assert!(failures.is_empty(), "{} failed: {:?}", failures.len(), &failures[..1]);
}

/// Connections break by chance, in every way there is; calls that may be repeated are, and the caller sees
/// little of it.
#[tokio::test(start_paused = true)]
async fn broken_connections_are_made_good_where_that_is_safe() {
    for seed in 0..3 {
        fastrand::seed(seed);
        let (mut fleet, faults) = (Fleet::new(), Faults::seeded(seed));
        let _replicas = [fleet.start(Config::default()).await, fleet.start(Config::default()).await];
        fleet.fabric.inject(&faults);
        for fault in [Fault::Refuse, Fault::Reset, Fault::ResetAnswer, Fault::Latency(30 * MS)] {
            faults.calls().from("web").to("probe").chance(0.1).meet(fault);
        }
        let (mut failed, calls) = (0, 400);
        for _ in 0..calls {
            // A client of its own has connections of its own, each with its chance of a fault.
            let probe = ProbeClient::new(fleet.client(Protocol::Connect).of("probe"));
            if let Err(error) = probe.get(Order::default()).await {
                assert_eq!(error.code(), Code::Unavailable, "{error:?}");
                failed += 1;
            }
        }
        assert!(faults.happened() > 80, "{}", faults.happened());
        // One connection in six breaks under its call; two in a row, one in thirty, and a refusal takes a try too.
        assert!(failed < calls / 8, "seed {seed}: {failed} of {calls}");
    }
}

/// Twice the capacity over real connections: what is answered is answered in time, and refusals say what
/// they are to a client that balances.
#[tokio::test(start_paused = true)]
async fn an_overloaded_server_is_told_from_a_broken_one_by_its_clients() {
    fastrand::seed(4);
    let mut fleet = Fleet::new();
    let mut config = Config::default();
    config.overload.min_in_flight = 8;
    let free = Arc::new(tokio::sync::Semaphore::new(8));
    // Eight workers within the one server; the probe itself would answer any number at a time.
    let workers = Arc::clone(&free);
    let queue = move |call: formic_rpc::Call, next: formic_rpc::Next| {
        let workers = Arc::clone(&workers);
        async move {
            let _worker = workers.acquire().await;
            next.run(call).await
        }
    };
    let server = Server::new(config, Metrics::new()).intercept(Arc::new(queue));
    let server = server.serve(Arc::new(ProbeServer::new(fleet.prober.clone()))).unwrap();
    let mut running = server.build().unwrap();
    let endpoint = fleet.fabric.listen("probe", &mut running);
    fleet.next += 1;
    let probe = ProbeClient::new(fleet.client(Protocol::Grpc).at(endpoint));

    let offer = async |gap: f64, span: Duration| {
        let (mut calls, end) = (JoinSet::new(), Instant::now() + span);
        let mut due = 0.0;
        while Instant::now() < end {
            sleep(MS).await;
            due += 2.0 * fastrand::f64();
            while due >= gap {
                due -= gap;
                let probe = probe.clone();
                calls.spawn(async move {
                    let began = Instant::now();
                    let outcome = probe.say(wait(fastrand::u64(25..75), 0)).await;
                    (began.elapsed(), outcome.map(drop))
                });
            }
        }
        calls.join_all().await
    };
    let p99 = |outcomes: &[(Duration, Result<(), formic_core::Error>)]| {
        let mut took: Vec<_> =
            outcomes.iter().filter(|(_, outcome)| outcome.is_ok()).map(|(took, _)| *took).collect();
        took.sort();
        took[took.len() * 99 / 100]
    };
    // 160 a second is what they can do.
    let calm = offer(1000.0 / 128.0, Duration::from_secs(10)).await;
    let failed: Vec<_> = calm.iter().filter(|(_, outcome)| outcome.is_err()).collect();
    assert!(
        failed.is_empty(),
        "{} of {}: {:?}; limit {}",
        failed.len(),
        calm.len(),
        failed[0],
        running.limit()
    );
    offer(1000.0 / 320.0, Duration::from_secs(5)).await;
    let busy = offer(1000.0 / 320.0, Duration::from_secs(15)).await;
    let answered = busy.iter().filter(|(_, outcome)| outcome.is_ok()).count();
    assert!(answered as f64 >= 0.9 * 160.0 * 15.0, "{answered}");
    assert!(p99(&busy) <= 2 * p99(&calm), "{:?} of {:?}", p99(&busy), p99(&calm));
    for (_, outcome) in &busy {
        if let Err(error) = outcome {
            let reason = error.shed_reason();
            assert!(matches!(reason, Some(Shed::QueueDelay | Shed::QueueFull)), "{error:?}");
        }
    }
    assert!(running.limit() < 16, "{}", running.limit());
    running.stop(Duration::from_secs(1)).await;
}
