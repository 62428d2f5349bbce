//! The conformance suite, and what is special about mDNS, over real multicast on loopback.
//!
//! Two responders in one process: one announces, the other looks. The port is not 5353, so that the
//! tests neither see nor disturb what else runs on the machine.
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "tests")]

use std::collections::BTreeMap;
use std::io;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use formic_core::{Endpoint, Instance, InstanceId, ServiceName};
use formic_registry::conformance::{self, Subject};
use formic_registry::{Error, Registry};
use formic_registry_mdns::{Config, Mdns};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::time::{Instant, timeout};

/// How long what is said may take on a busy machine to be heard; less than it takes to ask again those who said nothing.
const PATIENCE: Duration = Duration::from_secs(12);

const GROUP: Ipv4Addr = Ipv4Addr::new(224, 0, 0, 251);

/// Sends one datagram to the mDNS group on loopback and waits for it.
fn multicast() -> io::Result<()> {
    let local = Ipv4Addr::LOCALHOST;
    let receiver = Socket::new(Domain::IPV4, Type::DGRAM, Some(Protocol::UDP))?;
    receiver.bind(&SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0)).into())?;
    receiver.join_multicast_v4(&GROUP, &local)?;
    receiver.set_read_timeout(Some(Duration::from_secs(2)))?;
    let port = receiver.local_addr()?.as_socket().map_or(0, |addr| addr.port());
    let sender = Socket::new(Domain::IPV4, Type::DGRAM, Some(Protocol::UDP))?;
    sender.set_multicast_if_v4(&local)?;
    sender.set_multicast_loop_v4(true)?;
    sender.send_to(b"formic", &SocketAddrV4::new(GROUP, port).into())?;
    let receiver: std::net::UdpSocket = receiver.into();
    receiver.recv(&mut [0; 16]).map(|_| ())
}

/// Whether the test can run; says so when not.
fn possible(name: &str) -> bool {
    match multicast() {
        Ok(()) => true,
        Err(error) => {
            println!("formic-test-skipped: {name}: no multicast on loopback: {error}");
            false
        }
    }
}

fn free_port() -> u16 {
    std::net::UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

fn config(port: u16) -> Config {
    Config { port, ..Config::default() }
}

fn order() -> ServiceName {
    ServiceName::new("order").unwrap()
}

fn instance(id: &str, endpoint: &str) -> Instance {
    Instance {
        id: InstanceId::new(id),
        service: order(),
        version: String::new(),
        endpoint: endpoint.parse::<Endpoint>().unwrap(),
        metadata: BTreeMap::new(),
        rpc: Vec::new(),
    }
}

/// Waits until the registry lists this many instances of `order`.
async fn wait_for(registry: &Mdns, count: usize, limit: Duration) {
    let mut watch = registry.watch(Some(order()));
    let mut last = None;
    let wait = async {
        while last.as_ref().is_none_or(|found: &Vec<_>| found.len() != count) {
            last = Some(watch.next().await.unwrap().instances.to_vec());
        }
    };
    let done = timeout(limit, wait).await.is_ok();
    assert!(done, "after {limit:?} there are {last:?}, not {count}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn conforms() {
    if !possible("mdns conforms") {
        return;
    }
    conformance::run(|| async {
        let port = free_port();
        let (writer, reader) = (Mdns::new(config(port)).unwrap(), Mdns::new(config(port)).unwrap());
        Subject::new(Arc::new(writer)).with_reader(Arc::new(reader), Duration::from_secs(6)).with_churn(12)
    })
    .await;
}

#[tokio::test]
async fn a_latecomer_finds_what_was_announced_before() {
    if !possible("mdns latecomer") {
        return;
    }
    let port = free_port();
    let writer = Mdns::new(config(port)).unwrap();
    writer.register(instance("a.b", "127.0.0.1:1001"), Duration::from_secs(60)).await.unwrap();
    tokio::time::sleep(Duration::from_millis(1500)).await;
    let reader = Mdns::new(config(port)).unwrap();
    let began = Instant::now();
    wait_for(&reader, 1, PATIENCE).await;
    println!("found after {:?}", began.elapsed());
    assert_eq!(reader.get(&order()).await.unwrap()[0].id.as_str(), "a.b");
    writer.shutdown().await;
    wait_for(&reader, 0, PATIENCE).await;
    reader.shutdown().await;
    let late = reader.register(instance("late", "127.0.0.1:1002"), Duration::from_secs(1)).await;
    assert!(matches!(late, Err(Error::Unavailable { .. })), "{late:?}");
}

#[tokio::test]
async fn dropping_says_goodbye() {
    if !possible("mdns goodbye") {
        return;
    }
    let port = free_port();
    let (writer, reader) = (Mdns::new(config(port)).unwrap(), Mdns::new(config(port)).unwrap());
    writer.register(instance("a", "127.0.0.1:1001"), Duration::from_secs(60)).await.unwrap();
    wait_for(&reader, 1, PATIENCE).await;
    drop(writer);
    wait_for(&reader, 0, PATIENCE).await;
}

#[tokio::test]
async fn what_nobody_could_find_is_refused() {
    let registry = Mdns::new(config(free_port())).unwrap();
    let long = "x".repeat(64);
    for bad in
        [instance("a", "192.0.2.1:80"), instance("a", "unix:/run/a.sock"), instance(&long, "127.0.0.1:80")]
    {
        let answer = registry.register(bad.clone(), Duration::from_secs(1)).await;
        assert!(matches!(answer, Err(Error::Invalid(_))), "{bad:?}: {answer:?}");
    }
}

/// Run by the test below, in a process of its own, until it is killed.
#[tokio::test]
async fn child_that_announces() {
    let Some(port) = std::env::var("FORMIC_TEST_MDNS_PORT").ok().and_then(|port| port.parse().ok()) else {
        return;
    };
    let registry = Mdns::new(config(port)).unwrap();
    registry.register(instance("child", "127.0.0.1:1001"), Duration::from_secs(600)).await.unwrap();
    // Bounded, should the parent die first.
    tokio::time::sleep(Duration::from_secs(60)).await;
}

#[tokio::test]
async fn a_killed_process_is_noticed() {
    if !possible("mdns killed process") {
        return;
    }
    let port = free_port();
    let reader = Mdns::new(Config { reconfirm: Duration::from_secs(1), ..config(port) }).unwrap();
    let mut child = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "child_that_announces"])
        .env("FORMIC_TEST_MDNS_PORT", port.to_string())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let check = async {
        wait_for(&reader, 1, Duration::from_secs(10)).await;
        // A living one is asked again and again, and stays.
        let mut watch = reader.watch(Some(order()));
        watch.next().await.unwrap();
        let change = timeout(Duration::from_secs(6), watch.next()).await;
        assert!(change.is_err(), "a living instance flaps: {change:?}");
    };
    let outcome = std::panic::AssertUnwindSafe(check);
    let outcome = futures::FutureExt::catch_unwind(outcome).await;
    child.kill().unwrap();
    child.wait().unwrap();
    outcome.unwrap();
    wait_for(&reader, 0, Duration::from_secs(10)).await;
}
