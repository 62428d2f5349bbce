//! One attempt over HTTP/2, through connectrpc's client with bytes for messages.
//!
//! connectrpc knows the protocols; what is ours is the transport underneath, because only who holds the
//! connection knows what was surely not sent, and the bodies of requests that stream. Calls of one message each way go
//! a shorter way.

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::{BufMut, Bytes, BytesMut};
use connectrpc::client::{
    BoxFuture, CallOptions, ClientBody, ClientConfig, ClientTransport, call_client_stream,
    call_server_stream, call_unary,
};
use connectrpc::{ConnectError, ErrorCode, Spec, StreamType};
use formic_core::{Code, Error, Kind, Method};
use formic_rpc::raw::{Raw, RawView};
use formic_rpc::wire_error::{Broken, from_connect};
use formic_rpc::{Answer, Body, ByteStream, Codec, Trailing};
use futures::{FutureExt, StreamExt};
use http::header::CONTENT_LENGTH;
use http::request::Parts;
use http::{HeaderMap, HeaderValue, Request, Response};
use http_body::Frame;
use http_body_util::BodyExt;
use tokio::task::AbortHandle;

use crate::http2::{self, Closed, Open, Place};
use crate::outgoing::Outgoing;
use crate::remote::{Remote, Sender};
use crate::way::Way;
use crate::{headers, unary};

mod messages;

/// Stands in for a path learnt at run time, which connectrpc cannot take; replaced before it is sent.
pub(crate) const SOME_PATH: &str = "/formic.Client/Call";

/// Makes one attempt on a connection of the endpoint.
///
/// # Errors
/// The server's, or `unavailable` with [`Error::is_unsent`] where no handler can have seen the call.
pub(crate) async fn http(
    sender: http2::Sender,
    remote: &Arc<Remote>,
    outgoing: &Arc<Outgoing>,
    attempt: Option<u32>,
) -> Result<Answer, Error> {
    remote.goes(outgoing, Way::Http);
    if outgoing.method.kind == Kind::Unary && unary::is_plain(remote, outgoing) {
        return unary::call(sender, remote, outgoing, attempt).await;
    }
    // In a box, for it is far larger than the short way.
    Box::pin(through_connectrpc(sender, remote, outgoing, attempt)).await
}

async fn through_connectrpc(
    sender: http2::Sender,
    remote: &Arc<Remote>,
    outgoing: &Arc<Outgoing>,
    attempt: Option<u32>,
) -> Result<Answer, Error> {
    let wire = Wire { sender, remote: Arc::clone(remote), call: Arc::clone(outgoing), attempt };
    let config = if outgoing.codec == Codec::Json { &remote.json } else { &remote.proto };
    let path = outgoing.method.static_path().unwrap_or(SOME_PATH);
    match outgoing.method.kind {
        Kind::Unary => wire.unary(config, Spec::client(path, StreamType::Unary)).await,
        Kind::ClientStream => wire.client_stream(config, Spec::client(path, StreamType::ClientStream)).await,
        // To connectrpc both are answers that stream; the transport puts the request in.
        Kind::ServerStream | Kind::BidiStream => {
            wire.server_stream(config, Spec::client(path, StreamType::ServerStream)).await
        }
    }
}

/// Writes a call to a connection, or to another to the same endpoint if this one takes no more. That is no retry, for
/// nothing was sent.
pub(crate) async fn open(
    mut sender: http2::Sender,
    remote: &Arc<Remote>,
    head: impl Fn() -> Request<()>,
    message: Option<Bytes>,
) -> Result<Open, ConnectError> {
    if let Ok(open) = sender.open(head(), message.clone()).await {
        return Ok(open);
    }
    let connection = remote.connection().await.map_err(|error| unsent(Box::new(error)))?;
    let Sender::Http(sender) = &*connection else {
        // It speaks something else meanwhile; a new attempt will.
        return Err(unsent("the connection was replaced by another kind".into()));
    };
    let mut sender = sender.clone();
    sender.open(head(), message).await.map_err(|Closed(error)| match error {
        Some(error) => unsent(Box::new(error)),
        None => unsent("the connection was closed".into()),
    })
}

/// The request of a call that sends one.
pub(crate) fn message(outgoing: &Outgoing) -> Result<Bytes, ConnectError> {
    let missing = || ConnectError::internal("a method of one request was called with a stream");
    outgoing.message().cloned().ok_or_else(missing)
}

/// What went wrong, for the caller.
pub(crate) fn error(error: &ConnectError, remote: &Remote, outgoing: &Outgoing) -> Error {
    // The caller's own stream failed, and so the call did.
    if let Some(own) = outgoing.stream_failure() {
        return own;
    }
    let error = from_connect(error);
    if outgoing.take_broken() {
        // connectrpc cannot tell a lost connection from a server that breaks the protocol.
        let message = format!("the connection to {} was lost", remote.endpoint());
        return Error::new(Code::Unavailable, message).with_source(error).with_lost();
    }
    error
}

