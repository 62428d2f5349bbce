//! Scenes 1 to 3: an instance that is slow, one that fails, one that is gone.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use formic_balance::{Algorithm, State, Traffic};
use formic_core::ServiceName;
use formic_registry::Registry;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

use crate::town::*;

/// What became of one of ten that was ten times slower.
pub(crate) struct Slow {
    /// The tail with all healthy, and with the slow one.
    healthy: Duration,
    ill: Duration,
    /// Of the calls that it got then.
    share: f64,
}

pub(crate) async fn slow(town: &mut Town, policy: Algorithm) -> Slow {
    let replicas = town.several("slow", 10, 20 * MS).await;
    let channel = town.client("web", crate::town::policy(policy)).of("slow");
    Load::reads(300.0, 2 * SECOND).on(&channel).await;
    let healthy = Load::reads(300.0, 6 * SECOND).on(&channel).await;
    replicas[3].worker.take(200 * MS);
    let before = replicas[3].worker.attempts();
    let ill = Load::reads(300.0, 6 * SECOND).on(&channel).await;
    let share = (replicas[3].worker.attempts() - before) as f64 / ill.len() as f64;
    assert_eq!(failed(&healthy, |_| true) + failed(&ill, |_| true), 0, "{policy:?}, seed {}", town.seed);
    Slow { healthy: p99(&healthy), ill: p99(&ill), share }
}

#[tokio::test(start_paused = true)]
async fn a_slow_one_of_ten_does_not_show_in_the_tail() {
    for (seed, policy) in seeds() {
        let Slow { healthy, ill, share } = slow(&mut Town::new(seed), policy).await;
        let what = format!("{policy:?}, seed {seed}: {healthy:?} → {ill:?}, {share}");
        match policy {
            Algorithm::P2c => assert!(ill <= healthy.mul_f64(1.3) && share < 0.01, "{what}"),
            // Whoever goes by the work in flight spares it, but a call in a hundred is the tail.
            Algorithm::LeastRequest | Algorithm::Hash => assert!(share < 0.04, "{what}"),
            // They see nothing; did they hold the limit, the scene would show nothing.
            _ => assert!(ill > healthy * 3 && share > 0.07, "{what}"),
        }
    }
}

/// What became of one of three that failed half of its calls.
pub(crate) struct Flaky {
    failed_share: f64,
    ejected_after: Option<Duration>,
    back_after: Option<Duration>,
}

pub(crate) async fn flaky(town: &mut Town, traffic: Traffic) -> Flaky {
    let replicas = town.several("flaky", 3, 10 * MS).await;
    let client = town.client("web", traffic);
    let channel = client.of("flaky");
    let name = ServiceName::new("flaky").unwrap();
    let id = replicas[1].id.to_string();
    // When it was seen to be out, and in.
    let seen: Arc<Mutex<Vec<(Instant, bool)>>> = Arc::default();
    let mut looking = JoinSet::new();
    let (looks, viewed) = (Arc::clone(&seen), client.clone());
    looking.spawn(async move {
        loop {
            sleep(20 * MS).await;
            let view = viewed.traffic(&name).endpoints.into_iter().find(|one| one.instance == id);
            let out = view.is_some_and(|view| matches!(view.state, State::Ejected | State::Probing));
            looks.lock().unwrap().push((Instant::now(), out));
        }
    });
    Load::reads(200.0, SECOND).on(&channel).await;
    let broken = Instant::now();
    replicas[1].worker.fail(500);
    let mut calls = Load::reads(200.0, 5 * SECOND).on(&channel).await;
    let healed = Instant::now();
    replicas[1].worker.fail(0);
    calls.extend(Load::reads(200.0, 11 * SECOND).on(&channel).await);
    looking.abort_all();
    let seen = seen.lock().unwrap();
    let first = seen.iter().find(|(at, out)| *at >= broken && *out).map(|(at, _)| *at - broken);
    let last = seen.iter().rposition(|(_, out)| *out);
    let back = last.and_then(|last| seen.get(last + 1)).map(|(at, _)| at.saturating_duration_since(healed));
    Flaky {
        failed_share: failed(&calls, |_| true) as f64 / calls.len() as f64,
        ejected_after: first,
        back_after: back,
    }
}

