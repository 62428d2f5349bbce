//! What is held in memory for the other side, and what of it is given up when there is too little.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use formic_core::{Error, Shed};
use formic_rpc::Run;

use super::Machine;
use crate::budget::{Budget, FREE, Share};
use crate::codec::Fault;
use crate::spare::{self, is_spare};

/// When a repetition of a refused call may help: a little later, and not for all at once.
const AFTER_MS: std::ops::Range<u64> = 250..750;

/// What a call takes in memory that is kept until its request is whole, whatever the request is. One that is whole is for a handler
/// to answer, and those are bounded in number.
pub(super) const CALL: usize = 1536;

/// What a message takes that waits for a handler, or a batch of such, beside its bytes.
const WAITING: usize = 128;

/// What the output has room for is not counted, beside what is in it, if it is no more: it is needed again and again.
const KEPT: usize = 1 << 20;

/// Room is made ahead if there is so many times of it.
const MUCH: usize = 4;

/// An unfinished frame that takes more has to go on if there is no room for it.
pub(super) const LONG_FRAME: usize = 16 << 10;

/// For so long it need not: most frames are cut where a read ends, and whole with the next.
const PATIENCE: Duration = Duration::from_secs(5);

impl<T: Default> Machine<T> {
    /// Has all that is held drawn on a budget. A server's.
    #[must_use]
    pub fn drawing_on(mut self, budget: Arc<Budget>) -> Self {
        self.share = Share::of(budget);
        self
    }

    /// How many bytes are held: unfinished requests, messages that nobody has taken or that are worked on, what calls take beside
    /// them, what is to be sent, and the tables.
    #[must_use]
    pub fn held(&self) -> usize {
        let unread = self.local.connection_credit.saturating_sub(self.credit_in).saturating_sub(self.owed);
        let came = unread as usize + self.partial + self.slack + self.beyond + self.working;
        let out = self.out.len().max(self.out.capacity().saturating_sub(KEPT));
        let goes = self.queued + out + self.unwritten;
        came + goes + self.heads + self.waiting * WAITING + self.input.capacity() + self.tables()
    }

    /// What was noted once for all calls, of what the other side says and of what it is told. No server says paths.
    pub(super) fn tables(&self) -> usize {
        self.paths_in.held() + self.pairs_in.held() + self.pairs_out.held()
    }

    /// Takes no more calls where it is the tables that leave no room for one that takes so much: on another connection, which begins with
    /// empty ones, the other side has what is free for each.
    pub(super) fn begin_anew(&mut self, call: usize) {
        if !self.leaving
            && self.tables() > FREE
            && (call <= FREE || self.share.allows_another(call, self.tables()))
        {
            self.share.refused();
            self.go_away();
        }
    }

    /// Whether a connection without a call holds what others need: its tables.
    pub fn is_in_the_way(&mut self) -> bool {
        // What was noted with the last that was said is not drawn yet, and cannot be refused.
        let fits = self.tables() <= FREE || self.room(0);
        self.settle();
        self.streams.is_empty() && self.input.is_empty() && (!fits || self.share.is_scarce())
    }

    /// Whether there is more to be written than there is room for, beside a little. What is owed to the other side cannot be refused,
    /// but nothing more has to be read that would be answered.
    pub fn is_overfull(&mut self) -> bool {
        self.unwritten + self.out.len() > FREE && !self.room(0)
    }

    /// Whether there is room for so many bytes more.
    pub(super) fn room(&mut self, more: usize) -> bool {
        let held = self.held();
        self.share.covers(held + more)
    }

    /// Whether there is room for so many bytes that nobody has sent, and much of it: what is kept for them is taken from those that are.
    pub(super) fn room_ahead(&mut self, bytes: usize) -> bool {
        let all = self.held() + MUCH * (self.slack + bytes);
        self.share.allows(all) && self.room(bytes)
    }

    /// Gives back what is not needed of the budget any more.
    pub(super) fn settle(&mut self) {
        if self.share.is_drawn() {
            let held = self.held();
            self.share.settle(held);
        }
    }

    /// Whether so much is held that it has to be looked at, from time to time, whether that is too much.
    #[must_use]
    pub fn is_heavy(&self) -> bool {
        self.share.is_drawn() || self.is_cut()
    }

    /// Whether there is a long frame of which only a part has come.
    fn is_cut(&self) -> bool {
        self.cut.is_some() && self.input.capacity() > LONG_FRAME
    }

    /// Looks at whether a frame takes memory that others need, and does not become whole. Nobody can say what it is about, so there
    /// is no call to refuse.
    ///
    /// # Errors
    /// If it is so; the connection is over then.
    pub fn check_frame(&mut self, now: Duration) -> Result<(), Fault> {
        if self.is_cut()
            && self.cut.is_some_and(|since| now.saturating_sub(since) >= PATIENCE)
            && (!self.room(0) || self.share.is_excessive())
        {
            self.share.refused();
            return Err(Fault("a frame does not go on, and the server holds as much as it may"));
        }
        Ok(())
    }

