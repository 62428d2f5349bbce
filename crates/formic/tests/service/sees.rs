//! What interceptors see and may do, on servers and on clients, over TCP and in memory.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use formic::{Answer, Body, Call, Code, Error, Interceptor, Next};
use formic_probe::{Action, Order, ProbeClient, Prober};
use formic_testing::Network;
use futures::StreamExt;

use crate::{order, registry, service, start};

/// What one call looked like.
#[derive(Clone, Debug, PartialEq)]
struct Sight {
    who: &'static str,
    method: String,
    user: Option<String>,
    deadline: bool,
    peer: Option<String>,
    outcome: Option<Code>,
}

type Sights = Arc<Mutex<Vec<Sight>>>;

/// Notes every call, adds metadata both ways, and lets nobody named "mallory" in.
fn watcher(who: &'static str, sights: &Sights) -> impl Interceptor + use<> {
    let sights = Arc::clone(sights);
    move |mut call: Call, next: Next| {
        let sights = Arc::clone(&sights);
        async move {
            let mut sight = Sight {
                who,
                method: call.method.path().into(),
                user: call.metadata.get("x-user").map(Into::into),
                deadline: call.deadline.is_some(),
                peer: call.peer.as_ref().map(|peer| peer.0.to_string()),
                outcome: None,
            };
            let _ = call.metadata.append("x-way", who);
            let mallory = sight.user.as_deref() == Some("mallory");
            let mut outcome = if mallory {
                Err(Error::permission_denied("not you").with_info("test", "MALLORY", [("who", who)]))
            } else {
                next.run(call).await
            };
            sight.outcome = outcome.as_ref().err().map(Error::code);
            sights.lock().unwrap().push(sight);
            if let Ok(answer) = &mut outcome {
                let _ = answer.metadata.append("x-back", who);
            }
            outcome
        }
    }
}

fn taken(sights: &Sights) -> Vec<Sight> {
    std::mem::take(&mut *sights.lock().unwrap())
}

#[tokio::test]
async fn servers_see_every_call_on_every_transport() {
    let (registry, sights) = (registry(), Sights::default());
    let service = service(&registry)
        .serve(Prober::new())
        .intercept(watcher("outer", &sights))
        .intercept(watcher("inner", &sights));
    let in_memory = service.client("probe");
    let run = start(service, &registry).await;
    for (channel, peer) in [(run.channel(), "127.0.0.1:"), (in_memory, "in-process")] {
        let probe = ProbeClient::new(channel);
        let said = probe.say(order("hi")).metadata("x-user", "ada").await.unwrap();
        assert_eq!(said.seen.metadata["x-way"], "inner", "the inner one adds its own last");
        assert_eq!(said.metadata().get_all("x-back").collect::<Vec<_>>(), ["inner", "outer"]);
        let seen = taken(&sights);
        assert_eq!(seen.iter().map(|sight| sight.who).collect::<Vec<_>>(), ["inner", "outer"]);
        for sight in seen {
            assert_eq!(sight.method, "/probe.v1.Probe/Say");
            assert_eq!(sight.user.as_deref(), Some("ada"));
            assert!(sight.deadline, "{sight:?}");
            assert!(sight.peer.as_deref().unwrap().starts_with(peer), "{sight:?}");
            assert_eq!(sight.outcome, None);
        }

        let error = probe.say(order("hi")).metadata("x-user", "mallory").await.unwrap_err();
        assert_eq!(
            (error.code(), error.info().unwrap().reason.as_str()),
            (Code::PermissionDenied, "MALLORY")
        );
        assert_eq!(taken(&sights).len(), 1, "the inner one was not asked");

        let fail = Order { action: Action::ACTION_FAIL.into(), number: 5, ..Order::default() };
        probe.say(fail).await.unwrap_err();
        assert!(taken(&sights).iter().all(|sight| sight.outcome == Some(Code::NotFound)));

        let stream = probe.count(Order { number: 2, ..Order::default() }).await.unwrap();
        assert_eq!(stream.into_message().count().await, 2);
        assert_eq!(taken(&sights)[0].method, "/probe.v1.Probe/Count");
        probe.join(futures::stream::iter([order("a")])).await.unwrap();
        assert_eq!(taken(&sights)[0].method, "/probe.v1.Probe/Join");
    }
    run.stop().await.unwrap();
}

#[tokio::test]
async fn clients_see_every_call_that_the_service_makes() {
    let (registry, sights) = (registry(), Sights::default());
    let service = service(&registry)
        .intercept_client(watcher("outer", &sights))
        .intercept_client(watcher("inner", &sights))
        .serve(Prober::new());
    // Its own service in memory, and the same one over its socket.
    let in_memory = service.client("probe");
    let client = service.clients().clone();
    let run = start(service, &registry).await;
    for channel in [client.at(run.addr.into()), in_memory] {
        let probe = ProbeClient::new(channel);
        let said = probe.say(order("hi")).metadata("x-user", "ada").await.unwrap();
        assert!(said.seen.metadata.contains_key("x-way"), "what an interceptor adds travels");
        assert_eq!(said.metadata().get_all("x-back").collect::<Vec<_>>(), ["inner", "outer"]);
        let seen = taken(&sights);
        assert_eq!(seen.iter().map(|sight| sight.who).collect::<Vec<_>>(), ["inner", "outer"]);
        assert!(seen.iter().all(|sight| sight.deadline && sight.method == "/probe.v1.Probe/Say"), "{seen:?}");

        let error = probe.say(order("hi")).metadata("x-user", "mallory").await.unwrap_err();
        assert_eq!(error.code(), Code::PermissionDenied);
        assert_eq!(taken(&sights).len(), 1);
    }
    run.stop().await.unwrap();
}

/// An interceptor may answer by itself, with a stream too.
#[formic::test]
async fn an_interceptor_may_answer() {
    let network = Network::new();
    let handle = Arc::new(formic_probe::ProbeServer::new(Prober::new()));
    let answers = async |call: Call, next: Next| match call.method.name() {
        "Count" => Ok(Answer::new(Body::stream(futures::stream::empty()))),
        _ => next.run(call).await,
    };
    network.serve_handle("probe", handle, vec![Arc::new(answers)]);
    let probe = ProbeClient::new(network.client("probe"));
    let stream = probe.count(Order { number: 7, ..Order::default() }).await.unwrap();
    assert_eq!(stream.into_message().count().await, 0);
    assert_eq!(probe.say(order("hi")).await.unwrap().text, "hi");
}

/// The clock of a test is paused: an hour takes no time, and a deadline is met exactly.
#[formic::test]
async fn time_passes_by_itself() {
    let network = Network::new();
    network.serve("probe", Prober::new());
    let probe = ProbeClient::new(network.client("probe"));
    let real = std::time::Instant::now();
    let began = tokio::time::Instant::now();
    let wait = |millis| Order { action: Action::ACTION_WAIT.into(), millis, ..Order::default() };
    let hour = Duration::from_secs(3600);
    probe.say(wait(3_000_000)).timeout(hour).await.unwrap();
    assert_eq!(began.elapsed(), Duration::from_secs(3000));
    let error = probe.say(wait(10_000_000)).timeout(hour).await.unwrap_err();
    assert_eq!(error.code(), Code::DeadlineExceeded);
    assert_eq!(began.elapsed(), Duration::from_secs(3000) + hour);
    assert!(real.elapsed() < Duration::from_secs(5));

    network.remove("probe");
    let error = probe.say(order("hi")).await.unwrap_err();
    assert_eq!(error.code(), Code::Unavailable);
    network.serve("probe", Prober::new());
    probe.say(order("hi")).await.unwrap();
}
