//! What goes through a chain of services: deadline, trace, cancellation.

use std::sync::Arc;
use std::time::Duration;

use formic_core::Code;
use formic_probe::{Action, Counts, Order, ProbeClient, ProbeServer, Prober};
use formic_rpc::Channel;
use formic_server::Config;
use formic_testing::{Network, Transient};

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
        let error =
            within("the deadline", probe.say(hang()).timeout(Duration::from_millis(150)).into_future());
        assert_eq!(error.await.unwrap_err().code(), Code::DeadlineExceeded, "{}", chain.name);
        until("all three to be over", || chain.counts.iter().all(|counts| counts.busy() == 0)).await;
        assert_eq!(last.began(), 2, "{}", chain.name);
    }
}
