//! Services that fail: restarted with back-off, and shown as what they are.

use std::time::Duration;

use formic_e2e::{App, Manifest, Signal, alive, signal};
use serde_json::Value;

const SOON: Duration = Duration::from_secs(60);

fn row(line: &Value, name: &str) -> Option<Value> {
    line["services"].as_array()?.iter().find(|service| service["name"] == name).cloned()
}

#[test]
fn a_crash_is_told_and_mended() {
    // Long enough for it to be seen: what is told is the newest of all, and not each.
    let shop = Manifest::shop().set("service.product", "restart", "{ delay = \"3s\" }");
    let mut app = App::start(&shop);
    let before = app.pid_of("product");
    assert!(signal(before, Signal::KILL));
    let notice = app.wait_told("the crash to be told", SOON, |line| {
        line["service"] == "product" && line["notice"].as_str().is_some_and(|text| !text.is_empty())
    });
    assert!(notice["notice"].as_str().unwrap().contains("ended"), "{notice}");
    app.wait_told("product to be in back-off", SOON, |line| {
        row(line, "product")
            .is_some_and(|row| row["state"] == "backoff" && row["instances"][0]["state"] == "backoff")
    });
    let after = app.wait_restarted("product", before);
    assert!(!alive(before) && alive(after));
    let row = app.service("product");
    assert_eq!(row["instances"][0]["restarts"], 1, "{row}");
    assert!(row["instances"][0]["last_exit"].as_str().is_some_and(|exit| exit.contains("9")), "{row}");
    let table = app.formic(&["status"]);
    assert!(table.stdout.contains("(1 restart)"), "{}", table.stdout);
    // The others went on, and find it again.
    let found = app.gateway().call("shop.product.v1.ProductService/Search", &serde_json::json!({}), None);
    assert!(found["products"].as_array().is_some_and(|all| !all.is_empty()));
    app.stop();
}

#[test]
fn restarts_wait_longer_each_time() {
    let command = ["sh", "-c", "date +%s%N; echo the disk is made of cheese >&2; exit 3"];
    let manifest =
        Manifest::program("crasher", &command).set("service.crasher", "restart", "{ delay = \"200ms\" }");
    let mut app = App::begin(&manifest);
    let told = app.wait_told("the fourth restart to have failed", SOON, |line| {
        row(line, "crasher").is_some_and(|row| {
            row["state"] == "backoff" && row["instances"][0]["restarts"].as_u64() >= Some(4)
        })
    });
    let row = row(&told, "crasher").unwrap();
    let reason = row["reason"].as_str().unwrap();
    assert!(reason.contains("code 3") && reason.contains("starts again in"), "{told}");
    let logs = app.formic(&["logs", "crasher", "--json"]).json_lines();
    let mut starts: Vec<u128> = logs
        .iter()
        .filter(|line| line["stream"].as_str().is_some_and(|stream| stream.contains("out")))
        .filter_map(|line| line["line"].as_str()?.parse().ok())
        .collect();
    starts.sort_unstable();
    assert!(starts.len() >= 4, "{logs:?}");
    let pauses: Vec<u128> = starts.windows(2).map(|pair| (pair[1] - pair[0]) / 1_000_000).collect();
    // Each is doubled, less a quarter by jitter at most, and a little for rounding. A busy machine makes any of them longer,
    // and none shorter.
    for (pause, floor) in pauses.iter().zip([140, 290, 590, 1190]) {
        assert!(*pause >= floor, "{pauses:?}");
    }
    let notice = app.told().into_iter().find(|line| line["notice"].is_string()).unwrap();
    assert!(notice["log"].to_string().contains("made of cheese"), "its last words are shown: {notice}");
    app.stop();
}

#[test]
fn an_exit_that_trying_again_cannot_mend_is_final() {
    let command = ["sh", "-c", "echo my settings are wrong >&2; exit 78"];
    let mut app = App::begin(&Manifest::program("misfit", &command));
    app.wait_told("it to have failed", SOON, |line| {
        row(line, "misfit").is_some_and(|row| row["state"] == "failed")
    });
    std::thread::sleep(Duration::from_millis(800));
    assert_eq!(app.service("misfit")["instances"][0]["restarts"], 0);
    app.stop();
}
