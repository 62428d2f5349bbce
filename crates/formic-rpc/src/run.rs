//! Messages of a stream that are ready together. They go through all that stands between who makes them and who reads them as
//! one, since a stream of short messages costs what it costs to pass that, message by message, and not what its bytes cost.
//!
//! What was refused: a list of messages. Each of them would be counted where it is shared and freed on its own, and copied again
//! where it is laid out for a socket.

use std::ops::Range;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Bytes, BytesMut};
use formic_core::Error;
use futures::Stream;
use pin_project_lite::pin_project;

/// What stands before each message of a run that holds several: three bytes of length, highest first, which counts the last of
/// these bytes too; the number 3; five bytes that are 0. So they are laid out as the multiplexed wire has them, which only has to
/// say whose they are.
pub const HEAD: usize = 9;

/// The most bytes of a message that has others beside it.
pub const LONGEST: usize = (64 << 10) - 1;

/// What a wire knows by the fourth byte.
const DATA: u8 = 3;

/// One message, or several of one stream that are ready together. Gives them in their order.
#[derive(Clone, Debug, Default)]
pub struct Run {
    bytes: Bytes,
    /// Where the next message's head begins, if there are heads.
    at: usize,
    left: usize,
    framed: bool,
}

/// A message alone.
impl From<Bytes> for Run {
    fn from(message: Bytes) -> Self {
        Self { bytes: message, at: 0, left: 1, framed: false }
    }
}

impl Run {
    /// So many messages that are laid out one behind the other, each behind a head of [`HEAD`] bytes. Of bytes that are laid out
    /// otherwise, fewer messages come.
    #[must_use]
    pub fn framed(bytes: Bytes, messages: usize) -> Self {
        Self { bytes, at: 0, left: messages, framed: true }
    }

    /// How many messages are left.
    #[must_use]
    pub fn len(&self) -> usize {
        self.left
    }

    /// Whether none is left.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.left == 0
    }

    /// How many bytes the messages that are left take, with a head for each, also where one stands alone and has none.
    #[must_use]
    pub fn size(&self) -> usize {
        match self.left {
            0 => 0,
            _ if self.framed => self.bytes.len() - self.at,
            _ => self.bytes.len() + HEAD,
        }
    }

    /// The messages that are left as they are laid out, each behind its head; of a message alone nothing.
    #[must_use]
    pub fn frames(&self) -> Option<&[u8]> {
        (self.framed && self.left > 0).then(|| &self.bytes[self.at..])
    }

    /// The next message, which stays the next.
    #[must_use]
    pub fn peek(&self) -> Option<&[u8]> {
        self.bytes.get(self.range()?)
    }

    /// The next message, without a share in the memory of all.
    pub fn next_slice(&mut self) -> Option<&[u8]> {
        let range = self.range();
        self.pass(range.as_ref());
        self.bytes.get(range?)
    }

    /// The same messages, held by memory of their own size, where several stand in memory that may be larger.
    #[must_use]
    pub fn compact(self) -> Self {
        match self.frames() {
            Some(frames) => Self::framed(Bytes::copy_from_slice(frames), self.left),
            None => self,
        }
    }

    /// Adds messages behind these, if all of them together take no more than so many bytes; says whether it did. Messages of hardly
    /// a byte take many times that each on its own. Both have to be laid out well.
    pub fn join(&mut self, others: &Self, most: usize) -> bool {
        let size = self.size() + others.size();
        if size > most.min(LONGEST) {
            return false;
        }
        let count = self.left + others.left;
        let mut frames = match std::mem::take(self) {
            // Mostly it was made here, and has room.
            Self { bytes, at: 0, left: 1.., framed: true } => bytes.try_into_mut().unwrap_or_else(|shared| {
                let mut frames = BytesMut::with_capacity(size);
                frames.extend_from_slice(&shared);
                frames
            }),
            mut run => {
                let mut frames = BytesMut::with_capacity(size);
                run.lay_out(&mut frames);
                frames
            }
        };
        others.clone().lay_out(&mut frames);
        *self = Self::framed(frames.freeze(), count);
        true
    }

    /// Writes the messages that are left, each behind its head.
    fn lay_out(&mut self, frames: &mut BytesMut) {
        if let Some(framed) = self.frames() {
            return frames.extend_from_slice(framed);
        }
        while let Some(message) = self.next_slice() {
            frames.extend_from_slice(&head(message.len()));
            frames.extend_from_slice(message);
        }
    }

    /// Where the next message stands.
    fn range(&self) -> Option<Range<usize>> {
        if self.left == 0 {
            return None;
        }
        if !self.framed {
            return Some(0..self.bytes.len());
        }
        let [a, b, c, ..] = *self.bytes.get(self.at..)?.first_chunk::<HEAD>()?;
        let length = (u32::from_be_bytes([0, a, b, c]) as usize).checked_sub(1)?;
        let start = self.at + HEAD;
        (start + length <= self.bytes.len()).then_some(start..start + length)
    }

    /// Goes on behind a message; if it was none, nothing comes any more.
    fn pass(&mut self, message: Option<&Range<usize>>) {
        match message {
            Some(message) => (self.at, self.left) = (message.end, self.left - 1),
            None => self.left = 0,
        }
    }
}

