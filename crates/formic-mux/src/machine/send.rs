//! What this side says.

use std::collections::VecDeque;
use std::time::Duration;

use bytes::{BufMut, Bytes};
use formic_core::shed::PUSHBACK;
use formic_core::{Code, Error, Metadata};
use formic_rpc::context::REPEATED;
use formic_rpc::{Run, TraceContext};
use http::{HeaderMap, HeaderName};

use super::stream::{ENTRY, OVERHEAD, Stream, Tail};
use super::{LAST_NUMBER, Machine};
use crate::codec::frame::{REFUSED, data, request, response};
use crate::codec::{MAX_PATH, MAX_PAYLOAD, Type, write};
use crate::spare;
use crate::tables::weight;

/// The longest piece of a message in a data frame.
const PIECE: usize = MAX_PAYLOAD - 1;

/// Pieces of long messages wait while so many bytes are to be written: what is written next is then not far behind.
pub(super) const ENOUGH: usize = 128 << 10;

/// No call is begun while so much is to be written: who writes faster than the other side reads waits, and does not fill memory.
const FULL: usize = 512 << 10;

/// A call sends so much in its turn, or one piece: short messages go together, which is what makes them cheap to read.
const TURN: usize = 16 << 10;

/// What of an error travels at most, in bytes, beside its metadata.
const LONGEST_TEXT: usize = 8 << 10;
const MOST_DETAILS: usize = 16 << 10;

/// The beginning of a call.
#[derive(Clone, Copy, Debug)]
pub struct Head<'a> {
    /// What is called.
    pub path: &'a str,
    /// Messages are JSON.
    pub json: bool,
    /// How long the caller waits.
    pub timeout: Option<Duration>,
    /// The trace.
    pub trace: Option<TraceContext>,
    /// Which attempt this is, if it repeats one.
    pub attempt: Option<u8>,
    /// Leading metadata.
    pub metadata: &'a HeaderMap,
    /// Names of metadata that do not travel.
    pub skip: fn(&HeaderName) -> bool,
}

/// Why a call was not begun.
#[derive(Debug)]
pub enum Refusal {
    /// The connection takes no more calls; another one may.
    Leaving,
    /// As many are open as the server takes, or much is to be written; later.
    Full,
    /// It can never be sent.
    Invalid(Error),
}

fn nothing(_: &HeaderName) -> bool {
    false
}

/// All but whether, and when, a call may be repeated: who does not hear that makes more of what there is too much of.
fn beside_repetition(name: &HeaderName) -> bool {
    name != REPEATED && name != PUSHBACK
}

