//! Real sockets on loopback, with a registry in memory.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

use formic_core::{Instance, InstanceId};
use formic_registry::{Memory, Registry};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use super::*;

const SOON: Duration = Duration::from_secs(20);

/// A program that says its name to whoever connects, and then says back what it is told.
struct Program {
    task: JoinHandle<()>,
    id: InstanceId,
}

struct Scene {
    registry: Arc<Memory>,
    address: SocketAddr,
    stop: CancellationToken,
    metrics: Metrics,
    proxy: JoinHandle<Result<(), GatewayError>>,
}

impl Scene {
    async fn new(max_connections: u32, connect_timeout: Duration, grace: Duration) -> Self {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let front = Front { listen: address, connect_timeout, max_connections };
        let config = Config { services: [("db".to_owned(), front)].into(), grace };
        let (registry, metrics, stop) = (Arc::new(Memory::new()), Metrics::new(), CancellationToken::new());
        let (ready, is_ready) = oneshot::channel();
        let handed = [("db".to_owned(), listener)].into();
        let known = Arc::clone(&registry) as DynRegistry;
        let proxy = tokio::spawn(run(config, handed, known, metrics.clone(), stop.clone(), |addresses| {
            ready.send(addresses).unwrap();
        }));
        let addresses = is_ready.await.unwrap();
        assert_eq!(addresses.public, Endpoint::Tcp(address));
        Self { registry, address, stop, metrics, proxy }
    }

    async fn program(&self, name: &str) -> Program {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let endpoint = Endpoint::Tcp(listener.local_addr().unwrap());
        let said = format!("{name}\n");
        let task = tokio::spawn(async move {
            let mut carried = JoinSet::new();
            while let Ok((mut stream, _)) = listener.accept().await {
                let said = said.clone();
                carried.spawn(async move {
                    let (mut read, mut write) = stream.split();
                    write.write_all(said.as_bytes()).await?;
                    tokio::io::copy(&mut read, &mut write).await?;
                    write.shutdown().await
                });
            }
        });
        let id = InstanceId::new(name);
        let instance = Instance {
            id: id.clone(),
            service: ServiceName::new("db").unwrap(),
            version: String::new(),
            endpoint,
            metadata: Default::default(),
            rpc: Vec::new(),
        };
        self.registry.register(instance, Duration::from_secs(3600)).await.unwrap();
        Program { task, id }
    }

    async fn connect(&self) -> (TcpStream, String) {
        let mut stream = TcpStream::connect(self.address).await.unwrap();
        let mut name = Vec::new();
        let read = async {
            while name.last() != Some(&b'\n') {
                name.push(stream.read_u8().await.unwrap());
            }
        };
        tokio::time::timeout(SOON, read).await.expect("somebody answers");
        (stream, String::from_utf8(name).unwrap().trim().to_owned())
    }

    async fn end(self) {
        self.stop.cancel();
        tokio::time::timeout(SOON, self.proxy).await.unwrap().unwrap().unwrap();
    }

    async fn until(&self, what: &str) {
        let shown = async {
            while !self.metrics.render().contains(what) {
                sleep(Duration::from_millis(5)).await;
            }
        };
        assert!(tokio::time::timeout(SOON, shown).await.is_ok(), "no {what} in {}", self.metrics.render());
    }
}

