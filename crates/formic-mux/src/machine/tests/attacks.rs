//! A peer that does not keep the rules: a clear fault, and no more memory than the limits say.

use super::model::feed;
use super::*;
use crate::codec::frame::{data, request};
use crate::codec::{HEADER, Type};

/// A server that a stranger has greeted.
pub(super) fn server() -> Machine<u32> {
    let mut server = machine(Role::Server, true);
    let mut greeting = Vec::new();
    model::limits(true).write(&mut greeting);
    assert!(matches!(feed(&mut server, &greeting)[..], [Event::Greeted]));
    server
}

pub(super) fn fault(machine: &mut Machine<u32>, mut bytes: &[u8]) -> &'static str {
    loop {
        match machine.receive(&mut bytes, Duration::ZERO) {
            Ok(Some(_)) => {}
            Ok(None) => panic!("there is no fault"),
            Err(fault) => return fault.0,
        }
    }
}

/// A request of one frame.
fn call(id: u32, flags: u8, message: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    write::frame(&mut out, Type::Request, id, |out| {
        out.push(flags);
        write::varint(out, 1);
        write::bytes(out, b"/t/Unary");
        write::varint(out, 0);
        out.extend_from_slice(message);
    });
    out
}

pub(super) fn frame(kind: Type, id: u32, payload: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    write::frame(&mut out, kind, id, |out| out.extend_from_slice(payload));
    out
}

/// What a machine holds of what the other side sent.
fn held(machine: &Machine<u32>) -> usize {
    machine.input.capacity() + machine.partial + machine.streams.len() * 300
}

#[test]
fn what_is_no_greeting_is_known_at_its_first_byte() {
    for bytes in [&b"GET / HTTP/1.1"[..], b"PRI * HTTP/2.0", b"\xf0formik\n", b"\x16\x03\x01"] {
        assert_eq!(fault(&mut machine(Role::Server, true), bytes), "the greeting is another protocol's");
    }
    let mut greeting = Vec::new();
    limits_of(0, 64 << 10).write(&mut greeting);
    assert!(fault(&mut machine(Role::Server, true), &greeting).contains("credit"));
    let mut later = Vec::new();
    Limits::default().write(&mut later);
    later[8..10].copy_from_slice(&[9, 7]);
    assert!(fault(&mut machine(Role::Server, true), &later).contains("version"));
}

fn limits_of(stream_credit: u32, connection_credit: u32) -> Limits {
    Limits { stream_credit, connection_credit, ..Limits::default() }
}

#[test]
fn frames_that_cannot_be() {
    for (bytes, what) in [
        (vec![0xff, 0xff, 0xff, 3, 0, 0, 0, 1], "longer than 65536"),
        (vec![0, 0, 0, 99, 0, 0, 0, 1], "unknown type"),
        (frame(Type::Data, 1, b"\0x"), "never was"),
        (frame(Type::Cancel, 9, b"\x01"), "never was"),
        (frame(Type::Credit, 9, &[0, 0, 0, 1]), "never was"),
        (frame(Type::Credit, 0, &[0x7f, 0xff, 0xff, 0xff]), "credit without end"),
        (frame(Type::Response, 1, &[0, 0]), "wrong side"),
        (frame(Type::Data, 0, b"\0x"), "number 0"),
        (frame(Type::Ping, 1, &[0; 9]), "number of a call"),
        (frame(Type::Ping, 0, &[0; 3]), "before its time"),
        (frame(Type::Request, 1, &[0x80, 0, 0]), "empty place"),
        (frame(Type::Request, 1, &[0x80, 0xff, 1, 1, b'/', 0]), "beyond the end"),
        // The length of a path says 4 GiB.
        (frame(Type::Request, 1, &[0x80, 1, 0xff, 0xff, 0xff, 0xff, 0x0f]), "before its time"),
        (frame(Type::Request, 1, &[0x80, 1, 1, b'/', 1, 4]), "empty place"),
        (frame(Type::Request, 1, &[0x80, 1, 1, b'/', 1, 0, 1, b'A', 1, b'b']), "name of metadata"),
        (call(0, request::END, b""), "number 0"),
        ([call(5, request::END, b""), call(5, request::END, b"")].concat(), "used before"),
        ([call(5, request::END, b""), call(4, request::END, b"")].concat(), "used before"),
        ([call(5, request::END, b""), frame(Type::Data, 5, b"\0x")].concat(), "none is expected"),
        (call(1 << 31, request::END, b""), "used before"),
    ] {
        let said = fault(&mut server(), &bytes);
        assert!(said.contains(what), "{said:?} is not {what:?}");
    }
}

