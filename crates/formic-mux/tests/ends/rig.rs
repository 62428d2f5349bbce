//! A service, a server of it on a byte stream, and a client at the other end.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use formic_core::{Code, Error, Kind, Method};
use formic_mux::client::{Connect, Failure, connect};
use formic_mux::learn::Book;
use formic_mux::machine::Head;
use formic_mux::{Accept, Budget, Limits, Sender, serve};
use formic_rpc::rt::buffa_types::google::protobuf::StringValue;
use formic_rpc::{Answer, Body, BoxFuture, ByteStream, Call, Handle, Response, Streaming, rt};
use futures::StreamExt;
use http::HeaderMap;
use tokio::io::DuplexStream;
use tokio::task::{JoinHandle, JoinSet};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

const METHODS: [Method; 12] = [
    Method::new("/t.Echo/Say", Kind::Unary),
    Method::new("/t.Echo/Later", Kind::Unary),
    Method::new("/t.Echo/Spin", Kind::Unary),
    Method::new("/t.Echo/Sleep", Kind::Unary),
    Method::new("/t.Echo/Hang", Kind::Unary),
    Method::new("/t.Echo/Big", Kind::Unary),
    Method::new("/t.Echo/Endless", Kind::ServerStream),
    Method::new("/t.Echo/Short", Kind::ServerStream),
    Method::new("/t.Echo/Slow", Kind::ServerStream),
    Method::new("/t.Echo/Chat", Kind::BidiStream),
    Method::new("/t.Echo/Hold", Kind::BidiStream),
    Method::new("/t.Echo/Deaf", Kind::ClientStream),
];

#[derive(Default)]
pub(crate) struct Echo {
    pub(crate) began: AtomicUsize,
    pub(crate) dropped: AtomicUsize,
    pub(crate) made: AtomicUsize,
}

struct Guard(Arc<Echo>, bool);

impl Drop for Guard {
    fn drop(&mut self) {
        if !self.1 {
            self.0.dropped.fetch_add(1, Ordering::SeqCst);
        }
    }
}

struct Service(Arc<Echo>);

impl Handle for Service {
    fn method(&self, path: &str) -> Option<Method> {
        METHODS.into_iter().find(|method| method.path() == path)
    }

    fn call(&self, call: Call) -> BoxFuture<'static, Result<Answer, Error>> {
        let echo = Arc::clone(&self.0);
        Box::pin(async move {
            echo.began.fetch_add(1, Ordering::SeqCst);
            let mut guard = Guard(Arc::clone(&echo), false);
            let answer = match call.method.name() {
                "Say" => Answer::new(call.body),
                "Later" => {
                    for _ in 0..fastrand::usize(..4) {
                        tokio::task::yield_now().await;
                    }
                    Answer::new(call.body)
                }
                "Spin" => {
                    let began = std::time::Instant::now();
                    while began.elapsed() < Duration::from_micros(200) {}
                    Answer::new(call.body)
                }
                "Sleep" => {
                    let message = call.body.into_message()?;
                    if !message.is_empty() {
                        std::thread::sleep(Duration::from_millis(150));
                    }
                    Answer::new(Body::Message(message))
                }
                "Hang" => std::future::pending().await,
                "Big" => Answer::new(Body::Message(vec![2; 200_000].into())),
                "Endless" => {
                    let held = Guard(Arc::clone(&echo), false);
                    let messages = futures::stream::repeat_with(move || {
                        let _dropped_with_the_stream = &held;
                        echo.made.fetch_add(1, Ordering::SeqCst);
                        Ok(Bytes::from(vec![1; 10_000]))
                    });
                    Answer::new(Body::stream(messages))
                }
                "Short" => {
                    let held = Guard(Arc::clone(&echo), false);
                    let messages = futures::stream::repeat_with(move || {
                        let _dropped_with_the_stream = &held;
                        Ok(StringValue { value: "s".into(), ..StringValue::default() })
                    });
                    rt::stream_answer(Response::new(Streaming::new(messages)), call.codec)?
                }
                // Each of its short messages takes a tenth of a millisecond to make, and is ready at once.
                "Slow" => {
                    let messages = futures::stream::repeat_with(move || {
                        echo.made.fetch_add(1, Ordering::SeqCst);
                        let began = std::time::Instant::now();
                        while began.elapsed() < Duration::from_micros(100) {}
                        Ok(StringValue { value: "slow".into(), ..StringValue::default() })
                    });
                    rt::stream_answer(Response::new(Streaming::new(messages)), call.codec)?
                }
                "Chat" => Answer::new(Body::Stream(call.body.into_stream())),
                // Keeps what comes, and says nothing.
                "Hold" => {
                    let unread = call.body;
                    let silence = futures::stream::pending::<Result<Bytes, Error>>().inspect(move |_| {
                        let _kept = &unread;
                    });
                    Answer::new(Body::stream(silence))
                }
                // Answers without a look at what comes.
                _ => Answer::new(Body::Message("deaf".into())),
            };
            guard.1 = true;
            Ok(answer)
        })
    }
}

