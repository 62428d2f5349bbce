//! The multiplexed wire on the same port as HTTP: told apart by the first byte of a connection.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use formic_core::{Error, Method, Priority, RpcService, Shed};
use formic_mux::budget::{Budget, Watch};
use formic_mux::learn::Book;
use formic_mux::{Accept, Limits, codec};
use formic_rpc::{Answer, BoxFuture, Call, Handle};
use formic_telemetry::{Arrivals, Metrics, Overload};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf};

use crate::Config;
use crate::door::Door;

/// How much is read to tell who calls; more than one byte only saves the next read.
const FIRST: usize = 64;

/// What a call may send before it is let in: three frames, so that one that is let in at its first goes on without a pause, and one
/// that is turned away has sent little.
const UNHEARD: u32 = 192 << 10;

/// How the server's limits read on this wire.
pub(crate) fn accept(handle: Arc<dyn Handle>, door: Door, config: &Config, metrics: &Metrics) -> Arc<Accept> {
    let limits = Limits {
        calls: config.max_concurrent_streams,
        message: u32::try_from(config.max_message).unwrap_or(u32::MAX),
        metadata: config.max_headers,
        stream_credit: UNHEARD,
        ..Limits::default()
    };
    Arc::new(Accept {
        handle,
        door: Some(Arc::new(door)),
        limits,
        greeting: config.header_timeout,
        body_timeout: config.body_timeout,
        alive: (config.keep_alive_interval, config.keep_alive_timeout),
        default_deadline: config.default_deadline,
        max_deadline: config.max_deadline,
        idle: config.idle_timeout,
        budget: Arc::new(Budget::new(config.max_held).watched(Held(metrics.overload()))),
        book: Book::default(),
    })
}

/// Shows what is held.
struct Held(Arc<Overload>);

impl Watch for Held {
    fn changed(&self, bytes: i64) {
        self.0.held(bytes);
    }

    fn refused(&self) {
        // What it says of itself was not looked at.
        self.0.shed(Shed::Memory, Priority::Normal);
    }
}

/// A handle that counts its calls, one for each transport.
pub(crate) struct Counted {
    inner: Arc<dyn Handle>,
    arrivals: Arrivals,
}

impl Counted {
    pub(crate) fn around(inner: &Arc<dyn Handle>, arrivals: &Arrivals) -> Arc<dyn Handle> {
        Arc::new(Self { inner: Arc::clone(inner), arrivals: arrivals.clone() })
    }
}

impl Handle for Counted {
    fn method(&self, path: &str) -> Option<Method> {
        self.inner.method(path)
    }

    fn call(&self, call: Call) -> BoxFuture<'static, Result<Answer, Error>> {
        self.arrivals.call();
        self.inner.call(call)
    }

    fn services(&self) -> Vec<RpcService> {
        self.inner.services()
    }

    fn descriptors(&self) -> Vec<&'static [u8]> {
        self.inner.descriptors()
    }
}

/// A connection whose first bytes were read already.
pub(crate) struct Begun<S> {
    io: S,
    first: [u8; FIRST],
    from: usize,
    to: usize,
}

impl<S: AsyncRead + Unpin> Begun<S> {
    /// One of which nothing was read.
    pub(crate) fn unread(io: S) -> Self {
        Self { io, first: [0; FIRST], from: 0, to: 0 }
    }

    /// Waits for the first bytes, and says whether they are the beginning of this wire. The caller bounds the time.
    ///
    /// # Errors
    /// If the connection ends before, or breaks.
    pub(crate) async fn is_multiplexed(&mut self) -> io::Result<bool> {
        self.to = self.io.read(&mut self.first).await?;
        if self.to == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Ok(self.first[0] == codec::MAGIC[0])
    }

    /// The connection, and what was read of it.
    pub(crate) fn into_parts(self) -> (S, Vec<u8>) {
        (self.io, self.first[self.from..self.to].to_vec())
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Begun<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.from < self.to {
            let count = buf.remaining().min(self.to - self.from);
            buf.put_slice(&self.first[self.from..self.from + count]);
            self.from += count;
            return Poll::Ready(Ok(()));
        }
        Pin::new(&mut self.io).poll_read(cx, buf)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Begun<S> {
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