#[test]
fn pairs_of_no_bytes_weigh_too() {
    // One pair of one byte in the table, and then as often as the frame holds it.
    let bomb = |count: u32| {
        let mut out = Vec::new();
        write::frame(&mut out, Type::Request, 1, |out| {
            out.push(request::END);
            write::varint(out, 1);
            write::bytes(out, b"/t/Unary");
            write::varint(out, count);
            out.extend_from_slice(&[1, 1, b'a', 0]);
            out.resize(out.len() + count as usize - 1, 2);
        });
        out
    };
    assert_eq!(fault(&mut server(), &bomb(16_384)), "metadata is larger than the limit");
    // 4096 bytes, the limit here, are 124 pairs of 33.
    assert_eq!(fault(&mut server(), &bomb(125)), "metadata is larger than the limit");
    assert_eq!(feed(&mut server(), &bomb(124)).len(), 1);
}

#[test]
fn as_much_metadata_as_there_may_be_fits_its_frame() {
    let limits = Limits { metadata: 32 << 10, ..Limits::default() };
    let hour = Duration::from_secs(3600);
    let alive = Alive { interval: hour, timeout: hour, busy_only: false };
    let (mut client, mut server) =
        (Machine::<u32>::new(Role::Client, limits, alive), Machine::<u32>::new(Role::Server, limits, alive));
    model::greet(&mut client, &mut server);
    let mut metadata = Metadata::new();
    // No two are the same, and none is in a table. Each counts 37.
    for n in 1000..1000 + (32 << 10) / 37 {
        metadata.as_headers_mut().append("x", HeaderValue::from(n));
    }
    let id = client.open(&head("/t/Unary", &metadata), None, true, 7).unwrap();
    let (mut up, mut down) = (Vec::new(), Vec::new());
    client.output(&mut up);
    let events = feed(&mut server, &up);
    let [Event::Request(request)] = &events[..] else { panic!("{events:?}") };
    assert!((id, &request.metadata) == (request.id, &metadata));
    assert!(server.answer(id, &metadata, &metadata, Bytes::from(vec![0; 60_000])).unwrap());
    server.output(&mut down);
    let events = feed(&mut client, &down);
    let [Event::Response { metadata: leading, .. }, Event::Messages { .. }, Event::End { trailers, .. }] =
        &events[..]
    else {
        panic!("{events:?}")
    };
    assert!((leading, trailers) == (&metadata, &metadata));
    metadata.as_headers_mut().append("x", HeaderValue::from(1));
    let refused = client.open(&head("/t/Unary", &metadata), None, true, 7);
    assert!(matches!(refused, Err(Refusal::Invalid(error)) if error.code() == Code::ResourceExhausted));
}

#[test]
fn more_data_than_credit() {
    let mut server = server();
    feed(&mut server, &call(1, 0, b""));
    let mut bytes = Vec::new();
    write::data(&mut bytes, 1, 0, &[0; 60_000]);
    assert_eq!(feed(&mut server, &bytes).len(), 1);
    assert_eq!(fault(&mut server, &bytes), "there is more data than credit");
}

/// What a machine says at last: which call it took, and why it goes.
fn goodbye(machine: &mut Machine<u32>, fault: Fault) -> (u32, u8) {
    let mut before = Vec::new();
    machine.output(&mut before);
    machine.give_up(fault);
    let mut out = Vec::new();
    machine.output(&mut out);
    (u32::from_be_bytes(out[HEADER..HEADER + 4].try_into().unwrap()), out[HEADER + 4])
}

