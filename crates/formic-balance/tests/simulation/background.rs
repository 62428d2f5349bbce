//! Failures that all endpoints have now and then: who goes bad among them is found at once, and nobody else is.

use std::sync::Arc;
use std::time::Duration;

use formic_balance::{Algorithm, Change, Choice, Outcome, Roster, Seat, Set, Traffic};

use crate::world::*;

/// Calls one after the other at a steady pace, each over as soon as it is made: nothing but who is picked and what
/// is learnt of it. `failing` is the share that an endpoint fails.
struct Lane {
    roster: Roster,
    set: Set,
    failing: Vec<f64>,
    dice: Dice,
    now: Duration,
    every: Duration,
    swept: Duration,
    /// Whom calls are for, one after the other.
    users: Vec<String>,
    ejected: Vec<(Duration, usize)>,
    served: Vec<u32>,
}

impl Lane {
    /// So many calls a second to each endpoint, on average.
    fn new(traffic: &Traffic, endpoints: usize, rate: u32, background: f64, seed: u64) -> Self {
        let mut roster = Roster::new();
        let instances = (0..endpoints).map(instance).collect();
        let set = roster.arrange(&instances, traffic, &Seat::default(), Duration::ZERO);
        Self {
            roster,
            set,
            failing: vec![background; endpoints],
            dice: Dice(seed),
            now: Duration::ZERO,
            every: SECOND / (rate * endpoints as u32),
            swept: Duration::ZERO,
            users: (0..512).map(|n| format!("user-{n}")).collect(),
            ejected: Vec::new(),
            served: vec![0; endpoints],
        }
    }

    fn run(&mut self, until: Duration, mut enough: impl FnMut(&Self) -> bool) {
        let mut user = 0u64;
        while self.now < until && !enough(self) {
            self.now += self.every;
            user += 1;
            let text = &self.users[(user.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 55) as usize];
            let choice = Choice {
                now: self.now,
                random: self.dice.next(),
                metadata: &|name| (name == "x-user").then_some(text.as_str()),
                usable: &|_| true,
                expendable: false,
            };
            let pick = self.set.pick(&choice).unwrap();
            let backend = Arc::clone(self.set.backend(pick.index));
            self.served[pick.index] += 1;
            let failed = self.dice.unit() < self.failing[pick.index];
            let outcome = if failed { Outcome::Failure } else { Outcome::Success };
            if backend.learn(self.now, Some(MS), outcome, pick.probe) == Some(Change::Ejected) {
                self.ejected.push((self.now, pick.index));
            }
            if self.now - self.swept >= SECOND {
                self.swept = self.now;
                for backend in self.roster.sweep(self.now) {
                    let is_it = |&index: &usize| self.set.backend(index).id() == backend.id();
                    self.ejected.push((self.now, (0..self.failing.len()).find(is_it).unwrap()));
                }
            }
        }
    }
}

const BACKGROUNDS: [f64; 4] = [0.0, 0.01, 0.03, 0.1];

#[test]
fn who_dies_among_endpoints_that_fail_now_and_then_is_out_within_a_second() {
    for (background, algorithm) in BACKGROUNDS.into_iter().flat_map(|b| Algorithm::ALL.map(|a| (b, a))) {
        for (endpoints, seed) in [(2, 1), (5, 3)] {
            let mut lane = Lane::new(&policy(algorithm), endpoints, 1_000, background, seed);
            // A long and good record.
            lane.run(11 * SECOND, |_| false);
            assert_eq!(lane.ejected, [], "{algorithm:?} of {endpoints} at {background}");
            lane.failing[0] = 1.0;
            let died = lane.now;
            lane.run(died + SECOND, |lane| !lane.ejected.is_empty());
            let found: Vec<_> = lane.ejected.iter().map(|&(_, index)| index).collect();
            assert_eq!(found, [0], "{algorithm:?} of {endpoints} at {background}");
        }
    }
}

#[test]
fn where_calls_are_few_it_is_the_calls_that_count() {
    for (background, most) in BACKGROUNDS.into_iter().zip([5, 12, 16, 32]) {
        for seed in 0..10 {
            let mut lane = Lane::new(&policy(Algorithm::RoundRobin), 3, 5, background, seed);
            lane.run(60 * SECOND, |_| false);
            assert_eq!(lane.ejected, [], "at {background}, seed {seed}");
            (lane.failing[0], lane.served[0]) = (1.0, 0);
            lane.run(120 * SECOND, |lane| !lane.ejected.is_empty());
            let (found, calls) = (lane.ejected.first().map(|&(_, index)| index), lane.served[0]);
            assert!(
                found == Some(0) && calls <= most,
                "at {background}, seed {seed}: {found:?} after {calls}"
            );
        }
    }
}

#[test]
fn nobody_is_out_for_what_all_have_in_ten_minutes() {
    let each = |(rate, endpoints, algorithm)| {
        BACKGROUNDS[1..].iter().map(move |&background| (rate, endpoints, algorithm, background))
    };
    let few = [
        (5, 3, Algorithm::RoundRobin),
        (5, 8, Algorithm::P2c),
        (50, 10, Algorithm::P2c),
        (50, 6, Algorithm::RoundRobin),
    ];
    let many = [(1_000, 2, Algorithm::RoundRobin, 0.01), (1_000, 2, Algorithm::P2c, 0.1)];
    for (rate, endpoints, algorithm, background) in few.into_iter().flat_map(each).chain(many) {
        let mut lane = Lane::new(&policy(algorithm), endpoints, rate, background, 17);
        lane.run(600 * SECOND, |_| false);
        assert_eq!(lane.ejected, [], "{algorithm:?} at {background}, {rate} calls a second");
    }
}

#[test]
fn who_fails_half_is_out_soon_among_others_that_fail_a_little() {
    for (background, seed) in
        BACKGROUNDS.into_iter().flat_map(|background| [(background, 5), (background, 6)])
    {
        let mut lane = Lane::new(&policy(Algorithm::RoundRobin), 3, 1_000, background, seed);
        lane.run(12 * SECOND, |_| false);
        lane.failing[1] = 0.5;
        let fell_ill = lane.now;
        lane.run(fell_ill + SECOND, |lane| !lane.ejected.is_empty());
        let found: Vec<_> = lane.ejected.iter().map(|&(_, index)| index).collect();
        assert_eq!(found, [1], "at {background}");
    }
}

#[test]
fn a_service_that_falls_ill_at_once_after_a_long_record_loses_nobody() {
    for (endpoints, algorithm) in [2, 3, 10].into_iter().flat_map(|n| Algorithm::ALL.map(|a| (n, a))) {
        for seed in 0..3 {
            let mut lane = Lane::new(&policy(algorithm), endpoints, 200, 0.0, seed);
            lane.run(12 * SECOND, |_| false);
            lane.failing.fill(1.0);
            lane.run(20 * SECOND, |_| false);
            assert_eq!(lane.ejected, [], "{algorithm:?} of {endpoints}, seed {seed}");
        }
    }
}
