//! Endpoints that come, go and come back; sockets with long paths; who is told.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use formic_client::{BoxIo, Client, Config, Connect, Observer, Report};
use formic_core::{Code, Endpoint, Instance, InstanceId, Kind, Method, ServiceName};
use formic_registry::{Memory, Registry};
use formic_rpc::BoxFuture;
use tokio::net::TcpStream;
use tokio::time::Instant;

use crate::server::*;

const MS: Duration = Duration::from_millis(1);

/// Connects as clients do by themselves, and counts how often.
#[derive(Default)]
struct Dials(AtomicUsize);

impl Connect for Dials {
    fn connect(&self, endpoint: &Endpoint) -> BoxFuture<'static, std::io::Result<BoxIo>> {
        self.0.fetch_add(1, Ordering::SeqCst);
        let Endpoint::Tcp(addr) = *endpoint else { panic!("{endpoint} is no address") };
        Box::pin(async move { Ok(Box::new(TcpStream::connect(addr).await?) as BoxIo) })
    }
}

#[tokio::test]
async fn an_endpoint_that_is_killed_and_back_is_found_again() {
    let echo = Echo::new();
    let server = Server::start(&echo).await;
    let addr = server.addr();
    let dials = Arc::new(Dials::default());
    let config = Config { connector: Some(Arc::clone(&dials) as Arc<dyn Connect>), ..Config::default() };
    let channel = Client::without_registry(config).at(server.endpoint.clone());
    channel.call(call_of(SAY, "x")).await.unwrap();
    drop(server);
    let gone = within("the loss to show", async {
        loop {
            if let Err(error) = channel.call(call_of(SAY, "x")).await
                && error.is_unsent()
            {
                return error;
            }
            tokio::time::sleep(MS).await;
        }
    })
    .await;
    assert_eq!(gone.code(), Code::Unavailable);
    assert!(gone.message().contains(&addr.to_string()), "{gone}");
    // While it is down calls fail at once instead of each trying for itself.
    let before = dials.0.load(Ordering::SeqCst);
    for _ in 0..100 {
        assert!(channel.call(call_of(SAY, "x")).await.unwrap_err().is_unsent());
    }
    // Whoever tries for all of them waits longer each time.
    let tries = dials.0.load(Ordering::SeqCst) - before;
    assert!(tries <= 20, "{tries}");
    let server = Server::start_at(&echo, addr).await;
    let back = Instant::now();
    within("the endpoint to be found again", async {
        while channel.call(call_of(SAY, "x")).await.is_err() {
            tokio::time::sleep(10 * MS).await;
        }
    })
    .await;
    assert!(back.elapsed() < 8_000 * MS, "found after {:?}", back.elapsed());
    drop(server);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_kill_of_one_of_three_costs_at_most_what_was_on_its_way() {
    let registry = Memory::new();
    let mut servers = Vec::new();
    for n in 0..3 {
        let server = Server::start(&Echo::new()).await;
        register(&registry, &format!("i{n}"), &server.endpoint).await;
        servers.push(server);
    }
    let client = Client::new(Arc::new(registry), Config::default());
    let channel = client.of("echo");
    let ended = Arc::new(AtomicBool::new(false));
    let load: Vec<_> = (0..8)
        .map(|_| {
            let (channel, ended) = (channel.clone(), ended.clone());
            tokio::spawn(async move {
                let mut failed = 0;
                while !ended.load(Ordering::SeqCst) {
                    // Idempotent ones never fail; of the others only those on their way.
                    channel.call(call_of(GET, "x")).await.unwrap();
                    failed += usize::from(channel.call(call_of(SAY, "x")).await.is_err());
                    tokio::time::sleep(MS / 2).await;
                }
                failed
            })
        })
        .collect();
    let calls = |servers: &[Server]| servers.iter().map(|server| server.echo.calls()).sum::<usize>();
    until("load", || calls(&servers) > 300).await;
    // The busiest: who was slow for a moment gets next to nothing, and its end would prove nothing.
    let busiest = (0..3).max_by_key(|&n| servers[n].echo.calls()).unwrap();
    drop(servers.remove(busiest));
    let before = calls(&servers);
    until("load on who is left", || calls(&servers) > before + 600).await;
    ended.store(true, Ordering::SeqCst);
    let mut failed = 0;
    for task in load {
        failed += within("the load to end", task).await.expect("no idempotent call failed");
    }
    assert!(failed <= 8, "{failed} calls failed, of 8 callers with one on its way each");
}

#[tokio::test]
async fn a_first_instance_is_waited_for_and_nobody_is_an_error() {
    let registry = Memory::new();
    let config = Config { patience: 300 * MS, ..Config::default() };
    let client = Client::new(Arc::new(registry.clone()), config);
    let channel = client.of("echo");
    let began = Instant::now();
    let error = channel.call(call_of(SAY, "x")).await.unwrap_err();
    assert_eq!((error.code(), error.is_unsent()), (Code::Unavailable, true));
    assert!(error.message().contains("\"echo\""), "{error}");
    assert!(began.elapsed() >= 300 * MS && began.elapsed() < 5_000 * MS, "{:?}", began.elapsed());
    // More of it than a machine takes to register one.
    let config = Config { patience: 10_000 * MS, timeout: 10_000 * MS, ..Config::default() };
    let channel = Client::new(Arc::new(registry.clone()), config).of("echo");
    let server = Server::start(&Echo::new()).await;
    let (answer, ()) = tokio::join!(channel.call(call_of(SAY, "x")), async {
        tokio::time::sleep(50 * MS).await;
        register(&registry, "late", &server.endpoint).await;
    });
    assert_eq!(text(answer.unwrap()), "x");
}

#[tokio::test]
async fn a_stream_outlives_its_endpoints_registration_and_then_the_connection_ends() {
    let registry = Memory::new();
    let (first, second) = (Server::start(&Echo::new()).await, Server::start(&Echo::new()).await);
    register(&registry, "first", &first.endpoint).await;
    let client = Client::new(Arc::new(registry.clone()), Config::default());
    let channel = client.of("echo");
    let mut stream = channel.call(call_of(TICK, "")).await.unwrap().body.into_stream();
    register(&registry, "second", &second.endpoint).await;
    registry.deregister(&InstanceId::new("first")).await.unwrap();
    until("calls to go to the second", || {
        // Polled here, for the watch has its own pace.
        second.accepted.load(Ordering::SeqCst) > 0 || {
            let channel = channel.clone();
            tokio::spawn(async move { channel.call(call_of(SAY, "x")).await });
            false
        }
    })
    .await;
    for _ in 0..5 {
        assert_eq!(next(&mut stream).await.unwrap().unwrap(), "tick");
    }
    assert_eq!(first.open(), 1);
    drop(stream);
    until("the unused connection to end", || first.open() == 0).await;
}

#[tokio::test]
async fn an_answer_is_read_to_its_end_after_the_client_is_gone() {
    let server = Server::start(&Echo::new()).await;
    let client = Client::without_registry(Config::default());
    let channel = client.at(server.endpoint.clone());
    let mut stream = channel.call(call_of(TICK, "")).await.unwrap().body.into_stream();
    drop((client, channel));
    for _ in 0..5 {
        assert_eq!(next(&mut stream).await.unwrap().unwrap(), "tick");
    }
    drop(stream);
    until("the connection to end", || server.open() == 0).await;
}

#[tokio::test]
async fn a_stream_keeps_no_connection_but_its_own() {
    let registry = Memory::new();
    let (ticking, other) = (Server::start(&Echo::new()).await, Server::start(&Echo::new()).await);
    register(&registry, "one", &ticking.endpoint).await;
    let elsewhere =
        Instance { service: ServiceName::new("other").unwrap(), ..instance("two", other.endpoint.clone()) };
    registry.register(elsewhere, Duration::from_secs(600)).await.unwrap();
    // Who is told of calls is told of the end of this one too.
    let observer = Some(Arc::new(formic_telemetry::Metrics::new()) as Arc<dyn Observer>);
    let client = Client::new(Arc::new(registry), Config { observer, ..Config::default() });
    let (channel, unneeded) = (client.of("echo"), client.of("other"));
    unneeded.call(call_of(SAY, "x")).await.unwrap();
    let mut stream = channel.call(call_of(TICK, "")).await.unwrap().body.into_stream();
    assert_eq!(next(&mut stream).await.unwrap().unwrap(), "tick");
    assert_eq!(other.open(), 1);
    drop((client, channel, unneeded));
    until("the connection that nobody needs to end", || other.open() == 0).await;
    assert_eq!(next(&mut stream).await.unwrap().unwrap(), "tick");
    drop(stream);
    until("the last connection to end", || ticking.open() == 0).await;
}

#[tokio::test]
async fn one_connection_while_idle_and_more_under_load() {
    let server = Server::start(&Echo::new()).await;
    let client = Client::without_registry(Config { connections: 3, ..Config::default() });
    let channel = client.at(server.endpoint.clone());
    for _ in 0..20 {
        channel.call(call_of(SAY, "x")).await.unwrap();
    }
    assert_eq!(server.accepted.load(Ordering::SeqCst), 1);
    let calls = (0..200).map(|_| channel.call(call_of(SAY, "x")));
    for outcome in within("200 calls", futures::future::join_all(calls)).await {
        outcome.unwrap();
    }
    assert_eq!(server.accepted.load(Ordering::SeqCst), 3);
}

#[tokio::test]
async fn shutting_down_ends_tasks_and_connections() {
    let server = Server::start(&Echo::new()).await;
    let registry = Memory::new();
    register(&registry, "one", &server.endpoint).await;
    let client = Client::new(Arc::new(registry), Config::default());
    let channel = client.of("echo");
    channel.call(call_of(SAY, "x")).await.unwrap();
    within("the client to shut down", client.shutdown()).await;
    until("the connection to end", || server.open() == 0).await;
    assert_eq!(channel.call(call_of(SAY, "x")).await.unwrap_err().code(), Code::Unavailable);
}

#[tokio::test]
async fn a_unix_socket_may_have_a_long_path() {
    let folder = Folder::new(&"long".repeat(30));
    let path = folder.0.join("echo.sock");
    assert!(path.as_os_str().len() > 120);
    let server = Server::start_unix(&Echo::new(), &path, false);
    let channel = Client::without_registry(Config::default()).at(Endpoint::Unix(path));
    let outcome = channel.call(call_of(SAY, "far")).await;
    if cfg!(target_os = "linux") {
        assert_eq!(text(outcome.unwrap()), "far");
    } else {
        assert!(outcome.unwrap_err().message().contains("at most 100 bytes"));
    }
    drop(server);
}

#[tokio::test]
async fn a_name_that_is_none_fails_the_call() {
    let client = Client::without_registry(Config::default());
    let error = client.of("No Name").call(call_of(SAY, "x")).await.unwrap_err();
    assert_eq!(error.code(), Code::InvalidArgument);
    assert!(error.message().contains("No Name"), "{error}");
}

#[tokio::test]
async fn a_message_over_the_limit_is_refused() {
    let server = Server::start(&Echo::new()).await;
    let client = Client::without_registry(Config { max_message: 1_000, ..Config::default() });
    let channel = client.at(server.endpoint.clone());
    assert!(channel.call(call_of(SAY, vec![b'x'; 1_000])).await.is_ok());
    let error = channel.call(call_of(SAY, vec![b'x'; 1_001])).await.unwrap_err();
    assert_eq!(error.code(), Code::ResourceExhausted, "{error}");
}

#[tokio::test]
async fn this_process_is_preferred_and_methods_are_known() {
    let (near, far) = (Echo::new(), Echo::new());
    let server = Server::start(&far).await;
    let registry = Memory::new();
    register(&registry, "far", &server.endpoint).await;
    let client = Client::new(Arc::new(registry), Config::default());
    let channel = client.of("echo");
    channel.call(call_of(SAY, "x")).await.unwrap();
    let found = channel.handle().method("/test.Echo/Get").unwrap();
    assert!(
        found.idempotent
            && found.kind == Kind::Unary
            && found == Method::dynamic(GET.path(), Kind::Unary).idempotent(true)
    );
    assert!(channel.handle().method("/test.Echo/None").is_none());
    assert_eq!(channel.handle().services()[0].name, "test.Echo");
    client.add_local(&ServiceName::new("echo").unwrap(), Arc::new(Service(Arc::clone(&near))));
    channel.call(call_of(SAY, "x")).await.unwrap();
    assert_eq!((near.calls(), far.calls()), (1, 1));
}

/// What was reported: method, code, attempts, whether an endpoint was named.
type Seen = (String, Option<Code>, u32, bool);

#[derive(Default)]
struct Witness {
    started: Mutex<usize>,
    seen: Mutex<Vec<Seen>>,
}

impl Observer for Witness {
    fn on_start(&self, service: &str, _method: &Method) {
        assert_eq!(service, "echo");
        *self.started.lock().unwrap() += 1;
    }

    fn on_call(&self, report: &Report<'_>) {
        let seen = (report.method.name().into(), report.code, report.attempts, report.endpoint.is_some());
        self.seen.lock().unwrap().push(seen);
    }
}

#[tokio::test]
async fn every_call_is_reported_once_when_it_is_over() {
    let witness = Arc::new(Witness::default());
    let server = Server::start(&Echo::new()).await;
    let registry = Memory::new();
    register(&registry, "one", &server.endpoint).await;
    let config = Config { observer: Some(witness.clone()), ..Config::default() };
    let channel = Client::new(Arc::new(registry), config).of("echo");
    let seen = || witness.seen.lock().unwrap().pop();

    channel.call(call_of(SAY, "x")).await.unwrap();
    assert_eq!(seen(), Some(("Say".into(), None, 1, true)));
    server.echo.fail_next([formic_core::Error::unavailable("x")]);
    channel.call(call_of(GET, "x")).await.unwrap();
    assert_eq!(seen(), Some(("Get".into(), None, 2, true)));
    channel.call(call_of(FAIL, vec![5])).await.unwrap_err();
    assert_eq!(seen(), Some(("Fail".into(), Some(Code::NotFound), 1, true)));

    let mut late = call_of(HANG, "");
    late.deadline = Some(Instant::now() + 50 * MS);
    channel.call(late).await.unwrap_err();
    assert_eq!(seen(), Some(("Hang".into(), Some(Code::DeadlineExceeded), 1, true)));

    let mut stream = channel.call(call_of(TICK, "")).await.unwrap().body.into_stream();
    next(&mut stream).await.unwrap().unwrap();
    assert_eq!(seen(), None, "the call lasts as long as its stream");
    drop(stream);
    assert_eq!(seen(), Some(("Tick".into(), Some(Code::Canceled), 1, true)));
    let mut stream = channel.call(call_of(REPEAT, "x")).await.unwrap().body.into_stream();
    while next(&mut stream).await.is_some() {}
    assert_eq!(seen(), Some(("Repeat".into(), None, 1, true)));
    assert_eq!(*witness.started.lock().unwrap(), 6);
}
