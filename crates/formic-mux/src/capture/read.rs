//! Reads records of connections.
//!
//! What a peer has sent is in them, and it may be anybody's: no line is much longer than its frame, and no table larger than
//! one that the wire allows.

use std::fmt;
use std::io::{self, Read as _};
use std::time::Duration;

use super::{Direction, HEAD, MAGIC};
use crate::codec::{Block, Fault, Frame, HEADER, Header, MethodRef, Pair};
use crate::limits::{LARGEST_TABLE, Limits};

/// Records are read by so many bytes, for they may be of any length.
const PIECE: u64 = 64 << 10;

/// How much of a pair is shown where it is known, and of a path. The whole pair is where it was defined; one byte of a frame stands for it
/// here, and there may be thousands.
const PAIR_SHOWN: usize = 100;
const PATH_SHOWN: usize = 256;

/// Pairs that come when a line has so many bytes are counted only.
const LONG: usize = 64 << 10;

/// What is wrong with a capture.
#[derive(Debug, thiserror::Error)]
pub enum Unreadable {
    /// The file cannot be read.
    #[error("cannot be read")]
    Io(#[from] io::Error),
    /// It begins otherwise.
    #[error("is no capture of the multiplexed wire")]
    Foreign,
    /// It ends within a record.
    #[error("is cut short: its last record is not whole")]
    Cut,
    /// It goes on with what is no record.
    #[error("is damaged after {0} records")]
    Damaged(u64),
    /// One side did not speak the wire, or not to the end.
    #[error("holds what is no frame, from the {}", if *from == Direction::Up { "client" } else { "server" })]
    Spoken {
        /// The side.
        from: Direction,
        /// What it said.
        #[source]
        fault: Fault,
    },
}

/// One frame of a recorded connection.
#[derive(Debug)]
pub struct Said<'a> {
    /// Since the connection began.
    pub at: Duration,
    /// Whose it is.
    pub from: Direction,
    /// About which call; 0 is the connection.
    pub call: u32,
    /// What it is.
    pub frame: &'static str,
    /// How long it was on the wire.
    pub bytes: usize,
    /// What it says.
    pub text: &'a str,
}

impl fmt::Display for Said<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { at, from, call, frame, text, .. } = self;
        let arrow = if *from == Direction::Up { "→" } else { "←" };
        write!(f, "{:>10.6} {arrow} ", at.as_secs_f64())?;
        match call {
            0 if matches!(*frame, "greeting" | UNFINISHED) => {}
            0 => f.write_str("connection ")?,
            call => write!(f, "call {call} ")?,
        }
        f.write_str(frame)?;
        if text.is_empty() { Ok(()) } else { write!(f, " {text}") }
    }
}

/// What is left of a direction at the end.
const UNFINISHED: &str = "unfinished";

/// Reads a capture and says each of its frames.
///
/// # Errors
/// If it is none, or not to its end; what comes before is said all the same.
pub fn decode(mut from: impl io::Read, mut said: impl FnMut(&Said)) -> Result<(), Unreadable> {
    let mut magic = [0; MAGIC.len()];
    if fill(&mut from, &mut magic)? < magic.len() || magic != MAGIC {
        return Err(Unreadable::Foreign);
    }
    let mut sides = [(Direction::Up, Side::default()), (Direction::Down, Side::default())];
    let (mut head, mut at, mut records, mut bytes) = ([0; HEAD], Duration::ZERO, 0, Vec::new());
    let ended = loop {
        match fill(&mut from, &mut head)? {
            0 => break Ok(()),
            HEAD => {}
            _ => break Err(Unreadable::Cut),
        }
        let [direction, rest @ ..] = head;
        let Some((direction, side)) = sides.get_mut(usize::from(direction)) else {
            break Err(Unreadable::Damaged(records));
        };
        let (micros, length) = rest.split_at(8);
        at = Duration::from_micros(u64::from_be_bytes(micros.try_into().unwrap_or_default()));
        let length = u32::from_be_bytes(length.try_into().unwrap_or_default());
        let mut left = u64::from(length);
        while left > 0 {
            bytes.clear();
            let there = (&mut from).take(left.min(PIECE)).read_to_end(&mut bytes)?;
            if there == 0 {
                break;
            }
            side.take(&bytes, at, *direction, &mut said);
            left -= there as u64;
        }
        if left > 0 {
            break Err(Unreadable::Cut);
        }
        records += 1;
    };
    for (from, side) in &sides {
        if side.fault.is_none() && !side.bytes.is_empty() {
            let (bytes, text) = (side.bytes.len(), format!("{} B of a frame", side.bytes.len()));
            said(&Said { at, from: *from, call: 0, frame: UNFINISHED, bytes, text: &text });
        }
    }
    ended?;
    match sides.into_iter().find_map(|(from, side)| Some((from, side.fault?))) {
        Some((from, fault)) => Err(Unreadable::Spoken { from, fault }),
        None => Ok(()),
    }
}

