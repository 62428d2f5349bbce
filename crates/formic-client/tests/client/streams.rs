//! What the balancer makes of answers that stream: each is judged once, over every transport alike.

use std::any::Any;
use std::sync::Arc;
use std::time::Duration;

use formic_balance::traffic::Ejection;
use formic_client::{Algorithm, BackendView, Client, Config, State, Traffic};
use formic_core::{Endpoint, Error, Method, ServiceName};
use formic_registry::Memory;
use formic_rpc::{ByteStream, Channel, Handle, Streaming};
use formic_server::Serving;
use formic_telemetry::Metrics;
use formic_testing::Fabric;

use crate::server::*;

const MS: Duration = Duration::from_millis(1);

/// It may be lost, so that probes take it first.
pub(crate) const READ: Method = REPEAT.idempotent(true);

#[derive(Clone, Copy, Debug)]
pub(crate) enum How {
    Http,
    Multiplexed,
    InMemory,
}

/// Two servers behind one name.
pub(crate) struct Pair {
    pub(crate) echoes: [Arc<Echo>; 2],
    pub(crate) client: Client,
    pub(crate) channel: Channel,
    _servers: Vec<Box<dyn Any>>,
}

async fn pair(how: How) -> Pair {
    pair_with(how, Config { timeout: Duration::from_secs(3_600), ..Config::default() }).await
}

/// Takes what the client is like otherwise.
pub(crate) async fn pair_with(how: How, config: Config) -> Pair {
    let (registry, fabric, echoes) = (Memory::new(), Fabric::new(), [Echo::new(), Echo::new()]);
    let mut servers: Vec<Box<dyn Any>> = Vec::new();
    for (n, echo) in echoes.iter().enumerate() {
        let (endpoint, server): (Endpoint, Box<dyn Any>) = match how {
            How::Http => {
                let server = Server::start(echo).await;
                (server.endpoint.clone(), Box::new(server))
            }
            How::Multiplexed => {
                let server = Server::start_mux(echo).await;
                (server.endpoint.clone(), Box::new(server))
            }
            How::InMemory => {
                let server = formic_server::Server::new(formic_server::Config::default(), Metrics::new());
                let handle = Arc::new(Service(Arc::clone(echo))) as Arc<dyn Handle>;
                let mut running = server.serve(handle).unwrap().build().unwrap();
                running.health().set(Serving::Ready);
                (fabric.listen(&format!("i{n}"), &mut running), Box::new(running))
            }
        };
        let id = format!("i{n}");
        match how {
            How::Http => register(&registry, &id, &endpoint).await,
            How::Multiplexed | How::InMemory => register_mux(&registry, &id, &endpoint).await,
        }
        servers.push(server);
    }
    let ejection = Ejection { min_wait: 50 * MS, max_wait: 50 * MS, ..Ejection::default() };
    let traffic = Traffic { ejection, policy: Algorithm::RoundRobin, ..Traffic::default() };
    let connector = matches!(how, How::InMemory).then(|| fabric.connector("web"));
    // A busy machine may be long over a greeting.
    let config = Config { connect_timeout: Duration::from_secs(10), ..config };
    let client = Client::new(Arc::new(registry), Config { traffic, connector, ..config });
    let channel = client.of("echo");
    // Both are known and connected to.
    channel.call(call_of(SAY, "x")).await.unwrap();
    until("both to be known", || client.traffic(&echo()).endpoints.len() == 2).await;
    while echoes.iter().any(|echo| echo.calls() == 0) {
        channel.call(call_of(SAY, "x")).await.unwrap();
    }
    Pair { echoes, client, channel, _servers: servers }
}

pub(crate) fn echo() -> ServiceName {
    ServiceName::new("echo").unwrap()
}

impl Pair {
    /// Of the first.
    pub(crate) fn view(&self) -> BackendView {
        self.view_of(0)
    }

    pub(crate) fn view_of(&self, which: usize) -> BackendView {
        self.client.traffic(&echo()).endpoints[which].clone()
    }

    /// Reads a stream to its end.
    pub(crate) async fn read(&self) -> Result<usize, Error> {
        let mut stream = self.channel.call(call_of(READ, "x")).await?.body.into_stream();
        let mut messages = 0;
        while let Some(message) = next(&mut stream).await {
            message?;
            messages += 1;
        }
        Ok(messages)
    }

    /// A stream that is open and says nothing; the other end of its requests keeps it so.
    async fn open(&self) -> (ByteStream, formic_rpc::Sender<bytes::Bytes>) {
        let (sender, requests) = Streaming::channel(1);
        let answer = self.channel.call(stream_call(CHAT.idempotent(true), requests)).await.unwrap();
        (answer.body.into_stream(), sender)
    }

    /// Has the first fail calls until it is out.
    async fn eject(&self) {
        self.echoes[0].fail_next((0..1_000).map(|_| Error::internal("broken")));
        within("it to be ejected", async {
            while self.view().state != State::Ejected {
                let _ = self.channel.call(call_of(SAY, "x")).await;
            }
        })
        .await;
        self.echoes[0].script.lock().unwrap().clear();
    }
}