impl<T: Default> Machine<T> {
    /// Begins a call. `end` says that the message, or none, is all of the request.
    ///
    /// # Errors
    /// If it cannot be begun; nothing is sent then.
    pub fn open(
        &mut self,
        head: &Head<'_>,
        message: Option<&Bytes>,
        end: bool,
        data: T,
    ) -> Result<u32, Refusal> {
        let Some(remote) = self.remote else { return Err(Refusal::Leaving) };
        if self.is_leaving() || self.highest + 1 >= LAST_NUMBER {
            return Err(Refusal::Leaving);
        }
        if self.is_full() {
            return Err(Refusal::Full);
        }
        let invalid = |error| Err(Refusal::Invalid(error));
        if head.path.len() > MAX_PATH {
            return invalid(Error::invalid_argument("the path of the method is longer than 1024 bytes"));
        }
        let metadata = if head.metadata.is_empty() { 0 } else { weight(head.metadata, head.skip) };
        if metadata > remote.metadata as usize {
            let text = format!("{metadata} bytes of metadata, where the server takes {}", remote.metadata);
            return invalid(Error::resource_exhausted(text));
        }
        let size = message.map_or(0, Bytes::len);
        if size > remote.message as usize {
            let text = format!("a message of {size} bytes, where the server takes {}", remote.message);
            return invalid(Error::resource_exhausted(text));
        }
        self.highest += 1;
        let id = self.highest;
        let mut stream =
            Stream::new(data, true, self.local.stream_credit, self.local.stream_credit, remote.stream_credit);
        let mut later = None;
        let Self { out, paths_out, pairs_out, .. } = self;
        write::frame(out, Type::Request, id, |out| {
            let start = out.len();
            out.push(0);
            let mut flags = if head.json { request::JSON } else { 0 };
            paths_out.write(out, head.path, remote.paths);
            if let Some(timeout) = head.timeout {
                flags |= request::TIMEOUT;
                out.put_u64(u64::try_from(timeout.as_micros()).unwrap_or(u64::MAX));
            }
            if let Some(trace) = head.trace {
                flags |= request::TRACE | if trace.sampled { request::SAMPLED } else { 0 };
                out.put_u128(trace.trace_id);
                out.put_u64(trace.span_id);
            }
            if let Some(attempt) = head.attempt {
                flags |= request::ATTEMPT;
                out.push(attempt);
            }
            pairs_out.write(out, head.metadata, head.skip, remote.pairs);
            match message {
                Some(message) if out.len() - start + message.len() <= MAX_PAYLOAD => {
                    flags |= request::MESSAGE | if end { request::END } else { 0 };
                    out.extend_from_slice(message);
                }
                Some(message) => later = Some(message.clone()),
                None if end => flags |= request::END,
                None => {}
            }
            out[start] = flags;
        });
        stream.sent_at = self.taken + self.out.len() as u64;
        if let Some(message) = later {
            self.queued += message.len() + ENTRY;
            stream.queue.push_back(message);
            stream.tail = end.then_some(Tail::Finish);
        }
        let queued = !stream.queue.is_empty();
        self.streams.insert(id, stream);
        if queued {
            self.take_turn(id);
        }
        self.mark();
        Ok(id)
    }

    /// Whether no further call can be begun for now.
    #[must_use]
    pub fn is_full(&self) -> bool {
        let most = self.remote.map_or(0, |remote| remote.calls as usize);
        self.streams.len() >= most || self.out.len() >= FULL
    }

    /// Whether the next message of a call can be passed on at once. If not, [`writable`](Self::writable) will name the
    /// call. A call that is over takes messages and forgets them.
    pub fn is_writable(&mut self, id: u32) -> bool {
        let crowded = self.out.len() >= 2 * ENOUGH;
        let Some(stream) = self.streams.get_mut(&id) else { return true };
        if stream.queue.is_empty() && !crowded {
            return true;
        }
        stream.wanted = true;
        if !stream.in_turn && stream.queue.is_empty() {
            // Nothing of its own to send, but its turn will tell.
            stream.in_turn = true;
            self.turns.push_back(id);
        }
        false
    }

    /// Whether a call is open.
    #[must_use]
    pub fn is_open(&self, id: u32) -> bool {
        self.streams.contains_key(&id)
    }

    /// Sends a message.
    ///
    /// # Errors
    /// If the other side takes none of this size.
    pub fn send(&mut self, id: u32, message: Bytes) -> Result<(), Error> {
        let most = self.remote.map_or(0, |remote| remote.message);
        if message.len() > most as usize {
            let text = format!("a message of {} bytes, where the other side takes {most}", message.len());
            return Err(Error::resource_exhausted(text));
        }
        let Some(stream) = self.streams.get_mut(&id) else { return Ok(()) };
        let cost = OVERHEAD + message.len() as u32;
        let fits = message.len() <= PIECE && cost <= stream.credit && cost <= self.credit;
        if fits && stream.queue.is_empty() && self.out.len() < ENOUGH {
            stream.credit -= cost;
            self.credit -= cost;
            write::data(&mut self.out, id, 0, &message);
            self.mark();
            return Ok(());
        }
        let counted = message.len() + ENTRY;
        if !self.room(counted) {
            return Err(self.no_room(false));
        }
        if let Some(stream) = self.streams.get_mut(&id) {
            stream.queue.push_back(message);
            self.queued += counted;
        }
        self.take_turn(id);
        Ok(())
    }

