//! However a stream goes, both sides end with the same set.
#![expect(clippy::unwrap_used, reason = "a test may panic")]

use formic_core::{Instance, RpcMethod, RpcService, ServiceName};
use formic_rpc::rt::buffa::Message;
use proptest::prelude::*;

use super::*;

/// As an engine registers it.
fn instance(number: u32, port: u16) -> Instance {
    let method = |name: &str| RpcMethod {
        name: name.into(),
        kind: formic_core::Kind::Unary,
        idempotent: true,
        safe: false,
    };
    Instance {
        id: InstanceId::new(format!("order-{number:05}")),
        service: ServiceName::new("order").unwrap(),
        version: "3f2a9c81".into(),
        endpoint: std::net::SocketAddr::from(([127, 0, 0, 1], port)).into(),
        metadata: [("zone".to_owned(), "a".to_owned()), ("weight".to_owned(), "2".to_owned())].into(),
        rpc: vec![RpcService {
            name: "shop.order.v1.OrderService".into(),
            methods: ["Place", "Get", "Cancel", "Watch"].map(method).into(),
        }],
    }
}

/// Over the wire, and how many bytes that were.
fn sent(told: &pb::WatchResponse) -> (pb::WatchResponse, usize) {
    let bytes = told.encode_to_vec();
    (pb::WatchResponse::decode_from_slice(&bytes).unwrap(), bytes.len())
}

fn thousand() -> Members {
    (0..1_000).map(|number| instance(number, 4_000)).collect()
}

#[test]
fn one_change_among_a_thousand_is_some_hundred_bytes() {
    let (mut teller, mut listener) = (Teller::new(true), Listener::default());
    let mut set = thousand();
    let (told, whole) = sent(&teller.tell(Snapshot { generation: 7, instances: set.clone() }));
    assert_eq!(listener.hear(told).unwrap().instances, set);
    set.remove(&InstanceId::new("order-00500"));
    set.insert(instance(1_000, 4_001));
    let (told, bytes) = sent(&teller.tell(Snapshot { generation: 9, instances: set.clone() }));
    assert_eq!(listener.hear(told).unwrap().instances, set);
    assert!(whole > 100_000 && bytes < 400, "{whole} bytes whole, {bytes} for one");
}

#[test]
fn whoever_does_not_ask_for_changes_is_told_everything() {
    let (mut teller, mut set) = (Teller::new(false), thousand());
    for generation in 0..3 {
        set.remove(&InstanceId::new(format!("order-{generation:05}")));
        let told = teller.tell(Snapshot { generation, instances: set.clone() });
        assert_eq!((told.since, told.instances.len()), (None, set.len()));
        assert!(teller.last.is_none(), "nothing is kept for it");
    }
}

#[test]
fn what_is_mostly_another_set_is_told_whole() {
    let mut teller = Teller::new(true);
    teller.tell(Snapshot { generation: 1, instances: thousand() });
    let few: Members = (0..4).map(|number| instance(number, 4_000)).collect();
    assert_eq!(teller.tell(Snapshot { generation: 2, instances: few.clone() }).since, None);
    assert_eq!(teller.tell(Snapshot { generation: 3, instances: few }).since, Some(2));
    assert_eq!(teller.tell(Snapshot { generation: 4, instances: Members::new() }).since, None);
}

#[test]
fn changes_to_a_set_that_was_missed_are_refused() {
    let (mut teller, mut listener) = (Teller::new(true), Listener::default());
    let mut set = thousand();
    let mut next = |generation| {
        set.remove(&InstanceId::new(format!("order-{generation:05}")));
        teller.tell(Snapshot { generation, instances: set.clone() })
    };
    listener.hear(next(1)).unwrap();
    let _missed = next(2);
    assert!(matches!(listener.hear(next(3)), Err(Error::Unavailable { .. })));
    // It has no set any more that anything could be a change of.
    assert!(listener.hear(next(4)).is_err());
}

/// What happens next.
#[derive(Clone, Debug)]
enum Step {
    Come(u32, u16),
    Go(u32),
    /// The server tells, and the caller hears.
    Tell,
    /// The server tells, and nobody hears.
    Drop,
    /// The stream breaks, and the next server or the next caller may be one that knows of no changes.
    Break {
        changes: bool,
    },
}

fn any_step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (0u32..60, 0u16..3).prop_map(|(number, port)| Step::Come(number, port)),
        3 => (0u32..60).prop_map(Step::Go),
        4 => Just(Step::Tell),
        1 => Just(Step::Drop),
        1 => any::<bool>().prop_map(|changes| Step::Break { changes }),
    ]
}

proptest! {
    #[test]
    fn both_sides_end_with_the_same_set(
        first in prop::collection::btree_set(0u32..60, 0..50),
        steps in prop::collection::vec(any_step(), 1..120),
    ) {
        let mut set: Members = first.into_iter().map(|number| instance(number, 0)).collect();
        let (mut teller, mut listener, mut generation) = (Teller::new(true), Listener::default(), 0);
        for step in steps.into_iter().chain([Step::Tell]) {
            match step {
                Step::Come(number, port) => {
                    generation += 1;
                    set.insert(instance(number, port));
                }
                Step::Go(number) => {
                    generation += 1;
                    set.remove(&InstanceId::new(format!("order-{number:05}")));
                }
                Step::Drop => drop(teller.tell(Snapshot { generation, instances: set.clone() })),
                Step::Break { changes } => (teller, listener) = (Teller::new(changes), Listener::default()),
                Step::Tell => {
                    let now = Snapshot { generation, instances: set.clone() };
                    let (told, _) = sent(&teller.tell(now.clone()));
                    match listener.hear(told) {
                        Ok(heard) => prop_assert_eq!(heard, now),
                        // One was dropped. A watch that begins anew is told everything.
                        Err(_) => {
                            (teller, listener) = (Teller::new(true), Listener::default());
                            let (told, _) = sent(&teller.tell(now.clone()));
                            prop_assert_eq!(listener.hear(told).unwrap(), now);
                        }
                    }
                }
            }
        }
    }
}
