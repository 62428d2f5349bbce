//! A call as it is kept while attempts are made: what is the same for all of them, and the request, as
//! long as it can be sent again.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use formic_core::{Error, Metadata, Method};
use formic_mux::machine::Head;
use formic_rpc::trace::TRACEPARENT;
use formic_rpc::{Body, ByteStream, Call, Codec, TraceContext};
use http::{HeaderMap, HeaderName, HeaderValue};
use tokio::time::Instant;

use crate::progress::Progress;
use crate::{ATTEMPT, Protocol, headers, way};

const TRACEPARENT_NAME: HeaderName = HeaderName::from_static(TRACEPARENT);
const ATTEMPT_NAME: HeaderName = HeaderName::from_static(ATTEMPT);
const CONNECT_TIMEOUT: HeaderName = HeaderName::from_static("connect-timeout-ms");
const GRPC_TIMEOUT: HeaderName = HeaderName::from_static("grpc-timeout");

/// What of a call every attempt shares.
#[derive(Debug)]
pub(crate) struct Outgoing {
    pub(crate) method: Method,
    pub(crate) codec: Codec,
    metadata: Metadata,
    /// What rules go by and does not travel.
    seen: Option<Seen>,
    deadline: Option<Instant>,
    /// `None` when the metadata holds it already.
    trace: Option<TraceContext>,
    request: Request,
    /// The connection broke while the answer was being read.
    broken: AtomicBool,
    /// Over what it travelled.
    pub(crate) way: way::Last,
    pub(crate) made: Made,
}

/// How a call was made.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Made {
    pub(crate) at: Instant,
    /// It is itself caused by a repetition.
    pub(crate) retried: bool,
    /// When its answer must have begun.
    pub(crate) until: Option<Instant>,
}

/// Headers that the policy of a service goes by, beside the metadata of a call, and that do not travel with it: of a
/// request that a proxy passes on as a call, what was said to the proxy alone. Stands in the extensions of the call.
#[derive(Clone, Debug)]
pub struct Seen(pub Arc<HeaderMap>);

enum Request {
    Message(Bytes),
    Stream(Mutex<Streaming>, Arc<Progress>),
}

impl std::fmt::Debug for Request {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Message(_) => "Message",
            Self::Stream(..) => "Stream",
        })
    }
}

/// A request that streams: there until it is sent, then perhaps the reason why it ended.
enum Streaming {
    Waiting(ByteStream),
    Sent,
    Failed(Error),
}

impl Outgoing {
    pub(crate) fn new(call: Call, trace: Option<TraceContext>, made: Made) -> Self {
        let request = match call.body {
            Body::Message(bytes) => Request::Message(bytes),
            Body::Stream(stream) => {
                let progress = Progress::begin(Instant::now());
                Request::Stream(Mutex::new(Streaming::Waiting(stream)), progress)
            }
        };
        Self {
            method: call.method,
            codec: call.codec,
            metadata: call.metadata,
            seen: call.extensions.get().cloned(),
            deadline: call.deadline,
            trace,
            request,
            broken: AtomicBool::new(false),
            way: way::Last::default(),
            made,
        }
    }

    /// The text value of a header, for the policy.
    pub(crate) fn text(&self, name: &str) -> Option<&str> {
        let seen = || self.seen.as_ref()?.0.get(name);
        self.metadata.as_headers().get(name).or_else(seen)?.to_str().ok()
    }

