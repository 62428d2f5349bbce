//! Overload control as callers see it: who is let in, who waits, who is turned away and how that is said.
//! On a paused clock, against a service with so many workers and a queue that only it knows of.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use formic_core::{Code, Error, Kind, Method, RpcService, Shed, shed};
use formic_rpc::{Answer, Body, BoxFuture, Call, Channel, Codec, Handle, Peer};
use formic_server::overload::{By, Rate};
use formic_server::proto::health::v1 as health;
use formic_server::proto::reflection::v1 as reflection;
use formic_server::{Config, Running, Server};
use formic_telemetry::Metrics;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

use crate::ways::{until, within};

const WORK: Method = Method::new("/load.Service/Work", Kind::Unary);
const POLL: Method = Method::new("/load.Service/Poll", Kind::Unary);
const METHODS: [Method; 2] = [WORK, POLL];

/// A service with so many workers; those who find none free wait in a queue inside.
pub(crate) struct Workers {
    free: Arc<Semaphore>,
    millis: u64,
    pub(crate) began: AtomicUsize,
}

impl Handle for Workers {
    fn method(&self, path: &str) -> Option<Method> {
        METHODS.into_iter().find(|method| method.path() == path)
    }

    fn services(&self) -> Vec<RpcService> {
        vec![formic_rpc::handle::describe("load.Service", &METHODS)]
    }

    fn call(&self, call: Call) -> BoxFuture<'static, Result<Answer, Error>> {
        self.began.fetch_add(1, Ordering::Relaxed);
        let (free, millis) = (Arc::clone(&self.free), self.millis);
        Box::pin(async move {
            if call.method == POLL {
                sleep(Duration::from_secs(20)).await;
                return Ok(Answer::new(Body::Message(Bytes::new())));
            }
            let _worker = free.acquire().await;
            // Half to one and a half of what is usual.
            sleep(Duration::from_millis(fastrand::u64(millis / 2..=millis + millis / 2))).await;
            Ok(Answer::new(Body::Message(Bytes::new())))
        })
    }
}

pub(crate) struct Load {
    pub(crate) running: Running,
    pub(crate) metrics: Metrics,
    pub(crate) service: Arc<Workers>,
    channel: Channel,
}

fn serve(workers: usize, millis: u64, config: Config) -> Load {
    let free = Arc::new(Semaphore::new(workers));
    let service = Arc::new(Workers { free, millis, began: AtomicUsize::default() });
    let metrics = Metrics::new();
    let server = Server::new(config, metrics.clone()).serve(Arc::clone(&service) as Arc<dyn Handle>).unwrap();
    let running = server.build().unwrap();
    let channel = running.channel();
    Load { running, metrics, service, channel }
}

fn call(method: Method, priority: &str) -> Call {
    let mut call = Call::new(method, Codec::Proto, Body::Message(Bytes::new()));
    call.deadline = Some(Instant::now() + Duration::from_secs(30));
    if !priority.is_empty() {
        call.metadata.insert("formic-priority", priority).unwrap();
    }
    call
}

/// What became of calls: how long those took that were answered, and why others were not.
#[derive(Default)]
struct Outcome {
    took: Vec<Duration>,
    shed: usize,
    shed_took: Duration,
}

impl Outcome {
    fn quantile(&mut self, share: f64) -> Duration {
        self.took.sort();
        let at = ((self.took.len() as f64 * share) as usize).min(self.took.len() - 1);
        self.took[at]
    }

    fn add(&mut self, outcome: Result<Duration, Duration>) {
        match outcome {
            Ok(took) => self.took.push(took),
            Err(took) => {
                self.shed += 1;
                self.shed_took = self.shed_took.max(took);
            }
        }
    }
}

/// Callers who come whether or not the earlier ones were answered, one in ten of them important.
async fn offer(channel: &Channel, per_second: f64, span: Duration) -> (Outcome, Outcome) {
    let (mut normal, mut high) = (Outcome::default(), Outcome::default());
    let mut calls = JoinSet::new();
    let (end, mut due) = (Instant::now() + span, 0.0);
    while Instant::now() < end {
        sleep(Duration::from_millis(1)).await;
        due += per_second / 1000.0 * 2.0 * fastrand::f64();
        while due >= 1.0 {
            due -= 1.0;
            let important = fastrand::u8(..10) == 0;
            let channel = channel.clone();
            calls.spawn(async move {
                let began = Instant::now();
                let outcome = channel.call(call(WORK, if important { "high" } else { "" })).await;
                let took = began.elapsed();
                match outcome {
                    Ok(_) => (important, Ok(took)),
                    Err(error) => {
                        assert!(error.shed_reason().is_some(), "{error:?}");
                        assert!(error.retry_after().is_some(), "{error:?}");
                        (important, Err(took))
                    }
                }
            });
        }
    }
    for (important, outcome) in calls.join_all().await {
        if important { high.add(outcome) } else { normal.add(outcome) }
    }
    (normal, high)
}

