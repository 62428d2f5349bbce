//! One message each way in Connect's own form, unpacked: what Formic's own clients send over HTTP, answered here.
//!
//! connectrpc answers it too, and everything else besides: other protocols, compressed messages, GET. For that it copies
//! the head and asks for the method and keeps the deadline twice. Whoever asks for anything but the plain form is
//! answered by it as before, and every error is written by it.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use connectrpc::ConnectError;
use formic_core::{Error, Kind, Metadata, Method};
use formic_rpc::wire_error::to_connect;
use formic_rpc::{Answer, Body, Call, Codec, Handle, Peer};
use http::header::{ACCEPT_ENCODING, CONTENT_ENCODING, CONTENT_TYPE};
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response};
use http_body_util::Full;
use tokio::time::{Instant, timeout_at};

use crate::Config;
use crate::http::EdgeBody;

const PROTO: &str = "application/proto";
const JSON: &str = "application/json";
const PROTOCOL_VERSION: HeaderName = HeaderName::from_static("connect-protocol-version");
const TIMEOUT: HeaderName = HeaderName::from_static("connect-timeout-ms");
const GRPC_TIMEOUT: HeaderName = HeaderName::from_static("grpc-timeout");

/// The longest timeout of the protocol has so many digits.
const TIMEOUT_DIGITS: usize = 10;
const GRPC_DIGITS: usize = 8;

/// What of the server's limits such a call is under.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bounds {
    max_message: usize,
    default_deadline: Duration,
    max_deadline: Duration,
}

impl Bounds {
    pub(crate) fn new(config: &Config) -> Self {
        Self {
            max_message: config.max_message,
            default_deadline: config.default_deadline,
            max_deadline: config.max_deadline,
        }
    }

    pub(crate) fn max_message(&self) -> usize {
        self.max_message
    }

    /// How long a call may take for which a caller has asked for so long.
    pub(crate) fn timeout(&self, asked: Option<Duration>) -> Duration {
        asked.map_or(self.default_deadline, |asked| asked.min(self.max_deadline))
    }

    fn deadline(&self, headers: &HeaderMap) -> Instant {
        Instant::now() + self.timeout(asked_by_connect(headers))
    }
}

fn asked_by_connect(headers: &HeaderMap) -> Option<Duration> {
    let digits = headers.get(TIMEOUT)?.to_str().ok().filter(|digits| digits.len() <= TIMEOUT_DIGITS)?;
    Some(Duration::from_millis(digits.parse().ok()?))
}

/// How long the caller waits, as it says in either protocol.
pub(crate) fn asked(headers: &HeaderMap) -> Option<Duration> {
    let Some(value) = headers.get(GRPC_TIMEOUT) else { return asked_by_connect(headers) };
    let (digits, unit) = value.to_str().ok()?.split_at_checked(value.len().checked_sub(1)?)?;
    let count: u64 = digits.parse().ok().filter(|_| digits.len() <= GRPC_DIGITS)?;
    Some(match unit {
        "H" => Duration::from_secs(count * 3600),
        "M" => Duration::from_secs(count * 60),
        "S" => Duration::from_secs(count),
        "m" => Duration::from_millis(count),
        "u" => Duration::from_micros(count),
        "n" => Duration::from_nanos(count),
        _ => return None,
    })
}

/// How the messages of a request are encoded, if it is of the plain form.
pub(crate) fn codec<B>(request: &Request<B>, method: &Method) -> Option<Codec> {
    let headers = request.headers();
    let is_plain = method.kind == Kind::Unary
        && request.method() == http::Method::POST
        && !headers.contains_key(CONTENT_ENCODING)
        && !headers.contains_key(ACCEPT_ENCODING)
        && headers.get(PROTOCOL_VERSION).is_none_or(|version| version == "1");
    let kind = headers.get(CONTENT_TYPE).filter(|_| is_plain)?;
    if kind == PROTO {
        Some(Codec::Proto)
    } else if kind == JSON {
        Some(Codec::Json)
    } else {
        None
    }
}

/// A call of the plain form.
pub(crate) struct Plain<B> {
    pub(crate) request: Request<B>,
    pub(crate) method: Method,
    pub(crate) codec: Codec,
    pub(crate) peer: Option<Peer>,
    pub(crate) bounds: Bounds,
}

