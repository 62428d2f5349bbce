//! Keeps one instance registered for as long as it lives.
//!
//! The commonest defect of service frameworks is a heartbeat that gives up: the process serves on and
//! nobody finds it. Nothing makes this one give up, not even an error that says it never can succeed
//! (settings are mended while services run); it says what is wrong by [`State`] instead, for readiness
//! and metrics.

use std::time::Duration;

use formic_core::{Instance, InstanceId};
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::Instrument;

use crate::{Backoff, DynRegistry, Error, Lease};

/// A registry that grants next to nothing must not make a busy loop of the renewals.
const MIN_RENEWAL: Duration = Duration::from_millis(10);

/// How a registrar behaves.
#[derive(Clone, Debug)]
pub struct Config {
    /// How long the registry keeps a dead instance. Renewed at a third of what is granted.
    pub ttl: Duration,
    /// The wait after a first failure.
    pub min_backoff: Duration,
    /// The longest wait between attempts.
    pub max_backoff: Duration,
    /// How long one attempt may take.
    pub attempt_timeout: Duration,
    /// How long deregistering may take at shutdown.
    pub shutdown_timeout: Duration,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            // Two renewals may fail before callers lose sight of a living instance.
            ttl: Duration::from_secs(15),
            min_backoff: Duration::from_millis(250),
            // One ttl: a registry that is back is full again after about that long.
            max_backoff: Duration::from_secs(15),
            attempt_timeout: Duration::from_secs(5),
            // Part of a drain: the lease ends by itself if the registry is away.
            shutdown_timeout: Duration::from_secs(2),
        }
    }
}

/// Where the registration stands.
#[derive(Clone, Debug)]
pub enum State {
    /// The first attempt is under way.
    Pending,
    /// The registry holds the instance.
    Registered,
    /// The last attempt failed; the next one comes by itself.
    Retrying {
        /// When it last was registered, or was started.
        since: Instant,
        /// How many attempts have failed in a row.
        failures: u32,
        /// Why the last one did.
        error: Error,
    },
    /// Shut down: deregistered, or the deadline for it passed.
    Stopped,
}

impl State {
    /// Whether callers can find the instance.
    #[must_use]
    pub const fn is_registered(&self) -> bool {
        matches!(self, Self::Registered)
    }
}

/// Owns the registration of one instance.
///
/// Its one task, `registrar`, belongs to it: [`Registrar::shutdown`] ends and joins it; dropping the
/// registrar tells it to deregister and end by itself. [`Registrar::abandon`] ends it without that.
#[derive(Debug)]
pub struct Registrar {
    instance: InstanceId,
    state: watch::Receiver<State>,
    stop: CancellationToken,
    abandoned: CancellationToken,
    tasks: TaskTracker,
}

// === impl Registrar ===

impl Registrar {
    /// Starts to register the instance. Must be called within a tokio runtime.
    #[must_use]
    pub fn start(registry: DynRegistry, instance: Instance, config: Config) -> Self {
        let (publish, state) = watch::channel(State::Pending);
        let (stop, tasks) = (CancellationToken::new(), TaskTracker::new());
        let abandoned = CancellationToken::new();
        let id = instance.id.clone();
        let span = tracing::info_span!("registrar", service = %instance.service, instance = %id);
        let task = Task { registry, instance, config, publish, abandoned: abandoned.clone() };
        tasks.spawn(task.run(stop.clone()).instrument(span));
        tasks.close();
        Self { instance: id, state, stop, abandoned, tasks }
    }

    /// Whose registration this is.
    #[must_use]
    pub const fn instance(&self) -> &InstanceId {
        &self.instance
    }

    /// The state, now and from now on.
    #[must_use]
    pub fn state(&self) -> watch::Receiver<State> {
        self.state.clone()
    }

    /// Waits until the instance is registered; at once if it is. Returns also when stopped.
    pub async fn registered(&self) {
        let mut state = self.state.clone();
        // An error means that the task is over, which is one of the two ends waited for.
        let _ = state.wait_for(|state| matches!(state, State::Registered | State::Stopped)).await;
    }

    /// Deregisters, within [`Config::shutdown_timeout`], and joins the task. May be called again.
    pub async fn shutdown(&self) {
        self.stop.cancel();
        self.tasks.wait().await;
    }

    /// Ends without deregistering, as a crash would: the lease ends by itself. For who registers others, and
    /// ends while they go on.
    pub fn abandon(self) {
        self.abandoned.cancel();
    }
}

impl Drop for Registrar {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

// === impl Task ===

/// What the registrar's task owns.
struct Task {
    registry: DynRegistry,
    instance: Instance,
    config: Config,
    publish: watch::Sender<State>,
    /// Cancelled before it is told to stop, if it is to leave the registration to its lease.
    abandoned: CancellationToken,
}

impl Task {
    /// Runs until it is told to stop. An error never ends it; cancelling at any await is safe, because
    /// registering again replaces whatever was half done, and deregistering comes last.
    async fn run(self, stop: CancellationToken) {
        stop.run_until_cancelled(self.keep_registered()).await;
        if self.abandoned.is_cancelled() {
            return;
        }
        let gone = timeout(self.config.shutdown_timeout, self.registry.deregister(&self.instance.id));
        match gone.await {
            Ok(Ok(())) => tracing::debug!("deregistered"),
            Ok(Err(error)) => tracing::warn!(%error, "deregistering failed; the lease will expire"),
            Err(_) => tracing::warn!("deregistering took too long; the lease will expire"),
        }
        self.publish.send_replace(State::Stopped);
    }

    async fn keep_registered(&self) {
        let mut backoff = Backoff::new(self.config.min_backoff, self.config.max_backoff);
        let (mut since, mut failures) = (Instant::now(), 0);
        loop {
            let error =
                match self.attempt(self.registry.register(self.instance.clone(), self.config.ttl)).await {
                    Ok(lease) => {
                        tracing::debug!(ttl = ?lease.ttl, failures, "registered");
                        self.publish.send_replace(State::Registered);
                        backoff.reset();
                        failures = 0;
                        let error = self.keep_renewed(&lease).await;
                        since = Instant::now();
                        if matches!(error, Error::LeaseExpired { .. }) {
                            // The registry answers, it only forgot: a restart of it, or a long pause of ours.
                            tracing::info!("the registry lost the registration; registering again");
                            self.publish.send_replace(State::Retrying { since, failures, error });
                            continue;
                        }
                        error
                    }
                    Err(error) => error,
                };
            failures += 1;
            let wait = backoff.next_wait();
            if failures == 1 || failures % 16 == 0 {
                tracing::warn!(%error, failures, ?wait, "not registered; trying again");
            }
            self.publish.send_replace(State::Retrying { since, failures, error });
            sleep(wait).await;
        }
    }

    /// Renews until that fails, and says why.
    async fn keep_renewed(&self, lease: &Lease) -> Error {
        loop {
            // Early by up to a fifth, so that instances started together spread out.
            let wait = (lease.ttl / 3).mul_f64(0.8 + fastrand::f64() / 5.0);
            sleep(wait.max(MIN_RENEWAL)).await;
            if let Err(error) = self.attempt(self.registry.renew(lease)).await {
                return error;
            }
        }
    }

    async fn attempt<T>(&self, call: impl Future<Output = Result<T, Error>>) -> Result<T, Error> {
        let limit = self.config.attempt_timeout;
        timeout(limit, call)
            .await
            .unwrap_or_else(|_| Err(Error::unavailable(format!("no answer within {limit:?}"))))
    }
}

#[cfg(test)]
mod tests;
