//! After any history a roster has what one has that is told the outcome only.
#![expect(clippy::unwrap_used, reason = "a test may panic")]

use std::collections::{BTreeMap, BTreeSet};

use formic_core::ServiceName;
use proptest::prelude::*;

use super::*;
use crate::traffic::{Algorithm, Filter, Hash, Rule, Share, Zone};

fn instance(number: u32, zone: bool, weight: u32) -> Instance {
    let weight = ["", "0.5", "3", "40", "heavy"][weight as usize % 5];
    let labels = [("zone", if zone { "a" } else { "b" }), ("weight", weight)];
    let metadata = labels.iter().filter(|(_, value)| !value.is_empty());
    Instance {
        id: InstanceId::new(format!("i{number}")),
        service: ServiceName::new("echo").unwrap(),
        version: (number % 3).to_string(),
        endpoint: std::net::SocketAddr::from(([127, 0, 0, 1], 1)).into(),
        metadata: metadata.map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect(),
        rpc: Vec::new(),
    }
}

fn any_traffic() -> impl Strategy<Value = Traffic> {
    let algorithm = prop::sample::select(&Algorithm::ALL[..]);
    (algorithm, any::<bool>(), prop::option::of(1u32..40), any::<bool>()).prop_map(
        |(policy, zone, subset, rules)| {
            let hash = (policy == Algorithm::Hash).then(|| Hash { key: "x-user".into(), bound: 1.25 });
            let two = || Filter { version: Some("2".into()), ..Filter::default() };
            let split = vec![
                Share { weight: 5, to: two(), except: Filter::default() },
                Share { weight: 95, to: Filter::default(), except: two() },
            ];
            let rules =
                if rules { vec![Rule { name: "r".into(), split, ..Rule::default() }] } else { Vec::new() };
            Traffic { policy, hash, zone: zone.then(Zone::default), subset, rules, ..Traffic::default() }
        },
    )
}

/// What a part of a policy is, by identity and not by seat.
type Part = (BTreeSet<String>, Option<Vec<(u64, String)>>, Option<Vec<crate::policy::ClassView>>);

fn parts(roster: &Roster) -> Vec<Part> {
    let name = |seat: u32| roster.backends.get(seat as usize).unwrap().id().to_string();
    let all = roster.wings.parts().chain([&roster.whole]);
    all.map(|part| {
        assert!(part.is_consistent());
        (part.seats().iter().map(|&seat| name(seat)).collect(), part.ring(name), part.classes(name))
    })
    .collect()
}

proptest! {
    #[test]
    fn changes_come_to_the_same_as_a_new_beginning(
        first in prop::collection::btree_map(0u32..90, (any::<bool>(), 0u32..5), 0..80),
        traffic in any_traffic(),
        other in any_traffic(),
        steps in prop::collection::vec((0u32..90, any::<bool>(), 0u32..12, 0u64..40), 1..60),
    ) {
        let seat = Seat { zone: Some("a".into()), seed: 7 };
        let mut there: BTreeMap<u32, Instance> =
            first.into_iter().map(|(number, (zone, weight))| (number, instance(number, zone, weight))).collect();
        let (mut roster, mut now) = (Roster::new(), Duration::ZERO);
        let mut members: Members = there.values().cloned().collect();
        let mut last = roster.arrange(&members, &traffic, &seat, now);
        let mut current = &traffic;
        for (number, zone, what, pass) in steps {
            now += Duration::from_secs(pass);
            match what {
                0..5 => {
                    let one = instance(number, zone, what);
                    members.insert(one.clone());
                    there.insert(number, one);
                }
                5..11 => {
                    members.remove(&InstanceId::new(format!("i{number}")));
                    there.remove(&number);
                }
                _ => current = if std::ptr::eq(current, &traffic) { &other } else { &traffic },
            }
            let set = roster.arrange(&members, current, &seat, now);
            // What a set does not say to have changed is as it was.
            let is = |set: &Set, at: usize| set.get(at).map(|(one, backend)| (Arc::clone(one), backend.id().clone()));
            for at in 0..100 {
                prop_assert!(is(&last, at) == is(&set, at) || set.changed().contains(&(at as u32)));
            }
            last = set;
        }
        let mut anew = Roster::new();
        let set = anew.arrange(&there.values().cloned().collect(), current, &seat, now);
        prop_assert_eq!(parts(&roster), parts(&anew));
        prop_assert_eq!((last.len(), last.notes()), (set.len(), set.notes()));
        let shown = |set: &Set| {
            let mut all: Vec<_> = set.view(now).map(|(_, view)| (view.instance, view.weight, view.zone)).collect();
            all.sort_by(|one, other| one.0.cmp(&other.0));
            all
        };
        prop_assert_eq!(shown(&last), shown(&set));
    }
}