    /// Gives up calls, the largest first, as long as little room is left for all and this end holds more than that. Calls that
    /// handlers work on are left alone. The numbers of those that were given up are the result.
    pub fn relieve(&mut self) -> Vec<u32> {
        let mut given_up = Vec::new();
        self.settle();
        while self.share.is_excessive() {
            if self.tables() > FREE && !self.share.is_excessive_without(self.tables()) {
                // It is none of its calls that takes what others need.
                self.begin_anew(0);
                break;
            }
            let unfinished = |stream: &super::Stream<T>| {
                let head = if stream.gathering { stream.head } else { 0 };
                head + stream.partial.len() + stream.slack + stream.held + stream.queued()
            };
            let largest = self.streams.iter().max_by_key(|(_, stream)| unfinished(stream));
            let Some((&id, stream)) = largest.filter(|(_, stream)| unfinished(stream) > 0) else { break };
            let unseen = stream.gathering;
            self.turn_away(id, unseen);
            self.settle();
            given_up.push(id);
        }
        given_up
    }

    /// Gives memory back that an idle connection does not need.
    pub fn shrink(&mut self) {
        const KEPT: usize = 1 << 10;
        if self.streams.is_empty() && self.streams.capacity() > 64 {
            self.streams = HashMap::default();
        }
        if self.out.is_empty() && self.out.capacity() > KEPT {
            self.out = Vec::new();
        }
        if self.input.is_empty() && self.input.capacity() > KEPT {
            self.input = BytesMut::new();
        }
        if self.turns.is_empty() && self.turns.capacity() > 64 {
            self.turns = VecDeque::new();
        }
    }

    /// Whether a connection whose calls go on has room that it does not need any more.
    #[must_use]
    pub fn is_loose(&self) -> bool {
        spare::has_spare(&self.streams)
            || is_spare(self.out.len(), self.out.capacity(), spare::BYTES)
            || is_spare(self.turns.len(), self.turns.capacity(), spare::ENTRIES)
            || is_spare(0, self.writable.capacity(), spare::ENTRIES)
    }

    /// Gives such room back, that of its calls too.
    pub fn tighten(&mut self) {
        spare::shrink(&mut self.streams);
        self.turns.shrink_to(spare::ENTRIES.max(2 * self.turns.len()));
        self.writable.shrink_to(spare::ENTRIES);
        if is_spare(self.out.len(), self.out.capacity(), spare::BYTES) {
            self.out.shrink_to(2 * self.out.len());
        }
        for stream in self.streams.values_mut() {
            // Those that nobody takes stand. Of the others it is seen when they are empty.
            if is_spare(stream.queue.len(), stream.queue.capacity(), spare::ENTRIES) {
                stream.queue.shrink_to(2 * stream.queue.len());
            }
        }
    }

    /// Counts what a handler has given of an answer that streams and that waits until its call is [writable](Self::is_writable).
    ///
    /// # Errors
    /// If there is no room for so much.
    pub fn keep(&mut self, id: u32, runs: &[Run]) -> Result<(), Error> {
        let Some(stream) = self.streams.get_mut(&id) else { return Ok(()) };
        let beside = |run: &Run| (run.len() * size_of::<Bytes>()).max(size_of::<Run>());
        let bytes: usize = runs.iter().map(|run| run.size() + beside(run)).sum();
        let more = bytes.saturating_sub(stream.ready);
        self.queued += bytes;
        self.queued -= std::mem::replace(&mut stream.ready, bytes);
        if more > 0 && !self.room(0) {
            return Err(self.no_room(false));
        }
        Ok(())
    }

    /// Nobody works on a call's request any more.
    pub(super) fn worked(&mut self, id: u32) {
        if let Some(stream) = self.streams.get_mut(&id) {
            self.working -= std::mem::take(&mut stream.working);
        }
    }

    /// Ends a call that there is no room for.
    pub(super) fn turn_away(&mut self, id: u32, unseen: bool) -> Option<super::Stream<T>> {
        let stream = self.remove(id)?;
        let error = self.no_room(unseen);
        self.write_error(id, &error, unseen);
        Some(stream)
    }

    /// Why a call is refused that there is no room for. One that no handler has seen may be made elsewhere.
    pub(super) fn no_room(&self, unseen: bool) -> Error {
        self.share.refused();
        let text = "the server holds as much of requests and answers as it may";
        if unseen {
            return Error::shed(Shed::Memory, text, Duration::from_millis(fastrand::u64(AFTER_MS)));
        }
        Error::resource_exhausted(text)
    }
}
