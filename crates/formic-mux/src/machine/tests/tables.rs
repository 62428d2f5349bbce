//! What a server notes of what it says.

use super::*;

/// Two ends of which the client offers the largest table there is, and the server this one.
fn ends(pairs: u32, budget: usize) -> (Machine<u32>, Machine<u32>) {
    let hour = Duration::from_secs(3600);
    let alive = Alive { interval: hour, timeout: hour, busy_only: false };
    let limits = |pairs| Limits { pairs, ..model::limits(false) };
    let mut client = Machine::new(Role::Client, limits(1024), alive);
    let server = Machine::new(Role::Server, limits(pairs), alive);
    let mut server = server.drawing_on(Arc::new(crate::Budget::new(budget)));
    model::greet(&mut client, &mut server);
    (client, server)
}

/// Answers a call with pairs of which none was said before, and the client hears of them; so once, and again.
fn answer(client: &mut Machine<u32>, server: &mut Machine<u32>, first: usize, value: usize) {
    let mut metadata = Metadata::new();
    for n in first..first + 4096 / (value + 64) {
        metadata.as_headers_mut().append("x", format!("{n:0value$}").parse().unwrap());
    }
    for _ in 0..2 {
        let id = client.open(&head("/t/Unary", &Metadata::new()), None, true, 0).unwrap();
        let (mut up, mut down) = (Vec::new(), Vec::new());
        client.output(&mut up);
        model::feed(server, &up);
        assert!(server.answer(id, &metadata, &Metadata::new(), Bytes::new()).unwrap());
        server.output(&mut down);
        let events = model::feed(client, &down);
        assert!(matches!(&events[..], [Event::Answer { metadata: heard, .. }] if *heard == metadata));
    }
}

#[test]
fn no_more_is_noted_than_is_offered() {
    let (mut client, mut server) = ends(5, 1 << 30);
    for n in 0..20 {
        answer(&mut client, &mut server, 10 * n, 500);
    }
    let held = server.pairs_out.held();
    assert!((5 * 500..8 * 1024).contains(&held), "{held} bytes are held");
}

#[test]
fn what_is_noted_beyond_what_there_is_room_for_is_in_the_way() {
    // Nobody has more than what is not counted.
    let (mut client, mut server) = ends(256, 0);
    let mut first = 0;
    while server.held() <= crate::budget::FREE {
        assert!(!server.is_in_the_way());
        answer(&mut client, &mut server, first, 10);
        first += 100;
    }
    assert!(server.is_in_the_way());
}

/// Another connection has empty tables, but no room for a long call either.
#[test]
fn a_connection_is_not_left_for_a_call_that_another_would_refuse_too() {
    let (mut client, mut server) = ends(256, 0);
    let mut first = 0;
    while server.held() <= crate::budget::FREE {
        answer(&mut client, &mut server, first, 10);
        first += 100;
    }
    for (length, leaves) in [(20_000, false), (10_000, true)] {
        let message = Bytes::from(vec![7; length]);
        client.open(&head("/t/Unary", &Metadata::new()), Some(&message), true, 7).unwrap();
        let (mut up, mut down) = (Vec::new(), Vec::new());
        client.output(&mut up);
        assert!(model::feed(&mut server, &up).is_empty());
        server.output(&mut down);
        let events = model::feed(&mut client, &down);
        let refused =
            events.iter().any(|event| matches!(event, Event::Failed { data: 7, error } if error.is_unsent()));
        assert!(refused, "{events:?}");
        assert_eq!(client.is_leaving(), leaves);
    }
}
