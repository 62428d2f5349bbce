//! The storm in small, as every run of the tests sees it; `cargo xtask bench wire` makes ten million calls and kills both ends.
#![expect(clippy::unwrap_used, clippy::print_stdout, reason = "a test may panic, and says what it saw")]

use std::collections::BTreeMap;
use std::time::Duration;

use formic::Endpoint;
use formic_bench::storm::{self, Plan, server::Storm};

const CALLS: u64 = 100_000;

/// How much of each there must be in a storm, on the average of them, for it to be one, and not a calm in which nothing can go
/// wrong.
const EACH: [(&str, u64); 5] = [
    ("answered", CALLS / 4),
    ("canceled", CALLS / 100),
    ("collected", CALLS / 100),
    ("spread", CALLS / 100),
    ("chatted", CALLS / 100),
];

/// What must have been at all.
const ONCE: [&str; 3] = ["late", "cut", "silent"];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_call_hangs_and_no_answer_goes_astray() {
    let storm = Storm::default();
    let (running, endpoint) = storm.serve(&"127.0.0.1:0".parse().unwrap()).await.unwrap();
    let Endpoint::Tcp(at) = endpoint else { panic!("TCP was asked for") };
    // The weather is by chance: so many storms at most, until there was every kind of it.
    let mut weather = BTreeMap::<&str, u64>::new();
    for storms in 1..=6 {
        let seed = 6 + storms;
        let plan = Plan { calls: CALLS, callers: 256, seed };
        let limit = Duration::from_secs(120);
        let said = tokio::time::timeout(limit, storm::run(at, plan, true)).await.expect("it ends").unwrap();
        println!("{said}");
        let seen: serde_json::Value = serde_json::from_str(&said).unwrap();
        assert!(seen["answered"].as_u64() > Some(CALLS / 10), "{said}");
        for kind in EACH.map(|(kind, _)| kind).into_iter().chain(ONCE) {
            *weather.entry(kind).or_default() += seen[kind].as_u64().unwrap();
        }
        let enough = EACH.iter().all(|(kind, each)| weather[kind] > each * storms);
        if enough && ONCE.iter().all(|kind| weather[kind] > 0) {
            break;
        }
        assert!(storms < 6, "there was too little of it in {storms} storms: {weather:?}");
    }
    // Whoever gave up is known to the server, whose handlers are gone.
    let gone = async {
        while storm.open() > 0 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    // Silent connections are found by the server's own pings, at the latest.
    tokio::time::timeout(Duration::from_secs(45), gone).await.expect("every handler ends");
    assert_eq!(running.stop(Duration::from_secs(10)).await, 0);
}
