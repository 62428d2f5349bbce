//! One payload as the frame that it is; everything in it is borrowed.

use std::time::Duration;

use formic_rpc::TraceContext;

use super::{Fault, Header, MAX_PATH, Reader, Type};

/// Flags of a request.
pub mod request {
    /// Messages are JSON.
    pub const JSON: u8 = 0x01;
    /// A timeout follows.
    pub const TIMEOUT: u8 = 0x02;
    /// A trace follows.
    pub const TRACE: u8 = 0x04;
    /// Somebody records the trace.
    pub const SAMPLED: u8 = 0x08;
    /// The number of the attempt follows.
    pub const ATTEMPT: u8 = 0x10;
    /// A message follows.
    pub const MESSAGE: u8 = 0x20;
    /// The message goes on in data frames.
    pub const MORE: u8 = 0x40;
    /// This is the whole request.
    pub const END: u8 = 0x80;
}

/// Flags of a response.
pub mod response {
    /// Trailing metadata follows the leading.
    pub const TRAILERS: u8 = 0x01;
    /// A message follows.
    pub const MESSAGE: u8 = 0x02;
    /// This is the whole answer.
    pub const END: u8 = 0x08;
}

/// Flags of data.
pub mod data {
    /// The message goes on.
    pub const MORE: u8 = 0x01;
    /// The sender has no more to send.
    pub const END: u8 = 0x02;
}

/// The flag of an error that no handler caused.
pub const REFUSED: u8 = 0x01;

/// The flag of a ping that is the answer to one.
pub const PONG: u8 = 0x01;

/// A frame.
#[derive(Clone, Copy, Debug)]
pub enum Frame<'a> {
    /// Begins a call.
    Request(Request<'a>),
    /// Begins an answer, or is one.
    Response(Response<'a>),
    /// A message, or a piece of one.
    Data {
        /// The message goes on.
        more: bool,
        /// Nothing comes after it.
        end: bool,
        /// The bytes.
        piece: &'a [u8],
    },
    /// The end of a direction; from a server with trailing metadata.
    End(Block<'a>),
    /// The call failed.
    Error(Failure<'a>),
    /// The caller is gone, for this reason (a code).
    Cancel(u8),
    /// More may be sent.
    Credit(u32),
    /// A question, or the answer.
    Ping {
        /// It is the answer.
        answer: bool,
        /// Comes back as it went.
        bytes: [u8; 8],
    },
    /// No more calls.
    GoAway {
        /// The last call that was taken.
        last: u32,
        /// See `docs/wire.md`.
        reason: u8,
        /// For people.
        text: &'a str,
    },
}

/// The beginning of a call.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    /// What is called.
    pub method: MethodRef<'a>,
    /// Messages are JSON.
    pub json: bool,
    /// How long the caller waits.
    pub timeout: Option<Duration>,
    /// The trace that the call is part of.
    pub trace: Option<TraceContext>,
    /// Which attempt this is, if it repeats one.
    pub attempt: Option<u8>,
    /// Leading metadata.
    pub metadata: Block<'a>,
    /// A message, or the beginning of one.
    pub message: Option<&'a [u8]>,
    /// The message goes on in data frames.
    pub more: bool,
    /// This is the whole request.
    pub end: bool,
}

/// The beginning of an answer.
#[derive(Clone, Copy, Debug)]
pub struct Response<'a> {
    /// Leading metadata.
    pub metadata: Block<'a>,
    /// Trailing metadata, if this is the whole answer.
    pub trailers: Block<'a>,
    /// The message, if this is the whole answer.
    pub message: Option<&'a [u8]>,
    /// This is the whole answer.
    pub end: bool,
}

/// How a call failed.
#[derive(Clone, Copy, Debug)]
pub struct Failure<'a> {
    /// No handler has seen the call.
    pub refused: bool,
    /// The number of the code.
    pub code: u8,
    /// For people.
    pub text: &'a str,
    /// For programs.
    pub details: Details<'a>,
    /// Trailing metadata.
    pub metadata: Block<'a>,
}

