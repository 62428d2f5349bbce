//! Records of connections: written by a client that is asked to, read by `formic wire decode`.

use std::fmt::Write as _;
use std::fs::{File, OpenOptions};
use std::io::{self, BufWriter, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::Instant;

use crate::codec::{Block, Fault, Frame, HEADER, Header, MethodRef, Pair};
use crate::limits::Limits;

/// How a capture begins.
pub const MAGIC: [u8; 8] = *b"\xf0fmxcap1";

/// Who has sent some bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// The client.
    Up,
    /// The server.
    Down,
}

impl Direction {
    /// The other one.
    #[must_use]
    pub fn other(self) -> Self {
        match self {
            Self::Up => Self::Down,
            Self::Down => Self::Up,
        }
    }
}

/// A record that is being written.
#[derive(Debug)]
pub struct Capture {
    file: BufWriter<File>,
    began: Instant,
}

impl Capture {
    /// Begins a record, which nobody else can read: it holds what was said, secrets included.
    ///
    /// # Errors
    /// If the file cannot be made, or exists.
    pub fn create(path: &Path) -> io::Result<Self> {
        let mut file =
            BufWriter::new(OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?);
        file.write_all(&MAGIC)?;
        Ok(Self { file, began: Instant::now() })
    }

    /// Adds what was sent. A full disk ends the record, not the connection.
    pub fn record(&mut self, direction: Direction, bytes: &[u8]) {
        let mut head = [0; 13];
        head[0] = direction as u8;
        let micros = u64::try_from(self.began.elapsed().as_micros()).unwrap_or(u64::MAX);
        head[1..9].copy_from_slice(&micros.to_be_bytes());
        head[9..].copy_from_slice(&u32::try_from(bytes.len()).unwrap_or(u32::MAX).to_be_bytes());
        let written = self.file.write_all(&head).and_then(|()| self.file.write_all(bytes));
        // Whoever looks into the file while it grows wants whole records.
        if let Err(error) = written.and_then(|()| self.file.flush()) {
            tracing::debug!(%error, "cannot record a connection");
        }
    }
}

/// What is wrong with a capture.
#[derive(Debug, thiserror::Error)]
pub enum Unreadable {
    /// The file cannot be read.
    #[error("cannot be read")]
    Io(#[from] io::Error),
    /// It begins otherwise.
    #[error("is no capture of the multiplexed wire")]
    Foreign,
}

/// Reads a capture and says each of its frames, a line each. A record that is cut short ends it.
///
/// # Errors
/// If it is none, or cannot be read.
pub fn decode(mut from: impl Read, mut line: impl FnMut(&str)) -> Result<(), Unreadable> {
    let mut magic = [0; MAGIC.len()];
    from.read_exact(&mut magic).map_err(|_| Unreadable::Foreign)?;
    if magic != MAGIC {
        return Err(Unreadable::Foreign);
    }
    let (mut up, mut down) = (Side::default(), Side::default());
    let mut head = [0; 13];
    while from.read_exact(&mut head).is_ok() {
        let [direction, rest @ ..] = head;
        let (micros, length) = rest.split_at(8);
        let micros = u64::from_be_bytes(micros.try_into().unwrap_or_default());
        let length = u32::from_be_bytes(length.try_into().unwrap_or_default());
        let mut bytes = Vec::new();
        (&mut from).take(length.into()).read_to_end(&mut bytes)?;
        let (side, arrow) =
            if direction == Direction::Up as u8 { (&mut up, "→") } else { (&mut down, "←") };
        side.take(&bytes, |text| line(&format!("{:>10.6} {arrow} {text}", micros as f64 / 1e6)));
    }
    Ok(())
}

/// One direction of a recorded connection.
#[derive(Default)]
struct Side {
    bytes: Vec<u8>,
    greeted: bool,
    over: bool,
    paths: Vec<(u32, String)>,
    pairs: Vec<(u32, String)>,
}

impl Side {
    fn take(&mut self, bytes: &[u8], mut line: impl FnMut(&str)) {
        if self.over {
            return;
        }
        self.bytes.extend_from_slice(bytes);
        loop {
            match self.next() {
                Ok(Some(text)) => line(&text),
                Ok(None) => return,
                Err(fault) => {
                    self.over = true;
                    return line(&format!("unreadable from here on: {fault}"));
                }
            }
        }
    }

