//! The client: what its channels share, and where they come from.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use formic_balance::EndpointStats;
use formic_core::{Endpoint, Error, ServiceName};
use formic_registry::{Cache, DynRegistry, Static};
use formic_rpc::{Channel, Handle};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::Config;
use crate::budget::Budget;
use crate::dispatch::{Dispatch, Target};
use crate::remote::{Dialer, Remote};
use crate::service::{Service, Source};
use crate::stack::{Refusal, Stack};

/// Makes channels. Clones share connections, the retry budget and what was learnt of endpoints, so a
/// process needs one.
///
/// It may be made outside a runtime; calls are made within one. A service that was called once is
/// followed as long as the client or a channel lives.
#[derive(Clone)]
pub struct Client(Arc<Shared>);

/// What the channels of a client share.
pub(crate) struct Shared {
    pub(crate) config: Config,
    pub(crate) budget: Budget,
    source: Source,
    services: Mutex<HashMap<ServiceName, Arc<Service>>>,
    /// Ends connections; see [`Client::shutdown`].
    stop: CancellationToken,
}

impl std::fmt::Debug for Client {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Client").field("config", &self.0.config).finish_non_exhaustive()
    }
}

// === impl Client ===

impl Client {
    /// A client that finds services in a registry.
    #[must_use]
    pub fn new(registry: DynRegistry, config: Config) -> Self {
        Self::with_cache(Cache::new(registry), config)
    }

    /// A client that calls only fixed endpoints and services of this process.
    #[must_use]
    pub fn without_registry(config: Config) -> Self {
        Self::new(Arc::new(Static::default()), config)
    }

    /// A client over what somebody else looks into too.
    #[must_use]
    pub fn with_cache(cache: Cache, config: Config) -> Self {
        let (tasks, stop) = (TaskTracker::new(), CancellationToken::new());
        let origin = Instant::now();
        let dialer = Arc::new(Dialer::new(&config, origin, tasks.clone(), stop.clone()));
        let source = Source { cache, dialer, origin, tasks, stop: CancellationToken::new() };
        let budget = Budget::new(config.budget);
        Self(Arc::new(Shared { config, budget, source, services: Mutex::default(), stop }))
    }

    /// A channel to a service by its name. A name that is none fails the calls, with
    /// `invalid_argument`.
    #[must_use]
    pub fn of(&self, name: impl AsRef<str>) -> Channel {
        match ServiceName::new(name) {
            Ok(name) => self.channel(Target::Service(self.0.service(&name))),
            Err(error) => {
                Channel::new(Arc::new(Refusal(Error::invalid_argument(error.to_string()).with_source(error))))
            }
        }
    }

    /// A channel to one endpoint, without discovery. Keep it: each has connections of its own.
    #[must_use]
    pub fn at(&self, endpoint: Endpoint) -> Channel {
        let name = endpoint.to_string().into();
        let stats = Arc::new(EndpointStats::new(Duration::ZERO, Duration::ZERO));
        let remote = Remote::new(endpoint, stats, Arc::clone(&self.0.source.dialer));
        self.channel(Target::Fixed(Arc::new(remote), name))
    }

    /// Serves a service from this process: from now on its calls go to the handle, always, and those of
    /// channels that exist already too.
    pub fn add_local(&self, name: &ServiceName, handle: Arc<dyn Handle>) {
        self.0.service(name).set_local(handle);
    }

    /// The same, while the client is put together.
    #[must_use]
    pub fn with_local(self, name: &ServiceName, handle: Arc<dyn Handle>) -> Self {
        self.add_local(name, handle);
        self
    }

    /// What the client knows of services.
    #[must_use]
    pub fn cache(&self) -> &Cache {
        &self.0.source.cache
    }

    /// How many calls may be made again, as of now.
    #[must_use]
    pub fn retries_left(&self) -> f64 {
        self.0.budget.left(self.0.since_origin(Instant::now()))
    }

    /// Ends every task and waits for them. Calls on their way are answered, new ones fail; so stop
    /// calling first. A client that is merely dropped ends its tasks too, once its connections have no
    /// more answers to read.
    pub async fn shutdown(&self) {
        self.0.source.stop.cancel();
        self.0.stop.cancel();
        self.0.source.tasks.close();
        self.0.source.tasks.wait().await;
    }

    fn channel(&self, target: Target) -> Channel {
        let config = &self.0.config;
        let dispatch = Arc::new(Dispatch { client: Arc::clone(&self.0), target });
        Channel::new(Arc::new(Stack::new(dispatch, config.timeout, config.interceptors.clone())))
    }
}

// === impl Shared ===

impl Shared {
    pub(crate) fn since_origin(&self, now: Instant) -> Duration {
        now.saturating_duration_since(self.source.origin)
    }

    fn service(&self, name: &ServiceName) -> Arc<Service> {
        let mut services = self.services.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(service) = services.get(name) {
            return Arc::clone(service);
        }
        let policy = self.config.balance.build();
        let service = Service::new(name.clone(), policy, self.config.patience, self.source.clone());
        let service = Arc::new(service);
        services.insert(name.clone(), Arc::clone(&service));
        service
    }
}
