//! The verbs that change a running application, and those that explain it.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use formic_e2e::{App, Ended, Following, Manifest, Over, Signal, formic_in, signal, wait_for, wait_until};
use serde_json::Value;

const SOON: Duration = Duration::from_secs(60);

/// Two services that do nothing, and one that needs a third which never gets ready.
const IDLE: &str = r#"
[app]
name = "idle"
[service.alpha]
command = ["sh", "-c", "exec sleep 600"]
health = { ready = "none" }
update = { min_ready = "0s", keep_old = "0s" }
[service.beta]
command = ["sh", "-c", "exec sleep 600"]
health = { ready = "none" }
update = { min_ready = "300ms", keep_old = "0s" }
env = { LEVEL = "1", API_TOKEN = "hunter2" }
"#;

fn idle() -> (App, Manifest) {
    let manifest = Manifest::of(IDLE);
    (App::start(&manifest), manifest)
}

fn good(ended: Ended) -> Value {
    ended.says(0, &[]);
    ended.json()
}

fn index(app: &App) -> u64 {
    app.status()["index"].as_u64().unwrap()
}

#[test]
fn a_manifest_is_planned_applied_and_rolled_back() {
    let (mut app, manifest) = idle();
    assert_eq!(index(&app), 1);
    let nothing = app.formic(&["plan"]);
    nothing.says(0, &[]);
    assert!(nothing.stdout.contains("nothing would change"), "{}", nothing.stdout);
    let (alpha, beta) = (app.pid_of("alpha"), app.pid_of("beta"));

    // Another value, one more service: only what changes is replaced.
    let changed = manifest.clone().set("service.beta", "env", "{ LEVEL = \"2\", API_TOKEN = \"hunter3\" }");
    let changed = changed.set("service.gamma", "command", r#"["sh", "-c", "exec sleep 600"]"#).set(
        "service.gamma",
        "health",
        "{ ready = \"none\" }",
    );
    changed.write(&app.folder());
    let plan = app.formic(&["plan"]);
    plan.says(0, &[]);
    for part in [
        "~ beta changed, by new instances",
        "env.LEVEL: 1 -> 2",
        "env.API_TOKEN: (hidden, changed)",
        "+ gamma added",
        "index 1",
    ] {
        assert!(plan.stdout.contains(part), "{part} in {}", plan.stdout);
    }
    assert!(!plan.stdout.contains("hunter"), "{}", plan.stdout);
    let plan = good(app.formic(&["plan", "--json"]));
    let action = |service: &str| {
        let all = plan["actions"].as_array().unwrap();
        all.iter().find(|action| action["service"] == service).unwrap()["action"].clone()
    };
    assert_eq!(
        (action("alpha"), action("beta"), action("gamma")),
        ("keep".into(), "replace".into(), "start".into())
    );
    assert_eq!(index(&app), 1, "a plan does nothing");

    let stale = app.formic(&["apply", "--index", "7"]);
    stale.says(1, &["index 7 is not the present one, which is 1"]);
    assert_eq!(app.pid_of("beta"), beta);
    let applied = good(app.formic(&["apply", "--index", "1", "--wait", "--timeout", "60s", "--json"]));
    assert_eq!(
        (applied["index"].as_u64(), &applied["changed"], &applied["ready"]),
        (Some(2), &true.into(), &true.into())
    );
    assert_eq!(app.pid_of("alpha"), alpha, "what did not change runs on");
    assert_ne!(app.pid_of("beta"), beta);
    assert_eq!(app.service("gamma")["state"], "ready");
    let again = good(app.formic(&["apply", "--json"]));
    assert_eq!((again["index"].as_u64(), &again["changed"]), (Some(2), &false.into()));

    let before = app.pid_of("beta");
    let back = good(app.formic(&["rollback", "--wait", "--timeout", "60s", "--json"]));
    assert_eq!(back["index"], 3);
    assert_ne!(app.pid_of("beta"), before);
    wait_until("gamma to be forgotten", SOON, || !app.status().to_string().contains("gamma"));
    app.formic(&["rollback", "1"]).says(1, &["index 1 is what is wanted already"]);
    app.formic(&["rollback", "42"]).says(1, &["no state of index 42 is kept"]);
    let history = app.formic(&["history"]);
    for part in ["formic up", "apply", "rollback to 1", "beta=1@"] {
        assert!(history.stdout.contains(part), "{part} in {}", history.stdout);
    }
    let history = good(app.formic(&["history", "--json"]));
    let indexes: Vec<u64> =
        history["history"].as_array().unwrap().iter().map(|state| state["index"].as_u64().unwrap()).collect();
    assert_eq!(indexes, [3, 2, 1]);
    app.stop();
}

