//! The registrar against a registry that fails on demand, on a paused clock.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::sync::Arc;

use super::*;
use crate::testing::{Flaky, instance, name};
use crate::{Memory, Registry};

fn start(flaky: &Arc<Flaky>) -> Registrar {
    Registrar::start(flaky.clone(), instance("order", "a"), Config::default())
}

async fn listed(memory: &Memory) -> usize {
    memory.get(&name("order")).await.unwrap().len()
}

#[tokio::test(start_paused = true)]
async fn registers_and_stays_registered() {
    let flaky = Flaky::new();
    let registrar = start(&flaky);
    registrar.registered().await;
    for _ in 0..50 {
        sleep(Duration::from_secs(7)).await;
        assert_eq!(listed(&flaky.memory()).await, 1);
        assert!(registrar.state().borrow().is_registered());
    }
    registrar.shutdown().await;
    assert_eq!(listed(&flaky.memory()).await, 0);
    assert!(matches!(*registrar.state().borrow(), State::Stopped));
    registrar.shutdown().await;
}

#[tokio::test(start_paused = true)]
async fn an_outage_of_a_day_ends_in_a_registration() {
    let flaky = Flaky::new();
    let registrar = start(&flaky);
    registrar.registered().await;
    flaky.fail(true);
    let began = Instant::now();
    sleep(Duration::from_secs(24 * 3600)).await;
    let State::Retrying { since, failures, error } = registrar.state().borrow().clone() else {
        panic!("{:?}", registrar.state().borrow());
    };
    assert!(since.duration_since(began) < Duration::from_secs(6), "noticed within a renewal");
    assert!(failures > 5_000 && failures < 12_000, "{failures} attempts a day");
    assert!(error.is_retryable());
    assert_eq!(listed(&flaky.memory()).await, 0, "the lease ran out");

    flaky.fail(false);
    tokio::time::timeout(Duration::from_secs(16), registrar.registered())
        .await
        .expect("back within one back-off");
    assert_eq!(listed(&flaky.memory()).await, 1);
    assert!(flaky.faults() > 5_000);
}

#[tokio::test(start_paused = true)]
async fn a_registry_that_forgot_everything_is_full_again_within_a_renewal() {
    let flaky = Flaky::new();
    let registrar = start(&flaky);
    registrar.registered().await;
    flaky.restart();
    assert_eq!(listed(&flaky.memory()).await, 0);
    sleep(Duration::from_secs(5)).await;
    assert_eq!(listed(&flaky.memory()).await, 1);
    assert!(registrar.state().borrow().is_registered());
}

#[tokio::test(start_paused = true)]
async fn even_a_refusal_is_tried_again() {
    let flaky = Flaky::new();
    flaky.refuse(true);
    let registrar = start(&flaky);
    sleep(Duration::from_secs(3600)).await;
    let refused = registrar.state().borrow().clone();
    assert!(matches!(refused, State::Retrying { error: Error::Invalid(_), .. }), "{refused:?}");
    flaky.refuse(false);
    tokio::time::timeout(Duration::from_secs(16), registrar.registered()).await.expect("registered");
}

#[tokio::test(start_paused = true)]
async fn a_registry_that_hangs_is_an_error_and_shutdown_is_bounded() {
    let flaky = Flaky::new();
    flaky.hang(true);
    let registrar = start(&flaky);
    sleep(Duration::from_secs(6)).await;
    let hung = registrar.state().borrow().clone();
    assert!(matches!(hung, State::Retrying { error: Error::Unavailable { .. }, .. }), "{hung:?}");
    let began = Instant::now();
    registrar.shutdown().await;
    assert!(began.elapsed() <= Config::default().shutdown_timeout + Duration::from_millis(10));
}

#[tokio::test(start_paused = true)]
async fn a_dropped_registrar_deregisters() {
    let flaky = Flaky::new();
    let registrar = start(&flaky);
    registrar.registered().await;
    drop(registrar);
    sleep(Duration::from_millis(1)).await;
    assert_eq!(listed(&flaky.memory()).await, 0);
}

#[tokio::test(start_paused = true)]
async fn an_abandoned_registration_is_left_to_its_lease() {
    let flaky = Flaky::new();
    let registrar = start(&flaky);
    registrar.registered().await;
    let state = registrar.state();
    registrar.abandon();
    sleep(Duration::from_secs(9)).await;
    assert_eq!(listed(&flaky.memory()).await, 1);
    assert!(state.has_changed().is_err(), "its task has ended");
    sleep(Duration::from_secs(7)).await;
    assert_eq!(listed(&flaky.memory()).await, 0);
}
