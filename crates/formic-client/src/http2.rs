//! One connection over HTTP/2, on h2 itself.
//!
//! hyper's client was here before: it hands each request through a queue to a task, and starts another task for each
//! answer, so that four tasks wake one another for one call. Here the caller writes its request into the connection and
//! reads its answer out of it, and the connection's own task only moves bytes.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use h2::client::{Builder, Connection, ResponseFuture, SendRequest};
use h2::{PingPong, RecvStream, SendStream};
use http::Request;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::Semaphore;
use tokio::time::{Instant, Sleep, sleep};

/// What may come in unread on a call, and on a connection. The standard's 64 KB would have a large answer wait for a
/// round trip every so often.
const CALL_WINDOW: u32 = 2 << 20;
const CONNECTION_WINDOW: u32 = 5 << 20;

/// What frames that are not read may take in memory beside what is in them: h2 counts what each lacks to 256 bytes, and ends the
/// connection, with all of its calls, where that is too much. Half of the window, as h2 has it, is used up by one stream of messages of
/// a hundred bytes that is read slowly. This is enough for whatever has room in the window, of messages of fourteen bytes or more with their heads of five.
const FRAMES: usize = 64 << 20;

/// The largest head of an answer.
const MAX_HEAD: u32 = 16 << 10;

/// What may wait unsent on a call whose request streams.
const MAX_UNSENT: usize = 1 << 20;

/// Calls at a time before the server has said how many it takes; the least that the standard recommends to allow.
const FIRST_ROOM: usize = 100;

/// More than one connection ever holds, and what a semaphore can count to.
const MOST_ROOM: usize = 1 << 20;

/// A way to write calls to a connection.
#[derive(Clone, Debug)]
pub(crate) struct Sender {
    requests: SendRequest<Bytes>,
    state: Arc<State>,
}

/// What the callers of a connection and its task know of each other.
#[derive(Debug)]
struct State {
    /// No more calls are taken.
    gone: AtomicBool,
    /// Something came in since the connection's task last looked.
    heard: AtomicBool,
    /// A permit for each call that the server takes beside those that are on their way. Who waits here was surely not
    /// sent, which could not be said of a call that waits within h2.
    room: Semaphore,
    /// All permits there are.
    size: AtomicUsize,
}

/// A call's place on its connection.
#[derive(Debug)]
pub(crate) struct Place(Arc<State>);

/// A call that was written to a connection.
pub(crate) struct Open {
    pub(crate) response: ResponseFuture,
    /// Where the request goes on, if it was not given whole.
    pub(crate) requests: Option<SendStream<Bytes>>,
    pub(crate) place: Place,
}

/// The connection takes no more calls, and has taken nothing of this one.
#[derive(Debug)]
pub(crate) struct Closed(pub(crate) Option<h2::Error>);

/// Begins to speak HTTP/2. The future is the connection's own task: it ends when nobody holds a sender any more and the
/// last answer was read, when the peer ends it, and when the peer answers no ping.
///
/// # Errors
/// If nothing can be written.
pub(crate) async fn handshake<S>(
    io: S,
    keep_alive: Option<Duration>,
) -> Result<(Sender, impl Future<Output = Result<(), h2::Error>> + Send + 'static), h2::Error>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let state = Arc::new(State {
        gone: AtomicBool::new(false),
        heard: AtomicBool::new(false),
        room: Semaphore::new(FIRST_ROOM),
        size: AtomicUsize::new(FIRST_ROOM),
    });
    let mut builder = Builder::new();
    builder
        .initial_max_send_streams(FIRST_ROOM)
        .initial_window_size(CALL_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .data_frame_budget(FRAMES)
        .max_header_list_size(MAX_HEAD)
        .max_send_buffer_size(MAX_UNSENT)
        .enable_push(false);
    let io = Heard { io, state: Arc::clone(&state) };
    let (requests, mut connection) = builder.handshake::<_, Bytes>(io).await?;
    let pulse = keep_alive.zip(connection.ping_pong()).map(|(interval, pings)| Pulse::new(interval, pings));
    let sender = Sender { requests, state: Arc::clone(&state) };
    let driver = Driver { over: Over(state), connection, pulse };
    Ok((sender, driver))
}

// === impl Sender ===

impl Sender {
    pub(crate) fn is_closed(&self) -> bool {
        self.state.gone.load(Ordering::Acquire)
    }

    /// Writes a call to the connection: its head and, unless the request streams, its one message. Waits while the
    /// server works on as many calls of this connection as it takes.
    ///
    /// # Errors
    /// If nothing of it was sent.
    pub(crate) async fn open(&mut self, head: Request<()>, message: Option<Bytes>) -> Result<Open, Closed> {
        if self.is_closed() {
            return Err(Closed(None));
        }
        let permit = match self.state.room.try_acquire() {
            Ok(permit) => permit,
            Err(_) => self.state.room.acquire().await.map_err(|_| Closed(None))?,
        };
        permit.forget();
        let place = Place(Arc::clone(&self.state));
        let empty = message.as_ref().is_some_and(Bytes::is_empty);
        let (response, mut requests) = self.requests.send_request(head, empty).map_err(|error| {
            // The peer has said goodbye, the connection broke, or its numbers for calls are used up.
            self.state.gone.store(true, Ordering::Release);
            Closed(Some(error))
        })?;
        let requests = match message {
            None => Some(requests),
            Some(message) => {
                if !empty {
                    // An error here is the call's, which its answer tells.
                    let _ = requests.send_data(message, true);
                }
                None
            }
        };
        Ok(Open { response, requests, place })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.room.add_permits(1);
    }
}