#[test]
fn a_goodbye_says_what_was_taken_and_why() {
    let mut late = server();
    feed(&mut late, &[call(1, request::END, b""), call(2, request::END, b"")].concat());
    late.go_away();
    // Calls that come after a drain has begun are not taken, whatever ends the connection then.
    assert!(feed(&mut late, &call(3, request::END, b"")).is_empty());
    assert_eq!(goodbye(&mut late, Fault("some")), (2, 1));
    assert_eq!(goodbye(&mut server(), Fault("some")), (0, 1));
    let mut other = Vec::new();
    Limits::default().write(&mut other);
    other[8..10].copy_from_slice(&[9, 7]);
    for (greeting, reason) in [(&b"\xf0formik\n"[..], 1), (&other[..], 2)] {
        let mut machine = machine(Role::Server, true);
        let mut bytes = greeting;
        let fault = machine.receive(&mut bytes, Duration::ZERO).unwrap_err();
        assert_eq!(goodbye(&mut machine, fault), (0, reason));
    }
}

#[test]
fn calls_beyond_the_limit_are_refused_and_those_within_live() {
    let mut server = server();
    let calls: Vec<u8> = (1..=1000).flat_map(|id| call(id, 0, b"")).collect();
    let events = feed(&mut server, &calls);
    assert_eq!((events.len(), server.calls()), (4, 4));
    let mut out = Vec::new();
    server.output(&mut out);
    let refused = out.iter().filter(|&&byte| byte == Type::Error as u8).count();
    assert!(refused >= 996, "{refused}");
    assert_eq!(feed(&mut server, &frame(Type::Cancel, 1, b"\x01")).len(), 1);
    assert_eq!(feed(&mut server, &call(1001, request::END, b"")).len(), 1);
}

#[test]
fn unfinished_messages_are_bounded() {
    // As many calls as there may be, each with a message that never ends.
    let limits = Limits { calls: 1000, message: 64 << 10, ..Limits::default() };
    let hour = Duration::from_secs(3600);
    let alive = Alive { interval: hour, timeout: hour, busy_only: false };
    let mut server = Machine::<u32>::new(Role::Server, limits, alive);
    let mut greeting = Vec::new();
    limits.write(&mut greeting);
    feed(&mut server, &greeting);
    let piece = vec![0; 60_000];
    for id in 1..=1000 {
        feed(&mut server, &call(id, request::MESSAGE | request::MORE, b""));
        let mut bytes = Vec::new();
        write::data(&mut bytes, id, data::MORE, &piece);
        feed(&mut server, &bytes);
        assert!(server.partial <= 1 << 20, "{} bytes are held", server.partial);
    }
    assert!(server.calls() < 20);
}

#[test]
fn a_small_call_that_is_whole_costs_its_message_alone() {
    let mut server = server();
    let held = |server: &Machine<u32>| server.held() - server.tables();
    let before = held(&server);
    feed(&mut server, &call(1, request::END | request::MESSAGE, b"hello"));
    assert_eq!(held(&server) - before, 5);
    // Of one that is not, a server keeps the head until it is.
    feed(&mut server, &call(2, request::MESSAGE | request::MORE, b"hello"));
    assert!(held(&server) - before > 1024);
    server.fail(1, &Error::internal(""));
    server.fail(2, &Error::internal(""));
    server.output(&mut Vec::new());
    assert_eq!((server.held(), server.heads), (server.tables(), 0));
}

/// A request that has a path and a pair noted, each of a thousand bytes and in a place of its own.
fn noting(id: u32) -> Vec<u8> {
    let mut out = Vec::new();
    let place = (id - 1) % 256;
    write::frame(&mut out, Type::Request, id, |out| {
        out.push(request::END);
        write::varint(out, place << 1 | 1);
        write::bytes(out, format!("/t/{id:01000}").as_bytes());
        write::varint(out, 1);
        write::varint(out, place << 1 | 1);
        write::bytes(out, b"x");
        write::bytes(out, format!("{id:01000}").as_bytes());
    });
    out
}

/// A server with the limits of every day that draws on a budget, and that a stranger has greeted.
fn drawing_on(budget: &Arc<crate::Budget>) -> Machine<u32> {
    let limits = Limits::default();
    let hour = Duration::from_secs(3600);
    let alive = Alive { interval: hour, timeout: hour, busy_only: false };
    let mut server = Machine::new(Role::Server, limits, alive).drawing_on(Arc::clone(budget));
    let mut greeting = Vec::new();
    limits.write(&mut greeting);
    feed(&mut server, &greeting);
    server.output(&mut Vec::new());
    server
}

