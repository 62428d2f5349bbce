//! The bounds of ejection: how many, never the last, and what is no reason.

use formic_balance::{Algorithm, Outcome, Traffic};

use crate::world::*;

#[test]
fn of_two_one_is_ejected_and_the_last_never() {
    for seed in 0..20 {
        let mut world = World::new(&policy(Algorithm::Random), &[MS; 2], 1_000, 0.0, seed);
        world.machines[0].failing = 1.0;
        world.run(SECOND);
        assert!(world.backend(0).is_ejected(), "seed {seed}");
        // Now the other one fails as well; it is all that is left.
        world.machines[1].failing = 1.0;
        for second in 2..20 {
            world.run(second * SECOND);
            let out = (0..2).filter(|&index| world.backend(index).is_ejected()).count();
            assert!(out <= 1, "seed {seed}: both are out");
        }
        world.machines[0].failing = 0.0;
        world.machines[1].failing = 0.0;
        world.run(40 * SECOND);
        assert!(!world.backend(0).is_ejected() && !world.backend(1).is_ejected(), "seed {seed}");
    }
}

#[test]
fn what_all_do_is_nobodys_fault() {
    for seed in 0..20 {
        let mut world = World::new(&policy(Algorithm::RoundRobin), &[MS; 5], 2_000, 0.0, seed);
        for machine in &mut world.machines {
            machine.failing = 0.4;
        }
        world.run(20 * SECOND);
        // A chance streak at the very beginning, before the others have shown theirs, may cost one or two.
        let late = world.report.ejected.iter().filter(|&&(at, _)| at > SECOND / 5).count();
        assert_eq!(late, 0, "seed {seed}: {:?}", world.report.ejected);
    }
}

#[test]
fn at_most_half_are_out_and_more_makes_panic_of_it() {
    let traffic = policy(Algorithm::RoundRobin);
    let mut world = World::new(&traffic, &[MS; 6], 3_000, 0.0, 5);
    for machine in &mut world.machines[..3] {
        machine.failing = 1.0;
    }
    world.run(3 * SECOND);
    let out = || (0..6).filter(|&index| world.backend(index).is_ejected()).count();
    assert_eq!(out(), 3, "{:?}", world.report.ejected);
    // Two of the three that are left vanish: one of six would have to carry everything.
    let before: usize = world.machines[..3].iter().map(|machine| machine.served).sum();
    world.kill(4);
    world.kill(5);
    let until = world.now + SECOND;
    world.run(until);
    let after: usize = world.machines[..3].iter().map(|machine| machine.served).sum();
    assert!(after > before + 500, "ejections are ignored: {}", after - before);
}

#[test]
fn who_is_well_again_makes_room_for_who_is_not() {
    for seed in 0..20 {
        let mut traffic = policy(Algorithm::RoundRobin);
        (traffic.ejection.min_wait, traffic.ejection.max_wait) = (60 * SECOND, 60 * SECOND);
        let mut world = World::new(&traffic, &[MS; 3], 1_000, 1.0, seed);
        world.machines[0].failing = 1.0;
        world.run(SECOND);
        assert!(world.backend(0).is_ejected(), "seed {seed}");
        // It was something that passed. The next one's trouble is not, and only one of three may be out.
        world.machines[0].failing = 0.0;
        world.run(3 * SECOND);
        world.machines[1].failing = 1.0;
        world.run(5 * SECOND);
        let out = [0, 1, 2].map(|index| world.backend(index).is_ejected());
        assert_eq!(out, [false, true, false], "seed {seed}: {:?}", world.report.ejected);

        // One that is not well has its wait again, and is not asked without end.
        world.machines[2].failing = 1.0;
        let served = world.machines[1].served;
        world.run(25 * SECOND);
        let out = [0, 1, 2].map(|index| world.backend(index).is_ejected());
        assert_eq!(out, [false, true, false], "seed {seed}: {:?}", world.report.ejected);
        assert!(world.machines[1].served <= served + 1, "seed {seed}");
    }
}

#[test]
fn an_outlier_is_found_among_many_though_it_never_fails_in_a_row() {
    // 6 % of failures are made up for by the successes between; only the comparison shows them.
    let mut world = World::new(&policy(Algorithm::RoundRobin), &[MS; 8], 4_000, 0.0, 11);
    world.machines[6].failing = 0.06;
    world.run(12 * SECOND);
    assert!(world.report.ejected.iter().any(|&(_, index)| index == 6), "{:?}", world.report.ejected);
    assert!(world.report.ejected.iter().all(|&(_, index)| index == 6), "{:?}", world.report.ejected);
    let mut without = policy(Algorithm::RoundRobin);
    without.ejection.outliers.hosts = 0;
    let mut world = World::new(&without, &[MS; 8], 4_000, 0.0, 11);
    world.machines[6].failing = 0.06;
    world.run(12 * SECOND);
    assert_eq!(world.report.ejected, []);
}

#[test]
fn ejection_can_be_turned_off() {
    let mut traffic: Traffic = policy(Algorithm::RoundRobin);
    traffic.ejection.failures = 0;
    traffic.ejection.outliers.hosts = 0;
    let mut world = World::new(&traffic, &[MS; 8], 4_000, 0.0, 1);
    world.machines[0].failing = 1.0;
    world.run(5 * SECOND);
    assert_eq!(world.report.ejected, []);
}

#[test]
fn waits_grow_up_to_their_limit_and_differ_by_chance() {
    let mut world = World::new(&Traffic::default(), &[MS; 3], 1_000, 1.0, 2);
    world.machines[0].failing = 1.0;
    world.run(60 * SECOND);
    let ejected = world.backend(0).ejected().unwrap();
    assert!(ejected.times >= 5, "{ejected:?}");
    let until = ejected.probe_at;
    world.run(until);
    let wait = world.set.view(world.now).next().unwrap().1.probe_in.clone();
    assert!(wait.is_some());
    // Each probe of an endpoint that fails costs one call.
    let served = world.machines[0].served;
    world.run(until + 60 * SECOND);
    let probes = world.machines[0].served - served;
    assert!((6..=12).contains(&probes), "one in 6.4 to 8 seconds: {probes}");
}

/// A stream counts as a success at its first message, and breaks off later.
#[test]
fn streams_that_all_break_off_are_as_many_failures_and_no_success() {
    let mut world = World::new(&Traffic::default(), &[MS; 3], 100, 1.0, 3);
    world.run(SECOND);
    let ill = std::sync::Arc::clone(world.backend(1));
    let breaks_off = |n: u32| {
        let now = world.now + n * 100 * MS;
        assert!(ill.judge(now, Some(MS), Outcome::Success, false).is_none());
        ill.revoke(now).is_some()
    };
    let streams = (1..=20).find(|&n| breaks_off(n));
    assert_eq!(streams, Some(Traffic::default().ejection.failures), "as failures in a row do");
}