#[tokio::test(start_paused = true)]
async fn a_flaky_one_of_three_is_ejected_within_a_second_and_back_within_ten() {
    for (seed, policy) in seeds() {
        let found = flaky(&mut Town::new(seed), crate::town::policy(policy)).await;
        let what = format!("{policy:?}, seed {seed}");
        assert!(found.failed_share <= 0.001, "{what}: {}", found.failed_share);
        assert!(
            found.ejected_after.is_some_and(|after| after <= SECOND),
            "{what}: {:?}",
            found.ejected_after
        );
        assert!(found.back_after.is_some_and(|after| after <= 10 * SECOND), "{what}: {:?}", found.back_after);
    }
    let mut patient = policy(Algorithm::RoundRobin);
    patient.ejection.failures = 0;
    patient.retry.repeats = 0;
    let found = flaky(&mut Town::new(0), patient).await;
    assert!(found.ejected_after.is_none() && found.failed_share > 0.03, "{}", found.failed_share);
}

/// One of three is gone from one moment to the next and stays in the registry; its successor comes later.
/// Gives back failed calls that may be repeated, others that failed, of these those that were not on their way
/// there, and the share of its successor in the end.
pub(crate) async fn killed(town: &mut Town, traffic: Traffic) -> (usize, usize, u32, f64) {
    let seed = town.seed;
    let mut replicas = town.several("killed", 3, 20 * MS).await;
    let client = town.client("web", traffic);
    let channel = client.of("killed");
    let mixed = |span| Load { rate: 200.0, span, writes: 0.4, important: 0.0 };
    mixed(2 * SECOND).on(&channel).await;
    let load = {
        let channel = channel.clone();
        let mut load = JoinSet::new();
        load.spawn(async move { mixed(4 * SECOND).on(&channel).await });
        load
    };
    sleep(SECOND + 3 * MS).await;
    let victim = replicas.remove(1);
    let name = ServiceName::new("killed").unwrap();
    let view = client.traffic(&name).endpoints;
    let in_flight = view.iter().find(|one| one.instance == victim.id.as_str()).unwrap().in_flight;
    let killed = Instant::now();
    drop(victim.running);
    let calls = load.join_all().await.pop().unwrap();
    let later = |call: &Seen| call.began > killed || call.began + call.took < killed;
    assert_eq!(
        failed(&calls, |call| !call.idempotent && later(call)),
        0,
        "seed {seed}: not on its way there"
    );
    town.registry.deregister(&victim.id).await.unwrap();
    let successor = town.several("killed", 1, 20 * MS).await.remove(0);
    Load { rate: 60.0, ..mixed(10 * SECOND) }.on(&channel).await;
    let before = successor.worker.attempts();
    let last = mixed(4 * SECOND).on(&channel).await;
    let share = (successor.worker.attempts() - before) as f64 / last.len() as f64;
    let (reads, others) = (failed(&calls, |call| call.idempotent), failed(&calls, |call| !call.idempotent));
    // Who begins in the very moment of the kill may find the connection sooner than its end does.
    let same = failed(&calls, |call| !call.idempotent && call.began == killed);
    (reads, others - same, in_flight, share)
}

#[tokio::test(start_paused = true)]
async fn a_kill_costs_no_idempotent_call_and_of_the_others_those_on_their_way() {
    for (seed, policy) in seeds() {
        let (reads, others, in_flight, share) =
            killed(&mut Town::new(seed), crate::town::policy(policy)).await;
        let what = format!("{policy:?}, seed {seed}");
        assert_eq!(reads, 0, "{what}");
        assert!(others <= in_flight as usize, "{what}: {others} of {in_flight}");
        assert!(share > 0.2, "{what}: its successor gets {share}");
    }
    let mut once = Traffic::default();
    once.retry.repeats = 0;
    let mut reads = 0;
    for seed in 0..12 {
        reads += killed(&mut Town::new(seed), once.clone()).await.0;
        if reads > 0 {
            break;
        }
    }
    assert!(reads > 0, "without repetition the kill shows");
}
