//! A running application.

use std::fs::{self, File};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ExitStatus, Stdio};
use std::time::Duration;

use rustix::process::Signal;
use serde_json::Value;

use crate::clock::{wait_for, wait_until};
use crate::folder::{Folder, free_port};
use crate::http::Gateway;
use crate::manifest::Manifest;
use crate::process::{Ended, of_application, signal, wait_child};
use crate::programs::{builds, formic, formic_in};

/// Everything prebuilt is ready within a second; a busy machine with unoptimised programs gets more.
const READY: Duration = Duration::from_secs(120);
/// A drain takes well under a second when nothing is in flight; a busy machine gets more for that, too.
const STOP: Duration = Duration::from_secs(60);
const FOR_PROGRAMS: [&str; 2] = ["--json", "--quiet"];

/// An application under `formic up`, in a folder of its own. Dropping it stops it and fails the test if something is
/// left running.
#[derive(Debug)]
pub struct App {
    // The files of `up` are not in the application's folder, because tests look at what is in there.
    outer: Folder,
    folder: PathBuf,
    args: Vec<String>,
    child: Child,
    gateway: Gateway,
    ended: Option<ExitStatus>,
}

/// A call that was answered with an error.
#[derive(Debug)]
pub struct Refused {
    /// The exit code of `formic call`.
    pub exit: i32,
    /// What it printed: `code`, `message`, `reason`, `fields`.
    pub error: Value,
}

impl App {
    /// The shop, ready.
    #[must_use]
    pub fn shop() -> Self {
        Self::start(&Manifest::shop())
    }

    /// An application, ready.
    ///
    /// # Panics
    /// If it is not ready in time; with what `up` said.
    #[must_use]
    pub fn start(manifest: &Manifest) -> Self {
        let mut app = Self::begin(manifest);
        app.wait_ready();
        app
    }

    /// An application that is being started.
    #[must_use]
    pub fn begin(manifest: &Manifest) -> Self {
        Self::put_together(manifest, &FOR_PROGRAMS)
    }

    /// An application that is being started and talks as it does to people; what it says is for
    /// [`said`](Self::said).
    #[must_use]
    pub fn for_people(manifest: &Manifest) -> Self {
        Self::put_together(manifest, &[])
    }

    fn put_together(manifest: &Manifest, args: &[&str]) -> Self {
        let outer = Folder::new("app");
        let folder = outer.path().join("app");
        fs::create_dir(&folder).unwrap();
        let port = free_port();
        let listen = format!("127.0.0.1:{port}");
        let manifest = if manifest.has_gateway() {
            manifest.clone().set("gateway", "listen", &format!("{listen:?}"))
        } else {
            manifest.clone()
        };
        manifest.write(&folder);
        Self::launch(outer, folder, listen, args)
    }

    /// An application in a folder that is there already and outlives it: its manifest is changed only in the gateway's
    /// port. What it builds goes to the folder of the tests' own build.
    ///
    /// # Panics
    /// If its manifest cannot be read.
    #[must_use]
    pub fn within(folder: &Path, args: &[&str]) -> Self {
        let listen = format!("127.0.0.1:{}", free_port());
        let text = fs::read_to_string(folder.join("formic.toml")).unwrap();
        Manifest::of(&text).set("gateway", "listen", &format!("{listen:?}")).write(folder);
        Self::launch(Folder::new("up"), folder.to_path_buf(), listen, &[&FOR_PROGRAMS, args].concat())
    }

    fn launch(outer: Folder, folder: PathBuf, listen: String, args: &[&str]) -> Self {
        let args: Vec<String> = args.iter().map(|arg| (*arg).to_owned()).collect();
        let files = [output(outer.path(), "up.out"), output(outer.path(), "up.err")];
        let child = up(&folder, &args, files);
        Self { outer, folder, args, child, gateway: Gateway { authority: listen }, ended: None }
    }

    /// Runs `formic up` again, after an end, while nobody reads what it says: neither standard output nor, if asked
    /// for, standard error.
    ///
    /// # Panics
    /// If it still runs.
    pub fn again_unread(&mut self, stderr_too: bool) {
        assert!(self.ended.is_some(), "it still runs");
        let closed = || Stdio::from(std::io::pipe().unwrap().1);
        let stderr = if stderr_too { closed() } else { output(self.outer.path(), "up.err") };
        self.child = up(&self.folder, &self.args, [closed(), stderr]);
        self.ended = None;
    }

