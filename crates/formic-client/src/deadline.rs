//! Deadlines: every call has one, and it is kept here however the call travels.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use formic_core::Error;
use formic_rpc::{Answer, Body, ByteStream, Call};
use futures::Stream;
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
        let mut answer = timeout_at(self.until, call()).await.map_err(late)??;
        if self.stream
            && let Body::Stream(stream) = answer.body
        {
            let sleep = Box::pin(sleep_until(self.until));
            answer.body = Body::Stream(Box::pin(Bounded { stream: Some(stream), sleep }));
        }
        Ok(answer)
    }
}

/// A response stream that ends at the deadline.
struct Bounded {
    stream: Option<ByteStream>,
    sleep: Pin<Box<Sleep>>,
}

impl Stream for Bounded {
    type Item = Result<Bytes, Error>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let Some(stream) = &mut self.stream else { return Poll::Ready(None) };
        // What is there already is given out even at the deadline.
        match stream.as_mut().poll_next(cx) {
            Poll::Ready(Some(item)) => Poll::Ready(Some(item)),
            Poll::Ready(None) => {
                self.stream = None;
                Poll::Ready(None)
            }
            Poll::Pending => {
                std::task::ready!(self.sleep.as_mut().poll(cx));
                self.stream = None;
                let late = Error::deadline_exceeded("the deadline passed before the stream ended");
                Poll::Ready(Some(Err(late)))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use formic_core::{Kind, Method};
    use formic_rpc::Codec;

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
}
