//! What stands between both ends in the storm: it reads along, cuts connections at any byte, and lets them fall silent.

use std::collections::HashSet;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use formic::tokio;
use formic::tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use formic::tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use formic::tokio::net::{TcpListener, TcpStream};
use formic::tokio::sync::watch;
use formic::tokio::task::JoinSet;
use formic_mux::codec::{HEADER, Header, MAGIC, Type};

/// How long a connection lives before it is cut or falls silent.
const LIFE_MS: std::ops::Range<u64> = 200..4_000;

/// How long a silent one stays open: longer than a client takes to find out.
const SILENCE: Duration = Duration::from_secs(4);

/// The flag of a response that is the whole answer.
const WHOLE: u8 = 8;

/// What was seen on all connections.
#[derive(Debug, Default)]
pub struct Watched {
    connections: AtomicU64,
    cut: AtomicU64,
    silent: AtomicU64,
    requests: AtomicU64,
    answers: AtomicU64,
    /// Connections of callers who fell back to HTTP, in which nothing is read.
    http: AtomicU64,
    /// Numbers that were answered twice.
    twice: AtomicU64,
    /// Answers to what was never asked, numbers that were used twice, frames that are none.
    strange: AtomicU64,
}

impl Watched {
    /// Whether something was seen that must not be.
    #[must_use]
    pub fn is_broken(&self) -> bool {
        self.twice.load(Ordering::Relaxed) + self.strange.load(Ordering::Relaxed) > 0
    }

    /// Connections that were cut, and that fell silent.
    #[must_use]
    pub fn ended(&self) -> (u64, u64) {
        (self.cut.load(Ordering::Relaxed), self.silent.load(Ordering::Relaxed))
    }
}

impl std::fmt::Display for Watched {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let all = [
            ("connections", &self.connections),
            ("cut", &self.cut),
            ("silent", &self.silent),
            ("requests_seen", &self.requests),
            ("answers_seen", &self.answers),
            ("http", &self.http),
            ("answered_twice", &self.twice),
            ("strange_frames", &self.strange),
        ];
        let all = all.map(|(name, count)| format!("\"{name}\":{}", count.load(Ordering::Relaxed)));
        f.write_str(&all.join(","))
    }
}

/// A relay that runs.
#[derive(Debug)]
pub struct Relay {
    accepting: JoinSet<()>,
    watched: Arc<Watched>,
}

/// How a connection fares.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Weather {
    Fair,
    /// Nothing more goes through, in either direction.
    Silent,
    /// It ends after so many bytes of the next piece.
    Cut(usize),
}

impl Relay {
    /// Accepts connections for a server, and says where.
    ///
    /// # Errors
    /// If it cannot listen.
    pub async fn start(upstream: SocketAddr, seed: u64, cuts: bool) -> std::io::Result<(Self, SocketAddr)> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let at = listener.local_addr()?;
        let watched = Arc::new(Watched::default());
        let seen = Arc::clone(&watched);
        let mut accepting = JoinSet::new();
        accepting.spawn(async move {
            let mut random = fastrand::Rng::with_seed(seed);
            let mut connections = JoinSet::new();
            loop {
                while connections.try_join_next().is_some() {}
                let Ok((down, _)) = listener.accept().await else { continue };
                let chance = random.fork();
                connections.spawn(connection(down, upstream, chance, cuts, Arc::clone(&seen)));
            }
        });
        Ok((Self { accepting, watched }, at))
    }

    /// Ends all connections.
    pub async fn stop(mut self) -> Arc<Watched> {
        self.accepting.shutdown().await;
        Arc::clone(&self.watched)
    }
}

