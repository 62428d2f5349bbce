//! Dependencies between services: order and circles. Indices instead of names, loops instead of
//! recursion: a thousand services with every possible edge must not take noticeable time.

use std::collections::{HashMap, VecDeque};

use crate::manifest::Service;

/// For each service, the services that it depends on, as indices. Names that are not defined are left
/// out.
pub(crate) fn edges(services: &[Service]) -> Vec<Vec<usize>> {
    let index: HashMap<&str, usize> =
        services.iter().enumerate().map(|(index, service)| (service.name.as_str(), index)).collect();
    services
        .iter()
        .map(|service| {
            let mut targets: Vec<usize> =
                service.depends_on.iter().filter_map(|name| index.get(name.as_str()).copied()).collect();
            targets.sort_unstable();
            targets.dedup();
            targets
        })
        .collect()
}

/// Waves in which each node depends only on earlier waves, and the nodes that fit in none because they
/// are in a circle or depend on one.
pub(crate) fn waves(edges: &[Vec<usize>]) -> (Vec<Vec<usize>>, Vec<usize>) {
    let mut missing: Vec<usize> = edges.iter().map(Vec::len).collect();
    let mut dependants = vec![Vec::new(); edges.len()];
    for (node, targets) in edges.iter().enumerate() {
        for &target in targets {
            dependants[target].push(node);
        }
    }
    let mut waves = Vec::new();
    let mut wave: Vec<usize> = (0..edges.len()).filter(|&node| missing[node] == 0).collect();
    while !wave.is_empty() {
        let mut next = Vec::new();
        for &node in &wave {
            for &dependant in &dependants[node] {
                missing[dependant] -= 1;
                if missing[dependant] == 0 {
                    next.push(dependant);
                }
            }
        }
        next.sort_unstable();
        waves.push(std::mem::replace(&mut wave, next));
    }
    (waves, (0..edges.len()).filter(|&node| missing[node] > 0).collect())
}

/// Circles, each as the nodes along it without the repeated first; every node that is in a circle is in
/// at least one of them, unless there are more than `most`.
pub(crate) fn cycles(edges: &[Vec<usize>], most: usize) -> Vec<Vec<usize>> {
    let (_, candidates) = waves(edges);
    let mut reported = vec![false; edges.len()];
    let mut found = Vec::new();
    for start in candidates {
        if found.len() == most {
            break;
        }
        if reported[start] {
            continue;
        }
        if let Some(cycle) = shortest(edges, start) {
            for &node in &cycle {
                reported[node] = true;
            }
            found.push(cycle);
        }
    }
    found
}

/// The shortest way from a node back to itself.
fn shortest(edges: &[Vec<usize>], start: usize) -> Option<Vec<usize>> {
    let mut before: Vec<Option<usize>> = vec![None; edges.len()];
    let mut queue = VecDeque::from([start]);
    while let Some(node) = queue.pop_front() {
        for &target in &edges[node] {
            if target == start {
                let mut way = vec![node];
                let mut node = node;
                while let (true, Some(previous)) = (node != start, before[node]) {
                    way.push(previous);
                    node = previous;
                }
                way.reverse();
                return Some(way);
            }
            if before[target].is_none() {
                before[target] = Some(node);
                queue.push_back(target);
            }
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn waves_and_circles() {
        // 0 -> 1 -> 2, 3 alone
        assert_eq!(waves(&[vec![1], vec![2], vec![], vec![]]), (vec![vec![2, 3], vec![1], vec![0]], vec![]));
        // 0 <-> 1, 0 <-> 2, 3 -> 0, 4 -> 4
        let tangled = [vec![1, 2], vec![0], vec![0], vec![0], vec![4]];
        assert_eq!(waves(&tangled).1, [0, 1, 2, 3, 4]);
        assert_eq!(cycles(&tangled, 20), [vec![0, 1], vec![2, 0], vec![4]]);
        assert_eq!(cycles(&tangled, 1).len(), 1);
    }

    #[test]
    fn a_thousand_services_in_one_knot_are_quick() {
        let knot: Vec<Vec<usize>> =
            (0..1000).map(|node| (0..1000).filter(|&t| t != node).collect()).collect();
        // Each but the first goes through the first.
        assert_eq!(cycles(&knot, usize::MAX).len(), 999);
    }

    proptest! {
        #[test]
        fn waves_keep_the_order_and_cycles_are_real(
            pairs in proptest::collection::vec((0usize..12, 0usize..12), 0..40)
        ) {
            let mut edges = vec![Vec::new(); 12];
            for (from, to) in pairs {
                if !edges[from].contains(&to) {
                    edges[from].push(to);
                }
            }
            let (waves, left) = waves(&edges);
            let mut done = [false; 12];
            for wave in &waves {
                for &node in wave {
                    prop_assert!(edges[node].iter().all(|&target| done[target]));
                }
                for &node in wave {
                    prop_assert!(!done[node]);
                    done[node] = true;
                }
            }
            prop_assert_eq!(waves.iter().map(Vec::len).sum::<usize>() + left.len(), 12);
            let cycles = cycles(&edges, usize::MAX);
            prop_assert_eq!(cycles.is_empty(), left.is_empty());
            for cycle in cycles {
                for (i, node) in cycle.iter().enumerate() {
                    prop_assert!(edges[*node].contains(&cycle[(i + 1) % cycle.len()]));
                }
            }
        }
    }
}
