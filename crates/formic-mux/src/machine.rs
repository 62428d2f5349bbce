//! The state of one connection: bytes and times in, events and bytes out. No I/O and no clock, so that both ends can be
//! joined in memory and their bytes cut, delayed and lost at any place.
//!
//! ```text
//! receive(bytes) → events        what the other side did
//! open, answer, send, cancel …   what this side does; the bytes gather in a buffer
//! output()                       the buffer, with as many pieces of long messages as fit and as credit allows
//! ```
//!
//! `T` is what the owner keeps with each call. The machine hands it back with the event that ends the call.

mod data;
mod hold;
mod pace;
mod receive;
mod send;
mod stream;
#[cfg(test)]
mod tests;

use std::collections::{HashMap, VecDeque};
use std::hash::{BuildHasherDefault, Hasher};
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use formic_core::{Code, Error, Metadata};
use formic_rpc::{Run, TraceContext};

use crate::budget::Share;
use crate::codec::{Fault, write};
use crate::limits::{Limits, MAX_CREDIT, NO_VERSION};
use crate::tables::{PairsIn, PairsOut, PathsIn, PathsOut};
use pace::Pace;
use stream::Stream;

pub use send::{Head, Refusal};

/// Which end this is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Makes calls.
    Client,
    /// Answers them.
    Server,
}

/// What the other side did. An event with `data` is the last of its call.
#[derive(Debug)]
pub enum Event<T> {
    /// It has greeted; calls may be made.
    Greeted,
    /// A call begins.
    Request(Request),
    /// The answer begins: leading metadata.
    Response {
        /// The call.
        id: u32,
        /// Leading.
        metadata: Metadata,
    },
    /// The whole answer in one.
    Answer {
        /// What the owner kept.
        data: T,
        /// Leading metadata.
        metadata: Metadata,
        /// Trailing metadata.
        trailers: Metadata,
        /// The message, if there is one.
        message: Option<Bytes>,
    },
    /// Messages of a call that came together.
    Messages {
        /// The call.
        id: u32,
        /// At least one.
        messages: Run,
        /// Goes to [`Machine::consumed`] when the application takes the first of them.
        charge: u32,
        /// The caller sends no more.
        end: bool,
    },
    /// The caller sends no more.
    Finished {
        /// The call.
        id: u32,
    },
    /// The call is answered to the end.
    End {
        /// What the owner kept.
        data: T,
        /// Trailing metadata.
        trailers: Metadata,
    },
    /// The call failed.
    Failed {
        /// What the owner kept.
        data: T,
        /// Why.
        error: Error,
    },
    /// The caller is gone, or broke a limit and was told so.
    Canceled {
        /// The call.
        id: u32,
        /// What the owner kept.
        data: T,
    },
    /// The other side takes no more calls.
    GoAway,
}

/// A call that begins.
#[derive(Debug)]
pub struct Request {
    /// Its number.
    pub id: u32,
    /// Its method's place in the table, for what the owner keeps beside it.
    pub place: u32,
    /// What is called.
    pub path: Arc<str>,
    /// Messages are JSON.
    pub json: bool,
    /// How long the caller waits, counted from now.
    pub timeout: Option<Duration>,
    /// The trace.
    pub trace: Option<TraceContext>,
    /// Which attempt this is, if it repeats one.
    pub attempt: Option<u8>,
    /// Leading metadata.
    pub metadata: Metadata,
    /// The first message, if it came along whole.
    pub message: Option<Bytes>,
    /// The request is complete.
    pub end: bool,
}

/// When the other side is asked whether it is there.
#[derive(Clone, Copy, Debug)]
pub struct Alive {
    /// After so long without a byte from it.
    pub interval: Duration,
    /// How long it may take to say something then.
    pub timeout: Duration,
    /// Only while calls are open.
    pub busy_only: bool,
}

