//! What a fuzzer does with its bytes; the tests of `formic-mux` do the same with bytes from a seeded generator.
//!
//! An input of `machine` is a byte that chooses the end and how what comes is cut, perhaps two that begin with `80` or more and say what the
//! other side is like (see [`Wish`]), and what it says. No frame begins with `80` or more, so between frames such a byte is a word:
//!
//! ```text
//! 80 + n        the frame before comes n + 1 times again
//! c0 + 2n       2ⁿ milliseconds pass
//! df, n         the next frame is as long as it says, but only n bytes of what it holds follow: the last of them fills it
//! de            the owner takes no more messages, or takes them again
//! e0 + n, m     the owner acts: n is what, m on which call and with how much
//! ```

use std::sync::Arc;
use std::time::Duration;

use formic_mux::machine::{Alive, Machine, Role};
use formic_mux::{Budget, Fault, Limits};

#[path = "harness/owner.rs"]
mod owner;
#[path = "harness/peer.rs"]
mod peer;

use owner::Owner;
use peer::{Next, Peer, Wish};

/// No machine holds more output than a fuzzer's input can ask for, by this factor, beside what its owner said.
const MOST_OUTPUT: usize = 64;

/// What a server may hold of what it counts.
const MOST_HELD: usize = 320 << 10;

/// What is held without a call and without a part of a frame: for each entry of the tables so much at most.
const MOST_NOTED: usize = 1280;

/// Of those whose ways are long: what a call may have on its way at the beginning, all of them, and one that is read.
const WINDOW: u32 = 64 << 10;
const WINDOWS: u32 = 1 << 20;
const WIDEST: u32 = 256 << 10;

/// From this cut on the pieces are long, and twice as long every six.
const LONG: usize = 64;

/// When a silent side is asked, and how often it is looked at what is held.
const LATER: Duration = Duration::from_secs(6);
const WEIGH: Duration = Duration::from_secs(1);

fn limits() -> Limits {
    Limits { calls: 8, message: 1 << 16, paths: 4, pairs: 4, metadata: 512, ..Limits::default() }
}

/// Feeds the bytes to one end.
pub(crate) fn machine(input: &[u8]) {
    machine_heard(input, |_| {});
}

/// The same; the function gets what the machine says after its greeting.
pub(crate) fn machine_heard(input: &[u8], mut heard: impl FnMut(&[u8])) {
    let Some((&choice, bytes)) = input.split_first() else { return };
    let (wish, bytes) = Wish::read(bytes);
    let role = if choice & 1 == 0 { Role::Server } else { Role::Client };
    let cut = match usize::from(choice >> 1) {
        few @ ..LONG => few.max(1),
        many => LONG << ((many - LONG) / 6),
    };
    // So little that some inputs use it up.
    let budget = Arc::new(Budget::new(MOST_HELD));
    let limits = own(wish);
    let mut owner = Owner::new(made(role, limits, wish, &budget), role, Arc::clone(&budget));
    let mut out = Vec::new();
    owner.machine.output(&mut out);
    let mut greeting = Vec::new();
    if let Some(limits) = wish.greeting() {
        limits.write(&mut greeting);
    }
    let mut peer = Peer::new(wish, cut, bytes);
    let (mut came, mut said, mut told, mut takes) = (0, 0, 0, true);
    let (mut now, mut weighed) = (Duration::ZERO, Duration::ZERO);
    let mut piece = greeting;
    let mut next = Some(Next::Said);
    while let Some(step) = next {
        // What the owner does by chance follows from the bytes too, so that an input is all there is to repeat.
        let mut op = 1;
        match step {
            Next::Said => {
                op = chance((said + came) as u32, &piece);
                came += piece.len();
                if let Err(fault) = hear(&mut owner, &piece, now) {
                    return heard(&over(owner, fault, &budget));
                }
                now += Duration::from_millis(if wish.is_calm() { 1 } else { u64::from(op >> 4 & 3) });
            }
            Next::Passed(time) => now += time,
            Next::Act(op) if owner.machine.is_greeted() => told += owner.act(op),
            Next::Act(_) => {}
            Next::Turned => takes = !takes,
        }
        if wish.is_calm() {
            while takes && owner.take() {}
        } else if owner.machine.is_greeted() {
            told += owner.act(op >> 9);
            if takes && op & 3 != 0 {
                owner.take();
            }
        }
        if op & 0x7f == 0 {
            now += LATER;
        }
        if let Err(fault) = look(&mut owner, now, &mut weighed) {
            return heard(&over(owner, fault, &budget));
        }
        owner.machine.writable().clear();
        out.clear();
        owner.machine.output(&mut out);
        said += out.len();
        peer.hear(&out, now);
        heard(&out);
        assert!(owner.machine.calls() <= 8 && budget.held() <= MOST_HELD);
        next = peer.next(now, &mut piece);
    }
    let most = MOST_OUTPUT * (input.len() + came) + 1024 + 2 * told;
    assert!(said <= most, "{said} bytes said, of {most}");
    owner.end();
    let mut machine = owner.into_machine();
    out.clear();
    machine.output(&mut out);
    machine.shrink();
    let (held, most) = (machine.held(), MOST_NOTED * (limits.paths + limits.pairs) as usize);
    assert!(held <= most || !peer.is_between_frames(), "{held} bytes are held of what is over");
    machine.lost(0);
    assert_eq!(budget.held(), 0, "what was held is free");
}

/// What the machine lets the other side send.
fn own(wish: Wish) -> Limits {
    if wish.way().is_none() {
        return limits();
    }
    Limits { stream_credit: WINDOW, connection_credit: WINDOWS, paths: 2, pairs: 1, ..limits() }
}

fn made(role: Role, limits: Limits, wish: Wish, budget: &Arc<Budget>) -> Machine<u8> {
    let (most, let_in) = if wish.way().is_some() { (WIDEST, WINDOW) } else { (2 << 20, 1 << 20) };
    let alive = Alive { interval: LATER, timeout: LATER, busy_only: false };
    let machine = Machine::new(role, limits, alive).growing(most);
    match role {
        Role::Server => machine.granting(let_in).drawing_on(Arc::clone(budget)),
        Role::Client => machine,
    }
}

fn chance(said: u32, piece: &[u8]) -> u32 {
    let op = piece.iter().fold(said, |hash, byte| (hash ^ u32::from(*byte)).wrapping_mul(0x0100_0193));
    op ^ op >> 15
}

fn hear(owner: &mut Owner, mut piece: &[u8], now: Duration) -> Result<(), Fault> {
    while let Some(event) = owner.machine.receive(&mut piece, now)? {
        owner.note(&event);
    }
    Ok(())
}

/// What an end looks at from time to time.
fn look(owner: &mut Owner, now: Duration, weighed: &mut Duration) -> Result<(), Fault> {
    owner.machine.tick(now)?;
    if now - *weighed >= WEIGH {
        *weighed = now;
        for id in owner.machine.relieve() {
            assert!(!owner.machine.is_open(id));
        }
    }
    owner.machine.check_frame(now)
}

/// Whatever was on its way: every call ends once, and the last words are written.
fn over(owner: Owner, fault: Fault, budget: &Budget) -> Vec<u8> {
    let mut machine = owner.into_machine();
    let calls = machine.calls();
    assert_eq!(machine.lost(0).len(), calls);
    machine.give_up(fault);
    let mut out = Vec::new();
    machine.output(&mut out);
    assert!(!out.is_empty());
    drop(machine);
    assert_eq!(budget.held(), 0, "what was held is free");
    out
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
