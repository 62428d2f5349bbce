//! Calls over the multiplexed wire whose message is not whole in its first frame: let in, or turned away, on their heads, as over
//! HTTP. The client is the state machine of the wire with a hand on its bytes: it sends as much as it is told, and no more.

use std::net::SocketAddr;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use formic_core::{Code, Error, Shed};
use formic_mux::machine::{Alive, Event, Head, Machine, Role};
use formic_mux::{Limits, codec::HEADER};
use formic_rpc::{Answer, Body, Call, Codec};
use formic_server::overload::{By, Rate};
use formic_server::{Config, Running};
use formic_telemetry::Metrics;
use http::{HeaderMap, HeaderValue};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::overload;
use crate::ways::{until, within};
use crate::wire::{ECHO, FLOOD, start};

const LARGE: usize = 4 << 20;
const CHECK: &str = "/grpc.health.v1.Health/Check";

/// A client; its calls are known by their numbers.
struct Wire<S> {
    io: S,
    machine: Machine<u32>,
    /// Taken from the machine, and not written.
    unwritten: Vec<u8>,
    written: usize,
    read: Vec<u8>,
    calls: u32,
}

impl Wire<TcpStream> {
    async fn to(addr: SocketAddr) -> Self {
        Self::on(TcpStream::connect(addr).await.unwrap()).await
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Wire<S> {
    async fn on(io: S) -> Self {
        let long = Duration::from_secs(3600);
        let alive = Alive { interval: long, timeout: long, busy_only: true };
        let machine = Machine::new(Role::Client, Limits::default(), alive);
        let mut wire = Self { io, machine, unwritten: Vec::new(), written: 0, read: Vec::new(), calls: 0 };
        wire.write(usize::MAX).await;
        while !wire.machine.is_greeted() {
            wire.event().await;
        }
        wire
    }

    fn open(&mut self, path: &str, priority: &str, timeout: Option<Duration>, message: Bytes) {
        self.calls += 1;
        let mut metadata = HeaderMap::new();
        if !priority.is_empty() {
            metadata.insert("formic-priority", HeaderValue::from_str(priority).unwrap());
        }
        let head = Head {
            path,
            json: false,
            timeout,
            trace: None,
            attempt: None,
            metadata: &metadata,
            skip: |_| false,
        };
        assert_eq!(self.machine.open(&head, Some(&message), true, self.calls).unwrap(), self.calls);
    }

    /// Writes what may be sent, but no more than that.
    async fn write(&mut self, most: usize) {
        let mut left = most;
        while left > 0 {
            if self.unwritten.is_empty() {
                self.machine.output(&mut self.unwritten);
            }
            if self.unwritten.is_empty() {
                break;
            }
            let now: Vec<u8> = self.unwritten.drain(..left.min(self.unwritten.len())).collect();
            within("the server to read", self.io.write_all(&now)).await.unwrap();
            self.written += now.len();
            left -= now.len();
        }
    }

    /// What has happened, or nothing that is one; then there may be more to write.
    async fn event(&mut self) -> Option<Event<u32>> {
        if self.read.is_empty() {
            let read = self.io.read_buf(&mut self.read);
            assert_ne!(within("something to read", read).await.unwrap(), 0, "the connection lives");
        }
        let mut input = self.read.as_slice();
        let event = self.machine.receive(&mut input, Duration::ZERO).unwrap();
        let taken = self.read.len() - input.len();
        self.read.drain(..taken);
        event
    }

    /// How a call ends, while everything is written that may be.
    async fn end(&mut self) -> (u32, Result<Bytes, Error>) {
        let mut answer = Bytes::new();
        loop {
            self.write(usize::MAX).await;
            match self.event().await {
                Some(Event::Answer { data, message, .. }) => {
                    return (data, Ok(message.unwrap_or_default()));
                }
                Some(Event::Failed { data, error }) => return (data, Err(error)),
                Some(Event::Messages { id, mut messages, charge, .. }) => {
                    answer = messages.next().unwrap();
                    self.machine.consumed(id, charge);
                }
                Some(Event::End { data, .. }) => return (data, Ok(answer)),
                _ => {}
            }
        }
    }

    /// How the last call fails, while nothing more is written.
    async fn failure(&mut self) -> Error {
        loop {
            if let Some(Event::Failed { data, error }) = self.event().await {
                assert_eq!(data, self.calls);
                return error;
            }
        }
    }
}

fn large() -> Bytes {
    Bytes::from(vec![7; LARGE])
}

/// A call that does not end.
async fn held(running: &Running) -> Answer {
    let call = Call::new(FLOOD, Codec::Proto, Body::Message(Bytes::new()));
    let answer = running.channel().call(call).await.unwrap();
    assert_eq!(running.in_flight(), 1);
    answer
}

#[tokio::test]
async fn a_refusal_comes_before_the_message_and_the_connection_goes_on() {
    let rate = |burst| Rate { name: "all".into(), by: By::All, per_second: 1e-6, burst, methods: Vec::new() };
    let full = Config { max_in_flight: 1, ..Config::default() };
    let mut limited = Config::default();
    limited.overload.rates = vec![rate(1)];
    let cases = [
        ("full", full, None, Code::ResourceExhausted, Some(Shed::InFlight)),
        ("limited", limited, None, Code::ResourceExhausted, Some(Shed::Rate)),
        ("late", Config::default(), Some(Duration::ZERO), Code::DeadlineExceeded, None),
    ];
    for (name, config, timeout, code, shed) in cases {
        let (running, addr) = start(config).await;
        let held = held(&running).await;
        let mut wire = Wire::to(addr).await;
        for calls in [1, 100, 65_600, 200_000] {
            wire.open(ECHO.path(), "", timeout, large());
            let before = wire.written;
            // The head at least, and so much of the message.
            wire.write(HEADER + 100 + calls).await;
            let error = wire.failure().await;
            assert_eq!((error.code(), error.shed_reason()), (code, shed), "{name}: {error:?}");
            assert_eq!(error.retry_after().is_some(), shed.is_some(), "{name}");
            assert!(wire.written - before < 256 << 10, "{name}: {} bytes", wire.written - before);
            // What the client has begun to send comes to its end, for nobody.
            wire.open(CHECK, "", None, Bytes::new());
            let (call, answer) = wire.end().await;
            assert_eq!((call, answer.is_ok()), (wire.calls, true), "{name}: {answer:?}");
            assert!(wire.written - before < 512 << 10, "{name}: {} bytes", wire.written - before);
        }
        assert_eq!(running.in_flight(), 1, "{name}");
        drop(held);
        if shed == Some(Shed::Rate) {
            continue;
        }
        // Let in, it is answered as before.
        wire.open(ECHO.path(), "", None, large());
        let (_, answer) = wire.end().await;
        assert!(answer.unwrap() == large(), "{name}");
    }
}

#[tokio::test]
async fn a_large_call_takes_one_token_and_an_expired_one_none() {
    let mut config = Config::default();
    let rate = Rate { name: "all".into(), by: By::All, per_second: 1e-6, burst: 2, methods: Vec::new() };
    config.overload.rates = vec![rate];
    let (running, addr) = start(config).await;
    let mut wire = Wire::to(addr).await;
    wire.open(ECHO.path(), "", Some(Duration::ZERO), large());
    assert_eq!(wire.end().await.1.unwrap_err().code(), Code::DeadlineExceeded);
    for _ in 0..2 {
        wire.open(ECHO.path(), "", None, large());
        assert!(wire.end().await.1.unwrap() == large());
    }
    wire.open(ECHO.path(), "", None, large());
    assert_eq!(wire.end().await.1.unwrap_err().shed_reason(), Some(Shed::Rate));
    until("the places to be free", || running.in_flight() == 0).await;
}

#[tokio::test]
async fn who_is_slow_to_send_keeps_nobody_out_and_is_answered_all_the_same() {
    let (running, addr) = start(Config { max_in_flight: 1, ..Config::default() }).await;
    let (mut slow, mut quick) = (Wire::to(addr).await, Wire::to(addr).await);
    slow.open(ECHO.path(), "", None, large());
    slow.write(100 << 10).await;
    until("the place to be taken", || running.in_flight() == 1).await;
    // For a moment.
    until("the place to be given away", || running.in_flight() == 0).await;
    quick.open(ECHO.path(), "", None, "meanwhile".into());
    assert_eq!(quick.end().await.1.unwrap(), "meanwhile");
    assert!(slow.end().await.1.unwrap() == large());

    // And is turned away like any other where there is no place when its message is whole.
    slow.open(ECHO.path(), "", None, large());
    slow.write(100 << 10).await;
    until("the place to be taken", || running.in_flight() == 1).await;
    until("the place to be given away", || running.in_flight() == 0).await;
    let held = held(&running).await;
    assert_eq!(slow.end().await.1.unwrap_err().shed_reason(), Some(Shed::InFlight));
    drop(held);

    // Whoever gives up in the middle, or leaves, leaves nothing behind.
    for leaves in [false, true] {
        let mut leaver = Wire::to(addr).await;
        leaver.open(ECHO.path(), "", None, large());
        leaver.write(100 << 10).await;
        until("the place to be taken", || running.in_flight() == 1).await;
        if !leaves {
            leaver.machine.cancel(leaver.calls, Code::Canceled);
            leaver.write(usize::MAX).await;
        }
        drop(leaver);
        until("the place to be free", || running.in_flight() == 0).await;
        quick.open(ECHO.path(), "", None, "after that".into());
        assert_eq!(quick.end().await.1.unwrap(), "after that");
    }
}

/// A large call to a server that has no place free for a while, a while after the places were taken.
async fn queued(
    priority: &str,
    after: Duration,
    bytes: usize,
) -> (overload::Load, Wire<tokio::io::DuplexStream>, tokio::task::JoinSet<Result<Answer, Error>>) {
    fastrand::seed(4);
    let mut load = overload::limited(2).await;
    let (stream, end) = tokio::io::duplex(64 << 10);
    load.running.listen_on(futures::stream::iter([end]));
    let mut wire = Wire::on(stream).await;
    let (held, _) = overload::filled(&load).await;
    tokio::time::sleep(after).await;
    wire.open("/load.Service/Work", priority, Some(Duration::from_secs(5)), Bytes::from(vec![7; bytes]));
    wire.write(usize::MAX).await;
    (load, wire, held)
}

fn shown(metrics: &Metrics, line: &str) -> bool {
    metrics.render().lines().any(|shown| shown == line)
}

#[tokio::test(start_paused = true)]
async fn a_large_call_that_waits_for_its_turn_gets_no_credit() {
    // No call ends for a while, so it is told in time.
    let (load, mut wire, held) = queued("normal", Duration::ZERO, LARGE).await;
    assert!(((192 << 10)..=(193 << 10)).contains(&wire.written), "what it may send: {}", wire.written);
    let sent = wire.written;
    let error = wire.end().await.1.unwrap_err();
    assert_eq!(error.shed_reason(), Some(Shed::QueueDelay), "{error:?}");
    assert!(wire.written < sent + 100, "credit came: {} bytes more", wire.written - sent);
    held.join_all().await;
    until("nothing to be in flight", || load.running.in_flight() == 0).await;
    assert!(shown(&load.metrics, "formic_server_working 0"));

    // Calls end soon after this one comes, which is waited for as it matters: then it gets credit for the rest.
    for (after, bytes) in [(305, LARGE), (304, 150_000)] {
        let (load, mut wire, held) = queued("high", Duration::from_millis(after), bytes).await;
        let (sent, began) = (wire.written, load.service.began.load(Ordering::Relaxed));
        assert_eq!(sent < bytes, bytes == LARGE);
        until("it to wait", || shown(&load.metrics, "formic_server_queued 1")).await;
        assert_eq!(load.service.began.load(Ordering::Relaxed), began);
        wire.end().await.1.unwrap();
        assert_eq!(load.service.began.load(Ordering::Relaxed), began + 1);
        held.join_all().await;
        until("nothing to be in flight", || load.running.in_flight() == 0).await;
        assert!(shown(&load.metrics, "formic_server_working 0"));
    }
}
