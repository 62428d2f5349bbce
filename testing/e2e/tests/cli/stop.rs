//! Ends that are not clean: a service that ignores the request to stop, an engine that is killed.

use std::time::{Duration, Instant};

use formic_e2e::{App, Manifest, Signal, alive, of_application, wait_until};

const SOON: Duration = Duration::from_secs(60);

/// Half of the grace of what follows.
const WELL_BEFORE: Duration = Duration::from_secs(300);

/// Ends only when it is killed, and has a child that does so too.
const STUBBORN: &str = r#"
[app]
name = "stubborn"
[service.deaf]
command = ["sh", "-c", "trap '' TERM INT; sh -c \"trap '' TERM INT; sleep 600; sleep 600\" & while :; do sleep 600; done"]
health = { ready = "none" }
stop = { grace = "10m" }
"#;

#[test]
fn a_second_ctrl_c_kills() {
    let mut app = App::start(&Manifest::of(STUBBORN));
    wait_until("the shell and what it started", SOON, || of_application(&app.folder()).len() >= 2);
    app.signal(Signal::INT);
    wait_until("the first to be heard", SOON, || app.said().1.contains("stopping"));
    std::thread::sleep(Duration::from_millis(300));
    assert!(!of_application(&app.folder()).is_empty(), "it drains: the grace is ten minutes");
    let start = Instant::now();
    app.signal(Signal::INT);
    let code = app.wait_end();
    assert!(start.elapsed() < WELL_BEFORE, "{:?}", start.elapsed());
    assert_eq!(code, 0, "{}", app.said().1);
    assert_eq!(of_application(&app.folder()), Vec::<u32>::new(), "the whole tree is gone");
}

#[test]
fn stop_now_does_not_wait_for_the_grace() {
    let mut app = App::start(&Manifest::of(STUBBORN));
    let start = Instant::now();
    let stopped = app.formic(&["stop", "--now", "--json"]);
    stopped.says(0, &[]);
    assert!(start.elapsed() < WELL_BEFORE, "{:?}", start.elapsed());
    assert_eq!(stopped.json()["killed"], 1);
    app.wait_end();
    app.wait_gone();
}

/// As after `formic up | head -1`, and after its terminal was closed.
#[test]
fn an_engine_that_nobody_reads_stops_what_it_started() {
    let mut app = App::for_people(&Manifest::of(&STUBBORN.replace("10m", "1s")));
    wait_until("the table", SOON, || app.said().0.contains("deaf"));
    app.stop();
    for stderr_too in [false, true] {
        app.again_unread(stderr_too);
        assert_eq!(app.wait_end(), 0);
        assert_eq!(of_application(&app.folder()), Vec::<u32>::new(), "processes are left");
    }
}

#[test]
fn what_a_killed_engine_left_running_is_swept_by_the_next() {
    let mut app = App::shop();
    let before: Vec<u32> =
        ["user", "product", "order", "gateway"].iter().map(|name| app.pid_of(name)).collect();
    app.signal(Signal::KILL);
    assert_eq!(app.wait_end(), 128 + 9);
    std::thread::sleep(Duration::from_millis(200));
    assert!(before.iter().any(|pid| alive(*pid)), "services do not die with their engine");
    // The gateway leads to what it has never led to before, with nobody left to ask.
    let request = serde_json::json!({ "text": "lamp" });
    let found = app.gateway().call("shop.product.v1.ProductService/Search", &request, None);
    assert!(found["products"].as_array().is_some_and(|products| !products.is_empty()), "{found}");
    let _ = app.gateway().call("shop.user.v1.UserService/GetKeys", &serde_json::json!({}), None);
    app.again();
    app.wait_ready();
    for pid in &before {
        assert!(!alive(*pid), "process {pid} of the earlier run is left");
    }
    for name in ["user", "product", "order", "gateway"] {
        assert!(!before.contains(&app.pid_of(name)), "{name} is a new process");
    }
    app.stop();
}

#[test]
fn a_process_that_only_looks_like_one_of_ours_is_spared() {
    let mut app = App::start(&Manifest::of(STUBBORN));
    // A stranger: not started by the engine, in no record.
    let mut stranger = std::process::Command::new("sleep").arg("600").spawn().unwrap();
    app.signal(Signal::KILL);
    app.wait_end();
    app.again();
    app.wait_ready();
    let spared = alive(stranger.id());
    stranger.kill().unwrap();
    stranger.wait().unwrap();
    assert!(spared);
    app.formic(&["stop", "--now"]).says(0, &["stopped"]);
    app.wait_end();
    app.wait_gone();
}