/// One end of a connection.
#[derive(Debug)]
pub struct Machine<T> {
    role: Role,
    local: Limits,
    remote: Option<Limits>,
    alive: Alive,
    /// Bytes that were taken from here and cannot be written, which is as good a reason to ask as an open call.
    unwritten: usize,
    /// The most bytes of unfinished messages, and of unfinished requests.
    most_partial: usize,
    partial: usize,
    /// Room that was made for the rest of unfinished messages.
    slack: usize,
    /// What whole messages take that nobody has taken, beyond credit that was not given back.
    beyond: usize,
    /// Bytes of messages that handlers work on, and of messages that wait to be sent.
    working: usize,
    queued: usize,
    /// Bytes that the heads of calls take, and calls whose requests are not whole.
    heads: usize,
    /// Messages, or batches of them, that the application has not taken.
    waiting: usize,
    /// What this end draws on the budget for all that it holds.
    share: Share,
    /// An unfinished frame.
    input: BytesMut,
    /// Since when it is not finished.
    cut: Option<Duration>,
    /// A long data frame that is passed on as it comes.
    open: Option<data::Open>,
    out: Vec<u8>,
    /// Bytes taken by [`output`](Self::output) so far.
    taken: u64,
    /// How many were said when a question last stood between them.
    marked: u64,
    streams: HashMap<u32, Stream<T>, BuildHasherDefault<NumberHasher>>,
    /// The highest call there ever was.
    highest: u32,
    /// This side takes no more calls.
    leaving: bool,
    /// As it was said: the last that was taken.
    last: Option<u32>,
    /// The other side takes none after this one.
    left: Option<u32>,
    /// What this side did wrong, as the other says when it gives the connection up.
    blamed: Option<Box<str>>,
    paths_in: PathsIn,
    paths_out: PathsOut,
    pairs_in: PairsIn,
    pairs_out: PairsOut,
    /// What may be sent, and what the other side may send.
    credit: u32,
    credit_in: u32,
    /// Taken by the application, but not given back yet.
    owed: u32,
    /// What the other side may send of a call.
    window: u32,
    /// How it is learnt that calls that are read are to send more, and how much more all of them may together.
    pace: Pace,
    wider: u32,
    /// Calls with pieces to send and credit for them, in turn.
    turns: VecDeque<u32>,
    writable: Vec<u32>,
    events: VecDeque<Event<T>>,
    heard: Duration,
    asked: Option<Duration>,
}

/// Why one goes away whom nobody has called.
const IDLE: u8 = 3;

/// Where calls' numbers end; a client opens another connection before.
const LAST_NUMBER: u32 = 1 << 31;

/// The bytes between two questions of a client that says much. With a frame of the greatest length begun before, they are 96 KiB
/// apart at most: a server that reads 40 KiB a second is heard of in time.
const MARK: u64 = 32 << 10;

/// Unfinished messages may take so many times the largest message.
const PARTIAL: usize = 16;

/// Numbers of calls come one after the other: multiplied once they fill any table evenly.
#[derive(Debug, Default)]
pub(crate) struct NumberHasher(u64);

impl Hasher for NumberHasher {
    fn write(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            self.write_u32(byte.into());
        }
    }

    fn write_u32(&mut self, number: u32) {
        self.0 = (self.0 ^ u64::from(number)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }

    fn finish(&self) -> u64 {
        // The table takes the low bits for the place and the high ones for a tag.
        self.0.rotate_left(20)
    }
}

impl<T: Default> Machine<T> {
    /// An end that has greeted.
    #[must_use]
    pub fn new(role: Role, limits: Limits, alive: Alive) -> Self {
        let local = limits.sane();
        let mut out = Vec::new();
        local.write(&mut out);
        Self {
            role,
            local,
            remote: None,
            alive,
            unwritten: 0,
            most_partial: (local.message as usize).saturating_mul(PARTIAL).max(1 << 20),
            partial: 0,
            slack: 0,
            beyond: 0,
            working: 0,
            queued: 0,
            heads: 0,
            waiting: 0,
            share: Share::default(),
            input: BytesMut::new(),
            cut: None,
            open: None,
            out,
            taken: 0,
            marked: 0,
            streams: HashMap::default(),
            highest: 0,
            leaving: false,
            last: None,
            left: None,
            blamed: None,
            paths_in: PathsIn::default(),
            paths_out: PathsOut::default(),
            pairs_in: PairsIn::default(),
            pairs_out: PairsOut::default(),
            credit: 0,
            credit_in: local.connection_credit,
            owed: 0,
            window: local.stream_credit,
            pace: Pace::default(),
            wider: 0,
            turns: VecDeque::new(),
            writable: Vec::new(),
            events: VecDeque::new(),
            heard: Duration::ZERO,
            asked: None,
        }
    }

