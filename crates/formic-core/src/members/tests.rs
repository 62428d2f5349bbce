//! A set against a plain map, through any history.
#![expect(clippy::unwrap_used, reason = "a test may panic")]

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::ServiceName;

fn instance(number: u32, version: u32) -> Instance {
    Instance {
        id: InstanceId::new(format!("i{number:05}")),
        service: ServiceName::new("echo").unwrap(),
        version: version.to_string(),
        endpoint: std::net::SocketAddr::from(([127, 0, 0, 1], 1)).into(),
        metadata: BTreeMap::new(),
        rpc: Vec::new(),
    }
}

fn differences(new: &Members, old: &Members) -> Vec<(Option<Instance>, Option<Instance>)> {
    let mut all = Vec::new();
    let own = |one: Option<&Arc<Instance>>| one.map(|one| Instance::clone(one));
    new.compare(old, |(was, is)| all.push((own(was), own(is))));
    all
}

fn check(members: &Members, model: &BTreeMap<InstanceId, Instance>) {
    assert_eq!(members.len(), model.len());
    assert!(members.iter().eq(model.values()));
    assert!(members.chunks.iter().all(|chunk| !chunk.is_empty() && chunk.len() <= MOST));
}

#[test]
fn of_several_with_one_id_the_last_counts() {
    let members: Members = [instance(2, 1), instance(1, 1), instance(2, 7)].into_iter().collect();
    assert_eq!(members.iter().map(|one| one.version.as_str()).collect::<Vec<_>>(), ["1", "7"]);
}

#[test]
fn one_change_among_many_copies_one_chunk() {
    let before: Members = (0..10_000).map(|number| instance(number, 0)).collect();
    let mut after = before.clone();
    assert!(after.remove(&InstanceId::new("i05000")).is_some());
    after.insert(instance(20_000, 0));
    let kept = |chunk: &&Chunk| before.chunks.iter().any(|other| Arc::ptr_eq(chunk, other));
    assert!(after.chunks.len() - after.chunks.iter().filter(kept).count() <= 2);
    assert_eq!(differences(&after, &before).len(), 2);
    assert_eq!(differences(&before, &before), []);
}

proptest! {
    #[test]
    fn a_set_is_a_sorted_map_and_differences_are_what_changed(
        first in prop::collection::btree_set(0u32..600, 0..500),
        steps in prop::collection::vec((0u32..600, 0u32..4), 0..400),
    ) {
        let before: Members = first.iter().map(|&number| instance(number, 0)).collect();
        let mut model: BTreeMap<_, _> = before.iter().map(|one| (one.id.clone(), one.clone())).collect();
        let was = model.clone();
        let mut members = before.clone();
        for (number, what) in steps {
            let one = instance(number, what);
            let (got, expected) = if what == 0 {
                (members.remove(&one.id), model.remove(&one.id))
            } else {
                (members.insert(one.clone()), model.insert(one.id.clone(), one.clone()))
            };
            prop_assert_eq!(got.map(|one| Instance::clone(&one)), expected);
            prop_assert_eq!(members.get(&one.id).map(|one| &**one), model.get(&one.id));
        }
        check(&members, &model);
        check(&before, &was);
        // The same set from scratch shares nothing, and differs in the same.
        let anew: Members = model.values().cloned().collect();
        prop_assert_eq!(&anew, &members);
        prop_assert_eq!(differences(&anew, &before), differences(&members, &before));
        let mut patched = was;
        for (gone, come) in differences(&members, &before) {
            prop_assert_ne!(&gone, &come);
            match come {
                Some(one) => patched.insert(one.id.clone(), one),
                None => patched.remove(&gone.unwrap().id),
            };
        }
        prop_assert_eq!(patched, model);
    }
}
