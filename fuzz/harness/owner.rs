//! Whoever has the machine: what it does with calls, and with what came of them.

use std::sync::Arc;

use formic_core::{Code, Error, Metadata};
use formic_mux::codec::write;
use formic_mux::machine::{Alive, Event, Head, Machine, Role};
use formic_mux::{Budget, Limits};
use formic_rpc::Run;
use formic_rpc::rt::buffa::bytes::Bytes;

/// A message that goes in one frame, one that needs pieces and credit, and one that nobody takes.
const SIZES: [usize; 4] = [0, 100, 65_536, 65_537];

/// So many short messages are ready together.
const TOGETHER: usize = 40;

/// So many connections beside it take as much as they get, so that little is left.
const CROWD: usize = 4;

/// A call that the owner may do something about.
struct Open {
    id: u32,
    responded: bool,
    /// It is not said any more of this direction.
    ended: bool,
    /// Messages that wait until they may be sent.
    ready: Vec<Run>,
}

impl Open {
    fn new(id: u32, role: Role, ended: bool) -> Self {
        Self { id, responded: role == Role::Client, ended, ready: Vec::new() }
    }
}

pub(super) struct Owner {
    pub(super) machine: Machine<u8>,
    role: Role,
    none: Metadata,
    some: Metadata,
    open: Vec<Open>,
    /// Messages that were not taken, and their cost.
    unread: Vec<(u32, u32)>,
    /// Calls of which nothing more is wanted.
    forgotten: Vec<u32>,
    budget: Arc<Budget>,
    crowd: Vec<Machine<u8>>,
}

impl Owner {
    pub(super) fn new(machine: Machine<u8>, role: Role, budget: Arc<Budget>) -> Self {
        let mut some = Metadata::new();
        some.insert("x-a", "b").expect("valid");
        let (open, unread, forgotten, crowd) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        Self { machine, role, none: Metadata::new(), some, open, unread, forgotten, budget, crowd }
    }

    pub(super) fn note(&mut self, event: &Event<u8>) {
        match event {
            Event::Request(request) => self.open.push(Open::new(request.id, self.role, false)),
            Event::Messages { id, charge, .. } => {
                assert!(!self.forgotten.contains(id), "nobody wants it");
                self.unread.push((*id, *charge));
            }
            _ => {}
        }
    }

    /// Takes the message that came last; false if there is none.
    pub(super) fn take(&mut self) -> bool {
        let Some((id, charge)) = self.unread.pop() else { return false };
        self.machine.consumed(id, charge);
        true
    }

    /// What is unread of a call, which is not any more.
    fn drain(&mut self, id: u32) -> (usize, u32) {
        let (mut count, mut cost) = (0, 0);
        self.unread.retain(|&(of, charge)| {
            if of == id {
                (count, cost) = (count + 1, cost + charge);
            }
            of != id
        });
        (count, cost)
    }

    /// Does something; how much was said by it.
    pub(super) fn act(&mut self, op: u32) -> usize {
        let size = SIZES[(op >> 5) as usize % SIZES.len()];
        self.open.retain(|call| self.machine.is_open(call.id));
        match (self.role, op % 32) {
            (Role::Client, 0..=5) => self.begin(op, size),
            (_, 28) => self.release(),
            (_, 29) => self.join(),
            (Role::Server, 30) => self.meet(),
            _ if self.open.is_empty() => return 0,
            _ => return self.go_on(op, size),
        }
        size + 64
    }

    fn begin(&mut self, op: u32, size: usize) {
        let (end, with) = (op & 1 == 0, op & 2 == 0);
        let message = (end || with).then(|| message(size));
        let metadata = if op & 0x800 == 0 { &self.none } else { &self.some };
        if let Ok(id) = self.machine.open(&head(metadata), message.as_ref(), end, 0) {
            self.open.push(Open::new(id, self.role, end));
        }
    }

    /// What was not taken of a call that is over.
    fn release(&mut self) {
        let over = self.unread.iter().map(|(id, _)| *id).find(|&id| !self.machine.is_open(id));
        if let Some(id) = over {
            let (count, cost) = self.drain(id);
            self.machine.release(count, cost);
        }
    }

    /// Puts what came last to what came before it of the same call.
    fn join(&mut self) {
        if let [.., (before, cost), (id, charge)] = &mut self.unread[..]
            && before == id
        {
            *cost += *charge;
            self.machine.joined(*id);
            self.unread.pop();
        }
    }