/// Answers a call.
pub(crate) async fn answer<B>(handle: Arc<dyn Handle>, call: Plain<B>) -> Response<EdgeBody>
where
    B: http_body::Body<Data = Bytes> + Unpin + Send,
    B::Error: std::error::Error,
{
    match answered(handle, call).await {
        Ok(response) => response,
        // Of a request without a type, which is answered in this form.
        Err(error) => error.into_http_response(&HeaderMap::new()).map(EdgeBody::Rpc),
    }
}

async fn answered<B>(handle: Arc<dyn Handle>, plain: Plain<B>) -> Result<Response<EdgeBody>, ConnectError>
where
    B: http_body::Body<Data = Bytes> + Unpin + Send,
    B::Error: std::error::Error,
{
    let Plain { request, method, codec, peer, bounds } = plain;
    let (head, body) = request.into_parts();
    let deadline = bounds.deadline(&head.headers);
    // The usual request came whole with its head, and then no timer is set.
    let message = timeout_at(deadline, Collect::new(body, bounds.max_message)).await;
    let message = message.map_err(|_| ConnectError::deadline_exceeded("request timeout"))??;
    let mut call = Call::new(method, codec, Body::Message(message));
    call.metadata = Metadata::from(head.headers);
    call.extensions = head.extensions;
    call.deadline = Some(deadline);
    call.peer = peer;
    let answer = handle.call(call).await.map_err(|error| to_connect(&error))?;
    response(answer, codec).map_err(|error| to_connect(&error))
}

fn response(answer: Answer, codec: Codec) -> Result<Response<EdgeBody>, Error> {
    let message = answer.body.into_message()?;
    // A body that knows its length and its end, so that both travel with the message and not after it.
    let mut response = Response::new(EdgeBody::Full(Full::new(message)));
    let headers = response.headers_mut();
    let kind = if codec == Codec::Json { JSON } else { PROTO };
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    for (name, value) in answer.metadata.as_headers() {
        headers.append(name.clone(), value.clone());
    }
    for (name, value) in answer.trailers.as_headers() {
        if let Ok(name) = HeaderName::try_from(format!("trailer-{name}")) {
            headers.append(name, value.clone());
        }
    }
    Ok(response)
}

/// The whole of a body, up to a limit. Nearly always it is one piece, which is taken as it is.
struct Collect<B> {
    body: B,
    limit: usize,
    first: Bytes,
    /// All of them, where there are several.
    pieces: BytesMut,
}

impl<B> Collect<B> {
    fn new(body: B, limit: usize) -> Self {
        Self { body, limit, first: Bytes::new(), pieces: BytesMut::new() }
    }

    fn add(&mut self, piece: Bytes) -> Result<(), ConnectError> {
        let limit = self.limit;
        if self.first.len() + self.pieces.len() + piece.len() > limit {
            let text = format!("request body size exceeds limit {limit}");
            return Err(ConnectError::resource_exhausted(text));
        }
        if self.first.is_empty() && self.pieces.is_empty() {
            self.first = piece;
        } else {
            self.pieces.extend_from_slice(&std::mem::take(&mut self.first));
            self.pieces.extend_from_slice(&piece);
        }
        Ok(())
    }
}

