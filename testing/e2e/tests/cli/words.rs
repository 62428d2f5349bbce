//! What an operator is told when something goes wrong, and by what hand something was done.

use std::fs;
use std::time::Duration;

use formic_e2e::{App, Folder, Manifest, formic_in, wait_until};
use serde_json::{Value, json};

const SOON: Duration = Duration::from_secs(60);

const TWO: &str = r#"
[app]
name = "words"
[service.a]
command = ["sh", "-c", "exec sleep 600"]
health = { ready = "none" }
update = { min_ready = "0s", keep_old = "0s" }
[service.yearly]
command = ["sh", "-c", "exit 3"]
cron = { schedule = "0 0 1 1 *" }
restart = { policy = "never" }
"#;

/// The one object on standard output.
#[track_caller]
fn error(folder: &std::path::Path, line: &str, exit: i32) -> Value {
    let args: Vec<&str> = line.split(' ').collect();
    let ended = formic_in(folder, &args).run();
    assert_eq!(ended.code, Some(exit), "{line}: {} {}", ended.stdout, ended.stderr);
    assert_eq!(ended.stdout.lines().count(), 1, "{line}: {}", ended.stdout);
    let told = ended.json();
    let error = &told["error"];
    assert_eq!(error["exit"], exit, "{line}: {told}");
    assert!(error["message"].as_str().is_some_and(|text| !text.is_empty()), "{line}: {told}");
    assert!(error["code"].as_str().is_some_and(|code| !code.is_empty()), "{line}: {told}");
    assert!(ended.stderr.contains("error: "), "people are told as ever: {}", ended.stderr);
    told
}

#[test]
fn every_verb_tells_programs_of_its_failure() {
    let folder = Folder::new("words");
    Manifest::of(TWO).write(folder.path());
    for line in [
        "status",
        "services",
        "describe a",
        "logs a",
        "stop",
        "stop a",
        "start a",
        "rm a",
        "down",
        "plan",
        "apply",
        "scale a=1",
        "restart a",
        "pause a",
        "resume a",
        "run yearly",
        "runs",
        "rollback",
        "history",
        "events",
        "why a",
        "top",
        "release a-1",
        "traffic a",
        "server stop",
        "server upgrade",
        "call a.B/C",
    ] {
        let told = error(folder.path(), &format!("{line} --json"), 3);
        assert_eq!(told["error"]["code"], "unreachable", "{line}: {told}");
        assert!(told["error"]["hint"].as_str().is_some_and(|hint| hint.contains("formic up")), "{told}");
    }
    let gone = error(folder.path(), "secret rm none --json", 1);
    assert_eq!(gone["error"]["code"], "not_found");
    let wrong = error(folder.path(), "scale a=-1 --json", 2);
    assert_eq!(wrong["error"]["code"], "usage");
    assert!(wrong["error"]["message"].as_str().unwrap().contains("a=-1"), "{wrong}");
    error(folder.path(), "statu --json", 2);

    folder.write("formic.toml", "[app]\nname = 'words'\n[service.a]\ncomand = ['x']\n");
    for line in ["check --json", "up --json"] {
        let faults = error(folder.path(), line, 1);
        assert!(faults["faults"].as_array().is_some_and(|all| !all.is_empty()), "{line}: {faults}");
    }
}

