//! Cron jobs under `formic up`: they run when they are due and by hand, and what came of them is told.

use std::time::Duration;

use formic_e2e::{App, Manifest, wait_until};
use serde_json::Value;

const SOON: Duration = Duration::from_secs(60);

/// One job that is due each second and adds a line to a file of its own, and one that never is while this runs.
const JOBS: &str = r#"
[app]
name = "jobs"
[service.tick]
command = ["sh", "-c", "echo run >> \"$FORMIC_DATA_DIR/lines\""]
cron = { schedule = "* * * * * *", history = 3 }
[service.yearly]
command = ["sh", "-c", "echo this year: $YEAR; exit $CODE"]
cron = { schedule = "0 4 1 1 *", zone = "Europe/Berlin" }
job = { retries = 0 }
env = { CODE = "0", YEAR = "1" }
"#;

fn runs(app: &App, job: &str) -> Vec<Value> {
    let listed = app.formic(&["runs", job, "--json"]);
    listed.says(0, &[]);
    listed.json()["runs"].as_array().unwrap().clone()
}

fn is_scheduled(line: &Value) -> bool {
    line["services"].as_array().is_some_and(|all| {
        all.iter().any(|service| service["name"] == "yearly" && service["state"] == "scheduled")
    })
}

#[test]
fn a_job_runs_when_it_is_due_and_by_hand_and_what_came_of_it_is_told() {
    let manifest = Manifest::of(JOBS);
    let mut app = App::begin(&manifest);
    app.wait_told("the jobs to be scheduled", SOON, is_scheduled);
    // By the clock, again and again; only so many are remembered.
    let succeeded = |run: &Value| run["state"] == "succeeded" && run["by_hand"] == false;
    wait_until("runs to be forgotten", SOON, || {
        let over: Vec<Value> = runs(&app, "tick").into_iter().filter(succeeded).collect();
        over.len() == 3 && over[2]["number"].as_u64() > Some(1)
    });
    let over = runs(&app, "tick");
    let numbers: Vec<u64> = over.iter().map(|run| run["number"].as_u64().unwrap()).collect();
    assert!(
        numbers.is_sorted_by(|newer, older| newer == &(older + 1)),
        "newest first, none left out: {numbers:?}"
    );
    assert!(over.iter().all(|run| run["due_unix_ms"].as_i64().unwrap() % 1000 == 0), "{over:?}");
    let lines = std::fs::read_to_string(app.folder().join(".formic/data/tick/lines")).unwrap();
    assert!(lines.lines().count() >= 4, "{lines:?}");

    // By hand, and waited for.
    let by_hand = app.formic(&["run", "yearly", "--wait", "--timeout", "60s", "--json"]);
    by_hand.says(0, &[]);
    let run = by_hand.json();
    assert_eq!(
        (&run["number"], &run["state"], &run["exit_code"]),
        (&1.into(), &"succeeded".into(), &0.into())
    );
    assert_eq!(run["by_hand"], true);
    assert!(app.formic(&["logs", "yearly"]).stdout.contains("this year: 1"));
    let row = app.service("yearly");
    assert_eq!((&row["state"], &row["cron"]["last"]["number"]), (&"scheduled".into(), &1.into()));
    assert!(row["cron"]["next_unix_ms"].as_i64().unwrap() > run["due_unix_ms"].as_i64().unwrap());

    // A change is for the next run, and one that fails says so.
    manifest.set("service.yearly", "env", "{ CODE = \"3\", YEAR = \"2\" }").write(&app.folder());
    app.formic(&["apply", "--wait", "--timeout", "60s"]).says(0, &["is wanted now"]);
    app.formic(&["run", "yearly", "--wait", "--timeout", "60s"])
        .says(1, &["run 2 of yearly failed: it exited with code 3", "formic logs yearly"]);
    assert!(app.formic(&["logs", "yearly"]).stdout.contains("this year: 2"));
    let status = app.formic(&["status"]).stdout;
    assert!(status.contains("(0 4 1 1 * Europe/Berlin); run 2 of yearly failed"), "{status}");
    let why = app.formic(&["why", "yearly"]).stdout;
    assert!(why.contains("yearly is scheduled. It is due next at 20"), "{why}");
    assert!(why.contains("Run 2 failed") && why.contains("it exited with code 3."), "{why}");
    let table = app.formic(&["runs", "yearly"]).stdout;
    assert!(table.contains("by hand") && table.contains("exited with code 3"), "{table}");
    let events = app.formic(&["events", "yearly"]).stdout;
    assert!(events.contains("run 2 is due; it was asked for") && events.contains("run 2 failed"), "{events}");
    app.formic(&["rollback", "--wait", "--timeout", "60s"]).says(0, &[]);
    app.formic(&["run", "yearly", "--wait", "--timeout", "60s"]).says(0, &[]);

    app.formic(&["scale", "yearly=2"]).says(1, &["is a cron job"]);
    app.formic(&["restart", "yearly"]).says(1, &["formic run yearly"]);
    app.formic(&["run", "yearli"]).says(1, &["did you mean \"yearly\"?"]);
    app.stop();
}

#[test]
fn one_that_runs_is_not_run_beside_itself_and_ends_with_the_application() {
    let manifest = Manifest::of(
        "[app]\nname = \"long\"\n[service.long]\ncommand = [\"sleep\", \"600\"]\ncron = { schedule = \"@yearly\" }\n",
    );
    let mut app = App::begin(&manifest);
    app.wait_told("the job to be scheduled", SOON, |line| line["services"][0]["state"] == "scheduled");
    app.formic(&["run", "long"]).says(0, &[]);
    wait_until("the job to run", SOON, || app.service("long")["state"] == "running");
    let running = &runs(&app, "long")[0];
    assert_eq!(running["instance"], app.service("long")["instances"][0]["id"]);
    app.formic(&["run", "long"]).says(1, &["run 2 of long is left out: another one runs"]);
    app.formic(&["run", "long", "--wait", "--timeout", "60s"]).says(1, &["left out"]);
    // Nothing is left running, or this fails.
    app.stop();
}
