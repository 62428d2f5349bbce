//! Programs that know nothing of Formic: found by name, and behind routes of the gateway.

use std::time::Duration;

use formic_e2e::{App, Manifest, Signal, free_port, program, signal, wait_for, wait_until};

const SOON: Duration = Duration::from_secs(60);

/// A server of a few lines; it says who it is and what it was asked.
const PROGRAM: &str = r#"
import http.server, os
class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def do_GET(self):
        body = f"{os.getpid()} {self.path} {self.headers.get('X-Forwarded-For')}".encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    def log_message(self, *args):
        pass
http.server.ThreadingHTTPServer(("127.0.0.1", int(os.environ["PORT"])), Handler).serve_forever()
"#;

fn manifest() -> Manifest {
    let port = free_port();
    Manifest::of(&format!(
        "[app]\nname = \"polyglot\"\n[gateway]\n[route.\"/reports\"]\nservice = \"reports\"\n[service.reports]\n\
         command = [\"python3\", \"-c\", {PROGRAM:?}]\nport = {port}\nrestart = {{ delay = \"100ms\" }}\n"
    ))
}

#[test]
fn a_python_program_is_a_service_behind_a_route() {
    if let Err(absent) = program("python3", "--version") {
        formic_testing::skipped("a_python_program_is_a_service_behind_a_route", &absent.0);
        return;
    }
    let mut app = App::start(&manifest());
    let get = |path: &str| app.gateway().send("GET", path, &[], b"").unwrap();
    let pid = app.pid_of("reports");
    let answer =
        wait_for("the route", SOON, || Some(get("/reports/today?x=1")).filter(|answer| answer.status == 200));
    assert_eq!(answer.text(), format!("{pid} /reports/today?x=1 127.0.0.1"));
    assert_eq!(get("/other").status, 404);
    let services = app.formic(&["services", "--json"]).stdout;
    assert!(services.contains("reports"), "{services}");
    assert_eq!(app.address_of("reports"), app.service("reports")["instances"][0]["address"]);

    // Killed, it is found again when it is back; meanwhile there is an answer too.
    assert!(signal(pid, Signal::KILL));
    let new = app.wait_restarted("reports", pid);
    wait_until("the new one to answer", SOON, || {
        let answer = get("/reports");
        assert!([200, 502, 503].contains(&answer.status), "{} {}", answer.status, answer.text());
        answer.text().starts_with(&format!("{new} "))
    });
    app.stop();
}
