//! A stream of messages as bytes. Short messages that come one right after the other are encoded one behind the other in one
//! buffer, and go on as one run: to ask for memory for each alone costs more than to encode it, and so does to pass each alone.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use formic_core::Error;
use futures::Stream;
use tokio::time::Instant;

use crate::Codec;
use crate::rt::{self, Msg};
use crate::run::{self, HEAD, Run, Runs};

/// A longer message has memory of its own, and goes on alone.
const SHORT: usize = 1 << 10;

/// The memory of short ones. Whoever keeps one of them keeps all of it.
const ROOM: usize = 8 << 10;

/// A run takes no more messages after so long: what is there does not wait for what takes its time, nor do others on the thread.
const LONG: Duration = Duration::from_millis(1);

/// The clock is looked at after so many messages, and for the first of them more often: they may be what takes its time.
const LOOK: usize = 8;

/// Encodes what a stream gives.
pub(crate) struct Encoding<S> {
    stream: Pin<Box<S>>,
    codec: Codec,
    room: BytesMut,
    /// The last message came without a wait.
    goes_on: bool,
    /// What came right after a run and is no part of it.
    later: Option<Later>,
}

enum Later {
    /// One that is long, or for which there was no room.
    Message(Bytes),
    Failed(Error),
    Ended,
    /// The stream panicked, and does so for whoever asks on.
    Broke(Box<dyn Any + Send>),
}

/// The messages of a run, as far as they are there.
struct Filled {
    /// One that is not in the room, as long as none came beside it.
    first: Option<Bytes>,
    /// How many are in the room, and where they end.
    count: usize,
    end: usize,
}

impl<S> Encoding<S> {
    pub(crate) fn new(stream: S, codec: Codec) -> Self {
        Self { stream: Box::pin(stream), codec, room: BytesMut::new(), goes_on: false, later: None }
    }

    /// Encodes a message for somebody who takes one at a time.
    fn alone<M: Msg>(&mut self, message: &M) -> Result<Bytes, Error> {
        let goes_on = std::mem::replace(&mut self.goes_on, true);
        if goes_on && self.codec == Codec::Proto {
            self.make_room();
            if message.try_encode_bounded(SHORT as u32, &mut self.room).is_ok() {
                return Ok(self.room.split().freeze());
            }
        }
        rt::encode(message, self.codec)
    }

    /// Makes room for a short message where there are none.
    fn make_room(&mut self) {
        if self.room.capacity() < HEAD + SHORT {
            self.room.reserve(ROOM);
        }
    }

    /// Encodes a message behind those that are in the room; false if it has no place there.
    fn beside<M: Msg>(&mut self, message: &M) -> bool {
        let start = self.room.len();
        let Some(free) = (self.room.capacity() - start).checked_sub(HEAD) else { return false };
        self.room.extend_from_slice(&[0; HEAD]);
        let Ok(length) = message.try_encode_bounded(free.min(SHORT) as u32, &mut self.room) else {
            self.room.truncate(start);
            return false;
        };
        self.room[start..start + HEAD].copy_from_slice(&run::head(length as usize));
        true
    }

    /// What was put together as a run, if there is something.
    fn finish(&mut self, filled: Filled) -> Option<Run> {
        let Filled { first, count, end } = filled;
        // Half a message may be there of a stream that broke.
        self.room.truncate(end);
        let run = if count > 0 { Some(Run::framed(self.room.split().freeze(), count)) } else { None };
        if self.goes_on && !matches!(self.later, Some(Later::Failed(_) | Later::Ended | Later::Broke(_))) {
            return run.or(first.map(Run::from));
        }
        // Nothing more comes for now, and a few short messages are not to hold memory for many, wherever they wait.
        self.room = BytesMut::new();
        run.map(|run| if run.size() < ROOM / 2 { run.compact() } else { run }).or(first.map(Run::from))
    }
}

impl<M: Msg, S: Stream<Item = Result<M, Error>>> Encoding<S> {
    /// The next message, if the stream has one.
    fn poll_one(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, Error>>> {
        let Poll::Ready(message) = self.stream.as_mut().poll_next(cx) else {
            // Nobody knows for how long: a stream that waits holds no memory.
            (self.room, self.goes_on) = (BytesMut::new(), false);
            return Poll::Pending;
        };
        Poll::Ready(message.map(|message| self.alone(&message?)))
    }

    /// Takes messages as long as they are ready, have room, and take no time.
    fn fill(&mut self, cx: &mut Context<'_>, most: usize, filled: &mut Filled) {
        let began = Instant::now();
        while filled.count < most {
            match self.stream.as_mut().poll_next(cx) {
                Poll::Ready(Some(Ok(message))) => {
                    if filled.count == 0 {
                        self.make_room();
                        if let Some(first) = filled.first.take() {
                            self.room.extend_from_slice(&run::head(first.len()));
                            self.room.extend_from_slice(&first);
                            (filled.count, filled.end) = (1, self.room.len());
                        }
                    }
                    self.goes_on = true;
                    if !self.beside(&message) {
                        return self.later = Some(match rt::encode(&message, self.codec) {
                            Ok(message) => Later::Message(message),
                            Err(error) => Later::Failed(error),
                        });
                    }
                    (filled.count, filled.end) = (filled.count + 1, self.room.len());
                }
                Poll::Ready(Some(Err(error))) => return self.later = Some(Later::Failed(error)),
                Poll::Ready(None) => return self.later = Some(Later::Ended),
                Poll::Pending => return self.goes_on = false,
            }
            let look = filled.count.is_multiple_of(LOOK) || filled.count.is_power_of_two();
            if look && began.elapsed() >= LONG {
                return;
            }
        }
    }
}

impl<M: Msg, S: Stream<Item = Result<M, Error>>> Runs for Encoding<S> {
    fn poll_run(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        most: usize,
    ) -> Poll<Option<Result<Run, Error>>> {
        let this = &mut *self;
        let first = match this.later.take() {
            Some(Later::Message(message)) => Some(message),
            Some(Later::Failed(error)) => return Poll::Ready(Some(Err(error))),
            Some(Later::Ended) => return Poll::Ready(None),
            Some(Later::Broke(panic)) => resume_unwind(panic),
            None if this.goes_on && most > 1 && this.codec == Codec::Proto => None,
            None => match ready!(this.poll_one(cx)) {
                Some(Ok(message)) => Some(message),
                other => return Poll::Ready(other.map(|message| message.map(Run::from))),
            },
        };
        let first = match first {
            Some(first) if first.len() > SHORT || most < 2 || this.codec != Codec::Proto => {
                return Poll::Ready(Some(Ok(first.into())));
            }
            first => first,
        };
        let mut filled = Filled { first, count: 0, end: 0 };
        let fill = catch_unwind(AssertUnwindSafe(|| this.fill(cx, most, &mut filled)));
        if let Err(panic) = fill {
            this.later = Some(Later::Broke(panic));
        }
        match this.finish(filled) {
            Some(run) => Poll::Ready(Some(Ok(run))),
            None => match this.later.take() {
                Some(Later::Broke(panic)) => resume_unwind(panic),
                Some(Later::Failed(error)) => Poll::Ready(Some(Err(error))),
                Some(Later::Message(message)) => Poll::Ready(Some(Ok(message.into()))),
                Some(Later::Ended) => Poll::Ready(None),
                None => Poll::Pending,
            },
        }
    }
}

#[cfg(test)]
mod tests;
