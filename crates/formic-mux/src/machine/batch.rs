//! Messages that came together: a reader takes them with one lock, one wake and one copy, however many they are.

use bytes::{Buf, Bytes};

use crate::codec::HEADER;

/// What stands before a message in a data frame: the header and the flags.
const BEFORE: usize = HEADER + 1;

/// One message, or several of one call that came one behind the other; empty once they are taken.
#[derive(Clone, Debug, Default)]
pub struct Batch {
    bytes: Bytes,
    kind: Kind,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Kind {
    #[default]
    Empty,
    Message,
    /// Data frames as they were on the wire, each a whole message.
    Frames,
}

impl From<Bytes> for Batch {
    fn from(message: Bytes) -> Self {
        Self { bytes: message, kind: Kind::Message }
    }
}

impl Batch {
    /// Whoever makes one of frames has looked through all of them.
    pub(super) fn frames(bytes: Bytes) -> Self {
        debug_assert!(bytes.len() >= BEFORE, "there is a frame");
        Self { bytes, kind: Kind::Frames }
    }

    /// Whether every message was taken.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.kind == Kind::Empty
    }
}

impl Iterator for Batch {
    type Item = Bytes;

    fn next(&mut self) -> Option<Bytes> {
        match self.kind {
            Kind::Empty => return None,
            Kind::Message => {}
            Kind::Frames => {
                let [a, b, c, ..] = *self.bytes.first_chunk::<BEFORE>()?;
                // The length counts the flags.
                let length = (u32::from_be_bytes([0, a, b, c]) as usize).checked_sub(1)?;
                self.bytes.advance(BEFORE);
                if self.bytes.len() > length {
                    return Some(self.bytes.split_to(length));
                }
            }
        }
        self.kind = Kind::Empty;
        Some(std::mem::take(&mut self.bytes))
    }
}
