//! Messages that are passed on together: what they cost, what of them waits, and what becomes of it.

use super::model::{feed, greet, head, limits, machine, runs};
use super::*;
use crate::budget::Budget;
use crate::codec::{HEADER, Type};

/// Ends that have greeted, and a call that the server has begun to answer. The client reads as much as it is given credit for.
fn answering(credit: u32, message: u32) -> (Machine<u32>, Machine<u32>, u32) {
    let (hour, limits) = (Duration::from_secs(3600), Limits { message, ..limits(false) });
    let theirs = Limits { stream_credit: credit, connection_credit: credit, ..limits };
    let alive = Alive { interval: hour, timeout: hour, busy_only: false };
    let mut client = Machine::new(Role::Client, theirs, alive);
    let mut server = machine(Role::Server, false).drawing_on(Arc::new(Budget::new(1 << 30)));
    greet(&mut client, &mut server);
    let id = client.open(&head("/t/Stream", &Metadata::new()), None, true, 0).unwrap();
    carry(&mut client, &mut server);
    server.respond(id, &Metadata::new()).unwrap();
    carry(&mut server, &mut client);
    (client, server, id)
}

fn carry(from: &mut Machine<u32>, to: &mut Machine<u32>) -> Vec<Event<u32>> {
    let mut out = Vec::new();
    from.output(&mut out);
    feed(to, &out)
}

/// What came, and what taking it costs.
fn messages(events: Vec<Event<u32>>) -> (Vec<Bytes>, u32) {
    let (mut all, mut charges) = (Vec::new(), 0);
    for event in events {
        let Event::Messages { messages, charge, .. } = event else { panic!("{event:?}") };
        all.extend(messages);
        charges += charge;
    }
    (all, charges)
}

fn short(count: u8, length: usize) -> Vec<Bytes> {
    (0..count).map(|n| Bytes::from(vec![n; length])).collect()
}

#[test]
fn what_has_no_credit_waits_and_is_counted_whole() {
    let (mut client, mut server, id) = answering(64 << 10, 1 << 20);
    // 250 of 1009 bytes on the wire: there is credit for 64 of them.
    let sent = short(250, 1000);
    let mut all = runs(&sent);
    assert_eq!((all.len(), all[0].len()), (1, 250));
    server.send_all(id, &mut all).unwrap();
    assert!(all.is_empty());
    let waits = 250 - (64 << 10) / 1009;
    let each = 1000 + size_of::<Bytes>() + 9;
    assert_eq!(server.queued, waits * each, "with what each costs beside its bytes");
    assert!(server.held() >= waits * each && server.is_heavy(), "the budget knows");
    assert!(!server.is_writable(id), "who does not read is not written to");
    let (mut got, mut charge) = messages(carry(&mut server, &mut client));
    assert_eq!(got.len(), 250 - waits);
    while got.len() < 250 {
        assert!(server.queued > 0 && server.writable().is_empty());
        client.consumed(id, charge);
        carry(&mut client, &mut server);
        let more = messages(carry(&mut server, &mut client));
        assert!(!more.0.is_empty(), "stuck after {}", got.len());
        got.extend(more.0);
        charge = more.1;
    }
    assert_eq!(got, sent);
    assert_eq!((server.queued, server.writable().clone()), (0, vec![id]));
    client.consumed(id, charge);
    carry(&mut client, &mut server);
    assert_eq!((server.credit, client.credit_in + client.owed), (client.credit_in, 64 << 10));
    assert!(!server.is_heavy());
}

/// The frames of a run cost what each of them costs, to the last byte of both credits.
#[test]
fn credit_for_all_but_a_byte_is_not_for_all() {
    for missing in [0, 1] {
        let (mut client, mut server, id) = answering(64 << 10, 1 << 20);
        let rest = (64 << 10) - 10 * 109 - 9 + missing;
        server.send_all(id, &mut runs(&[Bytes::from(vec![0; rest])])).unwrap();
        server.send_all(id, &mut runs(&short(10, 100))).unwrap();
        assert_eq!((server.queued > 0, server.credit), (missing > 0, 108 * missing as u32));
        let (got, _) = messages(carry(&mut server, &mut client));
        assert_eq!(got.len(), 11 - missing, "the last is there but for a byte");
    }
}

#[test]
fn what_nobody_waits_for_any_more_is_free() {
    for gives_up in ["the client", "the server"] {
        let (mut client, mut server, id) = answering(64 << 10, 1 << 20);
        server.send_all(id, &mut runs(&short(250, 1000))).unwrap();
        assert!(server.queued > 0);
        if gives_up == "the client" {
            client.cancel(id, Code::Canceled);
            carry(&mut client, &mut server);
        } else {
            server.fail(id, &Error::deadline_exceeded("late"));
        }
        assert_eq!(server.queued, 0);
        let events = carry(&mut server, &mut client);
        assert_eq!(matches!(events.last(), Some(Event::Failed { .. })), gives_up == "the server");
        assert!(server.is_idle() && !server.is_heavy());
        server.send_all(id, &mut runs(&short(3, 10))).unwrap();
        assert!(!server.has_output(), "nothing is said of a call that is over");
    }
}

