//! One suite, every transport.

use std::time::Duration;

use formic_core::{Code, Error, Kind, Method};
use formic_probe::foreign::Http;
use formic_probe::{Action, Order, Report};
use formic_rpc::{Body, Call, Codec, Streaming};
use formic_server::Config;
use futures::StreamExt;

use crate::raw::{one, post};
use crate::ways::{everywhere, within};

pub(crate) fn order(text: &str) -> Order {
    Order { text: text.into(), ..Order::default() }
}

pub(crate) fn told(action: Action, number: u32) -> Order {
    Order { action: action.into(), number, ..Order::default() }
}

/// The messages of a stream, and the error that ended it.
pub(crate) async fn drain(mut stream: Streaming<Report>) -> (Vec<Report>, Option<Error>) {
    let mut all = Vec::new();
    loop {
        match within("the next message", stream.message()).await {
            Ok(Some(report)) => all.push(report),
            Ok(None) => return (all, None),
            Err(error) => return (all, Some(error)),
        }
    }
}

#[tokio::test]
async fn every_kind_of_call_is_answered() {
    let server = everywhere(Config::default()).await;
    for way in server.ways() {
        let (probe, name) = (way.probe(), &way.name);
        let long = "ä".repeat(20_000);
        let said = within(name, probe.say(order(&long)).into_future()).await.unwrap();
        assert_eq!(said.text, long, "{name}");
        let empty = within(name, probe.say(Order::default()).into_future()).await.unwrap();
        assert_eq!(empty.text, "", "{name}");

        let stream = probe.count(Order { number: 3, ..order("c") }).await.unwrap().into_message();
        let (reports, error) = drain(stream).await;
        assert!(error.is_none(), "{name}: {error:?}");
        assert_eq!(reports.iter().map(|report| report.number).collect::<Vec<_>>(), [0, 1, 2], "{name}");
        let stream = probe.count(Order::default()).await.unwrap().into_message();
        assert_eq!(drain(stream).await.0.len(), 0, "{name}: an empty stream");

        let orders = futures::stream::iter(["a", "b", "c"].map(order));
        let joined = within(name, probe.join(orders).into_future()).await.unwrap();
        assert_eq!((joined.text.as_str(), joined.number), ("abc", 3), "{name}");
        let joined = within(name, probe.join(futures::stream::empty()).into_future()).await.unwrap();
        assert_eq!(joined.number, 0, "{name}: no request at all");
    }
    let counts = server.prober.counts();
    assert_eq!((counts.busy(), counts.dropped()), (0, 0));
}

#[tokio::test]
async fn a_conversation_goes_back_and_forth() {
    let server = everywhere(Config::default()).await;
    for way in server.ways() {
        // HTTP/1.1 has no conversations: the answer begins when the request has ended.
        if way.http == Some(Http::One) {
            continue;
        }
        let name = &way.name;
        let (sender, orders) = futures::channel::mpsc::unbounded();
        let mut stream = within(name, way.probe().chat(orders).into_future()).await.unwrap().into_message();
        for at in 0..3 {
            sender.unbounded_send(order(&at.to_string())).unwrap();
            let report = within(name, stream.message()).await.unwrap().unwrap();
            assert_eq!((report.text, report.number), (at.to_string(), at), "{name}");
        }
        drop(sender);
        assert_eq!(within(name, stream.message()).await.unwrap(), None, "{name}");
    }
}