/// A method by its place in the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MethodRef<'a> {
    /// What stands there.
    Known(u32),
    /// What stands there from now on.
    Define(u32, &'a str),
}

/// Pairs of metadata, looked through once already.
#[derive(Clone, Copy, Debug, Default)]
pub struct Block<'a> {
    count: u32,
    pairs: &'a [u8],
}

/// One pair of metadata.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pair<'a> {
    /// A name and a value.
    Literal(&'a [u8], &'a [u8]),
    /// The same, and from now on in this place of the table.
    Define(u32, &'a [u8], &'a [u8]),
    /// What stands in this place of the table.
    Known(u32),
}

/// Names of types and encoded messages, looked through once already.
#[derive(Clone, Copy, Debug)]
pub struct Details<'a> {
    count: u32,
    rest: &'a [u8],
}

impl<'a> Frame<'a> {
    /// Reads a payload of the length that the header says.
    ///
    /// # Errors
    /// If it is not what its header says it is.
    pub fn parse(header: Header, payload: &'a [u8]) -> Result<Self, Fault> {
        let mut reader = Reader(payload);
        let about_call = !matches!(header.kind, Type::Credit | Type::Ping | Type::GoAway);
        if about_call && header.id == 0 {
            return Err(Fault("a frame of a call has the number 0"));
        }
        if matches!(header.kind, Type::Ping | Type::GoAway) && header.id != 0 {
            return Err(Fault("a frame of the connection has the number of a call"));
        }
        let frame = match header.kind {
            Type::Request => return Request::parse(reader).map(Self::Request),
            Type::Response => return Response::parse(reader).map(Self::Response),
            Type::Data => {
                let flags = reader.u8()?;
                let (more, end) = data_flags(header.id, flags)?;
                return Ok(Self::Data { more, end, piece: reader.0 });
            }
            Type::End if payload.is_empty() => Self::End(Block::default()),
            Type::End => Self::End(Block::parse(&mut reader)?),
            Type::Error => {
                let flags = reader.u8()?;
                if flags & !REFUSED != 0 {
                    return Err(Fault("an error has flags that say nothing"));
                }
                Self::Error(Failure {
                    refused: flags & REFUSED != 0,
                    code: reader.u8()?,
                    text: reader.text()?,
                    details: Details::parse(&mut reader)?,
                    metadata: Block::parse(&mut reader)?,
                })
            }
            Type::Cancel => Self::Cancel(reader.u8()?),
            Type::Credit => Self::Credit(reader.u32()?),
            Type::Ping => {
                let flags = reader.u8()?;
                if flags & !PONG != 0 {
                    return Err(Fault("a ping has flags that say nothing"));
                }
                Self::Ping { answer: flags & PONG != 0, bytes: reader.array()? }
            }
            Type::GoAway => Self::GoAway { last: reader.u32()?, reason: reader.u8()?, text: reader.text()? },
        };
        reader.end()?;
        Ok(frame)
    }
}

/// Whether the message of a data frame goes on, and whether it is the last.
pub(crate) fn data_flags(id: u32, flags: u8) -> Result<(bool, bool), Fault> {
    let (more, end) = (flags & data::MORE != 0, flags & data::END != 0);
    if id == 0 {
        return Err(Fault("a frame of a call has the number 0"));
    }
    if flags & !(data::MORE | data::END) != 0 || (more && end) {
        return Err(Fault("data has flags that say nothing"));
    }
    Ok((more, end))
}

