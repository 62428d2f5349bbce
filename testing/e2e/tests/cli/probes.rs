//! Why a program is not ready: told wherever somebody would look, once for each reason.

use std::time::Duration;

use formic_e2e::{App, Manifest, program, wait_for, wait_until};
use serde_json::Value;

const SOON: Duration = Duration::from_secs(60);

/// Ready while there is a file `ok`.
const PAGE: &str = r#"
import http.server, os
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        ok = os.path.exists("ok")
        self.send_response(200 if ok else 503)
        self.end_headers()
        if not ok:
            self.wfile.write(b"warming \x1b[2J up")
    def log_message(self, *args):
        pass
http.server.HTTPServer(("127.0.0.1", int(os.environ["PORT"])), Handler).serve_forever()
"#;

/// An application that answers commands.
fn begin(manifest: &Manifest) -> App {
    let mut app = App::begin(manifest);
    let _ = app.wait_told("its first state", SOON, |line| line["services"].is_array());
    app
}

/// A service that is not ready and waits for ever.
fn idle(name: &str, more: &str) -> String {
    format!("[service.{name}]\ncommand = [\"sleep\", \"600\"]\n{more}\n")
}

/// The rows of a service's one instance, as `status --json` has it.
fn failure(app: &App, service: &str) -> Value {
    app.service(service)["instances"][0]["probe_failure"].clone()
}

/// What a command prints, on one line, has this in it.
fn shows(app: &App, args: &[&str], texts: &[&str]) {
    let ended = app.formic(args);
    ended.says(0, &[]);
    for text in texts {
        assert!(ended.stdout.contains(text), "{text:?} is not in:\n{}", ended.stdout);
    }
}

fn reason(app: &App, service: &str, says: &str) -> Value {
    wait_for(&format!("{service} to say {says:?}"), SOON, || {
        let failure = failure(app, service);
        failure["reason"].as_str().is_some_and(|reason| reason.contains(says)).then_some(failure)
    })
}

#[test]
fn why_a_program_is_not_ready_is_told_by_each_kind_of_probe() {
    let services = [
        idle(
            "tcp",
            "port = \"auto\"\nhealth = { ready = \"tcp\" }\nupdate = { progress_deadline = \"4s\", min_ready = \"1s\" }",
        ),
        idle(
            "check",
            "health = { ready = \"exec\", command = [\"sh\", \"-c\", \"echo no route to db >&2; exit 3\"], timeout = \"20s\" }",
        ),
        idle("slow", "health = { ready = \"exec\", command = [\"sleep\", \"60\"], timeout = \"300ms\" }"),
        idle("ghost", "health = { ready = \"exec\", command = [\"./no-such-probe\"] }"),
        idle("line", "health = { ready = \"log\", line = \"listening\" }"),
    ];
    let mut app = begin(&Manifest::of(&format!("[app]\nname = \"probes\"\n{}", services.concat())));
    let first = reason(&app, "tcp", "connection refused at 127.0.0.1:");
    assert!(first["last_unix_ms"].as_i64() > Some(0), "{first}");
    let row = || failure(&app, "tcp")["in_row"].as_u64();
    wait_until("it to fail again and again", SOON, || row() > Some(1));
    reason(&app, "check", "the command of its probe ended with exit code 3: no route to db");
    reason(&app, "slow", "timed out after 300ms");
    reason(&app, "ghost", "the command of its probe cannot be run: no such file");
    reason(&app, "line", "it has not written the line \"listening\" yet");
    shows(
        &app,
        &["why", "check"],
        &["check/0 was started", "is not ready yet", "exit code 3: no route to db"],
    );
    shows(&app, &["status"], &["line: line/0 is not ready yet: it has not written"]);
    app.formic(&["describe", "check"]).says(1, &["fails its probe", "no route to db", "times in a row"]);
    // One event for each reason, however often it is asked.
    wait_until("many probes", SOON, || failure_count(&app, "line") > 40);
    let events = app.formic(&["events", "--json"]).stdout;
    let told: Vec<Value> = events.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
    let of = |service: &str| {
        told.iter().filter(|event| event["service"] == service && event["kind"] == "unready").count()
    };
    assert_eq!((of("line"), of("check")), (1, 1), "{events}");
    // A rollout that fails for it says so.
    let failed = wait_for("the rollout to fail", SOON, || {
        let failed = app.service("tcp")["rollout_failure"].as_str().unwrap().to_owned();
        (!failed.is_empty()).then_some(failed)
    });
    assert!(failed.contains("no further in time; tcp-") && failed.contains("connection refused"), "{failed}");
    app.stop();
}

fn failure_count(app: &App, service: &str) -> u64 {
    failure(app, service)["in_row"].as_u64().unwrap_or_default()
}

#[test]
fn why_a_program_is_not_ready_any_more_is_told_until_it_is_again() {
    if let Err(absent) = program("python3", "--version") {
        formic_testing::skipped("why_a_program_is_not_ready_any_more_is_told_until_it_is_again", &absent.0);
        return;
    }
    let manifest = Manifest::of(&format!(
        "[app]\nname = \"probes\"\n[service.web]\ncommand = [\"python3\", \"-c\", {PAGE:?}]\nport = \"auto\"\n\
         health = {{ ready = \"http\", path = \"/\", timeout = \"10s\", interval = \"100ms\" }}\n"
    ));
    let mut app = begin(&manifest);
    reason(&app, "web", "HTTP 503: warming \\u{1b}[2J up");
    let ok = app.folder().join("ok");
    std::fs::write(&ok, "").unwrap();
    wait_until("it to be ready", SOON, || app.service("web")["state"] == "ready");
    assert_eq!(failure(&app, "web"), Value::Null);
    std::fs::remove_file(&ok).unwrap();
    reason(&app, "web", "HTTP 503");
    shows(&app, &["why", "web"], &["has not answered its probe for", "HTTP 503: warming"]);
    shows(&app, &["events"], &["does not answer its probe: HTTP 503: warming"]);
    app.stop();
}