/// Each order has a frame of its own, and h2 ends a connection of which too many of such stand unread.
#[tokio::test]
async fn short_messages_that_a_handler_does_not_read_end_no_other_call() {
    const ORDERS: u32 = 5_000;
    let server = everywhere(Config::default()).await;
    for way in
        server.ways().into_iter().filter(|way| !way.name.contains("theirs") && !way.name.contains("Json"))
    {
        let (probe, name) = (way.probe(), &way.name);
        let orders = futures::stream::unfold(0, |n| async move {
            tokio::task::yield_now().await;
            let order = match n {
                0 => Order { millis: 1_000, ..told(Action::ACTION_WAIT, 0) },
                n => Order { text: format!("{n:0100}"), ..Order::default() },
            };
            (n < ORDERS).then_some((order, n + 1))
        });
        let mut stream = within(name, probe.chat(orders).into_future()).await.unwrap().into_message();
        tokio::time::sleep(Duration::from_millis(800)).await;
        let said = within(name, probe.say(order("hi")).into_future()).await.unwrap();
        assert_eq!(said.text, "hi", "{name}");
        for n in 0..ORDERS {
            let report =
                within(name, stream.message()).await.unwrap_or_else(|error| panic!("{name}: {error}"));
            assert_eq!(report.unwrap().number, n, "{name}");
        }
        assert_eq!(within(name, stream.message()).await.unwrap(), None, "{name}");
    }
}

#[tokio::test]
async fn metadata_travels_both_ways() {
    let server = everywhere(Config::default()).await;
    for way in server.ways() {
        let (probe, name) = (way.probe(), &way.name);
        let said = probe.say(order("")).metadata("x-ask", "please").metadata("x-two", "1").await.unwrap();
        let seen = said.seen.as_option().unwrap();
        assert_eq!(seen.metadata.get("x-ask").map(String::as_str), Some("please"), "{name}");
        assert_eq!(seen.metadata.get("x-two").map(String::as_str), Some("1"), "{name}");
        assert_eq!(seen.method, "/probe.v1.Probe/Say", "{name}");
        assert_eq!(seen.json, way.name.contains("Json"), "{name}");
        assert!(seen.peer.starts_with(way.peer), "{name}: {}", seen.peer);
        assert_eq!(said.metadata().get("x-before"), Some("please"), "{name}");
        assert_eq!(said.trailers().get("x-after"), Some("please"), "{name}");

        let orders = futures::stream::iter([order("a")]);
        let joined = probe.join(orders).metadata("x-ask", "j").await.unwrap();
        assert_eq!(joined.metadata().get("x-before"), Some("j"), "{name}");
        assert_eq!(joined.trailers().get("x-after"), Some("j"), "{name}");

        let counted = probe.count(told(Action::ACTION_UNSPECIFIED, 1)).metadata("x-ask", "c").await.unwrap();
        assert_eq!(counted.metadata().get("x-before"), Some("c"), "{name}");
        let mut counted = counted.into_message();
        let mut seen = 0;
        while let Some(report) = counted.message().await.unwrap() {
            assert!(counted.trailers().is_none(), "{name}: they are not known before the end");
            seen += usize::from(report.seen.metadata.contains_key("x-ask"));
        }
        assert_eq!(seen, 1, "{name}");
        let after = counted.trailers().unwrap_or_else(|| panic!("{name}: none at the end"));
        assert_eq!(after.get("x-after"), Some("c"), "{name}");
        // What belongs to the protocol is nobody's metadata, though some clients show it.
        assert!(name.starts_with("theirs") || after.iter().count() == 1, "{name}: {after:?}");
    }
}

fn as_told(name: &str, error: &Error, code: Code) {
    assert_eq!(error.code(), code, "{name}: {error:?}");
    assert_eq!(error.message(), "as told: äöü", "{name}");
    let info = error.info().unwrap_or_else(|| panic!("{name}: no info"));
    assert_eq!((info.domain.as_str(), info.reason.as_str()), ("probe", "TOLD"), "{name}");
    assert_eq!(info.metadata, [("number".to_owned(), code.number().to_string())], "{name}");
    assert_eq!(error.fields()[0].field, "number", "{name}");
    assert_eq!(error.resource().unwrap().resource_name, "o1", "{name}");
    assert_eq!(error.metadata().get("x-failed"), Some("yes"), "{name}: {:?}", error.metadata());
    if name != "memory" {
        assert!(!format!("{error:?} {error}").contains("secret"), "{name}: the source has travelled");
    }
}

