//! What holds for every policy, set and history.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use formic_balance::traffic::{Filter, Hash, Rule, Share, Zone};
use formic_balance::{Algorithm, Backend, Choice, Outcome, Roster, Seat, Set, Traffic};
use formic_core::{Instance, InstanceId, Members, ServiceName};
use proptest::prelude::*;

const MS: Duration = Duration::from_millis(1);

fn instance(id: usize, version: &str, zone: &str) -> Instance {
    Instance {
        id: InstanceId::new(format!("i{id}")),
        service: ServiceName::new("echo").unwrap(),
        version: version.into(),
        endpoint: std::net::SocketAddr::from(([127, 0, 0, 1], 1)).into(),
        metadata: BTreeMap::from([("zone".to_owned(), zone.to_owned())]),
        rpc: Vec::new(),
    }
}

fn seat(zone: &str) -> Seat {
    Seat { zone: Some(zone.into()), seed: 7 }
}

fn version(version: &str) -> Filter {
    Filter { version: Some(version.into()), ..Filter::default() }
}

fn pick(set: &Set, now: Duration, random: u64, headers: &[(&str, &str)]) -> Option<usize> {
    let metadata = |name: &str| headers.iter().find(|(key, _)| *key == name).map(|(_, value)| *value);
    let choice = Choice { now, random, metadata: &metadata, usable: &|_| true, expendable: true };
    set.pick(&choice).map(|pick| pick.index)
}

fn share(set: &Set, headers: &[(&str, &str)], which: impl Fn(&Instance) -> bool) -> f64 {
    let hits = (0..20_000).filter(|&n| which(set.instance(pick(set, MS, stir(n), headers).unwrap())));
    hits.count() as f64 / 20_000.0
}

