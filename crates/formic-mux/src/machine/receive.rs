//! What the other side says.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use formic_core::{Code, Error};

use super::hold::{CALL, LONG_FRAME};
use super::stream::Stream;
use super::{Event, LAST_NUMBER, Machine, Request, Role};
use crate::codec::frame::{self, Failure, PONG};
use crate::codec::{Fault, Frame, HEADER, Header, Type, write};
use crate::limits::{Limits, MAX_CREDIT};
use crate::tables::footprint;

/// What is kept of the room for frames that are cut.
const KEPT: usize = 4 << 10;

/// What is kept of the words with which the other side gives the connection up; they go into the error of each call.
const LONGEST_BLAME: usize = 256;

impl<T: Default> Machine<T> {
    /// Reads on until something has happened, or the input is used up.
    ///
    /// # Errors
    /// If the other side breaks the rules; the connection is over then.
    pub fn receive(&mut self, input: &mut &[u8], now: Duration) -> Result<Option<Event<T>>, Fault> {
        if !input.is_empty() {
            self.heard = now;
            self.asked = None;
        }
        loop {
            if let Some(event) = self.events.pop_front() {
                return Ok(Some(event));
            }
            if self.remote.is_none() {
                if !self.greeting(input)? {
                    return Ok(None);
                }
                return Ok(Some(Event::Greeted));
            }
            let event = if self.open.is_some() {
                if input.is_empty() {
                    return Ok(None);
                }
                self.open_goes_on(input)
            } else if self.input.is_empty()
                && let Some(head) = input.first_chunk::<HEADER>()
            {
                let header = Header::parse(head)?;
                if header.kind == Type::Data
                    && let Some(event) = self.together(input)?
                {
                    Some(event)
                } else if let Some(payload) = input.get(HEADER..HEADER + header.length) {
                    *input = &input[HEADER + header.length..];
                    self.frame(header, payload)?
                } else if self.open_frame(header, input)? {
                    None
                } else {
                    self.gathered(input)?
                }
            } else {
                self.gathered(input)?
            };
            if event.is_none() && input.is_empty() && self.events.is_empty() {
                return Ok(None);
            }
            if event.is_some() {
                return Ok(event);
            }
        }
    }

    /// A frame of which a part is kept, once the rest has come.
    fn gathered(&mut self, input: &mut &[u8]) -> Result<Option<Event<T>>, Fault> {
        let Some(whole) = self.gather(input)? else { return Ok(None) };
        let head: [u8; HEADER] = whole[..HEADER].try_into().unwrap_or_default();
        let event = self.frame(Header::parse(&head)?, &whole[HEADER..])?;
        // The room is kept for the next frame that is cut, if it is little: what is kept counts as what is held.
        if whole.capacity() <= KEPT {
            self.input = whole;
            self.input.clear();
        }
        Ok(event)
    }

    /// The greeting, once it is whole.
    fn greeting(&mut self, input: &mut &[u8]) -> Result<bool, Fault> {
        loop {
            let length = Limits::length(&self.input)?;
            if self.input.len() == length && length > 0 {
                let mut remote = Limits::read(&self.input)?;
                // What is noted of what is said takes memory of this side too: no more than it offers itself.
                remote.pairs = remote.pairs.min(self.local.pairs);
                self.credit = remote.connection_credit;
                self.remote = Some(remote);
                self.input = BytesMut::new();
                return Ok(true);
            }
            // Each byte on its own: what is no greeting is to be known at its first byte that differs.
            let Some((&byte, rest)) = input.split_first() else { return Ok(false) };
            self.input.extend_from_slice(&[byte]);
            *input = rest;
        }
    }

    /// A frame that was cut, once it is whole.
    fn gather(&mut self, input: &mut &[u8]) -> Result<Option<BytesMut>, Fault> {
        loop {
            let length = match self.input.first_chunk::<HEADER>() {
                Some(head) => HEADER + Header::parse(head)?.length,
                None => HEADER,
            };
            // Without a whole header there are fewer bytes than one has.
            if self.input.len() == length {
                self.cut = None;
                return Ok(Some(std::mem::take(&mut self.input)));
            }
            if input.is_empty() {
                self.cut.get_or_insert(self.heard);
                // Drawn if it can be. It may be about anything, and cannot be refused.
                self.room(0);
                return Ok(None);
            }
            let (now, later) = input.split_at((length - self.input.len()).min(input.len()));
            if self.input.len() + now.len() > LONG_FRAME {
                // Not twice of it, as a buffer grows by itself.
                self.input.reserve(length - self.input.len());
            }
            self.input.extend_from_slice(now);
            *input = later;
        }
    }

