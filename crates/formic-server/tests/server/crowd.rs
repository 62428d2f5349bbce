//! Many connections that each keep to their limits: what they fill together is bounded, and whoever else calls is served.
#![expect(clippy::print_stdout, reason = "a test says what it skips")]

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use formic_core::Endpoint;
use formic_mux::Limits;
use formic_mux::codec::frame::request;
use formic_mux::codec::{MAGIC, Type, write};
use formic_probe::{Order, ProbeClient, ProbeServer, Prober};
use formic_server::{Bound, Config, Server, Serving};
use formic_telemetry::Metrics;
use formic_testing::{in_time, wait_until};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use crate::ways::multiplexed;

const MIB: usize = 1 << 20;

/// Half a gigabyte takes its time on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// What the server may hold, and how much is sent to it that it would have to: each connection keeps to what it may hold alone.
const MOST: usize = 32 * MIB;
const CONNECTIONS: usize = 64;
const EACH: usize = 8 * MIB;

/// The memory of this process, where the system says it.
fn resident() -> Option<usize> {
    let said = std::fs::read_to_string("/proc/self/statm").ok()?;
    Some(said.split(' ').nth(1)?.parse::<usize>().ok()? * 4096)
}

/// Requests that do not end.
async fn press(addr: SocketAddr) {
    let mut io = TcpStream::connect(addr).await.unwrap();
    let mut greeting = Vec::new();
    Limits::default().write(&mut greeting);
    io.write_all(&greeting).await.unwrap();
    let mut theirs = vec![0; greeting.len()];
    io.read_exact(&mut theirs).await.unwrap();
    assert_eq!(theirs[..8], MAGIC);
    let (mut from, mut to) = io.split();
    let pressing = async {
        let piece = Bytes::from(vec![7; 64 << 10]);
        for id in 1..=(EACH / piece.len()) as u32 {
            let mut begun = Vec::new();
            write::frame(&mut begun, Type::Request, id, |out| {
                out.push(request::MESSAGE | request::MORE);
                write::varint(out, 1);
                write::bytes(out, b"/probe.v1.Probe/Say");
                write::varint(out, 0);
                out.extend_from_slice(&piece[..60 << 10]);
            });
            to.write_all(&begun).await.unwrap();
        }
    };
    let mut unread = vec![0; 64 << 10];
    let reading = async { while from.read(&mut unread).await.unwrap() > 0 {} };
    futures::future::join(pressing, reading).await;
}

/// What `/metrics` says of something.
fn metric(metrics: &Metrics, name: &str) -> f64 {
    let text = metrics.render();
    let line = text.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_else(|| panic!("{name}"));
    line.trim().parse().unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_crowd_fills_no_more_than_the_server_has_and_others_are_served() {
    let metrics = Metrics::new();
    let config = Config { max_held: MOST, ..Config::default() };
    let probe = Arc::new(ProbeServer::new(Prober::new()));
    let mut running = Server::new(config, metrics.clone()).serve(probe).unwrap().build().unwrap();
    let any = Endpoint::Tcp(SocketAddr::from(([127, 0, 0, 1], 0)));
    let Endpoint::Tcp(addr) = running.listen(Bound::bind(&any).await.unwrap()) else { unreachable!() };
    running.health().set(Serving::Ready);
    let stranger = ProbeClient::new(multiplexed(addr.into()));
    let say = |text: String| stranger.say(Order { text, ..Order::default() }).timeout(PATIENCE).into_future();
    in_time("a call before", PATIENCE, say("hi".into())).await.unwrap();

    let before = resident();
    let mut crowd = JoinSet::new();
    for _ in 0..CONNECTIONS {
        crowd.spawn(press(addr));
    }
    let held = || metric(&metrics, "formic_server_held_bytes ");
    let refused = || metric(&metrics, "formic_server_shed_total{reason=\"MEMORY\",priority=\"normal\"} ");
    let all = (CONNECTIONS * EACH / (64 << 10)) as f64;
    // What is left has room within the budget.
    wait_until("most to be refused", PATIENCE, || refused() > all / 2.0).await;
    for n in 0..20 {
        let text = n.to_string().repeat(1000);
        let said = in_time("a small call", PATIENCE, say(text.clone())).await.unwrap();
        assert_eq!(said.text, text);
        assert!(held() <= MOST as f64);
    }
    // What the crowd holds too much of is given up within seconds, so there is room for more than a little.
    let text = "x".repeat(100_000);
    in_time("a larger call", PATIENCE, async {
        while say(text.clone()).await.is_err() {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    })
    .await;
    match (before, resident()) {
        (Some(before), Some(after)) => {
            // Without a bound it is more than 500 MiB. Other tests are at work in the same process.
            assert!(after < before + 250 * MIB, "{} MiB more", (after - before) / MIB);
        }
        _ => println!(
            "formic-test-skipped: a_crowd_fills_no_more_than_the_server_has_and_others_are_served: \
             the memory of a process is not told here"
        ),
    }
    crowd.shutdown().await;
    wait_until("what was held to be free", PATIENCE, || held() == 0.0).await;
}
