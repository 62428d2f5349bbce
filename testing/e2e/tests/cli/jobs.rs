//! Services that run to their end, beside others: what waits for all of it waits for no job that is done.

use std::time::Duration;

use formic_e2e::{App, Manifest, wait_until};

const SOON: Duration = Duration::from_secs(60);

const CHORES: &str = r#"
[app]
name = "chores"
[service.web]
command = ["sleep", "600"]
depends_on = { mig = "completed" }
health = { ready = "none" }
update = { min_ready = "50ms", keep_old = "0s" }
[service.mig]
command = ["sh", "-c", "echo migrated"]
job = {}
[service.tick]
command = ["sh", "-c", "echo tick"]
cron = { schedule = "* * * * * *" }
"#;

#[test]
fn a_job_that_is_done_holds_up_nobody_and_a_stopped_cron_job_rests() {
    let mut app = App::for_people(&Manifest::of(CHORES));
    wait_until("all of it to be shown", SOON, || app.said().1.contains("ready in"));
    let (out, err) = app.said();
    assert!(out.contains("completed") && !err.contains("! mig"), "{out}\n{err}");
    let mig = app.service("mig");
    assert_eq!((&mig["state"], &mig["ready"], &mig["reason"]), (&"completed".into(), &1.into(), &"".into()));
    app.formic(&["apply", "--wait", "--timeout", "60s"]).says(0, &["runs and answers"]);
    app.formic(&["scale", "web=2", "--wait", "--timeout", "60s"]).says(0, &["runs and answers"]);

    app.formic(&["stop", "tick", "--wait"]).says(0, &["tick: told to stop"]);
    let status = app.formic(&["status"]).stdout;
    assert!(status.contains("tick: stopped; nothing is due until `formic start tick`"), "{status}");
    let runs = || app.formic(&["runs", "tick", "--json"]).json()["runs"][0]["number"].clone();
    let before = runs();
    std::thread::sleep(Duration::from_millis(2_500));
    assert_eq!(runs(), before, "nothing was due");
    app.formic(&["run", "tick"]).says(1, &["tick is stopped"]);
    app.formic(&["start", "tick"]).says(0, &[]);
    wait_until("the next run", SOON, || runs() != before);
    app.stop();
}
