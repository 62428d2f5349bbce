//! Streams without an end, when the server goes away: authors can end them well, and the server ends them
//! where they do not.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use connectrpc::Protocol as Theirs;
use formic_client::Protocol as Ours;
use formic_core::{Code, Endpoint, Error, Kind, Method, RpcService};
use formic_probe::foreign::{self, Http};
use formic_rpc::{Answer, Body, BoxFuture, ByteStream, Call, Channel, Codec, Context, Handle, Streaming};
use formic_server::{Bound, Config, Running, Server, Serving};
use formic_telemetry::Metrics;
use futures::StreamExt;
use futures::future::join_all;
use tokio::sync::watch;

use crate::ways::{ours, until, within};

const QUIET: Method = Method::new("/endless.Service/Quiet", Kind::ServerStream);
const POLITE: Method = Method::new("/endless.Service/Polite", Kind::ServerStream);
const TICKING: Method = Method::new("/endless.Service/Ticking", Kind::ServerStream);
const DOWNLOAD: Method = Method::new("/endless.Service/Download", Kind::ServerStream);
const METHODS: [Method; 4] = [QUIET, POLITE, TICKING, DOWNLOAD];

struct Endless {
    /// Opens when every stream is there.
    gate: watch::Receiver<bool>,
}

impl Handle for Endless {
    fn method(&self, path: &str) -> Option<Method> {
        METHODS.into_iter().find(|method| method.path() == path)
    }

    fn services(&self) -> Vec<RpcService> {
        vec![formic_rpc::handle::describe("endless.Service", &METHODS)]
    }

    fn call(&self, call: Call) -> BoxFuture<'static, Result<Answer, Error>> {
        let method = call.method.clone();
        let (context, ..) = Context::split(call);
        let gate = self.gate.clone();
        Box::pin(async move { Ok(Answer::new(Body::Stream(stream(&method, context, gate).await))) })
    }
}

/// Empty messages are valid ones in both protocols, and in protobuf they are as short as messages can be.
const MESSAGE: Bytes = Bytes::new();

