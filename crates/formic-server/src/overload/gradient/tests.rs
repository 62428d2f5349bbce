//! The limit against models of services. Time is a number here, so every run is the same.

use std::collections::BTreeMap;

use super::*;

const MS: Duration = Duration::from_millis(1);
const CONFIG: Config = Config { floor: 4, ceiling: 10_000 };

/// A service with callers, as far as the limit sees them.
struct Model {
    gradient: Gradient,
    now: Duration,
    random: fastrand::Rng,
    /// Calls that are worked on, by when they end.
    working: BTreeMap<(Duration, u64), Sample>,
    number: u64,
    /// Milliseconds in which somebody found no room.
    bound: u64,
}

impl Model {
    fn new(methods: usize) -> Self {
        Self {
            gradient: Gradient::new(CONFIG, methods),
            now: Duration::from_secs(1000),
            random: fastrand::Rng::with_seed(7),
            working: BTreeMap::new(),
            number: 0,
            bound: 0,
        }
    }

    /// Callers who want so many calls in flight, and make so many new ones in a millisecond at most. The model
    /// says which method is called, and how many milliseconds it takes.
    fn run(
        &mut self,
        span: Duration,
        wanted: usize,
        per_ms: u32,
        mut model: impl FnMut(&mut fastrand::Rng, usize) -> (usize, f64),
    ) {
        let end = self.now + span;
        while self.now < end {
            self.now += MS;
            while let Some(ended) = self.working.first_entry().filter(|call| call.key().0 <= self.now) {
                let sample = ended.remove();
                self.gradient.sample(self.now, sample);
            }
            let mut bound = false;
            for _ in 0..per_ms {
                if self.working.len() >= wanted {
                    break;
                }
                if self.working.len() >= self.gradient.limit() {
                    self.gradient.bound();
                    bound = true;
                    break;
                }
                let found = self.working.len() + 1;
                let (method, millis) = model(&mut self.random, found);
                let took = Duration::from_secs_f64(millis / 1000.0);
                let sample = Sample { method, began: self.now, took, found, finished: true };
                self.number += 1;
                self.working.insert((self.now + took, self.number), sample);
            }
            self.bound += u64::from(bound);
        }
    }

    fn unlimited(&self) -> bool {
        self.gradient.limit() == CONFIG.ceiling
    }
}

/// So many workers, and a queue inside that the limit cannot see.
fn workers(workers: f64, millis: f64) -> impl Fn(&mut fastrand::Rng, usize) -> (usize, f64) {
    move |random, found| {
        let spread = 0.5 + random.f64();
        (0, millis * spread + millis * (found as f64 / workers - 1.0).max(0.0))
    }
}

const SECOND: Duration = Duration::from_secs(1);

#[test]
fn a_service_that_is_slow_by_nature_is_never_limited() {
    for millis in [3.0, 300.0, 900.0, 5_000.0, 30_000.0] {
        let mut model = Model::new(1);
        for offered in [1, 10, 500, 9_000, 3, 9_000] {
            model.run(20 * SECOND, offered, 2, |_, _| (0, millis));
        }
        assert!(model.unlimited() && model.bound == 0, "{millis} ms: {}", model.gradient.limit());
    }
}

#[test]
fn a_service_with_little_to_do_is_never_limited() {
    // However its latency jumps about.
    let mut model = Model::new(1);
    for millis in [1.0, 400.0, 2.0, 90.0, 1.0] {
        model.run(10 * SECOND, 4, 1, |_, _| (0, millis));
    }
    assert!(model.unlimited());
    // Nor one of which next to nothing is known.
    let mut model = Model::new(1);
    model.run(20 * MS, 5_000, 1, |_, _| (0, 900.0));
    assert!(model.unlimited());
}

#[test]
fn heavy_tails_are_no_evidence() {
    for seed in 0..20 {
        let mut model = Model::new(1);
        model.random = fastrand::Rng::with_seed(seed);
        // One in fifty takes a hundred times as long.
        let tail = |random: &mut fastrand::Rng, _: usize| (0, if random.u8(..50) == 0 { 500.0 } else { 5.0 });
        model.run(120 * SECOND, 60, 1, tail);
        assert!(model.bound < 1_200, "seed {seed}: bound for {} ms of 120,000", model.bound);
    }
}

#[test]
fn a_change_in_the_mix_of_methods_is_no_evidence() {
    let mut model = Model::new(2);
    let mix = |slow: u8| {
        move |random: &mut fastrand::Rng, _: usize| {
            if random.u8(..100) < slow { (1, 200.0) } else { (0, 2.0) }
        }
    };
    model.run(10 * SECOND, 50, 2, mix(20));
    for slow in [1, 99, 1, 99, 50] {
        model.run(10 * SECOND, 500, 2, mix(slow));
    }
    assert!(model.unlimited() && model.bound == 0);
}