impl<B> Future for Collect<B>
where
    B: http_body::Body<Data = Bytes> + Unpin,
    B::Error: std::error::Error,
{
    type Output = Result<Bytes, ConnectError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = &mut *self;
        while !this.body.is_end_stream() {
            match ready!(Pin::new(&mut this.body).poll_frame(cx)) {
                Some(Ok(frame)) => {
                    // Trailers are no part of this form.
                    if let Ok(piece) = frame.into_data() {
                        this.add(piece)?;
                    }
                }
                Some(Err(error)) => {
                    let text = format!("failed to read request body: {error}");
                    return Poll::Ready(Err(ConnectError::internal(text)));
                }
                None => break,
            }
        }
        let first = std::mem::take(&mut this.first);
        let pieces = std::mem::take(&mut this.pieces);
        Poll::Ready(Ok(if pieces.is_empty() { first } else { pieces.freeze() }))
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]

    use std::collections::VecDeque;
    use std::convert::Infallible;

    use http_body::Frame;

    use super::*;

    const SAY: Method = Method::new("/test.Echo/Say", Kind::Unary);

    struct Pieces(VecDeque<Bytes>);

    impl http_body::Body for Pieces {
        type Data = Bytes;
        type Error = Infallible;

        fn poll_frame(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
            Poll::Ready(self.0.pop_front().map(|piece| Ok(Frame::data(piece))))
        }
    }

    async fn collect(pieces: &[&'static str], limit: usize) -> Result<Bytes, ConnectError> {
        let pieces = pieces.iter().map(|piece| Bytes::from_static(piece.as_bytes())).collect();
        Collect::new(Pieces(pieces), limit).await
    }

    #[tokio::test]
    async fn pieces_become_one_message_within_the_limit() {
        assert_eq!(collect(&[], 3).await.unwrap(), "");
        assert_eq!(collect(&["abc"], 3).await.unwrap(), "abc");
        assert_eq!(collect(&["", "a", "", "b", "c"], 3).await.unwrap(), "abc");
        let error = collect(&["ab", "cd"], 3).await.unwrap_err();
        assert_eq!(error.code, connectrpc::ErrorCode::ResourceExhausted);
    }

    #[test]
    fn only_the_plain_form_is_taken() {
        let request = |headers: &[(&'static str, &'static str)]| {
            let mut request = Request::post(SAY.path()).body(()).unwrap();
            for (name, value) in headers {
                request.headers_mut().append(*name, HeaderValue::from_static(value));
            }
            request
        };
        let proto = ("content-type", "application/proto");
        assert_eq!(codec(&request(&[proto]), &SAY), Some(Codec::Proto));
        assert_eq!(codec(&request(&[("content-type", "application/json")]), &SAY), Some(Codec::Json));
        assert_eq!(codec(&request(&[proto, ("connect-protocol-version", "1")]), &SAY), Some(Codec::Proto));
        for other in [
            &[proto, ("connect-protocol-version", "2")][..],
            &[proto, ("content-encoding", "gzip")],
            &[proto, ("accept-encoding", "gzip")],
            &[("content-type", "application/grpc")],
            &[("content-type", "application/json; charset=utf-8")],
            &[],
        ] {
            assert_eq!(codec(&request(other), &SAY), None, "{other:?}");
        }
        let mut get = request(&[proto]);
        *get.method_mut() = http::Method::GET;
        assert_eq!(codec(&get, &SAY), None);
        let many = Method::new("/test.Echo/Many", Kind::ServerStream);
        assert_eq!(codec(&request(&[proto]), &many), None);
    }

    #[tokio::test(start_paused = true)]
    async fn a_timeout_is_bounded_and_nonsense_is_none() {
        let bounds = Bounds::new(&Config::default());
        let of = |text: &'static str| {
            let headers = HeaderMap::from_iter([(TIMEOUT, HeaderValue::from_static(text))]);
            bounds.deadline(&headers) - Instant::now()
        };
        assert_eq!(of("1500"), Duration::from_millis(1500));
        assert_eq!(of("9999999999"), Config::default().max_deadline);
        for none in ["", "soon", "-1", "99999999999"] {
            assert_eq!(of(none), Config::default().default_deadline, "{none}");
        }
    }

    #[test]
    fn either_protocol_says_how_long_its_caller_waits() {
        let of = |name, text| asked(&HeaderMap::from_iter([(name, HeaderValue::from_static(text))]));
        assert_eq!(of(TIMEOUT, "1500"), Some(Duration::from_millis(1500)));
        let millis = |text| of(GRPC_TIMEOUT, text).map(|asked| asked.as_millis());
        assert_eq!(
            ["2H", "3M", "4S", "5m", "6000u", "7000000n", "0n"].map(millis),
            [7_200_000, 180_000, 4_000, 5, 6, 7, 0].map(Some)
        );
        for none in ["", "S", "5", "5x", "-5S", "123456789S"] {
            assert_eq!(millis(none), None, "{none}");
        }
        assert_eq!(asked(&HeaderMap::new()), None);
    }
}
