//! Messages as they come in: whole ones of a call that stand together are passed on together, and of a long one every
//! piece goes where the message is put together, whether or not all of its frame is there.

use bytes::{Bytes, BytesMut};
use formic_rpc::Run;

use super::{Event, Machine, Role};
use crate::codec::{Fault, HEADER, Header, MAX_PAYLOAD, Type, write};

/// Messages that are passed on together take so many bytes, or little more: their credit comes back when the first is taken.
const TOGETHER: usize = 32 << 10;

/// A frame with fewer bytes is waited for. What is put together piece by piece is counted at every piece.
const LONG: usize = 4 << 10;

/// Room for a whole message is made only for a sender who has sent so much of it, and another as long before.
const EARNED: usize = 32 << 10;

/// The most room that is made at once: nobody is to have much held for a little.
const MOST_ROOM: usize = 2 << 20;

/// A data frame of which a part is there.
#[derive(Debug)]
pub(super) struct Open {
    id: u32,
    left: usize,
    more: bool,
    end: bool,
    /// What is owed for it when it is there.
    charge: u32,
}

impl<T: Default> Machine<T> {
    /// Whole messages of one call, one behind the other, if the input begins with such.
    pub(super) fn together(&mut self, input: &mut &[u8]) -> Result<Option<Event<T>>, Fault> {
        let Some(&[.., a, b, c, d]) = input.first_chunk::<HEADER>() else { return Ok(None) };
        let id = u32::from_be_bytes([a, b, c, d]);
        let Some(stream) = self.streams.get(&id) else { return Ok(None) };
        if !stream.receiving
            || stream.unfinished
            || stream.forgotten
            || (self.role == Role::Client && !stream.responded)
        {
            return Ok(None);
        }
        let most = MAX_PAYLOAD.min((self.local.message as usize).saturating_add(1));
        let (mut taken, mut count) = (0, 0);
        while taken < TOGETHER
            && let Some(&[x, y, z, kind, e, f, g, h, flags]) = input[taken..].first_chunk()
            && (kind, [e, f, g, h], flags) == (Type::Data as u8, [a, b, c, d], 0)
            && let length = u32::from_be_bytes([0, x, y, z]) as usize
            && (1..=most).contains(&length)
            && input.len() >= taken + HEADER + length
        {
            taken += HEADER + length;
            count += 1;
        }
        if count < 2 {
            return Ok(None);
        }
        // What frames cost is what they take on the wire.
        let charge = taken as u32;
        if !self.room(taken) {
            // As each on its own, of which one will be refused.
            return Ok(None);
        }
        let Some(stream) = self.streams.get_mut(&id) else { return Ok(None) };
        let overdrawn = Fault("there is more data than credit");
        self.credit_in = self.credit_in.checked_sub(charge).ok_or(overdrawn)?;
        stream.credit_in = stream.credit_in.checked_sub(charge).ok_or(overdrawn)?;
        stream.waiting += 1;
        self.waiting += 1;
        if let Some(question) = self.pace.note(&mut stream.came, charge, self.heard) {
            write::ping(&mut self.out, 0, question);
        }
        let (frames, rest) = input.split_at(taken);
        *input = rest;
        let messages = Run::framed(Bytes::copy_from_slice(frames), count);
        Ok(Some(Event::Messages { id, messages, charge, end: false }))
    }

    /// Begins a long data frame that is not there to its end.
    pub(super) fn open_frame(&mut self, header: Header, input: &mut &[u8]) -> Result<bool, Fault> {
        if header.kind != Type::Data || header.length < LONG {
            return Ok(false);
        }
        let Some(&flags) = input.get(HEADER) else { return Ok(false) };
        let (more, end) = crate::codec::frame::data_flags(header.id, flags)?;
        if self.role == Role::Client && end {
            return Err(Fault("a frame came from the wrong side"));
        }
        let left = header.length - 1;
        let (charge, refused) = self.data_begins(header.id, more, end, left)?;
        self.events.extend(refused);
        self.open = Some(Open { id: header.id, left, more, end, charge });
        *input = &input[HEADER + 1..];
        Ok(true)
    }

    /// Goes on with such a frame; what it leads to, if that was its end.
    pub(super) fn open_goes_on(&mut self, input: &mut &[u8]) -> Option<Event<T>> {
        let open = self.open.as_mut()?;
        let (now, later) = input.split_at(open.left.min(input.len()));
        *input = later;
        open.left -= now.len();
        let (id, left) = (open.id, open.left);
        self.put(id, now, left);
        if left > 0 {
            return None;
        }
        let Open { more, end, charge, .. } = self.open.take()?;
        self.data_ends(id, more, end, charge)
    }

    /// A data frame that is there as a whole.
    pub(super) fn data_frame(
        &mut self,
        id: u32,
        more: bool,
        end: bool,
        piece: &[u8],
    ) -> Result<Option<Event<T>>, Fault> {
        let (charge, refused) = self.data_begins(id, more, end, piece.len())?;
        if refused.is_some() {
            return Ok(refused);
        }
        let Some(stream) = self.streams.get_mut(&id) else { return Ok(None) };
        if stream.forgotten {
            return Ok(None);
        }
        if !more && stream.partial.is_empty() {
            // Nothing is to be put together.
            stream.unfinished = false;
            stream.waiting += 1;
            self.waiting += 1;
            let charge = charge + std::mem::take(&mut stream.partial_charge);
            let messages = Run::from(Bytes::copy_from_slice(piece));
            return Ok(Some(Event::Messages { id, messages, charge, end }));
        }
        self.put(id, piece, 0);
        Ok(self.data_ends(id, more, end, charge))
    }

