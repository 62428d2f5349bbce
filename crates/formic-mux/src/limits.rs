//! What each side lets the other send, exchanged in the greeting.

use bytes::BufMut;

use crate::codec::{Fault, MAGIC, Reader, VERSION};

/// The least credit: every frame fits.
const LEAST_CREDIT: u32 = 64 << 10;

/// The most of a table that is used, whatever the other side offers: memory of this side too.
pub(crate) const LARGEST_TABLE: u32 = 1024;

/// A block of metadata must leave room in its frame for everything else.
const LARGEST_BLOCK: u32 = 32 << 10;

/// What of a call may be on its way at most, where the way is long.
pub(crate) const MOST_ON_ITS_WAY: u32 = 4 << 20;

/// More credit than this at a time is a fault.
pub const MAX_CREDIT: u32 = i32::MAX as u32;

/// The one fault that is nobody's.
pub const NO_VERSION: Fault = Fault("there is no version that both sides speak");

/// A greeting without limits.
const SHORTEST: usize = 11;

/// More limits than this are a fault.
const MOST: u8 = 32;

/// What one side lets the other send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Calls open at a time; a server's.
    pub calls: u32,
    /// Bytes of a message.
    pub message: u32,
    /// Credit that each direction of a call begins with.
    pub stream_credit: u32,
    /// Credit that the connection begins with.
    pub connection_credit: u32,
    /// Entries of the table of paths.
    pub paths: u32,
    /// Entries of the table of metadata.
    pub pairs: u32,
    /// Bytes of names and values in a block, and 32 for each pair.
    pub metadata: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            calls: 1024,
            message: 4 << 20,
            // More only has small answers wait behind it, unless the way is long.
            stream_credit: 512 << 10,
            // Half of it for streams as they begin, half for those that are given more: thirty-two may stand unread before the data of
            // others waits.
            connection_credit: 32 << 20,
            paths: 256,
            pairs: 256,
            metadata: 16 << 10,
        }
    }
}

impl Limits {
    /// What counts for a side that did not say it.
    const UNSAID: Self = Self {
        calls: 1024,
        message: 4 << 20,
        stream_credit: LEAST_CREDIT,
        connection_credit: LEAST_CREDIT,
        paths: 1,
        pairs: 0,
        metadata: 16 << 10,
    };

    /// Writes the greeting.
    pub fn write(&self, out: &mut Vec<u8>) {
        let limits = [
            self.calls,
            self.message,
            self.stream_credit,
            self.connection_credit,
            self.paths,
            self.pairs,
            self.metadata,
        ];
        out.extend_from_slice(&MAGIC);
        out.extend_from_slice(&[VERSION, VERSION, limits.len() as u8]);
        for (number, limit) in (1u16..).zip(limits) {
            out.put_u16(number);
            out.put_u32(limit);
        }
    }

    /// How long a greeting is that begins so, as far as that can be said already.
    ///
    /// # Errors
    /// If it is none.
    pub fn length(greeting: &[u8]) -> Result<usize, Fault> {
        let known = greeting.len().min(MAGIC.len());
        if greeting[..known] != MAGIC[..known] {
            return Err(Fault("the greeting is another protocol's"));
        }
        match greeting.get(SHORTEST - 1) {
            None => Ok(SHORTEST),
            Some(&count) if count <= MOST => Ok(SHORTEST + usize::from(count) * 6),
            Some(_) => Err(Fault("a greeting has more than 32 limits")),
        }
    }

    /// Reads a whole greeting.
    ///
    /// # Errors
    /// If there is no common version, or a limit makes no sense.
    pub fn read(greeting: &[u8]) -> Result<Self, Fault> {
        let mut reader = Reader(greeting);
        reader.take(MAGIC.len())?;
        let [highest, lowest, count] = reader.array()?;
        if lowest > VERSION || highest < VERSION {
            return Err(NO_VERSION);
        }
        let mut limits = Self::UNSAID;
        for _ in 0..count {
            let (number, value) = (reader.u16()?, reader.u32()?);
            match number {
                1 => limits.calls = value,
                2 => limits.message = value,
                3 => limits.stream_credit = value,
                4 => limits.connection_credit = value,
                5 => limits.paths = value.min(LARGEST_TABLE),
                6 => limits.pairs = value.min(LARGEST_TABLE),
                7 => limits.metadata = value.min(LARGEST_BLOCK),
                _ => {}
            }
        }
        reader.end()?;
        let credit = LEAST_CREDIT..=MAX_CREDIT;
        if !credit.contains(&limits.stream_credit) || !credit.contains(&limits.connection_credit) {
            return Err(Fault("a greeting offers too little credit, or too much"));
        }
        if limits.paths == 0 {
            return Err(Fault("a greeting offers no room for a path"));
        }
        Ok(limits)
    }

    /// The same within what this crate can do, whoever configured it.
    #[must_use]
    pub fn sane(self) -> Self {
        let credit = |value: u32| value.clamp(LEAST_CREDIT, MAX_CREDIT);
        Self {
            calls: self.calls.max(1),
            message: self.message,
            stream_credit: credit(self.stream_credit),
            connection_credit: credit(self.connection_credit),
            paths: self.paths.clamp(1, LARGEST_TABLE),
            pairs: self.pairs.min(LARGEST_TABLE),
            metadata: self.metadata.min(LARGEST_BLOCK),
        }
    }
}
