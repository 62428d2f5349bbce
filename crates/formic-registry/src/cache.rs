//! What a caller knows about the services that it calls: the last known good set, whatever happens to
//! the registry.
//!
//! A registry that is away must not take down calls between services that are up. So a set survives
//! every error, and after a reconnection it shrinks with care: a registry that was restarted knows
//! nobody until the registrars come back, so an instance that it does not list yet is kept for
//! [`Config::settle`]; one that it did list and then dropped goes at once. A registry that never failed
//! is believed in everything, an empty set included.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use formic_core::{Members, ServiceName};
use tokio::sync::watch;
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::Instrument;

use crate::{Backoff, DynRegistry, Error, Snapshot};

mod knowledge;

use knowledge::Knowledge;

/// How a cache behaves.
#[derive(Clone, Debug)]
pub struct Config {
    /// The wait before a first reconnection.
    pub min_backoff: Duration,
    /// The longest wait between reconnections.
    pub max_backoff: Duration,
    /// How long a new watch may take to say its first set.
    pub first_timeout: Duration,
    /// How long after a reconnection an instance is kept that the registry has not listed again.
    pub settle: Duration,
    /// How long a service is followed on when nobody holds its [`Instances`] any more.
    pub linger: Duration,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            min_backoff: Duration::from_millis(100),
            // An engine that was replaced waits for about twice as long before it takes anything away.
            max_backoff: Duration::from_secs(1),
            first_timeout: Duration::from_secs(5),
            // A registrar is back within its renewal (5 s) or its longest back-off (15 s).
            settle: Duration::from_secs(20),
            linger: Duration::from_secs(30),
        }
    }
}

/// What is known about a service.
#[derive(Clone, Debug)]
pub struct View {
    /// The instances to call, sorted by id.
    pub instances: Members,
    /// Whether the registry has ever answered; an empty set means nothing before.
    pub known: bool,
    /// Why, and since when, the set is only the last known good one.
    pub stale: Option<Stale>,
}

/// The registry does not answer.
#[derive(Clone, Debug)]
pub struct Stale {
    /// Since when.
    pub since: Instant,
    /// The latest error.
    pub error: Error,
}

impl Stale {
    /// For how long by now.
    #[must_use]
    pub fn age(&self) -> Duration {
        self.since.elapsed()
    }
}

/// A cache over any registry; clones share it.
///
/// It follows a service from the first [`Cache::instances`] on, by one task per service, `registry-cache`,
/// which belongs to the cache: it ends when nobody holds the service's handle for
/// [`Config::linger`], when [`Cache::shutdown`] is called, or when the cache and every handle are dropped.
#[derive(Clone, Debug)]
pub struct Cache(Arc<Inner>);

type Topics = Arc<Mutex<HashMap<ServiceName, watch::Sender<View>>>>;

#[derive(Debug)]
struct Inner {
    registry: DynRegistry,
    config: Config,
    topics: Topics,
    stop: CancellationToken,
    tasks: TaskTracker,
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

/// The instances of one service, now and from now on. Holds the cache alive.
#[derive(Clone, Debug)]
pub struct Instances {
    service: ServiceName,
    receiver: watch::Receiver<View>,
    _cache: Arc<Inner>,
}

// === impl Cache ===

impl Cache {
    /// A cache with the usual waits.
    #[must_use]
    pub fn new(registry: DynRegistry) -> Self {
        Self::with_config(registry, Config::default())
    }

    /// A cache that behaves as told.
    #[must_use]
    pub fn with_config(registry: DynRegistry, config: Config) -> Self {
        let topics = Topics::default();
        let (stop, tasks) = (CancellationToken::new(), TaskTracker::new());
        Self(Arc::new(Inner { registry, config, topics, stop, tasks }))
    }

    /// The registry underneath.
    #[must_use]
    pub fn registry(&self) -> &DynRegistry {
        &self.0.registry
    }

    /// Follows a service. The first call for a service starts its task and so must be made within a
    /// tokio runtime; it returns at once, with nothing known yet.
    #[must_use]
    pub fn instances(&self, service: &ServiceName) -> Instances {
        let inner = &self.0;
        let mut topics = inner.topics.lock().unwrap_or_else(PoisonError::into_inner);
        let receiver = match topics.get(service) {
            Some(topic) => topic.subscribe(),
            None => {
                let (publish, receiver) = watch::channel(Knowledge::default().view());
                topics.insert(service.clone(), publish.clone());
                let follower = Follower {
                    registry: inner.registry.clone(),
                    config: inner.config.clone(),
                    service: service.clone(),
                    topics: inner.topics.clone(),
                    publish,
                };
                let stop = inner.stop.clone();
                let span = tracing::info_span!("registry-cache", %service);
                let task = async move {
                    stop.run_until_cancelled(follower.run()).await;
                };
                inner.tasks.spawn(task.instrument(span));
                receiver
            }
        };
        Instances { service: service.clone(), receiver, _cache: self.0.clone() }
    }

