//! One instance behind the gateway: what it has to do, and connections to it that can be used again.

use std::io;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use formic_client::connect;
use formic_core::{Endpoint, Instance, InstanceId};
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::body::Upload;

/// How long a connection is kept that nobody uses: less than the five seconds after which Node closes one,
/// as a request must not meet the end of its connection.
const IDLE: Duration = Duration::from_secs(4);

/// The most connections that are kept; more requests at once open more, which are closed afterwards.
const KEPT: usize = 64;

/// How long it may take to connect.
const CONNECT: Duration = Duration::from_secs(1);

/// One instance.
#[derive(Debug)]
pub(crate) struct Backend {
    id: InstanceId,
    endpoint: Endpoint,
    under_way: AtomicUsize,
    idle: Mutex<Vec<Idle>>,
}

#[derive(Debug)]
struct Idle {
    sender: SendRequest<Upload>,
    since: Instant,
}

/// Counts a request as under way while it lives.
#[derive(Debug)]
pub(crate) struct Load(Arc<Backend>);

impl Drop for Load {
    fn drop(&mut self) {
        self.0.under_way.fetch_sub(1, Ordering::Relaxed);
    }
}

// === impl Backend ===

impl Backend {
    pub(crate) fn new(instance: &Instance) -> Self {
        Self {
            id: instance.id.clone(),
            endpoint: instance.endpoint.clone(),
            under_way: AtomicUsize::new(0),
            idle: Mutex::default(),
        }
    }

    /// Whether this is the instance, where it is now.
    pub(crate) fn is(&self, instance: &Instance) -> bool {
        self.id == instance.id && self.endpoint == instance.endpoint
    }

    pub(crate) fn id(&self) -> &InstanceId {
        &self.id
    }

    pub(crate) fn under_way(&self) -> usize {
        self.under_way.load(Ordering::Relaxed)
    }

    pub(crate) fn begin(self: &Arc<Self>) -> Load {
        self.under_way.fetch_add(1, Ordering::Relaxed);
        Load(Arc::clone(self))
    }

    /// A connection from an earlier request, the one used last.
    pub(crate) fn idle(&self) -> Option<SendRequest<Upload>> {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        idle.retain(|idle| !idle.sender.is_closed() && now - idle.since < IDLE);
        let at = idle.iter().rposition(|idle| idle.sender.is_ready())?;
        Some(idle.remove(at).sender)
    }

    /// A new connection; its task ends with it, or with the token.
    ///
    /// # Errors
    /// If nobody answers there in time.
    pub(crate) async fn connect(
        &self,
        tasks: &TaskTracker,
        stop: &CancellationToken,
    ) -> io::Result<SendRequest<Upload>> {
        let io = tokio::time::timeout(CONNECT, connect::open(None, &self.endpoint)).await??;
        let (sender, connection) = http1::handshake(TokioIo::new(io)).await.map_err(io::Error::other)?;
        let (stop, id) = (stop.clone(), self.id.clone());
        tasks.spawn(async move {
            if let Some(Err(error)) = stop.run_until_cancelled(connection.with_upgrades()).await {
                tracing::debug!(instance = %id, %error, "a connection ended badly");
            }
        });
        Ok(sender)
    }

    /// Keeps a connection whose answer has been read.
    pub(crate) fn keep(&self, sender: SendRequest<Upload>) {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        if idle.len() < KEPT && !sender.is_closed() {
            idle.push(Idle { sender, since: Instant::now() });
        }
    }
}
