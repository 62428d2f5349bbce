//! A stream on its way out: polled until it has nothing ready or enough is there, so that what was ready at a time is said
//! under one lock, with one wake and in one write.

use std::future::poll_fn;
use std::task::Poll;
use std::time::Duration;

use formic_core::Error;
use formic_rpc::{ByteStream, Run};
use tokio::time::Instant;

/// A stream is ahead of the connection by no more than this and a run.
const ENOUGH: usize = 32 << 10;

/// Messages may be of no bytes.
const MOST: usize = 1024;

/// So many messages are asked for at a time.
const RUN: usize = 32;

/// A stream that is always ready lets others on its thread come by after so many turns, or after so long.
const TURNS: u32 = 16;
const LONG: Duration = Duration::from_millis(1);

/// A stream, and what it gave that was not passed on.
pub(crate) struct Outgoing {
    stream: ByteStream,
    pub(crate) ready: Vec<Run>,
    /// How it ended; the messages that are ready come before.
    pub(crate) ended: Option<Result<(), Error>>,
    turns: u32,
    /// Spent on the stream since others were let by.
    spent: Duration,
}

impl Outgoing {
    pub(crate) fn new(stream: ByteStream) -> Self {
        Self { stream, ready: Vec::new(), ended: None, turns: 0, spent: Duration::ZERO }
    }

    /// Waits for messages, or the end.
    pub(crate) async fn gather(&mut self) {
        self.turns += 1;
        if self.turns >= TURNS || self.spent >= LONG {
            (self.turns, self.spent) = (0, Duration::ZERO);
            tokio::task::yield_now().await;
        }
        let Self { stream, ready, ended, turns, spent } = self;
        poll_fn(|cx| {
            let began = Instant::now();
            let (mut messages, mut bytes, mut looked) = (0, 0, 0);
            while ended.is_none() && bytes < ENOUGH && messages < MOST {
                match stream.poll_run(cx, RUN) {
                    Poll::Ready(Some(Ok(run))) => {
                        messages += run.len();
                        bytes += run.size();
                        // One that is a run by itself was made so slowly that it is.
                        looked += if run.frames().is_some() { RUN } else { 1 };
                        ready.push(run);
                    }
                    Poll::Ready(Some(Err(error))) => *ended = Some(Err(error)),
                    Poll::Ready(None) => *ended = Some(Ok(())),
                    Poll::Pending if ready.is_empty() => {
                        (*turns, *spent) = (0, Duration::ZERO);
                        // Nobody knows for how long: there were many, and a stream that waits holds no memory for that.
                        if ready.capacity() > RUN {
                            *ready = Vec::new();
                        }
                        return Poll::Pending;
                    }
                    Poll::Pending => break,
                }
                // Not at every message, for it takes as long as one does.
                if looked >= RUN {
                    looked = 0;
                    if *spent + began.elapsed() >= LONG {
                        break;
                    }
                }
            }
            *spent += began.elapsed();
            Poll::Ready(())
        })
        .await;
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};

    use bytes::Bytes;
    use futures::StreamExt;

    use super::*;

    /// Each message is waited for, and is there when it is asked for again.
    #[tokio::test]
    async fn who_is_never_waited_for_lets_others_by() {
        for waits in [false, true] {
            let messages = futures::stream::repeat(()).then(move |()| async move {
                if waits {
                    tokio::task::yield_now().await;
                }
                Ok(Bytes::from_static(b"hi"))
            });
            let mut outgoing = Outgoing::new(ByteStream::new(messages));
            // From here on the next message is there each time, however often it had to be waited for.
            outgoing.gather().await;
            outgoing.ready.clear();
            let came = Arc::new(AtomicBool::new(false));
            let other = Arc::clone(&came);
            let other = tokio::spawn(async move { other.store(true, Ordering::SeqCst) });
            let mut gathered = 0;
            while !came.load(Ordering::SeqCst) {
                outgoing.gather().await;
                assert!(outgoing.ready.len() <= MOST);
                outgoing.ready.clear();
                gathered += 1;
                assert!(gathered <= 2 * TURNS, "nobody else came by");
            }
            assert!(other.await.is_ok());
        }
    }
}