    /// When its caller stops waiting.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.deadline
    }

    /// The same call once more, to be on its way beside this one; only for requests of one message.
    pub(crate) fn twin(&self) -> Option<Self> {
        let request = Request::Message(self.message()?.clone());
        Some(Self {
            method: self.method.clone(),
            codec: self.codec,
            metadata: self.metadata.clone(),
            seen: self.seen.clone(),
            deadline: self.deadline,
            trace: self.trace,
            request,
            broken: AtomicBool::new(false),
            way: way::Last::default(),
            made: self.made,
        })
    }

    /// The request if it is one message.
    pub(crate) fn message(&self) -> Option<&Bytes> {
        match &self.request {
            Request::Message(bytes) => Some(bytes),
            Request::Stream(..) => None,
        }
    }

    /// How far the request has come, if it streams.
    pub(crate) fn progress(&self) -> Option<&Arc<Progress>> {
        match &self.request {
            Request::Message(_) => None,
            Request::Stream(_, progress) => Some(progress),
        }
    }

    /// The request if it streams and was not sent yet; it is sent once.
    pub(crate) fn take_stream(&self) -> Option<ByteStream> {
        let Request::Stream(stream, progress) = &self.request else { return None };
        let mut stream = stream.lock().unwrap_or_else(PoisonError::into_inner);
        match std::mem::replace(&mut *stream, Streaming::Sent) {
            Streaming::Waiting(stream) => Some(progress.follow(stream)),
            Streaming::Sent => None,
            failed @ Streaming::Failed(_) => {
                *stream = failed;
                None
            }
        }
    }

    /// Whether the whole request can be sent (again).
    pub(crate) fn replayable(&self) -> bool {
        match &self.request {
            Request::Message(_) => true,
            Request::Stream(stream, _) => {
                let stream = stream.lock().unwrap_or_else(PoisonError::into_inner);
                matches!(&*stream, Streaming::Waiting(_))
            }
        }
    }

    /// The caller's own stream ended with an error, which is then the call's.
    pub(crate) fn fail_stream(&self, error: Error) {
        if let Request::Stream(stream, _) = &self.request {
            *stream.lock().unwrap_or_else(PoisonError::into_inner) = Streaming::Failed(error);
        }
    }

    /// Why the caller's stream ended, if with an error.
    pub(crate) fn stream_failure(&self) -> Option<Error> {
        let Request::Stream(stream, _) = &self.request else { return None };
        match &*stream.lock().unwrap_or_else(PoisonError::into_inner) {
            Streaming::Failed(error) => Some(error.clone()),
            _ => None,
        }
    }

    /// Notes that the connection broke while the answer was being read.
    pub(crate) fn set_broken(&self) {
        self.broken.store(true, Ordering::Release);
    }

    /// Whether it did, since this was last asked.
    pub(crate) fn take_broken(&self) -> bool {
        self.broken.load(Ordering::Acquire) && self.broken.swap(false, Ordering::AcqRel)
    }

    /// What travels beside the request on the multiplexed wire; `attempt` marks a repetition.
    pub(crate) fn head(&self, attempt: Option<u32>, now: Instant) -> Head<'_> {
        // Interceptors may have left the trace in the metadata.
        let written = || self.metadata.as_headers().get(TRACEPARENT_NAME)?.to_str().ok()?.parse().ok();
        let trace = self.trace.or_else(written);
        let left = |deadline: Instant| deadline.saturating_duration_since(now);
        Head {
            path: self.method.path(),
            json: self.codec == Codec::Json,
            timeout: self.deadline.map(left),
            trace,
            attempt: attempt.map(|attempt| u8::try_from(attempt).unwrap_or(u8::MAX)),
            metadata: self.metadata.as_headers(),
            skip: if trace.is_some() { is_wire_or_trace } else { headers::is_wire },
        }
    }

    /// Writes what travels beside the request; `attempt` marks a repetition.
    pub(crate) fn write_headers(&self, to: &mut HeaderMap, protocol: Protocol, attempt: Option<u32>) {
        for (name, value) in self.metadata.as_headers() {
            if !headers::is_wire(name) {
                to.append(name.clone(), value.clone());
            }
        }
        if let Some(trace) = self.trace {
            let mut value = trace.to_header();
            // No secret, but no two are alike: marked so, it stays out of HTTP/2's header tables, which
            // it would fill and churn on both sides.
            value.set_sensitive(true);
            to.insert(TRACEPARENT_NAME, value);
        }
        if let Some(deadline) = self.deadline {
            let (name, value) = timeout(deadline.saturating_duration_since(Instant::now()), protocol);
            to.insert(name, value);
        }
        if let Some(attempt) = attempt {
            to.insert(ATTEMPT_NAME, HeaderValue::from(attempt));
        }
    }
}

fn is_wire_or_trace(name: &HeaderName) -> bool {
    *name == TRACEPARENT_NAME || headers::is_wire(name)
}

/// What is left of the time, rounded down so that it shrinks with every hop; never 0, which some servers
/// read as no limit.
fn timeout(left: Duration, protocol: Protocol) -> (HeaderName, HeaderValue) {
    // The longest that fits into the eight digits of gRPC, which is a day, is as good as any.
    let millis = u32::try_from(left.as_millis()).unwrap_or(u32::MAX).clamp(1, 99_999_999);
    match protocol {
        Protocol::Connect => (CONNECT_TIMEOUT, HeaderValue::from(millis)),
        Protocol::Grpc => {
            let value = HeaderValue::from_str(&format!("{millis}m"));
            (GRPC_TIMEOUT, value.unwrap_or_else(|_| HeaderValue::from_static("1S")))
        }
    }
}

#[cfg(test)]
mod tests {
    use formic_core::Kind;

    use super::*;

    fn made() -> Made {
        Made { at: Instant::now(), retried: false, until: None }
    }

    fn call(body: Body) -> Call {
        Call::new(Method::new("/p.S/M", Kind::ClientStream), Codec::Proto, body)
    }

    #[test]
    fn metadata_travels_without_what_belongs_to_another_hop() {
        let mut call = call(Body::Message(Bytes::new()));
        call.deadline = Some(Instant::now() + Duration::from_secs(3));
        for (name, value) in [("x-user", "ada"), ("content-type", "text/html"), ("connect-timeout-ms", "9")] {
            call.metadata.insert(name, value).expect("valid");
        }
        let trace = TraceContext { trace_id: 1, span_id: 2, sampled: false };
        let outgoing = Outgoing::new(call, Some(trace), made());
        let mut headers = HeaderMap::new();
        headers.insert("content-type", HeaderValue::from_static("application/proto"));
        outgoing.write_headers(&mut headers, Protocol::Connect, Some(2));
        assert_eq!(headers["content-type"], "application/proto");
        assert_eq!(headers["x-user"], "ada");
        assert_eq!(headers["formic-attempt"], "2");
        assert_eq!(headers["traceparent"], trace.to_header());
        let left: u32 = headers["connect-timeout-ms"].to_str().expect("ascii").parse().expect("a number");
        assert!((2_900..3_000).contains(&left), "{left}");
    }

    #[test]
    fn timeouts_fit_their_protocols() {
        assert_eq!(timeout(Duration::ZERO, Protocol::Connect).1, "1");
        assert_eq!(timeout(Duration::from_millis(1500), Protocol::Grpc).1, "1500m");
        assert_eq!(timeout(Duration::MAX, Protocol::Grpc).1, "99999999m");
    }

    #[test]
    fn a_stream_is_sent_once() {
        let outgoing = Outgoing::new(call(Body::stream(futures::stream::empty())), None, made());
        assert!(outgoing.replayable());
        assert!(outgoing.take_stream().is_some());
        assert!(!outgoing.replayable() && outgoing.take_stream().is_none());
        outgoing.fail_stream(Error::aborted("by the caller"));
        assert_eq!(outgoing.stream_failure().map(|error| error.code()), Some(formic_core::Code::Aborted));
    }
}
