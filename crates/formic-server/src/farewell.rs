//! How a connection of HTTP/1.1 is left, so that nobody's request is lost.
//!
//! HTTP/2 has GOAWAY. HTTP/1.1 has nothing to say to a caller between two requests: a server that closes then may
//! cross the next request on its way, and the caller cannot know whether that was begun. So a connection that
//! was used a moment ago stays open a moment longer, and the answer to its next request says that it is the last.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use http::{HeaderMap, HeaderValue, Version, header};
use tokio::time::Instant;

/// How long a connection must have been quiet to be closed without a word. Who calls all the time calls again
/// within it; who calls now and then will hardly do so at that very moment.
const QUIET: Duration = Duration::from_millis(500);
/// How often it is looked whether what is being answered is through.
const LOOK: Duration = Duration::from_millis(25);

/// What is known of one connection.
#[derive(Debug)]
pub(crate) struct Talk {
    begun: Instant,
    /// A request came.
    used: AtomicBool,
    /// It was one of HTTP/1.
    old: AtomicBool,
    leaving: AtomicBool,
    /// Requests of HTTP/1 that are being answered, to the end of the answers' bodies.
    open: AtomicUsize,
    /// When the last of them was through, in milliseconds after the beginning.
    last: AtomicU64,
}

/// A request of HTTP/1, until its answer is through.
#[derive(Debug)]
pub(crate) struct Turn(Arc<Talk>);

impl Talk {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self {
            begun: Instant::now(),
            used: AtomicBool::new(false),
            old: AtomicBool::new(false),
            leaving: AtomicBool::new(false),
            open: AtomicUsize::new(0),
            last: AtomicU64::new(0),
        })
    }

    /// Takes note of a request.
    pub(crate) fn request(self: &Arc<Self>, version: Version) -> Option<Turn> {
        self.used.store(true, Ordering::Relaxed);
        (version < Version::HTTP_2).then(|| {
            self.old.store(true, Ordering::Relaxed);
            self.open.fetch_add(1, Ordering::Relaxed);
            Turn(Arc::clone(self))
        })
    }

    pub(crate) fn is_used(&self) -> bool {
        self.used.load(Ordering::Relaxed)
    }

    /// The server goes: answers say so from now on. Says how long to wait before it is looked again; `None`
    /// if the connection can be closed now.
    pub(crate) fn leave(&self) -> Option<Duration> {
        if !self.old.load(Ordering::Relaxed) {
            return None;
        }
        self.leaving.store(true, Ordering::Relaxed);
        if self.open.load(Ordering::Relaxed) > 0 {
            return Some(LOOK);
        }
        let quiet_since = self.begun + Duration::from_millis(self.last.load(Ordering::Relaxed));
        let left = QUIET.saturating_sub(quiet_since.elapsed());
        (!left.is_zero()).then_some(left)
    }
}

impl Turn {
    /// Tells the caller, if this is the last answer on this connection.
    pub(crate) fn mark(&self, headers: &mut HeaderMap) {
        if self.0.leaving.load(Ordering::Relaxed) {
            headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        let now = u64::try_from(self.0.begun.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.0.last.store(now, Ordering::Relaxed);
        self.0.open.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn what_was_used_a_moment_ago_stays_a_moment() {
        let talk = Talk::new();
        let turn = talk.request(Version::HTTP_11);
        let mut headers = HeaderMap::new();
        turn.iter().for_each(|turn| turn.mark(&mut headers));
        assert!(headers.is_empty());
        assert_eq!(talk.leave(), Some(LOOK), "it is being answered");
        turn.iter().for_each(|turn| turn.mark(&mut headers));
        assert_eq!(headers.get(header::CONNECTION), Some(&HeaderValue::from_static("close")));
        tokio::time::sleep(Duration::from_secs(2)).await;
        drop(turn);
        assert_eq!(talk.leave(), Some(QUIET));
        tokio::time::sleep(QUIET / 2).await;
        assert_eq!(talk.leave(), Some(QUIET / 2));
        tokio::time::sleep(QUIET / 2).await;
        assert_eq!(talk.leave(), None);
    }

    #[tokio::test(start_paused = true)]
    async fn http_2_says_it_by_itself() {
        let talk = Talk::new();
        assert!(talk.request(Version::HTTP_2).is_none());
        assert!(talk.is_used());
        assert_eq!(talk.leave(), None);
    }
}