/// Reads until the buffer is full, or nothing more comes; how much came.
fn fill(from: &mut impl io::Read, buffer: &mut [u8]) -> io::Result<usize> {
    let mut there = 0;
    while there < buffer.len() {
        match from.read(&mut buffer[there..]) {
            Ok(0) => break,
            Ok(count) => there += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(there)
}

/// A frame that was read.
struct Read {
    call: u32,
    frame: &'static str,
    bytes: usize,
    text: String,
}

/// One direction of a recorded connection.
#[derive(Default)]
struct Side {
    bytes: Vec<u8>,
    /// So many of them are said.
    done: usize,
    greeted: bool,
    /// What of it is no frame.
    fault: Option<Fault>,
    paths: Table,
    pairs: Table,
}

/// What stands in a table, as far as it is shown.
#[derive(Default)]
struct Table(Vec<Option<String>>);

impl Table {
    fn set(&mut self, place: u32, text: &str, most: usize) {
        // No side may have a larger one.
        if place >= LARGEST_TABLE {
            return;
        }
        let place = place as usize;
        if self.0.len() <= place {
            self.0.resize(place + 1, None);
        }
        let shown = &text[..text.floor_char_boundary(most)];
        let rest = if shown.len() < text.len() { "…" } else { "" };
        self.0[place] = Some(format!("{shown}{rest}"));
    }

    fn get(&self, place: u32) -> Option<&str> {
        self.0.get(place as usize)?.as_deref()
    }
}

impl Side {
    /// Adds what was sent, and says the frames that are whole.
    fn take(&mut self, bytes: &[u8], at: Duration, from: Direction, said: &mut impl FnMut(&Said)) {
        if self.fault.is_some() {
            return;
        }
        self.bytes.extend_from_slice(bytes);
        loop {
            match self.next() {
                Ok(Some(Read { call, frame, bytes, text })) => {
                    said(&Said { at, from, call, frame, bytes, text: text.trim_start() });
                }
                Ok(None) => break,
                Err(fault) => {
                    self.fault = Some(fault);
                    break;
                }
            }
        }
        // Once for all of them: each time what is left moves to the front.
        self.bytes.drain(..self.done);
        self.done = 0;
    }

    fn next(&mut self) -> Result<Option<Read>, Fault> {
        let bytes = &self.bytes[self.done..];
        if !self.greeted {
            let length = Limits::length(bytes)?;
            // The length is a guess until the count is there.
            if bytes.len() < length || bytes.len() < Limits::length(&bytes[..length])? {
                return Ok(None);
            }
            let limits = Limits::read(&bytes[..length])?;
            self.done += length;
            self.greeted = true;
            let text = format!("{limits:?}");
            return Ok(Some(Read { call: 0, frame: "greeting", bytes: length, text }));
        }
        let Some(head) = bytes.first_chunk::<HEADER>() else { return Ok(None) };
        let header = Header::parse(head)?;
        let end = HEADER + header.length;
        let Some(payload) = bytes.get(HEADER..end) else { return Ok(None) };
        self.done += end;
        let frame = Frame::parse(header, payload)?;
        let (frame, text) = say(&mut self.paths, &mut self.pairs, &frame);
        Ok(Some(Read { call: header.id, frame, bytes: end, text }))
    }
}

/// What a frame is, and says.
fn say(paths: &mut Table, pairs: &mut Table, frame: &Frame<'_>) -> (&'static str, String) {
    let mut metadata = |block| metadata(pairs, block);
    let size = |message: Option<&[u8]>| message.map_or("no message".into(), |m| format!("{} B", m.len()));
    match frame {
        Frame::Request(request) => {
            let path = path(paths, request.method);
            let metadata = metadata(request.metadata);
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
            ("request", format!("{path} {codec}{timeout}{trace}{attempt}{metadata} {size}{rest}"))
        }
        Frame::Response(response) => {
            let (leading, trailing) = (metadata(response.metadata), metadata(response.trailers));
            let after = if trailing.is_empty() { String::new() } else { format!(" then{trailing}") };
            let rest =
                if response.end { format!(" {}, complete", size(response.message)) } else { String::new() };
            ("response", format!("{leading}{after}{rest}"))
        }
        Frame::Data { more, end, piece } => {
            let rest = match (more, end) {
                (true, _) => " of a message, more to come",
                (_, true) => ", the last",
                _ => "",
            };
            ("data", format!("{} B{rest}", piece.len()))
        }
        Frame::End(block) => ("end", metadata(*block)),
        Frame::Error(failure) => {
            let metadata = metadata(failure.metadata);
            let code =
                formic_core::Code::from_number(failure.code.into()).unwrap_or(formic_core::Code::Unknown);
            let details: Vec<_> = failure.details.iter().map(|(name, _)| name).collect();
            let refused = if failure.refused { ", seen by no handler" } else { "" };
            ("error", format!("{code}: {:?} details {details:?}{metadata}{refused}", failure.text))
        }
        Frame::Cancel(code) => ("cancel", format!("code {code}")),
        Frame::Credit(more) => ("credit", more.to_string()),
        Frame::Ping { answer: false, bytes } => ("ping", format!("{bytes:02x?}")),
        Frame::Ping { answer: true, bytes } => ("pong", format!("{bytes:02x?}")),
        Frame::GoAway { last, reason, text: why } => {
            ("go away", format!("after call {last}, reason {reason} {why:?}"))
        }
    }
}

fn path(paths: &mut Table, method: MethodRef<'_>) -> String {
    match method {
        MethodRef::Known(place) => {
            paths.get(place).map_or_else(|| format!("the path in {place}"), ToOwned::to_owned)
        }
        MethodRef::Define(place, path) => {
            // Whatever a peer has sent goes to somebody's terminal.
            let path = path.escape_debug().to_string();
            paths.set(place, &path, PATH_SHOWN);
            path
        }
    }
}

fn metadata(pairs: &mut Table, block: Block<'_>) -> String {
    let say = |name: &[u8], value: &[u8]| {
        let (name, value) = (String::from_utf8_lossy(name), String::from_utf8_lossy(value));
        format!("{}={}", name.escape_debug(), value.escape_debug())
    };
    let (mut out, mut more) = (String::new(), 0);
    for pair in block.pairs() {
        let full = out.len() >= LONG;
        match pair {
            Pair::Define(place, name, value) => {
                let text = say(name, value);
                pairs.set(place, &text, PAIR_SHOWN);
                if !full {
                    out.extend([" ", &text]);
                }
            }
            Pair::Literal(name, value) if !full => out.extend([" ", &say(name, value)]),
            Pair::Known(place) if !full => match pairs.get(place) {
                Some(text) => out.extend([" ", text]),
                None => out.push_str(&format!(" the pair in {place}")),
            },
            _ => {}
        }
        more += u32::from(full);
    }
    if more > 0 {
        out.push_str(&format!(" and {more} more pairs"));
    }
    out
}
