//! Bytes to frames and back: pure, bounded, and without copies of what is read.
//!
//! Parsing borrows from the input. Whoever keeps something of a frame copies it, since the buffers that sockets are read
//! into are shared by all connections of a thread; that is what an idle connection's memory costs are made of.

pub mod frame;
pub mod read;
pub mod write;

pub use frame::{Block, Frame, MethodRef, Pair};
pub use read::Reader;

/// How a greeting begins. Its first byte begins no HTTP request and no TLS handshake.
pub const MAGIC: [u8; 8] = *b"\xf0formic\n";

/// The version of the wire that this crate speaks.
pub const VERSION: u8 = 1;

/// Bytes before every payload.
pub const HEADER: usize = 8;

/// The longest payload; a longer message goes in pieces.
pub const MAX_PAYLOAD: usize = 65_536;

/// The longest path of a method.
pub const MAX_PATH: usize = 1024;

/// The longest name and value together that a table keeps.
pub const MAX_PAIR: usize = 1024;

/// Something on the wire that the other side must not send; it ends the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Fault(pub &'static str);

/// The types of frames.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Type {
    /// Begins a call.
    Request = 1,
    /// Begins an answer, or is one.
    Response = 2,
    /// A message or a piece of one.
    Data = 3,
    /// Ends a direction.
    End = 4,
    /// Ends a call with an error.
    Error = 5,
    /// The caller is gone.
    Cancel = 6,
    /// More may be sent.
    Credit = 7,
    /// Are you there?
    Ping = 8,
    /// No more calls.
    GoAway = 9,
}

/// What stands before a payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// Of the payload.
    pub length: usize,
    /// Of the frame.
    pub kind: Type,
    /// The call, or 0 for the connection.
    pub id: u32,
}

impl Header {
    /// Reads a header.
    ///
    /// # Errors
    /// If the type is not known or the payload would be too long.
    pub fn parse(bytes: &[u8; HEADER]) -> Result<Self, Fault> {
        let [a, b, c, kind, id @ ..] = *bytes;
        let length = u32::from_be_bytes([0, a, b, c]) as usize;
        if length > MAX_PAYLOAD {
            return Err(Fault("a frame is longer than 65536 bytes"));
        }
        let kind = match kind {
            1 => Type::Request,
            2 => Type::Response,
            3 => Type::Data,
            4 => Type::End,
            5 => Type::Error,
            6 => Type::Cancel,
            7 => Type::Credit,
            8 => Type::Ping,
            9 => Type::GoAway,
            _ => return Err(Fault("a frame has an unknown type")),
        };
        Ok(Self { length, kind, id: u32::from_be_bytes(id) })
    }
}
