//! What a server does not take from strangers.

use std::time::{Duration, Instant};

use formic_core::Code;
use formic_probe::{Action, Order, ProbeClient};
use formic_server::Config;
use formic_server::proto::health::v1 as health;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::raw::{converse, get, one, post, two, until_closed};
use crate::suite::{order, told};
use crate::ways::{everywhere, until, within};

#[tokio::test]
async fn too_large_a_message_is_refused() {
    let server = everywhere(Config { max_message: 64 << 10, ..Config::default() }).await;
    for way in server.ways() {
        if way.http.is_none() {
            continue;
        }
        let (probe, name) = (way.probe(), &way.name);
        let large = || Order { data: vec![7; 70 << 10], ..Order::default() };
        let error = within(name, probe.say(large()).into_future()).await.unwrap_err();
        assert_eq!(error.code(), Code::ResourceExhausted, "{name}: {error:?}");
        let error =
            within(name, probe.join(futures::stream::iter([order("a"), large()])).into_future()).await;
        assert_eq!(error.unwrap_err().code(), Code::ResourceExhausted, "{name}");
        // Each message counts for itself, not the stream.
        let small = std::iter::repeat_with(|| Order { data: vec![7; 30 << 10], ..Order::default() }).take(4);
        let joined = within(name, probe.join(futures::stream::iter(small)).into_future()).await.unwrap();
        assert_eq!(joined.number, 4, "{name}");
        assert_eq!(probe.say(order("alive")).await.unwrap().text, "alive", "{name}");
    }
    assert_eq!(server.prober.counts().busy(), 0, "a handler waits for a stream that has failed");
}

#[tokio::test]
async fn too_many_headers_are_refused() {
    let server = everywhere(Config { max_headers: 8 << 10, ..Config::default() }).await;
    let addr = server.addr;
    let large = |path: &str| {
        let mut request = get(addr, path);
        request.headers_mut().insert("x-large", "y".repeat(12 << 10).parse().unwrap());
        request
    };
    assert_eq!(one(addr, large("/healthz")).await.status(), 431);
    assert_eq!(two(addr, large("/healthz")).await.unwrap().status(), 431);
    let many: String = (0..200).map(|i| format!("x-{i}: 1\r\n")).collect();
    let answer = converse(addr, &format!("GET /healthz HTTP/1.1\r\nhost: a\r\n{many}\r\n")).await;
    assert!(answer.starts_with("HTTP/1.1 431"), "{answer}");
    assert_eq!(one(addr, get(addr, "/healthz")).await.status(), 200);
}

