//! The suite that every implementation of [`crate::Registry`] runs in its own tests.
//!
//! An implementation hands in a factory that makes a fresh [`Subject`]; [`run`] puts it through every
//! test and panics with the test's name and a status text on the first failure. Nothing is assumed about
//! time but what the subject says, so the suite runs on a paused clock and against a real network alike.
//! Services get random names, so that several runs may share one backend.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::time::Duration;

use formic_core::{Endpoint, Instance, InstanceId, RpcService, ServiceName};
use futures::FutureExt;
use tokio::time::{Instant, sleep, timeout};

use crate::{BoxFuture, DynRegistry, Error, Watch};

mod cases;

/// One registry under test, and what may be expected of it.
#[derive(Clone)]
pub struct Subject {
    /// Where instances are registered.
    pub writer: DynRegistry,
    /// Where they are looked for: the same registry, or another node of it.
    pub reader: DynRegistry,
    /// A lease that no test outlives.
    pub long: Duration,
    /// A lease that tests wait out.
    pub short: Duration,
    /// How long a change may take from writer to reader.
    pub converge: Duration,
    /// Whether a reader sees a change as soon as the writer's call has returned.
    pub immediate: bool,
    /// How many operations a churning test makes per task.
    pub churn: usize,
    nonce: u32,
}

/// A test: its name and its body.
pub type Case = (&'static str, fn(Subject) -> BoxFuture<'static, ()>);

/// Every test of the suite.
pub const CASES: &[Case] = &[
    ("snapshot_first", |subject| cases::snapshot_first(subject).boxed()),
    ("everything_travels", |subject| cases::everything_travels(subject).boxed()),
    ("get_and_list", |subject| cases::get_and_list(subject).boxed()),
    ("invalid_is_refused", |subject| cases::invalid_is_refused(subject).boxed()),
    ("deregister_is_idempotent", |subject| cases::deregister_is_idempotent(subject).boxed()),
    ("one_id_is_one_instance", |subject| cases::one_id_is_one_instance(subject).boxed()),
    ("an_id_moves_between_services", |subject| cases::an_id_moves_between_services(subject).boxed()),
    ("leases_expire", |subject| cases::leases_expire(subject).boxed()),
    ("renewal_keeps", |subject| cases::renewal_keeps(subject).boxed()),
    ("watchers_see_what_they_asked_for", |subject| cases::watchers_see_what_they_asked_for(subject).boxed()),
    ("a_slow_watcher_ends_up_right", |subject| cases::a_slow_watcher_ends_up_right(subject).boxed()),
    ("no_update_is_lost_under_churn", |subject| cases::no_update_is_lost_under_churn(subject).boxed()),
];

/// Runs every test, each against a fresh subject.
///
/// # Panics
/// If the implementation fails one.
pub async fn run<F, Fut>(factory: F)
where
    F: Fn() -> Fut,
    Fut: Future<Output = Subject>,
{
    for (name, case) in CASES {
        tracing::info!(name, "conformance");
        let subject = factory().await;
        // The name has to be on the failure, and a panic deep inside does not know it.
        let result = std::panic::AssertUnwindSafe(case(subject)).catch_unwind().await;
        if let Err(panic) = result {
            let text = panic.downcast_ref::<String>().map(String::as_str);
            let text = text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("no message");
            panic!("conformance test {name} failed: {text}");
        }
    }
}

// === impl Subject ===

impl Subject {
    /// A registry that answers at once and keeps time by tokio's clock.
    #[must_use]
    pub fn new(registry: DynRegistry) -> Self {
        Self {
            writer: registry.clone(),
            reader: registry,
            long: Duration::from_secs(3600),
            short: Duration::from_secs(2),
            converge: Duration::from_secs(5),
            immediate: true,
            churn: 200,
            nonce: fastrand::u32(..),
        }
    }

    /// Looks for instances in another node of the registry, which hears of a change within `converge`.
    #[must_use]
    pub fn with_reader(mut self, reader: DynRegistry, converge: Duration) -> Self {
        self.reader = reader;
        self.converge = converge;
        self.immediate = false;
        self
    }

    /// The lease that tests wait out.
    #[must_use]
    pub const fn with_short_lease(mut self, short: Duration) -> Self {
        self.short = short;
        self
    }

    /// How many operations a churning test makes per task.
    #[must_use]
    pub const fn with_churn(mut self, operations: usize) -> Self {
        self.churn = operations;
        self
    }

    fn service(&self, name: &str) -> ServiceName {
        ServiceName::new(format!("{name}-{:08x}", self.nonce)).expect("test names are labels")
    }

    fn instance(&self, service: &str, id: &str, port: u16) -> Instance {
        Instance {
            id: InstanceId::new(format!("{id}-{:08x}", self.nonce)),
            service: self.service(service),
            version: "1".into(),
            endpoint: Endpoint::Tcp(([127, 0, 0, 1], port).into()),
            metadata: BTreeMap::new(),
            rpc: vec![RpcService { name: "test.v1.Test".into(), methods: Vec::new() }],
        }
    }

    /// Waits until the reader lists exactly these instances of a service.
    async fn expect_get(&self, service: &str, expected: &[&Instance]) {
        self.expect_get_unless(service, expected, || false).await;
    }

