//! `port = "auto"` and the ways to ask a program whether it is ready.

use std::collections::BTreeSet;
use std::time::Duration;

use formic_e2e::{App, Manifest, program, wait_for, wait_until};
use serde_json::Value;

const SOON: Duration = Duration::from_secs(60);

/// Answers with its name, after it has written what it listens on.
const PROGRAM: &str = r#"
import http.server, os
class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def do_GET(self):
        body = f"{os.environ['FORMIC_INSTANCE']} {os.environ['VERSION']} {os.environ['PORT']}".encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    def log_message(self, *args):
        pass
server = http.server.ThreadingHTTPServer(("127.0.0.1", int(os.environ["PORT"])), Handler)
print("listening on", os.environ["PORT"], flush=True)
server.serve_forever()
"#;

fn manifest(health: &str) -> Manifest {
    Manifest::of(&format!(
        "[app]\nname = \"ports\"\n[gateway]\n[route.\"/\"]\nservice = \"web\"\n[service.web]\n\
         command = [\"python3\", \"-c\", {PROGRAM:?}]\nport = \"auto\"\nreplicas = 2\nhealth = {{ {health} }}\n\
         env = {{ VERSION = \"one\" }}\nupdate = {{ min_ready = \"100ms\", keep_old = \"0s\" }}\n"
    ))
}

fn addresses(app: &App) -> BTreeSet<String> {
    let row = app.service("web");
    let instances = row["instances"].as_array().unwrap().iter();
    instances.filter_map(|i| i["address"].as_str()).filter(|a| !a.is_empty()).map(Into::into).collect()
}

/// They are registered a moment after each is ready.
fn all_addresses(app: &App, expected: usize) -> BTreeSet<String> {
    wait_for(&format!("{expected} addresses"), SOON, || {
        Some(addresses(app)).filter(|all| all.len() == expected)
    })
}

#[test]
fn replicas_of_a_program_have_ports_of_their_own_and_roll_beside_themselves() {
    if let Err(absent) = program("python3", "--version") {
        formic_testing::skipped(
            "replicas_of_a_program_have_ports_of_their_own_and_roll_beside_themselves",
            &absent.0,
        );
        return;
    }
    let mut app = App::start(&manifest("ready = \"http\", path = \"/\""));
    let get = || app.gateway().send("GET", "/", &[], b"").unwrap();
    wait_until("the route", SOON, || get().status == 200);
    let before = all_addresses(&app, 2);
    let seen: BTreeSet<String> = (0..40).map(|_| get().text()).collect();
    assert_eq!(seen.len(), 2, "both are called: {seen:?}");
    for text in &seen {
        let port: u16 = text.rsplit(' ').next().unwrap().parse().unwrap();
        assert!((20_000..=32_000).contains(&port) && before.iter().any(|a| a.ends_with(&format!(":{port}"))));
    }

    // Scaled by command, and rolled with an instance more than are wanted: no request fails.
    app.formic(&["scale", "web=3", "--wait"]).says(0, &[]);
    all_addresses(&app, 3);
    // As it is there, with the gateway where it is.
    let file = app.folder().join("formic.toml");
    let text = std::fs::read_to_string(&file).unwrap().replace("\"one\"", "\"two\"");
    std::fs::write(&file, text).unwrap();
    app.formic(&["apply"]).says(0, &[]);
    wait_until("the new ones alone", SOON, || {
        let answer = get();
        assert_eq!(answer.status, 200, "{}", answer.text());
        let row = app.service("web");
        let instances = row["instances"].as_array().unwrap();
        let is_new = |i: &Value| i["version"] == row["version"] && i["state"] == "ready";
        row["rollout"] == "succeeded" && instances.len() == 2 && instances.iter().all(is_new)
    });
    assert!(get().text().contains(" two "));
    assert!(addresses(&app).is_disjoint(&before), "each start has another port");
    app.stop();
}

#[test]
fn a_line_or_a_command_says_that_a_program_is_ready() {
    if let Err(absent) = program("python3", "--version") {
        formic_testing::skipped("a_line_or_a_command_says_that_a_program_is_ready", &absent.0);
        return;
    }
    let check = "import os,urllib.request as r; r.urlopen('http://127.0.0.1:'+os.environ['PORT'])";
    let exec = format!("ready = \"exec\", command = [\"python3\", \"-c\", {check:?}], timeout = \"10s\"");
    for health in ["ready = \"log\", line = \"listening on\"", &exec] {
        let mut app = App::start(&manifest(health));
        all_addresses(&app, 2);
        app.stop();
    }
    // What is never written, or never succeeds, is never ready, and its end is told.
    let never = "ready = \"log\", line = \"no such line\", deadline = \"1s\"";
    let failing = "ready = \"exec\", command = [\"false\"], deadline = \"1s\"";
    for health in [never, failing] {
        let mut app = App::begin(&manifest(health));
        let _ = app.wait_told("the end of its time", SOON, |line| {
            line["services"].as_array().is_some_and(|all| {
                all.iter().any(|service| {
                    let reason = service["reason"].as_str().unwrap_or_default();
                    reason.contains("not ready in time")
                })
            })
        });
        app.stop();
    }
}

/// A port that is lost to somebody else between the choice and the start is another one the next time.
#[test]
fn a_port_that_is_taken_is_another_one_the_next_time() {
    if let Err(absent) = program("python3", "--version") {
        formic_testing::skipped("a_port_that_is_taken_is_another_one_the_next_time", &absent.0);
        return;
    }
    // The first start finds its port in use, as it would when another process had been quicker.
    let program = format!(
        "import os,socket,sys\n\
         if not os.path.exists('first'):\n    open('first','w').write(os.environ['PORT'])\n    \
         s=socket.socket(); s.bind(('127.0.0.1',int(os.environ['PORT'])))\n    \
         socket.socket().bind(('127.0.0.1',int(os.environ['PORT'])))\n{PROGRAM}"
    );
    let manifest = manifest("ready = \"tcp\"").set("service.web", "replicas", "1").set(
        "service.web",
        "command",
        &format!("[\"python3\", \"-c\", {program:?}]"),
    );
    let mut app = App::start(&manifest);
    let first = std::fs::read_to_string(app.folder().join("first")).unwrap();
    let address = wait_for("its address", SOON, || addresses(&app).pop_first());
    assert!(!address.ends_with(&format!(":{first}")), "{address} again");
    let row = app.service("web");
    assert_eq!(row["instances"][0]["restarts"], 1, "{row}");
    app.stop();
}
