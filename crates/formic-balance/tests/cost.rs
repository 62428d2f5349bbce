//! A pick allocates nothing, whatever the policy, the rules and the state of the endpoints, and an update of one among
//! ten thousand little: counted by an allocator of this program's own, which is why it is a program of its own.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::collections::BTreeMap;
use std::time::Duration;

use formic_balance::traffic::{Filter, Hash, Rule, Share, Zone};
use formic_balance::{Algorithm, Choice, Outcome, Roster, Seat, Set, Traffic};
use formic_core::{Instance, InstanceId, Members, ServiceName};

const MS: Duration = Duration::from_millis(1);

/// The system's, counting what this thread asks for.
struct Counting;

thread_local! {
    static COUNT: Cell<usize> = const { Cell::new(0) };
    static BYTES: Cell<usize> = const { Cell::new(0) };
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

#[expect(unsafe_code, reason = "an allocator is unsafe by its trait; this one hands on what it is given")]
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        COUNT.with(|count| count.set(count.get() + 1));
        BYTES.with(|bytes| bytes.set(bytes.get() + layout.size()));
        // SAFETY: the caller's promises are those that the system's allocator asks for.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        // SAFETY: as above.
        unsafe { System.dealloc(at, layout) }
    }
}

fn instance(id: usize) -> Instance {
    let zone = if id.is_multiple_of(2) { "a" } else { "b" };
    let labels = [("zone", zone), ("weight", ["1", "40"][id % 2])];
    Instance {
        id: InstanceId::new(format!("i{id}")),
        service: ServiceName::new("echo").unwrap(),
        version: if id < 20 { "2" } else { "1" }.into(),
        endpoint: std::net::SocketAddr::from(([127, 0, 0, 1], 1)).into(),
        metadata: labels.map(|(name, value)| (name.to_owned(), value.to_owned())).into(),
        rpc: Vec::new(),
    }
}

fn rules() -> Vec<Rule> {
    let version = |version: &str| Filter { version: Some(version.into()), ..Filter::default() };
    let beta = Rule {
        name: "beta".into(),
        when: BTreeMap::from([("x-user".into(), "beta*".into())]),
        to: version("2"),
        ..Rule::default()
    };
    let split = vec![
        Share { weight: 5, to: version("2"), except: Filter::default() },
        Share { weight: 95, to: Filter::default(), except: version("2") },
    ];
    vec![beta, Rule { name: "canary".into(), split, ..Rule::default() }]
}

/// What picks and answers ask of the allocator.
fn asked(set: &Set, now: Duration) -> usize {
    let before = COUNT.get();
    for random in 0..500u64 {
        let metadata = |_: &str| Some(if random % 3 == 0 { "beta" } else { "ada" });
        // One in ten is made once more, and was everywhere but at a few.
        let usable = |index: usize| random % 10 > 0 || index >= 90;
        let random = (random + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let choice = Choice { now, random, metadata: &metadata, usable: &usable, expendable: true };
        let pick = set.pick(&choice).unwrap();
        let backend = set.backend(pick.index);
        backend.begin();
        backend.learn(now, Some(MS), Outcome::Success, pick.probe);
        backend.end();
    }
    COUNT.get() - before
}

#[test]
fn picks_and_answers_allocate_nothing() {
    assert!(COUNT.get() > 0, "nothing is counted");
    let members: Members = (0..100).map(instance).collect();
    for policy in Algorithm::ALL {
        for zone in [None, Some(Zone::default())] {
            for subset in [None, Some(8)] {
                for rules in [Vec::new(), rules()] {
                    let hash =
                        (policy == Algorithm::Hash).then(|| Hash { key: "x-user".into(), bound: 1.25 });
                    let traffic =
                        Traffic { policy, hash, zone: zone.clone(), subset, rules, ..Traffic::default() };
                    let what = format!("{policy:?}, {zone:?}, {subset:?}, {} rules", traffic.rules.len());
                    assert_eq!(traffic.validate(), [], "{what}");
                    let mut roster = Roster::new();
                    let seat = Seat { zone: Some("a".into()), seed: 7 };
                    let set = roster.arrange(&members, &traffic, &seat, Duration::ZERO);
                    assert_eq!(asked(&set, MS), 0, "{what}");
                    // All of version 2 are out, and so is more; others are down.
                    for index in (0..40).flat_map(|index| [index; 9]) {
                        let _ = set.backend(index).learn(MS, Some(MS), Outcome::Failure, false);
                    }
                    (0..100).step_by(7).for_each(|index| set.backend(index).set_down(true));
                    assert!((0..40).any(|index| set.backend(index).is_ejected()), "{what}");
                    assert_eq!(asked(&set, 2 * MS), 0, "{what}, some out");
                    (0..100).for_each(|index| set.backend(index).set_down(index != 3));
                    assert_eq!(asked(&set, 3 * MS), 0, "{what}, hardly anybody in");
                }
            }
        }
    }
}

/// What an update of one among so many asks of the allocator: how often, and for how much.
fn update(traffic: &Traffic, count: usize) -> (usize, usize) {
    let mut members: Members = (0..count).map(instance).collect();
    let (mut roster, seat) = (Roster::new(), Seat { zone: Some("a".into()), seed: 7 });
    let mut set = roster.arrange(&members, traffic, &seat, Duration::ZERO);
    let mut most = (0, 0);
    // So few that nothing doubles meanwhile.
    for number in 0..20 {
        members.remove(&instance(number * 7).id);
        members.insert(instance(count + number));
        let before = (COUNT.get(), BYTES.get());
        // The set that it replaces ends with it, as it does for calls.
        set = roster.arrange(&members, traffic, &seat, MS);
        most = (most.0.max(COUNT.get() - before.0), most.1.max(BYTES.get() - before.1));
    }
    drop(set);
    most
}

#[test]
fn an_update_of_one_among_ten_thousand_costs_itself_and_copies_of_plain_numbers() {
    for policy in Algorithm::ALL {
        let hash = (policy == Algorithm::Hash).then(|| Hash { key: "x-user".into(), bound: 1.25 });
        let traffic = Traffic { policy, hash, ..Traffic::default() };
        let (times, bytes) = update(&traffic, 10_000);
        // Numbers are 40 kB for each list of all. A ring has a list of its stretches too, and a page of those that
        // change and of the oldest.
        let most = if policy == Algorithm::Hash { (80, 250_000) } else { (60, 120_000) };
        assert!(times <= most.0 && bytes <= most.1, "{policy:?}: {times} times, {bytes} bytes");
    }
}