#[tokio::test]
async fn errors_arrive_typed() {
    let server = everywhere(Config::default()).await;
    for way in server.ways() {
        let (probe, name) = (way.probe(), &way.name);
        for number in 1..=16 {
            let code = Code::from_number(number).unwrap();
            let error = probe.say(told(Action::ACTION_FAIL, number)).await.unwrap_err();
            as_told(name, &error, code);
        }
        let orders = futures::stream::iter([told(Action::ACTION_FAIL, 0)]);
        let error = probe.join(orders).await.unwrap_err();
        // `Join` counts its requests: one, which is the code for a cancelled call.
        as_told(name, &error, Code::Canceled);

        let after_two = Order { millis: 9, ..told(Action::ACTION_FAIL, 2) };
        let stream = probe.count(after_two).await.unwrap().into_message();
        let (reports, error) = drain(stream).await;
        assert_eq!(reports.len(), 2, "{name}");
        as_told(name, &error.unwrap(), Code::FailedPrecondition);

        let at_once = Order { text: "at once".into(), millis: 5, ..told(Action::ACTION_FAIL, 0) };
        let error = match probe.count(at_once).await {
            Err(error) => error,
            Ok(stream) => drain(stream.into_message()).await.1.unwrap(),
        };
        as_told(name, &error, Code::NotFound);
    }
}

#[tokio::test]
async fn a_panic_is_internal_and_the_server_lives() {
    let server = everywhere(Config::default()).await;
    for way in server.ways() {
        let (probe, name) = (way.probe(), &way.name);
        let broken = |error: Error| {
            assert_eq!(error.code(), Code::Internal, "{name}: {error:?}");
            assert_eq!(error.message(), "the handler panicked", "{name}: what it said is for the log");
        };
        broken(probe.say(told(Action::ACTION_PANIC_LATER, 0)).await.unwrap_err());
        broken(probe.get(told(Action::ACTION_PANIC, 0)).await.unwrap_err());
        let orders = futures::stream::iter([told(Action::ACTION_PANIC_LATER, 0)]);
        broken(probe.join(orders).await.unwrap_err());
        let stream = probe.count(told(Action::ACTION_PANIC, 2)).await.unwrap().into_message();
        let (reports, error) = drain(stream).await;
        assert_eq!(reports.len(), 2, "{name}");
        broken(error.unwrap());
        assert_eq!(probe.say(order("alive")).await.unwrap().text, "alive", "{name}");
    }
    assert_eq!(server.running.in_flight(), 0);
}

#[tokio::test]
async fn what_is_not_there_and_what_does_not_decode() {
    let server = everywhere(Config::default()).await;
    for way in server.ways() {
        let name = &way.name;
        for path in ["/probe.v1.Probe/Nope", "/probe.v1.Nope/Say", "/Nope/Say", "/probe.v1.Probe/"] {
            let method = Method::new(path, Kind::Unary);
            let call = way.channel.unary::<Order, Report>(method, &Order::default());
            let error = within(name, call.into_future()).await.unwrap_err();
            assert_eq!(error.code(), Code::Unimplemented, "{name} {path}: {error:?}");
        }
        let method = Method::new("/probe.v1.Probe/Say", Kind::Unary);
        let json = way.name.contains("Json");
        // connectrpc's client looks at JSON before it sends it; `standard` sends it by hand.
        if way.http.is_some() && json {
            continue;
        }
        let garbage = if json { "{\"text\": 1, " } else { "\u{1}\u{2}\u{3}" };
        let codec = if json { Codec::Json } else { Codec::Proto };
        let mut call = Call::new(method, codec, Body::Message(garbage.into()));
        call.deadline = Some(tokio::time::Instant::now() + Duration::from_secs(5));
        let error = within(name, way.channel.call(call)).await.unwrap_err();
        assert_eq!(error.code(), Code::InvalidArgument, "{name}: {error:?}");
    }
    assert_eq!(server.prober.counts().began(), 0, "none of them reached a handler");
}

