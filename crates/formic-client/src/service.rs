//! A service by name: who serves it now, kept up to date by a watch, and the choice among them.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use arc_swap::{ArcSwap, ArcSwapOption};
use formic_balance::{Choice, EndpointStats, Policy, Roster};
use formic_core::{Error, Instance, InstanceId, Method, RpcService, ServiceName};
use formic_registry::{Cache, Instances, View};
use formic_rpc::Handle;
use tokio::sync::watch;
use tokio::time::{Instant, timeout};
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;
use tracing::Instrument;

use crate::remote::{Dialer, Remote};

/// How long a first answer of the registry is waited for by a call that has longer.
const FIRST_ANSWER: Duration = Duration::from_secs(5);

/// A service by name. Its task starts with the first call.
pub(crate) struct Service {
    name: Arc<str>,
    state: Arc<State>,
    /// Serves it in this process.
    local: ArcSwapOption<Local>,
    started: OnceLock<DropGuard>,
    source: Source,
    patience: Duration,
}

/// What the task of a service is made of.
#[derive(Clone)]
pub(crate) struct Source {
    pub(crate) cache: Cache,
    pub(crate) dialer: Arc<Dialer>,
    pub(crate) origin: Instant,
    pub(crate) tasks: TaskTracker,
    pub(crate) stop: CancellationToken,
}

/// A sized box, which an atomic pointer needs.
struct Local(Arc<dyn Handle>);

/// What the task of a service publishes.
struct State {
    service: ServiceName,
    policy: Box<dyn Policy>,
    set: ArcSwap<Set>,
    news: watch::Sender<News>,
}

/// The endpoints of a moment, and beside them, for the policy, what is known of each.
#[derive(Default)]
struct Set {
    stats: Vec<Arc<EndpointStats>>,
    members: Vec<Member>,
}

struct Member {
    id: InstanceId,
    remote: Arc<Remote>,
    rpc: Vec<RpcService>,
}

/// Wakes calls that wait for an endpoint.
#[derive(Clone, Default)]
struct News {
    members: usize,
    /// The registry has answered, or has failed to.
    heard: bool,
    trouble: Option<String>,
}

// === impl Service ===

impl Service {
    pub(crate) fn new(
        name: ServiceName,
        policy: Box<dyn Policy>,
        patience: Duration,
        source: Source,
    ) -> Self {
        let state = State {
            service: name.clone(),
            policy,
            set: ArcSwap::default(),
            news: watch::Sender::new(News::default()),
        };
        Self {
            name: name.as_str().into(),
            state: Arc::new(state),
            local: ArcSwapOption::empty(),
            started: OnceLock::new(),
            source,
            patience,
        }
    }

    pub(crate) fn name(&self) -> &Arc<str> {
        &self.name
    }

    pub(crate) fn set_local(&self, handle: Arc<dyn Handle>) {
        self.local.store(Some(Arc::new(Local(handle))));
    }

    /// The handle of this process, if there is one.
    pub(crate) fn local(&self) -> Option<Arc<dyn Handle>> {
        self.local.load().as_ref().map(|local| Arc::clone(&local.0))
    }

    /// The endpoint for the next attempt; one that this call has not tried, where there is one.
    ///
    /// # Errors
    /// `unavailable` if nobody serves it, after some patience.
    pub(crate) async fn pick(&self, now: Instant, tried: &[Arc<Remote>]) -> Result<Arc<Remote>, Error> {
        self.started.get_or_init(|| self.start());
        match self.state.pick(now.saturating_duration_since(self.source.origin), tried) {
            Some(remote) => Ok(remote),
            None => self.wait().await,
        }
    }

    fn start(&self) -> DropGuard {
        let instances = self.source.cache.instances(&self.state.service);
        let follower = Follower {
            state: Arc::clone(&self.state),
            roster: Roster::new(),
            dialer: Arc::clone(&self.source.dialer),
            origin: self.source.origin,
        };
        let stop = self.source.stop.child_token();
        let guard = stop.clone().drop_guard();
        let span = tracing::debug_span!("client-endpoints", service = %self.state.service);
        let task = async move {
            stop.run_until_cancelled(follower.run(instances)).await;
        };
        self.source.tasks.spawn(task.instrument(span));
        guard
    }

