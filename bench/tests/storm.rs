//! The storm in small, as every run of the tests sees it; `cargo xtask bench wire` makes ten million calls and kills both ends.
#![expect(clippy::unwrap_used, clippy::print_stdout, reason = "a test may panic, and says what it saw")]

use std::time::Duration;

use formic::Endpoint;
use formic_bench::storm::{self, Plan, server::Storm};

const CALLS: u64 = 100_000;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_call_hangs_and_no_answer_goes_astray() {
    let storm = Storm::default();
    let (running, endpoint) = storm.serve(&"127.0.0.1:0".parse().unwrap()).await.unwrap();
    let Endpoint::Tcp(at) = endpoint else { panic!("TCP was asked for") };
    // The weather is by chance: so many storms at most, until there was every kind of it.
    let mut cut_and_silent = [0, 0];
    for seed in 7..13 {
        let plan = Plan { calls: CALLS, callers: 256, seed };
        let limit = Duration::from_secs(120);
        let said = tokio::time::timeout(limit, storm::run(at, plan, true)).await.expect("it ends").unwrap();
        println!("{said}");
        let seen: serde_json::Value = serde_json::from_str(&said).unwrap();
        let count = |name: &str| seen[name].as_u64().unwrap();
        // It was a storm, and not a calm in which nothing can go wrong.
        assert!(count("answered") > CALLS / 4 && count("canceled") > CALLS / 100, "{said}");
        assert!(count("late") > 0, "{said}");
        // All of it over the wire that this is about, and nothing failed but by the weather.
        assert!(count("requests_seen") >= count("answered") && count("http") == 0, "{said}");
        assert_eq!(count("other"), 0, "{said}");
        for kind in ["collected", "spread", "chatted"] {
            assert!(count(kind) > CALLS / 100, "{kind}: {said}");
        }
        cut_and_silent = [cut_and_silent[0] + count("cut"), cut_and_silent[1] + count("silent")];
        if cut_and_silent.iter().all(|times| *times > 0) {
            break;
        }
    }
    assert!(cut_and_silent.iter().all(|times| *times > 0), "cut and silent: {cut_and_silent:?}");
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