/// The transport of one attempt.
#[derive(Clone)]
struct Wire {
    sender: http2::Sender,
    remote: Arc<Remote>,
    call: Arc<Outgoing>,
    attempt: Option<u32>,
}

impl Wire {
    async fn unary(&self, config: &ClientConfig, spec: Spec) -> Result<Answer, Error> {
        let request = Raw(message(&self.call).map_err(|error| self.error(&error))?);
        let options = CallOptions::default();
        let response = call_unary::<_, Raw, RawView<'static>>(self, config, spec, request, options);
        match response.await {
            Ok(response) => {
                let (headers, message, trailers) = response.into_parts();
                Ok(one(headers, message.into_bytes(), trailers))
            }
            Err(error) => Err(self.error(&error)),
        }
    }

    async fn client_stream(&self, config: &ClientConfig, spec: Spec) -> Result<Answer, Error> {
        let (none, options) = (futures::stream::empty::<Raw>(), CallOptions::default());
        let response = call_client_stream::<_, Raw, RawView<'static>>(self, config, spec, none, options);
        match response.await {
            Ok(response) => {
                let (headers, message, trailers) = response.into_parts();
                Ok(one(headers, message.into_bytes(), trailers))
            }
            Err(error) => Err(self.error(&error)),
        }
    }

    async fn server_stream(self, config: &ClientConfig, spec: Spec) -> Result<Answer, Error> {
        let request = match (self.call.method.kind, self.call.codec) {
            // A stand-in: the body is replaced by the caller's stream, but it has to encode before that.
            (Kind::BidiStream, Codec::Json) => Bytes::from_static(b"{}"),
            (Kind::BidiStream, Codec::Proto) => Bytes::new(),
            _ => message(&self.call).map_err(|error| self.error(&error))?,
        };
        let (request, options) = (Raw(request), CallOptions::default());
        let response = call_server_stream::<_, Raw, RawView<'static>>(&self, config, spec, request, options);
        let stream = match response.await {
            Ok(stream) => stream,
            Err(error) => return Err(self.error(&error)),
        };
        let metadata = headers::metadata(stream.headers().clone());
        let late = Trailing::default();
        let messages = messages::Messages::new(stream, self, late.clone());
        let body = Body::Stream(ByteStream::of_runs(messages));
        Ok(Answer { metadata, late: Some(late), ..Answer::new(body) })
    }

    fn error(&self, error: &ConnectError) -> Error {
        self::error(error, &self.remote, &self.call)
    }
}

pub(crate) fn one(headers: HeaderMap, message: Bytes, trailers: HeaderMap) -> Answer {
    let (metadata, trailers) = (headers::metadata(headers), headers::metadata(trailers));
    Answer { metadata, trailers, ..Answer::new(Body::Message(message)) }
}

impl ClientTransport for Wire {
    type ResponseBody = Incoming;
    type Error = ConnectError;

    fn send(
        &self,
        request: Request<ClientBody>,
    ) -> BoxFuture<'static, Result<Response<Incoming>, ConnectError>> {
        let (head, message) = match self.prepare(request) {
            Ok(prepared) => prepared,
            Err(error) => return Box::pin(std::future::ready(Err(error))),
        };
        let Self { sender, remote, call, .. } = self.clone();
        Box::pin(async move {
            let head = || Request::from_parts(head.clone(), ());
            let Open { response, requests, place } = open(sender, &remote, head, message).await?;
            let pump = match requests {
                None => None,
                Some(to) => {
                    // Always there: an attempt is made only while the request can be sent.
                    let Some(stream) = call.take_stream() else {
                        return Err(ConnectError::internal("the request stream was sent before"));
                    };
                    let pumping = pump(stream, to, Arc::clone(&call));
                    Some(Pump(remote.spawn(pumping)))
                }
            };
            let response = response.await.map_err(lost)?;
            Ok(response.map(|body| Incoming::new(body, place, pump, &call)))
        })
    }
}

impl Wire {
    /// Puts in what connectrpc does not know. The message is missing where the request streams.
    fn prepare(&self, request: Request<ClientBody>) -> Result<(Parts, Option<Bytes>), ConnectError> {
        let (mut head, body) = request.into_parts();
        let method = &self.call.method;
        head.uri = self.remote.uri(method).map_err(|error| no_path(method, error))?;
        self.call.write_headers(&mut head.headers, self.remote.protocol(), self.attempt);
        if method.kind.client_streams() {
            return Ok((head, None));
        }
        // It was one piece before connectrpc put it into a box.
        let whole = body.collect().now_or_never();
        let whole =
            whole.ok_or_else(|| ConnectError::internal("a request of one message is not ready"))??;
        let message = whole.to_bytes();
        head.headers.insert(CONTENT_LENGTH, HeaderValue::from(message.len()));
        Ok((head, Some(message)))
    }
}

pub(crate) fn no_path(method: &Method, error: http::Error) -> ConnectError {
    ConnectError::invalid_argument(format!("{:?} is no path: {error}", method.path()))
}

