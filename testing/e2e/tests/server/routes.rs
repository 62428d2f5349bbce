//! A way back brings the routes back with the service, for whoever calls through the gateway.

use std::time::Duration;

use formic_e2e::{Managed, Manifest, program, wait_until};

const SOON: Duration = Duration::from_secs(60);

/// Answers with its version and the path that it is asked for.
const PROGRAM: &str = r#"
import http.server, os, sys
if os.environ["VERSION"] == "broken":
    sys.exit(78)
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        body = f"{os.environ['VERSION']} {self.path}".encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    def log_message(self, *args):
        pass
http.server.ThreadingHTTPServer(("127.0.0.1", int(os.environ["PORT"])), Handler).serve_forever()
"#;

fn manifest(version: &str, path: &str) -> Manifest {
    Manifest::of(&format!(
        "[app]\nname = \"routes\"\n[gateway]\n[route.{path:?}]\nservice = \"web\"\n[service.web]\n\
         command = [\"python3\", \"-c\", {PROGRAM:?}]\nport = \"auto\"\nhealth = {{ ready = \"http\", path = \"/\", timeout = \"10s\" }}\n\
         env = {{ VERSION = {version:?} }}\nupdate = {{ min_ready = \"100ms\", keep_old = \"0s\" }}\n"
    ))
}

/// What a path is answered with.
fn get(managed: &Managed, path: &str) -> (u16, String) {
    match managed.gateway().send("GET", path, &[], b"") {
        Ok(answer) => (answer.status, answer.text()),
        Err(error) => (0, error.to_string()),
    }
}

/// Waits until the one path leads to this version, and the other leads nowhere.
fn leads(managed: &Managed, there: &str, version: &str, gone: &str) {
    let path = format!("{there}/x");
    wait_until(&format!("{path} to lead to {version}"), SOON, || {
        let (status, text) = get(managed, &path);
        status == 200 && text.starts_with(version)
    });
    wait_until(&format!("{gone} to lead nowhere"), SOON, || get(managed, &format!("{gone}/x")).0 == 404);
}

#[test]
fn routes_go_back_with_their_service() {
    if let Err(absent) = program("python3", "--version") {
        formic_testing::skipped("routes_go_back_with_their_service", &absent.0);
        return;
    }
    let managed = Managed::running(&manifest("one", "/old"), &[]);
    leads(&managed, "/old", "one", "/new");
    managed.write(&manifest("two", "/new"));
    managed.formic(&["apply", "--wait"]).says(0, &[]);
    leads(&managed, "/new", "two", "/old");
    managed.formic(&["rollback", "--wait"]).says(0, &[]);
    leads(&managed, "/old", "one", "/new");
    // By itself, too.
    managed.write(&manifest("broken", "/new"));
    managed.formic(&["apply", "--wait"]).says(1, &["web failed"]);
    leads(&managed, "/old", "one", "/new");
}
