//! Both ends with a wire between, moved by a seeded source of chance.

use std::collections::{BTreeMap, BTreeSet};

use formic_rpc::run;

use super::*;
use crate::budget::Budget;
use crate::limits::MOST_ON_ITS_WAY;

/// A call as the client sees it.
#[derive(Debug, Default)]
struct Calling {
    id: u32,
    streams: bool,
    sent: Vec<Bytes>,
    finished: bool,
    got: Vec<Bytes>,
    responded: bool,
    ended: Option<Result<(), Error>>,
}

/// A call as the server sees it.
#[derive(Debug, Default)]
struct Serving {
    streams: bool,
    responded: bool,
    inbox: VecDeque<(Bytes, u32)>,
    finished: bool,
}

pub(super) struct Model {
    pub(super) client: Machine<u32>,
    pub(super) server: Machine<u32>,
    chance: fastrand::Rng,
    now: Duration,
    /// On their way, each direction.
    up: VecDeque<u8>,
    down: VecDeque<u8>,
    calls: BTreeMap<u32, Calling>,
    serving: BTreeMap<u32, Serving>,
    seen: BTreeSet<u32>,
    next: u32,
    /// Enough for all that the server may hold.
    budget: Arc<Budget>,
    /// Whether some stream could send more than at the beginning: to the client, and to the server.
    pub(super) grew: [bool; 2],
}

pub(super) fn limits(tight: bool) -> Limits {
    let (credit, table) = if tight { (64 << 10, 5) } else { (256 << 10, 256) };
    Limits {
        calls: if tight { 4 } else { 64 },
        message: 1 << 20,
        stream_credit: credit,
        // Where there is more, streams get some of it.
        connection_credit: if tight { credit } else { 8 * credit },
        paths: table,
        pairs: table,
        metadata: 4096,
    }
}

pub(super) fn machine(role: Role, tight: bool) -> Machine<u32> {
    let hour = Duration::from_secs(3600);
    Machine::new(role, limits(tight), Alive { interval: hour, timeout: hour, busy_only: false })
}

pub(super) fn head<'a>(path: &'a str, metadata: &'a Metadata) -> Head<'a> {
    let metadata = metadata.as_headers();
    Head { path, json: false, timeout: None, trace: None, attempt: None, metadata, skip: |_| false }
}

/// Everything that some bytes lead to.
pub(super) fn feed(machine: &mut Machine<u32>, bytes: &[u8]) -> Vec<Event<u32>> {
    feed_at(machine, bytes, Duration::ZERO)
}

fn feed_at(machine: &mut Machine<u32>, mut bytes: &[u8], now: Duration) -> Vec<Event<u32>> {
    let mut events = Vec::new();
    while let Some(event) = machine.receive(&mut bytes, now).expect("the other end keeps the rules") {
        events.push(event);
    }
    events
}

pub(super) fn greet(client: &mut Machine<u32>, server: &mut Machine<u32>) {
    let (mut up, mut down) = (Vec::new(), Vec::new());
    client.output(&mut up);
    server.output(&mut down);
    feed(server, &up);
    feed(client, &down);
    assert!(client.is_greeted() && server.is_greeted());
}

/// Messages as a stream gives them that has all of them ready.
pub(super) fn runs(messages: &[Bytes]) -> Vec<Run> {
    let mut runs = Vec::new();
    for together in messages.chunk_by(|one, next| one.len().max(next.len()) <= run::LONGEST) {
        let [message] = together else {
            let frames =
                together.iter().flat_map(|message| [&run::head(message.len())[..], &message[..]].concat());
            runs.push(Run::framed(frames.collect(), together.len()));
            continue;
        };
        runs.push(Run::from(message.clone()));
    }
    runs
}