#[tokio::test]
async fn who_has_the_fewest_connections_gets_the_next_and_bytes_go_both_ways() {
    let scene = Scene::new(100, SOON, SOON).await;
    let (_a, _b) = (scene.program("a").await, scene.program("b").await);
    let mut held = Vec::new();
    // The registry tells of both before long; from then on they take turns.
    loop {
        let (stream, name) = scene.connect().await;
        held.push((stream, name.clone()));
        if name == "b" || held.len() == 500 {
            break;
        }
        drop(held.remove(0));
    }
    drop(held);
    scene.until("formic_proxy_open_connections{service=\"db\"} 0").await;
    let mut names = Vec::new();
    let mut held = Vec::new();
    for _ in 0..10 {
        let (stream, name) = scene.connect().await;
        held.push(stream);
        names.push(name);
    }
    assert_eq!(names.iter().filter(|name| *name == "a").count(), 5, "{names:?}");
    // More than any buffer, and each way is closed by itself.
    let mut stream = held.remove(0);
    let sent: Vec<u8> = (0..3_000_000_u32).map(|n| (n % 251) as u8).collect();
    let (mut read, mut write) = stream.split();
    let writing = async {
        write.write_all(&sent).await.unwrap();
        write.shutdown().await.unwrap();
    };
    let mut got = Vec::new();
    let both = async { tokio::join!(writing, read.read_to_end(&mut got)) };
    tokio::time::timeout(SOON, both).await.unwrap().1.unwrap();
    assert!(got == sent, "{} of {} bytes came back", got.len(), sent.len());
    drop((stream, held));
    scene.end().await;
}

#[tokio::test]
async fn who_is_dead_is_passed_over_and_who_comes_too_early_waits() {
    let scene = Scene::new(100, SOON, SOON).await;
    let early = scene.connect();
    let first = async {
        sleep(Duration::from_millis(50)).await;
        scene.program("a").await
    };
    let ((stream, name), a) = tokio::join!(early, first);
    assert_eq!(name, "a");
    let b = scene.program("b").await;
    // Killed: the registry has it still, its port refuses.
    a.task.abort();
    let _ = a.task.await;
    for _ in 0..20 {
        assert_eq!(scene.connect().await.1, "b");
    }
    // Who was on it and has not noticed takes no place for ever.
    scene.until("formic_proxy_open_connections{service=\"db\"} 0").await;
    drop(stream);
    scene.registry.deregister(&b.id).await.unwrap();
    b.task.abort();
    scene.end().await;
}

#[tokio::test]
async fn nobody_in_time_is_an_end_and_no_hang() {
    let scene = Scene::new(100, Duration::from_millis(50), SOON).await;
    let mut stream = TcpStream::connect(scene.address).await.unwrap();
    let read = tokio::time::timeout(SOON, stream.read(&mut [0; 8])).await.unwrap();
    assert!(matches!(read, Ok(0) | Err(_)), "{read:?}");
    scene.until("formic_proxy_unserved_total{service=\"db\"} 1").await;
    scene.end().await;
}

#[tokio::test]
async fn more_than_there_may_be_wait_in_the_queue() {
    let scene = Scene::new(2, SOON, SOON).await;
    let _a = scene.program("a").await;
    let (one, two) = (scene.connect().await, scene.connect().await);
    let mut three = TcpStream::connect(scene.address).await.unwrap();
    let mut first = [0];
    let waited = tokio::time::timeout(Duration::from_millis(200), three.read(&mut first)).await;
    assert!(waited.is_err(), "a third was served beside two");
    drop(one);
    tokio::time::timeout(SOON, three.read_exact(&mut first)).await.unwrap().unwrap();
    assert_eq!(&first, b"a");
    drop((two, three));
    scene.end().await;
}

#[tokio::test]
async fn at_the_end_what_there_is_goes_on_for_its_grace_and_is_then_cut() {
    for cut in [false, true] {
        let grace = if cut { Duration::from_millis(100) } else { SOON };
        let scene = Scene::new(100, SOON, grace).await;
        let _a = scene.program("a").await;
        let (mut stream, _) = scene.connect().await;
        scene.stop.cancel();
        let mut back = [0; 4];
        if cut {
            // Whether by an end or a reset.
            let read = tokio::time::timeout(SOON, stream.read(&mut back)).await.unwrap();
            assert!(matches!(read, Ok(0) | Err(_)), "{read:?}");
        } else {
            sleep(Duration::from_millis(50)).await;
            stream.write_all(b"ping").await.unwrap();
            tokio::time::timeout(SOON, stream.read_exact(&mut back)).await.unwrap().unwrap();
            assert_eq!(&back, b"ping");
            drop(stream);
        }
        scene.end().await;
    }
}