    /// Runs `formic up` again, after an end.
    ///
    /// # Panics
    /// If it still runs.
    pub fn again(&mut self) {
        assert!(self.ended.is_some(), "it still runs");
        let files = [output(self.outer.path(), "up.out"), output(self.outer.path(), "up.err")];
        self.child = up(&self.folder, &self.args, files);
        self.ended = None;
    }

    /// Waits until every service is ready.
    ///
    /// # Panics
    /// If that takes too long or `up` ends.
    pub fn wait_ready(&mut self) {
        self.wait_ready_within(READY);
    }

    /// The same, with more time: for a build before the start.
    ///
    /// # Panics
    /// As [`wait_ready`](Self::wait_ready).
    pub fn wait_ready_within(&mut self, within: Duration) {
        let ready = |line: &Value| {
            let services = line["services"].as_array();
            services
                .is_some_and(|all| !all.is_empty() && all.iter().all(|service| service["state"] == "ready"))
        };
        let _ = self.wait_told("every service to be ready", within, ready);
    }

    /// Waits for a line of `up --json`.
    ///
    /// # Panics
    /// If it does not come, or `up` ends first.
    pub fn wait_told(&mut self, what: &str, within: Duration, is_it: impl Fn(&Value) -> bool) -> Value {
        let start = std::time::Instant::now();
        loop {
            if let Some(line) = self.told().into_iter().find(&is_it) {
                return line;
            }
            let ended = wait_child(&mut self.child, Duration::from_millis(10));
            if ended.is_some() || start.elapsed() > within {
                self.ended = ended;
                let (out, err) = self.said();
                panic!(
                    "waited for {what}: {ended:?} after {:?}\n--- stdout\n{out}\n--- stderr\n{err}",
                    start.elapsed()
                );
            }
        }
    }

    /// The lines of `up --json` so far.
    #[must_use]
    pub fn told(&self) -> Vec<Value> {
        // The last line may be half written.
        self.said().0.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
    }

    /// What `up` wrote to standard output and error.
    #[must_use]
    pub fn said(&self) -> (String, String) {
        let read = |name| fs::read_to_string(self.outer.path().join(name)).unwrap_or_default();
        (read("up.out"), read("up.err"))
    }

    /// The application's folder.
    #[must_use]
    pub fn folder(&self) -> PathBuf {
        self.folder.clone()
    }

    /// The process of `formic up`.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The gateway.
    #[must_use]
    pub fn gateway(&self) -> &Gateway {
        &self.gateway
    }

    /// Runs the binary in the application's folder.
    #[must_use]
    pub fn formic(&self, args: &[&str]) -> Ended {
        formic_in(&self.folder(), args).run()
    }

    /// `formic status --json`.
    #[must_use]
    pub fn status(&self) -> Value {
        formic_in(&self.folder(), &["status", "--json"]).good().json()
    }

    /// One service of the status.
    ///
    /// # Panics
    /// If there is none of the name.
    #[must_use]
    pub fn service(&self, name: &str) -> Value {
        let status = self.status();
        let found = status["services"].as_array().unwrap().iter().find(|service| service["name"] == name);
        found.unwrap_or_else(|| panic!("no service {name} in {status}")).clone()
    }

    /// The process of a service's first instance.
    ///
    /// # Panics
    /// If it has none.
    #[must_use]
    pub fn pid_of(&self, service: &str) -> u32 {
        let row = self.service(service);
        let pid = row["instances"][0]["pid"].as_u64().filter(|pid| *pid > 0);
        u32::try_from(pid.unwrap_or_else(|| panic!("{service} does not run: {row}"))).unwrap()
    }

    /// Where a service's first instance answers, `host:port`.
    ///
    /// # Panics
    /// If it has none.
    #[must_use]
    pub fn address_of(&self, service: &str) -> String {
        let row = self.service(service);
        let address = row["instances"][0]["address"].as_str().unwrap_or_default();
        let address = address.strip_prefix("http://").unwrap_or(address);
        assert!(address.contains(':'), "{service} has no address: {row}");
        address.to_owned()
    }

    /// Waits until a service is ready with another process than before.
    ///
    /// # Panics
    /// If that takes too long.
    pub fn wait_restarted(&self, service: &str, before: u32) -> u32 {
        wait_for(&format!("{service} to be back"), READY, || {
            let row = self.service(service);
            let pid = u32::try_from(row["instances"][0]["pid"].as_u64()?).ok()?;
            (row["state"] == "ready" && pid != before && pid != 0).then_some(pid)
        })
    }

