//! Both ends joined in memory, their bytes cut anywhere, delayed and lost; and one end under attack.
#![expect(clippy::unwrap_used, reason = "a test may panic")]

mod attacks;
mod late;
mod model;
mod runs;
mod tables;

use formic_core::{Code, Error};
use http::HeaderValue;
use proptest::prelude::*;

use super::*;
use model::{Model, head, machine};

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, failure_persistence: None, ..ProptestConfig::default() })]

    /// Whatever is called, sent, canceled and answered in whatever order, and however the bytes are cut: each call gets its
    /// own answer, once, and all credit comes back.
    #[test]
    fn each_call_gets_its_own_answer(seed: u64, tight: bool) {
        let mut model = Model::new(seed, tight);
        for _ in 0..400 {
            model.step();
        }
        model.settle();
        model.assert_settled();
    }

    /// The connection may break at any byte: every call ends once, and one that is said to be unsent was not seen.
    #[test]
    fn a_lost_connection_ends_every_call_once(seed: u64, steps in 1usize..300) {
        let mut model = Model::new(seed, false);
        for _ in 0..steps {
            model.step();
        }
        model.cut();
    }

    /// A server that goes away answers what it took; the rest surely reached no handler.
    #[test]
    fn going_away_loses_nothing(seed: u64, steps in 1usize..200) {
        let mut model = Model::new(seed, false);
        for _ in 0..steps {
            model.step();
        }
        model.server.go_away();
        for _ in 0..100 {
            model.step();
        }
        model.settle();
        model.assert_settled();
        prop_assert!(model.client.is_leaving());
        let refusal = model.client.open(&head("/t/Unary", &Metadata::new()), None, true, 0);
        prop_assert!(matches!(refusal, Err(Refusal::Leaving)));
    }
}

#[test]
fn streams_of_the_model_send_more_than_at_the_beginning() {
    let mut grew = [0, 0];
    for seed in 0..96 {
        let mut model = Model::new(seed, false);
        for _ in 0..400 {
            model.step();
        }
        for (count, grew) in grew.iter_mut().zip(model.grew) {
            *count += usize::from(grew);
        }
    }
    assert!(grew[0] > 5 && grew[1] > 5, "{grew:?} of 96");
}

/// A long answer waits for credit when the end of its request comes.
#[test]
fn a_request_may_end_after_its_answer_was_given() {
    let mut model = Model::new(9_439_131_058_248_245_441, false);
    for _ in 0..110 {
        model.step();
    }
    model.cut();
}

#[test]
fn what_is_beside_a_message_arrives() {
    let mut model = Model::new(1, false);
    let mut metadata = Metadata::new();
    metadata.as_headers_mut().insert("x-user", HeaderValue::from_static("ada"));
    metadata.as_headers_mut().append("x-user", HeaderValue::from_static("eve"));
    metadata.as_headers_mut().insert("content-type", HeaderValue::from_static("text/html"));
    let trace = TraceContext { trace_id: 5, span_id: 6, sampled: true };
    let head = Head {
        path: "/t/Fail",
        json: true,
        timeout: Some(Duration::from_micros(1_500_000)),
        trace: Some(trace),
        attempt: Some(2),
        metadata: metadata.as_headers(),
        skip: |name| name == "content-type",
    };
    // The third time both stand in the tables, and must say the same.
    for round in 0..4 {
        let id = model.client.open(&head, Some(&Bytes::from_static(b"{}")), true, 7).unwrap();
        let mut requests = model.carry_to_server();
        let Some(Event::Request(request)) = requests.pop() else { panic!("{requests:?}") };
        assert_eq!((request.id, &*request.path, request.json, request.end), (id, "/t/Fail", true, true));
        assert_eq!((request.timeout, request.trace, request.attempt), (head.timeout, head.trace, Some(2)));
        let users: Vec<_> = request.metadata.get_all("x-user").collect();
        assert_eq!((users, request.metadata.as_headers().len()), (vec!["ada", "eve"], 2), "round {round}");
        assert_eq!(request.message.as_deref(), Some(&b"{}"[..]));
        let mut error = Error::new(Code::Aborted, "so").with_info("d", "R", [("a", "b")]);
        error.metadata_mut().insert("x-why", "because").unwrap();
        model.server.fail(id, &error);
        let mut events = model.carry_to_client();
        let Some(Event::Failed { data: 7, error }) = events.pop() else { panic!("{events:?}") };
        assert_eq!((error.code(), error.message(), error.is_unsent()), (Code::Aborted, "so", false));
        assert_eq!(error.info().unwrap().reason, "R");
        assert_eq!(error.metadata().get("x-why"), Some("because"));
    }
}

