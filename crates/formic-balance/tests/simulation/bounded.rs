//! Bounded load among more endpoints than are summed up for each pick: a hot key's owner has no more than its bound
//! of the work of those among whom its calls are shared out, and no less room than that either.

use std::time::Duration;

use formic_balance::traffic::{Filter, Hash, Rule, Share, Zone};
use formic_balance::{Algorithm, Choice, Roster, Seat, Set, Traffic};
use formic_core::{Instance, InstanceId, ServiceName};

const BOUND: f64 = 1.25;

/// One in three is in zone a and one in three of version 2; one in two weighs three times as much, if that is asked for.
fn instance(id: usize, weights: bool) -> Instance {
    let zone = if id.is_multiple_of(3) { "a" } else { "b" };
    let weight = if weights && id.is_multiple_of(2) { "3" } else { "1" };
    Instance {
        id: InstanceId::new(format!("i{id}")),
        service: ServiceName::new("echo").unwrap(),
        version: if id % 3 == 1 { "2" } else { "1" }.into(),
        endpoint: std::net::SocketAddr::from(([127, 0, 0, 1], 1)).into(),
        metadata: [("zone", zone), ("weight", weight)]
            .map(|(name, value)| (name.into(), value.into()))
            .into(),
        rpc: Vec::new(),
    }
}

struct Scene {
    roster: Roster,
    traffic: Traffic,
    weights: bool,
}

impl Scene {
    fn new(traffic: Traffic, weights: bool) -> Self {
        let hash = Some(Hash { key: "x-user".into(), bound: BOUND });
        let traffic = Traffic { policy: Algorithm::Hash, hash, ..traffic };
        assert_eq!(traffic.validate(), []);
        Self { roster: Roster::new(), traffic, weights }
    }

    fn set(&mut self) -> Set {
        let members = (0..300).map(|id| instance(id, self.weights)).collect();
        let seat = Seat { zone: Some("a".into()), seed: 7 };
        self.roster.arrange(&members, &self.traffic, &seat, Duration::ZERO)
    }
}

/// So many calls begin and do not end, all with one key.
fn call(set: &Set, key: &str, calls: u64) {
    for number in 0..calls {
        let metadata = |name: &str| (name == "x-user").then_some(key);
        let random = (number + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let now = Duration::from_secs(1);
        let choice = Choice { now, random, metadata: &metadata, usable: &|_| true, expendable: false };
        set.backend(set.pick(&choice).unwrap().index).begin();
    }
}

/// Whoever has work has no more than its bound of what those have who are meant, and somebody has that much: the key
/// goes on no sooner.
fn assert_bounded(set: &Set, is_meant: impl Fn(&Instance) -> bool) {
    let meant: Vec<_> = set.indices().filter(|&index| is_meant(set.instance(index))).collect();
    let work = |index: usize| f64::from(set.backend(index).in_flight());
    let weight = |index: usize| f64::from(set.backend(index).weight());
    let all: f64 = meant.iter().map(|&index| work(index)).sum();
    let weights: f64 = meant.iter().map(|&index| weight(index)).sum();
    assert!(meant.len() > 64 && all > 100.0, "{} of {}", all, meant.len());
    let bound = |index: usize| (BOUND * all * weight(index) / weights).ceil();
    let busy = || meant.iter().filter(|&&index| work(index) > 0.0);
    for &index in busy() {
        assert!(work(index) <= bound(index), "{} for a bound of {}", work(index), bound(index));
    }
    assert!(busy().any(|&index| work(index) == bound(index)), "the key went on too soon");
}

#[test]
fn in_the_own_zone_it_is_the_zones_work_that_counts() {
    let mut scene = Scene::new(Traffic { zone: Some(Zone::default()), ..Traffic::default() }, false);
    let set = scene.set();
    call(&set, "hot", 1_000);
    assert_bounded(&set, |instance| instance.metadata["zone"] == "a");
}

#[test]
fn a_canarys_bound_is_of_the_canarys_work() {
    let of = |version: &str| Filter { version: Some(version.into()), ..Filter::default() };
    let split = vec![
        Share { weight: 5, to: of("2"), except: Filter::default() },
        Share { weight: 95, to: of("1"), except: Filter::default() },
    ];
    let rules = vec![Rule { name: "canary".into(), split, ..Rule::default() }];
    let mut scene = Scene::new(Traffic { rules, ..Traffic::default() }, false);
    let set = scene.set();
    call(&set, "hot", 4_000);
    assert_bounded(&set, |instance| instance.version == "2");
    assert_bounded(&set, |instance| instance.version == "1");
}

#[test]
fn in_a_subset_it_is_the_subsets_work_that_counts() {
    let mut scene = Scene::new(Traffic { subset: Some(80), ..Traffic::default() }, false);
    let set = scene.set();
    // Who is in it shows in who gets calls of many keys.
    (0..4_000).for_each(|key| call(&set, &key.to_string(), 1));
    let chosen: Vec<_> = set.indices().filter(|&index| set.backend(index).in_flight() > 0).collect();
    assert_eq!(chosen.len(), 80);
    chosen.iter().for_each(|&index| {
        (0..set.backend(index).in_flight()).for_each(|_| set.backend(index).end());
    });
    call(&set, "hot", 1_000);
    let ids: Vec<_> = chosen.iter().map(|&index| set.instance(index).id.clone()).collect();
    assert_bounded(&set, |instance| ids.contains(&instance.id));
}

#[test]
fn who_weighs_more_has_more_room() {
    for zone in [None, Some(Zone::default())] {
        let mut scene = Scene::new(Traffic { zone: zone.clone(), ..Traffic::default() }, true);
        let set = scene.set();
        call(&set, "hot", 1_000);
        assert_bounded(&set, |instance| zone.is_none() || instance.metadata["zone"] == "a");
    }
}

#[test]
fn the_share_of_those_who_are_out_is_the_others() {
    let mut scene = Scene::new(Traffic::default(), true);
    let set = scene.set();
    (0..100).for_each(|index| set.backend(index).set_down(true));
    call(&set, "hot", 1_000);
    let up: Vec<_> = (100..300).map(|index| set.instance(index).id.clone()).collect();
    assert_bounded(&set, |instance| up.contains(&instance.id));
}

#[test]
fn the_count_follows_calls_and_changes_of_the_policy() {
    let mut scene = Scene::new(Traffic::default(), false);
    let near = |instance: &Instance| instance.metadata["zone"] == "a";
    let end = |set: &Set| {
        let all = set.indices().map(|index| set.backend(index));
        all.for_each(|backend| (0..backend.in_flight()).for_each(|_| backend.end()));
    };
    call(&scene.set(), "other", 3_000);
    // They count on under a policy with other parts, until they end there.
    scene.traffic.zone = Some(Zone::default());
    let set = scene.set();
    call(&set, "another", 300);
    end(&set);
    call(&set, "hot", 1_000);
    assert_bounded(&set, near);
    // A sweep counts anew: each part its own work, and none of what there is elsewhere.
    let far = set.indices().filter(|&index| !near(set.instance(index)));
    far.for_each(|index| (0..10).for_each(|_| set.backend(index).begin()));
    scene.roster.sweep(Duration::from_secs(2));
    call(&set, "hot", 1_000);
    assert_bounded(&set, near);
}
