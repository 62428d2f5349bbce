//! One attempt over HTTP/2, through connectrpc's client with bytes for messages.
//!
//! connectrpc knows the protocols; what is ours is the transport underneath, because only who holds the
//! connection knows what was surely not sent, and the bodies of requests that stream, which go straight
//! into the connection without a task or a channel between.

use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

use bytes::{BufMut, Bytes, BytesMut};
use connectrpc::client::{
    BoxFuture, CallOptions, ClientBody, ClientConfig, ClientTransport, call_client_stream,
    call_server_stream, call_unary,
};
use connectrpc::{ConnectError, ErrorCode, Spec, StreamType};
use formic_core::{Code, Error, Kind};
use formic_rpc::raw::{Raw, RawView};
use formic_rpc::wire_error::{Unsent, from_connect, to_connect};
use formic_rpc::{Answer, Body, ByteStream, Codec};
use http::uri::PathAndQuery;
use http::{HeaderMap, Request, Response, Uri};
use http_body::{Frame, SizeHint};
use http_body_util::BodyExt;

use hyper::client::conn::http2::SendRequest;

use crate::outgoing::Outgoing;
use crate::remote::{Remote, Sender};
use crate::{headers, mux};

/// Stands in for a path learnt at run time, which connectrpc cannot take; replaced before it is sent.
const SOME_PATH: &str = "/formic.Client/Call";

/// Makes one attempt on a connection of the endpoint.
///
/// # Errors
/// The server's, or `unavailable` with [`Error::is_unsent`] where no handler can have seen the call.
pub(crate) async fn call(
    sender: Sender,
    remote: &Arc<Remote>,
    outgoing: &Arc<Outgoing>,
    attempt: Option<u32>,
) -> Result<Answer, Error> {
    let sender = match sender {
        Sender::Http(sender) => sender,
        Sender::Mux(sender) => return mux::call(sender, remote, outgoing, attempt).await,
    };
    http(sender, remote, outgoing, attempt).await
}

/// The same over HTTP/2.
pub(crate) async fn http(
    sender: SendRequest<ClientBody>,
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

/// The transport of one attempt.
#[derive(Clone)]
struct Wire {
    sender: SendRequest<ClientBody>,
    remote: Arc<Remote>,
    call: Arc<Outgoing>,
    attempt: Option<u32>,
}

impl Wire {
    async fn unary(&self, config: &ClientConfig, spec: Spec) -> Result<Answer, Error> {
        let request = Raw(self.message()?);
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
            _ => self.message()?,
        };
        let (request, options) = (Raw(request), CallOptions::default());
        let response = call_server_stream::<_, Raw, RawView<'static>>(&self, config, spec, request, options);
        let stream = match response.await {
            Ok(stream) => stream,
            Err(error) => return Err(self.error(&error)),
        };
        let metadata = headers::metadata(stream.headers().clone());
        let messages = futures::stream::unfold(Some((stream, self)), |state| async move {
            let (mut stream, wire) = state?;
            match stream.message::<Raw>().await {
                Ok(Some(message)) => Some((Ok(message.as_ref().bytes().clone()), Some((stream, wire)))),
                Ok(None) => None,
                Err(error) => Some((Err(wire.error(&error)), None)),
            }
        });
        Ok(Answer { metadata, ..Answer::new(Body::Stream(Box::pin(messages))) })
    }

    fn message(&self) -> Result<Bytes, Error> {
        let missing = || Error::internal("a method of one request was called with a stream");
        self.call.message().cloned().ok_or_else(missing)
    }

    fn error(&self, error: &ConnectError) -> Error {
        // The caller's own stream failed, and so the call did.
        if let Some(own) = self.call.stream_failure() {
            return own;
        }
        let error = from_connect(error);
        if self.call.take_broken() {
            // connectrpc cannot tell a lost connection from a server that breaks the protocol.
            let message = format!("the connection to {} was lost", self.remote.endpoint());
            return Error::new(Code::Unavailable, message).with_source(error);
        }
        error
    }
}

fn one(headers: HeaderMap, message: Bytes, trailers: HeaderMap) -> Answer {
    let (metadata, trailers) = (headers::metadata(headers), headers::metadata(trailers));
    Answer { metadata, trailers, body: Body::Message(message) }
}

impl ClientTransport for Wire {
    type ResponseBody = Incoming;
    type Error = ConnectError;

    fn send(
        &self,
        request: Request<ClientBody>,
    ) -> BoxFuture<'static, Result<Response<Incoming>, ConnectError>> {
        let request = match self.prepare(request) {
            Ok(request) => request,
            Err(error) => return Box::pin(std::future::ready(Err(error))),
        };
        let Self { mut sender, remote, call, .. } = self.clone();
        Box::pin(async move {
            let mut failure = match sender.try_send_request(request).await {
                Ok(response) => return Ok(response.map(|body| Incoming { body, call })),
                Err(failure) => failure,
            };
            // The connection had been closed meanwhile, and the request came back whole: it may have
            // another connection to the same endpoint, and that is no retry.
            let Some(request) = failure.take_message() else { return Err(lost(failure.into_error())) };
            let mut sender = match remote.connection().await {
                Ok(Sender::Http(sender)) => sender,
                // It speaks something else meanwhile; a new attempt will.
                Ok(Sender::Mux(_)) => {
                    return Err(unsent("the connection was replaced by another kind".into()));
                }
                Err(error) => return Err(unsent(Box::new(error))),
            };
            match sender.try_send_request(request).await {
                Ok(response) => Ok(response.map(|body| Incoming { body, call })),
                Err(mut failure) => match failure.take_message() {
                    Some(_) => Err(unsent(Box::new(failure.into_error()))),
                    None => Err(lost(failure.into_error())),
                },
            }
        })
    }
}

