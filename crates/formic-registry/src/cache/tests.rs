//! The cache against a registry that fails on demand, on a paused clock.
#![allow(clippy::unwrap_used, reason = "tests")]

use super::*;
use crate::Registry;
use crate::testing::{Flaky, instance, name};

const LONG: Duration = Duration::from_secs(36_000);

async fn add(flaky: &Flaky, id: &str) {
    flaky.memory().register(instance("order", id), LONG).await.unwrap();
}

/// Lets the cache's tasks take what is there.
async fn settle_down() {
    sleep(Duration::from_millis(1)).await;
}

fn ids(handle: &Instances) -> Vec<String> {
    handle.current().iter().map(|instance| instance.id.to_string()).collect()
}

#[tokio::test(start_paused = true)]
async fn follows_a_healthy_registry_to_the_empty_set() {
    let flaky = Flaky::new();
    let cache = Cache::new(flaky.clone());
    let mut order = cache.instances(&name("order"));
    assert!(!order.view().known, "nothing is known before the first answer");
    assert!(order.first().await.unwrap().known);
    add(&flaky, "a").await;
    assert_eq!(order.available().await.unwrap().instances.len(), 1);
    flaky.memory().deregister(&instance("order", "a").id).await.unwrap();
    order.changed().await.unwrap();
    assert!(ids(&order).is_empty() && order.view().known);
}

#[tokio::test(start_paused = true)]
async fn an_outage_keeps_the_set_and_a_forgetful_registry_is_doubted() {
    let flaky = Flaky::new();
    add(&flaky, "a").await;
    let cache = Cache::new(flaky.clone());
    let mut order = cache.instances(&name("order"));
    order.available().await.unwrap();

    flaky.fail(true);
    sleep(Duration::from_secs(3600)).await;
    assert_eq!(ids(&order), ["a"]);
    let stale = order.view().stale.expect("stale");
    assert!(stale.age() > Duration::from_secs(3590), "{:?}", stale.age());
    assert!(flaky.faults() > 100, "the cache never stops trying");

    flaky.restart();
    flaky.fail(false);
    sleep(Config::default().max_backoff).await;
    assert!(order.view().stale.is_none(), "connected again");
    assert_eq!(ids(&order), ["a"], "not listed yet, and kept");
    sleep(Config::default().settle).await;
    assert!(ids(&order).is_empty(), "not listed after the settling time");
    drop(cache);
}

#[tokio::test(start_paused = true)]
async fn a_registry_away_from_the_start_is_said_to_be() {
    let flaky = Flaky::new();
    flaky.fail(true);
    let cache = Cache::new(flaky.clone());
    let mut order = cache.instances(&name("order"));
    let view = order.first().await.unwrap();
    assert!(!view.known && view.stale.is_some());
    add(&flaky, "a").await;
    flaky.fail(false);
    assert_eq!(order.available().await.unwrap().instances.len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_registry_that_hangs_counts_as_away() {
    let flaky = Flaky::new();
    flaky.hang(true);
    let cache = Cache::new(flaky.clone());
    let view = cache.instances(&name("order")).first().await.unwrap();
    assert!(!view.known && view.stale.is_some());
}

#[tokio::test(start_paused = true)]
async fn one_task_per_service_which_ends_when_unused() {
    let flaky = Flaky::new();
    let cache = Cache::new(flaky.clone());
    let (one, two) = (cache.instances(&name("order")), cache.instances(&name("order")));
    settle_down().await;
    assert_eq!(cache.0.tasks.len(), 1);
    drop(one);
    sleep(Duration::from_secs(600)).await;
    assert_eq!(cache.0.tasks.len(), 1);
    drop(two);
    sleep(Duration::from_secs(10)).await;
    let three = cache.instances(&name("order"));
    sleep(Duration::from_secs(600)).await;
    assert_eq!(cache.0.tasks.len(), 1, "it came back in time");
    add(&flaky, "a").await;
    settle_down().await;
    assert_eq!(ids(&three), ["a"]);
    drop(three);
    sleep(Duration::from_secs(60)).await;
    assert_eq!(cache.0.tasks.len(), 0);
    let four = cache.instances(&name("order"));
    settle_down().await;
    assert_eq!(ids(&four), ["a"], "and it starts again");
}

#[tokio::test(start_paused = true)]
async fn shutdown_joins_and_handles_keep_what_they_knew() {
    let flaky = Flaky::new();
    add(&flaky, "a").await;
    let cache = Cache::new(flaky.clone());
    let mut order = cache.instances(&name("order"));
    order.available().await.unwrap();
    cache.shutdown().await;
    assert_eq!(ids(&order), ["a"]);
    assert!(order.changed().await.is_none());
}
