//! Who comes after whom: starts after what is depended on, stops before it.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use crate::state::Service;

/// Every service that leaves is held by another: there is a circle, of dependencies from different
/// generations, and waiting would be for ever. Within a circle nobody waits any more; what a circle
/// needs still waits for it.
pub(super) fn release_circles(held: &mut BTreeMap<&str, BTreeSet<&str>>) {
    let all = held.clone();
    held.retain(|service, holders| {
        // One that this service holds in its turn is in a circle with it.
        holders.retain(|holder| !reaches(&all, holder, service));
        !holders.is_empty()
    });
}

/// Whether `to` holds `from`, directly or not.
fn reaches(held: &BTreeMap<&str, BTreeSet<&str>>, from: &str, to: &str) -> bool {
    let mut seen = BTreeSet::new();
    let mut open = vec![from];
    while let Some(service) = open.pop() {
        for holder in held.get(service).into_iter().flatten() {
            if *holder == to {
                return true;
            }
            if seen.insert(*holder) {
                open.push(holder);
            }
        }
    }
    false
}

/// The places of the services, each after those that it depends on; those in a circle, which no manifest has, last.
pub(super) fn in_order(services: &[Service]) -> Vec<usize> {
    let index: HashMap<&str, usize> =
        services.iter().enumerate().map(|(i, s)| (s.name.as_str(), i)).collect();
    let mut missing = vec![0usize; services.len()];
    let mut dependants = vec![Vec::new(); services.len()];
    for (node, service) in services.iter().enumerate() {
        for target in service.depends_on.iter().filter_map(|name| index.get(name.as_str())) {
            missing[node] += 1;
            dependants[*target].push(node);
        }
    }
    let mut order: Vec<usize> = (0..services.len()).filter(|&node| missing[node] == 0).collect();
    let mut next = 0;
    while next < order.len() {
        for &dependant in &dependants[order[next]] {
            missing[dependant] -= 1;
            if missing[dependant] == 0 {
                order.push(dependant);
            }
        }
        next += 1;
    }
    order.extend((0..services.len()).filter(|&node| missing[node] > 0));
    order
}