fn unsent(source: Box<dyn std::error::Error + Send + Sync>) -> ConnectError {
    ConnectError::unavailable("the call was not sent").with_source(Broken::Unsent(source))
}

/// What a failed request means; most of all, whether a handler may have seen it.
pub(crate) fn lost(error: h2::Error) -> ConnectError {
    // A peer that goes away answers the streams up to the last one that it names; h2 gives this error
    // to the others only. A refused stream was not looked at.
    let refused = error.is_reset() && error.reason() == Some(h2::Reason::REFUSED_STREAM);
    if error.is_remote() && (error.is_go_away() || refused) {
        return unsent(Box::new(error));
    }
    let code = match error.reason().filter(|_| error.is_reset()) {
        Some(h2::Reason::CANCEL) => ErrorCode::Canceled,
        Some(h2::Reason::ENHANCE_YOUR_CALM) => ErrorCode::ResourceExhausted,
        Some(_) => ErrorCode::Internal,
        None => {
            let source = Broken::Lost(Box::new(error));
            return ConnectError::unavailable("the connection was lost").with_source(source);
        }
    };
    ConnectError::new(code, "the request was broken off").with_source(error)
}

/// Notes that an answer broke off with its connection. A stream that the server reset is its own doing.
pub(crate) fn note_broken(error: &h2::Error, call: &Outgoing) {
    if !(error.is_reset() && error.is_remote()) {
        call.set_broken();
    }
}

/// A response body that notes when its connection breaks.
pub(crate) struct Incoming {
    body: h2::RecvStream,
    read: bool,
    call: Arc<Outgoing>,
    _place: Place,
    _pump: Option<Pump>,
}

impl Incoming {
    pub(crate) fn new(body: h2::RecvStream, place: Place, pump: Option<Pump>, call: &Arc<Outgoing>) -> Self {
        Self { body, read: false, call: Arc::clone(call), _place: place, _pump: pump }
    }
}

impl http_body::Body for Incoming {
    type Data = Bytes;
    type Error = h2::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, h2::Error>>> {
        let this = &mut *self;
        if !this.read {
            match ready!(http2::poll_data(&mut this.body, cx)) {
                Some(Ok(data)) => return Poll::Ready(Some(Ok(Frame::data(data)))),
                Some(Err(error)) => {
                    note_broken(&error, &this.call);
                    return Poll::Ready(Some(Err(error)));
                }
                None => this.read = true,
            }
        }
        match ready!(this.body.poll_trailers(cx)) {
            Ok(trailers) => Poll::Ready(trailers.map(|trailers| Ok(Frame::trailers(trailers)))),
            // A server that has answered early ends the call so.
            Err(error) if error.reason() == Some(h2::Reason::NO_ERROR) => Poll::Ready(None),
            Err(error) => {
                note_broken(&error, &this.call);
                Poll::Ready(Some(Err(error)))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }
}

/// The task that sends a request which streams; it ends with its call.
pub(crate) struct Pump(AbortHandle);

impl Drop for Pump {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Sends a request that streams, in the envelopes that Connect and gRPC share: a byte of flags, four of length.
async fn pump(mut stream: ByteStream, mut to: h2::SendStream<Bytes>, call: Arc<Outgoing>) {
    loop {
        // Whatever room there is will do for a message, so that one is never taken before the peer reads.
        to.reserve_capacity(1);
        while to.capacity() == 0 {
            match poll_fn(|cx| to.poll_capacity(cx)).await {
                Some(Ok(_)) => {}
                Some(Err(_)) | None => return,
            }
        }
        let next = poll_fn(|cx| {
            // Nobody reads on, so nobody is asked for more.
            if to.poll_reset(cx).is_ready() {
                return Poll::Ready(Pumped::Over);
            }
            stream.poll_next_unpin(cx).map(Pumped::Item)
        });
        let message = match next.await {
            Pumped::Item(Some(Ok(message))) => message,
            Pumped::Item(Some(Err(error))) => {
                // The request is reset, so that the server does not take half of it for the whole.
                call.fail_stream(error);
                return to.send_reset(h2::Reason::INTERNAL_ERROR);
            }
            Pumped::Item(None) => {
                let _ = to.send_data(Bytes::new(), true);
                return;
            }
            Pumped::Over => return,
        };
        let Ok(length) = u32::try_from(message.len()) else {
            call.fail_stream(Error::resource_exhausted("a message of over 4 GiB"));
            return to.send_reset(h2::Reason::INTERNAL_ERROR);
        };
        let mut envelope = BytesMut::with_capacity(message.len() + 5);
        envelope.put_u8(0);
        envelope.put_u32(length);
        envelope.extend_from_slice(&message);
        if to.send_data(envelope.freeze(), false).is_err() {
            return;
        }
    }
}

/// What a pump goes on with.
enum Pumped {
    Item(Option<Result<Bytes, Error>>),
    /// The peer has ended the call.
    Over,
}
