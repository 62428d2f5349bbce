//! How an endpoint answers a greeting, and what its calls travel over then; and that no call waits longer than its deadline for
//! any of it. Endpoints are in memory and the clock stands still unless everybody waits, so every wait is exact.

use std::collections::VecDeque;
use std::io;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use formic_client::{BoxIo, Client, Config, Connect, Observer, Report, Transport};
use formic_core::{Code, Endpoint, Error};
use formic_mux::Limits;
use formic_registry::Memory;
use formic_rpc::{BoxFuture, Channel};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::server::*;

/// Long enough for whoever is down to be dialled again.
const A_WHILE: Duration = Duration::from_secs(2);

/// What becomes of a connection.
#[derive(Clone, Copy)]
enum Peer {
    /// There is none, and nothing says so.
    Nowhere,
    /// It ends once the greeting was read.
    HangsUp,
    /// It ends in the middle of the server's greeting.
    BreaksOff,
    /// Nothing is said, and all is read.
    Silent,
    /// The greeting is not understood.
    Foreign,
    /// It greets, and neither reads nor writes from then on.
    Stuck,
    /// The service, over the multiplexed wire with so many calls at a time.
    Mux(u32),
    /// Whoever speaks HTTP is heard, and it ends.
    Http,
}

/// What becomes of connections, one after the other; the last for all that follow.
struct Script {
    peers: Mutex<VecDeque<Peer>>,
    echo: Arc<Echo>,
    serving: Mutex<JoinSet<()>>,
    travelled: Mutex<Vec<&'static str>>,
    /// How often HTTP was spoken.
    http: Arc<AtomicUsize>,
}

impl Connect for Script {
    fn connect(&self, _endpoint: &Endpoint) -> BoxFuture<'static, io::Result<BoxIo>> {
        let mut peers = self.peers.lock().unwrap();
        let peer = if peers.len() > 1 { peers.pop_front().unwrap() } else { peers[0] };
        if matches!(peer, Peer::Nowhere) {
            return Box::pin(std::future::pending());
        }
        // Little room, so that whoever does not read is noticed.
        let (here, there) = tokio::io::duplex(4 << 10);
        self.serving.lock().unwrap().spawn(peer.serve(there, Arc::clone(&self.echo), Arc::clone(&self.http)));
        Box::pin(async { Ok(Box::new(here) as BoxIo) })
    }
}

impl Observer for Script {
    fn on_call(&self, report: &Report<'_>) {
        self.travelled.lock().unwrap().push(report.transport);
    }
}

impl Peer {
    async fn serve(self, mut io: DuplexStream, echo: Arc<Echo>, http: Arc<AtomicUsize>) {
        let mut greeting = Vec::new();
        Limits::default().write(&mut greeting);
        let mut read = vec![0; greeting.len()];
        match self {
            Self::Nowhere => {}
            Self::HangsUp => _ = io.read_exact(&mut read).await,
            Self::BreaksOff => {
                io.read_exact(&mut read).await.unwrap();
                io.write_all(&greeting[..9]).await.unwrap();
            }
            Self::Silent => while matches!(io.read(&mut read).await, Ok(1..)) {},
            Self::Foreign => {
                io.read_exact(&mut read).await.unwrap();
                io.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await.unwrap();
            }
            Self::Stuck => {
                io.read_exact(&mut read).await.unwrap();
                io.write_all(&greeting).await.unwrap();
                std::future::pending().await
            }
            Self::Mux(calls) => answer_mux(io, &echo, calls).await,
            Self::Http => {
                // Not answered: the clock of the library that would is not the one that stands still.
                let mut preface = [0; 14];
                io.read_exact(&mut preface).await.unwrap();
                assert_eq!(&preface, b"PRI * HTTP/2.0");
                http.fetch_add(1, Ordering::SeqCst);
            }
        }
    }
}

impl Script {
    fn new(peers: impl IntoIterator<Item = Peer>) -> Arc<Self> {
        let peers = Mutex::new(peers.into_iter().collect());
        let (serving, travelled, http) = (Mutex::default(), Mutex::default(), Arc::default());
        Arc::new(Self { peers, echo: Echo::new(), serving, travelled, http })
    }

    /// Ends all connections, and says what becomes of the next.
    async fn restart(&self, peers: impl IntoIterator<Item = Peer>) {
        *self.peers.lock().unwrap() = peers.into_iter().collect();
        let mut serving = std::mem::take(&mut *self.serving.lock().unwrap());
        serving.shutdown().await;
    }

    /// A channel to the endpoint, which announces the wire.
    async fn announced(self: &Arc<Self>) -> Channel {
        let registry = Memory::new();
        register_mux(&registry, "one", &"127.0.0.1:9".parse().unwrap()).await;
        Client::new(Arc::new(registry), self.config(Transport::Auto)).of("echo")
    }

    /// A channel to the endpoint, of which only the caller says that it speaks the wire.
    fn told(self: &Arc<Self>) -> Channel {
        let endpoint: Endpoint = "127.0.0.1:9".parse().unwrap();
        Client::without_registry(self.config(Transport::Multiplexed)).at(endpoint)
    }

    fn config(self: &Arc<Self>, transport: Transport) -> Config {
        let connector = Some(Arc::clone(self) as Arc<dyn Connect>);
        let observer = Some(Arc::clone(self) as Arc<dyn Observer>);
        Config { transport, connector, observer, ..Config::default() }
    }

