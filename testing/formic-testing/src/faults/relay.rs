//! What befalls connections: a relay of bytes that stands in front of a server, for any client.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::sleep;

use super::{Dealt, Fault, Inner};

/// A connection that is not to be.
#[derive(Debug)]
pub(crate) struct Refused;

/// Between whom connections go.
#[derive(Clone, Debug)]
pub(crate) struct Link {
    inner: Arc<Inner>,
    from: Arc<str>,
    to: Arc<str>,
}

impl Link {
    pub(crate) fn new(inner: Arc<Inner>, from: &str, to: &str) -> Self {
        Self { inner, from: from.into(), to: to.into() }
    }

    /// The fault of the next connection.
    ///
    /// # Errors
    /// If that is to be none.
    pub(crate) fn open(&self) -> Result<Option<Dealt>, Refused> {
        match self.inner.deal(Some(&self.from), Some(&self.to)) {
            Some(dealt) if matches!(dealt.fault, Fault::Refuse | Fault::Error(_)) => {
                dealt.strike();
                Err(Refused)
            }
            dealt => Ok(dealt),
        }
    }

    async fn reach(&self, way: Way) {
        match way {
            Way::There => self.inner.reach(Some(&self.from), Some(&self.to)).await,
            Way::Back => self.inner.reach(Some(&self.to), Some(&self.from)).await,
        }
    }
}

/// A relay on a loopback port of its own. Dropping it breaks its connections.
#[derive(Debug)]
pub struct Relay {
    addr: SocketAddr,
    task: JoinHandle<()>,
    cut: watch::Sender<u64>,
    connections: Arc<AtomicUsize>,
}

impl Relay {
    pub(super) async fn start(link: Link, server: SocketAddr) -> Self {
        let listener = match TcpListener::bind("127.0.0.1:0").await {
            Ok(listener) => listener,
            Err(error) => panic!("no port is left for a relay: {error}"),
        };
        let Ok(addr) = listener.local_addr() else { panic!("the relay has no address") };
        let (cut, connections) = (watch::Sender::new(0), Arc::new(AtomicUsize::new(0)));
        let task =
            tokio::task::spawn(accept(listener, link, server, cut.subscribe(), Arc::clone(&connections)));
        Self { addr, task, cut, connections }
    }

