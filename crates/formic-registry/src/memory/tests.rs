//! The conformance suite over memory, and what is special about it.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::collections::BTreeMap;

use formic_core::Endpoint;
use proptest::prelude::*;

use super::*;
use crate::conformance::{self, Subject};

#[tokio::test(start_paused = true)]
async fn conforms() {
    conformance::run(|| async { Subject::new(Arc::new(Memory::new())) }).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn conforms_in_real_time() {
    let lease = Duration::from_millis(300);
    conformance::run(|| async { Subject::new(Arc::new(Memory::new())).with_short_lease(lease) }).await;
}

/// A suite that cannot fail proves nothing: a registry that drops every third update must not pass.
#[tokio::test(start_paused = true)]
async fn the_suite_notices_lost_updates() {
    #[derive(Debug, Default)]
    struct Lossy(Memory);

    impl Registry for Lossy {
        fn register(&self, instance: Instance, ttl: Duration) -> BoxFuture<'_, Result<Lease, Error>> {
            self.0.register(instance, ttl)
        }
        fn renew<'a>(&'a self, lease: &'a Lease) -> BoxFuture<'a, Result<(), Error>> {
            self.0.renew(lease)
        }
        fn deregister<'a>(&'a self, id: &'a InstanceId) -> BoxFuture<'a, Result<(), Error>> {
            self.0.deregister(id)
        }
        fn get<'a>(&'a self, service: &'a ServiceName) -> BoxFuture<'a, Result<Vec<Instance>, Error>> {
            self.0.get(service)
        }
        fn list(&self) -> BoxFuture<'_, Result<Vec<ServiceEntry>, Error>> {
            self.0.list()
        }
        fn watch(&self, service: Option<ServiceName>) -> Watch {
            use futures::StreamExt;
            let kept = self.0.watch(service).enumerate();
            Watch::new(kept.filter_map(|(index, item)| future::ready((index % 3 != 1).then_some(item))))
        }
    }

    let run = conformance::run(|| async { Subject::new(Arc::new(Lossy::default())) });
    let failed = std::panic::AssertUnwindSafe(run).catch_unwind().await;
    assert!(failed.is_err(), "a lossy watch passed the suite");
}

fn instance(service: &str, id: u8) -> Instance {
    Instance {
        id: InstanceId::new(format!("i{id}")),
        service: ServiceName::new(service).unwrap(),
        version: String::new(),
        endpoint: Endpoint::Tcp(([127, 0, 0, 1], 1000 + u16::from(id)).into()),
        metadata: BTreeMap::new(),
        rpc: Vec::new(),
    }
}

#[tokio::test(start_paused = true)]
async fn a_restarted_registry_does_not_know_old_leases() {
    let instance = instance("order", 1);
    let old = Memory::new().register(instance.clone(), Duration::from_secs(9)).await.unwrap();
    let restarted = Memory::new();
    restarted.register(instance, Duration::from_secs(9)).await.unwrap();
    assert!(matches!(restarted.renew(&old).await, Err(Error::LeaseExpired { .. })));
}

#[tokio::test(start_paused = true)]
async fn forgotten_watchers_cost_nothing() {
    let memory = Memory::new();
    for _ in 0..100 {
        let service = ServiceName::new(format!("s{}", fastrand::u32(..))).unwrap();
        drop(memory.watch(Some(service)));
    }
    memory.register(instance("order", 1), Duration::from_secs(1)).await.unwrap();
    assert!(memory.lock().topics.is_empty());
}

#[derive(Clone, Debug)]
enum Op {
    Register { id: u8, user: bool, ttl: u64 },
    Renew { id: u8 },
    Deregister { id: u8 },
    Pass { millis: u64 },
}

fn ops() -> impl Strategy<Value = Vec<Op>> {
    let op = prop_oneof![
        (0..6u8, any::<bool>(), 1..5000u64).prop_map(|(id, user, ttl)| Op::Register { id, user, ttl }),
        (0..6u8).prop_map(|id| Op::Renew { id }),
        (0..6u8).prop_map(|id| Op::Deregister { id }),
        (1..3000u64).prop_map(|millis| Op::Pass { millis }),
    ];
    prop::collection::vec(op, 1..60)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, failure_persistence: None, ..ProptestConfig::default() })]

    /// Against a model without any index: the three indices agree with it at every step.
    #[test]
    fn agrees_with_a_model(ops in ops()) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
        runtime.block_on(async {
            let memory = Memory::new();
            let mut model: BTreeMap<u8, (Instance, Lease, Instant)> = BTreeMap::new();
            for op in ops {
                match op {
                    Op::Register { id, user, ttl } => {
                        let instance = instance(if user { "user" } else { "order" }, id);
                        let ttl = Duration::from_millis(ttl);
                        let lease = memory.register(instance.clone(), ttl).await.unwrap();
                        model.insert(id, (instance, lease, Instant::now() + ttl));
                    }
                    Op::Renew { id } => if let Some((_, lease, expires)) = model.get_mut(&id) {
                        memory.renew(lease).await.unwrap();
                        *expires = Instant::now() + lease.ttl;
                    },
                    Op::Deregister { id } => {
                        model.remove(&id);
                        memory.deregister(&InstanceId::new(format!("i{id}"))).await.unwrap();
                    }
                    Op::Pass { millis } => {
                        tokio::time::advance(Duration::from_millis(millis)).await;
                        model.retain(|_, (_, _, expires)| *expires > Instant::now());
                    }
                }
                let mut total = 0;
                for service in ["order", "user"] {
                    let name = ServiceName::new(service).unwrap();
                    let expected: Vec<_> = model.values().map(|entry| entry.0.clone()).filter(|i| i.service == name).collect();
                    assert_eq!(memory.get(&name).await.unwrap(), expected);
                    assert_eq!(memory.watch(Some(name)).next().await.unwrap().instances.to_vec(), &*expected);
                    total += usize::from(!expected.is_empty());
                }
                assert_eq!(memory.list().await.unwrap().len(), total);
                assert_eq!(memory.lock().deadlines.len(), model.len());
            }
        });
    }
}