/// Twice the capacity is offered for half a minute.
async fn overloaded(seed: u64, workers: usize, millis: u64) {
    fastrand::seed(seed);
    let load = serve(workers, millis, Config::default());
    let capacity = workers as f64 * 1000.0 / millis as f64;
    let (mut normal, mut high) = offer(&load.channel, capacity * 0.8, Duration::from_secs(20)).await;
    assert_eq!((normal.shed, high.shed), (0, 0), "seed {seed}: nobody is turned away at 80 % load");
    let (calm, calm_high) = (normal.quantile(0.99), high.quantile(0.99));

    // From the first moment on, in which it does not know yet.
    let span = Duration::from_secs(30);
    let (mut normal, mut high) = offer(&load.channel, capacity * 2.0, span).await;
    let goodput = (normal.took.len() + high.took.len()) as f64 / span.as_secs_f64();
    let (busy, busy_high) = (normal.quantile(0.99), high.quantile(0.99));
    let text = format!(
        "seed {seed}, {workers} × {millis} ms: goodput {goodput:.1} of {capacity}, p99 {calm:?} → {busy:?}, \
         important {calm_high:?} → {busy_high:?}, shed {} and {}, refusals within {:?}, limit {}",
        normal.shed,
        high.shed,
        normal.shed_took,
        load.running.limit()
    );
    assert!(normal.shed > 0 && goodput >= 0.9 * capacity, "{text}");
    assert!(busy <= calm * 2 && busy_high <= calm_high * 2, "{text}");
    assert_eq!(high.shed, 0, "{text}");
    assert!(normal.shed_took <= calm * 2, "{text}");

    // When it is over, nobody is turned away.
    let _ = offer(&load.channel, capacity * 0.5, Duration::from_secs(2)).await;
    let (normal, high) = offer(&load.channel, capacity * 0.8, Duration::from_secs(10)).await;
    let all = normal.took.len() + high.took.len();
    assert!(normal.shed + high.shed <= all / 200, "{text}; then {} of {all}", normal.shed + high.shed);
}

#[tokio::test(start_paused = true)]
async fn twice_the_capacity_leaves_goodput_latency_and_what_matters_whole() {
    for seed in 0..4 {
        overloaded(seed, 8, 50).await;
    }
    overloaded(1, 4, 40).await;
    overloaded(2, 32, 100).await;
}

#[tokio::test(start_paused = true)]
async fn a_crowd_at_a_service_that_is_slow_by_nature_is_let_in() {
    fastrand::seed(1);
    let load = serve(100_000, 900, Config::default());
    let (normal, high) = offer(&load.channel, 3_000.0, Duration::from_secs(10)).await;
    assert_eq!((normal.shed, high.shed), (0, 0));
    assert_eq!(load.running.limit(), Config::default().max_in_flight);
}

/// Overloads a server of one worker until its limit is at its floor, and leaves it idle.
pub(crate) async fn limited(queue: usize) -> Load {
    let mut config = Config::default();
    config.overload.queue = queue;
    let load = serve(1, 20, config);
    limit(&load).await;
    load
}

async fn limit(load: &Load) {
    let _ = offer(&load.channel, 20.0, Duration::from_secs(10)).await;
    let _ = offer(&load.channel, 200.0, Duration::from_secs(10)).await;
    assert!(load.running.limit() <= 6, "{}", load.running.limit());
}

/// Takes every place, and says how many there were.
pub(crate) async fn filled(load: &Load) -> (JoinSet<Result<Answer, Error>>, usize) {
    let blocked = Arc::clone(&load.service.free).acquire_owned().await.unwrap();
    let mut held = JoinSet::new();
    let places = load.running.limit();
    for _ in 0..places {
        held.spawn(load.channel.call(call(WORK, "")));
    }
    tokio::task::yield_now().await;
    held.spawn(async move {
        sleep(Duration::from_millis(300)).await;
        drop(blocked);
        Ok(Answer::new(Body::Message(Bytes::new())))
    });
    (held, places)
}

