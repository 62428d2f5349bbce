//! Calls go through as they came: every kind, in every protocol, errors and all.

use std::time::Duration;

use connectrpc::Protocol;
use formic_core::Code;
use formic_probe::foreign::{Http, channel};
use formic_probe::{Action, Order, ProbeClient};
use formic_rpc::Codec;
use futures::StreamExt;

use crate::{Front, PATIENCE, front, text, until, within};

fn order(text: &str) -> Order {
    Order { text: text.into(), ..Order::default() }
}

fn told(action: Action, number: u32) -> Order {
    Order { action: action.into(), number, ..Order::default() }
}

pub(crate) fn ways(front: &Front) -> Vec<(String, Http, ProbeClient)> {
    let mut ways = Vec::new();
    let wires = [
        (Http::One, Protocol::Connect),
        (Http::One, Protocol::GrpcWeb),
        (Http::Two, Protocol::Connect),
        (Http::Two, Protocol::Grpc),
        (Http::Two, Protocol::GrpcWeb),
    ];
    for (http, protocol) in wires {
        for codec in [Codec::Proto, Codec::Json] {
            let probe = ProbeClient::new(channel(front.addr, http, protocol, codec));
            ways.push((format!("HTTP {http:?}, {protocol:?}, {codec:?}"), http, probe));
        }
    }
    ways
}

/// What the gateway answers to `GET /metrics`.
async fn metrics(front: &Front) -> String {
    text(&front.send(crate::get("/metrics", "text/plain")).await)
}

#[tokio::test]
async fn calls_that_are_passed_on_are_counted() {
    let front = front(|_| {}).await;
    let probe = ProbeClient::new(channel(front.addr, Http::Two, Protocol::Connect, Codec::Proto));
    within("an answer", probe.say(order("hi")).into_future()).await.unwrap();
    let error = within("a failure", probe.say(told(Action::ACTION_FAIL, 5)).into_future()).await.unwrap_err();
    assert_eq!(error.code(), Code::NotFound);
    let waiting = tokio::spawn(probe.say(told(Action::ACTION_HANG, 0)).into_future());
    let counts = front.prober.counts();
    until("the call that hangs", || counts.busy() == 1).await;
    let found = metrics(&front).await;
    for line in [
        r#"formic_client_requests_total{service="probe.v1.Probe",method="Say",code="ok"} 1"#,
        r#"formic_client_requests_total{service="probe.v1.Probe",method="Say",code="not_found"} 1"#,
        r#"formic_client_latency_seconds_count{service="probe.v1.Probe",method="Say"} 2"#,
        r#"formic_client_in_flight{service="probe.v1.Probe",method="Say"} 1"#,
    ] {
        assert!(found.contains(line), "{line} is not in\n{found}");
    }
    waiting.abort();
    until("the handler to be gone", || counts.busy() == 0).await;
    formic_testing::wait_for("nothing to be in flight", PATIENCE, async || {
        let none = r#"formic_client_in_flight{service="probe.v1.Probe",method="Say"} 0"#;
        metrics(&front).await.contains(none).then_some(())
    })
    .await;
}

#[tokio::test]
async fn the_world_does_not_say_what_matters_unless_it_may() {
    for may in [false, true] {
        let front = front(|config| config.priority = may).await;
        for (name, _, probe) in ways(&front) {
            let ask = probe.say(order("hi")).metadata("formic-priority", "high");
            let said = within(&name, ask.into_future()).await.unwrap();
            let seen = said.seen.as_option().unwrap();
            let found = seen.metadata.get("formic-priority").map(String::as_str);
            assert_eq!(found, may.then_some("high"), "{name}");
        }
    }
}

#[tokio::test]
async fn every_kind_of_call_goes_through() {
    let front = front(|_| {}).await;
    for (name, http, probe) in ways(&front) {
        let ask = probe.say(order("hi")).metadata("x-ask", "please").metadata("authorization", "Bearer b");
        let said = within(&name, ask.into_future()).await.unwrap();
        assert_eq!(said.text, "hi", "{name}");
        assert_eq!(said.metadata().get("x-before"), Some("please"), "{name}");
        assert_eq!(said.trailers().get("x-after"), Some("please"), "{name}");
        let seen = said.seen.as_option().unwrap();
        assert_eq!(seen.metadata["authorization"], "Bearer b", "{name}");
        assert_eq!(seen.metadata["x-forwarded-for"], "127.0.0.1", "{name}");
        assert_eq!(seen.json, name.contains("Json"), "{name}: bytes go through as they came");
        assert!(!seen.metadata.contains_key("formic-attempt"), "{name}");

        let stream = probe.count(Order { number: 3, ..order("c") }).await.unwrap().into_message();
        let numbers: Vec<_> = within(&name, stream.map(|report| report.unwrap().number).collect()).await;
        assert_eq!(numbers, [0, 1, 2], "{name}");

        let joined = probe.join(futures::stream::iter(["a", "b"].map(order)));
        assert_eq!(within(&name, joined.into_future()).await.unwrap().text, "ab", "{name}");

        if http == Http::Two {
            let (sender, orders) = futures::channel::mpsc::unbounded();
            let mut chat = within(&name, probe.chat(orders).into_future()).await.unwrap().into_message();
            for word in ["one", "two"] {
                sender.unbounded_send(order(word)).unwrap();
                assert_eq!(within(&name, chat.message()).await.unwrap().unwrap().text, word, "{name}");
            }
            drop(sender);
            assert!(within(&name, chat.message()).await.unwrap().is_none(), "{name}");
        }
    }
}