    /// Waits for a first instance: until the registry has answered, and then as long as a restart takes.
    async fn wait(&self) -> Result<Arc<Remote>, Error> {
        let mut news = self.state.news.subscribe();
        // The sender is the state's, so neither wait can fail; being late is what is looked at after.
        let _ = timeout(FIRST_ANSWER, news.wait_for(|news| news.heard || news.members > 0)).await;
        let _ = timeout(self.patience, news.wait_for(|news| news.members > 0)).await;
        let now = self.source.origin.elapsed();
        self.state.pick(now, &[]).ok_or_else(|| {
            let name = &self.name;
            let message = match &news.borrow().trouble {
                Some(trouble) => format!("no instance of {name:?} is known, and {trouble}"),
                None => format!("no instance of {name:?} is registered"),
            };
            Error::unavailable(message).with_unsent()
        })
    }

    /// The method at a path, as the instances registered it.
    pub(crate) fn method(&self, path: &str) -> Option<Method> {
        if let Some(local) = self.local() {
            return local.method(path);
        }
        let (service, name) = formic_core::method::split(path);
        let set = self.state.set.load();
        let rpc = set.members.iter().flat_map(|member| &member.rpc).filter(|rpc| rpc.name == service);
        let found = rpc.flat_map(|rpc| &rpc.methods).find(|method| method.name == name)?;
        let method = Method::dynamic(path, found.kind).idempotent(found.idempotent);
        Some(if found.safe { method.safe() } else { method })
    }

    /// The RPC services that its instances registered.
    pub(crate) fn rpc(&self) -> Vec<RpcService> {
        if let Some(local) = self.local() {
            return local.services();
        }
        let set = self.state.set.load();
        let mut all: Vec<RpcService> = Vec::new();
        for rpc in set.members.iter().flat_map(|member| &member.rpc) {
            if !all.iter().any(|known| known.name == rpc.name) {
                all.push(rpc.clone());
            }
        }
        all
    }
}

// === impl State ===

impl State {
    fn pick(&self, now: Duration, tried: &[Arc<Remote>]) -> Option<Arc<Remote>> {
        let set = self.set.load();
        let random = fastrand::u64(..);
        let tried = |index: usize| tried.iter().any(|remote| Arc::ptr_eq(remote, &set.members[index].remote));
        let down = |index: usize| set.members[index].remote.is_down();
        let pick =
            |usable: &dyn Fn(usize) -> bool| self.policy.pick(&set.stats, &Choice { now, random, usable });
        // The best there is: up and not tried, then up, then any.
        let index = pick(&|index| !down(index) && !tried(index))
            .or_else(|| pick(&|index| !tried(index)))
            .or_else(|| pick(&|_| true))?;
        Some(Arc::clone(&set.members[index].remote))
    }
}

// === impl Follower ===

/// What the task of a service owns.
struct Follower {
    state: Arc<State>,
    roster: Roster,
    dialer: Arc<Dialer>,
    origin: Instant,
}

impl Follower {
    /// Takes over every set that the cache publishes, until it is shut down. Cancel safe.
    async fn run(mut self, mut instances: Instances) {
        self.apply(&instances.view());
        while let Some(view) = instances.changed().await {
            self.apply(&view);
        }
    }

    fn apply(&mut self, view: &View) {
        let old = self.state.set.load_full();
        let ids = view.instances.iter().map(|instance| &instance.id);
        let stats = self.roster.update(ids, self.origin.elapsed());
        let members = view.instances.iter().zip(&stats).map(|(instance, stats)| {
            let remote = match old.find(instance) {
                Some(member) => Arc::clone(&member.remote),
                None => Arc::new(Remote::new(
                    instance.endpoint.clone(),
                    Arc::clone(stats),
                    Arc::clone(&self.dialer),
                )),
            };
            Member { id: instance.id.clone(), remote, rpc: instance.rpc.clone() }
        });
        let members: Vec<_> = members.collect();
        tracing::debug!(instances = members.len(), "endpoints changed");
        let news = News {
            members: members.len(),
            heard: view.known || view.stale.is_some(),
            trouble: view.stale.as_ref().map(|stale| stale.error.to_string()),
        };
        // Connections of those who left end with the last call that uses them.
        self.state.set.store(Arc::new(Set { stats, members }));
        self.state.news.send_replace(news);
    }
}

impl Set {
    /// The same instance at the same address; the sets of registries are sorted by id.
    fn find(&self, instance: &Instance) -> Option<&Member> {
        let index = self.members.binary_search_by(|member| member.id.cmp(&instance.id)).ok()?;
        let member = &self.members[index];
        (*member.remote.endpoint() == instance.endpoint).then_some(member)
    }
}
