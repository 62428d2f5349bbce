//! Deadlines: every call has one, and it is kept here however the call travels.

use std::future::Future;
use std::pin::{Pin, pin};
use std::task::{Context, Poll};
use std::time::Duration;

use formic_core::Error;
use formic_rpc::{Answer, Body, ByteStream, Call, Run, Runs};
use tokio::task::coop::consume_budget;
use tokio::time::{Instant, Sleep, sleep_until, timeout_at};

/// Later than any deadline that means something; keeps sums from overflowing.
const LONGEST: Duration = Duration::from_secs(365 * 24 * 60 * 60);

/// Until when the answer to a call that streams without a deadline must begin. Stands in the extensions of the call.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Begin(pub(crate) Instant);

/// So long after a moment, as far as that can be said.
pub(crate) fn after(now: Instant, timeout: Duration) -> Instant {
    now + timeout.min(LONGEST)
}

/// Until when a call may take, and how much of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Deadline {
    until: Instant,
    /// The response stream too, not only the time until it begins.
    stream: bool,
}

impl Deadline {
    /// Settles the deadline of a call, and writes into the call what travels with it.
    ///
    /// # Errors
    /// If it has passed already: nothing is sent then.
    pub(crate) fn settle(
        call: &mut Call,
        inherited: Option<Instant>,
        default: Duration,
        now: Instant,
    ) -> Result<Self, Error> {
        let given = match (call.deadline, inherited) {
            (Some(own), Some(inherited)) => Some(own.min(inherited)),
            (own, inherited) => own.or(inherited),
        };
        let until = given.unwrap_or_else(|| after(now, default));
        let answers_stream = call.method.kind.server_streams();
        // A default that travelled would make the server end the stream.
        call.deadline = (given.is_some() || !answers_stream).then_some(until);
        if until <= now {
            return Err(Error::deadline_exceeded("the deadline had passed before the call was sent"));
        }
        if call.deadline.is_none() {
            // A channel may lead to another one, and whichever gives up first is the one to know of.
            let before = call.extensions.get::<Begin>().map(|begin| begin.0);
            call.extensions.insert(Begin(before.map_or(until, |before| before.min(until))));
        }
        Ok(Self { until, stream: given.is_some() && answers_stream })
    }

    /// Makes the call within its deadline; dropping the call is what ends it. Takes a function because a
    /// future that is passed in and then moved takes its place twice, and this one is large.
    pub(crate) async fn bound<F>(self, call: impl FnOnce() -> F) -> Result<Answer, Error>
    where
        F: Future<Output = Result<Answer, Error>>,
    {
        let late = |_| Error::deadline_exceeded("the deadline passed before there was an answer");
        // A call to an endpoint that is down fails without a wait. Whoever asks again and again would have its thread for itself,
        // and no timer on it, the deadlines of other calls among them, would be looked at.
        consume_budget().await;
        // Pinned where it is made, or it would be moved into the timeout first.
        let call = pin!(call());
        let mut answer = timeout_at(self.until, call).await.map_err(late)??;
        if self.stream
            && let Body::Stream(stream) = answer.body
        {
            answer.body = Body::Stream(ByteStream::of_runs(Bounded::new(stream, self.until)));
        }
        Ok(answer)
    }
}

/// A response stream that ends at the deadline.
struct Bounded {
    stream: Option<ByteStream>,
    sleep: Pin<Box<Sleep>>,
    given: usize,
    /// What was given out after the deadline, in bytes, once that has passed.
    late: Option<usize>,
}

/// The clock is looked at once for so many messages that are there one after the other.
const OFTEN: usize = 64;

/// More than may be on its way to a caller, in bytes. What comes after the deadline beyond that was sent after it.
const MOST_LATE: usize = 8 << 20;

/// What a message counts as beside its bytes, for there are some of none.
const MESSAGE: usize = 64;

impl Bounded {
    fn new(stream: ByteStream, until: Instant) -> Self {
        Self { stream: Some(stream), sleep: Box::pin(sleep_until(until)), given: 0, late: None }
    }

    /// Whether it goes on after the deadline as if there were none.
    fn is_endless(&mut self, run: &Run) -> bool {
        self.given += run.len();
        if self.given >= OFTEN {
            self.given = 0;
            if self.late.is_none() && self.sleep.deadline() <= Instant::now() {
                self.late = Some(0);
            }
        }
        let Some(late) = &mut self.late else { return false };
        // What makes it too much was on its way, for it may be as large as that by itself.
        let is_over = *late > MOST_LATE;
        *late += run.size() + run.len() * MESSAGE;
        is_over
    }

    fn end(&mut self) -> Poll<Option<Result<Run, Error>>> {
        self.stream = None;
        let late = Error::deadline_exceeded("the deadline passed before the stream ended");
        Poll::Ready(Some(Err(late)))
    }
}

