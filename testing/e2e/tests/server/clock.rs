//! A clock that is set, forward and back, under a server: what is measured is not measured by it, and what is due by it is due
//! once.

use std::path::Path;
use std::time::Duration;

use formic_e2e::{Folder, Managed, Manifest, alive, wait_for, wait_until};
use serde_json::Value;

const SOON: Duration = Duration::from_secs(60);
const DAY_MS: i64 = 86_400_000;

/// A job that is due every second; one that is due every hour; a service that waits for an hour after it has ended, and one
/// that is given an hour to end.
const MANIFEST: &str = r#"
[app]
name = "clock"
[service.tick]
command = ["sh", "-c", "echo run >> lines"]
cron = { schedule = "* * * * * *", history = 100 }
[service.hourly]
command = ["sh", "-c", "echo run >> hourly"]
cron = { schedule = "0 0 * * * *", history = 100 }
[service.weary]
command = ["sh", "-c", "exit 3"]
health = { ready = "none" }
restart = { delay = "1h", max_delay = "1h" }
[service.deaf]
command = ["sh", "-c", "trap '' TERM; while :; do sleep 0.1; done"]
health = { ready = "none" }
stop = { grace = "1h" }
"#;

fn lines(folder: &Path, name: &str) -> usize {
    std::fs::read_to_string(folder.join(name)).unwrap_or_default().lines().count()
}

fn service(managed: &Managed, name: &str) -> Value {
    let status = managed.status();
    status["services"].as_array().unwrap().iter().find(|s| s["name"] == name).unwrap().clone()
}

/// The moments at which the runs of a job that was due by its schedule were due.
fn due(managed: &Managed, job: &str) -> Vec<i64> {
    let listed = managed.formic(&["runs", job, "--json"]).json();
    let runs = listed["runs"].as_array().unwrap();
    runs.iter().map(|run| run["due_unix_ms"].as_i64().unwrap()).collect()
}

#[test]
fn a_clock_that_is_set_ends_no_wait_and_makes_nothing_due_twice() {
    let apart = Folder::new("clock");
    let file = apart.write("off", "0");
    let managed = Managed::new(&Manifest::of(MANIFEST), &[("FORMIC_CLOCK_FILE", file.to_str().unwrap())]);
    let folder = managed.folder();
    managed.formic(&["apply"]).says(0, &[]);
    let more = |what: &str| {
        let before = lines(&folder, "lines");
        wait_until(what, SOON, || lines(&folder, "lines") >= before + 3);
    };
    more("runs before the clock is set");
    wait_until("the one to wait", SOON, || service(&managed, "weary")["state"] == "backoff");
    let deaf = wait_for("the other to run", SOON, || {
        managed.pids().into_iter().find(|(id, _)| id.starts_with("deaf-")).map(|(_, pid)| pid)
    });
    managed.formic(&["stop", "deaf"]).says(0, &[]);
    wait_until("the other to be ending", SOON, || service(&managed, "deaf")["state"] == "stopping");
    let is_calm = |when: &str| {
        let weary = service(&managed, "weary");
        assert_eq!(
            (&weary["state"], &weary["restarts"]),
            (&Value::from("backoff"), &Value::from(0)),
            "{when}"
        );
        assert!(alive(deaf) && service(&managed, "deaf")["state"] == "stopping", "{when}");
    };
    is_calm("before");

    // A day and ten minutes ahead: of what was due meanwhile, one run of a second is made, and of an hour none, as it was due
    // for longer than a job may be late.
    let hour = 3_600_000;
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    let into_hour = i64::try_from(now.as_millis()).unwrap() % hour;
    let ahead = DAY_MS + (hour / 2 - into_hour);
    let (ticks, hours) = (lines(&folder, "lines"), lines(&folder, "hourly"));
    std::fs::write(&file, ahead.to_string()).unwrap();
    more("runs after the clock was set forward");
    is_calm("ahead");
    let of_tick = due(&managed, "tick");
    assert!(of_tick.iter().any(|at| *at > of_tick.iter().min().unwrap() + DAY_MS / 2), "{of_tick:?}");
    let made = lines(&folder, "lines") - ticks;
    assert!(made < 1000, "{made} runs for a day that nobody lived");
    assert_eq!(lines(&folder, "hourly"), hours, "due for half an hour when it was seen");
    // The next brain sees the same.
    managed.kill(managed.brain());
    let _ = managed.status();
    is_calm("ahead, with another brain");

    // Back again: nothing that was due is due once more, and it goes on when the clock is where it was.
    std::fs::write(&file, "0").unwrap();
    let mut known = due(&managed, "tick");
    std::thread::sleep(Duration::from_secs(3));
    is_calm("back");
    known.extend(due(&managed, "tick"));
    known.sort_unstable();
    known.dedup();
    let begun: usize = lines(&folder, "lines");
    std::fs::write(&file, (ahead + 60_000).to_string()).unwrap();
    wait_until("runs when the clock is where it was", SOON, || lines(&folder, "lines") > begun);
    let all = due(&managed, "tick");
    let mut once = all.clone();
    once.sort_unstable();
    once.dedup();
    assert_eq!(once.len(), all.len(), "a moment was due twice: {all:?}");
    is_calm("ahead once more");
    managed.formic(&["down", "--now"]).says(0, &[]);
    managed.formic(&["server", "stop"]).says(0, &["nothing was running"]);
}
