//! A stream on its way out: polled until it has nothing ready or enough is there, so that what was ready at a time is said
//! under one lock, with one wake and in one write.

use std::future::poll_fn;
use std::task::Poll;

use bytes::Bytes;
use formic_core::Error;
use formic_rpc::ByteStream;

/// A stream is ahead of the connection by no more than this and a message.
const ENOUGH: usize = 32 << 10;

/// Messages may be of no bytes.
const MOST: usize = 1024;

/// A stream that is always ready lets others on its thread come by after so many turns.
const TURNS: u32 = 16;

/// A stream, and what it gave that was not passed on.
pub(crate) struct Outgoing {
    stream: ByteStream,
    pub(crate) ready: Vec<Bytes>,
    /// How it ended; the messages that are ready come before.
    pub(crate) ended: Option<Result<(), Error>>,
    turns: u32,
}

impl Outgoing {
    pub(crate) fn new(stream: ByteStream) -> Self {
        Self { stream, ready: Vec::new(), ended: None, turns: 0 }
    }

    /// Waits for messages, or the end.
    pub(crate) async fn gather(&mut self) {
        self.turns += 1;
        if self.turns.is_multiple_of(TURNS) {
            tokio::task::yield_now().await;
        }
        let Self { stream, ready, ended, .. } = self;
        let mut bytes = 0;
        poll_fn(|cx| {
            while bytes < ENOUGH && ready.len() < MOST {
                match stream.as_mut().poll_next(cx) {
                    Poll::Ready(Some(Ok(message))) => {
                        bytes += message.len();
                        ready.push(message);
                    }
                    Poll::Ready(Some(Err(error))) => *ended = Some(Err(error)),
                    Poll::Ready(None) => *ended = Some(Ok(())),
                    Poll::Pending if ready.is_empty() => return Poll::Pending,
                    Poll::Pending => break,
                }
                if ended.is_some() {
                    break;
                }
            }
            Poll::Ready(())
        })
        .await;
    }
}