impl Runs for Bounded {
    fn poll_run(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        most: usize,
    ) -> Poll<Option<Result<Run, Error>>> {
        let Some(stream) = &mut self.stream else { return Poll::Ready(None) };
        // What is there already is given out even at the deadline.
        match stream.poll_run(cx, most) {
            Poll::Ready(Some(Ok(run))) if self.is_endless(&run) => self.end(),
            Poll::Ready(Some(item)) => Poll::Ready(Some(item)),
            Poll::Ready(None) => {
                self.stream = None;
                Poll::Ready(None)
            }
            Poll::Pending => {
                std::task::ready!(self.sleep.as_mut().poll(cx));
                self.end()
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use formic_core::{Kind, Method};
    use formic_rpc::rt::buffa_types::google::protobuf::StringValue;
    use formic_rpc::{Codec, Response, Streaming, rt};
    use futures::StreamExt;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    /// The deadline that travels, the one that is kept, and whether it is that of the whole stream.
    fn settle(kind: Kind, own: Option<u32>, inherited: Option<u32>) -> (Option<u32>, u32, bool) {
        let now = Instant::now();
        let mut call = Call::new(Method::new("/p.S/M", kind), Codec::Proto, Body::Message(Bytes::new()));
        call.deadline = own.map(|seconds| now + SECOND * seconds);
        let inherited = inherited.map(|seconds| now + SECOND * seconds);
        let deadline = Deadline::settle(&mut call, inherited, 5 * SECOND, now).expect("not passed");
        let seconds = |at: Instant| (at - now).as_secs() as u32;
        let begin = call.extensions.get::<Begin>().map(|begin| begin.0);
        assert_eq!(call.deadline.or(begin), Some(deadline.until), "whoever makes the call knows it");
        (call.deadline.map(seconds), seconds(deadline.until), deadline.stream)
    }

    #[test]
    fn the_earliest_counts_and_there_always_is_one() {
        assert_eq!(settle(Kind::Unary, None, None), (Some(5), 5, false));
        assert_eq!(
            settle(Kind::Unary, Some(9), None),
            (Some(9), 9, false),
            "more than the default, if asked for"
        );
        assert_eq!(settle(Kind::Unary, Some(9), Some(3)), (Some(3), 3, false));
        assert_eq!(settle(Kind::ClientStream, Some(2), Some(3)), (Some(2), 2, false));
    }

    #[test]
    fn the_default_bounds_only_the_beginning_of_a_stream() {
        for kind in [Kind::ServerStream, Kind::BidiStream] {
            assert_eq!(settle(kind, None, None), (None, 5, false));
            assert_eq!(settle(kind, Some(60), None), (Some(60), 60, true));
            assert_eq!(settle(kind, None, Some(3)), (Some(3), 3, true));
        }
    }

    #[test]
    fn an_expired_deadline_and_an_endless_default_are_met() {
        let now = Instant::now();
        let method = Method::new("/p.S/M", Kind::Unary);
        let mut call = Call::new(method, Codec::Proto, Body::Message(Bytes::new()));
        assert!(Deadline::settle(&mut call, None, Duration::MAX, now).is_ok());
        call.deadline = Some(now);
        let error = Deadline::settle(&mut call, None, SECOND, now).expect_err("passed");
        assert_eq!(error.code(), formic_core::Code::DeadlineExceeded);
    }

    #[tokio::test(start_paused = true)]
    async fn what_was_there_at_the_deadline_is_given_out_and_what_never_ends_is_not() {
        let answer = |messages: ByteStream| async {
            let mut call = Call::new(
                Method::new("/p.S/M", Kind::ServerStream),
                Codec::Proto,
                Body::Message(Bytes::new()),
            );
            call.deadline = Some(Instant::now() + SECOND);
            let deadline = Deadline::settle(&mut call, None, SECOND, Instant::now()).expect("not passed");
            let answer = deadline.bound(|| async { Ok(Answer::new(Body::Stream(messages))) }).await;
            let answers = answer.expect("it began").body.into_stream();
            tokio::time::advance(2 * SECOND).await;
            answers
        };
        let message = || Ok(Bytes::from_static(&[0; 100]));
        let many = futures::stream::repeat_with(message).take(10_000);
        let whole: Vec<_> = answer(ByteStream::new(many)).await.collect().await;
        assert!(whole.len() == 10_000 && whole.iter().all(Result::is_ok), "{}", whole.len());
        // Looked at when the clock is.
        let large = |at| if at == 63 { vec![0; MOST_LATE + 1] } else { vec![0; 10] };
        let few = futures::stream::iter(0..64).map(move |at| Ok(Bytes::from(large(at))));
        let whole: Vec<_> = answer(ByteStream::new(few)).await.collect().await;
        assert!(whole.len() == 64 && whole.iter().all(Result::is_ok), "{}", whole.len());
        for bytes in [0, 100] {
            let message = move || Ok(Bytes::from_static(&[0; 100]).slice(..bytes));
            // Ends where the test would not.
            let endless = futures::stream::repeat_with(message).take(1_000_000);
            let mut given: Vec<_> = answer(ByteStream::new(endless)).await.collect().await;
            let last = given.pop().expect("the deadline");
            assert_eq!(last.expect_err("it has passed").code(), formic_core::Code::DeadlineExceeded);
            assert!(given.iter().all(Result::is_ok) && given.len() < 200_000, "{}", given.len());
            // The same by runs of many.
            let messages = futures::stream::repeat_with(move || {
                Ok(StringValue { value: "x".repeat(bytes), ..StringValue::default() })
            });
            let endless =
                rt::stream_answer(Response::new(Streaming::new(messages.take(1_000_000))), Codec::Proto);
            let mut runs = answer(endless.expect("an answer").body.into_stream()).await;
            let (mut given, mut most) = (0, 0);
            let last = loop {
                match std::future::poll_fn(|cx| runs.poll_run(cx, 32)).await.expect("the deadline") {
                    Ok(run) => (given, most) = (given + run.len(), most.max(run.len())),
                    Err(error) => break error,
                }
            };
            assert_eq!(last.code(), formic_core::Code::DeadlineExceeded);
            assert!(given < 200_000 && most == 32, "{given} in runs of {most}");
            assert!(std::future::poll_fn(|cx| runs.poll_run(cx, 32)).await.is_none());
        }
    }
}