impl Iterator for Run {
    type Item = Bytes;

    fn next(&mut self) -> Option<Bytes> {
        let range = self.range();
        self.pass(range.as_ref());
        let range = range?;
        if self.left > 0 {
            return Some(self.bytes.slice(range));
        }
        // The last one takes the memory with it.
        let mut message = std::mem::take(&mut self.bytes);
        message.truncate(range.end);
        Some(message.split_off(range.start))
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (0, Some(self.left))
    }
}

/// The head of a message of at most [`LONGEST`] bytes.
#[must_use]
pub fn head(length: usize) -> [u8; HEAD] {
    let [_, a, b, c] = (length as u32 + 1).to_be_bytes();
    [a, b, c, DATA, 0, 0, 0, 0, 0]
}

/// A stream of messages that may give several at a time.
pub trait Runs {
    /// The next messages. Who makes them makes at most so many of them for this; messages that are there already may be more, and
    /// so may those of a server's calls, which are made ahead.
    fn poll_run(self: Pin<&mut Self>, cx: &mut Context<'_>, most: usize) -> Poll<Option<Result<Run, Error>>>;
}

/// Messages still encoded, as they come in or go out.
///
/// Whoever has to see each of them reads it as a stream of messages and makes a stream of its own of them, by
/// [`new`](Self::new): from there on each message goes on alone. What has nothing to do with single messages reads
/// [runs](Self::poll_run) and gives [runs](Self::of_runs).
pub struct ByteStream(Source);

enum Source {
    Messages(Pin<Box<dyn Stream<Item = Result<Bytes, Error>> + Send>>),
    Runs(Pin<Box<Rested<dyn Runs + Send>>>),
}

pin_project! {
    /// Runs with what was not taken of the last one, which stands here because each call and each answer, of one message
    /// too, has the size of a stream.
    struct Rested<R: ?Sized> {
        rest: Run,
        #[pin]
        runs: R,
    }
}

impl std::fmt::Debug for ByteStream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("ByteStream")
    }
}

impl ByteStream {
    /// Each message of a stream on its own.
    pub fn new(messages: impl Stream<Item = Result<Bytes, Error>> + Send + 'static) -> Self {
        Self(Source::Messages(Box::pin(messages)))
    }

    /// A stream of runs.
    pub fn of_runs(runs: impl Runs + Send + 'static) -> Self {
        Self(Source::Runs(Box::pin(Rested { rest: Run::default(), runs })))
    }

    /// The next messages; see [`Runs::poll_run`].
    pub fn poll_run(&mut self, cx: &mut Context<'_>, most: usize) -> Poll<Option<Result<Run, Error>>> {
        match &mut self.0 {
            Source::Messages(messages) => {
                messages.as_mut().poll_next(cx).map(|next| next.map(|message| message.map(Run::from)))
            }
            Source::Runs(runs) => {
                let this = runs.as_mut().project();
                if this.rest.is_empty() {
                    return this.runs.poll_run(cx, most);
                }
                Poll::Ready(Some(Ok(std::mem::take(this.rest))))
            }
        }
    }
}

