//! What a fuzzer does with its bytes; the tests of `formic-mux` do the same with bytes from a seeded generator.

use std::sync::Arc;
use std::time::Duration;

use formic_core::{Code, Error, Metadata};
use formic_mux::machine::{Alive, Event, Head, Machine, Role};
use formic_mux::{Budget, Limits};

/// No machine holds more output than a fuzzer's input can ask for, by this factor, beside what its owner said.
const MOST_OUTPUT: usize = 64;

/// What a server may hold of what it counts.
const MOST_HELD: usize = 192 << 10;

/// A message that goes in one frame, one that needs pieces and credit, and one that nobody takes.
const SIZES: [usize; 4] = [0, 100, 65_536, 65_537];

/// A call that the owner may do something about.
struct Open {
    id: u32,
    responded: bool,
    /// It is not said any more of this direction.
    ended: bool,
}

/// What an owner does, by chance; how much was said by it.
fn act(machine: &mut Machine<u8>, role: Role, op: u32, open: &mut Vec<Open>, metadata: &Metadata) -> usize {
    let size = SIZES[(op >> 4) as usize % SIZES.len()];
    let message = || vec![1u8; size];
    if role == Role::Client && op % 16 < 4 {
        let end = op & 1 == 0;
        let with = (end || op & 2 == 0).then(|| message().into());
        if let Ok(id) = machine.open(&head(metadata), with.as_ref(), end, 0) {
            open.push(Open { id, responded: true, ended: end });
            return size + 64;
        }
        return 0;
    }
    open.retain(|call| machine.is_open(call.id));
    let count = open.len();
    if count == 0 {
        return 0;
    }
    let call = &mut open[(op >> 8) as usize % count];
    let id = call.id;
    match (role, op % 16) {
        (_, 0..=6) if call.responded && !call.ended && machine.is_writable(id) => {
            let _ = machine.send(id, message().into());
        }
        (Role::Client, 7 | 8) if !call.ended => {
            call.ended = true;
            machine.finish(id);
        }
        (Role::Client, 9) => machine.cancel(id, Code::Canceled),
        (Role::Server, 7) if call.responded && !call.ended => {
            call.ended = true;
            machine.end(id, metadata.clone());
        }
        (Role::Server, 8) if !call.ended => {
            call.ended = true;
            machine.fail_after(id, Error::internal("so"));
        }
        (Role::Server, 9) => machine.fail(id, &Error::internal("so")),
        (Role::Server, 10) if !call.responded => {
            call.ended = true;
            if let Err(error) = machine.answer(id, metadata, metadata, message().into()) {
                machine.fail(id, &error);
            }
        }
        (Role::Server, 11 | 12) if !call.responded => {
            call.responded = true;
            if machine.respond(id, metadata).is_err() {
                machine.fail(id, &Error::internal("so"));
            }
        }
        (Role::Server, 13) => _ = machine.hold(id, size),
        (Role::Server, 14) if op & 0x10000 == 0 => machine.complete(id),
        (Role::Server, 14) => machine.work(id, size),
        (_, 15) if op >> 12 == 0 => machine.go_away(),
        (Role::Server, 15) if op & 0x100 == 0 => machine.pause(id),
        (Role::Server, 15) => _ = machine.grant(id),
        _ => {}
    }
    size + 64
}

fn head(metadata: &Metadata) -> Head<'_> {
    let metadata = metadata.as_headers();
    Head { path: "/a.B/C", json: false, timeout: None, trace: None, attempt: None, metadata, skip: |_| false }
}

/// Feeds the bytes to one end. The first byte chooses the end and how the rest is cut.
pub(crate) fn machine(input: &[u8]) {
    let Some((&choice, bytes)) = input.split_first() else { return };
    let role = if choice & 1 == 0 { Role::Server } else { Role::Client };
    let second = Duration::from_secs(1);
    let limits =
        Limits { calls: 8, message: 1 << 16, paths: 4, pairs: 4, metadata: 512, ..Limits::default() };
    let mut machine =
        Machine::<u8>::new(role, limits, Alive { interval: second, timeout: second, busy_only: false });
    machine = machine.growing(2 << 20);
    // So little that some inputs use it up.
    let budget = Arc::new(Budget::new(MOST_HELD));
    if role == Role::Server {
        machine = machine.granting(1 << 20).drawing_on(Arc::clone(&budget));
    }
    let mut greeting = Vec::new();
    limits.write(&mut greeting);
    let (mut said, mut own, mut now) = (0, 0, Duration::ZERO);
    let mut out = Vec::new();
    machine.output(&mut out);
    let none = Metadata::new();
    let mut metadata = Metadata::new();
    metadata.insert("x-a", "b").expect("valid");
    let cut = usize::from(choice >> 1).max(1);
    let (mut open, mut unread) = (Vec::new(), Vec::new());
    // A fuzzer finds the greeting by itself too, but has better things to do.
    for piece in std::iter::once(&greeting[..]).chain(bytes.chunks(cut)) {
        // What the owner does follows from the bytes too, so that an input is all there is to repeat.
        let op =
            piece.iter().fold(said as u32, |hash, byte| (hash ^ u32::from(*byte)).wrapping_mul(0x0100_0193));
        let op = op ^ op >> 15;
        let mut piece = piece;
        loop {
            match machine.receive(&mut piece, now) {
                Ok(None) => break,
                Ok(Some(Event::Request(request))) => {
                    open.push(Open { id: request.id, responded: false, ended: false });
                }
                Ok(Some(Event::Messages { id, charge, .. })) => unread.push((id, charge)),
                Ok(Some(_)) => {}
                Err(fault) => {
                    // Whatever was on its way: every call ends once, and the last words are written.
                    let calls = machine.calls();
                    assert_eq!(machine.lost(0).len(), calls);
                    machine.give_up(fault);
                    out.clear();
                    machine.output(&mut out);
                    return assert!(!out.is_empty());
                }
            }
        }
        if machine.is_greeted() {
            let metadata = if op & 0x100 == 0 { &none } else { &metadata };
            own += act(&mut machine, role, op >> 9, &mut open, metadata);
        }
        if op & 3 != 0
            && let Some((id, charge)) = unread.pop()
        {
            machine.consumed(id, charge);
        }
        if op & 0xff == 0 {
            now += second;
            if machine.tick(now).is_err() {
                return;
            }
            for id in machine.relieve() {
                assert!(!machine.is_open(id));
            }
        }
        machine.writable().clear();
        out.clear();
        machine.output(&mut out);
        said += out.len();
        assert!(machine.calls() <= 8 && budget.held() <= MOST_HELD);
    }
    let most = MOST_OUTPUT * (input.len() + greeting.len()) + 1024 + 2 * own;
    assert!(said <= most, "{said} bytes said, of {most}");
    if unread.is_empty() && machine.calls() == 0 {
        machine.shrink();
    }
    machine.lost(0);
    assert_eq!(budget.held(), 0, "what was held is free");
}

/// The longest line about a frame, and how much longer than what was recorded all of them are together.
const LONGEST_LINE: usize = 600 << 10;
const MOST_TEXT: usize = 128;

/// Reads the bytes as a record of a connection.
pub(crate) fn capture(input: &[u8]) {
    let mut all = 0;
    let _ = formic_mux::capture::decode(input, |said| {
        let length = said.to_string().len();
        assert!(length > 0 && length <= LONGEST_LINE, "a line of {length} bytes");
        all += length;
    });
    let most = MOST_TEXT * (input.len() + 16);
    assert!(all <= most, "{all} bytes of text, of {most}");
}