pub(crate) struct Rig {
    pub(crate) echo: Arc<Echo>,
    pub(crate) accept: Arc<Accept>,
    pub(crate) draining: CancellationToken,
    pub(crate) sender: Sender,
    pub(crate) server: JoinHandle<()>,
    _tasks: TaskTracker,
}

pub(crate) fn accept(echo: &Arc<Echo>, limits: Limits) -> Arc<Accept> {
    let long = Duration::from_secs(3600);
    Arc::new(Accept {
        handle: Arc::new(Service(Arc::clone(echo))),
        door: None,
        limits,
        greeting: Duration::from_secs(5),
        body_timeout: Duration::from_secs(20),
        alive: (Duration::from_secs(20), Duration::from_secs(10)),
        default_deadline: Duration::from_secs(30),
        max_deadline: long,
        idle: long,
        budget: Arc::new(Budget::new(512 << 20)),
        book: Book::default(),
    })
}

pub(crate) fn with() -> Connect {
    Connect {
        limits: Limits::default(),
        ping: Duration::from_secs(1),
        ping_timeout: Duration::from_millis(1500),
        capture: None,
        tasks: TaskTracker::new(),
        stop: CancellationToken::new(),
    }
}

/// A server at one end of a pipe.
pub(crate) fn served(echo: &Arc<Echo>, limits: Limits) -> (DuplexStream, JoinHandle<()>, CancellationToken) {
    served_by(accept(echo, limits))
}

/// The same, of a server that was made before.
pub(crate) fn served_by(accept: Arc<Accept>) -> (DuplexStream, JoinHandle<()>, CancellationToken) {
    let (ours, theirs) = tokio::io::duplex(64 << 10);
    let draining = CancellationToken::new();
    let drain = draining.clone();
    let server = tokio::spawn(async move { serve(theirs, &[], accept, None, drain).await });
    (ours, server, draining)
}

pub(crate) async fn rig(limits: Limits) -> Rig {
    rig_with(limits, with()).await
}

pub(crate) async fn rig_with(limits: Limits, with: Connect) -> Rig {
    let echo = Arc::new(Echo::default());
    let (ours, theirs) = tokio::io::duplex(64 << 10);
    let (draining, accept) = (CancellationToken::new(), accept(&echo, limits));
    let served = (Arc::clone(&accept), draining.clone());
    let server = tokio::spawn(async move { serve(theirs, &[], served.0, None, served.1).await });
    let sender = connect(ours, "test".into(), &with).await.unwrap();
    Rig { echo, accept, draining, sender, server, _tasks: with.tasks }
}

/// A call with one message each way.
pub(crate) async fn say(sender: &Sender, path: &str, message: Bytes) -> Result<Bytes, Error> {
    let none = HeaderMap::new();
    let answer = sender.call(|| head(path, &none), Some(&message), || None, false).await;
    answer.map_err(plain)?.body.into_message()
}

pub(crate) async fn stream(
    sender: &Sender,
    path: &str,
    message: Option<Bytes>,
    requests: Option<ByteStream>,
) -> Result<ByteStream, Error> {
    let none = HeaderMap::new();
    let answer = sender.call(|| head(path, &none), message.as_ref(), || requests, true).await;
    Ok(answer.map_err(plain)?.body.into_stream())
}

pub(crate) fn plain(failure: Failure) -> Error {
    match failure {
        Failure::Error(error) => error,
        Failure::Closed => Error::new(Code::Unavailable, "closed").with_unsent(),
    }
}

pub(crate) fn head<'a>(path: &'a str, metadata: &'a HeaderMap) -> Head<'a> {
    Head { path, json: false, timeout: None, trace: None, attempt: None, metadata, skip: |_| false }
}

pub(crate) async fn within<T>(what: &str, future: impl Future<Output = T>) -> T {
    match tokio::time::timeout(Duration::from_secs(20), future).await {
        Ok(output) => output,
        Err(_) => panic!("waited too long for {what}"),
    }
}

pub(crate) async fn until(what: &str, condition: impl Fn() -> bool) {
    within(what, async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    })
    .await;
}

/// Runs calls side by side; the first failure is the test's.
pub(crate) async fn all(calls: JoinSet<()>) {
    within("all calls", calls.join_all()).await;
}

/// The next message, which must be there.
pub(crate) async fn next(stream: &mut ByteStream) -> Bytes {
    within("the next message", stream.next()).await.unwrap().unwrap()
}