    /// The same; `false` if what it lists is something else and there is an excuse.
    async fn expect_get_unless(
        &self,
        service: &str,
        expected: &[&Instance],
        excuse: impl Fn() -> bool,
    ) -> bool {
        let service = self.service(service);
        let give_up = Instant::now() + self.converge;
        loop {
            let found = self.reader.get(&service).await.expect("get");
            let matches = same(&found, expected);
            if !matches && excuse() {
                return false;
            }
            if matches || self.immediate || Instant::now() >= give_up {
                assert!(matches, "get({service}) answers {}, not {}", shown(&found), shown(expected));
                return true;
            }
            sleep(self.converge / 50).await;
        }
    }

    fn follow(&self, service: Option<&str>) -> Follower {
        let watch = self.reader.watch(service.map(|name| self.service(name)));
        Follower { watch, last: None, items: 0, limit: self.converge, suffix: format!("-{:08x}", self.nonce) }
    }
}

impl fmt::Debug for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Subject")
            .field("writer", &self.writer)
            .field("reader", &self.reader)
            .finish_non_exhaustive()
    }
}

// === impl Follower ===

/// A watch with what it last said.
struct Follower {
    watch: Watch,
    last: Option<(u64, Vec<Instance>)>,
    items: usize,
    limit: Duration,
    suffix: String,
}

impl Follower {
    /// Takes one item, within the time that a change may take.
    async fn step(&mut self) -> &[Instance] {
        let taken = timeout(self.limit, self.take()).await;
        assert!(taken.is_ok(), "the watch is silent; it last said {}", self.status());
        self.last.as_ref().map_or(&[], |(_, found)| found)
    }

    /// Takes one item, which must be newer than the last one and sorted.
    async fn take(&mut self) {
        let snapshot = self.watch.next().await;
        let snapshot = snapshot.expect("a watch of a healthy registry has no error");
        self.items += 1;
        if let Some((generation, _)) = &self.last {
            assert!(
                snapshot.generation > *generation,
                "generation {} after {generation}",
                snapshot.generation
            );
        }
        assert!(
            snapshot.instances.iter().is_sorted_by(|a, b| a.id < b.id),
            "unsorted: {}",
            shown(&snapshot.instances.to_vec())
        );
        // A backend may be shared with others, so that a watch of everything sees theirs too.
        let ours =
            snapshot.instances.iter().filter(|instance| instance.service.as_str().ends_with(&self.suffix));
        self.last = Some((snapshot.generation, ours.cloned().collect()));
    }

    fn holds(&self, expected: &[&Instance]) -> bool {
        self.last.as_ref().is_some_and(|(_, found)| same(found, expected))
    }

    /// Takes items until one is exactly this set.
    async fn expect(&mut self, expected: &[&Instance]) {
        assert!(self.sees(expected).await, "the watch says {}, not {}", self.status(), shown(expected));
    }

    /// Whether one is exactly this set, of those that come within twice the time that a change may take.
    async fn sees(&mut self, expected: &[&Instance]) -> bool {
        let limit = self.limit * 2;
        let wait = async {
            while !self.holds(expected) {
                self.take().await;
            }
        };
        timeout(limit, wait).await.is_ok()
    }

    /// Takes what comes within a while; nothing has to.
    async fn drain(&mut self, while_: Duration) {
        let _ = timeout(while_, async {
            loop {
                self.take().await;
            }
        })
        .await;
    }

    fn status(&self) -> String {
        self.last.as_ref().map_or_else(|| "nothing".into(), |(_, found)| shown(found))
    }
}

// === comparing ===

/// What must survive the way through a registry. Methods need not: some backends carry names only.
fn essence(instance: &Instance) -> impl PartialEq + '_ {
    let rpc: BTreeSet<_> = instance.rpc.iter().map(|service| &service.name).collect();
    (&instance.id, &instance.service, &instance.version, &instance.endpoint, &instance.metadata, rpc)
}

/// Whether two sets are the same, in any order.
fn same(found: &[Instance], expected: &[impl AsInstance]) -> bool {
    found.len() == expected.len()
        && expected.iter().all(|wanted| {
            let wanted = wanted.as_instance();
            found.iter().any(|instance| essence(instance) == essence(wanted))
        })
}

fn shown(instances: &[impl AsInstance]) -> String {
    let one = |instance: &Instance| {
        let Instance { id, service, version, endpoint, .. } = instance;
        format!("{id} ({service} {version} at {endpoint})")
    };
    let all: Vec<_> = instances.iter().map(|instance| one(instance.as_instance())).collect();
    format!("[{}]", all.join(", "))
}

/// Lists hold instances or borrow them.
trait AsInstance {
    fn as_instance(&self) -> &Instance;
}

impl AsInstance for Instance {
    fn as_instance(&self) -> &Instance {
        self
    }
}

impl AsInstance for &Instance {
    fn as_instance(&self) -> &Instance {
        self
    }
}

/// Whether a renewal was refused as it must be.
fn expired(result: Result<(), Error>) -> bool {
    matches!(result, Err(Error::LeaseExpired { .. }))
}