#[test]
fn what_is_refused_is_told_with_its_code_and_what_was_done_meanwhile() {
    let mut app = App::begin(&Manifest::of(TWO));
    wait_until("it to run", SOON, || app.formic(&["why", "a"]).stdout.contains("a is ready"));
    let folder = app.folder();
    let stale = error(&folder, "apply --index 7 --json", 1);
    assert_eq!(stale["error"]["code"], "aborted");
    assert_eq!(error(&folder, "rollback 9999 --json", 1)["error"]["code"], "not_found");
    assert_eq!(error(&folder, "scale b=1 --json", 1)["error"]["code"], "not_found");

    // A change that does not come true is a change all the same: one object has both.
    Manifest::of(TWO).set("service.a", "command", r#"["sh", "-c", "exit 78"]"#).write(&folder);
    let failed = error(&folder, "apply --wait --timeout 60s --json", 1);
    assert_eq!(
        (&failed["index"], &failed["changed"], &failed["ready"]),
        (&json!(2), &json!(true), &json!(false))
    );
    let run = error(&folder, "run yearly --wait --timeout 60s --json", 1);
    assert_eq!((&run["state"], &run["exit_code"]), (&json!("failed"), &json!(3)));
    app.stop();
}

#[test]
fn events_and_history_say_by_whom() {
    let mut app = App::begin(&Manifest::of(TWO));
    wait_until("it to run", SOON, || app.formic(&["why", "a"]).stdout.contains("a is ready"));
    app.formic(&["restart", "a"]).says(0, &[]);
    app.formic(&["pause", "a"]).says(0, &[]);
    app.formic(&["resume", "a"]).says(0, &[]);
    app.formic(&["run", "yearly"]).says(0, &[]);
    let file = app.folder().parent().unwrap().join("value");
    fs::write(&file, "correct-horse").unwrap();
    app.formic(&["secret", "set", "db", "--file", file.to_str().unwrap()]).says(0, &[]);
    app.formic(&["secret", "rm", "db"]).says(0, &[]);
    let uid = rustix_uid();
    let history = app.formic(&["history"]).stdout;
    assert!(history.contains(&format!("restart a (uid {uid})")), "{history}");
    let told = || app.formic(&["events", "-n", "0"]).stdout;
    wait_until("the last of it to be told", SOON, || told().contains("db is gone"));
    let events = told();
    for part in [
        "is to get new instances, by restart a",
        "asked for by run yearly",
        "db has version 1, by secret set",
        "db is gone with all its versions, by secret rm",
    ] {
        assert!(events.contains(&format!("{part} (uid {uid})")), "{part} in {events}");
    }
    assert!(!events.contains("correct-horse"));
    app.stop();
}

fn rustix_uid() -> u32 {
    std::os::unix::fs::MetadataExt::uid(&fs::metadata("/proc/self").unwrap())
}

const SCRIPT: &str = r#"
[app]
name = "script"
[service.web]
command = ["sh", "web.sh"]
health = { ready = "log", line = "ready" }
update = { min_ready = "0s", keep_old = "0s" }
"#;

#[test]
fn an_edited_script_is_a_change_that_rolls_and_goes_back() {
    let mut app = App::start(&Manifest::program("script", &["sleep", "600"]));
    let script = app.folder().join("web.sh");
    let version = |number: u32| format!("echo version {number} ready\nexec sleep 600\n");
    fs::write(&script, version(1)).unwrap();
    Manifest::of(SCRIPT).write(&app.folder());
    app.formic(&["apply", "--wait", "--timeout", "60s"]).says(0, &["runs and answers"]);
    let before = app.pid_of("web");
    let nothing = app.formic(&["plan"]).stdout;
    assert!(nothing.contains("nothing would change"), "{nothing}");
    let index = app.status()["index"].as_u64().unwrap();

    fs::write(&script, version(2)).unwrap();
    let plan = app.formic(&["plan"]).stdout;
    assert!(plan.contains("~ web changed, by new instances") && plan.contains("files.web.sh: "), "{plan}");
    app.formic(&["apply", "--wait", "--timeout", "60s"]).says(0, &["runs and answers"]);
    let second = app.pid_of("web");
    assert_ne!(second, before);
    let logs = app.formic(&["logs", "web"]).stdout;
    assert!(logs.contains("version 1") && logs.contains("version 2"), "{logs}");

    // The way back says what it needs, and the copy is what it says.
    let refused = app.formic(&["rollback", &index.to_string()]);
    refused.says(1, &[&format!("web.sh of web is not what it was at index {index}"), "cp '"]);
    assert_eq!(app.pid_of("web"), second, "nothing has changed");
    let copy = refused.stderr.split("cp '").nth(1).and_then(|rest| rest.split('\'').next()).unwrap();
    fs::copy(copy, &script).unwrap();
    app.formic(&["rollback", &index.to_string(), "--wait", "--timeout", "60s"])
        .says(0, &["runs and answers"]);
    assert_ne!(app.pid_of("web"), second);
    assert_eq!(fs::read_to_string(&script).unwrap(), version(1));

    // One that does not work takes nothing down.
    let third = app.pid_of("web");
    fs::write(&script, "exit 78\n").unwrap();
    app.formic(&["apply", "--wait", "--timeout", "60s"]).says(1, &["web failed", "goes back"]);
    wait_until("it to be back", SOON, || app.service("web")["rollout"] == "reverted");
    assert_eq!(app.pid_of("web"), third);
    app.stop();
}