    /// Sends messages, as far as the other side takes their size.
    ///
    /// # Errors
    /// At the first that it does not take; the rest is dropped.
    pub fn send_all(&mut self, id: u32, runs: &mut Vec<Run>) -> Result<(), Error> {
        let most = PIECE.min(self.remote.map_or(0, |remote| remote.message) as usize);
        if let Some(stream) = self.streams.get_mut(&id) {
            self.queued -= std::mem::take(&mut stream.ready);
        }
        let mut sent = 0;
        // As `send` does, with one look at the call for all of a run.
        while let Some(run) = runs.get_mut(sent)
            && let Some(stream) = self.streams.get_mut(&id)
            && stream.queue.is_empty()
        {
            let before = stream.credit.min(self.credit);
            let mut credit = before;
            let whole = write_run(&mut self.out, id, run, most, &mut credit);
            stream.credit -= before - credit;
            self.credit -= before - credit;
            self.mark();
            if !whole {
                break;
            }
            sent += 1;
        }
        let mut rest = runs.drain(..).skip(sent);
        // What waits is counted, so it holds no more memory than that.
        rest.try_for_each(|run| run.compact().try_for_each(|message| self.send(id, message)))
    }

    /// Ends a request that streams.
    pub fn finish(&mut self, id: u32) {
        self.tail(id, Tail::Finish);
    }

    /// Begins an answer that streams.
    ///
    /// # Errors
    /// If the metadata is larger than the client takes, or there is no room for it.
    pub fn respond(&mut self, id: u32, metadata: &Metadata) -> Result<(), Error> {
        self.check(metadata.as_headers())?;
        if !self.room(weight(metadata.as_headers(), nothing)) {
            return Err(self.no_room(false));
        }
        let pairs = self.remote.map_or(0, |remote| remote.pairs);
        let Some(stream) = self.streams.get_mut(&id) else { return Ok(()) };
        stream.responded = true;
        let Self { out, pairs_out, .. } = self;
        write::frame(out, Type::Response, id, |out| {
            out.push(0);
            pairs_out.write(out, metadata.as_headers(), nothing, pairs);
        });
        Ok(())
    }

    /// Ends an answer that streams, after its last message. Trailing metadata of a size that the client does not take makes
    /// that a failure, as it does for an answer of one message.
    pub fn end(&mut self, id: u32, trailers: Metadata) {
        let mut fits = self.check(trailers.as_headers());
        if fits.is_ok() && !trailers.is_empty() && !self.room(weight(trailers.as_headers(), nothing)) {
            fits = Err(self.no_room(false));
        }
        match fits {
            Ok(()) => self.tail(id, Tail::End(trailers)),
            Err(error) => self.fail_after(id, error),
        }
    }

    fn tail(&mut self, id: u32, tail: Tail) {
        let Some(stream) = self.streams.get_mut(&id) else { return };
        if stream.queue.is_empty() {
            self.write_tail(id, &tail);
        } else {
            stream.tail = Some(tail);
        }
    }

    /// Ends an answer that streams with an error, after its last message.
    pub fn fail_after(&mut self, id: u32, error: Error) {
        match self.streams.get_mut(&id) {
            Some(stream) if !stream.queue.is_empty() => stream.tail = Some(Tail::Fail(error)),
            _ => self.fail(id, &error),
        }
    }

