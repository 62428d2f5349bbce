//! A service by name: who serves it now, kept up to date by a watch, and the choice among them.

use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use arc_swap::{ArcSwap, ArcSwapOption};
use formic_balance::table::Table;
use formic_balance::{Change, Choice, Factory, Roster, Seat, Traffic};
use formic_core::{Error, Instance, Kind, Members, Method, RpcService, ServiceName};
use formic_registry::{Cache, Instances, View};
use formic_rpc::Handle;
use tokio::sync::watch;
use tokio::time::{Instant, MissedTickBehavior, interval, timeout, timeout_at};
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;
use tracing::Instrument;

use crate::Happening;
use crate::budget::Budget;
use crate::dispatch::Course;
use crate::flight::{Flight, announce};
use crate::hedge::Hedging;
use crate::outgoing::Outgoing;
use crate::remote::{Dialer, Remote};
use crate::view::{InvalidTraffic, TrafficView};

/// How often outliers are looked for.
const SWEEP: Duration = Duration::from_secs(1);

/// How long a first answer of the registry is waited for by a call that has longer.
const FIRST_ANSWER: Duration = Duration::from_secs(5);

/// A service by name. Its task starts with the first call.
pub(crate) struct Service {
    name: Arc<str>,
    state: Arc<State>,
    /// Endpoints are picked by the author's own code.
    own_policy: bool,
    /// Serves it in this process.
    local: ArcSwapOption<Local>,
    started: OnceLock<DropGuard>,
    source: Source,
    patience: Duration,
    budget: Budget,
    hedging: Hedging,
}

/// How a service is called.
pub(crate) struct Setup {
    pub(crate) traffic: Traffic,
    pub(crate) policy: Option<Factory>,
    pub(crate) seat: Seat,
    pub(crate) patience: Duration,
}

/// To whom an attempt goes. It counts as on its way from the pick on, so that the next pick knows of it.
pub(crate) struct Picked {
    pub(crate) flight: Flight,
    /// When to begin another one beside it.
    pub(crate) hedge: Beside,
}

/// Whether another attempt may begin beside one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Beside {
    /// No.
    Never,
    /// Not yet, but how long it takes is learnt.
    Unknown,
    /// After so long.
    After(Duration),
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
    name: Arc<str>,
    set: ArcSwap<Set>,
    news: watch::Sender<News>,
    /// What sets are made of; locked when instances or the policy change, never by a call.
    core: Mutex<Core>,
}

struct Core {
    roster: Roster,
    traffic: Arc<Traffic>,
    instances: Members,
    seat: Seat,
    dialer: Arc<Dialer>,
    origin: Instant,
}

/// The endpoints of a moment, and beside them where each is reached.
struct Set {
    endpoints: formic_balance::Set,
    traffic: Arc<Traffic>,
    /// By the indices of the endpoints.
    remotes: Table<Arc<Remote>>,
}

/// Wakes calls that wait for an endpoint.
#[derive(Clone, Default)]
struct News {
    members: usize,
    /// The registry has answered, or has failed to.
    heard: bool,
    trouble: Option<String>,
    /// When who is there was last said.
    said: Option<Instant>,
}

// === impl News ===

impl News {
    /// Since when there is somebody.
    fn settled(&self) -> Option<Instant> {
        self.said.filter(|_| self.members > 0)
    }
}

// === impl Service ===