#[tokio::test]
async fn deadlines_hold() {
    let server = everywhere(Config::default()).await;
    let (ways, counts) = (server.ways(), server.prober.counts());
    for way in &ways {
        let said = way.probe().say(order("")).timeout(Duration::from_secs(30)).await.unwrap();
        let left = said.seen.remaining_ms.unwrap();
        assert!((20_000..30_000).contains(&left), "{}: {left}", way.name);
    }

    // Time enough for a busy machine to begin all of them, and not that of a client's default.
    let (soon, late) = (Duration::from_secs(2), Duration::from_secs(5));
    let hanging = ways.iter().map(async |way| {
        let call = way.probe().say(told(Action::ACTION_HANG, 0)).timeout(soon).into_future();
        let error = formic_testing::in_time(&way.name, late, call).await.unwrap_err();
        assert_eq!(error.code(), Code::DeadlineExceeded, "{}", way.name);
    });
    futures::future::join_all(hanging).await;
    crate::ways::until("the handlers to be dropped", || counts.dropped() == ways.len()).await;

    // The deadline holds over the whole stream.
    let streaming = ways.iter().map(async |way| {
        let order = Order { millis: 800, ..told(Action::ACTION_WAIT, 10) };
        let stream = way.probe().count(order).timeout(soon).await.unwrap().into_message();
        let (reports, error) = drain(stream).await;
        assert!(reports.len() < 5, "{}: {}", way.name, reports.len());
        assert_eq!(error.unwrap().code(), Code::DeadlineExceeded, "{}", way.name);
    });
    futures::future::join_all(streaming).await;
    crate::ways::until("the streams to be dropped", || counts.busy() == 0).await;
}

#[tokio::test]
async fn a_caller_who_leaves_cancels_the_handler() {
    let server = everywhere(Config::default()).await;
    let counts = server.prober.counts();
    for way in server.ways() {
        let (probe, name) = (way.probe(), &way.name);
        let dropped = counts.dropped();
        let mut call = probe.say(told(Action::ACTION_HANG, 0)).into_future();
        let reached = crate::ways::until("the handler to begin", || counts.busy() == 1);
        tokio::select! {
            answer = &mut call => panic!("{name}: {answer:?}"),
            () = reached => {}
        }
        drop(call);
        crate::ways::until(name, || counts.dropped() == dropped + 1).await;

        let mut stream = probe.count(told(Action::ACTION_HANG, 1)).await.unwrap().into_message();
        assert!(within(name, stream.next()).await.unwrap().is_ok());
        drop(stream);
        crate::ways::until(name, || counts.dropped() == dropped + 2).await;
    }
    crate::ways::until("nothing to be in flight", || server.running.in_flight() == 0).await;
}

#[tokio::test]
async fn default_deadline_bounds_a_call_but_not_a_stream() {
    let config = Config { default_deadline: Duration::from_millis(80), ..Config::default() };
    let server = everywhere(config).await;
    for way in server.ways() {
        // In memory nobody is a stranger: the client's own default is what counts there.
        if way.name == "memory" {
            continue;
        }
        let (probe, name) = (way.probe(), &way.name);
        let order = Order { millis: 30, ..told(Action::ACTION_WAIT, 5) };
        let stream = probe.count(order).await.unwrap().into_message();
        let (reports, error) = drain(stream).await;
        assert_eq!((reports.len(), error.map(|e| e.to_string())), (5, None), "{name}");
        assert_eq!(reports[0].seen.remaining_ms, None, "{name}");
    }
}

#[tokio::test]
async fn a_call_whose_deadline_has_passed_is_not_begun() {
    let server = everywhere(Config::default()).await;
    let past = tokio::time::Instant::now();
    for way in server.ways() {
        let name = &way.name;
        let error =
            within(name, way.probe().say(order("late")).deadline(past).into_future()).await.unwrap_err();
        assert_eq!(error.code(), Code::DeadlineExceeded, "{name}");
    }
    // A caller that says so on the wire.
    let body = r#"{"text":"late"}"#;
    let mut request = post(server.addr, "/probe.v1.Probe/Say", "application/json", body);
    request.headers_mut().insert("connect-timeout-ms", http::HeaderValue::from_static("0"));
    assert_eq!(one(server.addr, request).await.status(), 504);
    assert_eq!(server.prober.counts().began(), 0);
}
