//! Typed messages: what handlers take and give.

use std::fmt;
use std::ops::{Deref, DerefMut};
use std::pin::Pin;
use std::task::{Context as TaskContext, Poll};

use buffa::HasMessageView;
use bytes::Bytes;
use formic_core::metadata::InvalidMetadata;
use formic_core::{Error, Metadata};
use futures::{Stream, StreamExt};
use tokio::sync::mpsc;

use crate::Trailing;

/// A request of one message: a zero-copy view into the bytes that came in, valid during the call.
///
/// Fields are read directly (`request.name` is a `&str`); what must outlive the call takes
/// [`to_owned_message`](Self::to_owned_message).
pub struct Request<'a, M: HasMessageView> {
    view: &'a M::View<'a>,
    body: &'a Bytes,
}

impl<'a, M: HasMessageView> Request<'a, M> {
    /// Puts a request together from a decoded view and the buffer that it borrows from.
    pub fn new(view: &'a M::View<'a>, body: &'a Bytes) -> Self {
        Self { view, body }
    }

    /// The view.
    #[must_use]
    pub fn view(&self) -> &'a M::View<'a> {
        self.view
    }

    /// The protobuf bytes of the request.
    #[must_use]
    pub fn bytes(&self) -> &'a Bytes {
        self.body
    }

    /// The whole message, owned.
    #[must_use]
    pub fn to_owned_message(&self) -> M {
        connectrpc::ServiceRequest::<M>::from_parts(self.view, self.body).to_owned_message()
    }
}

impl<'a, M: HasMessageView> Deref for Request<'a, M> {
    type Target = M::View<'a>;

    fn deref(&self) -> &Self::Target {
        self.view
    }
}

impl<M: HasMessageView> fmt::Debug for Request<'_, M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Request({} B)", self.body.len())
    }
}

/// A response with its metadata. Reads like the message itself.
#[derive(Clone, Debug)]
pub struct Response<T> {
    pub(crate) message: T,
    pub(crate) metadata: Metadata,
    pub(crate) trailers: Metadata,
}

/// What a handler returns.
pub type Reply<T> = Result<Response<T>, Error>;

/// Answers with a message and no metadata.
///
/// # Errors
/// None; the type is that of a handler so that `reply(…)` can be its last line.
pub fn reply<T>(message: T) -> Reply<T> {
    Ok(Response::new(message))
}

impl<T> Response<T> {
    /// A response without metadata.
    pub fn new(message: T) -> Self {
        Self { message, metadata: Metadata::new(), trailers: Metadata::new() }
    }

    pub(crate) fn from_parts(message: T, metadata: Metadata, trailers: Metadata) -> Self {
        Self { message, metadata, trailers }
    }

    /// The message.
    pub fn into_message(self) -> T {
        self.message
    }

    /// Leading metadata (headers).
    #[must_use]
    pub fn metadata(&self) -> &Metadata {
        &self.metadata
    }

    /// Trailing metadata. Of a stream it is known at the end: see [`Streaming::trailers`].
    #[must_use]
    pub fn trailers(&self) -> &Metadata {
        &self.trailers
    }

    /// Adds leading metadata.
    ///
    /// # Errors
    /// If the name or the value cannot travel.
    pub fn with_metadata(mut self, name: &str, value: &str) -> Result<Self, InvalidMetadata> {
        self.metadata.append(name, value)?;
        Ok(self)
    }

    /// Adds trailing metadata.
    ///
    /// # Errors
    /// If the name or the value cannot travel.
    pub fn with_trailer(mut self, name: &str, value: &str) -> Result<Self, InvalidMetadata> {
        self.trailers.append(name, value)?;
        Ok(self)
    }
}

impl<T> Deref for Response<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.message
    }
}

impl<T> DerefMut for Response<T> {
    fn deref_mut(&mut self) -> &mut T {
        &mut self.message
    }
}

/// A stream of messages. Dropping it cancels the call it belongs to.
pub struct Streaming<T> {
    messages: Pin<Box<dyn Stream<Item = Result<T, Error>> + Send>>,
    /// Known before the end, and known at the end.
    trailers: Metadata,
    late: Option<Trailing>,
    ended: bool,
}

/// The requests of a method whose caller streams.
pub type Inbound<T> = Streaming<T>;

/// The sending end of [`Streaming::channel`].
#[derive(Debug)]
pub struct Sender<T>(mpsc::Sender<Result<T, Error>>);

impl<T> Clone for Sender<T> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

/// The receiver of a stream is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Closed;

impl fmt::Display for Closed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the receiver of the stream is gone")
    }
}

impl std::error::Error for Closed {}

impl<T> Sender<T> {
    /// Sends a message, or an error which ends the stream; waits while the receiver is behind.
    ///
    /// # Errors
    /// If the receiver is gone: the call was cancelled.
    pub async fn send(&self, message: Result<T, Error>) -> Result<(), Closed> {
        self.0.send(message).await.map_err(|_| Closed)
    }

    /// Resolves once the receiver is gone.
    pub async fn closed(&self) {
        self.0.closed().await;
    }
}

impl<T: Send + 'static> Streaming<T> {
    /// Takes any stream of results.
    pub fn new(stream: impl Stream<Item = Result<T, Error>> + Send + 'static) -> Self {
        Self { messages: Box::pin(stream), trailers: Metadata::new(), late: None, ended: false }
    }

    /// Takes messages that are there already.
    #[expect(
        clippy::should_implement_trait,
        reason = "the trait cannot ask for items that may move between threads"
    )]
    pub fn from_iter<I>(messages: I) -> Self
    where
        I: IntoIterator<Item = T>,
        I::IntoIter: Send + 'static,
    {
        Self::new(futures::stream::iter(messages.into_iter().map(Ok)))
    }

    /// A stream fed by hand; at most `capacity` messages wait in it.
    #[must_use]
    pub fn channel(capacity: usize) -> (Sender<T>, Self) {
        let (sender, mut receiver) = mpsc::channel(capacity.max(1));
        (Sender(sender), Self::new(futures::stream::poll_fn(move |cx| receiver.poll_recv(cx))))
    }

    /// The next message; `None` at the end.
    ///
    /// # Errors
    /// The error that ended the stream.
    pub async fn message(&mut self) -> Result<Option<T>, Error> {
        self.next().await.transpose()
    }

    /// Trailing metadata, once the stream has ended without an error. What comes with an error is
    /// [`Error::metadata`].
    #[must_use]
    pub fn trailers(&self) -> Option<&Metadata> {
        let late = self.late.as_ref().map(Trailing::get);
        self.ended.then(|| late.flatten().unwrap_or(&self.trailers))
    }

    pub(crate) fn with_trailers(self, trailers: Metadata, late: Option<Trailing>) -> Self {
        Self { trailers, late, ..self }
    }
}

impl<T> Stream for Streaming<T> {
    type Item = Result<T, Error>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut TaskContext<'_>) -> Poll<Option<Self::Item>> {
        let polled = self.messages.as_mut().poll_next(cx);
        self.ended |= matches!(polled, Poll::Ready(None));
        polled
    }
}

impl<T> fmt::Debug for Streaming<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Streaming")
    }
}