#[test]
fn a_manifest_with_faults_or_of_another_application_harms_nothing() {
    let (mut app, manifest) = idle();
    let alpha = app.pid_of("alpha");
    manifest.clone().set("service.alpha", "replica", "2").write(&app.folder());
    app.formic(&["apply"]).says(1, &["replica", "replicas"]);
    manifest.clone().set("app", "name", "\"other\"").write(&app.folder());
    app.formic(&["apply"]).says(1, &["\"other\"", "\"idle\""]);
    assert_eq!((index(&app), app.pid_of("alpha")), (1, alpha));
    app.stop();
}

#[test]
fn what_the_gateway_lets_in_follows_the_manifest_and_comes_back() {
    let mut app = App::shop();
    let search = |app: &App| {
        app.gateway()
            .try_call("shop.product.v1.ProductService/Search", &serde_json::json!({}), None)
            .unwrap()
            .status
    };
    assert_eq!(search(&app), 200);
    let gateway = app.pid_of("gateway");
    let file = app.folder().join("formic.toml");
    let text = std::fs::read_to_string(&file).unwrap();
    let fewer = text.replace(r#"expose = ["user", "product", "order"]"#, r#"expose = ["user", "order"]"#);
    assert_ne!(text, fewer);
    std::fs::write(&file, fewer).unwrap();
    app.formic(&["apply", "--wait", "--timeout", "60s"]).says(0, &["runs and answers"]);
    wait_until("product to be hidden", SOON, || search(&app) == 404);
    app.formic(&["rollback", "--wait", "--timeout", "60s"]).says(0, &["runs and answers"]);
    wait_until("product to be back", SOON, || search(&app) == 200);
    assert_eq!(app.pid_of("gateway"), gateway, "it learns of it while it runs");
    app.stop();
}

#[test]
fn an_update_that_fails_goes_back_by_itself_and_the_old_one_never_stops() {
    let (mut app, manifest) = idle();
    let beta = app.pid_of("beta");
    app.formic(&["scale", "beta=1", "--wait", "--timeout", "60s"]).says(0, &["runs and answers"]);
    manifest.clone().set("service.beta", "command", r#"["sh", "-c", "exit 78"]"#).write(&app.folder());
    app.formic(&["apply", "--wait", "--timeout", "60s"]).says(1, &["beta failed", "code 78", "goes back"]);
    wait_until("it to be back", SOON, || app.service("beta")["rollout"] == "reverted");
    assert_eq!((app.pid_of("beta"), &app.service("beta")["state"]), (beta, &"ready".into()));
    assert_eq!(index(&app), 3, "the way back is a state of its own");
    let history = app.formic(&["history"]).stdout;
    assert!(history.contains("the way back of beta") && history.contains("reverted"), "{history}");
    // What has just failed is not what is gone back to by hand.
    app.formic(&["rollback"]).says(1, &["nothing earlier", "did not fail"]);
    assert_eq!(index(&app), 3);
    let why = app.formic(&["why", "beta"]).stdout;
    assert!(why.contains("code 78") && why.contains("It has been back at"), "{why}");
    let status = app.formic(&["status"]).stdout;
    assert!(status.contains("beta: its last update is reverted"), "{status}");
    app.stop();
}

#[test]
fn what_a_process_can_take_up_is_taken_up_as_it_runs() {
    let (mut app, manifest) = idle();
    let alpha = app.pid_of("alpha");
    let before = app.service("alpha")["version"].clone();
    manifest.clone().set("service.alpha", "restart", "{ delay = \"5s\" }").write(&app.folder());
    let plan = app.formic(&["plan"]).stdout;
    assert!(plan.contains("~ alpha changed, taken up by what runs") && plan.contains("in-place"), "{plan}");
    app.formic(&["apply", "--wait", "--timeout", "60s"]).says(0, &["runs and answers"]);
    let row = app.service("alpha");
    assert_eq!(app.pid_of("alpha"), alpha);
    assert_ne!(row["version"], before);
    assert_eq!(row["instances"][0]["version"], row["version"]);
    app.stop();
}

#[test]
fn services_are_scaled_up_and_down_each_slot_with_its_own_data() {
    let (mut app, _) = idle();
    let alpha = app.pid_of("alpha");
    let scaled = good(app.formic(&["scale", "alpha=3", "beta=0", "--wait", "--timeout", "60s", "--json"]));
    assert_eq!((scaled["index"].as_u64(), &scaled["changes"][0]["fields"][0]["to"]), (Some(2), &"3".into()));
    let row = app.service("alpha");
    assert_eq!((row["ready"].as_u64(), row["instances"].as_array().unwrap().len()), (Some(3), 3));
    assert_eq!(app.pid_of("alpha"), alpha);
    for folder in ["alpha", "alpha.1", "alpha.2"] {
        assert!(app.folder().join(".formic/data").join(folder).is_dir(), "{folder}");
    }
    app.formic(&["scale", "alpha=1", "--wait", "--timeout", "60s"]).says(0, &["index 3"]);
    let row = app.service("alpha");
    assert_eq!((row["ready"].as_u64(), app.pid_of("alpha")), (Some(1), alpha));
    assert_eq!(row["instances"].as_array().unwrap().len(), 1, "{row}");
    app.formic(&["scale", "alpa=2"]).says(1, &["did you mean \"alpha\"?"]);
    app.formic(&["scale", "alpha=99999"]).says(1, &["more than 10000"]);
    app.formic(&["scale", "alpha"]).says(2, &["SERVICE=N"]);
    // The manifest says how many there are to be.
    app.formic(&["apply", "--wait", "--timeout", "60s"]).says(0, &["index 4"]);
    assert_eq!(app.service("beta")["ready"], 1);
    app.stop();
}

#[test]
fn a_restart_by_hand_replaces_every_instance_and_counts_as_none() {
    let (mut app, _) = idle();
    app.formic(&["scale", "alpha=2", "--wait", "--timeout", "60s"]).says(0, &[]);
    let ids = |app: &App| -> Vec<String> {
        let row = app.service("alpha");
        row["instances"].as_array().unwrap().iter().map(|i| i["id"].as_str().unwrap().to_owned()).collect()
    };
    let before = ids(&app);
    let told = good(app.formic(&["restart", "alpha", "--json"]));
    assert_eq!((&told["instances"], &told["index"]), (&2.into(), &3.into()));
    wait_until("both to be new", SOON, || {
        let row = app.service("alpha");
        row["ready"] == 2 && ids(&app).iter().all(|id| !before.contains(id))
    });
    assert!(app.service("alpha")["instances"].as_array().unwrap().iter().all(|i| i["restarts"] == 0));
    app.formic(&["restart", "nobody"]).says(1, &["no service \"nobody\""]);
    // It is this one that is waited for, and not what there was before it.
    for index in 4..8 {
        let told = good(app.formic(&["restart", "alpha", "--wait", "--timeout", "60s", "--json"]));
        assert_eq!((&told["index"], &told["ready"]), (&index.into(), &true.into()));
    }
    app.formic(&["stop", "alpha", "--wait", "--timeout", "60s"]).says(0, &["index 8"]);
    app.formic(&["restart", "alpha"]).says(1, &["alpha is stopped; `formic start alpha` starts it"]);
    app.formic(&["start", "alpha"]).says(0, &["index 9"]);
    app.stop();
}

#[test]
fn no_call_fails_while_a_service_is_replaced_under_load() {
    let manifest =
        Manifest::shop().set("service.product", "update", r#"{ min_ready = "500ms", keep_old = "1s" }"#);
    let mut app = App::start(&manifest);
    let before = app.pid_of("product");
    let stop = AtomicBool::new(false);
    let search =
        || app.gateway().try_call("shop.product.v1.ProductService/Search", &serde_json::json!({}), None);
    let calls = AtomicU32::new(0);
    let load = || {
        let mut failed = Vec::new();
        while !stop.load(Ordering::Relaxed) {
            calls.fetch_add(1, Ordering::Relaxed);
            match search() {
                Ok(answer) if answer.status == 200 => {}
                other => failed.push(format!("{other:?}")),
            }
        }
        failed
    };
    let failed: Vec<String> = std::thread::scope(|scope| {
        let over = Over::at_the_end(&stop);
        let loads: Vec<_> = (0..4).map(|_| scope.spawn(load)).collect();
        app.formic(&["restart", "product"]).says(0, &["1 instance is"]);
        wait_until("only the new one to run", SOON, || {
            let row = app.service("product");
            row["rollout"] == "succeeded"
                && row["instances"].as_array().unwrap().len() == 1
                && app.pid_of("product") != before
        });
        // Fewer are no load, and a slow machine takes longer for them.
        wait_until("a hundred calls", SOON, || calls.load(Ordering::Relaxed) > 100);
        drop(over);
        loads.into_iter().flat_map(|load| load.join().unwrap()).collect()
    });
    let calls = calls.into_inner();
    assert_eq!(failed, Vec::<String>::new(), "of {calls} calls");
    // What the old one kept is the new one's.
    assert!(!app.folder().join(".formic/data/product.1").exists());
    app.stop();
}

#[test]
fn events_and_why_tell_the_causes() {
    let (mut app, _) = idle();
    let alpha = app.pid_of("alpha");
    assert!(signal(alpha, Signal::KILL));
    app.wait_restarted("alpha", alpha);
    let events = app.formic(&["events", "alpha", "--json", "-n", "0"]).json_lines();
    let events: Vec<Value> = events.into_iter().filter(|event| event["kind"] != "rollout").collect();
    let kinds: Vec<&str> = events.iter().filter_map(|event| event["kind"].as_str()).collect();
    let expected = ["applied", "start", "ready", "exit", "backoff", "start", "ready"];
    assert_eq!(kinds, expected, "{events:?}");
    assert!(events[3]["text"].as_str().unwrap().contains("SIGKILL"), "{}", events[3]);
    assert!(events[5]["text"].as_str().unwrap().contains("restart 1"), "{}", events[5]);
    let numbers: Vec<u64> = events.iter().map(|event| event["sequence"].as_u64().unwrap()).collect();
    assert!(numbers.windows(2).all(|pair| pair[0] < pair[1]), "{numbers:?}");
    let last = app.formic(&["events", "-n", "1"]);
    assert_eq!(last.stdout.lines().count(), 1, "{}", last.stdout);

    let why = app.formic(&["why", "alpha"]);
    for part in ["alpha is ready: 1 of 1 ready", "succeeded", "SIGKILL", "restart 1"] {
        assert!(why.stdout.contains(part), "{part} in {}", why.stdout);
    }
    app.formic(&["why", "alpa"]).says(1, &["did you mean \"alpha\"?"]);
    app.formic(&["events", "alpa"]).says(1, &["did you mean \"alpha\"?"]);
    app.stop();
}

#[test]
fn the_cause_of_a_wait_is_what_it_waits_for() {
    let manifest = Manifest::of(
        r#"
[app]
name = "waits"
[service.late]
command = ["sh", "-c", "exec sleep 600"]
health = { ready = "none" }
depends_on = ["broken"]
[service.broken]
command = ["sh", "-c", "exit 3"]
restart = { delay = "30s" }
"#,
    );
    let mut app = App::begin(&manifest);
    let why = wait_for("the cause to be known", SOON, || {
        let why = app.formic(&["why", "late"]).stdout;
        why.contains("broken is backoff").then_some(why)
    });
    for part in ["late is pending", "waits for broken", "exited with code 3", "starts again in"] {
        assert!(why.contains(part), "{part} in {why}");
    }
    app.stop();
}

#[test]
fn events_that_are_followed_come_as_they_happen_and_end_with_the_application() {
    let (mut app, _) = idle();
    let args = ["events", "-f", "--json", "-n", "1"];
    let mut follower = Following::start(formic_in(&app.folder(), &args));
    wait_until("the follower to have begun", SOON, || !follower.lines().is_empty());
    assert!(!follower.said().contains("\"restart\""));
    app.formic(&["restart", "alpha"]).says(0, &["1 instance is"]);
    follower.wait_shown("\"restart\"", SOON);
    app.stop();
    let ended = follower.wait_end(SOON);
    assert!(ended.success(), "{ended:?}: {}", follower.said());
    assert!(follower.said().contains("\"shut-down\""), "{}", follower.said());
}
