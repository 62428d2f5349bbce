//! Scene 6: three services deep, the last of which fails everything.

use formic_balance::Traffic;
use formic_server::Config;

use crate::town::*;

/// Attempts at each of the three for each call.
pub(crate) async fn storm(town: &mut Town, traffic: &Traffic, rate: f64) -> Vec<f64> {
    let mut depths = Vec::new();
    let services = ["first", "second", "third"];
    for (depth, service) in services.into_iter().enumerate() {
        let mut replicas = Vec::new();
        for _ in 0..2 {
            let next = services.get(depth + 1).map(|next| town.client(service, traffic.clone()).of(next));
            let worker = Worker { next, ..Worker::taking(2 * MS) };
            replicas.push(town.start(service, worker, Config::default()).await);
        }
        depths.push(replicas);
    }
    for replica in &depths[2] {
        replica.worker.fail(1000);
    }
    let channel = town.client("web", traffic.clone()).of("first");
    let calls = Load::reads(rate, 8 * SECOND).on(&channel).await;
    assert_eq!(failed(&calls, |_| true), calls.len(), "seed {}", town.seed);
    let attempts = |replicas: &Vec<Replica>| replicas.iter().map(|one| one.worker.attempts()).sum::<usize>();
    depths.iter().map(|replicas| attempts(replicas) as f64 / calls.len() as f64).collect()
}

#[tokio::test(start_paused = true)]
async fn a_storm_three_services_deep_does_not_multiply() {
    // The few of each client do not come on top of its share.
    let rates = [150.0, 300.0, 600.0].into_iter().cycle();
    for ((seed, policy), rate) in seeds().zip(rates) {
        let attempts = storm(&mut Town::new(seed), &self::policy(policy), rate).await;
        let what = format!("{policy:?}, {rate}/s, seed {seed}: {attempts:?}");
        assert_eq!(attempts[..2], [1.0, 1.0], "what was repeated is not repeated above: {what}");
        assert!(attempts[2] > 1.1 && attempts[2] <= 1.25, "{what}");
    }
    let mut lavish = Traffic::default();
    lavish.budget.ratio = 1.0;
    let attempts = storm(&mut Town::new(0), &lavish, 600.0).await;
    assert!(attempts[2] > 1.5, "without a budget each call is made again: {attempts:?}");
}
