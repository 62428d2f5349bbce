//! The other side, as an input describes it: what its greeting says, what it says after that and in what pieces, and when it
//! answers.

use std::collections::VecDeque;
use std::time::Duration;

use formic_mux::Limits;
use formic_mux::codec::{Frame, HEADER, Header, write};

/// What the owner is told to do, and what is said again, stand between frames, and begin with a byte that begins no frame.
const WORD: u8 = 0x80;

/// So many bytes are said again at most, in so many pieces.
const MOST_AGAIN: usize = 512 << 10;
const MOST_PIECES: usize = 2 << 10;

/// How long the way there and back is, where questions are answered.
const WAYS: [Option<Duration>; 4] =
    [None, Some(Duration::ZERO), Some(Duration::ZERO), Some(Duration::from_millis(40))];

/// What the other side is like, in two bytes of the input.
#[derive(Clone, Copy)]
pub(super) struct Wish(u16);

impl Wish {
    /// None, and what an input without one has, are the same.
    pub(super) fn read(bytes: &[u8]) -> (Self, &[u8]) {
        match bytes {
            [high @ WORD..=0xff, low, rest @ ..] => (Self(u16::from_be_bytes([high & !WORD, *low])), rest),
            rest => (Self(0), rest),
        }
    }

    fn choose<T: Copy, const N: usize>(self, at: u32, of: [T; N]) -> T {
        of[usize::from(self.0 >> at) % N]
    }

    /// What its greeting says, where it has one that is not the input's own.
    pub(super) fn greeting(self) -> Option<Limits> {
        let usual = super::limits();
        let limits = Limits {
            calls: self.choose(14, [usual.calls, 1]),
            message: self.choose(0, [usual.message, 0, 100, 4 << 20]),
            stream_credit: self.choose(2, [usual.stream_credit, 64 << 10, (64 << 10) + 1, i32::MAX as u32]),
            connection_credit: self.choose(4, [usual.connection_credit, 64 << 10, 70_000, i32::MAX as u32]),
            paths: self.choose(6, [usual.paths, 1]),
            // Two pairs of the owner's, and one of them, are 36 bytes each.
            metadata: self.choose(7, [usual.metadata, 0, 36, u32::MAX]),
            pairs: self.choose(9, [usual.pairs, 0, 1, u32::MAX]),
        };
        self.choose(11, [Some(limits), None])
    }

    /// How long its answers take, if it gives any.
    pub(super) fn way(self) -> Option<Duration> {
        self.choose(12, WAYS)
    }

    /// The owner does what the input says and nothing by chance, and takes what comes.
    pub(super) fn is_calm(self) -> bool {
        self.choose(12, [false, false, true, true])
    }
}

/// What comes next.
pub(super) enum Next {
    /// The piece.
    Said,
    /// Nothing, for so long.
    Passed(Duration),
    /// The owner does something.
    Act(u32),
    /// The owner takes no more messages, or takes them again.
    Turned,
}

pub(super) struct Peer<'a> {
    wish: Wish,
    cut: usize,
    rest: &'a [u8],
    /// The frame that is said, and how much of it was.
    frame: Vec<u8>,
    at: usize,
    /// How often it is said again, and how many bytes may be that the input does not hold.
    again: u8,
    left: usize,
    /// The input ends before its last frame does.
    ends_within: bool,
    /// Answers that are on their way, and when they come.
    answers: VecDeque<(Duration, [u8; 8])>,
}

impl<'a> Peer<'a> {
    pub(super) fn new(wish: Wish, cut: usize, rest: &'a [u8]) -> Self {
        let left = MOST_AGAIN.min(cut * MOST_PIECES);
        let (frame, answers) = (Vec::new(), VecDeque::new());
        Self { wish, cut, rest, frame, at: 0, again: 0, left, ends_within: false, answers }
    }

    /// Whether all frames that were begun are whole.
    pub(super) fn is_between_frames(&self) -> bool {
        self.at == self.frame.len() && !self.ends_within && self.knows_frames()
    }