    /// Has calls send so much once they are [granted](Self::grant) it, and what the greeting says before.
    #[must_use]
    pub fn granting(mut self, window: u32) -> Self {
        self.window = window.clamp(self.local.stream_credit, MAX_CREDIT);
        self
    }

    /// Has calls whose messages are read send up to so much, where the way is so long that it takes as much.
    #[must_use]
    pub fn growing(mut self, most: u32) -> Self {
        self.pace = Pace::up_to(most.min(MAX_CREDIT));
        self
    }

    /// Whether the other side has greeted.
    #[must_use]
    pub fn is_greeted(&self) -> bool {
        self.remote.is_some()
    }

    /// Whether no call is open.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.streams.is_empty()
    }

    /// Calls that are open.
    #[must_use]
    pub fn calls(&self) -> usize {
        self.streams.len()
    }

    /// Whether either side has said that it takes no more calls.
    #[must_use]
    pub fn is_leaving(&self) -> bool {
        self.leaving || self.left.is_some()
    }

    /// Whether this side has said so.
    #[must_use]
    pub fn has_said_goodbye(&self) -> bool {
        self.leaving
    }

    /// Why the other side gave the connection up, as it says.
    #[must_use]
    pub fn blamed(&self) -> Option<&str> {
        self.blamed.as_deref()
    }

    /// As if there had been so many calls.
    #[cfg(test)]
    pub(crate) fn skip_to(&mut self, highest: u32) {
        self.highest = highest;
    }

    /// What the owner keeps with a call.
    pub fn data(&mut self, id: u32) -> Option<&mut T> {
        self.streams.get_mut(&id).map(|stream| &mut stream.data)
    }

    /// When [`tick`](Self::tick) has something to do.
    #[must_use]
    pub fn due(&self) -> Option<Duration> {
        match self.asked {
            Some(asked) => Some(asked + self.alive.timeout),
            None if self.alive.busy_only && self.streams.is_empty() && self.unwritten == 0 => None,
            None => Some(self.heard + self.alive.interval),
        }
    }

    /// Notes how much of what was taken from here cannot be written yet.
    pub fn set_unwritten(&mut self, bytes: usize) {
        self.unwritten = bytes;
    }

    /// Notes that time has passed: asks the other side whether it is there.
    ///
    /// # Errors
    /// If it was asked and has said nothing.
    pub fn tick(&mut self, now: Duration) -> Result<(), Fault> {
        match self.due() {
            Some(due) if due <= now => {}
            _ => return Ok(()),
        }
        if self.asked.is_some() {
            return Err(Fault("the other side answers no ping"));
        }
        self.asked = Some(now);
        write::ping(&mut self.out, 0, now.as_nanos().to_le_bytes()[..8].try_into().unwrap_or_default());
        Ok(())
    }

    /// A client asks also between the bytes that it says. The one question that [`tick`](Self::tick) asks stands behind all that
    /// was said before, which is half a mebibyte and more where a request is long, and takes many seconds where the network is slow: the
    /// server would be taken for dead while it reads. So it is heard of as often as it has read so much.
    fn mark(&mut self) {
        let said = self.taken + self.out.len() as u64;
        if self.role == Role::Client && said - self.marked >= MARK {
            self.marked = said;
            write::ping(&mut self.out, 0, said.to_le_bytes());
        }
    }

    /// What was asked could not be answered until now.
    pub fn ask_anew(&mut self, now: Duration) {
        self.asked = self.asked.map(|_| now);
    }

    /// Takes no more calls; those that are open go on.
    pub fn go_away(&mut self) {
        self.say_go_away(0, "");
    }

    /// The same, because there were none for long.
    pub fn go_away_idle(&mut self) {
        self.say_go_away(IDLE, "there was no call for long");
    }

    /// Says goodbye because of a fault of the other side.
    pub fn give_up(&mut self, fault: Fault) {
        let reason = if fault == NO_VERSION { 2 } else { 1 };
        self.leaving = false;
        self.say_go_away(reason, fault.0);
    }

    fn say_go_away(&mut self, reason: u8, text: &str) {
        if !self.leaving {
            self.leaving = true;
            // Calls may have come since this was said first, and were not taken.
            let taken = if self.role == Role::Server { self.highest } else { 0 };
            let last = *self.last.get_or_insert(taken);
            write::go_away(&mut self.out, last, reason, text);
        }
    }

    /// Ends every call, because the connection is lost: what the owner kept with each, and whether the call surely did
    /// not reach the other side. `unwritten` counts the bytes of the output that were not written.
    pub fn lost(&mut self, unwritten: usize) -> Vec<(T, bool)> {
        let written = self.taken.saturating_sub(unwritten as u64);
        let all = std::mem::take(&mut self.streams);
        (self.partial, self.working, self.queued) = (0, 0, 0);
        (self.heads, self.waiting, self.wider) = (0, 0, 0);
        (self.slack, self.beyond) = (0, 0);
        self.share.settle(0);
        all.into_values().map(|stream| (stream.data, stream.sent_at > written)).collect()
    }

    /// Swaps what is to be written with an empty buffer.
    pub fn output(&mut self, empty: &mut Vec<u8>) {
        debug_assert!(empty.is_empty(), "what is there would be lost");
        self.pump();
        self.taken += self.out.len() as u64;
        std::mem::swap(&mut self.out, empty);
        self.settle();
    }

    /// Whether there is something to be written.
    #[must_use]
    pub fn has_output(&self) -> bool {
        !self.out.is_empty() || (!self.turns.is_empty() && self.credit > stream::OVERHEAD)
    }

    /// How many bytes wait to be written, without the messages that wait for their turn.
    #[must_use]
    pub fn unwritten(&self) -> usize {
        self.out.len()
    }

    /// Calls whose messages were all passed on, and on which somebody waits for that.
    pub fn writable(&mut self) -> &mut Vec<u32> {
        &mut self.writable
    }

    /// Removes a call; what its unfinished message holds of the connection's credit is given back.
    fn remove(&mut self, id: u32) -> Option<Stream<T>> {
        let stream = self.streams.remove(&id)?;
        self.partial -= stream.partial.len() + stream.held;
        self.slack -= stream.slack;
        self.beyond -= stream.beyond;
        self.working -= stream.working;
        self.heads -= stream.head;
        self.queued -= stream.queued();
        self.wider -= stream.window.saturating_sub(self.window);
        self.give_back(stream.partial_charge);
        Some(stream)
    }

    /// How much is there of a call's unfinished message.
    #[must_use]
    pub fn unfinished(&self, id: u32) -> usize {
        self.streams.get(&id).map_or(0, |stream| stream.partial.len())
    }

    /// Counts a message that waits for the end of its request like one that is unfinished itself.
    ///
    /// # Errors
    /// If that is too much.
    pub fn hold(&mut self, id: u32, bytes: usize) -> Result<(), Error> {
        if self.partial + bytes > self.most_partial {
            return Err(Error::resource_exhausted("too much of unfinished requests is held already"));
        }
        if !self.room(bytes) {
            return Err(self.no_room(true));
        }
        if let Some(stream) = self.streams.get_mut(&id) {
            stream.gathering = true;
            stream.held += bytes;
            self.partial += bytes;
            // It came with the beginning of the request, and was taken for one to work on.
            self.working -= std::mem::take(&mut stream.working);
        }
        Ok(())
    }

    /// Gives a call no credit until it is granted some; whoever has sent what it may then waits.
    pub fn pause(&mut self, id: u32) {
        if let Some(stream) = self.streams.get_mut(&id) {
            stream.paused = true;
        }
    }

    /// Has a call send as much as one may that was heard; the result is how much is there of its unfinished message.
    pub fn grant(&mut self, id: u32) -> usize {
        let Some(stream) = self.streams.get_mut(&id) else { return 0 };
        stream.paused = false;
        if !std::mem::replace(&mut stream.granted, true) {
            stream.owed += stream.window - self.local.stream_credit;
        }
        self.repay(id, 0);
        self.unfinished(id)
    }

    /// The request is complete.
    pub fn complete(&mut self, id: u32) {
        if let Some(stream) = self.streams.get_mut(&id) {
            let held = std::mem::take(&mut stream.held);
            stream.gathering = false;
            stream.working += held;
            self.partial -= held;
            self.working += held;
        }
    }

    /// Counts a message that was taken, and is worked on until its call is over.
    pub fn work(&mut self, id: u32, bytes: usize) {
        if let Some(stream) = self.streams.get_mut(&id) {
            stream.gathering = false;
            stream.working += bytes;
            self.working += bytes;
        }
    }

    fn unsent(text: &str) -> Error {
        Error::new(Code::Unavailable, text).with_unsent()
    }
}
