//! The scenes of the traffic benchmark, without processes.

use formic_balance::{Algorithm, State, Traffic};

use crate::world::*;

const SEEDS: u64 = 12;

fn slow_one(traffic: &Traffic, seed: u64, slow: bool) -> World {
    let mut means = vec![2 * MS; 10];
    if slow {
        means[3] = 20 * MS;
    }
    // A quarter of what ten healthy ones can do.
    let mut world = World::new(traffic, &means, 10_000, 0.0, seed);
    world.run(4 * SECOND);
    world
}

#[test]
fn a_slow_one_of_ten_does_not_show_in_the_tail() {
    for seed in 0..SEEDS {
        let (mut healthy, mut ill) =
            (slow_one(&Traffic::default(), seed, false), slow_one(&Traffic::default(), seed, true));
        let (before, after) = (healthy.percentile(0.99), ill.percentile(0.99));
        assert!(after <= before.mul_f64(1.3), "seed {seed}: {before:?} → {after:?}");
        assert!(ill.machines[3].served > 0, "it is still tried");
        let mut blind = slow_one(&policy(Algorithm::RoundRobin), seed, true);
        let tail = blind.percentile(0.99);
        assert!(tail > before * 3, "round robin sees nothing: {tail:?}");
    }
}

#[test]
fn the_least_busy_policies_avoid_the_slow_one_too() {
    for seed in 0..SEEDS {
        let mut world = slow_one(&policy(Algorithm::LeastRequest), seed, true);
        let served = world.machines[3].served;
        assert!(served * 4 < world.calls() / 10, "seed {seed}: {served}");
        assert!(world.percentile(0.5) < 3 * MS);
    }
}

/// One of three fails half of its calls from second 2 to second 8.
fn flaky(traffic: &Traffic, rate: u32, seed: u64) -> World {
    let mut world = World::new(traffic, &[MS; 3], rate, 1.0, seed);
    world.run(2 * SECOND);
    world.machines[1].failing = 0.5;
    world.run(8 * SECOND);
    world.machines[1].failing = 0.0;
    world.run(18 * SECOND);
    world
}

#[test]
fn a_flaky_one_of_three_is_ejected_within_a_second_and_back_within_ten() {
    for policy in Algorithm::ALL {
        for rate in [200, 1_000] {
            for seed in 0..SEEDS {
                let world = flaky(&self::policy(policy), rate, seed);
                let what = format!("{policy:?} at {rate}/s, seed {seed}");
                let report = &world.report;
                assert!(report.ejected.iter().all(|&(_, index)| index == 1), "{what}: {:?}", report.ejected);
                let (first, _) = *report.ejected.first().expect(&what);
                assert!(first <= 3 * SECOND, "{what}: ejected at {first:?}");
                let (last, _) = *report.returned.last().expect(&what);
                assert!(last <= 18 * SECOND && !world.backend(1).is_ejected(), "{what}: back at {last:?}");
                let allowed = world.calls() / 1_000;
                assert!(report.failed_idempotent <= allowed, "{what}: {} failed", report.failed_idempotent);
            }
        }
    }
}

#[test]
fn an_ejection_tells_why() {
    let mut world = World::new(&Traffic::default(), &[MS; 3], 1_000, 1.0, 7);
    world.run(SECOND);
    world.machines[1].failing = 1.0;
    world.run(2 * SECOND);
    let view = world.set.view(world.now).nth(1).unwrap().1;
    assert!(matches!(view.state, State::Ejected | State::Probing), "{view:?}");
    let reason = view.reason.as_deref().unwrap();
    assert!(reason.contains("calls failed, of the others' 0 %"), "{reason}");
    assert!(view.probe_in.is_some() && view.ejections > 0);
    // By hand it is back at once.
    assert!(world.backend(1).reset(world.now).is_some());
    assert_ne!(world.set.view(world.now).nth(1).unwrap().1.state, State::Ejected);
    // Who is not out loses nothing by it.
    let healthy = |world: &World| {
        let view = world.set.view(world.now).next().unwrap().1;
        (view.state, view.latency_ms.to_bits())
    };
    let before = healthy(&world);
    assert!(world.backend(0).reset(world.now).is_none());
    assert_eq!(healthy(&world), before);
}

#[test]
fn a_kill_costs_no_idempotent_call_and_of_the_others_those_on_their_way() {
    for policy in Algorithm::ALL {
        for seed in 0..SEEDS {
            let mut world = World::new(&self::policy(policy), &[2 * MS; 3], 3_000, 0.5, seed);
            world.run(SECOND);
            let on_their_way = world.kill(2);
            world.run(3 * SECOND);
            world.revive(2);
            let before = world.machines[2].served;
            // As long as a slow start, and longer.
            world.run(18 * SECOND);
            let report = &world.report;
            assert_eq!(report.failed_idempotent, 0, "{policy:?} seed {seed}");
            assert!(report.failed_other <= on_their_way, "{policy:?} seed {seed}: {}", report.failed_other);
            let served = world.machines[2].served - before;
            assert!(served > 5_000, "{policy:?} seed {seed}: it gets its share again: {served}");
        }
    }
}

#[test]
fn the_same_seed_says_the_same() {
    let served = |seed| {
        flaky(&Traffic::default(), 500, seed).machines.iter().map(|one| one.served).collect::<Vec<_>>()
    };
    assert_eq!(served(3), served(3));
    assert_ne!(served(3), served(4));
}

/// Each endpoint is called so seldom that its latency has faded by the next time.
#[test]
fn a_slow_endpoint_is_avoided_by_callers_that_call_seldom() {
    for seed in 0..8 {
        let mut means = [20 * MS; 20];
        means[7] = 300 * MS;
        let mut world = World::new(&Traffic::default(), &means, 1, 1.0, seed);
        world.run(20_000 * SECOND);
        let (served, fair) = (world.machines[7].served, world.calls() / means.len());
        assert!(served > 0 && served * 10 < fair * 7, "seed {seed}: {served}, a fair share is {fair}");
    }
}