#[test]
fn what_is_noted_is_held_and_counted() {
    let budget = Arc::new(crate::Budget::new(1200 << 10));
    let (mut first, mut second) = (drawing_on(&budget), drawing_on(&budget));
    for id in 1..=2000 {
        assert_eq!(feed(&mut first, &noting(id)).len(), 1, "there is room for call {id}");
        first.fail(id, &Error::internal(""));
        first.output(&mut Vec::new());
        // What stands in a place takes the place of what stood there.
        assert!((id.min(256) as usize * 2000..600_000).contains(&first.tables()), "{}", first.tables());
    }
    assert!((first.tables()..600_000).contains(&budget.held()));
    // Another one has half of what is left. It is asked to come again, with empty tables, and then not heard any more.
    let taken = (1..=256).find(|&id| feed(&mut second, &noting(id)).is_empty()).unwrap() - 1;
    assert!((80..200).contains(&taken), "{taken}");
    assert!(second.has_said_goodbye() && second.calls() == taken as usize);
    assert!(budget.held() <= 1200 << 10);
    let mut out = Vec::new();
    second.output(&mut out);
    let mut goodbye = Vec::new();
    write::go_away(&mut goodbye, taken, 0, "");
    assert!(out.ends_with(&goodbye));
    let before = second.held();
    for id in taken + 2..taken + 100 {
        assert!(feed(&mut second, &noting(id)).is_empty());
    }
    assert_eq!(second.held(), before);
    // While little is left, whoever has no call and much noted is in the way of others.
    assert!(!first.is_in_the_way());
    let mut others = [drawing_on(&budget), drawing_on(&budget)];
    for other in &mut others {
        for id in 1..=100 {
            feed(other, &noting(id));
        }
    }
    assert!(first.is_in_the_way());
    assert!(!others[0].is_in_the_way(), "there are calls");
    drop((first, second, others));
    assert_eq!(budget.held(), 0);
}

#[test]
fn calls_are_not_given_up_for_what_was_noted() {
    let budget = Arc::new(crate::Budget::new(4 << 20));
    let [mut noted, mut refused, mut fresh] = std::array::from_fn(|_| drawing_on(&budget));
    for machine in [&mut noted, &mut refused] {
        for id in 1..=256 {
            feed(machine, &noting(id));
            machine.fail(id, &Error::internal(""));
        }
        feed(machine, &call(257, request::MESSAGE | request::MORE, &[7; 1000]));
        machine.output(&mut Vec::new());
    }
    // Others take what they get.
    let mut others = Vec::new();
    for _ in 0..20 {
        let (mut share, mut held) = (crate::budget::Share::of(Arc::clone(&budget)), 0);
        while share.covers(held + 1024) {
            held += 1024;
        }
        others.push(share);
    }
    let large = call(258, request::MESSAGE | request::END, &[7; 40_000]);
    assert!(noted.relieve().is_empty() && noted.is_open(257), "its tables take the room");
    assert!(noted.has_said_goodbye());
    // Nobody has seen the call, which is made again where nothing is noted.
    assert!(feed(&mut refused, &large).is_empty());
    let mut out = Vec::new();
    refused.output(&mut out);
    let mut goodbye = Vec::new();
    write::go_away(&mut goodbye, 257, 0, "");
    assert_eq!(out, goodbye);
    // Who has noted nothing is refused the call alone.
    assert!(feed(&mut fresh, &large).is_empty() && !fresh.has_said_goodbye());
    out.clear();
    fresh.output(&mut out);
    assert_eq!(out[3], Type::Error as u8);
}