impl Service {
    pub(crate) fn new(name: ServiceName, setup: Setup, source: Source) -> Self {
        let traffic = Arc::new(setup.traffic);
        let own_policy = setup.policy.is_some();
        let set =
            Set { endpoints: Default::default(), traffic: Arc::clone(&traffic), remotes: Table::default() };
        let core = Core {
            roster: Roster::new().with_policy(setup.policy),
            traffic,
            instances: Members::new(),
            seat: setup.seat,
            dialer: Arc::clone(&source.dialer),
            origin: source.origin,
        };
        let state = State {
            service: name.clone(),
            name: name.as_str().into(),
            set: ArcSwap::from_pointee(set),
            news: watch::Sender::new(News::default()),
            core: Mutex::new(core),
        };
        Self {
            name: Arc::clone(&state.name),
            state: Arc::new(state),
            local: ArcSwapOption::empty(),
            started: OnceLock::new(),
            source,
            patience: setup.patience,
            own_policy,
            budget: Budget::default(),
            hedging: Hedging::default(),
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

    pub(crate) fn budget(&self) -> &Budget {
        &self.budget
    }

    pub(crate) fn hedging(&self) -> &Hedging {
        &self.hedging
    }

    /// The policy as of now.
    pub(crate) fn traffic(&self) -> Arc<Traffic> {
        Arc::clone(&self.state.set.load().traffic)
    }

    /// Replaces the policy; calls on their way end as they began.
    pub(crate) fn set_traffic(&self, traffic: Traffic) -> Result<(), InvalidTraffic> {
        InvalidTraffic::check(&traffic)?;
        let mut core = self.state.core();
        core.traffic = Arc::new(traffic);
        self.state.arrange(&mut core);
        // Whom a rule kept waiting may go now.
        self.state.news.send_modify(|_| {});
        Ok(())
    }

    /// Ends the ejection of an instance by hand; whether there is such an instance.
    pub(crate) fn reset(&self, instance: &str) -> bool {
        let set = self.state.set.load();
        let is_meant = |(_, remote): &(usize, &Arc<Remote>)| {
            remote.backend().id().as_str() == instance || remote.endpoint().to_string() == instance
        };
        let found = set.remotes.iter().find(is_meant);
        if let Some((_, remote)) = found {
            let change = remote.backend().reset(self.source.origin.elapsed());
            change.into_iter().for_each(|change| announce(remote, change));
        }
        found.is_some()
    }

    /// Everything that is known of its endpoints.
    pub(crate) fn view(&self) -> TrafficView {
        let (set, now) = (self.state.set.load_full(), self.source.origin.elapsed());
        let shown = set.endpoints.view(now).map(|(index, mut view)| {
            let transport = set.remotes.get(index).and_then(|remote| remote.transport());
            view.transport = transport.unwrap_or_default().to_owned();
            view
        });
        let (fit, counted) = set.endpoints.fit();
        let mut endpoints: Vec<_> = shown.collect();
        endpoints.sort_by(|one, other| one.instance.cmp(&other.instance));
        endpoints.extend(self.state.core().roster.draining(now));
        let own = self
            .own_policy
            .then(|| "this caller picks by a policy of its own, whatever the one here is called".into());
        TrafficView {
            service: self.name.to_string(),
            policy: Traffic::clone(&set.traffic),
            local: self.local.load().is_some(),
            called: self.started.get().is_some(),
            retries_left: self.budget.left(now, &set.traffic.budget).max(0.0),
            endpoints,
            panic: set.endpoints.panics(),
            fit,
            counted: u32::try_from(counted).unwrap_or(u32::MAX),
            notes: own
                .into_iter()
                .chain(set.endpoints.plight())
                .chain(set.endpoints.notes().iter().cloned())
                .collect(),
        }
    }

    /// The endpoint for the next attempt; one that this call has not tried, where there is one.
    ///
    /// # Errors
    /// `unavailable` if nobody serves it, after some patience.
    pub(crate) async fn pick(&self, now: Instant, call: &Outgoing, course: &Course) -> Result<Picked, Error> {
        self.started.get_or_init(|| self.start());
        let since = now.saturating_duration_since(self.source.origin);
        match self.state.pick(since, call, course, &self.hedging) {
            Some(picked) => Ok(picked),
            None => Box::pin(self.wait(call, course)).await,
        }
    }

    /// Another endpoint than those that were tried, if there is one for this call: for an attempt beside another, or
    /// after one.
    pub(crate) fn beside(&self, now: Instant, call: &Outgoing, course: &Course) -> Option<Picked> {
        let since = now.saturating_duration_since(self.source.origin);
        let picked = self.state.pick(since, call, course, &self.hedging)?;
        (!course.has_tried(picked.flight.remote())).then_some(picked)
    }

    fn start(&self) -> DropGuard {
        let instances = self.source.cache.instances(&self.state.service);
        let follower = Follower { state: Arc::clone(&self.state) };
        let stop = self.source.stop.child_token();
        let guard = stop.clone().drop_guard();
        let span = tracing::debug_span!("client-endpoints", service = %self.state.service);
        let task = async move {
            stop.run_until_cancelled(follower.run(instances)).await;
        };
        self.source.tasks.spawn(task.instrument(span));
        guard
    }

    /// Waits for a first instance that may be called: until the registry has answered, and then as long as a restart takes. Whom a
    /// strict rule leaves nobody of those who are there for so long already waits no more.
    async fn wait(&self, call: &Outgoing, course: &Course) -> Result<Picked, Error> {
        let refused = || {
            let rule = self.state.refusal(call)?;
            let message = format!("no instance of {:?} is one that the rule {rule:?} allows", self.name);
            Some(Error::unavailable(message).with_unsent())
        };
        let mut news = self.state.news.subscribe();
        // The sender is the state's, so neither wait can fail; being late is what is looked at after.
        let _ = timeout(FIRST_ANSWER, news.wait_for(|news| news.heard || news.members > 0)).await;
        let mut until = Instant::now() + self.patience;
        loop {
            if let Some(said) = news.borrow_and_update().settled() {
                until = until.min(said + self.patience);
            }
            let now = self.source.origin.elapsed();
            if let Some(picked) = self.state.pick(now, call, course, &self.hedging) {
                return Ok(picked);
            }
            if timeout_at(until, news.changed()).await.is_err() {
                break;
            }
        }
        Err(refused().unwrap_or_else(|| {
            let name = &self.name;
            let message = match &news.borrow().trouble {
                Some(trouble) => format!("no instance of {name:?} is known, and {trouble}"),
                None => format!("no instance of {name:?} is registered"),
            };
            Error::unavailable(message).with_unsent()
        }))
    }

    /// The method at a path, as the instances registered it.
    pub(crate) fn method(&self, path: &str) -> Option<Method> {
        if let Some(local) = self.local() {
            return local.method(path);
        }
        let (service, name) = formic_core::method::split(path);
        let set = self.state.set.load();
        let rpc = set.instances().flat_map(|instance| &instance.rpc).filter(|rpc| rpc.name == service);
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
        for rpc in set.instances().flat_map(|instance| &instance.rpc) {
            if !all.iter().any(|known| known.name == rpc.name) {
                all.push(rpc.clone());
            }
        }
        all
    }
}

// === impl State ===

impl State {
    fn core(&self) -> MutexGuard<'_, Core> {
        self.core.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn pick(&self, now: Duration, call: &Outgoing, course: &Course, hedging: &Hedging) -> Option<Picked> {
        let set = self.set.load();
        // Such a call would be repeated elsewhere.
        let expendable = call.method.idempotent && !course.retried && !course.has_begun();
        let choice = Choice {
            now,
            random: fastrand::u64(..),
            metadata: &|name| call.text(name),
            usable: &|index| set.remotes.get(index).is_none_or(|remote| !course.has_tried(remote)),
            expendable,
        };
        let pick = set.endpoints.pick(&choice)?;
        let hedge = match &set.traffic.hedge {
            Some(hedge) if expendable && call.method.kind == Kind::Unary && set.endpoints.len() > 1 => {
                hedging.delay(call.method.path(), hedge).map_or(Beside::Unknown, Beside::After)
            }
            _ => Beside::Never,
        };
        let flight = Flight::begin(set.remotes.get(pick.index)?, pick.probe, call, course.until);
        Some(Picked { flight, hedge })
    }

    /// The rule that leaves nobody for a call, if one does.
    fn refusal(&self, call: &Outgoing) -> Option<String> {
        let set = self.set.load();
        let choice = Choice {
            now: Duration::ZERO,
            random: 0,
            metadata: &|name| call.text(name),
            usable: &|_| true,
            expendable: false,
        };
        if set.endpoints.is_empty() { None } else { set.endpoints.refusal(&choice).map(ToOwned::to_owned) }
    }

    /// Publishes a set of who is there now under the policy of now.
    fn arrange(&self, core: &mut Core) {
        let (old, now) = (self.set.load_full(), core.origin.elapsed());
        let endpoints = core.roster.arrange(&core.instances, &core.traffic, &core.seat, now);
        let mut remotes = old.remotes.clone();
        for index in endpoints.changed().iter().map(|&index| index as usize) {
            let Some((instance, backend)) = endpoints.get(index) else {
                remotes.set(index, None);
                continue;
            };
            let before = remotes.get(index).filter(|remote| Arc::ptr_eq(remote.backend(), backend));
            if let Some(remote) = before {
                if *remote.endpoint() == instance.endpoint {
                    // One that was killed may be back at its address, with another setting, before it is missed.
                    remote.describe(&instance.metadata);
                    continue;
                }
                remote.retire();
            }
            let (name, endpoint) = (Arc::clone(&self.name), instance.endpoint.clone());
            let remote = Remote::new(name, endpoint, Arc::clone(backend), Arc::clone(&core.dialer));
            remote.describe(&instance.metadata);
            remotes.set(index, Some(Arc::new(remote)));
        }
        for note in endpoints.notes().iter().filter(|note| !old.endpoints.notes().contains(note)) {
            tracing::warn!(service = %self.service, "{note}");
        }
        // Connections of those who left end with the last call that uses them.
        self.set.store(Arc::new(Set { endpoints, traffic: Arc::clone(&core.traffic), remotes }));
    }
}

// === impl Follower ===

/// What the task of a service owns.
struct Follower {
    state: Arc<State>,
}

/// What wakes it.
enum Event {
    Changed(Option<View>),
    Sweep,
}

impl Follower {
    /// Takes over every set that the cache publishes, until it is shut down. Cancel safe.
    async fn run(self, mut instances: Instances) {
        self.apply(&instances.view());
        let mut plight = Plight::default();
        let mut sweeps = interval(SWEEP);
        sweeps.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let event = tokio::select! {
                view = instances.changed() => Event::Changed(view),
                _ = sweeps.tick() => Event::Sweep,
            };
            match event {
                Event::Changed(Some(view)) => self.apply(&view),
                Event::Changed(None) => return,
                Event::Sweep => {
                    self.sweep();
                    plight.look(&self.state);
                }
            }
        }
    }

    fn sweep(&self) {
        let core = self.state.core();
        let ejected = core.roster.sweep(core.origin.elapsed());
        drop(core);
        let set = self.state.set.load();
        for backend in ejected {
            let remote = set.remotes.iter().find(|(_, remote)| Arc::ptr_eq(remote.backend(), &backend));
            remote.into_iter().for_each(|(_, remote)| announce(remote, Change::Ejected));
        }
    }

    fn apply(&self, view: &View) {
        let mut core = self.state.core();
        core.instances = view.instances.clone();
        self.state.arrange(&mut core);
        drop(core);
        tracing::debug!(instances = view.instances.len(), "endpoints changed");
        let news = News {
            members: view.instances.len(),
            heard: view.known || view.stale.is_some(),
            trouble: view.stale.as_ref().map(|stale| stale.error.to_string()),
            said: Some(Instant::now()),
        };
        self.state.news.send_replace(news);
    }
}

// === impl Plight ===

/// What of a policy did not hold when it was last looked: people are told once.
#[derive(Default)]
struct Plight {
    panics: bool,
    notes: Vec<String>,
}

impl Plight {
    fn look(&mut self, state: &State) {
        let set = state.set.load();
        let now = Self { panics: set.endpoints.panics(), notes: set.endpoints.plight() };
        for note in now.notes.iter().filter(|note| !self.notes.contains(note)) {
            tracing::warn!(service = %state.service, "{note}");
        }
        if let (true, false, Some((_, remote))) = (now.panics, self.panics, set.remotes.iter().next()) {
            remote.happened(Happening::Panic);
        }
        *self = now;
    }
}

// === impl Set ===

impl Set {
    fn instances(&self) -> impl Iterator<Item = &Instance> {
        self.endpoints.indices().map(|index| self.endpoints.instance(index))
    }
}