    /// Others that draw on the budget come, or go.
    fn meet(&mut self) {
        if !self.crowd.is_empty() {
            return self.crowd.clear();
        }
        let hour = std::time::Duration::from_secs(3600);
        for _ in 0..CROWD {
            let alive = Alive { interval: hour, timeout: hour, busy_only: true };
            let mut other = Machine::new(Role::Server, Limits::default(), alive);
            other = other.drawing_on(Arc::clone(&self.budget));
            for size in (1..8).rev().map(|n| n << 14) {
                other.set_unwritten(size);
                if !other.is_overfull() {
                    break;
                }
            }
            self.crowd.push(other);
        }
    }

    fn go_on(&mut self, op: u32, size: usize) -> usize {
        let at = (op >> 7) as usize % self.open.len();
        let (machine, call) = (&mut self.machine, &mut self.open[at]);
        let metadata = if op & 0x800 == 0 { &self.none } else { &self.some };
        let id = call.id;
        let so = || Error::internal("so");
        match (self.role, op % 32) {
            (_, 0..=9) if call.responded && !call.ended && machine.is_writable(id) => {
                _ = machine.send(id, message(size));
            }
            (_, 10..=12) if call.responded && !call.ended => return stream(machine, self.role, call, size),
            (Role::Client, 13 | 14) if !call.ended => {
                call.ended = true;
                machine.finish(id);
            }
            (Role::Client, 15) => {
                let (count, cost) = self.drain(id);
                self.machine.release(count, cost);
                self.machine.cancel(id, Code::Canceled);
            }
            (Role::Server, 13) if call.responded && !call.ended => {
                call.ended = true;
                machine.end(id, metadata.clone());
            }
            (Role::Server, 14) if !call.ended => {
                call.ended = true;
                machine.fail_after(id, so());
            }
            (Role::Server, 15) => machine.fail(id, &so()),
            (Role::Server, 16 | 17) if !call.responded => {
                call.ended = true;
                if let Err(error) = machine.answer(id, metadata, metadata, message(size)) {
                    machine.fail(id, &error);
                }
            }
            (Role::Server, 18..=20) if !call.responded => {
                call.responded = true;
                if machine.respond(id, metadata).is_err() {
                    machine.fail(id, &so());
                }
            }
            (Role::Server, 21) => _ = machine.hold(id, size),
            (Role::Server, 22) => machine.complete(id),
            (Role::Server, 23) => machine.work(id, size),
            (_, 24) if op >> 10 & 7 == 0 => machine.go_away(),
            (Role::Server, 25) => machine.pause(id),
            (Role::Server, 26) => _ = machine.grant(id),
            (Role::Server, 27) => {
                let (count, cost) = self.drain(id);
                self.forgotten.push(id);
                self.machine.forget(id, count, cost);
            }
            _ => {}
        }
        size + 64
    }

    /// The machine alone.
    pub(super) fn into_machine(self) -> Machine<u8> {
        self.machine
    }

    /// Takes what there is, and ends what is open.
    pub(super) fn end(&mut self) {
        while self.take() {}
        for call in std::mem::take(&mut self.open) {
            match self.role {
                Role::Client => self.machine.cancel(call.id, Code::Canceled),
                Role::Server => self.machine.fail(call.id, &Error::internal("so")),
            }
        }
    }
}

/// Sends messages of a stream, or counts them until they may be sent.
fn stream(machine: &mut Machine<u8>, role: Role, call: &mut Open, size: usize) -> usize {
    let mut said = 64;
    if call.ready.is_empty() {
        let run = if size <= 100 { several(size) } else { Run::from(message(size)) };
        said += run.size();
        call.ready.push(run);
    }
    if machine.is_writable(call.id) {
        if let Err(error) = machine.send_all(call.id, &mut call.ready) {
            call.ended = true;
            match role {
                Role::Client => machine.cancel(call.id, error.code()),
                Role::Server => machine.fail_after(call.id, error),
            }
        }
    } else if role == Role::Server
        && let Err(error) = machine.keep(call.id, &call.ready)
    {
        machine.fail(call.id, &error);
    }
    said
}

fn message(size: usize) -> Bytes {
    vec![1; size].into()
}

/// Messages that are laid out as those of a run are.
fn several(size: usize) -> Run {
    let mut frames = Vec::new();
    (0..TOGETHER).for_each(|_| write::data(&mut frames, 0, 0, &vec![1; size]));
    Run::framed(frames.into(), TOGETHER)
}

fn head(metadata: &Metadata) -> Head<'_> {
    let metadata = metadata.as_headers();
    Head { path: "/a.B/C", json: false, timeout: None, trace: None, attempt: None, metadata, skip: |_| false }
}