    /// Answers a call with one message. False says that the call is open until all of it can be sent.
    ///
    /// # Errors
    /// If the client takes no message, or no metadata, of this size; the call is open still.
    pub fn answer(
        &mut self,
        id: u32,
        metadata: &Metadata,
        trailers: &Metadata,
        message: Bytes,
    ) -> Result<bool, Error> {
        if !self.is_open(id) {
            return Ok(true);
        }
        self.check(metadata.as_headers())?;
        self.check(trailers.as_headers())?;
        self.worked(id);
        let beside = 64
            + 4 * (metadata.as_headers().len() + trailers.as_headers().len())
            + weight(metadata.as_headers(), nothing)
            + weight(trailers.as_headers(), nothing);
        if !self.room(beside + message.len()) {
            return Err(self.no_room(false));
        }
        let remote = self.remote.unwrap_or_default();
        if beside + message.len() > MAX_PAYLOAD {
            self.respond(id, metadata)?;
            self.send(id, message)?;
            self.tail(id, Tail::End(trailers.clone()));
            return Ok(!self.is_open(id));
        }
        if message.len() > remote.message as usize {
            let text =
                format!("an answer of {} bytes, where the caller takes {}", message.len(), remote.message);
            return Err(Error::resource_exhausted(text));
        }
        let Self { out, pairs_out, .. } = self;
        write::frame(out, Type::Response, id, |out| {
            let trailing = if trailers.is_empty() { 0 } else { response::TRAILERS };
            out.push(trailing | response::MESSAGE | response::END);
            pairs_out.write(out, metadata.as_headers(), nothing, remote.pairs);
            if trailing != 0 {
                pairs_out.write(out, trailers.as_headers(), nothing, remote.pairs);
            }
            out.extend_from_slice(&message);
        });
        self.remove(id);
        Ok(true)
    }

    /// Answers a call with an error; what waits to be sent of it is forgotten.
    pub fn fail(&mut self, id: u32, error: &Error) {
        if self.remove(id).is_some() {
            self.write_error(id, error, false);
        }
    }

    /// Gives a call up.
    pub fn cancel(&mut self, id: u32, code: Code) {
        if self.remove(id).is_some() {
            self.write_cancel(id, code);
        }
    }

    pub(super) fn write_cancel(&mut self, id: u32, code: Code) {
        write::frame(&mut self.out, Type::Cancel, id, |out| out.push(code.number()));
    }

    pub(super) fn write_error(&mut self, id: u32, error: &Error, refused: bool) {
        let pairs = self.remote.map_or(0, |remote| remote.pairs);
        let metadata = error.metadata().as_headers();
        let fits = self.check(metadata).is_ok();
        let brief = self.is_overfull();
        let Self { out, pairs_out, .. } = self;
        write::frame(out, Type::Error, id, |out| {
            out.push(if refused { REFUSED } else { 0 });
            out.push(error.code().number());
            if brief {
                // It cannot be refused, but it can be hardly longer than what it answers.
                out.extend_from_slice(&[0, 0]);
                return match fits {
                    true => pairs_out.write(out, metadata, beside_repetition, pairs),
                    false => out.push(0),
                };
            }
            let text = error.message();
            write::bytes(out, &text.as_bytes()[..text.floor_char_boundary(LONGEST_TEXT)]);
            let mut left = MOST_DETAILS;
            let fitting = error.details().iter().take_while(|detail| {
                let size = detail.type_name.len() + detail.value.len() + 10;
                let fits = size <= left;
                left = left.saturating_sub(size);
                fits
            });
            let details: Vec<_> = fitting.collect();
            write::varint(out, details.len() as u32);
            for detail in details {
                write::bytes(out, detail.type_name.as_bytes());
                write::bytes(out, &detail.value);
            }
            match fits {
                true => pairs_out.write(out, metadata, nothing, pairs),
                false => out.push(0),
            }
        });
    }

    /// Whether the other side takes metadata of this size.
    fn check(&self, metadata: &HeaderMap) -> Result<(), Error> {
        if metadata.is_empty() {
            return Ok(());
        }
        let (size, most) = (weight(metadata, nothing), self.remote.map_or(0, |remote| remote.metadata));
        if size <= most as usize {
            return Ok(());
        }
        let text = format!("{size} bytes of metadata, where the other side takes {most}");
        Err(Error::resource_exhausted(text))
    }

