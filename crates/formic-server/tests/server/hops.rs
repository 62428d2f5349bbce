//! What goes through a chain of services: deadline, trace, cancellation.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use formic_core::{Code, Error, Kind, Method, RpcService};
use formic_probe::{Action, Counts, Order, ProbeClient, ProbeServer, Prober};
use formic_rpc::{Answer, Body, BoxFuture, Call, Channel, Codec, Handle};
use formic_server::{Config, Server};
use formic_telemetry::Metrics;
use formic_testing::{Network, Transient};
use futures::StreamExt;

use crate::suite::told;
use crate::ways::{server, until, within};

/// Three services in a row, the channel to the first, and what keeps them.
struct Chain {
    first: Channel,
    counts: [Arc<Counts>; 3],
    name: &'static str,
    _keep: (Vec<Transient>, Option<Network>),
}

async fn over_tcp() -> Chain {
    let last = Prober::new();
    let third = Transient::start(server(Config::default(), &last)).await;
    let middle = Prober::relaying_to(third.channel());
    let second = Transient::start(server(Config::default(), &middle)).await;
    let front = Prober::relaying_to(second.channel());
    let first = Transient::start(server(Config::default(), &front)).await;
    Chain {
        first: first.channel(),
        counts: [front.counts(), middle.counts(), last.counts()],
        name: "TCP",
        _keep: (vec![first, second, third], None),
    }
}

fn in_memory() -> Chain {
    let network = Network::new();
    let last = Prober::new();
    let middle = Prober::relaying_to(network.client("third"));
    let front = Prober::relaying_to(network.client("second"));
    for (name, prober) in [("first", &front), ("second", &middle), ("third", &last)] {
        network.serve_handle(name, Arc::new(ProbeServer::new(prober.clone())), Vec::new());
    }
    Chain {
        first: network.client("first"),
        counts: [front.counts(), middle.counts(), last.counts()],
        name: "memory",
        _keep: (Vec::new(), Some(network)),
    }
}

#[tokio::test]
async fn the_deadline_shrinks_and_the_trace_stays() {
    for chain in [over_tcp().await, in_memory()] {
        let name = chain.name;
        let probe = ProbeClient::new(chain.first.clone());
        let header = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
        let call = probe.say(told(Action::ACTION_RELAY, 2)).timeout(Duration::from_secs(60));
        let said = call.metadata("traceparent", header).await.unwrap();
        let seen = said.seen.as_option().unwrap();
        // Longer than the client's default of 5 s, so it came from the caller.
        let left = seen.remaining_ms.unwrap();
        assert!((50_000..60_000).contains(&left), "{name}: {left}");
        assert_eq!(seen.trace_id, "4bf92f3577b34da6a3ce929d0e0e4736", "{name}");
        assert_ne!(seen.span_id, "00f067aa0ba902b7", "{name}");
        let parent = &seen.metadata["traceparent"];
        assert!(parent.contains(&seen.trace_id) && parent.ends_with("-01"), "{name}: {parent}");
        assert!(!parent.contains("00f067aa0ba902b7"), "{name}: the hop before is not the first one");
        assert!(!seen.metadata.contains_key("formic-priority"), "{name}: most calls say nothing");
    }
}

#[tokio::test]
async fn the_priority_goes_all_the_way_down() {
    for chain in [over_tcp().await, in_memory()] {
        let probe = ProbeClient::new(chain.first.clone());
        for (word, seen_below) in
            [("low", Some("low")), ("high", Some("high")), ("normal", None), ("7", None)]
        {
            let said =
                probe.say(told(Action::ACTION_RELAY, 2)).metadata("formic-priority", word).await.unwrap();
            let seen = said.seen.as_option().unwrap();
            let found = seen.metadata.get("formic-priority").map(String::as_str);
            assert_eq!(found, seen_below, "{}, {word}", chain.name);
        }
    }
}

#[tokio::test]
async fn leaving_reaches_two_hops_down() {
    for chain in [over_tcp().await, in_memory()] {
        let [_, _, last] = &chain.counts;
        let probe = ProbeClient::new(chain.first.clone());
        let hang = || Order { text: "hang".into(), ..told(Action::ACTION_RELAY, 2) };
        let mut call = probe.say(hang()).timeout(Duration::from_secs(60)).into_future();
        tokio::select! {
            answer = &mut call => panic!("{answer:?}"),
            () = until("the last hop to be reached", || last.busy() == 1) => {}
        }
        drop(call);
        until("all three to be dropped", || chain.counts.iter().all(|counts| counts.dropped() == 1)).await;

        // The deadline of the first call ends the last one.
        let call = probe.say(hang()).timeout(Duration::from_secs(2)).into_future();
        let reached = until("the last hop to be reached again", || last.busy() == 1);
        let (answer, ()) = tokio::join!(within("the deadline", call), reached);
        assert_eq!(answer.unwrap_err().code(), Code::DeadlineExceeded, "{}", chain.name);
        until("all three to be over", || chain.counts.iter().all(|counts| counts.busy() == 0)).await;
        assert_eq!(last.began(), 2, "{}", chain.name);
    }
}

const ASK: Method = Method::new("/remap.Service/Ask", Kind::Unary).idempotent(true);
const LIST: Method = Method::new("/remap.Service/List", Kind::ServerStream).idempotent(true);

/// Calls on, and tells of a failure in words of its own.
struct Remaps {
    next: Channel,
    called: AtomicUsize,
}

impl Handle for Remaps {
    fn method(&self, path: &str) -> Option<Method> {
        [ASK, LIST].into_iter().find(|method| method.path() == path)
    }

    fn services(&self) -> Vec<RpcService> {
        vec![formic_rpc::handle::describe("remap.Service", &[ASK, LIST])]
    }

    fn call(&self, call: Call) -> BoxFuture<'static, Result<Answer, Error>> {
        self.called.fetch_add(1, Ordering::SeqCst);
        let unavailable = told(Action::ACTION_FAIL, u32::from(Code::Unavailable.number()));
        let next = ProbeClient::new(self.next.clone()).get(unavailable).into_future();
        let next = async { next.await.map_err(|_| Error::unavailable("in words of its own")) };
        Box::pin(async move {
            if call.method == LIST {
                let stream = futures::stream::once(async { next.await.map(|_| Bytes::new()) });
                return Ok(Answer::new(Body::stream(stream)));
            }
            next.await?;
            Ok(Answer::new(Body::Message(Bytes::new())))
        })
    }
}

#[tokio::test]
async fn what_was_repeated_below_is_not_repeated_above_whatever_the_handler_says() {
    let last = Prober::new();
    let third = Transient::start(server(Config::default(), &last)).await;
    let middle = Arc::new(Remaps { next: third.channel(), called: AtomicUsize::new(0) });
    let second = Server::new(Config::default(), Metrics::new());
    let second = second.serve(Arc::clone(&middle) as Arc<dyn Handle>).unwrap();
    let second = Transient::start(second).await;
    for (turn, method) in [(1, ASK), (2, LIST)] {
        let name = method.path();
        let call = Call::new(method.clone(), Codec::Proto, Body::Message(Bytes::new()));
        let error = match second.channel().call(call).await {
            Ok(answer) => answer.body.into_stream().next().await.unwrap().unwrap_err(),
            Err(error) => error,
        };
        assert_eq!((error.code(), error.message()), (Code::Unavailable, "in words of its own"), "{name}");
        assert_eq!(last.counts().began(), 2 * turn, "{name}: once, and once more by its neighbour");
        assert_eq!(middle.called.load(Ordering::SeqCst), turn, "{name}");
    }
}
