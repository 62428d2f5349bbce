//! A stream of messages as bytes. Short messages that come one right after the other are encoded one behind the other in one
//! buffer: to ask for memory for each alone costs more than to encode it.

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::{Bytes, BytesMut};
use formic_core::Error;
use futures::Stream;

use crate::Codec;
use crate::rt::{self, Msg};

/// A longer message has memory of its own.
const SHORT: u32 = 1 << 10;

/// The memory of short ones. Whoever keeps one of them keeps all of it.
const ROOM: usize = 8 << 10;

/// Encodes what a stream gives.
pub(crate) struct Encoding<S> {
    stream: Pin<Box<S>>,
    codec: Codec,
    room: BytesMut,
    /// The last message came without a wait.
    run: bool,
}

impl<S> Encoding<S> {
    pub(crate) fn new(stream: S, codec: Codec) -> Self {
        Self { stream: Box::pin(stream), codec, room: BytesMut::new(), run: false }
    }

    fn encode<M: Msg>(&mut self, message: &M) -> Result<Bytes, Error> {
        let run = std::mem::replace(&mut self.run, true);
        if run && self.codec == Codec::Proto {
            if self.room.capacity() < SHORT as usize {
                self.room.reserve(ROOM);
            }
            if message.try_encode_bounded(SHORT, &mut self.room).is_ok() {
                return Ok(self.room.split().freeze());
            }
        }
        rt::encode(message, self.codec)
    }
}

impl<M: Msg, S: Stream<Item = Result<M, Error>>> Stream for Encoding<S> {
    type Item = Result<Bytes, Error>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = &mut *self;
        let Poll::Ready(message) = this.stream.as_mut().poll_next(cx) else {
            // Nobody knows for how long: a stream that waits holds no memory.
            (this.room, this.run) = (BytesMut::new(), false);
            return Poll::Pending;
        };
        Poll::Ready(message.map(|message| this.encode(&message?)))
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]

    use buffa_types::google::protobuf::StringValue;
    use futures::StreamExt;

    use super::*;

    fn text(length: usize) -> StringValue {
        StringValue { value: "x".repeat(length), ..Default::default() }
    }

    #[tokio::test]
    async fn every_message_is_what_it_is_alone() {
        let lengths = || (0..3_000).map(|n| if n % 50 == 7 { n * 3 } else { n % 200 });
        for codec in [Codec::Proto, Codec::Json] {
            // Every seventh has to be waited for.
            let messages = futures::stream::iter(lengths()).then(|length| async move {
                if length % 7 == 0 {
                    tokio::task::yield_now().await;
                }
                Ok(text(length))
            });
            let encoded: Vec<_> = Encoding::new(messages, codec).map(Result::unwrap).collect().await;
            for (length, encoded) in lengths().zip(encoded) {
                assert_eq!(encoded, rt::encode(&text(length), codec).unwrap());
            }
        }
    }

    #[tokio::test]
    async fn memory_is_held_only_while_messages_come() {
        let (sender, receiver) = futures::channel::mpsc::unbounded();
        let mut encoding = Encoding::new(receiver, Codec::Proto);
        for _ in 0..3 {
            sender.unbounded_send(Ok(text(5))).unwrap();
        }
        let kept: Vec<_> = encoding.by_ref().take(3).map(Result::unwrap).collect().await;
        assert!(encoding.room.capacity() > 0, "the second and the third are in one buffer");
        assert!(futures::poll!(encoding.next()).is_pending());
        assert_eq!(encoding.room.capacity(), 0);
        assert!(kept.iter().all(|message| message.len() == 7), "what was given out stays");
        sender.unbounded_send(Err(Error::aborted("by the handler"))).unwrap();
        let error = encoding.next().await.unwrap().unwrap_err();
        assert_eq!(error.code(), formic_core::Code::Aborted);
    }
}