    /// Not where they stand behind a greeting of the input's own, which may be anything.
    fn knows_frames(&self) -> bool {
        self.wish.greeting().is_some()
    }

    /// Reads what the machine says, which is well-formed whoever it says it to, and notes what it asks.
    pub(super) fn hear(&mut self, mut said: &[u8], now: Duration) {
        while let Some((head, rest)) = said.split_first_chunk::<HEADER>() {
            let header = Header::parse(head).expect("a header");
            let (payload, rest) = rest.split_at(header.length);
            said = rest;
            let frame = Frame::parse(header, payload).expect("a frame");
            if let (Frame::Ping { answer: false, bytes }, Some(way)) = (frame, self.wish.way()) {
                self.answers.push_back((now + way, bytes));
            }
        }
        assert!(said.is_empty(), "half a frame is said");
    }

    /// What comes next, and the piece if it is one.
    pub(super) fn next(&mut self, now: Duration, piece: &mut Vec<u8>) -> Option<Next> {
        piece.clear();
        while piece.len() < self.cut {
            if self.at == self.frame.len() {
                let answers = self.knows_frames() && self.answers.front().is_some_and(|(at, _)| *at <= now);
                let words = self.knows_frames() && self.again == 0 && matches!(self.rest, [0xc0..=0xff, ..]);
                if !piece.is_empty() && (answers || words) {
                    break;
                }
                if answers {
                    self.answer(now, piece);
                    break;
                }
                if words && let Some(next) = self.word() {
                    return Some(next);
                }
                if !self.begin() {
                    break;
                }
            }
            let end = self.frame.len().min(self.at + self.cut - piece.len());
            piece.extend_from_slice(&self.frame[self.at..end]);
            self.at = end;
        }
        (!piece.is_empty()).then_some(Next::Said)
    }

    fn answer(&mut self, now: Duration, piece: &mut Vec<u8>) {
        while let Some(&(_, bytes)) = self.answers.front().filter(|(at, _)| *at <= now) {
            self.answers.pop_front();
            write::ping(piece, 1, bytes);
        }
    }

    fn word(&mut self) -> Option<Next> {
        let (next, rest) = match self.rest {
            [0xde, rest @ ..] => (Next::Turned, rest),
            [log @ 0xc0..0xde, rest @ ..] => {
                (Next::Passed(Duration::from_millis(1 << ((log - 0xc0) / 2))), rest)
            }
            [op @ 0xe0..=0xff, how, rest @ ..] => {
                (Next::Act(u32::from(op & 0x1f) | u32::from(*how) << 5), rest)
            }
            _ => return None,
        };
        self.rest = rest;
        Some(next)
    }

    /// Begins the next frame; false if there is none.
    fn begin(&mut self) -> bool {
        if self.again == 0
            && let [times @ WORD..0xc0, rest @ ..] = self.rest
            && !self.frame.is_empty()
        {
            (self.again, self.rest) = (times - WORD + 1, rest);
        }
        if self.again > 0 && self.frame.len() <= self.left {
            self.again -= 1;
            self.left -= self.frame.len();
            self.at = 0;
            return true;
        }
        self.again = 0;
        let (most, rest) = match self.rest {
            [] => return false,
            [0xdf, few, rest @ ..] if self.knows_frames() => (HEADER + usize::from(*few), rest),
            rest => (usize::MAX, rest),
        };
        let length = rest.first_chunk().and_then(|head| Header::parse(head).ok());
        // What begins no frame is a fault, whatever comes after it.
        let length = length.map_or(usize::MAX, |header| HEADER + header.length);
        let (frame, rest) = rest.split_at(length.min(most).min(rest.len()));
        (self.frame, self.at, self.rest) = (frame.to_vec(), 0, rest);
        if frame.len() == most && length - most <= self.left {
            self.left -= length - most;
            self.frame.resize(length, *frame.last().unwrap_or(&0));
        }
        self.ends_within = self.frame.len() < length;
        !self.frame.is_empty()
    }
}