    fn next(&mut self) -> Result<Option<String>, Fault> {
        if !self.greeted {
            let length = Limits::length(&self.bytes)?;
            // The length is a guess until the count is there.
            if self.bytes.len() < length || self.bytes.len() < Limits::length(&self.bytes[..length])? {
                return Ok(None);
            }
            let limits = Limits::read(&self.bytes[..length])?;
            self.bytes.drain(..length);
            self.greeted = true;
            return Ok(Some(format!("greeting {limits:?}")));
        }
        let Some(head) = self.bytes.first_chunk::<HEADER>() else { return Ok(None) };
        let header = Header::parse(head)?;
        let end = HEADER + header.length;
        if self.bytes.len() < end {
            return Ok(None);
        }
        let bytes: Vec<u8> = self.bytes.drain(..end).collect();
        let frame = Frame::parse(header, &bytes[HEADER..])?;
        Ok(Some(self.say(header, &frame)))
    }

    fn say(&mut self, header: Header, frame: &Frame<'_>) -> String {
        let mut text = String::new();
        // Writing to a string does not fail.
        let _ = match header.id {
            0 => write!(text, "connection "),
            id => write!(text, "call {id} "),
        };
        let size = |message: Option<&[u8]>| message.map_or("no message".into(), |m| format!("{} B", m.len()));
        let _ = match frame {
            Frame::Request(request) => {
                let path = self.path(request.method);
                let metadata = self.metadata(request.metadata);
                let codec = if request.json { "json" } else { "proto" };
                let timeout = request.timeout.map(|t| format!(" timeout {t:?}")).unwrap_or_default();
                let trace = request.trace.map(|t| format!(" trace {t}")).unwrap_or_default();
                let attempt = request.attempt.map(|n| format!(" attempt {n}")).unwrap_or_default();
                let rest = match (request.more, request.end) {
                    (true, _) => " and more of it to come",
                    (_, true) => ", complete",
                    _ => "",
                };
                let size = size(request.message);
                write!(text, "request {path} {codec}{timeout}{trace}{attempt}{metadata} {size}{rest}")
            }
            Frame::Response(response) => {
                let (leading, trailing) =
                    (self.metadata(response.metadata), self.metadata(response.trailers));
                let after = if trailing.is_empty() { String::new() } else { format!(" then{trailing}") };
                let rest = if response.end {
                    format!(" {}, complete", size(response.message))
                } else {
                    String::new()
                };
                write!(text, "response{leading}{after}{rest}")
            }
            Frame::Data { more, end, piece } => {
                let rest = match (more, end) {
                    (true, _) => " of a message, more to come",
                    (_, true) => ", the last",
                    _ => "",
                };
                write!(text, "data {} B{rest}", piece.len())
            }
            Frame::End(block) => write!(text, "end{}", self.metadata(*block)),
            Frame::Error(failure) => {
                let metadata = self.metadata(failure.metadata);
                let code =
                    formic_core::Code::from_number(failure.code.into()).unwrap_or(formic_core::Code::Unknown);
                let details: Vec<_> = failure.details.iter().map(|(name, _)| name).collect();
                let refused = if failure.refused { ", seen by no handler" } else { "" };
                write!(text, "error {code}: {:?} details {details:?}{metadata}{refused}", failure.text)
            }
            Frame::Cancel(code) => write!(text, "cancel, code {code}"),
            Frame::Credit(more) => write!(text, "credit {more}"),
            Frame::Ping { answer: false, bytes } => write!(text, "ping {bytes:02x?}"),
            Frame::Ping { answer: true, bytes } => write!(text, "pong {bytes:02x?}"),
            Frame::GoAway { last, reason, text: why } => {
                write!(text, "go away after call {last}, reason {reason} {why:?}")
            }
        };
        text
    }

    fn path(&mut self, method: MethodRef<'_>) -> String {
        match method {
            MethodRef::Known(place) => {
                // Whatever a peer has sent goes to somebody's terminal.
                let known = self.paths.iter().find(|(at, _)| *at == place);
                known.map_or_else(|| format!("the path in {place}"), |(_, path)| path.clone())
            }
            MethodRef::Define(place, path) => {
                self.paths.retain(|(at, _)| *at != place);
                let path = path.escape_debug().to_string();
                self.paths.push((place, path.clone()));
                path
            }
        }
    }

    fn metadata(&mut self, block: Block<'_>) -> String {
        let mut out = String::new();
        for pair in block.pairs() {
            let say = |name: &[u8], value: &[u8]| {
                let (name, value) = (String::from_utf8_lossy(name), String::from_utf8_lossy(value));
                format!("{}={}", name.escape_debug(), value.escape_debug())
            };
            let text = match pair {
                Pair::Literal(name, value) => say(name, value),
                Pair::Define(place, name, value) => {
                    let text = say(name, value);
                    self.pairs.retain(|(at, _)| *at != place);
                    self.pairs.push((place, text.clone()));
                    text
                }
                Pair::Known(place) => {
                    let known = self.pairs.iter().find(|(at, _)| *at == place);
                    known.map_or_else(|| format!("the pair in {place}"), |(_, text)| text.clone())
                }
            };
            out.push(' ');
            out.push_str(&text);
        }
        out
    }
}
