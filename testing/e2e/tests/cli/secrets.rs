//! Secrets: set, handed over in a file, rotated, brought back, and seen by nobody else.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use formic_e2e::{App, Folder, Manifest, Signal, formic_in, wait_until};

const SOON: Duration = Duration::from_secs(60);
const FIRST: &str = "correct-horse-battery";
const SECOND: &str = "staple-purple-monkey";

/// One that reads its secret from a file, and one that asked for it as a variable.
const KEEPERS: &str = r#"
[app]
name = "keepers"
[service.filed]
command = ["sh", "-c", "wc -c < \"$FORMIC_SECRETS_DIR/db\"; exec sleep 600"]
health = { ready = "none" }
update = { min_ready = "0s", keep_old = "0s" }
secrets = { db = "password" }
[service.named]
command = ["sh", "-c", "echo ${#DB_PASSWORD} bytes; exec sleep 600"]
health = { ready = "none" }
update = { min_ready = "0s", keep_old = "0s" }
secrets = { db = { secret = "password", env = "DB_PASSWORD" } }
"#;

fn holds(path: &Path, value: &str) -> bool {
    let bytes = fs::read(path).unwrap_or_default();
    bytes.windows(value.len()).any(|window| window == value.as_bytes())
}

/// Every file under a folder.
fn files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        if fs::symlink_metadata(&path).is_ok_and(|meta| meta.is_dir()) {
            found.extend(files(&path));
        } else if fs::symlink_metadata(&path).is_ok_and(|meta| meta.is_file()) {
            found.push(path);
        }
    }
    found
}

/// Where an instance of a service finds its secret.
fn file_of(app: &App, service: &str) -> PathBuf {
    let environ = fs::read(format!("/proc/{}/environ", app.pid_of(service))).unwrap();
    let text = String::from_utf8_lossy(&environ).into_owned();
    let dir =
        text.split('\0').find_map(|entry| entry.strip_prefix("FORMIC_SECRETS_DIR=")).unwrap().to_owned();
    Path::new(&dir).join("db")
}

fn set(app: &App, value: &str) {
    let file = app.folder().parent().unwrap().join("value");
    fs::write(&file, value).unwrap();
    let done = app.formic(&["secret", "set", "password", "--file", file.to_str().unwrap(), "--json"]);
    fs::remove_file(file).unwrap();
    done.says(0, &[]);
    assert!(!done.stdout.contains(value));
}

#[test]
fn a_secret_is_handed_over_rotated_and_brought_back_and_nobody_else_sees_it() {
    let manifest = Manifest::of(KEEPERS);
    // Before it is set, nothing runs, and what to do is said.
    let mut app = App::begin(&manifest);
    assert_eq!(app.wait_end(), 1);
    let said = app.said().1;
    assert!(said.contains("given the secret password, which is not set"), "{said}");
    assert!(said.contains("formic secret set password"), "{said}");
    // Set while nothing runs.
    set(&app, FIRST);
    app.again();
    app.wait_ready();
    let read = |app: &App, service: &str| fs::read_to_string(file_of(app, service)).unwrap();
    assert_eq!((read(&app, "filed"), read(&app, "named")), (FIRST.into(), FIRST.into()));
    let first = file_of(&app, "filed");
    assert_eq!(fs::metadata(&first).unwrap().permissions().mode() & 0o7777, 0o400);
    assert_eq!(fs::metadata(first.parent().unwrap()).unwrap().permissions().mode() & 0o7777, 0o700);
    wait_until("the service to have read it", SOON, || {
        app.formic(&["logs", "filed"]).stdout.contains(&FIRST.len().to_string())
    });

    // A new version is a new revision of those that are given it, at the next apply.
    let before = app.pid_of("filed");
    set(&app, SECOND);
    assert_eq!(
        (app.pid_of("filed"), read(&app, "filed")),
        (before, FIRST.into()),
        "nothing happens by itself"
    );
    let plan = app.formic(&["plan"]);
    plan.says(0, &[]);
    assert!(plan.stdout.contains("secrets.db.version: 1 -> 2"), "{}", plan.stdout);
    app.formic(&["apply", "--wait", "--timeout", "60s"]).says(0, &["runs and answers"]);
    assert_ne!(app.pid_of("filed"), before);
    assert_eq!((read(&app, "filed"), read(&app, "named")), (SECOND.into(), SECOND.into()));
    wait_until("the files of the instance that is gone to be gone", SOON, || !first.exists());

    // Nowhere else.
    let pid = app.pid_of("filed");
    for value in [FIRST, SECOND] {
        for path in files(&app.folder()).iter().chain(&files(app.folder().parent().unwrap())) {
            assert!(!holds(path, value), "{}", path.display());
        }
        for name in ["cmdline", "environ"] {
            assert!(!holds(Path::new(&format!("/proc/{pid}/{name}")), value), "{name}");
            assert!(!holds(Path::new(&format!("/proc/{}/{name}", app.pid())), value), "{name} of the engine");
        }
        for args in [
            vec!["status", "--json"],
            vec!["plan", "--json"],
            vec!["history", "--json"],
            vec!["events", "--json"],
            vec!["why", "filed"],
            vec!["logs"],
            vec!["secret", "list", "--json"],
        ] {
            let ended = app.formic(&args);
            assert!(!ended.stdout.contains(value) && !ended.stderr.contains(value), "{args:?}");
        }
    }
    assert!(holds(Path::new(&format!("/proc/{}/environ", app.pid_of("named"))), SECOND), "it asked for that");

    // The way back brings the old value back.
    app.formic(&["rollback", "--wait", "--timeout", "60s"]).says(0, &["runs and answers"]);
    assert_eq!((read(&app, "filed"), read(&app, "named")), (FIRST.into(), FIRST.into()));
    let listed = app.formic(&["secret", "list", "--json"]).json();
    assert_eq!(listed["secrets"][0]["versions"], serde_json::json!([1, 2]));
    assert_eq!(listed["secrets"][0]["used_by"], serde_json::json!(["filed", "named"]));
    app.formic(&["secret", "rm", "password"]).says(1, &["filed, named is given the secret password"]);
    app.formic(&["secret", "rm", "passwort"]).says(1, &["no secret \"passwort\""]);

    // An engine that is killed leaves files; the next one removes them.
    let left = file_of(&app, "filed");
    app.signal(Signal::KILL);
    let _ = app.wait_end();
    app.again();
    app.wait_ready();
    assert!(!left.exists());
    let last = file_of(&app, "filed");
    app.stop();
    assert!(!last.parent().unwrap().parent().unwrap().exists(), "nothing is left");
    app.formic(&["secret", "rm", "password"]).says(0, &["is removed"]);
}

#[test]
fn a_name_that_is_none_is_told_first_and_a_value_that_is_too_long_is_not_counted() {
    let folder = Folder::new("secret-words");
    Manifest::of(KEEPERS).write(folder.path());
    let set =
        |name: &str, value: String| formic_in(folder.path(), &["secret", "set", name]).input(value).run();
    set("", String::new()).says(1, &["\"\" cannot be the name of a secret"]);
    set(".a", "a".into()).says(1, &["\".a\" cannot be the name of a secret"]);
    set("a", String::new()).says(1, &["the value of a is empty"]);
    set("big", "a".repeat(300_000)).says(1, &["the value of big has more than 262144 bytes"]);
    set("most", "a".repeat(262_144)).says(0, &["most has version 1 now"]);
}
