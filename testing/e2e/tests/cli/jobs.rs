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

/// What comes with a job begins after that one, and not after the one before it.
#[test]
fn a_release_waits_for_the_migration_that_comes_with_it() {
    let first = CHORES.split("[service.tick]").next().unwrap();
    let mut app = App::for_people(&Manifest::of(first));
    wait_until("all of it to be shown", SOON, || app.said().1.contains("ready in"));
    let done = app.folder().join("done");
    let second =
        first.replace("echo migrated", &format!("sleep 1; echo again > '{}'", done.display())).replace(
            "[\"sleep\", \"600\"]",
            &format!("[\"sh\", \"-c\", \"test -e '{}' || exit 78; exec sleep 600\"]", done.display()),
        );
    assert_eq!(second.matches("done").count(), 2, "{second}");
    Manifest::of(&second).write(&app.folder());
    // Too early it would fail for good, and the rollout with it.
    app.formic(&["apply", "--wait", "--timeout", "60s"]).says(0, &["runs and answers"]);
    assert!(done.exists());
    assert_eq!(app.service("web")["rollout"], "succeeded");
    app.stop();
}