async fn stream(method: &Method, context: Context, mut gate: watch::Receiver<bool>) -> ByteStream {
    let (sender, messages) = Streaming::channel(4);
    let name = method.name().to_owned();
    assert!(!context.is_draining(), "too early");
    // Nobody joins it: it ends with its stream, as those of authors do.
    drop(tokio::task::spawn(async move {
        match name.as_str() {
            "Quiet" => {
                let _ = sender.send(Ok(MESSAGE)).await;
                sender.closed().await;
            }
            "Polite" => {
                let _ = sender.send(Ok(MESSAGE)).await;
                context.draining().await;
                assert!(context.is_draining());
                let _ = sender.send(Ok(MESSAGE)).await;
            }
            "Ticking" => {
                while sender.send(Ok(MESSAGE)).await.is_ok() {
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
            }
            _ => {
                let _ = sender.send(Ok(MESSAGE)).await;
                let _ = gate.wait_for(|open| *open).await;
                for _ in 0..12 {
                    let _ = sender.send(Ok(MESSAGE)).await;
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
            }
        }
    }));
    ByteStream::new(messages)
}

async fn start() -> (Running, Vec<(String, Channel)>, watch::Sender<bool>) {
    let (open, gate) = watch::channel(false);
    let server = Server::new(Config::default(), Metrics::new()).serve(Arc::new(Endless { gate })).unwrap();
    let mut running = server.build().unwrap();
    let any = Endpoint::Tcp(SocketAddr::from(([127, 0, 0, 1], 0)));
    let Endpoint::Tcp(addr) = running.listen(Bound::bind(&any).await.unwrap()) else { unreachable!() };
    running.health().set(Serving::Ready);
    let ways = vec![
        ("memory".to_owned(), running.channel()),
        ("Connect".to_owned(), ours(addr.into(), Ours::Connect)),
        ("gRPC".to_owned(), ours(addr.into(), Ours::Grpc)),
        ("Connect, HTTP/1.1".to_owned(), foreign::channel(addr, Http::One, Theirs::Connect, Codec::Proto)),
        ("gRPC, another client".to_owned(), foreign::channel(addr, Http::Two, Theirs::Grpc, Codec::Proto)),
    ];
    (running, ways, open)
}

async fn open(channel: &Channel, method: Method) -> ByteStream {
    let call = Call::new(method, Codec::Proto, Body::Message(MESSAGE));
    within("the stream to begin", channel.call(call)).await.unwrap().body.into_stream()
}

/// How many messages come, and the error at the end.
async fn rest(mut stream: ByteStream) -> (usize, Option<Error>) {
    let mut count = 0;
    loop {
        match within("the next message", stream.next()).await {
            Some(Ok(_)) => count += 1,
            Some(Err(error)) => return (count, Some(error)),
            None => return (count, None),
        }
    }
}

/// The streams of a method over every way while the server stops with a grace of eight seconds.
async fn stopped(method: Method) -> (Vec<(String, usize, Option<Error>)>, usize, Duration) {
    let (running, ways, gate) = start().await;
    let mut streams = tokio::task::JoinSet::new();
    let opened = join_all(ways.iter().map(|(_, channel)| open(channel, method.clone()))).await;
    for ((name, _), stream) in ways.iter().zip(opened) {
        let name = name.clone();
        streams.spawn(async move {
            let (count, error) = rest(stream).await;
            (name, count, error)
        });
    }
    until("every stream to be there", || running.in_flight() == ways.len()).await;
    gate.send_replace(true);
    let began = Instant::now();
    let cut = running.stop(Duration::from_secs(8)).await;
    let took = began.elapsed();
    (within("the streams to end", streams.join_all()).await, cut, took)
}

#[tokio::test]
async fn a_quiet_stream_is_ended_early_and_told_why() {
    let (ends, cut, took) = stopped(QUIET).await;
    for (name, count, error) in ends {
        let error = error.unwrap_or_else(|| panic!("{name}: taken for a good end"));
        assert_eq!((count, error.code()), (1, Code::Unavailable), "{name}: {error:?}");
        assert!(error.message().contains("going away"), "{name}: {error:?}");
        assert_eq!(error.info().unwrap().reason, "DRAINING", "{name}");
        assert_eq!(error.shed_reason(), None, "{name}: a handler has seen the call");
    }
    assert_eq!(cut, 0);
    assert!(took < Duration::from_secs(4), "half the grace is not needed: {took:?}");
}

#[tokio::test]
async fn an_author_who_listens_ends_it_well() {
    let (ends, cut, took) = stopped(POLITE).await;
    for (name, count, error) in ends {
        assert_eq!((count, error.map(|error| error.to_string())), (2, None), "{name}");
    }
    assert_eq!(cut, 0);
    assert!(took < Duration::from_secs(4), "{took:?}");
}

#[tokio::test]
async fn a_stream_that_goes_on_and_on_is_ended_before_the_grace_is_over() {
    let (ends, cut, _) = stopped(TICKING).await;
    for (name, _, error) in ends {
        assert_eq!(error.map(|error| error.code()), Some(Code::Unavailable), "{name}");
    }
    assert_eq!(cut, 0, "ended, not cut off");
}

#[tokio::test]
async fn a_stream_that_has_an_end_comes_to_it() {
    let (ends, cut, _) = stopped(DOWNLOAD).await;
    for (name, count, error) in ends {
        assert_eq!((count, error.map(|error| error.to_string())), (13, None), "{name}");
    }
    assert_eq!(cut, 0);
}

#[tokio::test(start_paused = true)]
async fn the_bounds_follow_the_grace() {
    for (grace, quiet, busy) in [(60_000, 1_000, 5_000), (1_000, 150, 750)] {
        for (method, most) in [(QUIET, quiet), (TICKING, busy)] {
            let (running, ways, _gate) = start().await;
            let stream = open(&ways[0].1, method).await;
            let reading = tokio::task::spawn(rest(stream));
            tokio::time::sleep(Duration::from_millis(20)).await;
            let began = tokio::time::Instant::now();
            assert_eq!(running.stop(Duration::from_millis(grace)).await, 0);
            let took = began.elapsed();
            assert_eq!(reading.await.unwrap().1.unwrap().code(), Code::Unavailable);
            let expected = Duration::from_millis(most);
            assert!(
                (expected..expected + Duration::from_millis(20)).contains(&took),
                "{took:?} of {grace} ms"
            );
        }
    }
}
