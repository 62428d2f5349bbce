//! One message each way in Connect's own form, which nearly every call is, written and read here.
//!
//! connectrpc does the same for any protocol, codec and compression, and copies heads and bodies on the way. What is
//! written here is the one form that this client speaks by itself, and what is read the one answer that is no error and
//! needs no decoding; every other answer is given to connectrpc as it came.

use std::sync::{Arc, Mutex, PoisonError};
use std::task::ready;

use bytes::{Bytes, BytesMut};
use connectrpc::client::{BoxFuture, CallOptions, ClientBody, ClientTransport, call_unary};
use connectrpc::{ConnectError, Spec, StreamType};
use formic_core::Error;
use formic_rpc::raw::{Raw, RawView};
use formic_rpc::{Answer, Codec};
use http::header::{CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, Version};

use crate::Protocol;
use crate::http2::{self, Place};
use crate::outgoing::Outgoing;
use crate::remote::Remote;
use crate::wire::{self, Incoming};

const PROTO: &str = "application/proto";
const PROTOCOL_VERSION: HeaderName = HeaderName::from_static("connect-protocol-version");

/// What every call has, with room for two of its author's: growing costs more than it saves.
const HEADERS: usize = 6;

/// Whether a call is of this form.
pub(crate) fn is_plain(remote: &Remote, outgoing: &Outgoing) -> bool {
    outgoing.codec == Codec::Proto && remote.protocol() == Protocol::Connect
}

/// Makes one attempt.
///
/// # Errors
/// As [`wire::http`].
pub(crate) async fn call(
    sender: http2::Sender,
    remote: &Arc<Remote>,
    outgoing: &Arc<Outgoing>,
    attempt: Option<u32>,
) -> Result<Answer, Error> {
    let attempting = async {
        let message = wire::message(outgoing)?;
        let uri = remote.uri(&outgoing.method).map_err(|error| wire::no_path(&outgoing.method, error))?;
        let head = || {
            let mut headers = HeaderMap::with_capacity(HEADERS);
            headers.insert(CONTENT_TYPE, HeaderValue::from_static(PROTO));
            headers.insert(PROTOCOL_VERSION, HeaderValue::from_static("1"));
            headers.insert(CONTENT_LENGTH, HeaderValue::from(message.len()));
            outgoing.write_headers(&mut headers, Protocol::Connect, attempt);
            let mut head = Request::new(());
            *head.method_mut() = Method::POST;
            *head.uri_mut() = uri.clone();
            *head.version_mut() = Version::HTTP_2;
            *head.headers_mut() = headers;
            head
        };
        let open = wire::open(sender, remote, head, Some(message.clone())).await?;
        let response = open.response.await.map_err(wire::lost)?;
        if is_answer(&response) {
            return answer(response, open.place, remote, outgoing).await;
        }
        let response = response.map(|body| Incoming::new(body, open.place, None, outgoing));
        Box::pin(other(response, remote)).await
    };
    attempting.await.map_err(|error| wire::error(&error, remote, outgoing))
}

/// Whether a response is the message asked for, as it is.
fn is_answer<B>(response: &Response<B>) -> bool {
    let headers = response.headers();
    response.status() == StatusCode::OK
        && headers.get(CONTENT_TYPE).is_some_and(|kind| kind.as_bytes().starts_with(PROTO.as_bytes()))
        && !headers.contains_key(CONTENT_ENCODING)
}

async fn answer(
    response: Response<h2::RecvStream>,
    _place: Place,
    remote: &Remote,
    outgoing: &Outgoing,
) -> Result<Answer, ConnectError> {
    let (head, mut body) = response.into_parts();
    let mut whole = Bytes::new();
    // Nearly always there is one piece, which is then the message.
    let mut pieces = BytesMut::new();
    let reading = std::future::poll_fn(|cx| {
        loop {
            let Some(piece) = ready!(http2::poll_data(&mut body, cx)) else { break };
            let piece = match piece {
                Ok(piece) => piece,
                Err(error) => {
                    wire::note_broken(&error, outgoing);
                    let text = format!("failed to read response body: {error}");
                    return std::task::Poll::Ready(Err(ConnectError::internal(text)));
                }
            };
            let limit = remote.max_message();
            if whole.len() + pieces.len() + piece.len() > limit {
                let text = format!("response body size exceeds limit {limit}");
                return std::task::Poll::Ready(Err(ConnectError::resource_exhausted(text)));
            }
            if whole.is_empty() && pieces.is_empty() {
                whole = piece;
            } else {
                pieces.extend_from_slice(&std::mem::take(&mut whole));
                pieces.extend_from_slice(&piece);
            }
            if body.is_end_stream() {
                break;
            }
        }
        std::task::Poll::Ready(Ok(()))
    });
    reading.await?;
    let message = if pieces.is_empty() { whole } else { pieces.freeze() };
    let (metadata, trailers) = parts(head.headers);
    Ok(wire::one(metadata, message, trailers))
}

