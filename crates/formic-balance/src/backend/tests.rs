//! What is learnt of an endpoint, call by call.

use super::*;

const MS: Duration = Duration::from_millis(1);

fn backend(prior: Duration) -> Backend {
    Backend::new(InstanceId::new("a"), prior, Duration::ZERO, Arc::default(), Board::default().place(0))
}

fn near(a: Duration, b: Duration) -> bool {
    (a.as_secs_f64() / b.as_secs_f64() - 1.0).abs() < 0.01
}

#[test]
fn failures_grow_within_bounds_and_a_fast_failure_is_not_fast() {
    let backend = backend(Duration::ZERO);
    let fast = Some(Duration::from_micros(50));
    let fail = |took| backend.learn(MS, took, Outcome::Failure, false);
    fail(fast);
    assert!(near(backend.latency(MS), 4 * FLOOR));
    fail(fast);
    assert!(near(backend.latency(MS), 16 * FLOOR));
    for _ in 0..20 {
        fail(fast);
    }
    assert!(near(backend.latency(MS), FAILURE));
    for _ in 0..3 {
        fail(Some(5 * FAILURE));
    }
    assert!(near(backend.latency(MS), 5 * FAILURE), "a slow failure is at least slow");
    assert_eq!(backend.success_rate(MS), (Some(0.0), 25));
}

#[test]
fn push_back_counts_as_latency_within_its_cap_and_is_no_failure() {
    let backend = backend(2 * FAILURE);
    let reject = |after| backend.learn(MS, Some(MS), Outcome::Rejected { after }, false);
    reject(Some(3 * FAILURE));
    assert!(near(backend.latency(MS), 3 * FAILURE));
    reject(Some(900 * FAILURE));
    assert!(near(backend.latency(MS), PUSH_BACK));
    assert!(!backend.is_suspect());
    assert_eq!(backend.success_rate(MS), (None, 0));
}

#[test]
fn giving_up_early_says_nothing_and_giving_up_late_does() {
    let backend = backend(10 * MS);
    backend.abandoned(MS, 5 * MS, false);
    assert!(backend.latency(MS) < 11 * MS);
    backend.abandoned(MS, 30 * MS, false);
    assert!(near(backend.latency(MS), 30 * MS));
}

#[test]
fn cost_grows_with_what_is_in_flight_and_with_small_weights() {
    let backend = backend(Duration::ZERO);
    let idle = backend.cost(MS);
    assert!(idle > 0.0, "an unknown endpoint is cheap, not free");
    backend.begin();
    backend.begin();
    assert!((backend.cost(MS) / idle - 3.0).abs() < 1e-3);
    backend.end();
    backend.end();
    assert_eq!(backend.in_flight(), 0);
    backend.set_weight(0.5);
    assert!((backend.cost(MS) / idle - 2.0).abs() < 1e-3);
}

#[test]
fn a_suspect_is_tried_at_intervals_and_cleared_by_successes() {
    let backend = backend(MS);
    assert!(!backend.take_trial(90 * MS));
    backend.learn(100 * MS, Some(MS), Outcome::Failure, false);
    assert!(backend.is_suspect() && backend.take_trial(100 * MS));
    assert!(!backend.take_trial(110 * MS), "not so soon");
    assert!(backend.take_trial(120 * MS));
    backend.abandoned(125 * MS, 5 * MS, false);
    assert!(!backend.take_trial(1_125 * MS), "it told nothing, and so would the next at once");
    assert!(backend.take_trial(1_150 * MS));
    for _ in 0..FAILED {
        backend.learn(1_160 * MS, Some(MS), Outcome::Success, false);
    }
    assert!(!backend.is_suspect() && !backend.take_trial(1_300 * MS));
}
