//! A machine's bytes on a socket: what both drivers share.
//!
//! A connection that says nothing holds no buffers. What is read goes into one buffer a thread, and from there into
//! frames; what is to be written is swapped with the machine, and both sides of the swap shrink when nothing is left.

use std::cell::Cell;
use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep};

use crate::capture::{Capture, Direction};

/// How much is read at a time.
const READ: usize = 128 << 10;

/// What a buffer may keep while nothing is written.
const KEPT: usize = 1 << 10;

/// How long the last words may take.
const LAST_WORDS: Duration = Duration::from_secs(1);

thread_local! {
    static SCRATCH: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
}

/// A byte stream, what is being written to it, and perhaps a record of both.
pub(crate) struct Pipe<S> {
    io: S,
    pub(crate) writing: Vec<u8>,
    written: usize,
    pub(crate) capture: Option<Box<Capture>>,
    /// What this side's bytes are in a record.
    direction: Direction,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Pipe<S> {
    pub(crate) fn new(io: S, direction: Direction, capture: Option<Box<Capture>>) -> Self {
        Self { io, writing: Vec::new(), written: 0, capture, direction }
    }

    /// How much is taken from the machine, but not written.
    pub(crate) fn unwritten(&self) -> usize {
        self.writing.len() - self.written
    }

    /// What that takes in memory.
    pub(crate) fn held(&self) -> usize {
        if self.unwritten() == 0 { 0 } else { self.writing.capacity() }
    }

    /// Writes what there is, until it is written or the socket is full.
    pub(crate) fn poll_write(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.written < self.writing.len() {
            let rest = &self.writing[self.written..];
            let count = std::task::ready!(Pin::new(&mut self.io).poll_write(cx, rest))?;
            if count == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            if let Some(capture) = &mut self.capture {
                capture.record(self.direction, &rest[..count]);
            }
            self.written += count;
        }
        self.writing.clear();
        self.written = 0;
        Poll::Ready(Ok(()))
    }

    /// Reads once; the function gets the bytes. 0 is the end.
    pub(crate) fn poll_read<T>(
        &mut self,
        cx: &mut Context<'_>,
        take: impl FnOnce(&[u8]) -> T,
    ) -> Poll<io::Result<Option<T>>> {
        // Taken, not borrowed: whatever runs meanwhile may read too.
        let mut scratch = SCRATCH.take();
        scratch.resize(READ, 0);
        let mut buffer = ReadBuf::new(&mut scratch);
        let polled = Pin::new(&mut self.io).poll_read(cx, &mut buffer);
        let polled = polled.map_ok(|()| {
            let bytes = buffer.filled();
            if bytes.is_empty() {
                return None;
            }
            if let Some(capture) = &mut self.capture {
                capture.record(self.direction.other(), bytes);
            }
            Some(take(bytes))
        });
        SCRATCH.set(scratch);
        polled
    }

    /// Gives back what an idle connection does not need.
    pub(crate) fn shrink(&mut self) {
        self.keep(KEPT);
    }

    /// Gives back a buffer of more than so many bytes, if it is empty.
    pub(crate) fn keep(&mut self, most: usize) {
        if self.writing.is_empty() && self.writing.capacity() > most {
            self.writing = Vec::new();
        }
    }

    /// Whether there is such a buffer.
    pub(crate) fn is_loose(&self, most: usize) -> bool {
        self.writing.is_empty() && self.writing.capacity() > most
    }

    /// Reads what is still on its way, and forgets it, until the other side closes too. Not for long.
    pub(crate) async fn linger(&mut self) {
        let ending = poll_fn(|cx| {
            loop {
                if !matches!(std::task::ready!(self.poll_read(cx, |_| ())), Ok(Some(()))) {
                    return Poll::Ready(());
                }
            }
        });
        if tokio::time::timeout(LAST_WORDS, ending).await.is_err() {
            tracing::trace!("the other side did not close");
        }
    }

    /// Writes the last words, if the other side takes them, and closes.
    pub(crate) async fn close(&mut self, last: Vec<u8>) {
        self.writing.extend_from_slice(&last);
        let closing = async {
            poll_fn(|cx| self.poll_write(cx)).await?;
            poll_fn(|cx| Pin::new(&mut self.io).poll_shutdown(cx)).await
        };
        if let Ok(Err(error)) = tokio::time::timeout(LAST_WORDS, closing).await {
            tracing::trace!(%error, "the last words were not heard");
        }
    }
}

/// The time that a machine knows, and the one timer that wakes it.
pub(crate) struct Clock {
    origin: Instant,
    timer: Option<Pin<Box<Sleep>>>,
}

impl Clock {
    pub(crate) fn new() -> Self {
        Self { origin: Instant::now(), timer: None }
    }

    pub(crate) fn now(&self) -> Duration {
        self.origin.elapsed()
    }

    /// What the machine counts as a moment.
    pub(crate) fn moment(&self, at: Duration) -> Instant {
        self.origin + at
    }

    /// A moment as the machine counts it.
    pub(crate) fn at(&self, moment: Instant) -> Duration {
        moment.saturating_duration_since(self.origin)
    }

    /// Whether the time has come; wakes when it does. A timer that is too early is left as it is, which is cheaper than to move
    /// it with each batch.
    pub(crate) fn poll(&mut self, cx: &mut Context<'_>, due: Option<Duration>) -> bool {
        let Some(due) = due else {
            self.timer = None;
            return false;
        };
        let due = self.origin + due;
        loop {
            match &mut self.timer {
                None => self.timer = Some(Box::pin(tokio::time::sleep_until(due))),
                Some(timer) if timer.deadline() > due => timer.as_mut().reset(due),
                Some(timer) => {
                    if timer.as_mut().poll(cx).is_pending() {
                        return false;
                    }
                    if Instant::now() >= due {
                        self.timer = None;
                        return true;
                    }
                    timer.as_mut().reset(due);
                }
            }
        }
    }
}