#[tokio::test]
async fn errors_go_through_with_their_details() {
    let front = front(|_| {}).await;
    for (name, _, probe) in ways(&front) {
        let stream = Order { millis: 9, ..told(Action::ACTION_FAIL, 1) };
        let mut stream = probe.count(stream).await.unwrap().into_message();
        assert!(within(&name, stream.message()).await.is_ok(), "{name}");
        let late = within(&name, stream.message()).await.unwrap_err();
        let unary = probe.say(told(Action::ACTION_FAIL, 9)).await.unwrap_err();
        for error in [unary, late] {
            assert_eq!(error.code(), Code::FailedPrecondition, "{name}");
            assert_eq!(error.message(), "as told: äöü", "{name}");
            assert_eq!(error.info().unwrap().reason, "TOLD", "{name}");
            assert_eq!(error.fields().len(), 1, "{name}");
            assert_eq!(error.metadata().get("x-failed"), Some("yes"), "{name}");
        }
        let error = probe.say(told(Action::ACTION_PANIC_LATER, 0)).await.unwrap_err();
        assert_eq!(error.code(), Code::Internal, "{name}");
    }
}

#[tokio::test]
async fn statuses_of_json_are_those_of_connect() {
    let front = front(|_| {}).await;
    let expected = [
        (3, 400, "invalid_argument"),
        (5, 404, "not_found"),
        (6, 409, "already_exists"),
        (7, 403, "permission_denied"),
        (8, 429, "resource_exhausted"),
        (9, 400, "failed_precondition"),
        (12, 501, "unimplemented"),
        (13, 500, "internal"),
        (14, 503, "unavailable"),
        (16, 401, "unauthenticated"),
    ];
    for (number, status, code) in expected {
        let body = format!(r#"{{"action":"ACTION_FAIL","number":{number}}}"#);
        let answer = front.json("/probe.v1.Probe/Say", &body).await;
        assert_eq!(answer.status(), status, "{code}: {}", text(&answer));
        let body: serde_json::Value = serde_json::from_slice(answer.body()).unwrap();
        assert_eq!(body["code"], code);
        assert_eq!(body["details"][0]["type"], "google.rpc.ErrorInfo", "{body}");
    }
    let answer = front.json("/probe.v1.Probe/Say", r#"{"text":"hi"}"#).await;
    assert_eq!(answer.status(), 200);
    assert_eq!(answer.headers()["content-type"], "application/json");
    assert!(text(&answer).contains(r#""text":"hi""#), "{}", text(&answer));
}

#[tokio::test]
async fn deadlines_and_departures_reach_the_service() {
    let quick = front(|config| config.timeout = Duration::from_secs(2)).await;
    let counts = quick.prober.counts();
    let answer = quick.json("/probe.v1.Probe/Say", r#"{"action":"ACTION_HANG"}"#).await;
    assert_eq!(answer.status(), 504, "{}", text(&answer));
    until("the handler to be dropped", || counts.dropped() == 1).await;
    // A stream is not bounded by the default.
    let slow = Order { millis: 500, ..told(Action::ACTION_WAIT, 5) };
    let stream = ways(&quick)[0].2.count(slow).await.unwrap().into_message();
    let reports: Vec<_> = within("a slow stream", stream.collect()).await;
    assert!(reports.len() == 5 && reports.iter().all(Result::is_ok), "{reports:?}");

    // What has nothing to do with the default is not under it, for a busy machine takes its time.
    let front = front(|_| {}).await;
    let counts = front.prober.counts();
    for (name, _, probe) in ways(&front) {
        let dropped = counts.dropped();
        let mut stream = probe.count(told(Action::ACTION_HANG, 1)).await.unwrap().into_message();
        assert!(within(&name, stream.message()).await.unwrap().is_some());
        drop(stream);
        until("the stream to be dropped", || counts.dropped() == dropped + 1).await;
    }
    let header = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    let said = ways(&front)[0].2.say(order("hi")).metadata("traceparent", header).await.unwrap();
    assert_eq!(said.seen.trace_id, "4bf92f3577b34da6a3ce929d0e0e4736");
}