/// The headers of an answer, and those that are its trailers.
fn parts(headers: HeaderMap) -> (HeaderMap, HeaderMap) {
    const PREFIX: &str = "trailer-";
    if !headers.keys().any(|name| name.as_str().starts_with(PREFIX)) {
        return (headers, HeaderMap::new());
    }
    let (mut leading, mut trailing) = (HeaderMap::new(), HeaderMap::new());
    for (name, value) in &headers {
        match name.as_str().strip_prefix(PREFIX).map(|name| HeaderName::from_bytes(name.as_bytes())) {
            Some(Ok(name)) => drop(trailing.append(name, value.clone())),
            Some(Err(_)) => {}
            None => drop(leading.append(name.clone(), value.clone())),
        }
    }
    (leading, trailing)
}

/// Has connectrpc make out what a response means.
async fn other(response: Response<Incoming>, remote: &Remote) -> Result<Answer, ConnectError> {
    let (given, spec) = (Given::new(response), Spec::client(wire::SOME_PATH, StreamType::Unary));
    let (request, options) = (Raw(Bytes::new()), CallOptions::default());
    let response =
        call_unary::<_, Raw, RawView<'static>>(&given, &remote.proto, spec, request, options).await?;
    let (headers, message, trailers) = response.into_parts();
    Ok(wire::one(headers, message.into_bytes(), trailers))
}

/// A transport that has the response already.
#[derive(Clone)]
struct Given(Arc<Mutex<Option<Response<Incoming>>>>);

impl Given {
    fn new(response: Response<Incoming>) -> Self {
        Self(Arc::new(Mutex::new(Some(response))))
    }
}

impl ClientTransport for Given {
    type ResponseBody = Incoming;
    type Error = ConnectError;

    fn send(&self, _: Request<ClientBody>) -> BoxFuture<'static, Result<Response<Incoming>, ConnectError>> {
        let response = self.0.lock().unwrap_or_else(PoisonError::into_inner).take();
        let response = response.ok_or_else(|| ConnectError::internal("there is one response to a call"));
        Box::pin(std::future::ready(response))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn trailers_are_told_from_headers() {
        let mut headers = HeaderMap::new();
        for (name, value) in [("x-a", "1"), ("trailer-x-b", "2"), ("trailer-x-b", "3"), ("x-a", "4")] {
            headers.append(HeaderName::from_static(name), HeaderValue::from_static(value));
        }
        let (leading, trailing) = parts(headers);
        assert_eq!(leading.get_all("x-a").iter().collect::<Vec<_>>(), ["1", "4"]);
        assert_eq!(trailing.get_all("x-b").iter().collect::<Vec<_>>(), ["2", "3"]);
        assert_eq!((leading.len(), trailing.len()), (2, 2));
    }

    #[test]
    fn only_a_message_as_it_is_is_taken_for_one() {
        let response = |status: u16, kind: &str| {
            Response::builder().status(status).header("content-type", kind).body(()).expect("valid")
        };
        assert!(is_answer(&response(200, "application/proto")));
        assert!(is_answer(&response(200, "application/proto; charset=utf-8")));
        assert!(!is_answer(&response(200, "application/json")));
        assert!(!is_answer(&response(503, "application/proto")));
        assert!(!is_answer(&Response::new(())));
        let mut packed = response(200, "application/proto");
        packed.headers_mut().insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
        assert!(!is_answer(&packed));
    }
}
