//! Callers that never stop, in the ways in which programs of today call: each counts what it sent and keeps what went
//! wrong. They are strict: a connection that ends under a request is a failure, and nothing is sent again but what
//! never left, or what a GOAWAY says was not begun.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response, StatusCode, Version, header};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

/// Longer than anything that is asked for.
const LIMIT: Duration = Duration::from_secs(60);

/// What a caller asks for, again and again.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Ask {
    /// One answer, at once.
    Quick,
    /// One answer after two seconds.
    Slow,
    /// A stream of ten answers, 20 ms apart.
    Stream,
}

/// All callers.
pub(crate) struct Load {
    over: Arc<AtomicBool>,
    sent: Arc<AtomicU64>,
    callers: JoinSet<Vec<String>>,
}

impl Load {
    /// Over HTTP/1.1 with keep-alive and over HTTP/2: quick calls, calls that take two seconds, streams.
    pub(crate) fn begin(authorities: &[String]) -> Self {
        let (over, sent) = (Arc::<AtomicBool>::default(), Arc::<AtomicU64>::default());
        let mut callers = JoinSet::new();
        for authority in authorities {
            for version in [Version::HTTP_11, Version::HTTP_2] {
                for ask in [Ask::Quick, Ask::Quick, Ask::Slow, Ask::Slow, Ask::Slow, Ask::Stream] {
                    let caller = Caller { authority: authority.clone(), version, ask, connection: None };
                    callers.spawn(caller.go_on(Arc::clone(&over), Arc::clone(&sent)));
                }
            }
        }
        Self { over, sent, callers }
    }

    /// Requests so far.
    pub(crate) fn sent(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }

    /// How many were sent, and what went wrong.
    pub(crate) async fn end(self) -> (u64, Vec<String>) {
        self.over.store(true, Ordering::Relaxed);
        let failed = self.callers.join_all().await.concat();
        (self.sent.load(Ordering::Relaxed), failed)
    }
}

struct Caller {
    authority: String,
    version: Version,
    ask: Ask,
    connection: Option<Connection>,
}

type Body = BoxBody<Bytes, Infallible>;

struct Connection {
    sender: Sender,
    /// Ends with it.
    _task: JoinSet<()>,
}

enum Sender {
    One(http1::SendRequest<Body>),
    Two(http2::SendRequest<Body>),
}

impl Connection {
    async fn open(authority: &str, version: Version) -> Result<Self, String> {
        let stream = TcpStream::connect(authority).await.map_err(|error| format!("connect: {error}"))?;
        stream.set_nodelay(true).unwrap();
        let mut task = JoinSet::new();
        if version == Version::HTTP_2 {
            let (sender, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(stream))
                .await
                .map_err(|error| format!("handshake: {error}"))?;
            task.spawn(async move { drop(connection.await) });
            Ok(Self { sender: Sender::Two(sender), _task: task })
        } else {
            let (sender, connection) = http1::handshake(TokioIo::new(stream))
                .await
                .map_err(|error| format!("handshake: {error}"))?;
            task.spawn(async move { drop(connection.await) });
            Ok(Self { sender: Sender::One(sender), _task: task })
        }
    }

    /// Whether the server has not said that it will take no more.
    async fn is_ready(&mut self) -> bool {
        match &mut self.sender {
            Sender::One(sender) => sender.ready().await.is_ok(),
            Sender::Two(sender) => sender.ready().await.is_ok(),
        }
    }

    /// Sends it.
    async fn send(&mut self, request: Request<Body>) -> Result<Response<Incoming>, Unanswered> {
        let sent = match &mut self.sender {
            Sender::One(sender) => sender.try_send_request(request).await,
            Sender::Two(sender) => sender.try_send_request(request).await,
        };
        sent.map_err(|mut error| {
            let unsent = error.take_message().is_some();
            let error = error.into_error();
            if unsent || is_not_begun(&error) {
                Unanswered::NotBegun
            } else {
                Unanswered::Lost(format!("{error:?}"))
            }
        })
    }
}