impl Model {
    pub(super) fn new(seed: u64, tight: bool) -> Self {
        let budget = Arc::new(Budget::new(1 << 30));
        // Where the way is long, half of the connection's credit is for streams to have more than at the beginning.
        let server = machine(Role::Server, tight).granting(200 << 10).growing(MOST_ON_ITS_WAY);
        let mut server = server.drawing_on(Arc::clone(&budget));
        let mut client = machine(Role::Client, tight).growing(MOST_ON_ITS_WAY);
        greet(&mut client, &mut server);
        let mut chance = fastrand::Rng::with_seed(seed);
        for one in [&mut client, &mut server] {
            // Some know already how long the way is, as after many megabytes.
            if chance.bool() {
                one.pace.wide = chance.u32(..MOST_ON_ITS_WAY);
            }
        }
        Self {
            client,
            server,
            chance,
            now: Duration::ZERO,
            up: VecDeque::new(),
            down: VecDeque::new(),
            calls: BTreeMap::new(),
            serving: BTreeMap::new(),
            seen: BTreeSet::new(),
            next: 1,
            budget,
            grew: [false; 2],
        }
    }

    pub(super) fn step(&mut self) {
        for (one, grew) in [&self.client, &self.server].into_iter().zip(&mut self.grew) {
            let wider =
                one.streams.values().map(|stream| stream.window.saturating_sub(one.window)).sum::<u32>();
            assert_eq!(one.wider, wider);
            assert!(wider <= one.local.connection_credit / 2);
            *grew |= wider > 0;
        }
        match self.chance.u8(..12) {
            0 | 1 => self.open(),
            2 | 3 => self.say(),
            4 => self.cancel(),
            5 | 6 => self.serve(),
            7..=9 => self.deliver(false),
            _ => self.deliver(true),
        }
    }

    /// A message that says whose it is, mostly short.
    fn message(&mut self, key: u32) -> Bytes {
        let most = if self.chance.u8(..8) == 0 { 300_000 } else { 300 };
        let size = self.chance.usize(..most);
        let mut bytes = vec![key as u8; size];
        bytes.extend_from_slice(&key.to_be_bytes());
        bytes.into()
    }

    /// Mostly one.
    fn several(&mut self) -> usize {
        if self.chance.u8(..3) > 0 { 1 } else { self.chance.usize(2..12) }
    }

    fn open(&mut self) {
        let key = self.next;
        let streams = self.chance.bool();
        let path = if streams { "/t/Stream" } else { "/t/Unary" };
        let message = (!streams || self.chance.bool()).then(|| self.message(key));
        let mut metadata = Metadata::new();
        if self.chance.bool() {
            metadata.as_headers_mut().insert("x-key", HeaderValue::from(key / 4));
        }
        match self.client.open(&head(path, &metadata), message.as_ref(), !streams, key) {
            Ok(id) => {
                self.next += 1;
                let sent = message.into_iter().collect();
                self.calls
                    .insert(key, Calling { id, streams, sent, finished: !streams, ..Calling::default() });
            }
            Err(Refusal::Full) => assert!(self.client.calls() >= self.client.remote.unwrap().calls as usize),
            Err(Refusal::Leaving) => assert!(self.client.is_leaving()),
            Err(Refusal::Invalid(error)) => panic!("{error}"),
        }
    }

    /// Some streaming call says more, or that this was all.
    fn say(&mut self) {
        let open = |call: &Calling| call.streams && !call.finished && call.ended.is_none();
        let open: Vec<u32> = self.calls.iter().filter(|(_, call)| open(call)).map(|(key, _)| *key).collect();
        if open.is_empty() {
            return;
        }
        let key = open[self.chance.usize(..open.len())];
        let messages: Vec<_> = (0..self.several()).map(|_| self.message(key)).collect();
        let stop = self.chance.u8(..4) == 0;
        let call = self.calls.get_mut(&key).unwrap();
        if stop {
            call.finished = true;
            self.client.finish(call.id);
        } else if self.client.is_writable(call.id) {
            self.client.send_all(call.id, &mut runs(&messages)).unwrap();
            call.sent.extend(messages);
        }
    }

    fn cancel(&mut self) {
        let open: Vec<u32> =
            self.calls.iter().filter(|(_, call)| call.ended.is_none()).map(|(key, _)| *key).collect();
        if !open.is_empty() && self.chance.u8(..3) == 0 {
            let call = self.calls.get_mut(&open[self.chance.usize(..open.len())]).unwrap();
            self.client.cancel(call.id, Code::Canceled);
            call.ended = Some(Err(Error::canceled("by the model")));
        }
    }