#[tokio::test]
async fn a_connection_has_so_many_streams() {
    let server = everywhere(Config { max_concurrent_streams: 2, ..Config::default() }).await;
    let config = formic_client::Config { connections: 1, ..formic_client::Config::default() };
    let client = formic_client::Client::without_registry(config);
    let probe = ProbeClient::new(client.at(server.addr.into()));
    // The connection learns of the limit with its first answer.
    probe.say(order("first")).await.unwrap();
    let counts = server.prober.counts();
    let mut calls = tokio::task::JoinSet::new();
    for _ in 0..6 {
        let wait = Order { millis: 60, ..told(Action::ACTION_WAIT, 0) };
        calls.spawn(probe.say(wait).into_future());
    }
    let mut most = 0;
    let watching = async {
        loop {
            most = most.max(counts.busy());
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    tokio::select! {
        () = watching => {}
        answers = within("all the answers", calls.join_all()) => assert!(answers.iter().all(Result::is_ok)),
    }
    assert_eq!(most, 2);
}

fn impatient() -> Config {
    Config { header_timeout: Duration::from_millis(150), ..Config::default() }
}

#[tokio::test]
async fn a_client_that_says_nothing_is_let_go() {
    let server = everywhere(impatient()).await;
    for opening in ["", "GET /heal", "PRI * HTTP/2.0\r\n\r\n", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"] {
        let began = Instant::now();
        let mut stream = TcpStream::connect(server.addr).await.unwrap();
        stream.write_all(opening.as_bytes()).await.unwrap();
        until_closed(&mut stream).await;
        assert!(began.elapsed() >= Duration::from_millis(100), "{opening:?} had no time");
        assert!(began.elapsed() < Duration::from_secs(5), "{opening:?}");
    }
}

#[tokio::test]
async fn a_client_that_trickles_its_headers_is_let_go() {
    let server = everywhere(impatient()).await;
    let mut stream = TcpStream::connect(server.addr).await.unwrap();
    // The second request on the connection is watched as the first one is.
    stream.write_all(b"GET /healthz HTTP/1.1\r\nhost: a\r\n\r\n").await.unwrap();
    let mut answer = [0; 1024];
    let read = within("the first answer", stream.read(&mut answer)).await.unwrap();
    assert!(read > 0);
    let began = Instant::now();
    let trickle = async {
        let (mut reading, mut writing) = stream.split();
        let mut sink = Vec::new();
        let write = async {
            loop {
                if writing.write_all(b"x").await.is_err() {
                    return;
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        tokio::select! {
            _ = reading.read_to_end(&mut sink) => {}
            () = write => {}
        }
    };
    within("the end of a slow request", trickle).await;
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
}

#[tokio::test]
async fn a_body_that_never_comes_ends_at_the_deadline() {
    let server =
        everywhere(Config { default_deadline: Duration::from_millis(150), ..Config::default() }).await;
    let head = "POST /probe.v1.Probe/Say HTTP/1.1\r\nhost: a\r\ncontent-type: application/json\r\ncontent-length: 100\r\n";
    let began = Instant::now();
    let mut stream = TcpStream::connect(server.addr).await.unwrap();
    stream.write_all(format!("{head}\r\n{{\"text\":").as_bytes()).await.unwrap();
    let mut answer = vec![0; 4096];
    let read = within("an answer", stream.read(&mut answer)).await.unwrap();
    let answer = String::from_utf8_lossy(&answer[..read]).into_owned();
    assert!(answer.starts_with("HTTP/1.1 504") && answer.contains("deadline_exceeded"), "{answer}");
    assert!(began.elapsed() < Duration::from_secs(5));

    // A request that streams and stalls: its handler is let go at the deadline.
    let (sender, orders) = futures::channel::mpsc::unbounded();
    sender.unbounded_send(order("a")).unwrap();
    let soon = Duration::from_millis(150);
    let error = ProbeClient::new(server.tcp()).join(orders).timeout(soon).await.unwrap_err();
    assert_eq!(error.code(), Code::DeadlineExceeded);
    until("the handler to be gone", || server.running.in_flight() == 0).await;
}

#[tokio::test]
async fn the_longest_deadline_is_the_servers() {
    let server = everywhere(Config { max_deadline: Duration::from_secs(10), ..Config::default() }).await;
    let hour = Duration::from_secs(3600);
    let said = ProbeClient::new(server.tcp()).say(order("")).timeout(hour).await.unwrap();
    let left = said.seen.remaining_ms.unwrap();
    assert!((1..=10_000).contains(&left), "{left}");
}

#[tokio::test]
async fn a_full_server_refuses_calls_and_still_says_that_it_is_well() {
    let server = everywhere(Config { max_in_flight: 2, ..Config::default() }).await;
    let probe = ProbeClient::new(server.tcp());
    let counts = server.prober.counts();
    let mut held = tokio::task::JoinSet::new();
    held.spawn(probe.say(told(Action::ACTION_HANG, 0)).timeout(Duration::from_secs(60)).into_future());
    // A stream takes its place until it ends.
    let stream = probe.count(told(Action::ACTION_HANG, 0)).await.unwrap().into_message();
    until("two calls in flight", || counts.busy() == 2 && server.running.in_flight() == 2).await;
    for way in server.ways() {
        let name = &way.name;
        let error = within(name, way.probe().say(order("one too many")).into_future()).await.unwrap_err();
        assert_eq!(error.code(), Code::ResourceExhausted, "{name}: {error:?}");
        // A probe that fails here would have the engine restart a server that is merely busy.
        let client = health::HealthClient::new(way.channel.clone());
        let answer = client.check(health::HealthCheckRequest::default()).await;
        assert!(answer.is_ok(), "{name}: {answer:?}");
    }
    drop(stream);
    held.shutdown().await;
    until("the places to be free", || server.running.in_flight() == 0).await;
    probe.say(order("now")).await.unwrap();
}

#[tokio::test]
async fn a_refused_call_is_made_elsewhere() {
    let full = everywhere(Config { max_in_flight: 0, ..Config::default() }).await;
    let error = ProbeClient::new(full.tcp()).say(order("")).await.unwrap_err();
    assert_eq!(error.code(), Code::ResourceExhausted);
    assert_eq!(full.prober.counts().began(), 0);
}

#[tokio::test]
async fn so_many_connections_and_no_more() {
    let server = everywhere(Config { max_connections: 2, ..Config::default() }).await;
    let hold = || async {
        let mut stream = TcpStream::connect(server.addr).await.unwrap();
        stream.write_all(b"GET /healthz HTTP/1.1\r\nhost: a\r\n\r\n").await.unwrap();
        stream
    };
    let mut answer = [0; 512];
    let (mut first, mut second, mut third) = (hold().await, hold().await, hold().await);
    assert!(within("the first", first.read(&mut answer)).await.unwrap() > 0);
    assert!(within("the second", second.read(&mut answer)).await.unwrap() > 0);
    let waits = tokio::time::timeout(Duration::from_millis(150), third.read(&mut answer)).await;
    assert!(waits.is_err(), "a third connection was served");
    drop(first);
    assert!(within("the third, in its turn", third.read(&mut answer)).await.unwrap() > 0);
}

#[tokio::test]
async fn noise_does_no_harm() {
    let server = everywhere(impatient()).await;
    let mut noise = fastrand::Rng::with_seed(7);
    for _ in 0..50 {
        let bytes: Vec<u8> = (0..noise.usize(1..400)).map(|_| noise.u8(..)).collect();
        let mut stream = TcpStream::connect(server.addr).await.unwrap();
        let _ = stream.write_all(&bytes).await;
    }
    let json = "application/json";
    let addr = server.addr;
    let said = one(addr, post(addr, "/probe.v1.Probe/Say", json, r#"{"text":"hi"}"#)).await;
    assert_eq!(said.status(), 200);
}

#[tokio::test]
async fn a_client_that_sends_half_a_request_is_let_go_whatever_its_deadline() {
    let server = everywhere(Config { body_timeout: Duration::from_millis(150), ..Config::default() }).await;
    let began = Instant::now();
    let mut stream = TcpStream::connect(server.addr).await.unwrap();
    let request = "POST /probe.v1.Probe/Say HTTP/1.1\r\nhost: a\r\ncontent-type: application/json\r\n\
                   connect-timeout-ms: 3600000\r\ncontent-length: 100\r\n\r\n{\"text\":";
    stream.write_all(request.as_bytes()).await.unwrap();
    let answer = until_closed(&mut stream).await;
    assert!(!answer.starts_with("HTTP/1.1 200") && !answer.contains("404"), "{answer}");
    assert!(
        began.elapsed() >= Duration::from_millis(100) && began.elapsed() < Duration::from_secs(5),
        "{answer}"
    );
    // A stream may pause for longer.
    for way in server.ways() {
        let slow = futures::stream::unfold(0, |n| async move {
            tokio::time::sleep(Duration::from_millis(250 * n)).await;
            (n < 2).then(|| (order("a"), n + 1))
        });
        let joined = within(&way.name, way.probe().join(slow).into_future()).await.unwrap();
        assert_eq!(joined.number, 2, "{}", way.name);
    }
}

#[tokio::test]
async fn a_client_that_does_not_read_is_let_go() {
    let server = everywhere(Config { write_timeout: Duration::from_millis(300), ..Config::default() }).await;
    let mut stream = TcpStream::connect(server.addr).await.unwrap();
    // Far more of an answer than the sockets between hold.
    let request = "GET /metrics HTTP/1.1\r\nhost: a\r\n\r\n".repeat(100);
    let began = Instant::now();
    let written = async {
        while stream.write_all(request.as_bytes()).await.is_ok() {
            tokio::task::yield_now().await;
        }
    };
    within("the server to close the connection", written).await;
    assert!(began.elapsed() >= Duration::from_millis(250), "{:?}", began.elapsed());
}