fn stir(n: u64) -> u64 {
    (n + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

/// Ten instances, two of them version 2, in zones a and b by turns.
fn ten() -> Members {
    let zone = |n| if n % 2 == 0 { "a" } else { "b" };
    (0..10).map(|n| instance(n, if n < 2 { "2" } else { "1" }, zone(n))).collect()
}

fn arrange(traffic: &Traffic, seat: &Seat) -> (Roster, Set) {
    assert_eq!(traffic.validate(), []);
    let mut roster = Roster::new();
    let set = roster.arrange(&ten(), traffic, seat, Duration::ZERO);
    (roster, set)
}

fn canary() -> Traffic {
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
    let canary = Rule { name: "canary".into(), split, ..Rule::default() };
    Traffic { rules: vec![beta, canary], ..Traffic::default() }
}

#[test]
fn a_canary_gets_its_share_and_a_header_its_version() {
    let (_, set) = arrange(&canary(), &Seat::default());
    let is_two = |instance: &Instance| instance.version == "2";
    let usual = share(&set, &[("x-user", "ada")], is_two);
    assert!((0.045..0.055).contains(&usual), "{usual}");
    assert_eq!(share(&set, &[("x-user", "beta-7")], is_two), 1.0);
    assert_eq!(set.notes(), [""; 0]);
}

#[test]
fn a_rule_without_instances_is_passed_over_and_says_so() {
    let mut traffic = canary();
    traffic.rules[0].to = version("3");
    traffic.rules[1].split[0].to = version("3");
    let (_, set) = arrange(&traffic, &Seat::default());
    assert_eq!(share(&set, &[("x-user", "beta")], |instance| instance.version == "1"), 1.0);
    assert_eq!(
        set.notes(),
        [
            "rule \"beta\": no instance has version \"3\", so the rule is passed over",
            "rule \"canary\": no instance has version \"3\", so its share goes to the others",
        ]
    );
    // A strict one fails its calls, and only those.
    traffic.rules[0].strict = true;
    let (_, set) = arrange(&traffic, &Seat::default());
    assert_eq!(pick(&set, MS, 1, &[("x-user", "beta")]), None);
    assert!(pick(&set, MS, 1, &[]).is_some());
    assert!(set.notes()[0].ends_with("so its calls fail"), "{:?}", set.notes());
    let metadata = |_: &str| Some("beta");
    let choice = Choice { now: MS, random: 1, metadata: &metadata, usable: &|_| true, expendable: true };
    assert_eq!(set.refusal(&choice), Some("beta"));
}

#[test]
fn a_rule_whose_instances_are_all_down_is_passed_over() {
    let (_, set) = arrange(&canary(), &Seat::default());
    (0..2).for_each(|index| set.backend(index).set_down(true));
    assert_eq!(share(&set, &[("x-user", "beta")], |instance| instance.version == "1"), 1.0);
    set.backend(1).set_down(false);
    assert_eq!(share(&set, &[("x-user", "beta")], |instance| instance.id.as_str() == "i1"), 1.0);
}

#[test]
fn a_rule_is_described_as_a_whole() {
    let share = |weight, to| Share { weight, to, except: Filter::default() };
    let described = |split: Vec<Share>, strict| {
        let rule = Rule { name: "r".into(), split, strict, ..Rule::default() };
        let (_, set) = arrange(&Traffic { rules: vec![rule], ..Traffic::default() }, &Seat::default());
        let choice = Choice { now: MS, random: 1, metadata: &|_| None, usable: &|_| true, expendable: true };
        let refused = set.refusal(&choice).is_some();
        assert_eq!(set.pick(&choice).is_none(), refused);
        (set.notes().to_vec(), refused)
    };
    let nobody = || vec![share(5, version("3")), share(95, version("4"))];
    let note = |end: &str| {
        vec![format!("rule \"r\": no instance has version \"3\", none has version \"4\", so {end}")]
    };
    assert_eq!(described(nobody(), true), (note("its calls fail"), true));
    assert_eq!(described(nobody(), false), (note("the rule is passed over"), false));
    // A share of nothing helps nobody, and nobody misses it.
    let weightless = || vec![share(0, version("1")), share(7, version("3"))];
    let note = |end: &str| vec![format!("rule \"r\": no instance has version \"3\", so {end}")];
    assert_eq!(described(weightless(), true), (note("its calls fail"), true));
    assert_eq!(described(weightless(), false), (note("the rule is passed over"), false));
    let one = || vec![share(1, version("1")), share(7, version("3")), share(0, version("4"))];
    for strict in [false, true] {
        assert_eq!(described(one(), strict), (note("its share goes to the others"), false));
    }
}

/// Fails as often as it takes.
fn eject(set: &Set, index: usize) {
    let fail = |_| set.backend(index).learn(MS, Some(MS), Outcome::Failure, false);
    assert!((0..9).any(|n| fail(n).is_some()), "{:?}", set.backend(index));
}

#[test]
fn those_who_stay_when_most_have_gone_are_compared_with_each_other() {
    let members = |count| -> Members { (0..count).map(|n| instance(n, "1", "a")).collect() };
    let (mut roster, traffic) = (Roster::new(), Traffic::default());
    roster.arrange(&members(200), &traffic, &seat("a"), Duration::ZERO);
    let set = roster.arrange(&members(3), &traffic, &seat("a"), Duration::ZERO);
    for round in 1..=50 {
        for index in set.indices() {
            let change = set.backend(index).learn(round * 10 * MS, Some(MS), Outcome::Failure, false);
            assert!(change.is_none(), "all of them fail alike: {:?}", set.backend(index));
        }
    }
}

#[test]
fn a_rule_whose_instances_are_all_ejected_is_left_and_only_probes_follow_it() {
    for policy in Algorithm::ALL.into_iter().filter(|&policy| policy != Algorithm::Hash) {
        for zone in [None, Some(Zone::default())] {
            let mut traffic = Traffic { policy, zone, ..canary() };
            let (_roster, set) = arrange(&traffic, &seat("a"));
            (0..2).for_each(|index| eject(&set, index));
            let is_two = |instance: &Instance| instance.version == "2";
            assert_eq!(share(&set, &[("x-user", "beta")], is_two), 0.0, "{policy:?}");
            assert_eq!(share(&set, &[], is_two), 0.0, "{policy:?}");
            // Once they are due a call by the rule finds out, one at a time.
            let later =
                set.backend(0).ejected().unwrap().probe_at.max(set.backend(1).ejected().unwrap().probe_at);
            let picks = (0..100).map(|n| pick(&set, later, stir(n), &[("x-user", "beta")]).unwrap());
            assert_eq!(picks.filter(|&index| index < 2).count(), 2, "{policy:?}");
            // Where nobody is in anywhere, they are as good as the others, and the rule's.
            (2..10).for_each(|index| set.backend(index).set_down(true));
            assert_eq!(share(&set, &[("x-user", "beta")], is_two), 1.0, "{policy:?}");
            // A strict rule has nowhere else to go.
            traffic.rules[0].strict = true;
            let (_roster, set) = arrange(&traffic, &seat("a"));
            (0..2).for_each(|index| eject(&set, index));
            assert_eq!(share(&set, &[("x-user", "beta")], is_two), 1.0, "{policy:?}");
        }
    }
}

#[test]
fn a_call_that_was_at_all_of_a_rule_leaves_it() {
    for policy in Algorithm::ALL.into_iter().filter(|&policy| policy != Algorithm::Hash) {
        for strict in [false, true] {
            let mut traffic = Traffic { policy, ..canary() };
            traffic.rules[0].strict = strict;
            let (_, set) = arrange(&traffic, &Seat::default());
            let (metadata, usable) = (|_: &str| Some("beta"), |index: usize| index > 1);
            let again = |random| {
                let choice =
                    Choice { now: MS, random, metadata: &metadata, usable: &usable, expendable: false };
                set.instance(set.pick(&choice).unwrap().index).version == "1"
            };
            assert!((0..200).all(|n| again(stir(n)) != strict), "{policy:?}");
        }
    }
}

#[test]
fn who_is_down_is_picked_only_when_all_are() {
    for policy in [Algorithm::P2c, Algorithm::RoundRobin, Algorithm::Random, Algorithm::LeastRequest] {
        for zone in [None, Some(Zone::default())] {
            let traffic = Traffic { policy, zone, ..Traffic::default() };
            let (_, set) = arrange(&traffic, &seat("a"));
            // The call was at all that can be reached, and is made once more.
            (0..7).for_each(|index| set.backend(index).set_down(true));
            let (metadata, usable) = (|_: &str| None, |index: usize| index < 7);
            let again = |random| {
                let choice =
                    Choice { now: MS, random, metadata: &metadata, usable: &usable, expendable: true };
                set.pick(&choice).unwrap().index
            };
            assert!((0..200).all(|n| again(stir(n)) >= 7), "{policy:?}");
            // Where nobody can be reached, the error is that of one who cannot.
            (7..10).for_each(|index| set.backend(index).set_down(true));
            assert!((0..200).all(|n| again(stir(n)) < 10), "{policy:?}");
        }
    }
}

#[test]
fn the_own_zone_is_preferred_and_spills_over() {
    for policy in [Algorithm::P2c, Algorithm::RoundRobin, Algorithm::Random, Algorithm::LeastRequest] {
        let traffic = Traffic { policy, zone: Some(Zone::default()), ..Traffic::default() };
        let (_, set) = arrange(&traffic, &seat("a"));
        let near = |instance: &Instance| instance.metadata["zone"] == "a";
        assert_eq!(share(&set, &[], near), 1.0, "{policy:?}");
        // Three of five are down: the other two do not have to bear everything.
        [0, 2, 4].into_iter().for_each(|index| set.backend(index).set_down(true));
        let left = share(&set, &[], near);
        assert!((0.5..0.62).contains(&left), "{policy:?}: {left}");
        [6, 8].into_iter().for_each(|index| set.backend(index).set_down(true));
        assert_eq!(share(&set, &[], near), 0.0, "{policy:?}");
    }
    // The work in flight counts too, where the policy weighs it.
    let traffic = Traffic { zone: Some(Zone { spill: 3.0 }), ..Traffic::default() };
    let (_, set) = arrange(&traffic, &seat("a"));
    [0, 2, 4, 6, 8].into_iter().for_each(|index| (0..10).for_each(|_| set.backend(index).begin()));
    assert_eq!(share(&set, &[], |instance| instance.metadata["zone"] == "a"), 0.0);
}

#[test]
fn a_zone_that_nobody_has_is_no_zone_and_says_so() {
    let traffic = Traffic { zone: Some(Zone::default()), ..Traffic::default() };
    let (_, set) = arrange(&traffic, &seat("mars"));
    assert_eq!(set.notes(), ["zone: no instance is in \"mars\", so all zones are alike"]);
    let near = share(&set, &[], |instance| instance.metadata["zone"] == "a");
    assert!((0.45..0.55).contains(&near), "{near}");
    let (_, set) = arrange(&traffic, &Seat::default());
    assert_eq!(set.notes(), ["zone: this caller knows none of its own, so all zones are alike"]);
}

#[test]
fn a_subset_is_always_the_same_and_moves_little() {
    let traffic = Traffic { subset: Some(4), ..Traffic::default() };
    let members = |instances: Members, seed| {
        let set = Roster::new().arrange(&instances, &traffic, &Seat { zone: None, seed }, Duration::ZERO);
        let picks = (0..500).map(|n| pick(&set, MS, stir(n), &[]).unwrap());
        picks.map(|index| set.instance(index).id.to_string()).collect::<std::collections::BTreeSet<_>>()
    };
    let all = ten();
    let mine = members(all.clone(), 1);
    assert_eq!((mine.len(), &mine), (4, &members(all.clone(), 1)));
    assert!((2..9).any(|seed| members(all.clone(), seed) != mine), "others have others");
    let gone = mine.first().unwrap().clone();
    let fewer: Members = all.iter().filter(|one| one.id.as_str() != gone).cloned().collect();
    let moved = members(fewer, 1);
    assert_eq!((moved.len(), moved.intersection(&mine).count()), (4, 3));
}

#[test]
fn a_subset_of_which_too_few_are_in_is_everybody() {
    for policy in Algorithm::ALL {
        for (subset, out) in [(1, 1), (4, 3)] {
            let hash = (policy == Algorithm::Hash).then(|| Hash { key: "x-user".into(), bound: 1.25 });
            let traffic = Traffic { policy, hash, subset: Some(subset), ..Traffic::default() };
            let (_roster, set) = arrange(&traffic, &Seat::default());
            let names: Vec<_> = (0..500).map(|n| n.to_string()).collect();
            let picks = |random: usize| {
                let all = names.iter().zip(random as u64..);
                let picked = all.map(|(name, n)| pick(&set, MS, stir(n), &[("x-user", name)]).unwrap());
                picked.collect::<std::collections::BTreeSet<_>>()
            };
            let mine = picks(0);
            assert_eq!(mine.len(), subset as usize, "{policy:?}");
            mine.iter().take(out).for_each(|&index| eject(&set, index));
            let others = picks(1_000);
            assert_eq!(others.len(), 10 - out, "{policy:?}: {mine:?} → {others:?}");
            assert!(mine.iter().take(out).all(|index| !others.contains(index)), "{policy:?}");
            // As many as are enough come back, and it is a subset again.
            mine.iter().take(1).for_each(|&index| assert!(set.backend(index).reset(MS).is_some()));
            assert!(picks(2_000).is_subset(&mine), "{policy:?}");
        }
    }
}

#[test]
fn what_does_not_hold_for_the_moment_is_said() {
    let (_roster, set) = arrange(&canary(), &Seat::default());
    assert_eq!((set.panics(), set.fit(), set.plight()), (false, (10, 10), Vec::new()));
    (0..2).for_each(|index| eject(&set, index));
    let out = "every instance that has version \"2\" is out, so";
    let left = [
        format!("rule \"beta\": {out} the rule is passed over"),
        format!("rule \"canary\": {out} its share goes to the others"),
    ];
    assert_eq!((set.panics(), set.plight()), (false, left.to_vec()));
    // Four of ten are in.
    (2..6).for_each(|index| set.backend(index).set_down(true));
    assert!(set.panics() && set.fit() == (4, 10));
    assert_eq!(set.plight()[0], "panic: 4 of 10 instances are in, so those that are ejected get calls, too");
    assert_eq!(set.plight()[1..], left);
    // Nobody is.
    (6..10).for_each(|index| set.backend(index).set_down(true));
    assert!(set.panics());
    assert_eq!(set.plight().len(), 1, "{:?}", set.plight());
    // Who is down is no reason to panic: there is no ejection to ignore.
    (0..2).for_each(|index| assert!(set.backend(index).reset(MS).is_some()));
    assert_eq!((set.panics(), set.plight().len()), (false, 1), "{:?}", set.plight());
    let (_roster, set) = arrange(&Traffic { subset: Some(1), ..Traffic::default() }, &Seat::default());
    eject(&set, pick(&set, MS, 1, &[]).unwrap());
    assert_eq!(set.plight(), ["subset: 0 of its 1 instances are in, so all 10 get calls"]);
}

fn any_policy() -> impl Strategy<Value = Traffic> {
    let algorithm = prop::sample::select(&Algorithm::ALL[..]);
    (algorithm, any::<bool>(), prop::option::of(1u32..8), any::<bool>()).prop_map(
        |(policy, zone, subset, rules)| {
            let hash = (policy == Algorithm::Hash).then(|| Hash { key: "x-user".into(), bound: 1.25 });
            let rules = if rules { canary().rules } else { Vec::new() };
            Traffic { policy, hash, zone: zone.then(Zone::default), subset, rules, ..Traffic::default() }
        },
    )
}

#[derive(Clone, Debug)]
enum Step {
    Pick(u64),
    End(Outcome),
    Down(usize, bool),
    Arrange(Vec<bool>),
    Policy(Box<Traffic>),
    Wait(u64),
}

fn any_step() -> impl Strategy<Value = Step> {
    let outcome = prop_oneof![
        4 => Just(Outcome::Success),
        4 => Just(Outcome::Failure),
        1 => Just(Outcome::Rejected { after: Some(Duration::from_secs(3)) }),
        1 => Just(Outcome::Neutral),
    ];
    prop_oneof![
        12 => any::<u64>().prop_map(Step::Pick),
        12 => outcome.prop_map(Step::End),
        2 => (0..10usize, any::<bool>()).prop_map(|(index, down)| Step::Down(index, down)),
        1 => prop::collection::vec(any::<bool>(), 10).prop_map(Step::Arrange),
        1 => any_policy().prop_map(|policy| Step::Policy(Box::new(policy))),
        2 => (0..5_000u64).prop_map(Step::Wait),
    ]
}

proptest! {
    /// Whatever happened: somebody is picked while there is anybody, nobody is picked who was left out while there is
    /// another, probes end, work in flight adds up, and never is everybody ejected.
    #[test]
    fn any_history_leaves_somebody(policy in any_policy(), steps in prop::collection::vec(any_step(), 1..300)) {
        let (all, mut members) = (ten(), ten());
        let (mut traffic, mut roster, mut now) = (policy, Roster::new(), Duration::ZERO);
        let mut set = roster.arrange(&all, &traffic, &seat("a"), now);
        let mut flying = Vec::new();
        for step in steps {
            now += MS;
            match step {
                Step::Pick(random) => {
                    let metadata = |_: &str| Some("ada");
                    let avoid = random as usize % 10;
                    let choice = Choice {
                        now,
                        random,
                        metadata: &metadata,
                        usable: &|index| index != avoid,
                        expendable: random % 2 == 0,
                    };
                    let Some(pick) = set.pick(&choice) else {
                        prop_assert!(set.is_empty());
                        continue;
                    };
                    let backend = Arc::clone(set.backend(pick.index));
                    prop_assert_eq!(backend.id(), &set.instance(pick.index).id);
                    prop_assert!(!pick.probe || backend.is_ejected());
                    let is_in = |backend: &Backend| !backend.is_ejected() && !backend.is_down();
                    let fit = set.indices().filter(|&index| is_in(set.backend(index))).count();
                    if fit * 2 >= set.len() {
                        prop_assert!(pick.probe || is_in(&backend), "{fit} of {} are in", set.len());
                    }
                    backend.begin();
                    flying.push((backend, pick.probe, now));
                }
                Step::End(outcome) => if let Some((backend, probe, since)) = flying.pop() {
                    backend.learn(now, Some(now - since), outcome, probe);
                    backend.end();
                },
                Step::Down(index, down) => if let Some((_, backend)) = set.get(index) {
                    backend.set_down(down);
                },
                Step::Arrange(present) => {
                    let kept = all.iter().zip(present).filter(|(_, present)| *present);
                    members = kept.map(|(one, _)| one.clone()).collect();
                    set = roster.arrange(&members, &traffic, &seat("a"), now);
                }
                Step::Policy(next) => {
                    traffic = *next;
                    set = roster.arrange(&members, &traffic, &seat("a"), now);
                }
                Step::Wait(millis) => {
                    now += MS * millis as u32;
                    roster.sweep(now);
                }
            }
            let total: u32 = set.indices().map(|index| set.backend(index).in_flight()).sum();
            prop_assert!(total as usize <= flying.len());
        }
        // Well again, everybody comes back.
        for (backend, probe, since) in flying {
            backend.learn(now, Some(now - since), Outcome::Success, probe);
            backend.end();
        }
        set.indices().for_each(|index| set.backend(index).set_down(false));
        traffic.rules.clear();
        traffic.zone = None;
        traffic.subset = None;
        let set = roster.arrange(&members, &traffic, &seat("a"), now);
        for random in 0..200u64 {
            now += MS * 100;
            let metadata = |_: &str| Some("ada");
            let choice = Choice { now, random, metadata: &metadata, usable: &|_| true, expendable: true };
            if let Some(pick) = set.pick(&choice) {
                set.backend(pick.index).learn(now, Some(MS), Outcome::Success, pick.probe);
            }
        }
        for index in set.indices() {
            prop_assert!(!set.backend(index).is_ejected(), "{:?}", set.backend(index));
        }
    }
}
