//! Programs that know nothing of Formic are registered by the brain, which may end without a word of what runs: whoever
//! calls them, through the gateway or the proxy, is answered as long as they run, whether or not a server does.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use formic_e2e::{Gateway, Managed, Manifest, alive, free_port, program, wait_until};

const SOON: Duration = Duration::from_secs(60);
/// A gateway that knows no instance of a service waits a second before it says so, and says so again and again.
const ALONE: Duration = Duration::from_secs(5);

/// Answers every path with its process number.
const PROGRAM: &str = r#"
import http.server, os
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        body = str(os.getpid()).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    def log_message(self, *args):
        pass
class Server(http.server.ThreadingHTTPServer):
    request_queue_size = 128
Server(("127.0.0.1", int(os.environ["PORT"])), Handler).serve_forever()
"#;

fn manifest(public: u16) -> Manifest {
    Manifest::of(&format!(
        "[app]\nname = \"unmanaged\"\n[gateway]\n[route.\"/web\"]\nservice = \"web\"\n[service.web]\n\
         command = [\"python3\", \"-c\", {PROGRAM:?}]\nport = \"auto\"\nreplicas = 2\n\
         health = {{ ready = \"http\", path = \"/\", timeout = \"10s\" }}\n\
         proxy = \"127.0.0.1:{public}\"\nupdate = {{ min_ready = \"100ms\", keep_old = \"0s\" }}\n"
    ))
}

/// Somebody who asks one of the two ways in, again and again.
struct Caller {
    name: &'static str,
    answered: Arc<AtomicU64>,
    failed: Arc<Mutex<Vec<String>>>,
    asking: JoinHandle<()>,
}

impl Caller {
    fn begin(name: &'static str, at: Gateway, over: &Arc<AtomicBool>) -> Self {
        let (answered, failed) = (Arc::<AtomicU64>::default(), Arc::<Mutex<Vec<_>>>::default());
        let (count, faults, over) = (Arc::clone(&answered), Arc::clone(&failed), Arc::clone(over));
        let asking = std::thread::spawn(move || {
            while !over.load(Ordering::Relaxed) {
                match at.send("GET", "/web/x", &[], b"") {
                    Ok(answer) if answer.status == 200 => drop(count.fetch_add(1, Ordering::Relaxed)),
                    Ok(answer) => {
                        faults.lock().unwrap().push(format!("{} {}", answer.status, answer.text()));
                    }
                    Err(error) => faults.lock().unwrap().push(error.to_string()),
                }
                std::thread::sleep(Duration::from_millis(5));
            }
        });
        Self { name, answered, failed, asking }
    }

    /// Waits until so many more were answered, and none was not.
    fn more(&self, number: u64, when: &str) {
        let before = self.answered.load(Ordering::Relaxed);
        let enough = || self.answered.load(Ordering::Relaxed) >= before + number;
        let has_failed = || !self.failed.lock().unwrap().is_empty();
        wait_until("more to be answered", SOON, || enough() || has_failed());
        let failed = self.failed.lock().unwrap().clone();
        assert!(failed.is_empty(), "through the {}, {when}: {:?}", self.name, &failed[..failed.len().min(5)]);
    }
}

#[test]
fn a_killed_keeper_costs_no_request_of_a_program_with_a_port() {
    if let Err(absent) = program("python3", "--version") {
        formic_testing::skipped("a_killed_keeper_costs_no_request_of_a_program_with_a_port", &absent.0);
        return;
    }
    let public = free_port();
    let managed = Managed::running(&manifest(public), &[]);
    let over = Arc::<AtomicBool>::default();
    let proxy = Gateway { authority: format!("127.0.0.1:{public}") };
    let callers =
        [Caller::begin("gateway", managed.gateway().clone(), &over), Caller::begin("proxy", proxy, &over)];
    let more = |when: &str| callers.iter().for_each(|caller| caller.more(50, when));
    more("before");
    let pids = managed.pids();
    for round in ["the first time", "after a server that took over"] {
        let (keeper, brain) = (managed.keeper(), managed.brain());
        managed.kill(keeper);
        wait_until("the brain to end with its keeper", SOON, || !alive(brain));
        more(&format!("just after the kill, {round}"));
        std::thread::sleep(ALONE);
        more(&format!("without a server, {round}"));
        managed.serve();
        more(&format!("with a server again, {round}"));
        // Longer than a brain replaces nothing after it has taken over.
        std::thread::sleep(Duration::from_secs(3));
        more(&format!("under the server, {round}"));
        assert_eq!(managed.pids(), pids);
    }
    over.store(true, Ordering::Relaxed);
    for Caller { name, answered, failed, asking } in callers {
        asking.join().unwrap();
        let failed = failed.lock().unwrap();
        assert!(failed.is_empty(), "{} of those through the {name}: {failed:?}", failed.len());
        println!("{} answered through the {name}", answered.load(Ordering::Relaxed));
    }
}