async fn fails_at_its_first_message(how: How) {
    let pair = pair(how).await;
    let before = pair.view().calls;
    *pair.echoes[0].falls.lock().unwrap() = Some((0, Error::internal("broken")));
    let mut failed = 0;
    while pair.view().state != State::Ejected {
        failed += u64::from(pair.read().await.is_err());
        assert!(failed <= 10, "{how:?}: it is not ejected");
    }
    let view = pair.view();
    assert_eq!(view.calls, before + failed, "{how:?}: each counts once: {view:?}");
    let rate = before as f64 / view.calls as f64;
    assert!((view.success_rate.unwrap() - rate).abs() < 0.01, "{how:?}: and as a failure: {view:?}");
    // Streams find out whether it is well, and none of them is.
    let asked = pair.echoes[0].calls();
    within("probes", async {
        while pair.echoes[0].calls() < asked + 8 {
            let _ = pair.read().await;
            let state = pair.view().state;
            assert!(matches!(state, State::Ejected | State::Probing), "{how:?}: it is {state:?}");
            tokio::time::sleep(5 * MS).await;
        }
    })
    .await;
    *pair.echoes[0].falls.lock().unwrap() = None;
    within("it to be back", async {
        while matches!(pair.view().state, State::Ejected | State::Probing) {
            let _ = pair.read().await;
            tokio::time::sleep(5 * MS).await;
        }
    })
    .await;
}

#[tokio::test]
async fn streams_that_fail_at_their_first_message_readmit_nobody() {
    for how in [How::Http, How::Multiplexed, How::InMemory] {
        fails_at_its_first_message(how).await;
    }
}

#[tokio::test]
async fn a_stream_that_breaks_off_counts_once_and_as_a_failure() {
    for how in [How::Http, How::Multiplexed, How::InMemory] {
        let pair = pair(how).await;
        let before = pair.view();
        *pair.echoes[0].falls.lock().unwrap() = Some((2, Error::internal("broken")));
        let mut failed = 0;
        for _ in 0..6 {
            failed += u64::from(pair.read().await.is_err());
        }
        let view = pair.view();
        assert_eq!((failed, view.calls), (3, before.calls + 3), "{how:?}: {view:?}");
        let rate = before.calls as f64 / view.calls as f64;
        assert!((view.success_rate.unwrap() - rate).abs() < 0.01, "{how:?}: {view:?}");
        assert_eq!(view.state, State::Suspect);
        // Whole ones count once as well.
        *pair.echoes[0].falls.lock().unwrap() = None;
        for _ in 0..6 {
            assert_eq!(pair.read().await.unwrap(), 3);
        }
        assert_eq!(pair.view().calls, view.calls + 3, "{how:?}");
    }
}

#[tokio::test]
async fn a_stream_that_its_caller_leaves_at_once_says_nothing() {
    for how in [How::Http, How::Multiplexed, How::InMemory] {
        let pair = pair(how).await;
        let (before, began) = (pair.view().calls, std::time::Instant::now());
        for _ in 0..6 {
            drop(pair.open().await);
        }
        // Where the machine slept over one of them, that one was not left at once.
        assert!(pair.view().calls == before || began.elapsed() >= 1_000 * MS, "{how:?}");
        pair.eject().await;
        // Nor is it a probe that was passed, or one that nobody else may make.
        let asked = pair.echoes[0].calls();
        within("probes", async {
            while pair.echoes[0].calls() < asked + 6 {
                drop(pair.open().await);
                let state = pair.view().state;
                assert!(matches!(state, State::Ejected | State::Probing), "{how:?}: it is {state:?}");
                tokio::time::sleep(5 * MS).await;
            }
        })
        .await;
    }
}

/// Who watches something hears nothing for a long time, which is no failure and not slow.
#[tokio::test(start_paused = true)]
async fn a_stream_that_stays_open_in_silence_is_a_good_one() {
    let pair = pair(How::InMemory).await;
    let calls = pair.view().calls;
    let streams = [pair.open().await, pair.open().await];
    tokio::time::sleep(20 * 1_000 * MS).await;
    assert!(pair.view().latency_ms < 100.0, "{:?}", pair.view());
    drop(streams);
    // What counts ten seconds is gone by then.
    let view = pair.view();
    assert_eq!((view.calls, view.success_rate), (1, Some(1.0)), "of {calls}");
    pair.eject().await;
    let mut streams = Vec::new();
    within("it to be back", async {
        while matches!(pair.view().state, State::Ejected | State::Probing) {
            streams.push(pair.open().await);
            tokio::time::sleep(100 * MS).await;
        }
    })
    .await;
}

/// It was taken for good when it had said nothing for a while, and then it shows that it was not.
#[tokio::test(start_paused = true)]
async fn a_silent_stream_that_was_taken_for_good_and_breaks_off_counts_as_a_failure() {
    let pair = pair(How::InMemory).await;
    // Of a suspect the verdict is spoken while the stream goes on.
    pair.echoes[0].fail_next([Error::internal("broken")]);
    while pair.view().state != State::Suspect {
        let _ = pair.channel.call(call_of(SAY, "x")).await;
    }
    let before = pair.view();
    // One each.
    let mut streams = [pair.open().await, pair.open().await];
    assert_eq!(pair.view().calls, before.calls, "nothing is said of it yet");
    tokio::time::sleep(1_500 * MS).await;
    let failures = |view: &BackendView| (view.calls as f64 * (1.0 - view.success_rate.unwrap())).round();
    let good = pair.view();
    assert_eq!((good.calls, failures(&good)), (before.calls + 1, 1.0), "it is a success");
    for (stream, sender) in &mut streams {
        sender.send(Ok(BREAK_OFF.into())).await.unwrap();
        next(stream).await.unwrap().unwrap_err();
    }
    let view = pair.view();
    assert_eq!((view.calls, failures(&view)), (good.calls, 2.0), "and now a failure in its place");
}
