//! What a fuzzer does with its bytes; the tests of `formic-mux` do the same with bytes from a seeded generator.

use std::time::Duration;

use formic_mux::Limits;
use formic_mux::machine::{Alive, Event, Head, Machine, Role};
use http::HeaderMap;

/// No machine holds more output than a fuzzer's input can ask for, by this factor.
const MOST_OUTPUT: usize = 64;

/// Feeds the bytes to one end. The first byte chooses the end and how the rest is cut.
pub(crate) fn machine(input: &[u8]) {
    let Some((&choice, bytes)) = input.split_first() else { return };
    let role = if choice & 1 == 0 { Role::Server } else { Role::Client };
    let hour = Duration::from_secs(3600);
    let limits =
        Limits { calls: 8, message: 1 << 16, paths: 4, pairs: 4, metadata: 512, ..Limits::default() };
    let mut machine =
        Machine::<u8>::new(role, limits, Alive { interval: hour, timeout: hour, busy_only: false });
    let mut greeting = Vec::new();
    limits.write(&mut greeting);
    let mut said = 0;
    let mut out = Vec::new();
    machine.output(&mut out);
    let none = HeaderMap::new();
    let head = Head {
        path: "/a.B/C",
        json: false,
        timeout: None,
        trace: None,
        attempt: None,
        metadata: &none,
        skip: |_| false,
    };
    let cut = usize::from(choice >> 1).max(1);
    let mut open = Vec::new();
    // A fuzzer finds the greeting by itself too, but has better things to do.
    for piece in std::iter::once(&greeting[..]).chain(bytes.chunks(cut)) {
        let mut piece = piece;
        loop {
            match machine.receive(&mut piece, Duration::ZERO) {
                Ok(None) => break,
                Ok(Some(Event::Request(request))) => open.push(request.id),
                Ok(Some(Event::Messages { id, charge, .. })) => machine.consumed(id, charge),
                Ok(Some(_)) => {}
                Err(_) => return,
            }
        }
        if role == Role::Client && machine.is_greeted() && machine.calls() < 4 {
            let _ = machine.open(&head, None, true, 0);
        }
        if let Some(id) = open.pop() {
            let _ = machine.answer(id, &none, &none, vec![1; 100].into());
        }
        out.clear();
        machine.output(&mut out);
        said += out.len();
        assert!(machine.calls() <= 8);
    }
    assert!(said <= MOST_OUTPUT * (input.len() + greeting.len()) + 1024, "{said} bytes said");
}

/// Reads the bytes as a record of a connection.
pub(crate) fn capture(input: &[u8]) {
    let _ = formic_mux::capture::decode(input, |line| assert!(!line.is_empty()));
}