    /// The server goes on with some call.
    fn serve(&mut self) {
        if self.serving.is_empty() {
            return;
        }
        let at = self.chance.usize(..self.serving.len());
        let id = *self.serving.keys().nth(at).unwrap();
        self.server.grant(id);
        let several = self.several();
        let call = self.serving.get_mut(&id).unwrap();
        if !call.streams {
            let Some((message, charge)) = call.inbox.pop_front() else { return };
            self.server.consumed(id, charge);
            let mut trailers = Metadata::new();
            trailers.as_headers_mut().insert("x-id", HeaderValue::from(id));
            self.server.answer(id, &Metadata::new(), &trailers, message).unwrap();
            self.serving.remove(&id);
            return;
        }
        if !call.responded {
            call.responded = true;
            self.server.respond(id, &Metadata::new()).unwrap();
        }
        if !self.server.is_writable(id) {
            return;
        }
        let several = several.min(call.inbox.len());
        if several > 0 {
            let messages = call.inbox.drain(..several).map(|(message, charge)| {
                self.server.consumed(id, charge);
                message
            });
            let messages: Vec<_> = messages.collect();
            self.server.send_all(id, &mut runs(&messages)).unwrap();
        } else if call.finished {
            self.server.end(id, Metadata::new());
            self.serving.remove(&id);
        }
    }

    /// Some bytes of one direction arrive.
    fn deliver(&mut self, down: bool) {
        let mut out = Vec::new();
        let (from, wire) = match down {
            true => (&mut self.server, &mut self.down),
            false => (&mut self.client, &mut self.up),
        };
        from.output(&mut out);
        wire.extend(out);
        let most = if self.chance.bool() { 40 } else { 100_000 };
        let count = self.chance.usize(..=most).min(wire.len());
        let bytes: Vec<u8> = wire.drain(..count).collect();
        self.now += Duration::from_millis(self.chance.u64(..20));
        match down {
            true => self.take_down(&bytes),
            false => self.take_up(&bytes),
        }
    }

    fn take_up(&mut self, bytes: &[u8]) {
        for event in feed_at(&mut self.server, bytes, self.now) {
            match event {
                Event::Request(request) => {
                    assert!(self.seen.insert(request.id), "seen twice");
                    match self.chance.bool() {
                        true => self.server.pause(request.id),
                        false => _ = self.server.grant(request.id),
                    }
                    let streams = &*request.path == "/t/Stream";
                    let inbox = request.message.into_iter().map(|message| (message, 0)).collect();
                    let finished = request.end;
                    self.serving
                        .insert(request.id, Serving { streams, inbox, finished, ..Serving::default() });
                }
                Event::Messages { id, messages, charge, end } => {
                    let call = self.serving.get_mut(&id).unwrap();
                    // With the first of them all are taken.
                    let charges = std::iter::once(charge).chain(std::iter::repeat(0));
                    call.inbox.extend(messages.zip(charges));
                    call.finished |= end;
                }
                Event::Finished { id } => match self.serving.get_mut(&id) {
                    Some(call) => call.finished = true,
                    // This server answers a message before it knows that it was all; a long answer may wait still.
                    None => assert!(self.server.is_open(id)),
                },
                Event::Canceled { id, .. } => {
                    // An answer may be on its way still, though the server is done with the call.
                    let Some(call) = self.serving.remove(&id) else { continue };
                    for (_, charge) in call.inbox {
                        self.server.consumed(id, charge);
                    }
                }
                other => panic!("{other:?}"),
            }
        }
    }

