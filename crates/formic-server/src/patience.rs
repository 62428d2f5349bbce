//! Clients that stop in the middle: of a request that they send, of an answer that they do not read.
//!
//! A deadline does not see to it: the client chooses it, up to an hour, and what is left unread lies in the
//! connection after the call has ended. Here it counts whether anything moves. Both watches cost nothing
//! while something does: a timer exists only while there is something to wait for.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use http_body::{Body, Frame, SizeHint};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Sleep;

/// A time in which something has to move.
struct Silence {
    limit: Duration,
    sleep: Option<Pin<Box<Sleep>>>,
}

impl Silence {
    fn new(limit: Duration) -> Self {
        Self { limit, sleep: None }
    }

    /// Passes on what was polled; true if it has been pending for too long.
    fn is_over<T>(&mut self, polled: &Poll<T>, cx: &mut Context<'_>) -> bool {
        if polled.is_ready() {
            self.sleep = None;
            return false;
        }
        let limit = self.limit;
        let sleep = self.sleep.get_or_insert_with(|| Box::pin(tokio::time::sleep(limit)));
        sleep.as_mut().poll(cx).is_ready()
    }
}

/// How long an end is waited for after ours. A peer that still sends when the socket is gone is answered with
/// a reset, which takes away what it has not read yet: the GOAWAY that would have told it which of its calls
/// were not begun.
const LINGER: Duration = Duration::from_millis(300);

/// A stream whose peer has to read what is written to it, the last words too.
pub(crate) struct Reader<S> {
    stream: S,
    silence: Silence,
    /// We have said that we are done.
    lingering: Option<Pin<Box<Sleep>>>,
}

impl<S> Reader<S> {
    pub(crate) fn new(stream: S, limit: Duration) -> Self {
        Self { stream, silence: Silence::new(limit), lingering: None }
    }

    fn watch<T>(&mut self, polled: Poll<io::Result<T>>, cx: &mut Context<'_>) -> Poll<io::Result<T>> {
        if self.silence.is_over(&polled, cx) {
            let text = "the peer does not read what it asked for";
            return Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, text)));
        }
        polled
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Reader<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

impl<S: AsyncRead + Unpin> Reader<S> {
    /// Reads on and throws away until the peer has said that it is done too, or the time is over.
    fn poll_peer_done(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let mut scratch = [0; 4096];
        loop {
            let mut buffer = ReadBuf::new(&mut scratch);
            match Pin::new(&mut self.stream).poll_read(cx, &mut buffer) {
                Poll::Ready(Ok(())) if !buffer.filled().is_empty() => {}
                Poll::Ready(_) => return Poll::Ready(()),
                Poll::Pending => break,
            }
        }
        let sleep = self.lingering.get_or_insert_with(|| Box::pin(tokio::time::sleep(LINGER)));
        sleep.as_mut().poll(cx)
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Reader<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.stream).poll_write(cx, data);
        self.watch(polled, cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        data: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.stream).poll_write_vectored(cx, data);
        self.watch(polled, cx)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.lingering.is_none() {
            ready!(Pin::new(&mut self.stream).poll_shutdown(cx))?;
        }
        self.poll_peer_done(cx).map(Ok)
    }
}

/// A request body that has to go on coming, if it is to be read whole before the call can begin. One that
/// streams may pause for as long as its call may take.
pub(crate) struct Sender<B> {
    body: B,
    silence: Option<Silence>,
}

/// Why a request body ended early.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Broken<E> {
    #[error("the request broke off")]
    Body(#[source] E),
    #[error("the request does not go on")]
    Slow,
}

impl<B> Sender<B> {
    pub(crate) fn new(body: B, limit: Option<Duration>) -> Self {
        Self { body, silence: limit.map(Silence::new) }
    }
}

impl<B: Body + Unpin> Body for Sender<B> {
    type Data = B::Data;
    type Error = Broken<B::Error>;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<B::Data>, Self::Error>>> {
        let this = self.get_mut();
        let polled = Pin::new(&mut this.body).poll_frame(cx);
        if this.silence.as_mut().is_some_and(|silence| silence.is_over(&polled, cx)) {
            return Poll::Ready(Some(Err(Broken::Slow)));
        }
        polled.map(|frame| frame.map(|frame| frame.map_err(Broken::Body)))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
