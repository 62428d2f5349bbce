//! A peer made of bytes, for what no end of good manners would do.

use std::time::Duration;

use formic_mux::Limits;
use formic_mux::codec::frame::request::{END, MESSAGE, TIMEOUT};
use formic_mux::codec::{HEADER, Type, write};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};

/// One end of a pipe, which answers pings and does nothing else by itself.
pub(crate) struct Raw {
    pub(crate) io: DuplexStream,
    read: Vec<u8>,
    /// Answers to pings that are not written yet: who waits for a frame may not wait for that long.
    owed: Vec<u8>,
}

impl Raw {
    pub(crate) async fn greet(mut io: DuplexStream, limits: Limits) -> Self {
        let mut greeting = Vec::new();
        limits.write(&mut greeting);
        io.write_all(&greeting).await.unwrap();
        let mut theirs = [0; 11];
        io.read_exact(&mut theirs).await.unwrap();
        let mut limits = vec![0; usize::from(theirs[10]) * 6];
        io.read_exact(&mut limits).await.unwrap();
        Self { io, read: Vec::new(), owed: Vec::new() }
    }

    pub(crate) async fn send(&mut self, bytes: &[u8]) {
        self.pay().await;
        self.io.write_all(bytes).await.unwrap();
    }

    async fn pay(&mut self) {
        while !self.owed.is_empty() {
            let paid = self.io.write(&self.owed).await.unwrap();
            self.owed.drain(..paid);
        }
    }

    /// The next frame that is no ping: its type, its call, and the payload; none at the end.
    pub(crate) async fn frame(&mut self) -> Option<(Type, u32, Vec<u8>)> {
        loop {
            if let Some(head) = self.read.first_chunk::<HEADER>() {
                let header = formic_mux::codec::Header::parse(head).unwrap();
                let end = HEADER + header.length;
                if self.read.len() >= end {
                    let frame: Vec<u8> = self.read.drain(..end).collect();
                    if header.kind != Type::Ping {
                        return Some((header.kind, header.id, frame[HEADER..].to_vec()));
                    }
                    if frame[HEADER] == 0 {
                        let bytes = frame[HEADER + 1..].try_into().unwrap();
                        write::ping(&mut self.owed, 1, bytes);
                        self.pay().await;
                    }
                    continue;
                }
            }
            if self.io.read_buf(&mut self.read).await.unwrap() == 0 {
                return None;
            }
        }
    }

    /// How a call ends: the code, or none if it ends well. What comes before is thrown away, with no credit for it.
    pub(crate) async fn end_of(&mut self, call: u32) -> Option<u8> {
        loop {
            match self.frame().await.expect("the connection lives") {
                (Type::Error, id, payload) if id == call => return Some(payload[1]),
                (Type::End, id, _) if id == call => return None,
                (Type::Response, id, payload) if id == call && payload[0] & 8 != 0 => return None,
                _ => {}
            }
        }
    }
}

/// A request of one frame, as one that says what is in it: `flags` are added to those that follow from the rest.
pub(crate) fn request(id: u32, path: &str, timeout: Option<Duration>, flags: u8, message: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    write::frame(&mut out, Type::Request, id, |out| {
        out.push(flags | MESSAGE | if timeout.is_some() { TIMEOUT } else { 0 });
        write::varint(out, 1);
        write::bytes(out, path.as_bytes());
        if let Some(timeout) = timeout {
            out.extend_from_slice(&u64::try_from(timeout.as_micros()).unwrap().to_be_bytes());
        }
        write::varint(out, 0);
        out.extend_from_slice(message);
    });
    out
}

/// The same, of a whole request.
pub(crate) fn whole(id: u32, path: &str, timeout: Option<Duration>, message: &[u8]) -> Vec<u8> {
    request(id, path, timeout, END, message)
}

/// As little credit as can be offered.
pub(crate) fn stingy() -> Limits {
    Limits { stream_credit: 64 << 10, connection_credit: 64 << 10, ..Limits::default() }
}