impl Wire {
    /// Puts in what connectrpc does not know.
    fn prepare(&self, mut request: Request<ClientBody>) -> Result<Request<ClientBody>, ConnectError> {
        if self.call.method.static_path().is_none() {
            *request.uri_mut() = with_path(request.uri(), self.call.method.path())?;
        }
        self.call.write_headers(request.headers_mut(), self.remote.protocol(), self.attempt);
        if self.call.method.kind.client_streams() {
            // Always there: an attempt is made only while the request can be sent.
            let Some(stream) = self.call.take_stream() else {
                return Err(ConnectError::internal("the request stream was sent before"));
            };
            let body = Outbound { stream: Mutex::new(Some(stream)), call: Arc::clone(&self.call) };
            *request.body_mut() = body.boxed();
        }
        Ok(request)
    }
}

fn with_path(uri: &Uri, path: &str) -> Result<Uri, ConnectError> {
    let invalid =
        |error: http::Error| ConnectError::invalid_argument(format!("{path:?} is no path: {error}"));
    let path = PathAndQuery::from_maybe_shared(Bytes::copy_from_slice(path.as_bytes()))
        .map_err(|error| invalid(error.into()))?;
    let mut parts = uri.clone().into_parts();
    parts.path_and_query = Some(path);
    Uri::from_parts(parts).map_err(|error| invalid(error.into()))
}

fn unsent(source: Box<dyn std::error::Error + Send + Sync>) -> ConnectError {
    ConnectError::unavailable("the call was not sent").with_source(Unsent(source))
}

/// What a failed request means; most of all, whether a handler may have seen it.
fn lost(error: hyper::Error) -> ConnectError {
    let Some(h2) = find_h2(&error) else {
        return ConnectError::unavailable("the connection was lost").with_source(error);
    };
    // A peer that goes away answers the streams up to the last one that it names; hyper gives this error
    // to the others only. A refused stream was not looked at.
    let refused = h2.is_reset() && h2.reason() == Some(h2::Reason::REFUSED_STREAM);
    if h2.is_remote() && (h2.is_go_away() || refused) {
        return unsent(Box::new(error));
    }
    let code = match h2.reason().filter(|_| h2.is_reset()) {
        Some(h2::Reason::CANCEL) => ErrorCode::Canceled,
        Some(h2::Reason::ENHANCE_YOUR_CALM) => ErrorCode::ResourceExhausted,
        Some(_) => ErrorCode::Internal,
        None => ErrorCode::Unavailable,
    };
    ConnectError::new(code, "the request was broken off").with_source(error)
}

fn find_h2(error: &hyper::Error) -> Option<&h2::Error> {
    let mut error: &(dyn std::error::Error + 'static) = error;
    loop {
        if let Some(h2) = error.downcast_ref::<h2::Error>() {
            return Some(h2);
        }
        error = error.source()?;
    }
}

/// A response body that notes when its connection breaks.
struct Incoming {
    body: hyper::body::Incoming,
    call: Arc<Outgoing>,
}

impl http_body::Body for Incoming {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let frame = Pin::new(&mut self.body).poll_frame(cx);
        if let Poll::Ready(Some(Err(error))) = &frame {
            // A stream that the server reset is its own doing; anything else befell the connection.
            if !find_h2(error).is_some_and(|h2| h2.is_reset() && h2.is_remote()) {
                self.call.set_broken();
            }
        }
        frame
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// A request that streams, in the envelopes that Connect and gRPC share: a byte of flags, four of length.
struct Outbound {
    /// Never locked: the mutex only makes it `Sync`, which connectrpc asks of bodies.
    stream: Mutex<Option<ByteStream>>,
    call: Arc<Outgoing>,
}

impl http_body::Body for Outbound {
    type Data = Bytes;
    type Error = ConnectError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, ConnectError>>> {
        let this = &mut *self;
        let slot = this.stream.get_mut().unwrap_or_else(PoisonError::into_inner);
        let Some(stream) = slot else { return Poll::Ready(None) };
        let message = match std::task::ready!(stream.as_mut().poll_next(cx)) {
            Some(Ok(message)) => message,
            Some(Err(error)) => {
                // The request is reset, so that the server does not take half of it for the whole.
                *slot = None;
                let wire = to_connect(&error);
                this.call.fail_stream(error);
                return Poll::Ready(Some(Err(wire)));
            }
            None => {
                *slot = None;
                return Poll::Ready(None);
            }
        };
        let Ok(length) = u32::try_from(message.len()) else {
            *slot = None;
            return Poll::Ready(Some(Err(ConnectError::resource_exhausted("a message of over 4 GiB"))));
        };
        let mut envelope = BytesMut::with_capacity(message.len() + 5);
        envelope.put_u8(0);
        envelope.put_u32(length);
        envelope.extend_from_slice(&message);
        Poll::Ready(Some(Ok(Frame::data(envelope.freeze()))))
    }
}