    /// Where clients find it.
    #[must_use]
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// How many connections it has taken so far.
    #[must_use]
    pub fn connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }

    /// Breaks all the connections of now.
    pub fn cut(&self) {
        self.cut.send_modify(|cuts| *cuts += 1);
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn accept(
    listener: TcpListener,
    link: Link,
    server: SocketAddr,
    cut: watch::Receiver<u64>,
    connections: Arc<AtomicUsize>,
) {
    let mut pumps = JoinSet::new();
    loop {
        while pumps.try_join_next().is_some() {}
        let Ok((caller, _)) = listener.accept().await else { return };
        connections.fetch_add(1, Ordering::SeqCst);
        let (link, mut cut) = (link.clone(), cut.clone());
        cut.mark_unchanged();
        pumps.spawn(async move {
            let relaying = async {
                let Ok(fault) = link.open() else { return };
                let Ok(server) = TcpStream::connect(server).await else { return };
                // Small pieces must not wait for the next one: the delays here are by order.
                let _ = (caller.set_nodelay(true), server.set_nodelay(true));
                pump(caller, server, link, fault).await;
            };
            tokio::select! {
                () = relaying => {}
                _ = cut.changed() => {}
            }
        });
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    There,
    Back,
}

/// Passes on what both say until one of them ends it, or the fault does.
pub(crate) async fn pump<C, S>(caller: C, server: S, link: Link, fault: Option<Dealt>)
where
    C: AsyncRead + AsyncWrite + Send,
    S: AsyncRead + AsyncWrite + Send,
{
    let (from_caller, to_caller) = tokio::io::split(caller);
    let (from_server, to_server) = tokio::io::split(server);
    let there = copy(from_caller, to_server, Way::There, &link, fault.as_ref());
    let back = copy(from_server, to_caller, Way::Back, &link, fault.as_ref());
    let (mut there, mut back) = (std::pin::pin!(there), std::pin::pin!(back));
    // One way may end before the other; a break ends both.
    tokio::select! {
        end = &mut there => if end == End::Closed { back.await; },
        end = &mut back => if end == End::Closed { there.await; },
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    /// Its sender has nothing more to say.
    Closed,
    Broken,
}

/// How much of a slow body goes at once.
const PIECE: usize = 64;

/// What both sides of HTTP/2 say before the first call, and more: a call or an answer exceeds it.
const HANDSHAKE: usize = 128;

/// How long what both sides say before the first call may be: the greeting of the multiplexed wire (`docs/wire.md`) says it.
fn handshake(first: &[u8]) -> usize {
    match first {
        [0xf0, rest @ ..] => 11 + 6 * usize::from(rest.get(9).copied().unwrap_or_default()),
        _ => HANDSHAKE,
    }
}

/// What becomes of bytes that meet a fault.
enum Due {
    /// They arrive so much later.
    Late(Duration),
    /// They do not arrive.
    Lost,
    /// So many arrive, and then the connection breaks.
    Cut(usize),
    /// A few arrive at a time, each after so long.
    Slow(Duration),
}

/// What these bytes meet, if anything.
fn due(fault: &Fault, way: Way, passed: usize, length: usize, first: usize) -> Option<Due> {
    match (fault, way) {
        (Fault::Latency(by), _) => Some(Due::Late(*by)),
        (Fault::Drop, _) | (Fault::DropAnswer, Way::Back) => Some(Due::Lost),
        (Fault::Reset, Way::There) | (Fault::ResetAnswer, Way::Back) => {
            (passed + length > first).then_some(Due::Cut(0))
        }
        (Fault::Break(after), Way::Back) => {
            (passed + length > *after).then(|| Due::Cut(after.saturating_sub(passed)))
        }
        (Fault::SlowBody(by), Way::Back) => Some(Due::Slow(*by)),
        _ => None,
    }
}

/// Passes on one way.
async fn copy(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    way: Way,
    link: &Link,
    dealt: Option<&Dealt>,
) -> End {
    let mut buffer = vec![0; 16 << 10];
    let (mut passed, mut first) = (0, HANDSHAKE);
    loop {
        let length = match from.read(&mut buffer).await {
            Ok(0) => {
                let _ = to.shutdown().await;
                return End::Closed;
            }
            Ok(length) => length,
            Err(_) => return End::Broken,
        };
        link.reach(way).await;
        if passed == 0 {
            first = handshake(&buffer[..length]);
        }
        let piece = match dealt.map(|dealt| (dealt, due(&dealt.fault, way, passed, length, first))) {
            Some((dealt, Some(due))) => {
                dealt.strike();
                match due {
                    Due::Late(by) => {
                        sleep(by).await;
                        length
                    }
                    Due::Lost => continue,
                    Due::Cut(0) => return End::Broken,
                    Due::Cut(piece) => piece,
                    Due::Slow(by) => {
                        match trickle(&mut to, &buffer[..length], by).await {
                            Ok(()) => passed += length,
                            Err(_) => return End::Broken,
                        }
                        continue;
                    }
                }
            }
            _ => length,
        };
        let sent = to.write_all(&buffer[..piece]).await;
        if sent.is_err() || to.flush().await.is_err() || piece < length {
            return End::Broken;
        }
        passed += piece;
    }
}

async fn trickle(to: &mut (impl AsyncWrite + Unpin), bytes: &[u8], by: Duration) -> std::io::Result<()> {
    for piece in bytes.chunks(PIECE) {
        sleep(by).await;
        to.write_all(piece).await?;
        to.flush().await?;
    }
    Ok(())
}