#[test]
fn tables_wrap_around_and_both_sides_agree() {
    let mut model = Model::new(2, true);
    for n in 0..100 {
        let mut metadata = Metadata::new();
        metadata.as_headers_mut().insert("x-n", HeaderValue::from(n % 20));
        let path = format!("/t/M{}", n % 13);
        // Twice each, so that pairs get places.
        for _ in 0..2 {
            model.client.open(&head(&path, &metadata), None, true, 0).unwrap();
            let mut requests = model.carry_to_server();
            let Some(Event::Request(request)) = requests.pop() else { panic!("{requests:?}") };
            assert_eq!((&*request.path, &request.metadata), (&*path, &metadata));
            model.server.fail(request.id, &Error::internal(""));
            model.carry_to_client();
        }
    }
}

#[test]
fn a_long_message_lets_short_ones_by() {
    let (mut client, mut server) = (machine(Role::Client, false), machine(Role::Server, false));
    model::greet(&mut client, &mut server);
    let none = Metadata::new();
    let long = Bytes::from(vec![7u8; 1 << 20]);
    client.open(&head("/t/Long", &none), Some(&long), true, 1).unwrap();
    let mut first = Vec::new();
    client.output(&mut first);
    assert!(first.len() < 200 << 10, "{} bytes of the long one stand before what comes next", first.len());
    let id = client.open(&head("/t/Short", &none), Some(&Bytes::from_static(b"hi")), true, 2).unwrap();
    let mut second = Vec::new();
    client.output(&mut second);
    let mut bytes = [first, second].concat();
    bytes.truncate(256 << 10);
    let events = model::feed(&mut server, &bytes);
    let at = events.iter().position(|event| matches!(event, Event::Request(request) if request.id == id));
    assert!(at.is_some(), "the short one waits behind the long one");
}

/// Whatever the streams hold that nobody reads, what is left goes round.
#[test]
fn streams_that_nobody_reads_leave_the_rest_to_others() {
    let held = [0, 20_000, 32_000, 40_000, 60_000, 65_000];
    for held in held {
        let (mut client, mut server) = (machine(Role::Client, true), machine(Role::Server, true));
        model::greet(&mut client, &mut server);
        let none = Metadata::new();
        let carry = |from: &mut Machine<u32>, to: &mut Machine<u32>| {
            let mut out = Vec::new();
            from.output(&mut out);
            model::feed(to, &out)
        };
        let unread = client.open(&head("/t/Stream", &none), None, false, 0).unwrap();
        if held > 0 {
            client.send(unread, Bytes::from(vec![0; held])).unwrap();
        }
        carry(&mut client, &mut server);
        for _ in 0..100 {
            let id = client.open(&head("/t/Unary", &none), None, false, 1).unwrap();
            client.send(id, Bytes::from(vec![1; 70_000])).unwrap();
            let mut came = false;
            for _ in 0..1_000 {
                for event in carry(&mut client, &mut server) {
                    if let Event::Messages { id, charge, .. } = event {
                        server.consumed(id, charge);
                        came = true;
                    }
                }
                carry(&mut server, &mut client);
                if came {
                    break;
                }
            }
            assert!(came, "stuck with {held} bytes held");
            client.cancel(id, Code::Canceled);
            carry(&mut client, &mut server);
        }
    }
}