#[tokio::test(start_paused = true)]
async fn a_refusal_says_what_it_is_and_when_to_come_back() {
    fastrand::seed(3);
    let load = limited(0).await;
    let (mut held, _) = filled(&load).await;
    let began = load.service.began.load(Ordering::Relaxed);
    let error = load.channel.call(call(WORK, "high")).await.unwrap_err();
    assert_eq!((error.code(), error.shed_reason()), (Code::Unavailable, Some(Shed::QueueFull)));
    let after = error.retry_after().unwrap();
    assert!((Duration::from_millis(20)..Duration::from_secs(2)).contains(&after), "{after:?}");
    assert_eq!(error.metadata().get(shed::PUSHBACK), Some(after.as_millis().to_string().as_str()));
    assert_eq!(load.service.began.load(Ordering::Relaxed), began, "no handler has seen it");
    // Nor is turned away what a call that was let in causes within the process.
    let mut nested = call(WORK, "");
    nested.peer = Some(Peer("in-process".into()));
    held.spawn(load.channel.call(nested));
    // Who looks for what is wrong is never turned away.
    let health = health::HealthClient::new(load.channel.clone());
    health.check(health::HealthCheckRequest::default()).await.unwrap();
    let reflection = reflection::ServerReflectionClient::new(load.channel.clone());
    let asked = reflection::ServerReflectionRequest {
        message_request: Some(reflection::server_reflection_request::MessageRequest::ListServices(
            String::new(),
        )),
        ..Default::default()
    };
    let mut answers =
        reflection.server_reflection_info(futures::stream::iter([asked])).await.unwrap().into_message();
    assert!(answers.message().await.unwrap().is_some());
    let text = load.metrics.render();
    assert!(text.contains(r#"formic_server_shed_total{reason="QUEUE_FULL",priority="low"}"#), "{text}");
    let limit = format!("formic_server_limit {}\n", load.running.limit());
    assert!(text.contains(&limit) && text.contains("formic_server_queued 0\n"), "{text}");
    while let Some(outcome) = held.join_next().await {
        outcome.unwrap().unwrap();
    }
    assert!(load.metrics.render().contains("formic_server_working 0\n"));
}

#[tokio::test(start_paused = true)]
async fn the_important_go_first_and_nobody_waits_for_ever() {
    fastrand::seed(4);
    let load = limited(2).await;
    let (mut held, _) = filled(&load).await;
    let spawn = |priority: &'static str| tokio::task::spawn(load.channel.call(call(WORK, priority)));
    let (low, normal) = (spawn("low"), spawn(""));
    tokio::task::yield_now().await;
    let high = spawn("high");
    let pushed_out = low.await.unwrap().unwrap_err();
    assert_eq!(pushed_out.shed_reason(), Some(Shed::QueueFull), "the least important makes room");
    let text = load.metrics.render();
    assert!(text.contains("formic_server_queued 2\n"), "{text}");
    // No call ends for a while, so nobody's turn comes; each is told so in time.
    for waiting in [normal, high] {
        let began = Instant::now();
        let error = waiting.await.unwrap().unwrap_err();
        assert_eq!(error.shed_reason(), Some(Shed::QueueDelay));
        assert!(began.elapsed() < Duration::from_millis(250), "{:?}", began.elapsed());
    }
    // A caller who leaves the queue, and one whose deadline passes in it, leave nothing behind.
    let leaves = spawn("");
    tokio::task::yield_now().await;
    leaves.abort();
    let mut soon = call(WORK, "");
    soon.deadline = Some(Instant::now() + Duration::from_millis(2));
    let began = Instant::now();
    load.channel.call(soon).await.unwrap_err();
    assert!(began.elapsed() <= Duration::from_millis(3));
    while let Some(outcome) = held.join_next().await {
        outcome.unwrap().unwrap();
    }
    load.channel.call(call(WORK, "low")).await.unwrap();
    until("nothing to be in flight", || load.running.in_flight() == 0).await;
    let text = load.metrics.render();
    assert!(
        text.contains("formic_server_working 0\n") && text.contains("formic_server_queued 0\n"),
        "{text}"
    );
}

#[tokio::test(start_paused = true)]
async fn calls_that_wait_by_nature_take_no_places() {
    fastrand::seed(5);
    let load = serve(1, 20, Config::default());
    // The server learns that polls take twenty seconds.
    let mut polls = JoinSet::new();
    for _ in 0..12 {
        polls.spawn(load.channel.call(call(POLL, "")));
    }
    while polls.join_next().await.is_some() {}
    for _ in 0..500 {
        polls.spawn(load.channel.call(call(POLL, "")));
    }
    let _ = offer(&load.channel, 20.0, Duration::from_secs(5)).await;
    let _ = offer(&load.channel, 200.0, Duration::from_secs(10)).await;
    assert!(load.running.limit() < 20, "{}", load.running.limit());
    for outcome in polls.join_all().await {
        outcome.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_switched_off_or_left_out_is_not_limited() {
    for exempt in [false, true] {
        fastrand::seed(6);
        let mut config = Config::default();
        config.overload.adaptive = exempt;
        config.overload.exempt = vec!["/load.Service/*".into()];
        let load = serve(1, 20, config);
        let _ = offer(&load.channel, 20.0, Duration::from_secs(5)).await;
        let (normal, high) = offer(&load.channel, 200.0, Duration::from_secs(2)).await;
        assert_eq!((normal.shed, high.shed), (0, 0));
    }
}

#[tokio::test(start_paused = true)]
async fn rates_are_counted_by_key() {
    let mut config = Config::default();
    let by = By::Metadata(http::HeaderName::from_static("x-user"));
    config.overload.rates = vec![
        Rate {
            name: "user".into(),
            by,
            per_second: 10.0,
            burst: 2,
            methods: vec!["/load.Service/Work".into()],
        },
        Rate { name: "host".into(), by: By::Peer, per_second: 1.0, burst: 100, methods: Vec::new() },
    ];
    let load = serve(1000, 20, config);
    let ask = |method: Method, user: &str, peer: &str| {
        let mut call = call(method, "high");
        call.metadata.insert("x-user", user).unwrap();
        call.peer = Some(Peer(peer.into()));
        load.channel.call(call)
    };
    let clock = Instant::now();
    for user in ["ada", "eve"] {
        for _ in 0..2 {
            ask(WORK, user, "10.0.0.1:1").await.unwrap();
        }
    }
    // By now a fraction is there again; it takes a whole one.
    let error = ask(WORK, "eve", "10.0.0.1:1").await.unwrap_err();
    assert_eq!((error.code(), error.shed_reason()), (Code::ResourceExhausted, Some(Shed::Rate)));
    assert!(error.message().contains("\"user\""), "{error}");
    let after = error.retry_after().unwrap();
    assert!(after <= Duration::from_millis(100), "{after:?}");
    sleep(after).await;
    ask(WORK, "eve", "10.0.0.1:1").await.unwrap();
    // The other limit is about hosts, whatever the port and the method.
    let mut refused = None;
    for port in 0..120 {
        let answer =
            tokio::time::timeout(Duration::from_millis(1), ask(POLL, "bob", &format!("10.0.0.2:{port}")));
        if let Ok(Err(error)) = answer.await {
            refused.get_or_insert((port, error));
        }
    }
    let (port, error) = refused.unwrap();
    assert!((100..=101).contains(&port), "{port} after {:?}", clock.elapsed());
    assert!(error.message().contains("\"host\""), "{error}");
    assert!(
        load.metrics.render().contains(r#"formic_server_shed_total{reason="RATE",priority="normal"} 2"#)
            || port < 119
    );
}

#[tokio::test(start_paused = true)]
async fn a_call_that_one_rate_refuses_uses_up_no_other() {
    let mut config = Config::default();
    let by = By::Metadata(http::HeaderName::from_static("x-user"));
    let rate =
        |name: &str, by, burst| Rate { name: name.into(), by, per_second: 0.01, burst, methods: Vec::new() };
    config.overload.rates = vec![rate("all", By::All, 10), rate("user", by, 2)];
    let load = serve(1000, 20, config);
    let ask = |user: &str| {
        let mut call = call(WORK, "high");
        call.metadata.insert("x-user", user).unwrap();
        load.channel.call(call)
    };
    let mut refused = 0;
    for _ in 0..50 {
        refused += u32::from(ask("eve").await.is_err());
    }
    assert_eq!(refused, 48);
    for user in ["ada", "bob", "cat", "dan"] {
        for _ in 0..2 {
            ask(user).await.unwrap();
        }
    }
    let error = ask("fay").await.unwrap_err();
    assert!(error.message().contains("\"all\""), "ten were let in in all: {error}");
}

/// A rate that allows so many calls and hardly any after them.
fn allowing(burst: u32) -> Vec<Rate> {
    vec![Rate { name: "all".into(), by: By::All, per_second: 0.000_1, burst, methods: Vec::new() }]
}

#[tokio::test(start_paused = true)]
async fn a_call_that_finds_no_room_uses_up_no_rate() {
    let mut config = Config { max_in_flight: 1, ..Config::default() };
    config.overload.rates = allowing(2);
    let load = serve(1, 20, config);
    let mut held = JoinSet::new();
    held.spawn(load.channel.call(call(POLL, "")));
    until("the call to be in", || load.running.in_flight() == 1).await;
    for _ in 0..10 {
        let error = load.channel.call(call(WORK, "")).await.unwrap_err();
        assert_eq!(error.shed_reason(), Some(Shed::InFlight), "{error:?}");
    }
    while held.join_next().await.is_some() {}
    load.channel.call(call(WORK, "")).await.expect("the second that the rate allows");
    let error = load.channel.call(call(WORK, "")).await.unwrap_err();
    assert_eq!(error.shed_reason(), Some(Shed::Rate));
}

#[tokio::test(start_paused = true)]
async fn nor_does_one_that_waits_for_its_turn_in_vain() {
    fastrand::seed(3);
    const WAITING: usize = 4;
    let mut config = Config::default();
    config.overload.queue = WAITING;
    config.overload.rates = allowing(1_000);
    let load = serve(1, 20, config);
    limit(&load).await;
    let (mut held, _) = filled(&load).await;
    let more = (0..20).map(|_| load.channel.call(call(WORK, "")));
    let outcomes = futures::future::join_all(more).await;
    let reasons: Vec<_> = outcomes.iter().filter_map(|one| one.as_ref().err()?.shed_reason()).collect();
    assert!(reasons.contains(&Shed::QueueFull) && reasons.contains(&Shed::QueueDelay), "{reasons:?}");
    while held.join_next().await.is_some() {}
    // Each call that the rate has counted was worked on.
    while load.channel.call(call(WORK, "")).await.is_ok() {}
    let error = load.channel.call(call(WORK, "")).await.unwrap_err();
    assert_eq!((error.shed_reason(), load.service.began.load(Ordering::Relaxed)), (Some(Shed::Rate), 1_000));
}

#[tokio::test(start_paused = true)]
async fn the_last_places_are_for_what_matters() {
    let mut config = Config { max_in_flight: 32, ..Config::default() };
    config.overload.adaptive = false;
    let load = serve(1, 1, config);
    let mut held = JoinSet::new();
    for (priority, places) in [("low", 28), ("", 30), ("high", 32)] {
        while load.running.in_flight() < places {
            let before = load.running.in_flight();
            held.spawn(load.channel.call(call(POLL, priority)));
            until("the call to be in", || load.running.in_flight() > before).await;
        }
        let error = load.channel.call(call(POLL, priority)).await.unwrap_err();
        assert_eq!(error.shed_reason(), Some(Shed::InFlight), "{priority:?} at {places}");
    }
    held.shutdown().await;
}

#[tokio::test(start_paused = true)]
async fn a_call_that_nobody_waits_for_takes_neither_a_token_nor_a_place() {
    let mut config = Config { max_in_flight: 1, ..Config::default() };
    let rate = Rate { name: "all".into(), by: By::All, per_second: 0.001, burst: 1, methods: Vec::new() };
    config.overload.rates = vec![rate];
    let load = serve(1, 1, config);
    let mut expired = call(WORK, "");
    expired.deadline = Some(Instant::now());
    let error = load.channel.call(expired).await.unwrap_err();
    assert_eq!((error.code(), load.service.began.load(Ordering::Relaxed)), (Code::DeadlineExceeded, 0));
    load.channel.call(call(WORK, "")).await.expect("the one that the rate allows");
}

#[tokio::test]
async fn a_refusal_is_told_apart_over_every_transport() {
    let mut config = Config::default();
    config.overload.rates =
        vec![Rate { name: "all".into(), by: By::All, per_second: 1e-6, burst: 1, methods: Vec::new() }];
    let server = crate::ways::everywhere(config).await;
    server.ways()[0].probe().say(crate::suite::order("the only one")).await.unwrap();
    for way in server.ways() {
        let name = &way.name;
        let error = within(name, way.probe().say(crate::suite::order("")).into_future()).await.unwrap_err();
        assert_eq!(error.shed_reason(), Some(Shed::Rate), "{name}: {error:?}");
        assert!(error.retry_after().is_some(), "{name}");
        assert!(error.metadata().get(shed::PUSHBACK).is_some(), "{name}: {:?}", error.metadata());
    }
}
