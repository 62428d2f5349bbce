//! Tasks that live as long as the service and drain with it.

use std::future::Future;
use std::pin::Pin;

use tokio_util::sync::CancellationToken;

/// Tells a background task when the service stops.
#[derive(Clone, Debug)]
pub struct Stopping(pub(crate) CancellationToken);

impl Stopping {
    /// Resolves once the service is stopping: finish what is at hand and return.
    pub async fn wait(&self) {
        self.0.cancelled().await;
    }

    /// Whether the service is stopping.
    #[must_use]
    pub fn now(&self) -> bool {
        self.0.is_cancelled()
    }

    /// Runs a future until it ends, or until the service stops, which is `None`.
    pub async fn or_stop<F: Future>(&self, future: F) -> Option<F::Output> {
        self.0.run_until_cancelled(future).await
    }
}

pub(crate) type Work = Box<dyn FnOnce(Stopping) -> Pin<Box<dyn Future<Output = ()> + Send>> + Send>;

/// A task that was asked for, not started yet.
pub(crate) struct Task {
    pub(crate) name: String,
    pub(crate) work: Work,
}
