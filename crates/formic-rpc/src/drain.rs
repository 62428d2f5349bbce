//! The news that a server goes away, for those who would otherwise never end.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::sync::Notify;

/// Says whether the server that answers a call has begun to finish its calls. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Drain(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    begun: AtomicBool,
    news: Notify,
}

impl Drain {
    /// Of a server that stays.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Begins it; there is no way back.
    pub fn begin(&self) {
        self.0.begun.store(true, Ordering::SeqCst);
        self.0.news.notify_waiters();
    }

    /// Whether it has begun.
    #[must_use]
    pub fn is_draining(&self) -> bool {
        self.0.begun.load(Ordering::SeqCst)
    }

    /// Resolves once it has begun. Cancel safe.
    pub fn draining(&self) -> impl Future<Output = ()> + Send + 'static {
        let inner = Arc::clone(&self.0);
        async move {
            let mut news = std::pin::pin!(inner.news.notified());
            // Listens first and looks then, so that nothing is missed in between.
            news.as_mut().enable();
            if !inner.begun.load(Ordering::SeqCst) {
                news.await;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test]
    async fn who_waits_is_told_and_so_is_who_comes_late() {
        let drain = Drain::new();
        let mut waiting = Box::pin(drain.draining());
        let early = tokio::time::timeout(Duration::from_millis(5), waiting.as_mut()).await;
        assert!(early.is_err() && !drain.is_draining());
        let unpolled = drain.draining();
        drain.clone().begin();
        waiting.await;
        unpolled.await;
        drain.draining().await;
        assert!(drain.is_draining());
    }
}
