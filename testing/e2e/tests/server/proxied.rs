//! A program that knows nothing of sockets that are handed over, behind the built-in proxy: nobody who connects is refused or
//! turned away, whatever is replaced or killed, and a connection stays with its instance.

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use formic_e2e::{Managed, Manifest, Signal, alive, free_port, signal, wait_for, wait_until};

const SOON: Duration = Duration::from_secs(60);

/// Says who it is to whoever connects, and then says back each line. Told to end, it listens no more and ends when nobody
/// talks to it.
const PROGRAM: &str = "\
import os, signal, socketserver, threading
class Talk(socketserver.StreamRequestHandler):
    def handle(self):
        self.wfile.write(f\"{os.getpid()} {os.environ['ROUND']}\\n\".encode())
        for line in self.rfile:
            self.wfile.write(line)
class Server(socketserver.ThreadingTCPServer):
    allow_reuse_address = True
    daemon_threads = False
    request_queue_size = 128
server = Server(('127.0.0.1', int(os.environ['PORT'])), Talk)
signal.signal(signal.SIGTERM, lambda *_: threading.Thread(target=server.shutdown).start())
server.serve_forever()
server.server_close()
";

fn manifest(public: u16, round: u32, most: u32) -> Manifest {
    Manifest::of(&format!(
        "[app]\nname = \"proxied\"\n[service.db]\ncommand = [\"python3\", \"talk.py\"]\nport = \"auto\"\nreplicas = 2\n\
         proxy = {{ listen = \"127.0.0.1:{public}\", max_connections = {most} }}\nenv = {{ ROUND = \"{round}\" }}\n\
         update = {{ min_ready = \"300ms\", keep_old = \"0s\" }}\nstop = {{ grace = \"2m\" }}\n"
    ))
}

/// A connection on which somebody has said who it is.
struct Talk {
    stream: BufReader<TcpStream>,
    pid: u32,
    round: u32,
}

impl Talk {
    fn begin(address: SocketAddr) -> Result<Self, String> {
        let stream = TcpStream::connect(address).map_err(|error| format!("refused: {error}"))?;
        stream.set_read_timeout(Some(SOON)).unwrap();
        let mut talk = Self { stream: BufReader::new(stream), pid: 0, round: 0 };
        let said = talk.line()?;
        let mut words = said.split_whitespace().filter_map(|word| word.parse().ok());
        (talk.pid, talk.round) = words.next().zip(words.next()).ok_or(format!("odd: {said:?}"))?;
        Ok(talk)
    }

    fn line(&mut self) -> Result<String, String> {
        let mut line = String::new();
        match self.stream.read_line(&mut line) {
            Ok(0) => Err("broken: it ended".into()),
            Ok(_) => Ok(line.trim().to_owned()),
            Err(error) => Err(format!("broken: {error}")),
        }
    }

    fn say(&mut self, text: &str) -> Result<(), String> {
        let said = self.stream.get_mut().write_all(format!("{text}\n").as_bytes());
        said.map_err(|error| format!("broken: {error}"))?;
        let back = self.line()?;
        if back == text { Ok(()) } else { Err(format!("odd: {back:?}")) }
    }
}

/// Those who connect again and again.
struct Load {
    over: Arc<AtomicBool>,
    served: Arc<AtomicU64>,
    /// When each that failed had begun, and how.
    failed: Arc<Mutex<Vec<(Instant, String)>>>,
    callers: Vec<JoinHandle<()>>,
}

impl Load {
    fn begin(address: SocketAddr) -> Self {
        let (over, served) = (Arc::<AtomicBool>::default(), Arc::<AtomicU64>::default());
        let failed = Arc::<Mutex<Vec<_>>>::default();
        let caller = |_| {
            let (over, served, failed) = (Arc::clone(&over), Arc::clone(&served), Arc::clone(&failed));
            std::thread::spawn(move || {
                while !over.load(Ordering::Relaxed) {
                    let begun = Instant::now();
                    let talked = Talk::begin(address).and_then(|mut talk| {
                        talk.say("one")?;
                        std::thread::sleep(Duration::from_millis(5));
                        talk.say("two")
                    });
                    match talked {
                        Ok(()) => drop(served.fetch_add(1, Ordering::Relaxed)),
                        Err(error) => failed.lock().unwrap().push((begun, error)),
                    }
                }
            })
        };
        let callers = (0..4).map(caller).collect();
        Self { over, served, failed, callers }
    }

    /// Waits until so many more were served, so that each thing that happens happens under load.
    fn more(&self, number: u64) {
        let before = self.served.load(Ordering::Relaxed);
        wait_until("more to be served", SOON, || self.served.load(Ordering::Relaxed) >= before + number);
    }

    fn end(self) -> (u64, Vec<(Instant, String)>) {
        self.over.store(true, Ordering::Relaxed);
        for caller in self.callers {
            caller.join().unwrap();
        }
        (self.served.load(Ordering::Relaxed), self.failed.lock().unwrap().clone())
    }
}

fn of(managed: &Managed, service: &str) -> Vec<u32> {
    let pids = managed.pids().into_iter();
    pids.filter(|(id, _)| id.starts_with(&format!("{service}-"))).map(|(_, pid)| pid).collect()
}

#[test]
fn nobody_who_connects_notices_an_update_a_crash_or_another_proxy() {
    if std::process::Command::new("python3").arg("--version").output().is_err() {
        println!(
            "formic-test-skipped: proxied::nobody_who_connects_notices_an_update_a_crash_or_another_proxy: no python3"
        );
        return;
    }
    let public = free_port();
    let address = SocketAddr::from(([127, 0, 0, 1], public));
    let managed = Managed::new(&manifest(public, 1, 100), &[]);
    std::fs::write(managed.folder().join("talk.py"), PROGRAM).unwrap();
    managed.formic(&["apply", "--wait"]).says(0, &[]);
    let first = of(&managed, "db");
    let load = Load::begin(address);
    load.more(50);

    // A roll: new connections go to the new ones; one that there was goes on with the old one, until it has been said all.
    let mut held = Talk::begin(address).unwrap();
    assert!(first.contains(&held.pid) && held.round == 1);
    managed.write(&manifest(public, 2, 100));
    managed.formic(&["apply"]).says(0, &[]);
    wait_until("new ones to answer", SOON, || {
        held.say("still here").unwrap();
        (0..8).all(|_| Talk::begin(address).unwrap().round == 2)
    });
    held.say("and still").unwrap();
    assert!(alive(held.pid));
    drop(held);
    wait_until("the old ones to be gone", SOON, || first.iter().all(|pid| !alive(*pid)));
    let second = wait_for("two new ones", SOON, || {
        Some(of(&managed, "db")).filter(|now| now.len() == 2 && now.iter().all(|pid| !first.contains(pid)))
    });
    load.more(50);
    let rolled = load.failed.lock().unwrap().clone();
    assert!(rolled.is_empty(), "{rolled:?}");

    // One is killed: who was on it is cut off, and nobody who comes after.
    signal(second[0], Signal::KILL);
    // Reaped, and not only a zombie: while one of its threads has not ended, its sockets are open.
    wait_until("its end", SOON, || !Path::new(&format!("/proc/{}", second[0])).exists());
    let killed = Instant::now();
    load.more(50);
    wait_until("another in its place", SOON, || {
        let now = of(&managed, "db");
        now.len() == 2 && !now.contains(&second[0])
    });

    // The engine is replaced, and then the proxy; neither holds anybody up.
    managed.kill(managed.brain());
    load.more(50);
    let before = of(&managed, "proxy");
    managed.write(&manifest(public, 2, 99));
    managed.formic(&["apply", "--wait"]).says(0, &[]);
    let after = of(&managed, "proxy");
    assert!(before.len() == 1 && after.len() == 1 && before != after, "{before:?} {after:?}");
    load.more(50);
    let (served, failed) = load.end();
    println!("{served} served, {} cut off by the kill of their instance", failed.len());
    for (begun, error) in failed {
        assert!(
            begun < killed && error.starts_with("broken"),
            "{error}, {:?} after the kill",
            begun - killed
        );
    }
    let status = managed.status();
    let proxy = status["services"].as_array().unwrap().iter().find(|row| row["name"] == "proxy").unwrap();
    assert_eq!(proxy["system"], true);
    managed.formic(&["stop"]).says(0, &[]);
    managed.formic(&["server", "stop"]).says(0, &["nothing was running"]);
    assert!(TcpStream::connect(address).is_err(), "its address is nobody's any more");
}
