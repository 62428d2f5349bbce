//! The messages of an answer that streams, as connectrpc gives them: one at a time.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use connectrpc::client::ServerStream;
use formic_core::Error;
use formic_rpc::raw::{Raw, RawView};
use formic_rpc::{Run, Runs, Trailing};

use super::{Incoming, Wire};

/// Short messages that came together go on together, up to so many bytes of them; a longer one goes on alone.
const TOGETHER: usize = 16 << 10;
const SHORT: usize = 1 << 10;

/// A message, or how a stream of them ended.
type Next = Result<Bytes, Result<(), Error>>;

/// The messages of an answer that streams.
pub(super) struct Messages {
    stream: ServerStream<Incoming, RawView<'static>>,
    wire: Wire,
    late: Trailing,
    /// What came right after a run and is no part of it.
    later: Option<Next>,
    over: bool,
}

impl Messages {
    pub(super) fn new(stream: ServerStream<Incoming, RawView<'static>>, wire: Wire, late: Trailing) -> Self {
        Self { stream, wire, late, later: None, over: false }
    }

    fn poll_message(&mut self, cx: &mut Context<'_>) -> Poll<Next> {
        // It keeps nothing that the stream does not: dropped while it waits, it loses nothing. With a deadline of connectrpc's own it would
        // keep a timer; ours is another.
        let next = {
            let next = std::pin::pin!(self.stream.message::<Raw>());
            ready!(next.poll(cx))
        };
        Poll::Ready(match next {
            Ok(Some(message)) => Ok(message.as_ref().bytes().clone()),
            Ok(None) => {
                self.late.set(self.stream.trailers().cloned().unwrap_or_default().into());
                Err(Ok(()))
            }
            Err(error) => Err(Err(self.wire.error(&error))),
        })
    }

    fn end(&mut self, ended: Result<(), Error>) -> Poll<Option<Result<Run, Error>>> {
        self.over = true;
        Poll::Ready(ended.err().map(Err))
    }
}

impl Runs for Messages {
    fn poll_run(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        most: usize,
    ) -> Poll<Option<Result<Run, Error>>> {
        let this = &mut *self;
        if this.over {
            return Poll::Ready(None);
        }
        let first = match this.later.take() {
            Some(first) => first,
            None => ready!(this.poll_message(cx)),
        };
        let (mut run, mut short) = match first {
            Ok(message) => (Run::from(message.clone()), message.len() <= SHORT),
            Err(ended) => return this.end(ended),
        };
        while short && run.len() < most {
            match this.poll_message(cx) {
                Poll::Ready(next) => {
                    short = next.as_ref().is_ok_and(|message| {
                        message.len() <= SHORT && run.join(&Run::from(message.clone()), TOGETHER)
                    });
                    if !short {
                        this.later = Some(next);
                    }
                }
                Poll::Pending => break,
            }
        }
        Poll::Ready(Some(Ok(run)))
    }
}
