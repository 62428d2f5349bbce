//! What the gateway knows of routes, and what it does when nobody tells it anything new.

use std::sync::Arc;
use std::time::Duration;

use formic_core::{Endpoint, InstanceId};
use formic_probe::{ProbeServer, Prober};
use formic_registry::{Memory, Registry};
use formic_rpc::Channel;
use formic_telemetry::Metrics;
use tokio_util::sync::CancellationToken;

use crate::{Daemon, Front, PATIENCE, config, front, register, serve, text, within};

const SAY: &str = "/probe.v1.Probe/Say";
const NAME: &str = "/probe.v1.Plain/Name";

async fn status_becomes(front: &Front, path: &str, status: u16) {
    let what = format!("{path} to answer {status}");
    formic_testing::wait_for(&what, PATIENCE, async || {
        (front.json(path, "{}").await.status() == status).then_some(())
    })
    .await;
}

#[tokio::test]
async fn what_is_exposed_changes_by_watch_and_never_back() {
    let front = front(|_| {}).await;
    front.daemon.say(5, &["shop", "vault"]).await;
    status_becomes(&front, NAME, 200).await;
    // An older set comes late; what follows it shows that it was read.
    front.daemon.say(4, &[]).await;
    front.daemon.say(6, &["vault"]).await;
    status_becomes(&front, SAY, 404).await;
    assert_eq!(front.json(NAME, "{}").await.status(), 200);
    front.daemon.say(3, &[]).await;
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert_eq!(front.json(NAME, "{}").await.status(), 200, "an older generation was taken");
}

#[tokio::test]
async fn the_last_known_routes_stay_while_the_daemon_is_away() {
    let front = front(|_| {}).await;
    front.daemon.say(9, &["shop", "vault"]).await;
    status_becomes(&front, NAME, 200).await;
    front.daemon.goes_away();
    for _ in 0..20 {
        assert_eq!(front.json(SAY, "{}").await.status(), 200);
        assert_eq!(front.json(NAME, "{}").await.status(), 200);
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    // The next daemon counts from 1 again.
    *front.daemon.first.lock().unwrap() = Daemon::exposing(&["vault"]).first.lock().unwrap().clone();
    status_becomes(&front, SAY, 404).await;
    assert_eq!(front.daemon.watchers(), 1);
    assert_eq!(front.json(NAME, "{}").await.status(), 200);
}

#[tokio::test]
async fn a_service_that_is_down_is_unavailable_and_comes_back() {
    let mut front = front(|_| {}).await;
    assert_eq!(front.json(SAY, "{}").await.status(), 200);
    front.registry.deregister(&InstanceId::new("shop-1")).await.unwrap();
    front.shop.take().unwrap().stop(Duration::from_secs(1)).await;
    // Not 404: its methods are known, only nobody is there to answer.
    let answer = front.json(SAY, "{}").await;
    assert_eq!(answer.status(), 503, "{}", text(&answer));
    assert!(text(&answer).contains("unavailable"), "{}", text(&answer));

    let again = serve(Arc::new(ProbeServer::new(Prober::new()))).await;
    register(&front.registry, "shop", &again).await;
    status_becomes(&front, SAY, 200).await;
}

#[tokio::test]
async fn it_is_ready_once_it_knows_its_routes() {
    let daemon = Daemon::default();
    let registry = Arc::new(Memory::new());
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let mut config = config();
    config.listen = Endpoint::Tcp(port);
    let server = formic_api::control::v1::ControlServiceServer::new(daemon.clone());
    let stop = CancellationToken::new();
    let (told, mut ready) = tokio::sync::oneshot::channel();
    let channel = Channel::new(Arc::new(server));
    let metrics = Metrics::new();
    let running =
        formic_gateway::run(config, None, registry, channel, metrics, stop.clone(), |at| drop(told.send(at)));
    let ended = tokio::spawn(running);
    formic_testing::wait_for("the port", PATIENCE, async || tokio::net::TcpStream::connect(port).await.ok())
        .await;
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert!(ready.try_recv().is_err(), "ready without routes");
    *daemon.first.lock().unwrap() = Daemon::exposing(&["shop"]).first.lock().unwrap().clone();
    let addresses = within("the gateway to be ready", ready).await.unwrap();
    assert_eq!((addresses.public, addresses.own), (Endpoint::Tcp(port), Endpoint::Tcp(port)));
    stop.cancel();
    within("the end", ended).await.unwrap().unwrap();
}

#[tokio::test]
async fn it_drains() {
    let front = front(|_| {}).await;
    let slow = r#"{"action":"ACTION_WAIT","millis":"300"}"#;
    let counts = front.prober.counts();
    let calling = front.json(SAY, slow);
    let stopping = async {
        crate::until("the call", || counts.busy() == 1).await;
        front.stop.cancel();
    };
    let (answer, ()) = tokio::join!(calling, stopping);
    assert_eq!(answer.status(), 200, "{}", text(&answer));
    let addr = front.addr;
    within("the end", front.ended).await.unwrap();
    assert!(tokio::net::TcpStream::connect(addr).await.is_err());
}