    /// What a call travels over, or that it surely was not sent; and a while after it.
    async fn call(&self, channel: &Channel) -> &'static str {
        let before = self.http.load(Ordering::SeqCst);
        let outcome = channel.call(call_of(SAY, "hi")).await;
        let (transport, http) =
            (self.travelled.lock().unwrap().pop().unwrap(), self.http.load(Ordering::SeqCst));
        tokio::time::sleep(A_WHILE).await;
        match outcome {
            Ok(answer) => {
                assert_eq!(text(answer), "hi");
                transport
            }
            Err(_) if http > before => "http",
            Err(error) => {
                assert_eq!((error.code(), error.is_unsent()), (Code::Unavailable, true), "{error}");
                "unsent"
            }
        }
    }
}

/// Any number of calls at a time.
const MUX: Peer = Peer::Mux(1024);

#[tokio::test(start_paused = true)]
async fn other_bytes_mean_http_and_one_end_of_a_connection_does_not() {
    let script = Script::new([Peer::Foreign, Peer::Http]);
    assert_eq!(script.call(&script.announced().await).await, "http");
    for end in [Peer::HangsUp, Peer::BreaksOff, Peer::Silent] {
        let script = Script::new([end, MUX]);
        let channel = script.announced().await;
        assert_eq!(script.call(&channel).await, "unsent");
        assert_eq!(script.call(&channel).await, "multiplexed");

        let script = Script::new([end, end, Peer::Http]);
        let channel = script.announced().await;
        assert_eq!(script.call(&channel).await, "unsent");
        assert_eq!(script.call(&channel).await, "http");

        // Nobody but the caller ever said that the wire is spoken here.
        let script = Script::new([end, Peer::Http]);
        assert_eq!(script.call(&script.told()).await, "http");
    }
}

#[tokio::test(start_paused = true)]
async fn who_has_spoken_the_wire_and_starts_again_is_not_called_over_http() {
    for announced in [true, false] {
        let script = Script::new([MUX]);
        let channel = if announced { script.announced().await } else { script.told() };
        assert_eq!(script.call(&channel).await, "multiplexed");
        script.restart([Peer::HangsUp]).await;
        assert_eq!(script.call(&channel).await, "unsent");
        assert_eq!(script.call(&channel).await, "unsent");
        script.restart([MUX]).await;
        tokio::time::sleep(A_WHILE).await;
        assert_eq!(script.call(&channel).await, "multiplexed");
        // One that does not come back for longer is another by now.
        script.restart([Peer::HangsUp]).await;
        for _ in 0..8 {
            script.call(&channel).await;
        }
        script.restart([Peer::Http]).await;
        tokio::time::sleep(A_WHILE).await;
        assert_eq!(script.call(&channel).await, "http");
    }
}

#[tokio::test(start_paused = true)]
async fn no_call_outlives_its_deadline_whatever_it_waits_for() {
    use Peer::*;
    let cases: [&[Peer]; 8] = [
        &[Nowhere],
        &[Silent],
        &[HangsUp, Nowhere],
        &[HangsUp, HangsUp, Silent],
        &[Foreign, Nowhere],
        &[Foreign, Silent],
        &[Stuck],
        // Nobody takes another call while the first is open.
        &[Mux(1)],
    ];
    for (index, peers) in cases.into_iter().enumerate() {
        for announced in [true, false] {
            let script = Script::new(peers.iter().copied());
            let channel = if announced { script.announced().await } else { script.told() };
            // From far less than any of the client's own limits to more than all of them.
            for allowed in [3, 70, 700, 7_000] {
                let hanging: JoinSet<_> =
                    (0..40).map(|n| hang(channel.clone(), Duration::from_millis(allowed + n % 3))).collect();
                for (took, allowed, error) in hanging.join_all().await {
                    // The runtime's timers count milliseconds, and begin one too late rather than too early.
                    assert!(took <= allowed + Duration::from_millis(2), "case {index}: {took:?}, {error}");
                    let expected = [Code::DeadlineExceeded, Code::Unavailable];
                    assert!(expected.contains(&error.code()), "case {index}: {error}");
                }
            }
        }
    }
}

/// A call that is never answered, whose request does not fit into the room of a connection.
async fn hang(channel: Channel, allowed: Duration) -> (Duration, Duration, Error) {
    let mut call = call_of(HANG, vec![7; 6 << 10]);
    let began = Instant::now();
    call.deadline = Some(began + allowed);
    let Err(error) = channel.call(call).await else { panic!("it never answers") };
    (began.elapsed(), allowed, error)
}

#[tokio::test]
async fn calls_that_fail_at_once_let_others_on_their_thread_run() {
    const MANY: usize = 100_000;
    let nobody = dead().await;
    let channel = Client::without_registry(Config::default()).at(nobody);
    let stop = Arc::new(AtomicBool::new(false));
    let stopped = Arc::clone(&stop);
    let calls = tokio::spawn(async move {
        for n in 0..MANY {
            let error = channel.call(call_of(SAY, "hi")).await.unwrap_err();
            assert!(error.is_unsent(), "{error}");
            if stopped.load(Ordering::SeqCst) {
                return n;
            }
        }
        MANY
    });
    // Whoever else has something to do on this thread, a timer for one.
    tokio::time::sleep(Duration::from_millis(5)).await;
    stop.store(true, Ordering::SeqCst);
    let made = within("the calls to end", calls).await.unwrap();
    assert!(made < MANY, "{made} calls failed before anybody else came to run");
}
