//! The call and its answer: what every transport carries and every layer sees.

use std::fmt;
use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use formic_core::{Error, Metadata, Method};
use futures::Stream;
use tokio::time::Instant;

use crate::{ByteStream, Drain, TraceContext};

/// How messages are encoded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Codec {
    /// Protobuf.
    #[default]
    Proto,
    /// The JSON form of protobuf messages.
    Json,
}

/// One message, or a stream of them; which of the two follows from the method's kind.
pub enum Body {
    /// A single encoded message.
    Message(Bytes),
    /// Encoded messages one after the other.
    Stream(ByteStream),
}

impl fmt::Debug for Body {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Message(bytes) => write!(f, "Message({} B)", bytes.len()),
            Self::Stream(_) => f.write_str("Stream"),
        }
    }
}

impl Body {
    /// A stream of messages, each of which goes on alone; see [`ByteStream`].
    pub fn stream(messages: impl Stream<Item = Result<Bytes, Error>> + Send + 'static) -> Self {
        Self::Stream(ByteStream::new(messages))
    }

    /// The single message.
    ///
    /// # Errors
    /// `internal` if this is a stream: a transport mixed up the kinds.
    pub fn into_message(self) -> Result<Bytes, Error> {
        match self {
            Self::Message(bytes) => Ok(bytes),
            Self::Stream(_) => Err(Error::internal("expected one message, got a stream")),
        }
    }

    /// The stream; a single message is a stream of one.
    #[must_use]
    pub fn into_stream(self) -> ByteStream {
        match self {
            Self::Message(bytes) => ByteStream::new(futures::stream::once(std::future::ready(Ok(bytes)))),
            Self::Stream(stream) => stream,
        }
    }
}

/// Who is at the other end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer(pub Arc<str>);

/// A call on its way to a handler.
#[derive(Debug)]
pub struct Call {
    /// What is called.
    pub method: Method,
    /// How its messages are encoded.
    pub codec: Codec,
    /// Leading metadata (headers).
    pub metadata: Metadata,
    /// When the caller stops waiting; the work is pointless after it.
    pub deadline: Option<Instant>,
    /// Who called, as far as the transport knows.
    pub peer: Option<Peer>,
    /// The news that the server goes away, if a server answers it.
    pub drain: Option<Drain>,
    /// The trace that a call which has arrived is part of, as soon as somebody knows: a transport may have a field for it, and
    /// a server settles it for its handler. Whoever sends a call says it in the metadata, or in its
    /// [scope](crate::context::Scope).
    pub trace: Option<TraceContext>,
    /// What layers of this process hand on to each other.
    pub extensions: http::Extensions,
    /// The request.
    pub body: Body,
}

impl Call {
    /// A call without metadata or deadline.
    #[must_use]
    pub fn new(method: Method, codec: Codec, body: Body) -> Self {
        Self {
            method,
            codec,
            metadata: Metadata::new(),
            deadline: None,
            peer: None,
            drain: None,
            trace: None,
            extensions: http::Extensions::new(),
            body,
        }
    }
}

/// What a handler said.
#[derive(Debug)]
pub struct Answer {
    /// Leading metadata (headers).
    pub metadata: Metadata,
    /// Trailing metadata that is known already: of one message, or what the handler of a stream said before its first one.
    pub trailers: Metadata,
    /// Trailing metadata of a stream that came over a network, which is known at its end.
    pub late: Option<Trailing>,
    /// The response.
    pub body: Body,
}

impl Answer {
    /// An answer without metadata.
    #[must_use]
    pub fn new(body: Body) -> Self {
        Self { metadata: Metadata::new(), trailers: Metadata::new(), late: None, body }
    }
}

/// Trailing metadata that is known once its stream has ended: who carries the stream says it, before the stream gives its
/// end, and who has read the stream looks.
#[derive(Clone, Debug, Default)]
pub struct Trailing(Arc<OnceLock<Metadata>>);

impl Trailing {
    /// Says it; what was said before stays.
    pub fn set(&self, trailers: Metadata) {
        let _ = self.0.set(trailers);
    }

    /// What was said.
    #[must_use]
    pub fn get(&self) -> Option<&Metadata> {
        self.0.get()
    }
}
