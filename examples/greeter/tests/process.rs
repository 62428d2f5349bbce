//! The service as a process: flags, settings, faults with their exit codes, signals.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::mpsc::Receiver;
use std::time::{Duration, Instant};

const LIMIT: Duration = Duration::from_secs(10);

/// A folder of a test, gone with it.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("greeter-{}-{name}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    fn manifest(self, text: &str) -> Self {
        std::fs::write(self.0.join("formic.toml"), text).unwrap();
        self
    }

    fn greeter(&self) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_greeter"));
        command.current_dir(&self.0).env_clear().env("FORMIC_REGISTRY", "memory");
        command
    }

    fn run(&self, args: &[&str]) -> Output {
        self.greeter().args(args).output().unwrap()
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// A running service, killed when the test is over.
struct Running {
    child: Child,
    addr: SocketAddr,
    log: Receiver<String>,
}

impl Running {
    fn start(mut command: Command) -> Self {
        let mut child = command.stderr(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
        let stderr = BufReader::new(child.stderr.take().unwrap());
        let (lines, log) = std::sync::mpsc::channel();
        // Ends with the process, whose end is bounded.
        std::thread::spawn(move || {
            stderr.lines().map_while(Result::ok).try_for_each(|line| lines.send(line))
        });
        let any = SocketAddr::from(([0, 0, 0, 0], 0));
        let mut running = Self { child, addr: any, log };
        let ready = running.line("\"address\":\"");
        let (_, rest) = ready.split_once("\"address\":\"").unwrap();
        running.addr = rest.split('"').next().unwrap().parse().unwrap();
        running
    }

    /// The next line of the log that holds a word.
    fn line(&mut self, word: &str) -> String {
        loop {
            match self.log.recv_timeout(LIMIT) {
                Ok(line) if line.contains(word) => return line,
                Ok(_) => {}
                Err(error) => panic!("waited for {word} in the log: {error}"),
            }
        }
    }

    fn signal(&self, name: &str) {
        let pid = self.child.id().to_string();
        assert!(Command::new("kill").args([name, &pid]).status().unwrap().success());
    }

    /// Waits for the end, and reads the rest of the log.
    fn end(mut self) -> (ExitStatus, String) {
        let began = Instant::now();
        let status = loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                break status;
            }
            assert!(began.elapsed() < LIMIT, "it does not end");
            std::thread::sleep(Duration::from_millis(10));
        };
        let log: Vec<String> = self.log.iter().collect();
        (status, log.join("\n"))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// One request over HTTP/1.1, and the whole answer.
fn ask(addr: SocketAddr, request: &str) -> String {
    let mut stream = TcpStream::connect(addr).unwrap();
    stream.set_read_timeout(Some(LIMIT)).unwrap();
    write!(stream, "{request}").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

#[test]
fn explain_says_where_each_value_comes_from() {
    let manifest = "[service.greeter]\ncargo = \"greeter\"\nlog = \"debug\"\n\n[service.greeter.config]\nlimit = 3\napi_key = \"hush\"\n";
    let folder = Folder::new("explain").manifest(manifest);
    let output = folder.run(&["--explain", "--listen", "127.0.0.1:0", "--set", "limit=4"]);
    assert!(output.status.success(), "{}", text(&output.stderr));
    let table = text(&output.stdout);
    let row = |words: &[&str]| {
        let found = table.lines().any(|line| words.iter().all(|word| line.contains(word)));
        assert!(found, "no row with {words:?} in\n{table}");
    };
    row(&["listen", "127.0.0.1:0", "flag --listen"]);
    row(&["log", "debug", "formic.toml:3"]);
    row(&["registry", "memory", "environment FORMIC_REGISTRY"]);
    row(&["timeout", "5s", "default"]);
    row(&["config.limit", "4", "flag --set limit"]);
    row(&["config.api_key", "***", "formic.toml:7"]);
    assert!(!table.contains("hush"), "{table}");

    let help = folder.run(&["--help"]);
    assert!(help.status.success() && text(&help.stdout).contains("--explain"));
}

#[test]
fn faults_in_settings_exit_with_78_and_say_what_to_do() {
    let folder = Folder::new("faults").manifest("[service.greeter]\nlissten = \"x\"\nlog_format = \"xml\"\n");
    let output = folder.run(&["--timeout", "soon"]);
    assert_eq!(output.status.code(), Some(78));
    let said = text(&output.stderr);
    for word in
        ["3 settings are wrong", "did you mean `listen`?", "formic.toml:2", "formic.toml:3", "flag --timeout"]
    {
        assert!(said.contains(word), "{word} in {said}");
    }

    let folder = Folder::new("filter");
    let output = folder.run(&["--log", "order=loudly"]);
    assert_eq!(output.status.code(), Some(78));
    assert!(text(&output.stderr).contains("loudly"), "{}", text(&output.stderr));

    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = taken.local_addr().unwrap().to_string();
    let output = folder.run(&["--listen", &addr]);
    assert_eq!(output.status.code(), Some(1), "no fault of the settings: that process may end");
    let said = text(&output.stderr);
    assert!(said.contains(&addr) && said.contains("in use"), "{said}");

    let output = folder.run(&["--registry", "local"]);
    assert_eq!(output.status.code(), Some(78));
    assert!(text(&output.stderr).contains("FORMIC_DAEMON"), "{}", text(&output.stderr));
}

#[test]
fn it_answers_and_drains_at_a_signal() {
    let folder = Folder::new("drain");
    for signal in ["-TERM", "-INT"] {
        let running = Running::start(folder.greeter());
        let body = r#"{"name":"Ada"}"#;
        let request = format!(
            "POST /greeter.v1.Greeter/Hello HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\
             content-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
            body.len()
        );
        let answer = ask(running.addr, &request);
        assert!(answer.contains(r#"{"text":"hello, Ada"}"#), "{answer}");
        let ready = ask(running.addr, "GET /readyz HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n");
        assert!(ready.starts_with("HTTP/1.1 200"), "{ready}");
        running.signal(signal);
        let (status, log) = running.end();
        assert!(status.success(), "{signal}: {status}");
        assert!(log.contains("draining") && log.contains("stopped"), "{log}");
    }
}

#[test]
fn a_second_signal_ends_it_at_once() {
    let folder = Folder::new("second");
    let mut command = folder.greeter();
    command.env("FORMIC_DRAIN_PROPAGATION", "60s");
    let mut running = Running::start(command);
    running.signal("-TERM");
    running.line("draining");
    let ready = ask(running.addr, "GET /readyz HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n");
    assert!(ready.starts_with("HTTP/1.1 503"), "{ready}");
    running.signal("-TERM");
    let began = Instant::now();
    let (status, _) = running.end();
    assert_eq!(status.code(), Some(130));
    assert!(began.elapsed() < Duration::from_secs(5));
}