async fn connection(
    client: TcpStream,
    upstream: SocketAddr,
    mut chance: fastrand::Rng,
    cuts: bool,
    watched: Arc<Watched>,
) {
    watched.connections.fetch_add(1, Ordering::Relaxed);
    // A server that is being restarted: the client learns it by the end.
    let Ok(server) = TcpStream::connect(upstream).await else { return };
    let _ = (client.set_nodelay(true), server.set_nodelay(true));
    let ((from_client, to_client), (from_server, to_server)) = (client.into_split(), server.into_split());
    let (weather, seen) = watch::channel(Weather::Fair);
    let known = Arc::new(Mutex::new(Known::default()));
    let follow =
        |up| Follow { up, known: Arc::clone(&known), watched: Arc::clone(&watched), ..Follow::new(up) };
    let both = async {
        // Whoever ends, both end: a connection has no half life.
        tokio::select! {
            () = pump(from_client, to_server, follow(true), seen.clone()) => {}
            () = pump(from_server, to_client, follow(false), seen.clone()) => {}
        }
    };
    let spoil = async {
        if !cuts {
            std::future::pending::<()>().await;
        }
        tokio::time::sleep(Duration::from_millis(chance.u64(LIFE_MS))).await;
        if chance.bool() {
            watched.cut.fetch_add(1, Ordering::Relaxed);
            let _ = weather.send(Weather::Cut(chance.usize(..4_096)));
        } else {
            watched.silent.fetch_add(1, Ordering::Relaxed);
            let _ = weather.send(Weather::Silent);
        }
        tokio::time::sleep(SILENCE).await;
    };
    tokio::select! {
        () = both => {}
        () = spoil => {}
    }
}

async fn pump(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    mut follow: Follow,
    seen: watch::Receiver<Weather>,
) {
    let mut buffer = vec![0; 64 << 10];
    loop {
        let Ok(count @ 1..) = from.read(&mut buffer).await else { return };
        let weather = *seen.borrow();
        let count = match weather {
            Weather::Fair => count,
            Weather::Silent => std::future::pending().await,
            Weather::Cut(after) => count.min(after),
        };
        follow.read(&buffer[..count]);
        if to.write_all(&buffer[..count]).await.is_err() || weather != Weather::Fair {
            return;
        }
    }
}

/// What is known of one connection's calls.
#[derive(Default)]
struct Known {
    highest: u32,
    answered: HashSet<u32>,
}

/// Reads along in one direction.
struct Follow {
    up: bool,
    known: Arc<Mutex<Known>>,
    watched: Arc<Watched>,
    greeted: bool,
    /// What is not a whole frame yet.
    rest: Vec<u8>,
    lost: bool,
}

impl Follow {
    fn new(up: bool) -> Self {
        let (known, watched) = (Arc::default(), Arc::default());
        Self { up, known, watched, greeted: false, rest: Vec::new(), lost: false }
    }

    fn read(&mut self, bytes: &[u8]) {
        if self.lost {
            return;
        }
        self.rest.extend_from_slice(bytes);
        let mut at = 0;
        if !self.greeted {
            if self.rest.first().is_some_and(|&first| first != MAGIC[0]) {
                // The answer goes the way of the question.
                self.watched.http.fetch_add(u64::from(self.up), Ordering::Relaxed);
                self.lost = true;
                return;
            }
            let Some(&limits) = self.rest.get(10) else { return };
            let length = 11 + 6 * usize::from(limits);
            if self.rest.len() < length {
                return;
            }
            (self.greeted, at) = (true, length);
            if self.rest[..8] != MAGIC {
                return self.strange();
            }
        }
        while let Some(head) = self.rest[at..].first_chunk::<HEADER>() {
            let Ok(header) = Header::parse(head) else { return self.strange() };
            let Some(payload) = self.rest.get(at + HEADER..at + HEADER + header.length) else { break };
            at += HEADER + header.length;
            let first = payload.first().copied().unwrap_or_default();
            self.frame(header, first);
        }
        self.rest.drain(..at);
    }

    fn frame(&self, header: Header, flags: u8) {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let count = |counter: &AtomicU64| _ = counter.fetch_add(1, Ordering::Relaxed);
        if self.up {
            if header.kind == Type::Request {
                count(&self.watched.requests);
                if header.id <= known.highest {
                    count(&self.watched.strange);
                }
                known.highest = header.id;
            }
            return;
        }
        let whole = header.kind == Type::Response && flags & WHOLE != 0;
        if whole || matches!(header.kind, Type::End | Type::Error) {
            count(&self.watched.answers);
            if header.id == 0 || header.id > known.highest {
                count(&self.watched.strange);
            }
            if !known.answered.insert(header.id) {
                count(&self.watched.twice);
            }
        }
    }

    fn strange(&mut self) {
        self.watched.strange.fetch_add(1, Ordering::Relaxed);
        self.lost = true;
    }
}
