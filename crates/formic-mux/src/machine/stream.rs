//! What the machine knows of one call.

use std::collections::VecDeque;

use bytes::{Bytes, BytesMut};
use formic_core::{Error, Metadata};

use super::pace::Came;
use crate::codec::HEADER;

/// What a data frame costs beyond the message: header and flags.
pub(super) const OVERHEAD: u32 = HEADER as u32 + 1;

/// What a message that is to be sent costs beside its bytes, so that many short ones are not counted as nothing.
pub(super) const ENTRY: usize = size_of::<Bytes>() + HEADER + 1;

/// A call.
#[derive(Debug)]
pub(super) struct Stream<T> {
    pub(super) data: T,

    /// The other side may send data.
    pub(super) receiving: bool,
    /// The response was read, or written.
    pub(super) responded: bool,
    /// What the other side may send.
    pub(super) credit_in: u32,
    /// What it may send once it is granted that, without anything that is given back.
    pub(super) window: u32,
    /// What came last, as that is counted to learn how long the way is.
    pub(super) came: Came,
    /// Taken by the application, but not given back yet.
    pub(super) owed: u32,
    /// Nothing of that is given back for now.
    pub(super) paused: bool,
    /// It may send as much as one that was heard.
    pub(super) granted: bool,
    /// An unfinished message.
    pub(super) partial: BytesMut,
    /// Room that was made for more of it, as that is counted.
    pub(super) slack: usize,
    /// What it costs, as far as that was not given back.
    pub(super) partial_charge: u32,
    /// What whole messages take that nobody has taken, beyond credit that was not given back.
    pub(super) beyond: usize,
    /// There is an unfinished message, though it may be empty still.
    pub(super) unfinished: bool,
    /// Nobody takes its messages any more.
    pub(super) forgotten: bool,
    /// Finished messages of a request that is not.
    pub(super) held: usize,
    /// So is the request: no handler has seen the call.
    pub(super) gathering: bool,
    /// Bytes of messages that are worked on.
    pub(super) working: usize,
    /// What the head of its request takes in memory, and the call itself if that came without its end.
    pub(super) head: usize,
    /// How long the last message was that came in pieces.
    pub(super) usual: usize,
    /// Messages, or batches of them, that the application has not taken.
    pub(super) waiting: u32,

    /// What may be sent.
    pub(super) credit: u32,
    /// What is to be sent.
    pub(super) queue: VecDeque<Bytes>,
    /// Bytes that a handler has given, and that wait outside until they may be queued.
    pub(super) ready: usize,
    /// What comes after that.
    pub(super) tail: Option<Tail>,
    /// It has a place among the turns.
    pub(super) in_turn: bool,
    /// Somebody waits until the queue is empty.
    pub(super) wanted: bool,
    /// The last byte of the request, counted over all the output.
    pub(super) sent_at: u64,
}

/// How a direction ends.
#[derive(Debug)]
pub(super) enum Tail {
    /// The client's: the last message says so itself.
    Finish,
    /// The server's.
    End(Metadata),
    /// The server's, if it failed.
    Fail(Error),
}

impl<T> Stream<T> {
    pub(super) fn new(data: T, receiving: bool, credit_in: u32, window: u32, credit: u32) -> Self {
        Self {
            data,
            receiving,
            responded: false,
            credit_in,
            window,
            came: Came::default(),
            owed: 0,
            paused: false,
            granted: false,
            partial: BytesMut::new(),
            slack: 0,
            partial_charge: 0,
            beyond: 0,
            unfinished: false,
            forgotten: false,
            held: 0,
            gathering: false,
            working: 0,
            head: 0,
            usual: 0,
            waiting: 0,
            credit,
            queue: VecDeque::new(),
            ready: 0,
            tail: None,
            in_turn: false,
            wanted: false,
            sent_at: 0,
        }
    }

    /// What is to be sent, and what waits for that, as it is counted.
    pub(super) fn queued(&self) -> usize {
        self.queue.iter().map(|message| message.len() + ENTRY).sum::<usize>() + self.ready
    }
}