    /// Ends and joins every task. Handles keep what they last knew.
    pub async fn shutdown(&self) {
        self.0.stop.cancel();
        self.0.tasks.close();
        self.0.tasks.wait().await;
        self.0.topics.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }
}

// === impl Instances ===

impl Instances {
    /// Which service this is about.
    #[must_use]
    pub const fn service(&self) -> &ServiceName {
        &self.service
    }

    /// The instances to call.
    #[must_use]
    pub fn current(&self) -> Members {
        self.receiver.borrow().instances.clone()
    }

    /// Everything known.
    #[must_use]
    pub fn view(&self) -> View {
        self.receiver.borrow().clone()
    }

    /// The next view that this handle has not seen; `None` when the cache was shut down. Cancel safe.
    pub async fn changed(&mut self) -> Option<View> {
        self.receiver.changed().await.ok()?;
        Some(self.receiver.borrow_and_update().clone())
    }

    /// Waits until there is an instance to call; at once if there is. `None` when the cache was shut
    /// down. The caller bounds the wait. Cancel safe.
    pub async fn available(&mut self) -> Option<View> {
        self.receiver.wait_for(|view| !view.instances.is_empty()).await.ok().map(|view| view.clone())
    }

    /// Waits until the registry has answered once, be it with nothing, or has failed once. Cancel safe.
    pub async fn first(&mut self) -> Option<View> {
        let answered = |view: &View| view.known || view.stale.is_some();
        self.receiver.wait_for(answered).await.ok().map(|view| view.clone())
    }
}

// === impl Follower ===

/// What the task of one service owns.
struct Follower {
    registry: DynRegistry,
    config: Config,
    service: ServiceName,
    topics: Topics,
    publish: watch::Sender<View>,
}

/// What the task waits for.
enum Event {
    Answer(Result<Snapshot, Error>),
    Settled,
    Unused,
}

impl Follower {
    /// Follows until nobody cares. An error never ends it. Cancelling at any await is safe: nothing is
    /// held across one but the watch.
    async fn run(self) {
        let mut known = Knowledge::default();
        let mut backoff = Backoff::new(self.config.min_backoff, self.config.max_backoff);
        loop {
            let mut watch = self.registry.watch(Some(self.service.clone()));
            let mut first = true;
            let error = loop {
                let next = async {
                    if !first {
                        return watch.next().await;
                    }
                    let limit = self.config.first_timeout;
                    let late = || Err(Error::unavailable(format!("no answer within {limit:?}")));
                    timeout(limit, watch.next()).await.unwrap_or_else(|_| late())
                };
                // Each arm is cancel safe: a watch loses nothing, the others hold nothing.
                let event = tokio::select! {
                    answer = next => Event::Answer(answer),
                    () = settled(known.settles()) => Event::Settled,
                    () = self.unused() => Event::Unused,
                };
                match event {
                    Event::Answer(Ok(snapshot)) => {
                        if known.learn(&snapshot.instances, Instant::now(), self.config.settle) {
                            tracing::info!("the registry answers again");
                        }
                        backoff.reset();
                        first = false;
                    }
                    Event::Answer(Err(error)) => break error,
                    Event::Settled => known.settle(),
                    Event::Unused if self.leave() => return,
                    Event::Unused => {}
                }
                self.say(&known);
            };
            if known.lose(error.clone(), Instant::now()) {
                tracing::warn!(%error, "the registry does not answer; keeping the last known good set");
            }
            self.say(&known);
            tokio::select! {
                () = sleep(backoff.next_wait()) => {}
                () = self.unused() => if self.leave() { return },
            }
        }
    }

    fn say(&self, known: &Knowledge) {
        let view = known.view();
        self.publish.send_if_modified(|old| {
            let same = old.instances == view.instances
                && old.known == view.known
                && old.stale.is_some() == view.stale.is_some();
            // The latest error is worth keeping, not worth waking anybody for.
            *old = view;
            !same
        });
    }

    /// Waits until nobody has held the service's handle for a while.
    async fn unused(&self) {
        loop {
            self.publish.closed().await;
            sleep(self.config.linger).await;
            if self.publish.receiver_count() == 0 {
                return;
            }
        }
    }

    /// Takes the service off the cache, unless somebody came meanwhile.
    fn leave(&self) -> bool {
        let mut topics = self.topics.lock().unwrap_or_else(PoisonError::into_inner);
        let unused = self.publish.receiver_count() == 0;
        if unused {
            topics.remove(&self.service);
        }
        unused
    }
}

async fn settled(at: Option<Instant>) {
    match at {
        Some(at) => sleep_until(at).await,
        None => futures::future::pending().await,
    }
}

#[cfg(test)]
mod tests;
