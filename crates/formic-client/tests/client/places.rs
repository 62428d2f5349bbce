//! A server that takes few calls of a connection at a time: the others wait their turn, and were not sent if it never
//! comes.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use bytes::Bytes;
use formic_client::{Client, Config};
use formic_core::{Code, Endpoint};
use formic_registry::Memory;
use tokio::net::TcpListener;
use tokio::sync::Notify;
use tokio::task::JoinHandle;

use crate::server::*;

/// A server that takes one call of a connection at a time.
struct Narrow {
    endpoint: Endpoint,
    /// Calls that arrived.
    asked: Arc<AtomicUsize>,
    /// Calls are not answered for now.
    holds: Arc<AtomicBool>,
    /// Ends the connection.
    cut: Arc<Notify>,
    task: JoinHandle<()>,
}

impl Narrow {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let endpoint = listener.local_addr().unwrap().into();
        let (asked, holds, cut) =
            (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicBool::new(false)), Arc::default());
        let (count, hold, ended) = (Arc::clone(&asked), Arc::clone(&holds), Arc::clone(&cut));
        let task = tokio::spawn(async move {
            loop {
                let (io, _) = listener.accept().await.unwrap();
                serve(io, &count, &hold, &ended).await;
            }
        });
        Self { endpoint, asked, holds, cut, task }
    }

    fn asked(&self) -> usize {
        self.asked.load(Ordering::SeqCst)
    }
}

impl Drop for Narrow {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn serve(io: tokio::net::TcpStream, asked: &AtomicUsize, holds: &AtomicBool, cut: &Notify) {
    let mut builder = h2::server::Builder::new();
    let mut connection = builder.max_concurrent_streams(1).handshake::<_, Bytes>(io).await.unwrap();
    let mut held = Vec::new();
    loop {
        let next = tokio::select! {
            next = connection.accept() => next,
            () = cut.notified() => return,
        };
        let Some(Ok((request, mut respond))) = next else { return };
        asked.fetch_add(1, Ordering::SeqCst);
        if holds.load(Ordering::SeqCst) {
            held.push((request, respond));
            continue;
        }
        let head = http::Response::builder().header("content-type", "application/proto").body(()).unwrap();
        let mut body = respond.send_response(head, false).unwrap();
        // In two pieces, which are one message.
        body.send_data(Bytes::from_static(b"on"), false).unwrap();
        body.send_data(Bytes::from_static(b"ce"), true).unwrap();
    }
}

#[tokio::test]
async fn calls_take_turns_where_the_server_takes_one_at_a_time() {
    let narrow = Narrow::start().await;
    let mut config = Config { connections: 1, ..Config::default() };
    // A call that the server refuses would be an error.
    (config.traffic.retry.endpoints, config.traffic.retry.repeats) = (1, 0);
    let channel = Client::without_registry(config).at(narrow.endpoint.clone());
    // The server has said how many it takes once this one is answered.
    assert_eq!(text(channel.call(call_of(SAY, "x")).await.unwrap()), "once");
    let calls = (0..30).map(|_| channel.call(call_of(SAY, "x")));
    for outcome in within("30 calls", futures::future::join_all(calls)).await {
        assert_eq!(text(outcome.unwrap()), "once");
    }
    assert_eq!(narrow.asked(), 31);
}

#[tokio::test]
async fn who_waits_when_the_connection_ends_was_not_sent() {
    let narrow = Narrow::start().await;
    let registry = Memory::new();
    register(&registry, "one", &narrow.endpoint).await;
    let client = Client::new(Arc::new(registry), Config { connections: 1, ..Config::default() });
    let channel = client.of("echo");
    channel.call(call_of(SAY, "x")).await.unwrap();
    narrow.holds.store(true, Ordering::SeqCst);
    let call = || tokio::spawn(channel.call(call_of(SAY, "x")));
    let first = call();
    until("the first call to arrive", || narrow.asked() == 2).await;
    let second = call();
    let echo = formic_core::ServiceName::new("echo").unwrap();
    until("the second call to be on its way", || client.traffic(&echo).endpoints[0].in_flight == 2).await;
    narrow.holds.store(false, Ordering::SeqCst);
    narrow.cut.notify_one();
    let lost = within("the first call to end", first).await.unwrap().unwrap_err();
    assert_eq!((lost.code(), lost.is_unsent()), (Code::Unavailable, false), "{lost}");
    let answer = within("the second call to be answered", second).await.unwrap();
    assert_eq!(text(answer.unwrap()), "once", "it went over the next connection");
    assert_eq!(narrow.asked(), 3, "each arrived once");
}