    fn frame(&mut self, header: Header, payload: &[u8]) -> Result<Option<Event<T>>, Fault> {
        let (id, client) = (header.id, self.role == Role::Client);
        match Frame::parse(header, payload)? {
            Frame::Request(request) if !client => self.request(id, &request),
            Frame::Response(response) if client => self.response(id, &response),
            Frame::Data { more, end, piece } if !(client && end) => self.data_frame(id, more, end, piece),
            Frame::End(block) => self.end_frame(id, block),
            Frame::Error(failure) if client => self.error_frame(id, &failure),
            Frame::Cancel(_) if !client => {
                self.known(id)?;
                Ok(self.remove(id).map(|stream| Event::Canceled { id, data: stream.data }))
            }
            Frame::Credit(more) => self.credit_frame(id, more),
            Frame::Ping { answer: true, bytes } => {
                self.pace.answered(bytes, self.heard, self.window);
                Ok(None)
            }
            Frame::Ping { answer: false, bytes } => {
                write::ping(&mut self.out, PONG, bytes);
                Ok(None)
            }
            Frame::GoAway { last, reason, text } => self.go_away_frame(last, reason, text),
            _ => Err(Fault("a frame came from the wrong side")),
        }
    }

    /// A frame about a call that never was is a fault; about one that is over, it is merely late.
    pub(super) fn known(&self, id: u32) -> Result<(), Fault> {
        if id <= self.highest { Ok(()) } else { Err(Fault("a frame is about a call that never was")) }
    }

    fn request(&mut self, id: u32, request: &frame::Request<'_>) -> Result<Option<Event<T>>, Fault> {
        if id <= self.highest || id >= LAST_NUMBER {
            return Err(Fault("a call has a number that was used before"));
        }
        // The client knows from the go-away which calls are not taken. No other will be, so what these have noted is of no use.
        if self.leaving {
            self.highest = id;
            return Ok(None);
        }
        // The tables change whatever becomes of the call.
        let (place, path) = self.paths_in.read(request.method, self.local.paths)?;
        let metadata = self.pairs_in.read(request.metadata, self.local.pairs, self.local.metadata)?;
        let head = footprint(metadata.as_headers()) + if request.end { 0 } else { CALL };
        let takes = head + request.message.map_or(0, <[u8]>::len);
        let fits = self.room(takes);
        if !fits {
            // The last call that was taken is the one before.
            self.begin_anew(takes);
        }
        self.highest = id;
        if self.leaving {
            return Ok(None);
        }
        if self.streams.len() >= self.local.calls as usize {
            let text = format!("{} calls are open on this connection, its limit", self.local.calls);
            self.write_error(id, &Error::resource_exhausted(text), true);
            return Ok(None);
        }
        if !fits {
            let error = self.no_room(true);
            self.write_error(id, &error, true);
            return Ok(None);
        }
        let credit = self.remote.map_or(0, |remote| remote.stream_credit);
        let mut stream =
            Stream::new(T::default(), !request.end, self.local.stream_credit, self.window, credit);
        let mut message = None;
        if let Some(bytes) = request.message {
            if bytes.len() > self.local.message as usize {
                let error = self.too_large();
                self.write_error(id, &error, false);
                return Ok(None);
            }
            if request.more {
                if self.partial + bytes.len() > self.most_partial {
                    let error = self.too_large();
                    self.write_error(id, &error, false);
                    return Ok(None);
                }
                stream.partial.extend_from_slice(bytes);
                stream.unfinished = true;
                self.partial += bytes.len();
            } else {
                message = Some(Bytes::copy_from_slice(bytes));
                stream.working = bytes.len();
                self.working += bytes.len();
            }
        }
        stream.head = head;
        self.heads += head;
        self.streams.insert(id, stream);
        Ok(Some(Event::Request(Request {
            id,
            place,
            path,
            json: request.json,
            timeout: request.timeout,
            trace: request.trace,
            attempt: request.attempt,
            metadata,
            message,
            end: request.end,
        })))
    }