#[test]
fn errors_are_counted_and_brief_where_there_is_no_room() {
    let budget = Arc::new(crate::Budget::new(256 << 10));
    let mut server = server().drawing_on(Arc::clone(&budget));
    server.output(&mut Vec::new());
    let mut error = Error::internal("x".repeat(1000));
    error.metadata_mut().insert("formic-repeated", "1").unwrap();
    error.metadata_mut().insert("x-other", "y").unwrap();
    let mut most = 0;
    for id in 1..=4000 {
        feed(&mut server, &call(id, request::END, b""));
        server.fail(id, &error);
        let drawn = budget.held();
        // What is written before is counted, as far as it can be.
        assert!(drawn + (16 << 10) + 1100 >= server.unwritten() || drawn == 128 << 10, "{drawn}");
        most = most.max(drawn);
    }
    assert_eq!(most, 128 << 10, "as much as one may have");
    assert!(server.is_overfull());
    // What is said of the rest is hardly longer than that.
    assert!((128 << 10..300 << 10).contains(&server.unwritten()), "{}", server.unwritten());
    let mut out = Vec::new();
    server.output(&mut out);
    assert!(!server.is_overfull() && budget.held() == 0);
    // It is as much as says that it was repeated already.
    let (mut rest, mut last) = (&out[..], None);
    while let Some(head) = rest.first_chunk::<HEADER>() {
        let header = crate::codec::Header::parse(head).unwrap();
        let payload = &rest[HEADER..HEADER + header.length];
        if let crate::codec::Frame::Error(failure) = crate::codec::Frame::parse(header, payload).unwrap() {
            last = Some((failure.text.len(), failure.metadata.pairs().count()));
        }
        rest = &rest[HEADER + header.length..];
    }
    assert_eq!(last, Some((0, 1)));
}

#[test]
fn pings_and_credit_in_floods_are_answered_within_bounds() {
    let mut server = server();
    for _ in 0..1000 {
        feed(&mut server, &frame(Type::Ping, 0, &[0; 9]));
        feed(&mut server, &frame(Type::Credit, 0, &[0, 0, 0, 1]));
        // Whoever drives the machine stops reading while this is not written.
        assert!(server.unwritten() <= 18 * 1000);
    }
    assert!(held(&server) < 1 << 20);
}

/// Good bytes with some of them changed, cut anywhere.
#[test]
fn nothing_that_is_sent_breaks_a_machine() {
    let began = std::time::Instant::now();
    for seed in 0..4_000u64 {
        let mut chance = fastrand::Rng::with_seed(seed);
        let mut machine = if chance.bool() { server() } else { machine(Role::Client, true) };
        if machine.role == Role::Client {
            let mut greeting = Vec::new();
            model::limits(true).write(&mut greeting);
            feed(&mut machine, &greeting);
            for _ in 0..4 {
                machine.open(&head("/t/Unary", &Metadata::new()), None, true, 0).unwrap();
            }
        }
        for _ in 0..chance.usize(1..20) {
            let id = chance.u32(..6);
            let mut bytes = match chance.u8(..8) {
                0 | 1 => call(id, chance.u8(..), b"hello"),
                2 => frame(Type::Response, id, &[chance.u8(..4) * 4, 0, 0, 1, 2]),
                3 => frame(Type::Data, id, &[chance.u8(..4), 1, 2, 3]),
                4 => frame(Type::End, id, &[]),
                5 => frame(Type::Error, id, &[0, 3, 0, 0, 0]),
                6 => frame(Type::Credit, id, &[0, 0, 0, 9]),
                _ => (0..chance.usize(..40)).map(|_| chance.u8(..)).collect(),
            };
            if chance.u8(..3) == 0 && !bytes.is_empty() {
                let at = chance.usize(..bytes.len());
                bytes[at] = chance.u8(..);
            }
            let mut over = false;
            let cut = chance.usize(..=bytes.len());
            for part in [&bytes[..cut], &bytes[cut..]] {
                let mut input = part;
                loop {
                    match machine.receive(&mut input, Duration::ZERO) {
                        Ok(Some(_)) => {}
                        Ok(None) => break,
                        Err(_) => {
                            over = true;
                            break;
                        }
                    }
                }
                assert!(machine.input.len() <= HEADER + crate::codec::MAX_PAYLOAD);
            }
            machine.output(&mut Vec::new());
            if over {
                break;
            }
        }
        if began.elapsed() > Duration::from_secs(20) {
            break;
        }
    }
}
