//! The client: what its channels share, and where they come from.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use formic_balance::{Backend, Seat, Traffic};
use formic_core::{Endpoint, Error, InstanceId, ServiceName};
use formic_registry::{Cache, DynRegistry, Static};
use formic_rpc::{Channel, Handle};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::allowance::Allowance;
use crate::budget::Budget;
use crate::dispatch::{Dispatch, Fixed, Target};
use crate::remote::{Dialer, Remote};
use crate::service::{Service, Setup, Source};
use crate::stack::{Refusal, Stack};
use crate::view::{InvalidTraffic, TrafficView};
use crate::{Config, Happening};

/// Makes channels. Clones share connections, retry budgets and what was learnt of endpoints, so a process
/// needs one.
///
/// It may be made outside a runtime; calls are made within one. A service that was called once is
/// followed as long as the client or a channel lives.
#[derive(Clone)]
pub struct Client(Arc<Shared>);

/// What the channels of a client share.
pub(crate) struct Shared {
    pub(crate) config: Config,
    source: Source,
    /// Tells this client from others where each has its own subset of endpoints.
    seed: u64,
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
        let seed = fastrand::u64(..);
        Self(Arc::new(Shared { config, source, seed, services: Mutex::default(), stop }))
    }

    /// A channel to a service by its name. A name that is none fails the calls, with
    /// `invalid_argument`.
    #[must_use]
    pub fn of(&self, name: impl AsRef<str>) -> Channel {
        match ServiceName::new(name) {
            Ok(name) => {
                let service = self.0.service(&name);
                let traffic = service.traffic();
                self.to(service, &traffic)
            }
            Err(error) => refusal(Error::invalid_argument(error.to_string()).with_source(error)),
        }
    }

    /// The same, and whether its present policy goes by what stands in the metadata of its calls: both by one look, for
    /// whoever passes calls on.
    #[must_use]
    pub fn of_passed_on(&self, name: &ServiceName) -> (Channel, bool) {
        let service = self.0.service(name);
        let traffic = service.traffic();
        let by_metadata = traffic.hash.is_some() || traffic.rules.iter().any(|rule| !rule.when.is_empty());
        (self.to(service, &traffic), by_metadata)
    }

    /// A channel to one endpoint, without discovery. Keep it: each has connections of its own.
    #[must_use]
    pub fn at(&self, endpoint: Endpoint) -> Channel {
        let name: Arc<str> = endpoint.to_string().into();
        if let Err(invalid) = InvalidTraffic::check(&self.0.config.traffic) {
            return refusal(Error::failed_precondition(format!("{name}: {invalid}")));
        }
        let backend = Arc::new(Backend::alone(InstanceId::new(Arc::clone(&name)), Duration::ZERO));
        let remote =
            Arc::new(Remote::new(Arc::clone(&name), endpoint, backend, Arc::clone(&self.0.source.dialer)));
        let traffic = Arc::new(self.0.config.traffic.clone());
        self.channel(Target::Fixed(Fixed { remote, name, traffic, budget: Budget::default() }))
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

    /// How calls to a service fare: its policy, its endpoints, what is left of its budget. The endpoints of a
    /// service that was never called are not known.
    #[must_use]
    pub fn traffic(&self, name: &ServiceName) -> TrafficView {
        self.0.service(name).view()
    }

    /// The budget of a service, for attempts that are not calls of this client.
    #[must_use]
    pub fn allowance(&self, name: &ServiceName) -> Allowance {
        Allowance::new(Arc::clone(&self.0), self.0.service(name))
    }

    /// The services that were called or set up, by name.
    #[must_use]
    pub fn services(&self) -> Vec<ServiceName> {
        let services = self.0.services.lock().unwrap_or_else(PoisonError::into_inner);
        let mut names: Vec<_> = services.keys().cloned().collect();
        names.sort_unstable();
        names
    }

    /// Replaces how a service is called, from now on and for channels that exist already. Calls on their way
    /// end as they began, and what was learnt of endpoints stays.
    ///
    /// # Errors
    /// Every fault of the policy; the present one stays then.
    pub fn set_traffic(&self, name: &ServiceName, traffic: Traffic) -> Result<(), InvalidTraffic> {
        self.0.service(name).set_traffic(traffic)
    }

    /// Has a service called as all are that have no policy of their own.
    ///
    /// # Errors
    /// As [`set_traffic`](Self::set_traffic).
    pub fn reset_traffic(&self, name: &ServiceName) -> Result<(), InvalidTraffic> {
        self.0.service(name).set_traffic(self.0.config.traffic.clone())
    }

    /// Ends the ejection of an instance by hand, named by its id or by its address. `false` if there is no such
    /// instance.
    pub fn readmit(&self, name: &ServiceName, instance: impl AsRef<str>) -> bool {
        self.0.service(name).reset(instance.as_ref())
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

    /// A channel to a service that is called so.
    fn to(&self, service: Arc<Service>, traffic: &Traffic) -> Channel {
        match InvalidTraffic::check(traffic) {
            Ok(()) => self.channel(Target::Service(service)),
            Err(invalid) => refusal(Error::failed_precondition(format!("{}: {invalid}", service.name()))),
        }
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

    /// Takes another attempt out of a budget, and tells what came of it.
    pub(crate) fn withdraw(
        &self,
        name: &str,
        budget: &Budget,
        traffic: &Traffic,
        now: Instant,
        what: Happening,
    ) -> bool {
        let granted = budget.withdraw(self.since_origin(now), &traffic.budget);
        if let Some(observer) = &self.config.observer {
            observer.on_happening(name, if granted { what } else { Happening::Exhausted });
        }
        granted
    }

    fn service(&self, name: &ServiceName) -> Arc<Service> {
        let mut services = self.services.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(service) = services.get(name) {
            return Arc::clone(service);
        }
        let config = &self.config;
        let setup = Setup {
            traffic: config.services.get(name).unwrap_or(&config.traffic).clone(),
            policy: config.policy.clone(),
            seat: Seat { zone: config.zone.clone(), seed: self.seed },
            patience: config.patience,
        };
        let service = Arc::new(Service::new(name.clone(), setup, self.source.clone()));
        services.insert(name.clone(), Arc::clone(&service));
        service
    }
}

fn refusal(error: Error) -> Channel {
    Channel::new(Arc::new(Refusal(error)))
}