    fn response(&mut self, id: u32, response: &frame::Response<'_>) -> Result<Option<Event<T>>, Fault> {
        self.known(id)?;
        let (pairs, most) = (self.local.pairs, self.local.metadata);
        let metadata = self.pairs_in.read(response.metadata, pairs, most)?;
        let trailers = self.pairs_in.read(response.trailers, pairs, most)?;
        let Some(stream) = self.streams.get_mut(&id) else { return Ok(None) };
        if stream.responded {
            return Err(Fault("a call has two responses"));
        }
        if !response.end {
            stream.responded = true;
            return Ok(Some(Event::Response { id, metadata }));
        }
        if response.message.is_some_and(|message| message.len() > self.local.message as usize) {
            return Ok(self.refuse(id));
        }
        let message = response.message.map(Bytes::copy_from_slice);
        let stream = self.remove(id);
        Ok(stream.map(|stream| Event::Answer { data: stream.data, metadata, trailers, message }))
    }

    fn end_frame(&mut self, id: u32, block: frame::Block<'_>) -> Result<Option<Event<T>>, Fault> {
        self.known(id)?;
        let trailers = self.pairs_in.read(block, self.local.pairs, self.local.metadata)?;
        let Some(stream) = self.streams.get_mut(&id) else { return Ok(None) };
        if !stream.receiving || stream.unfinished {
            return Err(Fault("a direction ends where it cannot"));
        }
        if self.role == Role::Server {
            if !block.is_empty() {
                return Err(Fault("a request has trailing metadata"));
            }
            stream.receiving = false;
            if stream.waiting == 0 {
                self.narrow(id);
            }
            return Ok(Some(Event::Finished { id }));
        }
        if !stream.responded {
            return Err(Fault("an answer ends before it begins"));
        }
        Ok(self.remove(id).map(|stream| Event::End { data: stream.data, trailers }))
    }

    fn error_frame(&mut self, id: u32, failure: &Failure<'_>) -> Result<Option<Event<T>>, Fault> {
        self.known(id)?;
        let metadata = self.pairs_in.read(failure.metadata, self.local.pairs, self.local.metadata)?;
        let code = Code::from_number(failure.code.into()).unwrap_or(Code::Unknown);
        let mut error = Error::new(code, failure.text);
        for (name, value) in failure.details.iter() {
            error = error.with_detail(name, Bytes::copy_from_slice(value));
        }
        *error.metadata_mut() = metadata;
        if failure.refused {
            error = error.with_unsent();
        }
        Ok(self.remove(id).map(|stream| Event::Failed { data: stream.data, error }))
    }

    fn credit_frame(&mut self, id: u32, more: u32) -> Result<Option<Event<T>>, Fault> {
        let endless = Fault("there is credit without end");
        let add = |credit: u32| credit.checked_add(more).filter(|&sum| sum <= MAX_CREDIT).ok_or(endless);
        if id == 0 {
            self.credit = add(self.credit)?;
            return Ok(None);
        }
        self.known(id)?;
        if let Some(stream) = self.streams.get_mut(&id) {
            stream.credit = add(stream.credit)?;
            self.take_turn(id);
        }
        Ok(None)
    }

    fn go_away_frame(&mut self, last: u32, reason: u8, said: &str) -> Result<Option<Event<T>>, Fault> {
        self.left = Some(self.left.map_or(last, |before| before.min(last)));
        if self.role == Role::Client {
            let text = match reason {
                0 => "the server is going away",
                1 => "the server gave the connection up",
                2 => "the server speaks no common version",
                _ => "the server had no call for long",
            };
            let mut text = text.to_owned();
            if reason == 1 && !said.is_empty() {
                // Calls that were taken end with the connection, and say this then.
                let said = plain(&said[..said.floor_char_boundary(LONGEST_BLAME)]);
                text = format!("{text}: {said}");
                self.blamed = Some(said.into());
            }
            let after: Vec<u32> = self.streams.keys().copied().filter(|&id| id > last).collect();
            for id in after {
                if let Some(stream) = self.remove(id) {
                    self.events.push_back(Event::Failed { data: stream.data, error: Self::unsent(&text) });
                }
            }
        }
        Ok(Some(Event::GoAway))
    }

    /// The application has taken the first of the messages that came together, or will take none any more.
    pub fn consumed(&mut self, id: u32, mut charge: u32) {
        if charge == 0 {
            // It came with the request, which costs nothing.
            return;
        }
        self.waiting = self.waiting.saturating_sub(1);
        if let Some(stream) = self.streams.get_mut(&id) {
            stream.waiting = stream.waiting.saturating_sub(1);
            self.beyond -= std::mem::take(&mut stream.beyond);
            if stream.waiting == 0 {
                charge += std::mem::take(&mut stream.partial_charge);
            }
            let over = !stream.receiving && stream.waiting == 0;
            self.repay(id, charge);
            if over {
                self.narrow(id);
            }
        } else {
            self.give_back(charge);
        }
        self.settle();
    }