    /// Puts a piece to a call's unfinished message, of whose frame so much is left, and counts the room that is made for more.
    fn put(&mut self, id: u32, piece: &[u8], left: usize) {
        // A call that was ended meanwhile leaves bytes that nobody needs.
        let Some(mut stream) = self.streams.get_mut(&id).filter(|stream| !stream.forgotten) else { return };
        let (capacity, came) = (stream.partial.capacity(), stream.partial.len() + piece.len());
        // All of the frame costs credit, and so is counted.
        let needed = came + left;
        if needed > capacity {
            // None is longer.
            let most = needed.max(self.local.message as usize);
            let usual = stream.usual.min(MOST_ROOM.max(2 * came));
            let earned = came >= EARNED && needed < usual;
            let ahead = if earned { usual } else { needed.max(2 * capacity) }.min(most);
            let room = if ahead == needed || self.room_ahead(ahead - capacity) {
                ahead
            } else {
                let more = if self.room(capacity / 4) { capacity / 4 } else { capacity / 16 };
                needed.max(capacity + more).min(most)
            };
            let Some(same) = self.streams.get_mut(&id) else { return };
            stream = same;
            if room >= 2 * capacity {
                stream.partial.reserve(room - stream.partial.len());
            } else {
                // By itself a buffer grows to twice of it.
                let mut larger = BytesMut::with_capacity(room);
                larger.extend_from_slice(&stream.partial);
                stream.partial = larger;
            }
        }
        stream.partial.extend_from_slice(piece);
        self.partial += piece.len();
        let slack = stream.partial.capacity().saturating_sub(needed);
        self.slack += slack;
        self.slack -= std::mem::replace(&mut stream.slack, slack);
    }

    /// Counts a data frame, and refuses what is too much. The result is what its arrival is to give back.
    fn data_begins(
        &mut self,
        id: u32,
        more: bool,
        end: bool,
        length: usize,
    ) -> Result<(u32, Option<Event<T>>), Fault> {
        self.known(id)?;
        let charge = super::stream::OVERHEAD + length as u32;
        let overdrawn = Fault("there is more data than credit");
        self.credit_in = self.credit_in.checked_sub(charge).ok_or(overdrawn)?;
        let Some(stream) = self.streams.get_mut(&id) else {
            self.give_back(charge);
            return Ok((0, None));
        };
        if !stream.receiving || (self.role == Role::Client && !stream.responded) {
            return Err(Fault("data is where none is expected"));
        }
        stream.credit_in = stream.credit_in.checked_sub(charge).ok_or(overdrawn)?;
        stream.receiving = !end;
        if let Some(question) = self.pace.note(&mut stream.came, charge, self.heard) {
            write::ping(&mut self.out, 0, question);
        }
        if stream.forgotten {
            stream.unfinished = more;
            self.give_back(charge);
            return Ok((0, None));
        }
        let too_large = stream.partial.len() + length > self.local.message as usize;
        let too_much = more && self.partial + length > self.most_partial;
        if too_large || too_much {
            self.give_back(charge);
            return Ok((0, self.refuse(id)));
        }
        stream.unfinished = true;
        let unseen = stream.gathering;
        // What it costs counts already.
        if !self.room(0) {
            self.give_back(charge);
            let given_up = self.turn_away(id, unseen);
            return Ok((0, given_up.map(|stream| Event::Canceled { id, data: stream.data })));
        }
        Ok((charge, None))
    }

    /// All of a frame has come, and with it perhaps a message.
    fn data_ends(&mut self, id: u32, more: bool, end: bool, charge: u32) -> Option<Event<T>> {
        let Some(stream) = self.streams.get_mut(&id) else {
            // It was ended while the frame was on its way.
            self.give_back(charge);
            return None;
        };
        if stream.forgotten {
            // Perhaps only since it began.
            stream.unfinished = more;
            self.give_back(charge);
            return None;
        }
        stream.partial_charge += charge;
        if more {
            if stream.waiting == 0 {
                let charge = std::mem::take(&mut stream.partial_charge);
                self.repay(id, charge);
            }
            return None;
        }
        let length = stream.partial.len();
        self.partial -= length;
        self.slack -= std::mem::take(&mut stream.slack);
        stream.usual = length;
        stream.unfinished = false;
        stream.waiting += 1;
        self.waiting += 1;
        let (message, mut taken) = (std::mem::take(&mut stream.partial), length);
        // One that grew has at most as much room again as it is long, which the next of its length finds already made; one that is
        // shorter than usual may have more.
        let messages = if message.capacity() - length > length.max(LONG) {
            Run::from(Bytes::copy_from_slice(&message))
        } else {
            taken = message.capacity();
            Run::from(message.freeze())
        };
        let charge = std::mem::take(&mut stream.partial_charge);
        // Much it is only of the first that waits: the credit of others is not given back before, and is half of what they take at least.
        let beyond = taken.saturating_sub(charge as usize);
        stream.beyond += beyond;
        self.beyond += beyond;
        Some(Event::Messages { id, messages, charge, end })
    }
}