impl Stream for ByteStream {
    type Item = Result<Bytes, Error>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let mut this = match &mut self.0 {
            Source::Messages(messages) => return messages.as_mut().poll_next(cx),
            Source::Runs(runs) => runs.as_mut().project(),
        };
        loop {
            if let Some(message) = this.rest.next() {
                return Poll::Ready(Some(Ok(message)));
            }
            match ready!(this.runs.as_mut().poll_run(cx, 1)) {
                Some(Ok(run)) => *this.rest = run,
                Some(Err(error)) => return Poll::Ready(Some(Err(error))),
                None => return Poll::Ready(None),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]

    use futures::StreamExt;

    use super::*;

    fn framed(messages: &[&[u8]]) -> Run {
        let mut bytes = Vec::new();
        for message in messages {
            bytes.extend_from_slice(&head(message.len()));
            bytes.extend_from_slice(message);
        }
        Run::framed(bytes.into(), messages.len())
    }

    #[test]
    fn every_way_to_read_gives_the_same() {
        let long = vec![7; LONGEST];
        let messages: [&[u8]; 5] = [b"one", b"", &long, b"x", b""];
        for run in [framed(&messages), framed(&messages).compact()] {
            assert_eq!(run.size(), 5 * HEAD + 4 + LONGEST);
            assert_eq!(run.clone().collect::<Vec<_>>(), messages);
            let (mut slices, mut mixed) = (run.clone(), run);
            for (at, message) in messages.iter().enumerate() {
                assert_eq!((slices.len(), slices.peek()), (5 - at, Some(*message)));
                assert_eq!(slices.next_slice(), Some(*message));
                let (rest, left) = (mixed.frames().unwrap(), 5 - at);
                let rest: Vec<_> = Run::framed(Bytes::copy_from_slice(rest), left).collect();
                assert_eq!(rest, messages[at..]);
                match at % 2 {
                    0 => assert_eq!(mixed.next().unwrap(), *message),
                    _ => assert_eq!(mixed.next_slice(), Some(*message)),
                }
            }
            assert!(slices.next_slice().is_none() && slices.frames().is_none() && slices.size() == 0);
            assert!(mixed.is_empty() && mixed.next().is_none() && mixed.peek().is_none());
        }
    }

    #[test]
    fn a_message_alone_is_as_it_was_given() {
        let message = Bytes::from(vec![1; 100_000]);
        let run = Run::from(message.clone());
        assert!(run.frames().is_none());
        assert_eq!((run.len(), run.size(), run.peek()), (1, 100_000 + HEAD, Some(&message[..])));
        let mut same = run.clone().compact();
        assert_eq!(same.next().unwrap().as_ptr(), message.as_ptr(), "it is not copied");
        assert!(same.next().is_none());
        assert_eq!(Run::from(Bytes::new()).collect::<Vec<_>>(), [Bytes::new()]);
    }

    #[test]
    fn what_is_joined_stays_in_order_and_is_no_more_than_was_said() {
        let alone = |message: &'static str| Run::from(Bytes::from_static(message.as_bytes()));
        let mut run = alone("a");
        assert!(run.join(&alone("bc"), 100) && run.join(&framed(&[b"", b"d"]), 100));
        let kept = run.clone();
        assert!(run.join(&alone("e"), 100), "shared memory is left alone");
        assert_eq!(kept.clone().collect::<Vec<_>>(), ["a", "bc", "", "d"]);
        assert_eq!((run.len(), run.size()), (5, 5 * HEAD + 5));
        assert!(!run.join(&alone("more"), run.size() + HEAD + 3), "it is too much");
        assert_eq!(run.clone().collect::<Vec<_>>(), ["a", "bc", "", "d", "e"]);
        let mut rest = kept;
        rest.next();
        assert!(rest.join(&run, 100));
        assert_eq!(rest.collect::<Vec<_>>(), ["bc", "", "d", "a", "bc", "", "d", "e"]);
    }

    /// Bytes from outside are looked through before they are made a run, but nobody's life hangs on it.
    #[test]
    fn of_what_is_laid_out_otherwise_less_comes() {
        let whole = framed(&[b"one", b"two"]).frames().unwrap().to_vec();
        for length in 0..whole.len() {
            let cut = Run::framed(Bytes::copy_from_slice(&whole[..length]), 2);
            let expected = usize::from(length >= HEAD + 3);
            assert_eq!(cut.clone().count(), expected, "{length}");
            let mut slices = cut;
            while slices.next_slice().is_some() {}
            assert!(slices.is_empty());
        }
        assert_eq!(Run::framed(Bytes::from_static(&[0; 40]), 9).count(), 0);
    }

    /// Gives runs of three, whatever is asked for.
    struct Threes(usize);

    impl Runs for Threes {
        fn poll_run(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
            _: usize,
        ) -> Poll<Option<Result<Run, Error>>> {
            self.0 += 1;
            Poll::Ready((self.0 <= 2).then(|| Ok(framed(&[b"a", b"b", b"c"]))))
        }
    }

    #[tokio::test]
    async fn who_reads_messages_and_who_reads_runs_miss_nothing() {
        let mut stream = ByteStream::of_runs(Threes(0));
        assert_eq!(stream.next().await.unwrap().unwrap(), "a");
        let rest = std::future::poll_fn(|cx| stream.poll_run(cx, 8)).await.unwrap().unwrap();
        assert_eq!(rest.collect::<Vec<_>>(), ["b", "c"]);
        let rest: Vec<_> = stream.map(Result::unwrap).collect().await;
        assert_eq!(rest, ["a", "b", "c"]);
        let each = futures::stream::iter(["a", "b"].map(|message| Ok(Bytes::from(message))));
        let mut each = ByteStream::new(each);
        let run = std::future::poll_fn(|cx| each.poll_run(cx, 8)).await.unwrap().unwrap();
        assert_eq!(run.len(), 1, "each goes on alone");
        assert_eq!(each.next().await.unwrap().unwrap(), "b");
        assert!(std::future::poll_fn(|cx| each.poll_run(cx, 8)).await.is_none());
    }
}