    fn take_down(&mut self, bytes: &[u8]) {
        for event in feed_at(&mut self.client, bytes, self.now) {
            match event {
                Event::Answer { data, message, trailers, .. } => {
                    let call = self.calls.get_mut(&data).unwrap();
                    assert_eq!(trailers.as_headers()["x-id"], HeaderValue::from(call.id));
                    call.got.extend(message);
                    Self::ended(call, Ok(()));
                }
                Event::Response { id, .. } => {
                    let call = self.calls.values_mut().find(|call| call.id == id).unwrap();
                    assert!(!std::mem::replace(&mut call.responded, true));
                }
                Event::Messages { id, messages, charge, .. } => {
                    let call = self.calls.values_mut().find(|call| call.id == id).unwrap();
                    assert!(call.responded && call.ended.is_none());
                    call.got.extend(messages);
                    self.client.consumed(id, charge);
                }
                Event::End { data, .. } => Self::ended(self.calls.get_mut(&data).unwrap(), Ok(())),
                Event::Failed { data, error } => {
                    Self::ended(self.calls.get_mut(&data).unwrap(), Err(error));
                }
                Event::GoAway => {}
                other => panic!("{other:?}"),
            }
        }
    }

    fn ended(call: &mut Calling, how: Result<(), Error>) {
        assert!(call.ended.is_none(), "{call:?} ends twice");
        call.ended = Some(how);
    }

    /// Says all that is to be said and delivers all of it.
    pub(super) fn settle(&mut self) {
        let mut still = 0;
        while still < 50 {
            let before = (self.seen.len(), self.serving.len(), self.up.len(), self.down.len());
            for call in self.calls.values_mut().filter(|call| call.ended.is_none() && !call.finished) {
                call.finished = true;
                self.client.finish(call.id);
            }
            for _ in 0..20 {
                self.serve();
                self.deliver(false);
                self.deliver(true);
            }
            let after = (self.seen.len(), self.serving.len(), self.up.len(), self.down.len());
            let quiet =
                before == after && after.1 == 0 && !self.client.has_output() && !self.server.has_output();
            still = if quiet { still + 1 } else { 0 };
        }
    }

    pub(super) fn assert_settled(&self) {
        for (key, call) in &self.calls {
            match call.ended.as_ref().unwrap_or_else(|| panic!("call {key} hangs: {call:?}")) {
                Ok(()) => assert_eq!(call.got, call.sent, "call {key}"),
                Err(error) if error.is_unsent() => assert!(!self.seen.contains(&call.id), "{call:?}"),
                // Canceled: what came until then came in order, and was its own.
                Err(error) => {
                    assert_eq!(error.code(), Code::Canceled, "{error}");
                    assert_eq!(call.got[..], call.sent[..call.got.len()], "call {key}");
                }
            }
        }
        assert_eq!(self.budget.held(), 0);
        assert_eq!((self.server.heads, self.server.waiting), (0, 0), "what calls take is free");
        assert_eq!((self.server.wider, self.client.wider), (0, 0), "what some had more is others'");
        for (one, other) in [(&self.client, &self.server), (&self.server, &self.client)] {
            assert!(one.is_idle() && one.partial == 0);
            assert_eq!((one.working, one.queued), (0, 0), "all that was held is free");
            assert_eq!(one.credit, other.credit_in, "both know the same credit");
            assert_eq!(other.credit_in + other.owed, other.local.connection_credit, "credit was lost");
        }
    }

    /// The connection breaks where it is.
    pub(super) fn cut(&mut self) {
        let unwritten = if self.chance.bool() { self.up.len() } else { 0 };
        for (key, unsent) in self.client.lost(unwritten) {
            let call = self.calls.get_mut(&key).unwrap();
            assert!(!unsent || !self.seen.contains(&call.id), "{call:?} was seen");
            Self::ended(call, Err(Error::unavailable("lost")));
        }
        assert!(self.calls.values().all(|call| call.ended.is_some()));
        for (_, unsent) in self.server.lost(0) {
            assert!(!unsent);
        }
        assert!(self.client.is_idle() && self.server.is_idle());
        assert_eq!(self.budget.held(), 0);
    }

    /// All that the client has to say, at once.
    pub(super) fn carry_to_server(&mut self) -> Vec<Event<u32>> {
        let mut out = Vec::new();
        self.client.output(&mut out);
        feed(&mut self.server, &out)
    }

    pub(super) fn carry_to_client(&mut self) -> Vec<Event<u32>> {
        let mut out = Vec::new();
        self.server.output(&mut out);
        feed(&mut self.client, &out)
    }
}