/// What has come of an answer's body, given free for the peer to send more.
pub(crate) fn poll_data(
    body: &mut RecvStream,
    cx: &mut Context<'_>,
) -> Poll<Option<Result<Bytes, h2::Error>>> {
    let data = match std::task::ready!(body.poll_data(cx)) {
        Some(Ok(data)) => data,
        // A server that has answered early ends the call so, and the answer is whole.
        Some(Err(error)) if error.reason() == Some(h2::Reason::NO_ERROR) => return Poll::Ready(None),
        Some(Err(error)) => return Poll::Ready(Some(Err(error))),
        None => return Poll::Ready(None),
    };
    // Fails only for more than was taken.
    let _ = body.flow_control().release_capacity(data.len());
    Poll::Ready(Some(Ok(data)))
}

// === impl Driver ===

/// The connection's own task.
struct Driver<S: AsyncRead + AsyncWrite + Unpin> {
    /// Before the connection, so that who is told of its end finds it closed.
    over: Over,
    connection: Connection<Heard<S>, Bytes>,
    pulse: Option<Pulse>,
}

/// The end of a connection, however it comes.
struct Over(Arc<State>);

impl Drop for Over {
    fn drop(&mut self) {
        self.0.gone.store(true, Ordering::Release);
        self.0.room.close();
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Future for Driver<S> {
    type Output = Result<(), h2::Error>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = &mut *self;
        if let Poll::Ready(ended) = Pin::new(&mut this.connection).poll(cx) {
            return Poll::Ready(ended);
        }
        let state = &*this.over.0;
        state.resize(this.connection.max_concurrent_send_streams());
        if this.pulse.as_mut().is_some_and(|pulse| pulse.is_dead(state, cx)) {
            tracing::debug!("a peer answers no ping");
            return Poll::Ready(Ok(()));
        }
        Poll::Pending
    }
}

impl State {
    /// The server takes so many calls at a time.
    fn resize(&self, wanted: usize) {
        let (size, wanted) = (self.size.load(Ordering::Relaxed), wanted.min(MOST_ROOM));
        if wanted > size {
            self.room.add_permits(wanted - size);
            self.size.store(wanted, Ordering::Relaxed);
        } else if wanted < size {
            // Those in use go when they come back: the next look takes them.
            let taken = self.room.forget_permits(size - wanted);
            self.size.store(size - taken, Ordering::Relaxed);
        }
    }

    fn is_idle(&self) -> bool {
        self.room.available_permits() >= self.size.load(Ordering::Relaxed)
    }
}

// === impl Pulse ===

/// Finds out that a peer is gone though no packet says so: one that is silent for an interval while a call waits for it
/// is pinged, and has half an interval to answer.
struct Pulse {
    interval: Duration,
    /// When something came in last.
    heard: Instant,
    /// The next look, or the end of the time to answer.
    next: Pin<Box<Sleep>>,
    asked: bool,
    pings: PingPong,
}

impl Pulse {
    fn new(interval: Duration, pings: PingPong) -> Self {
        Self { interval, heard: Instant::now(), next: Box::pin(sleep(interval)), asked: false, pings }
    }

    fn is_dead(&mut self, state: &State, cx: &mut Context<'_>) -> bool {
        if state.heard.swap(false, Ordering::Relaxed) {
            self.heard = Instant::now();
        }
        // What is wrong with the connection it says itself.
        if self.asked && self.pings.poll_pong(cx).is_ready() {
            self.asked = false;
            self.next.as_mut().reset(Instant::now() + self.interval);
        }
        while self.next.as_mut().poll(cx).is_ready() {
            if self.asked {
                return true;
            }
            let (now, due) = (Instant::now(), self.heard + self.interval);
            let next = if state.is_idle() {
                now + self.interval
            } else if now < due {
                due
            } else {
                self.asked =
                    self.pings.send_ping(h2::Ping::opaque()).is_ok() && self.pings.poll_pong(cx).is_pending();
                now + if self.asked { self.interval / 2 } else { self.interval }
            };
            self.next.as_mut().reset(next);
        }
        false
    }
}

// === impl Heard ===

/// A byte stream that notes when something comes in.
struct Heard<S> {
    io: S,
    state: Arc<State>,
}

impl<S: AsyncRead + Unpin> AsyncRead for Heard<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let polled = Pin::new(&mut self.io).poll_read(cx, buf);
        if polled.is_ready() {
            self.state.heard.store(true, Ordering::Relaxed);
        }
        polled
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Heard<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }
}
