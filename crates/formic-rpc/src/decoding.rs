//! A stream of bytes as messages. Those of a run are decoded where they stand: to share its memory with each, and to ask all that
//! is below for each, costs more than to decode a short one.

use std::marker::PhantomData;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use formic_core::Error;
use futures::Stream;
use tokio::task::coop::poll_proceed;

use crate::rt::{self, Msg};
use crate::{ByteStream, Codec, Run};

/// So many messages count as one step of a task. Whoever reads a stream that is always ready lets others on its thread come by
/// after some thousands of them, as the runtime has it for whatever is always ready.
const STEP: usize = 32;

/// Decodes what a stream gives.
pub(crate) struct Decoding<M> {
    stream: ByteStream,
    run: Run,
    codec: Codec,
    /// Messages until the next step.
    left: usize,
    message: PhantomData<fn() -> M>,
}

impl<M> Decoding<M> {
    pub(crate) fn new(stream: ByteStream, codec: Codec) -> Self {
        Self { stream, run: Run::default(), codec, left: STEP, message: PhantomData }
    }
}

impl<M: Msg> Stream for Decoding<M> {
    type Item = Result<M, Error>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = &mut *self;
        if this.left == 0 {
            ready!(poll_proceed(cx)).made_progress();
            this.left = STEP;
        }
        while this.run.is_empty() {
            match ready!(this.stream.poll_run(cx, STEP)) {
                Some(Ok(run)) => this.run = run,
                Some(Err(error)) => return Poll::Ready(Some(Err(error))),
                None => return Poll::Ready(None),
            }
        }
        let message = match this.run.next_slice() {
            Some(message) => rt::decode(message, this.codec),
            None => Err(Error::internal("messages that came together are not laid out as such")),
        };
        if this.run.is_empty() {
            // Nobody knows when the next is asked for.
            this.run = Run::default();
        }
        this.left -= 1;
        Poll::Ready(Some(message))
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]

    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};

    use buffa_types::google::protobuf::StringValue;
    use bytes::Bytes;
    use futures::StreamExt;

    use super::*;
    use crate::run::head;

    fn run(messages: &[&[u8]]) -> Run {
        let frames = messages.iter().flat_map(|message| [&head(message.len())[..], message].concat());
        Run::framed(frames.collect::<Bytes>(), messages.len())
    }

    struct Given(Vec<Result<Run, Error>>);

    impl crate::Runs for Given {
        fn poll_run(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
            _: usize,
        ) -> Poll<Option<Result<Run, Error>>> {
            Poll::Ready((!self.0.is_empty()).then(|| self.0.remove(0)))
        }
    }

    #[tokio::test]
    async fn one_that_does_not_decode_ends_nothing_else() {
        let [one, two] = ["one", "two"].map(|text| {
            let text = StringValue { value: text.into(), ..StringValue::default() };
            rt::encode(&text, Codec::Proto).unwrap()
        });
        let runs = vec![
            Ok(run(&[&one, b"\xff\xff", &two])),
            Ok(Run::default()),
            Ok(Run::from(one.clone())),
            Ok(Run::framed(Bytes::from_static(b"short"), 1)),
            Err(Error::aborted("so")),
        ];
        let decoding = Decoding::<StringValue>::new(ByteStream::of_runs(Given(runs)), Codec::Proto);
        let all = decoding.map(|message| match message {
            Ok(message) => message.value,
            Err(error) => error.code().to_string(),
        });
        let all: Vec<_> = all.collect().await;
        assert_eq!(all, ["one", "invalid_argument", "two", "one", "internal", "aborted"]);
    }

    /// A stream that is always ready, and one other task on the thread.
    #[tokio::test]
    async fn others_come_by_while_all_is_ready() {
        let messages = futures::stream::repeat_with(|| Ok(Bytes::new()));
        let mut decoding = Decoding::<StringValue>::new(ByteStream::new(messages), Codec::Proto);
        let came = Arc::new(AtomicBool::new(false));
        let other = Arc::clone(&came);
        let other = tokio::spawn(async move { other.store(true, Ordering::SeqCst) });
        let mut read = 0;
        while !came.load(Ordering::SeqCst) {
            decoding.next().await.unwrap().unwrap();
            read += 1;
            assert!(read <= 10_000, "nobody else came by");
        }
        other.await.unwrap();
    }
}
