//! The staged drain: not ready, no new connections, what is in flight finishes, and a hard bound.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use formic_client::{Algorithm, Client, Traffic};
use formic_core::{Code, Instance, InstanceId, ServiceName};
use formic_probe::{Action, Order, ProbeClient};
use formic_registry::{Memory, Registry};
use formic_server::proto::health::v1 as health;
use formic_server::proto::health::v1::health_check_response::ServingStatus;
use formic_server::{Config, Serving};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::raw::{get, one};
use crate::suite::{drain, order, told};
use crate::ways::{everywhere, until, within};

const GRACE: Duration = Duration::from_secs(15);

/// More than any call here takes.
const LONG: Duration = Duration::from_secs(30);

#[tokio::test]
async fn what_is_in_flight_finishes_and_nothing_new_begins() {
    // Streams that are longer than what a draining server leaves by itself.
    let server = everywhere(Config { drain_streams: Duration::from_secs(10), ..Config::default() }).await;
    let (addr, unix, counts) = (server.addr, server.unix.clone(), server.prober.counts());
    let mut calls = tokio::task::JoinSet::new();
    let mut streams = tokio::task::JoinSet::new();
    let mut expected = 0;
    for way in server.ways() {
        // Longer than a busy machine takes to begin all of them and to come to the checks below.
        let wait = Order { millis: 4_000, ..told(Action::ACTION_WAIT, 0) };
        calls.spawn(way.probe().say(wait).timeout(LONG).into_future());
        let wait = Order { millis: 500, ..told(Action::ACTION_WAIT, 8) };
        let stream = way.probe().count(wait).timeout(LONG).into_future();
        streams.spawn(async { drain(stream.await.unwrap().into_message()).await });
        expected += 2;
    }
    until("every call to be with its handler", || counts.busy() == expected).await;

    // The first stage: not ready, and still serving.
    server.running.health().set(Serving::Draining);
    assert_eq!(one(addr, get(addr, "/readyz")).await.status(), 503);
    let late = ProbeClient::new(server.tcp());
    assert_eq!(late.say(order("late")).await.unwrap().text, "late");

    let stopping = tokio::task::spawn(server.running.stop(GRACE));
    within("the port to close", async {
        while TcpStream::connect(addr).await.is_ok() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
    assert!(counts.busy() > 0, "the calls were over too early to say anything");
    let answers = within("the answers", calls.join_all()).await;
    for answer in answers {
        answer.unwrap();
    }
    for (reports, error) in within("the streams", streams.join_all()).await {
        assert_eq!((reports.len(), error.map(|e| e.to_string())), (8, None));
    }
    assert_eq!(within("the stop", stopping).await.unwrap(), 0, "calls were cut off");
    assert_eq!(counts.dropped(), 0);
    assert!(!unix.exists(), "the socket file is left behind");
    let error = late.say(order("later")).await.unwrap_err();
    assert_eq!(error.code(), Code::Unavailable);
}

#[tokio::test]
async fn a_handler_that_never_ends_is_cut_off() {
    let server = everywhere(Config::default()).await;
    let counts = server.prober.counts();
    let mut calls = tokio::task::JoinSet::new();
    let mut expected = 0;
    for way in server.ways().into_iter().filter(|way| way.http.is_some()) {
        let minute = Duration::from_secs(60);
        calls.spawn(way.probe().say(told(Action::ACTION_HANG, 0)).timeout(minute).into_future());
        expected += 1;
    }
    until("every call to be with its handler", || counts.busy() == expected).await;
    let began = Instant::now();
    let cut = within("the stop", server.running.stop(Duration::from_millis(200))).await;
    assert_eq!(cut, expected);
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
    for answer in within("the callers to hear of it", calls.join_all()).await {
        assert_eq!(answer.unwrap_err().code(), Code::Unavailable);
    }
    until("the handlers to be dropped", || counts.dropped() == expected).await;
}

#[tokio::test]
async fn idle_connections_and_health_watchers_do_not_hold_it_up() {
    let server = everywhere(Config::default()).await;
    let mut idle = Vec::new();
    let mut watches = Vec::new();
    for way in server.ways() {
        way.probe().say(order("hi")).await.unwrap();
        let client = health::HealthClient::new(way.channel.clone());
        let mut watch = client.watch(health::HealthCheckRequest::default()).await.unwrap().into_message();
        assert!(within(&way.name, watch.message()).await.unwrap().is_some());
        watches.push((way.name.clone(), watch));
        idle.push(way);
    }
    // One that never said anything, one in the midst of its headers, one kept alive after an answer.
    let silent = TcpStream::connect(server.addr).await.unwrap();
    let mut slow = TcpStream::connect(server.addr).await.unwrap();
    slow.write_all(b"GET /heal").await.unwrap();
    let mut kept = TcpStream::connect(server.addr).await.unwrap();
    kept.write_all(b"GET /healthz HTTP/1.1\r\nhost: a\r\n\r\n").await.unwrap();
    let mut answer = [0; 512];
    assert!(within("an answer", kept.read(&mut answer)).await.unwrap() > 0);

    let began = Instant::now();
    let stopping = tokio::task::spawn(server.running.stop(GRACE));
    for (name, mut watch) in watches {
        let last = within(&name, watch.message()).await.unwrap().unwrap();
        assert_eq!(last.status.as_known(), Some(ServingStatus::NOT_SERVING), "{name}");
        assert!(within(&name, watch.message()).await.unwrap().is_none(), "{name}");
    }
    let cut = within("the stop", stopping).await.unwrap();
    assert_eq!(cut, 0);
    assert!(began.elapsed() < GRACE / 3, "{:?}", began.elapsed());
    drop((silent, slow, kept, idle));
}

fn instance(id: &str, endpoint: std::net::SocketAddr) -> Instance {
    Instance {
        id: InstanceId::new(id),
        service: ServiceName::new("probe").unwrap(),
        version: String::new(),
        endpoint: endpoint.into(),
        metadata: Default::default(),
        rpc: Vec::new(),
    }
}

/// Servers come and go under load, and no call is lost, though `Say` may not be repeated: GOAWAY says
/// which calls were not begun.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_drain_loses_no_call() {
    let registry = Arc::new(Memory::new());
    let stays = everywhere(Config::default()).await;
    let hour = Duration::from_secs(3600);
    registry.register(instance("stays", stays.addr), hour).await.unwrap();
    // By latency a newcomer that stumbles on a busy machine gets next to nothing, and its drain would prove nothing.
    let traffic = Traffic { policy: Algorithm::RoundRobin, ..Traffic::default() };
    let config = formic_client::Config { traffic, ..formic_client::Config::default() };
    let client = Client::new(registry.clone(), config);
    let over = Arc::new(AtomicBool::new(false));
    let mut callers = tokio::task::JoinSet::new();
    for _ in 0..16 {
        let (probe, over) = (ProbeClient::new(client.of("probe")), Arc::clone(&over));
        callers.spawn(async move {
            let mut answered = 0_usize;
            while !over.load(Ordering::Relaxed) {
                match probe.say(order("x")).await {
                    Ok(_) => answered += 1,
                    Err(error) => return Err(error),
                }
            }
            Ok(answered)
        });
    }
    let mut served = 0;
    for round in 0..8 {
        let goes = everywhere(Config::default()).await;
        registry.register(instance(&format!("goes-{round}"), goes.addr), hour).await.unwrap();
        let counts = goes.prober.counts();
        until("the newcomer to be busy", || counts.began() > 20).await;
        // Not deregistered first: the client learns of it by GOAWAY alone, which is the hard case.
        assert_eq!(goes.running.stop(GRACE).await, 0);
        assert_eq!(counts.dropped(), 0);
        served += counts.began();
        registry.deregister(&InstanceId::new(format!("goes-{round}"))).await.unwrap();
    }
    over.store(true, Ordering::Relaxed);
    let mut answered = 0;
    for caller in within("the callers", callers.join_all()).await {
        answered += caller.unwrap_or_else(|error| panic!("a call was lost: {error:?}"));
    }
    assert!(served >= 8 * 20, "{served}");
    assert_eq!(answered, served + stays.prober.counts().began(), "a call was answered twice or made twice");
}

/// Asks, and reads the answer; `None` if the server has hung up.
async fn answer(stream: &mut TcpStream) -> Option<String> {
    const GET: &[u8] = b"GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n";
    stream.write_all(GET).await.ok()?;
    let mut text = Vec::new();
    while !text.ends_with(b"ok\n") {
        let read = within("an answer", stream.read_buf(&mut text)).await.ok()?;
        if read == 0 {
            return None;
        }
    }
    Some(String::from_utf8(text).unwrap().to_lowercase())
}

#[tokio::test]
async fn who_calls_all_the_time_over_http_1_is_told_that_an_answer_is_the_last() {
    let mut slept = 0;
    let (mut busy, mut quiet, last, stopping) = loop {
        let server = everywhere(Config::default()).await;
        let mut busy = TcpStream::connect(server.addr).await.unwrap();
        let mut quiet = TcpStream::connect(server.addr).await.unwrap();
        let began = Instant::now();
        for stream in [&mut busy, &mut quiet] {
            assert!(!answer(stream).await.expect("an answer").contains("connection: close"));
        }
        let stopping = tokio::task::spawn(server.running.stop(GRACE));
        // Between two requests, while the server goes.
        tokio::time::sleep(Duration::from_millis(100)).await;
        let silent = began.elapsed();
        if let Some(last) = answer(&mut busy).await {
            break (busy, quiet, last, stopping);
        }
        // Where the machine slept over half a second before it asked, the busy one was quiet, and nobody owes it a word.
        assert!(silent >= Duration::from_millis(400) && slept < 5, "hung up under a request");
        slept += 1;
        stopping.await.unwrap();
    };
    assert!(last.starts_with("http/1.1 200") && last.contains("connection: close"), "{last}");
    assert_eq!(within("the end of the busy one", busy.read(&mut [0; 1])).await.unwrap(), 0);
    // Who says nothing holds nobody up.
    assert_eq!(within("the end of the quiet one", quiet.read(&mut [0; 1])).await.unwrap(), 0);
    assert_eq!(within("the stop", stopping).await.unwrap(), 0);
}