    /// `formic call` of a method with one answer; reaches services that the gateway hides.
    ///
    /// # Errors
    /// What was answered instead.
    pub fn call(&self, method: &str, request: &Value, more: &[&str]) -> Result<Value, Refused> {
        let request = request.to_string();
        let args = [&["call", method, &request, "--json"], more].concat();
        let ended = self.formic(&args);
        match ended.code {
            Some(0) => Ok(ended.json()),
            code => {
                let told: Option<Value> = serde_json::from_str(&ended.stdout).ok();
                let error = told.map(|told| told["error"].clone()).filter(|error| !error.is_null());
                Err(Refused { exit: code.unwrap_or(-1), error: error.unwrap_or(Value::String(ended.stderr)) })
            }
        }
    }

    /// Sends a signal to `formic up`.
    ///
    /// # Panics
    /// If it is gone.
    pub fn signal(&self, what: Signal) {
        assert!(signal(self.pid(), what), "formic up is gone");
    }

    /// Waits for the end of `formic up`; the exit code, or 128 and the signal.
    ///
    /// # Panics
    /// If it does not end.
    pub fn wait_end(&mut self) -> i32 {
        if self.ended.is_none() {
            self.ended = wait_child(&mut self.child, STOP);
        }
        let (_, err) = self.said();
        let ended = self.ended.unwrap_or_else(|| panic!("formic up did not end within {STOP:?}: {err}"));
        ended.code().unwrap_or_else(|| 128 + ended.signal().unwrap_or_default())
    }

    /// Stops it as Ctrl-C does and expects that nothing is left.
    ///
    /// # Panics
    /// If it fails or leaves something.
    pub fn stop(&mut self) {
        self.signal(Signal::INT);
        let code = self.wait_end();
        assert_eq!(code, 0, "{}", self.said().1);
        assert_eq!(of_application(&self.folder()), Vec::<u32>::new(), "processes are left");
    }

    fn end(&mut self) {
        if self.ended.is_none() {
            signal(self.child.id(), Signal::INT);
            self.ended = wait_child(&mut self.child, STOP);
        }
        if self.ended.is_none() {
            let _ = self.child.kill();
            self.ended = self.child.wait().ok();
        }
    }
}

impl Drop for App {
    fn drop(&mut self) {
        self.end();
        let left = of_application(&self.folder());
        for pid in &left {
            signal(*pid, Signal::KILL);
        }
        if std::thread::panicking() {
            let (out, err) = self.said();
            eprintln!("--- formic up, stdout\n{out}\n--- formic up, stderr\n{err}");
            eprintln!("--- logs\n{}", self.logs());
            return;
        }
        assert!(left.is_empty(), "processes {left:?} were left running");
    }
}

impl App {
    /// The end of every log, for a test that failed.
    fn logs(&self) -> String {
        let mut text = String::new();
        let folders = fs::read_dir(self.folder().join(".formic/logs")).into_iter().flatten().flatten();
        for file in folders.flat_map(|folder| fs::read_dir(folder.path()).into_iter().flatten().flatten()) {
            let content = fs::read_to_string(file.path()).unwrap_or_default();
            let lines: Vec<&str> = content.lines().collect();
            for line in &lines[lines.len().saturating_sub(30)..] {
                text.push_str(&format!("{}: {line}\n", file.file_name().to_string_lossy()));
            }
        }
        text
    }

    /// Waits until no process of the application is left.
    ///
    /// # Panics
    /// If some are left.
    pub fn wait_gone(&self) {
        let folder = self.folder();
        wait_until("every process to be gone", STOP, || of_application(&folder).is_empty());
    }
}

/// A file for what `formic up` writes, so that nothing holds the output of the tests open.
fn output(outer: &Path, name: &str) -> Stdio {
    File::create(outer.join(name)).unwrap().into()
}

/// Starts `formic up`.
fn up(folder: &Path, args: &[String], [stdout, stderr]: [Stdio; 2]) -> Child {
    let mut command = builds(formic(&["up"])).into_command();
    command.args(args).arg(folder);
    command.stdin(Stdio::null()).stdout(stdout).stderr(stderr);
    command.spawn().unwrap()
}
