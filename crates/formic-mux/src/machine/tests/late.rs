//! What `docs/wire.md` says of frames that come too late, and of values that name nothing.

use super::attacks::{fault, frame, server};
use super::model::feed;
use super::*;
use crate::codec::Type;
use crate::codec::frame::request;

fn pair(value: &'static str) -> Metadata {
    let mut metadata = Metadata::new();
    metadata.as_headers_mut().insert("x-pair", HeaderValue::from_static(value));
    metadata
}

/// Answers a call with a pair of metadata, in one of the three ways to end it.
fn answer(server: &mut Machine<u32>, id: u32, way: u32, metadata: &Metadata) {
    match way {
        0 => drop(server.answer(id, metadata, &Metadata::new(), Bytes::new()).unwrap()),
        1 => {
            let mut error = Error::internal("");
            *error.metadata_mut() = metadata.clone();
            server.fail(id, &error);
        }
        _ => {
            server.respond(id, &Metadata::new()).unwrap();
            server.end(id, metadata.clone());
        }
    }
}

/// What an answer brought.
fn metadata_of(events: Vec<Event<u32>>) -> Metadata {
    match events.into_iter().last() {
        Some(Event::Answer { metadata, .. }) => metadata,
        Some(Event::Failed { error, .. }) => error.metadata().clone(),
        Some(Event::End { trailers, .. }) => trailers,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_late_frame_is_read_for_its_tables() {
    for way in 0..3 {
        let mut model = Model::new(1, false);
        let metadata = pair("ada");
        // The first says the pair, the second puts it in the table, the third refers to it.
        for round in 0..3 {
            let id = model.client.open(&head("/t/Stream", &Metadata::new()), None, true, 7).unwrap();
            assert_eq!(model.carry_to_server().len(), 1);
            answer(&mut model.server, id, way, &metadata);
            if round == 1 {
                model.client.cancel(id, Code::Canceled);
                let events = model.carry_to_client();
                assert!(events.is_empty(), "{events:?} of a call that is over");
            } else {
                assert_eq!(metadata_of(model.carry_to_client()), metadata, "way {way}, round {round}");
            }
        }
    }
}

#[test]
fn a_late_message_gives_its_credit_back() {
    let mut model = Model::new(1, false);
    let id = model.client.open(&head("/t/Stream", &Metadata::new()), None, true, 7).unwrap();
    model.carry_to_server();
    model.server.respond(id, &Metadata::new()).unwrap();
    model.carry_to_client();
    model.server.send(id, Bytes::from(vec![0; 50_000])).unwrap();
    model.client.cancel(id, Code::Canceled);
    assert!(model.carry_to_client().is_empty());
    assert!(model.server.credit < model.client.local.connection_credit);
    assert_eq!(model.client.credit_in + model.client.owed, model.client.local.connection_credit);
}

#[test]
fn a_frame_about_a_call_that_never_was_is_a_fault() {
    for (kind, payload) in [
        (Type::Response, &[8, 0][..]),
        (Type::Data, &[0]),
        (Type::End, &[]),
        (Type::Error, &[0, 3, 0, 0, 0]),
        (Type::Credit, &[0, 0, 0, 1]),
    ] {
        let mut client = Model::new(1, false).client;
        assert_eq!(fault(&mut client, &frame(kind, 1, payload)), "a frame is about a call that never was");
        let id = client.open(&head("/t/Unary", &Metadata::new()), None, true, 7).unwrap();
        client.cancel(id, Code::Canceled);
        let late = feed(&mut client, &frame(kind, id, payload));
        assert!(late.is_empty(), "{late:?}");
    }
}

#[test]
fn a_code_that_is_none_is_unknown() {
    for (number, code) in
        [(0, Code::Unknown), (16, Code::Unauthenticated), (17, Code::Unknown), (255, Code::Unknown)]
    {
        let mut client = Model::new(1, false).client;
        let id = client.open(&head("/t/Unary", &Metadata::new()), None, true, 7).unwrap();
        let events = feed(&mut client, &frame(Type::Error, id, &[0, number, 0, 0, 0]));
        let [Event::Failed { error, .. }] = &events[..] else { panic!("{events:?}") };
        assert_eq!(error.code(), code, "{number}");
    }
}

#[test]
fn a_trace_of_zeros_is_none() {
    for (trace, span) in [(0u128, 0u64), (0, 6), (5, 0), (5, 6)] {
        let mut payload = vec![request::TRACE | request::SAMPLED | request::END, 1, 2, b'/', b't'];
        payload.extend(trace.to_be_bytes());
        payload.extend(span.to_be_bytes());
        payload.push(0);
        let events = feed(&mut server(), &frame(Type::Request, 1, &payload));
        let [Event::Request(request)] = &events[..] else { panic!("{events:?}") };
        let named = (trace, span) == (5, 6);
        let expected = named.then_some(TraceContext { trace_id: trace, span_id: span, sampled: true });
        assert_eq!(request.trace, expected);
    }
}