    /// Messages that came were put to those before them, and will be taken with them.
    pub fn joined(&mut self, id: u32) {
        self.waiting = self.waiting.saturating_sub(1);
        if let Some(stream) = self.streams.get_mut(&id) {
            stream.waiting = stream.waiting.saturating_sub(1);
        }
    }

    /// The application will not take so many messages, or batches of them, that cost so much, and their call gets no credit for
    /// them.
    pub fn release(&mut self, messages: usize, charge: u32) {
        self.waiting = self.waiting.saturating_sub(messages);
        self.give_back(charge);
        self.settle();
    }

    /// The application takes no message of a call any more; so many, or batches of them, that cost so much were not taken. What comes
    /// is forgotten as it comes: it costs the other calls nothing, and this one gets no credit for it.
    pub fn forget(&mut self, id: u32, messages: usize, mut charge: u32) {
        if let Some(stream) = self.streams.get_mut(&id) {
            stream.forgotten = true;
            self.partial -= std::mem::take(&mut stream.partial).len();
            self.slack -= std::mem::take(&mut stream.slack);
            self.beyond -= std::mem::take(&mut stream.beyond);
            charge += std::mem::take(&mut stream.partial_charge);
        }
        self.narrow(id);
        self.release(messages, charge);
    }

    /// Gives a call's credit back, in portions worth a frame, and the connection's.
    pub(super) fn repay(&mut self, id: u32, charge: u32) {
        if let Some(stream) = self.streams.get_mut(&id) {
            stream.owed += charge;
            let granted = self.role == Role::Client || stream.granted;
            // What is owed and not given back yet is not on its way. Who was not let in may send less than half of a window.
            let enough = stream.window / if granted { 4 } else { 2 };
            if stream.owed >= enough && stream.receiving && !stream.paused {
                let wide = self.pace.wide(self.window);
                let less = stream.window.saturating_sub(wide).min(stream.owed);
                stream.owed -= less;
                stream.window -= less;
                self.wider -= less;
                // Only what was read is to send more. Those that have more and are not read any more, also if they have ended, leave
                // half of the connection to others, and half of what is left to those that come after them.
                if charge > 0 && granted {
                    let taken =
                        self.wider + self.local.connection_credit.saturating_sub(self.credit_in + self.owed);
                    let left = (self.local.connection_credit / 2).saturating_sub(taken);
                    let more = wide.saturating_sub(stream.window).min(left / 2);
                    stream.owed += more;
                    stream.window += more;
                    self.wider += more;
                }
                let owed = std::mem::take(&mut stream.owed);
                if owed > 0 {
                    stream.credit_in += owed;
                    write::credit(&mut self.out, id, owed);
                }
            }
        }
        self.give_back(charge);
    }

    /// What a call may send more than at the beginning is others' once nothing of it is waited for.
    fn narrow(&mut self, id: u32) {
        if let Some(stream) = self.streams.get_mut(&id) {
            self.wider -= stream.window.saturating_sub(self.window);
            stream.window = stream.window.min(self.window);
        }
    }

    pub(super) fn give_back(&mut self, charge: u32) {
        self.owed += charge;
        // Half of what the other side may still send, not of what it began with: others of its streams may hold the rest for long.
        if self.owed >= self.credit_in / 2 && self.owed > 0 {
            let owed = std::mem::take(&mut self.owed);
            self.credit_in += owed;
            write::credit(&mut self.out, 0, owed);
        }
    }

    fn too_large(&self) -> Error {
        Error::resource_exhausted(format!("a message is larger than {} bytes, the limit", self.local.message))
    }

    /// Ends a call whose messages are too large, or too many at once.
    pub(super) fn refuse(&mut self, id: u32) -> Option<Event<T>> {
        let error = self.too_large();
        let stream = self.remove(id)?;
        if self.role == Role::Client {
            self.write_cancel(id, Code::ResourceExhausted);
            return Some(Event::Failed { data: stream.data, error });
        }
        self.write_error(id, &error, false);
        Some(Event::Canceled { id, data: stream.data })
    }
}

/// Without what would move a terminal's cursor or turn its text around: it may be printed.
fn plain(said: &str) -> String {
    let acts = |c: char| c.is_control() || matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    said.chars().map(|c| if acts(c) { char::REPLACEMENT_CHARACTER } else { c }).collect()
}