/// What a handler has given and nobody may take yet is counted as if it were queued, and given back once, however it ends.
#[test]
fn what_waits_outside_is_counted_and_is_free_once() {
    let (sent, each, alone) = (short(50, 1000), 1000 + 9 + size_of::<Bytes>(), 1000 + 9 + size_of::<Run>());
    for end in ["sent", "canceled", "failed", "ended", "lost"] {
        let (mut client, mut server, id) = answering(64 << 10, 1 << 20);
        let mut all = runs(&sent);
        all.push(Run::from(Bytes::from(vec![7; 1000])));
        assert_eq!((all.len(), all[0].len()), (2, 50));
        for _ in 0..2 {
            server.keep(id, &all).unwrap();
            assert_eq!(server.queued, 50 * each + alone, "counted once");
        }
        assert!(server.is_heavy(), "the budget knows");
        match end {
            "sent" => {
                server.send_all(id, &mut all).unwrap();
                assert_eq!(messages(carry(&mut server, &mut client)).0.len(), 51);
            }
            "canceled" => {
                client.cancel(id, Code::Canceled);
                carry(&mut client, &mut server);
            }
            "failed" => server.fail(id, &Error::aborted("so")),
            "ended" => server.end(id, Metadata::new()),
            _ => _ = server.lost(0),
        }
        assert_eq!(server.queued, 0, "{end}");
        server.output(&mut Vec::new());
        server.output(&mut Vec::new());
        server.keep(id, &[]).unwrap();
        assert!(server.queued == 0 && !server.is_heavy(), "{end}");
    }
}

/// Where the budget has no room, the messages that wait are refused, and what was counted for them is free.
#[test]
fn short_messages_that_nobody_reads_are_bounded() {
    let (_, server, id) = answering(64 << 10, 1 << 20);
    let budget = Arc::new(Budget::new(64 << 10));
    let mut server = server.drawing_on(Arc::clone(&budget));
    let sent: Vec<_> = (0..100).map(|_| Bytes::from_static(b"7")).collect();
    let mut given = 0;
    let error = loop {
        if let Err(error) = server.send_all(id, &mut runs(&sent)) {
            break error;
        }
        server.output(&mut Vec::new());
        given += 100;
        assert!(given < 10_000, "{} bytes are held", server.held());
    };
    assert_eq!(error.code(), Code::ResourceExhausted);
    assert!(budget.held() <= 64 << 10);
    assert!(given * 10 > 64 << 10, "what there was credit for was sent");
    server.fail(id, &error);
    assert_eq!((server.queued, server.calls()), (0, 0));
}

#[test]
fn what_ends_a_stream_comes_after_what_waits() {
    for fails in [false, true] {
        let (mut client, mut server, id) = answering(64 << 10, 1 << 20);
        let sent = short(250, 1000);
        server.send_all(id, &mut runs(&sent)).unwrap();
        match fails {
            true => server.fail_after(id, Error::aborted("so")),
            false => server.end(id, Metadata::new()),
        }
        let mut got = Vec::new();
        loop {
            let mut events = carry(&mut server, &mut client);
            let last = events.pop_if(|event| !matches!(event, Event::Messages { .. }));
            let (more, charge) = messages(events);
            got.extend(more);
            client.consumed(id, charge);
            match last {
                None => _ = carry(&mut client, &mut server),
                Some(Event::Failed { error, .. }) if fails => break assert_eq!(error.message(), "so"),
                Some(Event::End { .. }) if !fails => break,
                Some(other) => panic!("{other:?}"),
            }
        }
        assert_eq!(got, sent);
        assert!(server.is_idle() && server.queued == 0);
    }
}

#[test]
fn the_first_that_is_too_long_is_the_last() {
    let (mut client, mut server, id) = answering(64 << 10, 50);
    let sent = [10, 50, 51, 10].map(|length| Bytes::from(vec![0; length]));
    let mut all = runs(&sent);
    assert_eq!(all.len(), 1);
    let error = server.send_all(id, &mut all).unwrap_err();
    assert_eq!(error.code(), Code::ResourceExhausted, "{error}");
    assert!(all.is_empty());
    let (got, _) = messages(carry(&mut server, &mut client));
    assert_eq!(got, sent[..2]);
}

/// A client asks between runs, so that a server that reads slowly is heard of.
#[test]
fn a_client_asks_between_its_runs() {
    let (mut client, mut server) = (machine(Role::Client, false), machine(Role::Server, false));
    greet(&mut client, &mut server);
    let id = client.open(&head("/t/Stream", &Metadata::new()), None, true, 0).unwrap();
    client.output(&mut Vec::new());
    let mut all: Vec<_> = (0..12).flat_map(|_| runs(&short(10, 1000))).collect();
    assert_eq!(all.len(), 12);
    client.send_all(id, &mut all).unwrap();
    let mut out = Vec::new();
    client.output(&mut out);
    let (mut at, mut asked) = (0, vec![0]);
    while let Some(&[a, b, c, kind]) = out[at..].first_chunk() {
        if kind == Type::Ping as u8 {
            asked.push(at);
        }
        at += HEADER + u32::from_be_bytes([0, a, b, c]) as usize;
    }
    assert_eq!(at, out.len());
    asked.push(at);
    let apart = asked.windows(2).map(|pair| pair[1] - pair[0]).max().unwrap();
    assert!(apart <= MARK as usize + 10 * 1009, "{asked:?}");
}