enum Unanswered {
    /// Not a byte of it went out, or the server says that it did not take it.
    NotBegun,
    Lost(String),
}

/// Whether the server has said goodbye, naming an earlier request as the last that it took.
fn is_not_begun(error: &hyper::Error) -> bool {
    let cause = std::error::Error::source(error).and_then(|cause| cause.downcast_ref::<h2::Error>());
    cause.is_some_and(|h2| h2.is_go_away() && h2.is_remote() && h2.reason() == Some(h2::Reason::NO_ERROR))
}

impl Caller {
    async fn go_on(mut self, over: Arc<AtomicBool>, sent: Arc<AtomicU64>) -> Vec<String> {
        let mut failed = Vec::new();
        while !over.load(Ordering::Relaxed) {
            sent.fetch_add(1, Ordering::Relaxed);
            let outcome = tokio::time::timeout(LIMIT, self.once()).await;
            if let Err(error) = outcome.unwrap_or_else(|_| Err("no answer".into())) {
                failed.push(format!("{:?} over {:?} to {}: {error}", self.ask, self.version, self.authority));
                self.connection = None;
                // A failure is a failure; a thousand a second are no more.
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        failed
    }

    /// One request, and its whole answer.
    async fn once(&mut self) -> Result<(), String> {
        let response = loop {
            let mut connection = match self.connection.take() {
                Some(connection) => connection,
                None => Connection::open(&self.authority, self.version).await?,
            };
            if !connection.is_ready().await {
                continue;
            }
            let sent = connection.send(self.request()).await;
            self.connection = Some(connection);
            match sent {
                Ok(response) => break response,
                Err(Unanswered::NotBegun) => self.connection = None,
                Err(Unanswered::Lost(error)) => return Err(error),
            }
        };
        let status = response.status();
        let body = response.into_body().collect().await.map_err(|error| format!("body: {error:?}"))?;
        let body = body.to_bytes();
        if status != StatusCode::OK {
            return Err(format!("{status}: {}", String::from_utf8_lossy(&body)));
        }
        match self.ask {
            Ask::Stream => whole_stream(&body),
            _ => Ok(()),
        }
    }

    fn request(&self) -> Request<Body> {
        let (method, kind, body) = match self.ask {
            Ask::Quick => ("Say", "application/json", wait(1, 0)),
            Ask::Slow => ("Say", "application/json", wait(2000, 0)),
            Ask::Stream => ("Count", "application/connect+json", enveloped(&wait(20, 10))),
        };
        let uri = match self.version {
            Version::HTTP_2 => format!("http://{}/probe.v1.Probe/{method}", self.authority),
            _ => format!("/probe.v1.Probe/{method}"),
        };
        let mut request = Request::post(uri).header(header::CONTENT_TYPE, kind);
        if self.version != Version::HTTP_2 {
            request = request.header(header::HOST, &self.authority);
        }
        request.body(Full::new(body).boxed()).unwrap()
    }
}

fn wait(millis: u64, number: u32) -> Bytes {
    format!(r#"{{"action":"ACTION_WAIT","millis":{millis},"number":{number}}}"#).into()
}

fn enveloped(message: &Bytes) -> Bytes {
    let length = u32::try_from(message.len()).unwrap().to_be_bytes();
    [&[0], &length[..], message].concat().into()
}

/// Ten messages, and the end of a stream without an error.
fn whole_stream(mut body: &[u8]) -> Result<(), String> {
    let mut messages = 0;
    while let [flags, a, b, c, d, rest @ ..] = body {
        let length = u32::from_be_bytes([*a, *b, *c, *d]) as usize;
        let (message, rest) = rest.split_at_checked(length).ok_or("a message is cut off")?;
        let text = String::from_utf8_lossy(message);
        match (flags & 2 != 0, text.contains("\"error\"")) {
            (true, false) if messages == 10 => return Ok(()),
            (true, _) => return Err(format!("the stream ended after {messages} messages: {text}")),
            (false, _) => messages += 1,
        }
        body = rest;
    }
    Err(format!("the stream broke off after {messages} messages"))
}