    fn write_tail(&mut self, id: u32, tail: &Tail) {
        match tail {
            Tail::Finish => write::frame(&mut self.out, Type::End, id, |_| {}),
            Tail::Fail(error) => self.fail(id, error),
            Tail::End(trailers) => {
                let pairs = self.remote.map_or(0, |remote| remote.pairs);
                let Self { out, pairs_out, .. } = self;
                write::frame(out, Type::End, id, |out| {
                    if !trailers.is_empty() {
                        pairs_out.write(out, trailers.as_headers(), nothing, pairs);
                    }
                });
                self.remove(id);
            }
        }
    }

    /// A call with something to send, or somebody who waits, gets a place among the turns.
    pub(super) fn take_turn(&mut self, id: u32) {
        let Some(stream) = self.streams.get_mut(&id) else { return };
        if !stream.in_turn && (!stream.queue.is_empty() || stream.wanted) {
            stream.in_turn = true;
            self.turns.push_back(id);
        }
    }

    /// Moves pieces to the output, from each call in turn, while there is credit and the output is short.
    pub(super) fn pump(&mut self) {
        while self.out.len() < ENOUGH
            && self.credit > OVERHEAD
            && let Some(id) = self.turns.pop_front()
        {
            self.mark();
            let Some(stream) = self.streams.get_mut(&id) else { continue };
            stream.in_turn = false;
            let full = self.out.len() + TURN;
            while self.out.len() < full
                && self.credit > OVERHEAD
                && let Some(message) = stream.queue.front_mut()
            {
                let most = PIECE.min((self.credit.min(stream.credit).saturating_sub(OVERHEAD)) as usize);
                if most == 0 && !(message.is_empty() && stream.credit >= OVERHEAD) {
                    break;
                }
                let piece = message.split_to(most.min(message.len()));
                self.queued -= piece.len();
                let more = !message.is_empty();
                if !more {
                    stream.queue.pop_front();
                    self.queued -= ENTRY;
                }
                let cost = OVERHEAD + piece.len() as u32;
                stream.credit -= cost;
                self.credit -= cost;
                write::data(&mut self.out, id, if more { data::MORE } else { 0 }, &piece);
            }
            if let Some(message) = stream.queue.front() {
                // Without credit of its own the next credit gives it a turn.
                if stream.credit > OVERHEAD || (message.is_empty() && stream.credit >= OVERHEAD) {
                    stream.in_turn = true;
                    self.turns.push_back(id);
                }
                continue;
            }
            if stream.queue.capacity() > spare::MANY {
                stream.queue = VecDeque::new();
            }
            if std::mem::take(&mut stream.wanted) {
                self.writable.push(id);
            }
            if let Some(tail) = stream.tail.take() {
                self.write_tail(id, &tail);
            }
        }
        self.mark();
        if self.credit <= OVERHEAD && self.out.len() < ENOUGH {
            self.tell_idle();
        }
    }

    /// Who only waits to be told that there is room needs no credit for that: it may have an end to say, which costs none.
    fn tell_idle(&mut self) {
        let Self { turns, streams, writable, .. } = self;
        turns.retain(|id| {
            let Some(stream) = streams.get_mut(id) else { return false };
            if !stream.queue.is_empty() || stream.tail.is_some() {
                return true;
            }
            stream.in_turn = false;
            if std::mem::take(&mut stream.wanted) {
                writable.push(*id);
            }
            false
        });
    }
}

/// Writes messages of at most so many bytes while the output is short and there is credit. False if some are left, which the
/// run is then.
fn write_run(out: &mut Vec<u8>, id: u32, run: &mut Run, most: usize, credit: &mut u32) -> bool {
    // What frames cost is what they take on the wire.
    if out.len() < ENOUGH
        && let Some(frames) = run.frames()
        && let Some(left) = credit.checked_sub(u32::try_from(frames.len()).unwrap_or(u32::MAX))
        && write::frames(out, id, frames, most)
    {
        *credit = left;
        return true;
    }
    while out.len() < ENOUGH
        && let Some(message) = run.peek()
        && message.len() <= most
        && let Some(left) = credit.checked_sub(OVERHEAD + message.len() as u32)
    {
        *credit = left;
        write::data(out, id, 0, message);
        run.next_slice();
    }
    run.is_empty()
}
