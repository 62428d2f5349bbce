//! How far a request that streams has come: what an endpoint takes is told from what its caller takes over the request.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use formic_core::Error;
use formic_rpc::{ByteStream, Run, Runs};
use tokio::time::Instant;

/// A request that streams, as its caller makes it.
#[derive(Debug)]
pub(crate) struct Progress {
    origin: Instant,
    /// How it stands in the low three bits; above them since when, in microseconds since the origin. One word, so that no
    /// reader sees the one without the other.
    word: AtomicU64,
}

/// How it stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
enum Stand {
    /// Nothing was said yet.
    Silent,
    /// Its messages are taken as they come.
    Flowing,
    /// All that its caller has said so far is taken.
    Waiting,
    /// Whole.
    Ended,
    /// Broken off by its caller.
    Failed,
}

const BITS: u32 = 3;

// === impl Progress ===

impl Progress {
    pub(crate) fn begin(now: Instant) -> Arc<Self> {
        Arc::new(Self { origin: now, word: AtomicU64::new(Stand::Silent as u64) })
    }

    /// The request, which tells from now on how it goes.
    pub(crate) fn follow(self: &Arc<Self>, stream: ByteStream) -> ByteStream {
        ByteStream::of_runs(Followed { stream, progress: Arc::clone(self), stand: Stand::Silent })
    }

    /// When the endpoint was last given something to do, as far as is known: before that, it had to wait for its caller.
    pub(crate) fn since(&self) -> Instant {
        self.origin + Duration::from_micros(self.word.load(Ordering::Acquire) >> BITS)
    }

    /// Whether the endpoint has nothing more to wait for.
    pub(crate) fn has_ended(&self) -> bool {
        self.is(Stand::Ended)
    }

    /// Whether its caller has broken it off, which is then the end of the call.
    pub(crate) fn has_failed(&self) -> bool {
        self.is(Stand::Failed)
    }

    /// Whether an endpoint that does nothing has nothing to do. One whose answer streams begins it once something was said;
    /// one that answers once may need all of the request.
    pub(crate) fn excuses(&self, answers_stream: bool) -> bool {
        let stand = self.word.load(Ordering::Acquire) & ((1 << BITS) - 1);
        let is = |one| stand == one as u64;
        is(Stand::Silent) || is(Stand::Failed) || is(Stand::Waiting) && !answers_stream
    }

    fn is(&self, stand: Stand) -> bool {
        self.word.load(Ordering::Acquire) & ((1 << BITS) - 1) == stand as u64
    }

    fn set(&self, stand: Stand) {
        let since = u64::try_from(self.origin.elapsed().as_micros()).unwrap_or(u64::MAX >> BITS);
        self.word.store(since << BITS | stand as u64, Ordering::Release);
    }
}

struct Followed {
    stream: ByteStream,
    progress: Arc<Progress>,
    stand: Stand,
}

impl Runs for Followed {
    fn poll_run(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        most: usize,
    ) -> Poll<Option<Result<Run, Error>>> {
        let polled = self.stream.poll_run(cx, most);
        let stand = match &polled {
            Poll::Pending if self.stand == Stand::Silent => Stand::Silent,
            Poll::Pending => Stand::Waiting,
            Poll::Ready(Some(Ok(_))) => Stand::Flowing,
            Poll::Ready(Some(Err(_))) => Stand::Failed,
            Poll::Ready(None) => Stand::Ended,
        };
        // While messages are there one after the other, the clock is not read for each.
        if stand != self.stand && !matches!(self.stand, Stand::Ended | Stand::Failed) {
            self.stand = stand;
            self.progress.set(stand);
        }
        polled
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use futures::{FutureExt, StreamExt};

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[tokio::test(start_paused = true)]
    async fn what_a_caller_takes_is_told_from_what_comes_after() {
        let origin = Instant::now();
        let progress = Progress::begin(origin);
        // After one second, and after two more.
        let messages = futures::stream::iter(1..=2).then(|n| async move {
            tokio::time::sleep(SECOND * n).await;
            Ok(Bytes::new())
        });
        let mut stream = progress.follow(ByteStream::new(messages));
        let since = || (progress.since() - origin).as_secs_f64().round();
        for seconds in [1.0, 3.0] {
            assert!(stream.next().await.is_some_and(|message| message.is_ok()));
            assert!((since() - seconds).abs() < 0.1, "it had to be waited for: {}", since());
            assert!(!progress.has_ended() && !progress.has_failed());
        }
        tokio::time::advance(SECOND * 4).await;
        assert!((since() - 3.0).abs() < 0.1, "the rest is the endpoint's time");
        assert!(stream.next().await.is_none());
        assert!(progress.has_ended() && !progress.has_failed());
    }

    #[tokio::test]
    async fn an_endpoint_has_nothing_to_do_before_something_is_said() {
        let progress = Progress::begin(Instant::now());
        let said = futures::stream::iter([Ok(Bytes::new())]).chain(futures::stream::pending());
        let (silent, mut stream) = (futures::stream::pending(), progress.follow(ByteStream::new(said)));
        assert!(progress.follow(ByteStream::new(silent)).next().now_or_never().is_none());
        let excuses = || [true, false].map(|answers_stream| progress.excuses(answers_stream));
        assert_eq!(excuses(), [true, true]);
        assert!(stream.next().await.is_some_and(|message| message.is_ok()));
        assert_eq!(excuses(), [false, false], "there may be more, and it does not take it");
        assert!(stream.next().now_or_never().is_none());
        assert_eq!(excuses(), [false, true], "whoever answers once may need all");
    }

    #[tokio::test]
    async fn messages_that_are_ready_together_stay_together() {
        let progress = Progress::begin(Instant::now());
        let run = Run::framed([formic_rpc::run::head(0); 3].as_flattened().to_vec().into(), 3);
        let mut stream = progress.follow(ByteStream::of_runs(Once(Some(run))));
        let mut next = async || std::future::poll_fn(|cx| stream.poll_run(cx, 32)).await;
        assert_eq!(next().await.and_then(Result::ok).map(|run| run.len()), Some(3));
        assert!(!progress.excuses(true) && !progress.has_ended());
        assert!(next().await.is_none() && progress.has_ended());
    }

    struct Once(Option<Run>);

    impl Runs for Once {
        fn poll_run(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
            _: usize,
        ) -> Poll<Option<Result<Run, Error>>> {
            Poll::Ready(self.0.take().map(Ok))
        }
    }

    #[tokio::test]
    async fn one_that_its_caller_breaks_off_has_not_ended() {
        let progress = Progress::begin(Instant::now());
        let broken = futures::stream::iter([Ok(Bytes::new()), Err(Error::internal("broken"))]);
        assert_eq!(progress.follow(ByteStream::new(broken)).count().await, 2);
        assert!(progress.has_failed() && !progress.has_ended(), "not by the end that follows either");
    }
}
