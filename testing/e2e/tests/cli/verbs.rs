//! Single services stopped, started and removed; updates that stand still; commands where an instance runs;
//! what is measured.

use std::time::Duration;

use formic_e2e::{App, Gateway, Manifest, alive, free_port, wait_for, wait_until};
use serde_json::Value;

const SOON: Duration = Duration::from_secs(60);

const TWO: &str = r#"
[app]
name = "two"
[service.a]
command = ["sh", "-c", "echo started; exec sleep 600"]
replicas = 2
env = { COLOUR = "green" }
health = { ready = "none" }
update = { min_ready = "50ms", keep_old = "0s" }
[service.b]
command = ["sh", "-c", "echo b runs; exec sleep 600"]
depends_on = ["a"]
health = { ready = "none" }
"#;

fn pids(app: &App, service: &str) -> Vec<u32> {
    let row = app.service(service);
    let instances = row["instances"].as_array().unwrap().iter();
    instances.filter_map(|i| u32::try_from(i["pid"].as_u64()?).ok()).filter(|pid| *pid > 0).collect()
}

#[test]
fn a_service_is_stopped_started_and_removed() {
    let mut app = App::start(&Manifest::of(TWO));
    let (before, other) = (pids(&app, "a"), pids(&app, "b"));
    assert_eq!((before.len(), other.len()), (2, 1));

    app.formic(&["stop", "a", "--wait"]).says(0, &["a: told to stop", "formic start a", "a has stopped"]);
    let row = app.service("a");
    assert_eq!((&row["state"], &row["wanted"]), (&Value::from("stopped"), &Value::from(0)), "{row}");
    assert!(before.iter().all(|pid| !alive(*pid)), "they are gone");
    assert_eq!(pids(&app, "b"), other, "what depends on it runs on");
    app.formic(&["stop", "a"]).says(0, &["stopped already"]);

    app.formic(&["start", "a", "--wait"]).says(0, &["all of it runs"]);
    assert_eq!(pids(&app, "a").len(), 2, "as many as it had");

    app.formic(&["rm", "a"]).says(1, &["b depends on a"]);
    app.formic(&["rm", "b", "--wait"]).says(0, &["taken out of what is wanted", "logs and data stay"]);
    let status = app.status();
    let names: Vec<&str> =
        status["services"].as_array().unwrap().iter().filter_map(|s| s["name"].as_str()).collect();
    assert_eq!(names, ["a"]);
    wait_until("its process to be gone", SOON, || !alive(other[0]));
    // Its logs are there, by its name too, and an hour is long ago.
    let left = app.formic(&["logs", "b", "--json"]);
    left.says(0, &[]);
    let line = left.json_lines().into_iter().next().expect("what it wrote");
    assert_eq!((&line["service"], &line["told_by"]), (&"b".into(), &"file".into()), "{line}");
    assert!(
        line["time"].as_str().is_some_and(|time| time.starts_with("20") && time.ends_with('Z')),
        "{line}"
    );
    let id = line["instance"].as_str().unwrap();
    assert_eq!(
        app.formic(&["logs", "--instance", id, "--since", "1h", "--json"]).json_lines(),
        std::slice::from_ref(&line)
    );
    assert_eq!(app.formic(&["logs", "b", "--previous", "--json"]).json_lines(), std::slice::from_ref(&line));
    app.formic(&["logs", "--instance", "b-nobody"]).says(1, &["b-nobody"]);
    app.formic(&["stop", "nobody"]).says(1, &["has no service \"nobody\""]);

    let causes = app.formic(&["history"]).stdout;
    for cause in ["stop a", "start a", "rm b"] {
        assert!(causes.contains(cause), "{causes}");
    }
    app.formic(&["apply", "--wait"]).says(0, &[]);
    assert_eq!(app.service("b")["state"], "ready", "an apply brings it back");
    app.formic(&["down"]).says(0, &["stopped two: its 3 workloads and the engine"]);
    assert_eq!(app.wait_end(), 0);
    let left = app.formic(&["logs", "--previous", "b"]);
    left.says(0, &[]);
    assert!(left.stdout.contains("b | b runs"), "{}", left.stdout);
}

#[test]
fn an_update_stands_still_until_it_is_told_to_go_on() {
    let mut app = App::start(&Manifest::of(TWO));
    wait_until("the first to be settled", SOON, || app.service("a")["rollout"] == "succeeded");
    app.formic(&["pause", "a"]).says(0, &["no update under way"]);
    // Each of its steps takes longer than anybody takes to have it stand still.
    let slow = Manifest::of(TWO).set("service.a", "update", "{ min_ready = \"8s\", keep_old = \"0s\" }");
    slow.set("service.a", "env", "{ COLOUR = \"red\" }").write(&app.folder());
    app.formic(&["apply"]).says(0, &[]);
    app.formic(&["pause", "a"]).says(0, &["stands still"]);
    assert_eq!(app.service("a")["rollout"], "paused");
    let why = app.formic(&["why", "a"]).stdout;
    assert!(why.contains("is paused"), "{why}");
    // Longer than a step takes.
    std::thread::sleep(Duration::from_secs(9));
    assert_eq!(app.service("a")["rollout"], "paused");
    app.formic(&["resume", "a"]).says(0, &["goes on"]);
    wait_until("its end", SOON, || app.service("a")["rollout"] == "succeeded");
    app.formic(&["resume", "a"]).says(0, &["does not stand still"]);
    app.stop();
}