#[test]
fn a_queue_inside_is_found_and_kept_short() {
    let mut model = Model::new(1);
    model.run(10 * SECOND, 6, 5, workers(8.0, 10.0));
    assert!(model.unlimited());
    model.run(6 * SECOND, 400, 5, workers(8.0, 10.0));
    let mut limits = Vec::new();
    for _ in 0..600 {
        model.run(100 * MS, 400, 5, workers(8.0, 10.0));
        limits.push(model.gradient.limit());
    }
    // Enough for the workers and little more, for a minute. While it probes it may be less.
    let fit = limits.iter().filter(|limit| (8..=16).contains(*limit)).count();
    assert!(fit > 550, "{limits:?}");
    assert!(limits.iter().all(|limit| (4..=20).contains(limit)), "{limits:?}");
}

#[test]
fn a_start_under_overload_finds_its_way() {
    // Nobody ever saw the service at ease: the backlog is there from the first moment, or grows from it.
    for per_ms in [1, 2, 100] {
        let mut model = Model::new(1);
        model.run(30 * SECOND, 400, per_ms, workers(8.0, 10.0));
        let limit = model.gradient.limit();
        assert!((8..=16).contains(&limit), "{per_ms}: {limit}");
    }
}

#[test]
fn a_dependency_that_turns_slow_is_not_taken_for_overload() {
    let mut model = Model::new(1);
    model.run(10 * SECOND, 20, 1, |_, _| (0, 20.0));
    // Ten times as slow, ten times as many in flight; and letting in fewer would not make it quicker.
    model.run(60 * SECOND, 200, 1, |_, _| (0, 200.0));
    assert!(model.unlimited(), "{}", model.gradient.limit());
    assert!(model.bound < 1_500, "turned away for {} ms", model.bound);
    model.run(60 * SECOND, 20, 1, |_, _| (0, 20.0));
    assert!(model.unlimited());
}

#[test]
fn when_the_overload_is_over_the_limit_goes_away() {
    let mut model = Model::new(1);
    model.run(5 * SECOND, 6, 1, workers(8.0, 10.0));
    model.run(10 * SECOND, 400, 5, workers(8.0, 10.0));
    let limited = model.gradient.limit();
    assert!(limited < 25, "{limited}");
    model.run(90 * SECOND, 6, 1, workers(8.0, 10.0));
    assert!(model.unlimited(), "{}", model.gradient.limit());
}

#[test]
fn calls_that_are_given_up_count_for_as_long_as_they_took() {
    let mut model = Model::new(1);
    model.run(5 * SECOND, 6, 1, workers(8.0, 10.0));
    // Nobody waits for the end any more: 300 ms are all that is ever seen.
    for _ in 0..3_000 {
        model.now += MS;
        let found = 300.min(model.gradient.limit());
        let (_, millis) = workers(8.0, 10.0)(&mut model.random, found);
        let took = Duration::from_secs_f64(millis.min(300.0) / 1000.0);
        let sample = Sample { method: 0, began: model.now - took, took, found, finished: millis < 300.0 };
        if model.gradient.limit() < 300 {
            model.gradient.bound();
        }
        model.gradient.sample(model.now, sample);
    }
    assert!(model.gradient.limit() < 25, "{}", model.gradient.limit());
    // And those who leave early say nothing at all.
    let mut model = Model::new(1);
    model.run(5 * SECOND, 6, 1, |_, _| (0, 100.0));
    for _ in 0..3_000 {
        model.now += MS;
        let sample = Sample { method: 0, began: model.now - MS, took: MS, found: 500, finished: false };
        model.gradient.sample(model.now, sample);
    }
    model.run(5 * SECOND, 500, 1, |_, _| (0, 100.0));
    assert!(model.unlimited());
}

#[test]
fn a_few_calls_that_are_slow_by_nature_are_no_queue() {
    for seed in 0..20 {
        for share in [0.002, 0.01, 0.05] {
            let mut model = Model::new(1);
            model.random = fastrand::Rng::with_seed(seed);
            // A handful of callers, most of whom are waiting for one of the slow ones at any moment.
            model.run(Duration::from_secs(60), 8, 2, |random, _| {
                (0, if random.f64() < share { 2000.0 } else { 1.0 + random.f64() })
            });
            assert_eq!(model.bound, 0, "seed {seed}, {share}: down to {}", model.gradient.limit());
        }
    }
}