impl<'a> Request<'a> {
    fn parse(mut reader: Reader<'a>) -> Result<Self, Fault> {
        let flags = reader.u8()?;
        let has = |flag| flags & flag != 0;
        let method = reader.varint()?;
        let method = if method & 1 == 0 {
            MethodRef::Known(method >> 1)
        } else {
            let path = reader.text()?;
            if path.len() > MAX_PATH {
                return Err(Fault("a path is longer than 1024 bytes"));
            }
            MethodRef::Define(method >> 1, path)
        };
        let timeout = if has(request::TIMEOUT) { Some(Duration::from_micros(reader.u64()?)) } else { None };
        let trace = if has(request::TRACE) {
            let trace_id = u128::from_be_bytes(reader.array()?);
            let span_id = reader.u64()?;
            // Zeros name nothing, and a trace that names nothing is none.
            let sampled = has(request::SAMPLED);
            (trace_id != 0 && span_id != 0).then_some(TraceContext { trace_id, span_id, sampled })
        } else {
            None
        };
        let attempt = if has(request::ATTEMPT) { Some(reader.u8()?) } else { None };
        let metadata = Block::parse(&mut reader)?;
        let (more, end) = (has(request::MORE), has(request::END));
        if more && (end || !has(request::MESSAGE)) {
            return Err(Fault("a request has flags that say nothing"));
        }
        let message = has(request::MESSAGE).then_some(reader.0);
        if message.is_none() {
            reader.end()?;
        }
        Ok(Self { method, json: has(request::JSON), timeout, trace, attempt, metadata, message, more, end })
    }
}

impl<'a> Response<'a> {
    fn parse(mut reader: Reader<'a>) -> Result<Self, Fault> {
        let flags = reader.u8()?;
        let has = |flag| flags & flag != 0;
        let metadata = Block::parse(&mut reader)?;
        let trailers = if has(response::TRAILERS) { Block::parse(&mut reader)? } else { Block::default() };
        let message = has(response::MESSAGE).then_some(reader.0);
        let end = has(response::END);
        let known = response::TRAILERS | response::MESSAGE | response::END;
        if flags & !known != 0 || (!end && (message.is_some() || has(response::TRAILERS))) {
            return Err(Fault("a response has flags that say nothing"));
        }
        if message.is_none() {
            reader.end()?;
        }
        Ok(Self { metadata, trailers, message, end })
    }
}

impl<'a> Block<'a> {
    /// Looks through the pairs, to find where they end.
    fn parse(reader: &mut Reader<'a>) -> Result<Self, Fault> {
        let count = reader.varint()?;
        let before = reader.0;
        for _ in 0..count {
            Pair::parse(reader)?;
        }
        let length = before.len() - reader.0.len();
        Ok(Self { count, pairs: &before[..length] })
    }

    /// Whether there is no pair.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// The pairs.
    pub fn pairs(self) -> impl Iterator<Item = Pair<'a>> {
        let mut reader = Reader(self.pairs);
        // They were read once, so they can be read.
        (0..self.count).map_while(move |_| Pair::parse(&mut reader).ok())
    }
}

impl<'a> Pair<'a> {
    fn parse(reader: &mut Reader<'a>) -> Result<Self, Fault> {
        Ok(match reader.varint()? {
            0 => Self::Literal(reader.bytes()?, reader.bytes()?),
            first if first & 1 == 1 => Self::Define(first >> 1, reader.bytes()?, reader.bytes()?),
            first => Self::Known((first >> 1) - 1),
        })
    }
}

impl<'a> Details<'a> {
    fn parse(reader: &mut Reader<'a>) -> Result<Self, Fault> {
        let count = reader.varint()?;
        let before = reader.0;
        for _ in 0..count {
            reader.text()?;
            reader.bytes()?;
        }
        let length = before.len() - reader.0.len();
        Ok(Self { count, rest: &before[..length] })
    }

    /// Names and encoded messages.
    pub fn iter(self) -> impl Iterator<Item = (&'a str, &'a [u8])> {
        let mut reader = Reader(self.rest);
        (0..self.count).map_while(move |_| Some((reader.text().ok()?, reader.bytes().ok()?)))
    }
}