#[test]
fn a_command_runs_where_an_instance_does() {
    let mut app = App::start(&Manifest::of(TWO));
    let id = app.service("a")["instances"][1]["id"].as_str().unwrap().to_owned();
    let said = app.formic(&["exec", "a/1", "sh", "-c", "echo $FORMIC_INSTANCE $COLOUR $(pwd); exit 7"]);
    assert_eq!(said.code, Some(7), "{}", said.stderr);
    assert_eq!(said.stdout.trim(), format!("{id} green {}", app.folder().display()));
    app.formic(&["exec", &id, "--", "true"]).says(0, &[]);
    app.formic(&["exec", "a/9", "true"]).says(1, &["a has no slot 9", "a/0, a/1"]);
    app.formic(&["exec", "a", "/no/such/program"]).says(1, &["cannot run /no/such/program"]);

    // What is left of it ends with the instance.
    let folder = app.folder();
    app.formic(&["exec", "a/1", "sh", "-c", "sleep 600 >/dev/null 2>&1 & echo $! > left"]).says(0, &[]);
    let left: u32 = std::fs::read_to_string(folder.join("left")).unwrap().trim().parse().unwrap();
    assert!(alive(left));
    app.formic(&["scale", "a=1", "--wait"]).says(0, &[]);
    assert!(!alive(left), "it outlived its instance");

    // Also where somebody has moved it out of the cgroup, which is a thing of those who may.
    let test = "verbs::a_command_runs_where_an_instance_does";
    let mounts = std::fs::read_to_string("/proc/mounts").unwrap();
    let Some(top) = mounts.lines().find(|line| line.contains(" cgroup2 ")).and_then(|l| l.split(' ').nth(1))
    else {
        formic_testing::skipped(test, "there is no cgroup v2 to leave");
        app.stop();
        return;
    };
    app.formic(&["exec", "a/0", "sh", "-c", "setsid sleep 600 >/dev/null 2>&1 & echo $! > moved"])
        .says(0, &[]);
    let moved: u32 = std::fs::read_to_string(folder.join("moved")).unwrap().trim().parse().unwrap();
    if std::fs::write(format!("{top}/cgroup.procs"), moved.to_string()).is_err() {
        formic_testing::skipped(test, "no process can be moved to another cgroup");
    }
    app.formic(&["restart", "a"]).says(0, &[]);
    wait_until("it to end with its instance", SOON, || !alive(moved));
    app.stop();
}

#[test]
fn what_is_measured_is_shown_to_people_programs_and_prometheus() {
    let port = free_port();
    let folder = formic_e2e::Folder::new("measured");
    Manifest::of(TWO).write(folder.path());
    let address = format!("127.0.0.1:{port}");
    let mut app = App::within(folder.path(), &["--metrics", &address]);
    app.wait_ready();

    let top = app.formic(&["top", "--json"]).json();
    let rows = top["instances"].as_array().unwrap();
    assert_eq!(rows.len(), 4, "the gateway is one too: {top}");
    for row in rows {
        assert!(row["memory_bytes"].as_u64().is_some_and(|bytes| bytes > 10_000), "{row}");
        assert!(row["open_files"].as_u64().is_some_and(|files| files >= 3), "{row}");
        assert!(row["cpu_percent"].as_f64().is_some_and(|percent| percent < 100.0), "{row}");
    }
    let engine = &top["engine"];
    // `formic up` keeps nothing of what it decides; a server does.
    assert!(engine["turns"].as_u64() > Some(0) && engine["writes"] == 0, "{engine}");
    let once = app.formic(&["top", "--once", "--sort", "memory"]).stdout;
    for part in ["a/0", "MEM*", "two  4/4 ready", "engine  queue "] {
        assert!(once.contains(part), "{part}: {once}");
    }
    app.formic(&["top"]).says(1, &["no terminal", "--once"]);

    let told = app.formic(&["metrics"]).stdout;
    let scraped = Gateway { authority: address }.send("GET", "/metrics", &[], b"").unwrap();
    assert_eq!(scraped.status, 200);
    for text in [told, scraped.text()] {
        for part in [
            "formic_instance_memory_bytes{app=\"two\",service=\"a\"",
            "formic_instance_restarts_total{app=\"two\",service=\"b\"",
            "formic_service_ready{app=\"two\",service=\"a\"} 2",
            "formic_engine_reconcile_seconds_count",
            "formic_engine_fsync_seconds_bucket{le=\"0.1\"}",
        ] {
            assert!(text.contains(part), "{part}: {text}");
        }
        assert!(text.ends_with("# EOF\n") && text.matches("# EOF").count() == 1);
    }
    // A probe that answers has a latency, and one that was restarted has its count.
    let first = pids(&app, "b")[0];
    assert!(formic_e2e::signal(first, formic_e2e::Signal::KILL));
    app.wait_restarted("b", first);
    let row = wait_for("the restart", SOON, || {
        let status = app.status();
        let services = status["services"].as_array()?.clone();
        services.into_iter().find(|s| s["name"] == "b" && s["instances"][0]["restarts"] == 1)
    });
    assert_eq!(row["state"], "ready");
    app.stop();
}
