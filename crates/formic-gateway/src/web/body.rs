//! The two bodies of a request that is passed on: looked at as they stream by, never held.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::task::{Context, Poll, ready};

use axum::body::Body as AxumBody;
use bytes::Bytes;
use formic_core::{Code, Error};
use formic_telemetry::metrics::InFlight;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use hyper::client::conn::http1::SendRequest;
use tokio::time::Instant;

use super::backend::{Backend, Load};

/// What is known of a request body while it is being sent.
#[derive(Debug)]
pub(crate) struct Progress {
    moved: Mutex<Instant>,
    too_large: AtomicBool,
    /// The caller broke off.
    broken: AtomicBool,
}

impl Progress {
    pub(crate) fn new() -> Arc<Self> {
        let moved = Mutex::new(Instant::now());
        Arc::new(Self { moved, too_large: AtomicBool::new(false), broken: AtomicBool::new(false) })
    }

    /// When something was sent last.
    pub(crate) fn moved(&self) -> Instant {
        *self.moved.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn note(&self) {
        *self.moved.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
    }

    pub(crate) fn is_too_large(&self) -> bool {
        self.too_large.load(Ordering::Acquire)
    }

    pub(crate) fn is_broken(&self) -> bool {
        self.broken.load(Ordering::Acquire)
    }
}

/// The request's body on its way to the instance.
#[derive(Debug)]
pub(crate) struct Upload {
    inner: AxumBody,
    left: u64,
    progress: Arc<Progress>,
}

impl Upload {
    pub(crate) fn new(inner: AxumBody, limit: u64, progress: Arc<Progress>) -> Self {
        Self { inner, left: limit, progress }
    }

    /// One with nothing in it.
    pub(crate) fn empty(progress: Arc<Progress>) -> Self {
        Self::new(AxumBody::empty(), 0, progress)
    }
}

/// Why a request's body ended too early.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Cut {
    #[error("the request is larger than the route takes")]
    TooLarge,
    #[error("the caller broke off")]
    Broken(#[source] axum::Error),
}

impl Body for Upload {
    type Data = Bytes;
    type Error = Cut;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        let frame = ready!(Pin::new(&mut self.inner).poll_frame(cx));
        self.progress.note();
        match frame {
            Some(Ok(frame)) => {
                let length = frame.data_ref().map_or(0, |data| data.len() as u64);
                match self.left.checked_sub(length) {
                    Some(left) => {
                        self.left = left;
                        Poll::Ready(Some(Ok(frame)))
                    }
                    None => {
                        self.progress.too_large.store(true, Ordering::Release);
                        Poll::Ready(Some(Err(Cut::TooLarge)))
                    }
                }
            }
            Some(Err(error)) => {
                self.progress.broken.store(true, Ordering::Release);
                Poll::Ready(Some(Err(Cut::Broken(error))))
            }
            None => Poll::Ready(None),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

/// The answer's body on its way to the caller; its end frees the connection for another request.
pub(crate) struct Download {
    inner: Incoming,
    ended: Ended,
    connection: Option<(Arc<Backend>, SendRequest<Upload>)>,
    code: Option<Code>,
    metrics: InFlight,
    _load: Load,
}

#[derive(PartialEq)]
enum Ended {
    Not,
    Well,
    Badly,
}

impl Download {
    pub(crate) fn new(
        inner: Incoming,
        connection: (Arc<Backend>, SendRequest<Upload>),
        code: Option<Code>,
        metrics: InFlight,
        load: Load,
    ) -> Self {
        Self { inner, ended: Ended::Not, connection: Some(connection), code, metrics, _load: load }
    }
}

impl Body for Download {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        let frame = ready!(Pin::new(&mut self.inner).poll_frame(cx));
        match &frame {
            None => self.ended = Ended::Well,
            Some(Err(_)) => self.ended = Ended::Badly,
            Some(Ok(_)) => {}
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

impl Drop for Download {
    fn drop(&mut self) {
        // Whoever reads a body of known length need not ask for its end.
        let well = self.ended == Ended::Well || (self.ended == Ended::Not && self.inner.is_end_stream());
        let code = match (well, &self.ended) {
            (true, _) => self.code,
            (false, Ended::Badly) => Some(Code::Unavailable),
            // The caller went away.
            _ => Some(Code::Canceled),
        };
        self.metrics.outcome(&code.map_or(Ok(()), |code| Err(Error::new(code, ""))));
        if let (true, Some((backend, sender))) = (well, self.connection.take()) {
            backend.keep(sender);
        }
    }
}
