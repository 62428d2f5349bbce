//! Running programs with a limit, and looking after processes by number.

use std::ffi::OsStr;
use std::fs;
use std::io::{Read, Write};
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

/// Against hanging alone: what a command waits for itself, such as an update, may take its time on a busy machine.
const LIMIT: Duration = Duration::from_secs(180);

/// A program to run to its end.
#[derive(Debug)]
pub struct Tool {
    command: Command,
    input: Option<String>,
    limit: Duration,
}

/// How it ended, and what it said.
#[derive(Debug)]
pub struct Ended {
    /// The exit code; none if a signal ended it.
    pub code: Option<i32>,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
}

impl From<Command> for Tool {
    fn from(command: Command) -> Self {
        Self { command, input: None, limit: LIMIT }
    }
}

impl Tool {
    /// A program by name or path.
    pub fn new(program: impl AsRef<OsStr>) -> Self {
        Command::new(program).into()
    }

    /// Adds arguments.
    #[must_use]
    pub fn args<S: AsRef<OsStr>>(mut self, args: impl IntoIterator<Item = S>) -> Self {
        self.command.args(args);
        self
    }

    /// Sets a variable.
    #[must_use]
    pub fn env(mut self, name: &str, value: impl AsRef<OsStr>) -> Self {
        self.command.env(name, value);
        self
    }

    /// Takes a variable away.
    #[must_use]
    pub fn env_remove(mut self, name: &str) -> Self {
        self.command.env_remove(name);
        self
    }

    /// Runs it in a folder.
    #[must_use]
    pub fn within(mut self, folder: &Path) -> Self {
        self.command.current_dir(folder);
        self
    }

    /// Gives it something to read.
    #[must_use]
    pub fn input(mut self, text: impl Into<String>) -> Self {
        self.input = Some(text.into());
        self
    }

    /// Gives it more or less time than three minutes.
    #[must_use]
    pub fn limit(mut self, limit: Duration) -> Self {
        self.limit = limit;
        self
    }

    /// The command, for one that goes on.
    #[must_use]
    pub fn into_command(self) -> Command {
        self.command
    }

    /// Runs it to its end.
    ///
    /// # Panics
    /// If it cannot be started or does not end in time.
    #[must_use]
    pub fn run(self) -> Ended {
        let (shown, limit) = (format!("{:?}", self.command), self.limit);
        self.try_run().unwrap_or_else(|cut| {
            panic!("{shown} did not end within {limit:?}\n{}\n{}", cut.stdout, cut.stderr)
        })
    }

    /// The same.
    ///
    /// # Errors
    /// If it does not end in time and is killed for it: what it had said until then.
    ///
    /// # Panics
    /// If it cannot be started.
    pub fn try_run(mut self) -> Result<Ended, Ended> {
        let shown = format!("{:?}", self.command);
        self.command.stdin(if self.input.is_some() { Stdio::piped() } else { Stdio::null() });
        self.command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = self.command.spawn().unwrap_or_else(|error| panic!("start {shown}: {error}"));
        let (mut out, mut err) = (child.stdout.take().unwrap(), child.stderr.take().unwrap());
        let stdin = child.stdin.take();
        let input = self.input.take().unwrap_or_default();
        thread::scope(|scope| {
            scope.spawn(move || {
                // A program may end without reading everything.
                let _ = stdin.map(|mut stdin| stdin.write_all(input.as_bytes()));
            });
            let out = scope.spawn(move || drain(&mut out));
            let err = scope.spawn(move || drain(&mut err));
            let status = wait_child(&mut child, self.limit);
            if status.is_none() {
                // Its output ends with it, and so do the threads.
                let _ = child.kill();
                let _ = child.wait();
            }
            let (stdout, stderr) = (out.join().unwrap(), err.join().unwrap());
            match status {
                Some(status) => {
                    let code = status.code().or(status.signal().map(|signal| 128 + signal));
                    Ok(Ended { code, stdout, stderr })
                }
                None => Err(Ended { code: None, stdout, stderr }),
            }
        })
    }

    /// Runs it and expects success.
    ///
    /// # Panics
    /// If it fails.
    #[must_use]
    pub fn good(self) -> Ended {
        let shown = format!("{:?}", self.command);
        let ended = self.run();
        assert_eq!(
            ended.code,
            Some(0),
            "{shown}\n--- stdout\n{}\n--- stderr\n{}",
            ended.stdout,
            ended.stderr
        );
        ended
    }
}

fn drain(from: &mut impl Read) -> String {
    let mut bytes = Vec::new();
    // What was read until an error is what there is.
    let _ = from.read_to_end(&mut bytes);
    String::from_utf8_lossy(&bytes).into_owned()
}

impl Ended {
    /// Standard output as one JSON value.
    ///
    /// # Panics
    /// If it is none.
    #[must_use]
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.stdout)
            .unwrap_or_else(|error| panic!("{error} in {:?}; stderr: {}", self.stdout, self.stderr))
    }

    /// Standard output as a JSON value a line.
    ///
    /// # Panics
    /// If a line is none.
    #[must_use]
    pub fn json_lines(&self) -> Vec<serde_json::Value> {
        self.stdout
            .lines()
            .map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error} in {line:?}")))
            .collect()
    }

    /// Expects an exit code and words on standard error, for people.
    ///
    /// # Panics
    /// If it is another, or a word is missing.
    #[track_caller]
    pub fn says(&self, code: i32, words: &[&str]) {
        assert_eq!(self.code, Some(code), "stdout: {}\nstderr: {}", self.stdout, self.stderr);
        for word in words {
            assert!(self.stderr.contains(word), "{word:?} is not in:\n{}", self.stderr);
        }
    }
}

/// Waits for a child, within a limit.
///
/// # Panics
/// If the system forbids to wait.
pub fn wait_child(child: &mut Child, within: Duration) -> Option<ExitStatus> {
    let start = Instant::now();
    loop {
        if let Some(status) = child.try_wait().unwrap() {
            return Some(status);
        }
        if start.elapsed() > within {
            return None;
        }
        thread::sleep(Duration::from_millis(5));
    }
}

/// Sends a signal to a process; false if there is none of this number.
///
/// # Panics
/// If the number is none.
pub fn signal(pid: u32, signal: Signal) -> bool {
    let pid = Pid::from_raw(i32::try_from(pid).unwrap()).expect("a process has a number above 0");
    kill_process(pid, signal).is_ok()
}

/// Whether a process runs: it exists and is no zombie.
#[must_use]
pub fn alive(pid: u32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    // The name may hold anything but ends with the last parenthesis; the state follows it.
    stat.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with(['Z', 'X']))
}

/// The processes of the application in a folder: those that were given its daemon's socket or its folder of records.
#[must_use]
pub fn of_application(folder: &Path) -> Vec<u32> {
    let state = folder.join(".formic");
    let state = state.as_os_str().as_encoded_bytes();
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let numbers = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    numbers
        .filter(|pid| {
            let environment = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
            let mut variables = environment.split(|byte| *byte == 0);
            let ours = variables.any(|variable| {
                variable.starts_with(b"FORMIC_") && variable.windows(state.len()).any(|part| part == state)
            });
            ours && alive(*pid)
        })
        .collect()
}