/// Wherever the application stops to take messages, all credit of the connection comes back, and none of the call's.
#[test]
fn what_is_not_wanted_any_more_holds_no_credit() {
    for stop in (100..160_000).step_by(7_973) {
        let (mut client, mut server) = (machine(Role::Client, true), machine(Role::Server, true));
        model::greet(&mut client, &mut server);
        let id = client.open(&head("/t/Stream", &Metadata::new()), None, false, 0).unwrap();
        for _ in 0..3 {
            client.send(id, Bytes::from(vec![0; 10])).unwrap();
            client.send(id, Bytes::from(vec![0; 50_000])).unwrap();
        }
        let (mut taken, mut untaken, mut cost, mut forgotten) = (0, 0, 0, false);
        for _ in 0..20 {
            let mut up = Vec::new();
            client.output(&mut up);
            for byte in up.chunks(1) {
                if taken == stop {
                    server.forget(id, std::mem::take(&mut untaken), std::mem::take(&mut cost));
                    forgotten = true;
                }
                taken += 1;
                for event in model::feed(&mut server, byte) {
                    let Event::Messages { charge, .. } = event else { continue };
                    assert!(!forgotten, "nobody wants it");
                    if taken < 70_000 {
                        server.consumed(id, charge);
                    } else {
                        (untaken, cost) = (untaken + 1, cost + charge);
                    }
                }
            }
            let mut down = Vec::new();
            server.output(&mut down);
            model::feed(&mut client, &down);
        }
        if !forgotten {
            server.forget(id, untaken, cost);
        }
        assert_eq!(server.credit_in + server.owed, server.local.connection_credit, "stopped at {stop}");
        assert_eq!((server.partial, server.waiting), (0, 0));
        assert_eq!((server.slack, server.beyond), (0, 0));
        assert!(taken < 200_000, "{taken} bytes were let through");
    }
}

/// An answer that only ends needs room and no credit, and whoever has it must be told of the room.
#[test]
fn who_waits_for_room_is_told_of_it_without_credit() {
    let (mut client, mut server) = (machine(Role::Client, true), machine(Role::Server, true));
    model::greet(&mut client, &mut server);
    let id = client.open(&head("/t/Stream", &Metadata::new()), None, false, 0).unwrap();
    let mut up = Vec::new();
    client.output(&mut up);
    model::feed(&mut server, &up);
    server.credit = 0;
    server.out.resize(2 * send::ENOUGH, 0);
    assert!(!server.is_writable(id));
    for _ in 0..2 {
        server.output(&mut Vec::new());
    }
    assert_eq!(*server.writable(), [id]);
    assert!(server.is_writable(id));
}

#[test]
fn silence_is_asked_about_and_then_an_end() {
    let alive =
        Alive { interval: Duration::from_secs(1), timeout: Duration::from_millis(1500), busy_only: true };
    let mut client = Machine::<u32>::new(Role::Client, Limits::default(), alive);
    let mut server = machine(Role::Server, false);
    model::greet(&mut client, &mut server);
    let seconds = Duration::from_secs;
    assert_eq!(client.due(), None, "an idle client asks nothing");
    client.open(&head("/t/Unary", &Metadata::new()), None, true, 0).unwrap();
    client.tick(seconds(5)).unwrap();
    let mut out = Vec::new();
    client.output(&mut out);
    model::feed(&mut server, &out);
    let mut pong = Vec::new();
    server.output(&mut pong);
    assert!(!pong.is_empty());
    assert!(client.receive(&mut &pong[..], seconds(6)).unwrap().is_none());
    assert_eq!(client.due(), Some(seconds(7)));
    client.tick(seconds(7)).unwrap();
    client.tick(seconds(8)).unwrap();
    assert!(client.tick(Duration::from_millis(8500)).is_err());
}
