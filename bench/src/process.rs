//! Processes that end with the bench: killed when dropped, and by the end of their input when the bench
//! itself was killed.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use serde::Deserialize;
use serde_json::Value;
use tokio::io::{AsyncBufReadExt as _, BufReader, Lines};
use tokio::process::{Child, ChildStdout, Command};

/// How long a server may take to say where it listens.
const START: Duration = Duration::from_secs(30);
/// How long a caller may take beyond the load that it was told to make.
const SLACK: Duration = Duration::from_secs(20);

/// A program about to be started.
pub(crate) struct Program {
    command: Command,
    log: PathBuf,
}

/// A process with its log.
pub(crate) struct Process {
    child: Child,
    log: PathBuf,
}

/// What a program prints, line by line.
pub(crate) type Talk = Lines<BufReader<ChildStdout>>;

/// What a caller says about its load.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Measured {
    /// Calls that were answered, those of the warm-up too.
    pub(crate) answered: u64,
    pub(crate) errors: u64,
    pub(crate) first_error: Option<String>,
    pub(crate) rps: f64,
    pub(crate) p50_us: f64,
    pub(crate) p99_us: f64,
    /// Processor time of the caller for each call.
    pub(crate) client_cpu_us: Option<f64>,
}

impl Program {
    /// A program whose words on standard error go to a file of the folder.
    pub(crate) fn new(path: &Path, folder: &Path) -> Result<Self> {
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or("program");
        Self::named(path, folder, name)
    }

    /// The same under a name of its own, for one of several.
    pub(crate) fn named(path: &Path, folder: &Path, name: &str) -> Result<Self> {
        let log = folder.join(format!("{name}.log"));
        let file = std::fs::File::create(&log).with_context(|| format!("write {}", log.display()))?;
        let mut command = Command::new(path);
        command.current_dir(folder).stderr(file).kill_on_drop(true);
        // Whoever runs the bench under `formic` or with settings of their own measures the same.
        for (name, _) in std::env::vars_os() {
            if name.to_str().is_some_and(|name| name.starts_with("FORMIC_") || name == "TOKIO_WORKER_THREADS")
            {
                command.env_remove(name);
            }
        }
        Ok(Self { command, log })
    }

    /// Where it runs.
    pub(crate) fn within(mut self, folder: &Path) -> Self {
        self.command.current_dir(folder);
        self
    }

    pub(crate) fn args<const N: usize>(mut self, args: [&str; N]) -> Self {
        self.command.args(args);
        self
    }

    pub(crate) fn env(mut self, name: &str, value: &str) -> Self {
        self.command.env(name, value);
        self
    }

    /// Starts a server; it lives as long as its input is open.
    pub(crate) fn start(mut self) -> Result<Process> {
        self.command.stdin(Stdio::piped());
        let program = self.command.as_std().get_program().to_owned();
        let child = self.command.spawn().with_context(|| format!("start {}", program.display()))?;
        Ok(Process { child, log: self.log })
    }

    /// The same, and what it prints goes nowhere.
    pub(crate) fn start_quiet(mut self) -> Result<Process> {
        self.command.stdout(Stdio::null());
        self.start()
    }

    /// Starts a server that prints where it listens.
    pub(crate) async fn start_announced(mut self) -> Result<(Process, String)> {
        self.command.stdout(Stdio::piped());
        let mut process = self.start()?;
        let stdout = process.child.stdout.take().context("the server has no output")?;
        match tokio::time::timeout(START, first_line(stdout)).await {
            Ok(Ok(line)) if !line.is_empty() => Ok((process, line)),
            _ => bail!("the server did not start: {}", process.last_words()),
        }
    }

    /// Starts a program whose output is read line by line while it runs.
    pub(crate) fn start_talking(mut self) -> Result<(Process, Talk)> {
        self.command.stdout(Stdio::piped());
        let mut process = self.start()?;
        let stdout = process.child.stdout.take().context("the program has no output")?;
        Ok((process, BufReader::new(stdout).lines()))
    }

    /// Runs a program to its end; gives back what it printed.
    pub(crate) async fn run(mut self, limit: Duration) -> Result<String> {
        self.command.stdin(Stdio::null());
        let output = tokio::time::timeout(limit, self.command.output()).await;
        let log = last_words(&self.log);
        let output = output.with_context(|| format!("it hangs: {log}"))?.context("start a program")?;
        if !output.status.success() {
            bail!("it failed with {}: {log}", output.status);
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// Runs a caller to its end.
    pub(crate) async fn measure(self, load: Duration) -> Result<Measured> {
        let text = self.run(load + SLACK).await.context("run a caller")?;
        serde_json::from_str(&text).with_context(|| format!("read what the caller said: {text:?}"))
    }
}

impl Program {
    /// Runs a program to its end and reads its last line as JSON, whether it failed or not.
    pub(crate) async fn said(mut self, limit: Duration) -> Result<Value> {
        self.command.stdin(Stdio::null());
        let output = tokio::time::timeout(limit, self.command.output()).await;
        let output = output.with_context(|| format!("it hangs: {}", last_words(&self.log)))?;
        let output = output.context("start the program")?;
        let text = String::from_utf8_lossy(&output.stdout);
        let last = text.lines().next_back().unwrap_or_default();
        serde_json::from_str(last).with_context(|| format!("it said {text:?}: {}", last_words(&self.log)))
    }
}

/// As many open files as this user may have at most, for this process and what it starts from now on.
pub(crate) fn raise_open_files() -> Result<()> {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    setrlimit(Resource::Nofile, limit).context("raise the limit of open files")
}

async fn first_line(stdout: ChildStdout) -> std::io::Result<String> {
    let mut line = String::new();
    BufReader::new(stdout).read_line(&mut line).await?;
    Ok(line.trim().to_owned())
}

impl Process {
    /// Processor time so far.
    pub(crate) fn cpu(&self) -> Option<Duration> {
        formic_bench::cpu::used(self.child.id()?)
    }

    /// Resident memory in MiB.
    pub(crate) fn resident(&self) -> Option<f64> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id()?)).ok()?;
        resident(&status)
    }

    /// What it wrote last, for a message about its failure.
    pub(crate) fn last_words(&self) -> String {
        last_words(&self.log)
    }

    /// Ends its input: those that live as long as it does go about their end.
    pub(crate) fn close_input(&mut self) {
        self.child.stdin.take();
    }

    /// Ends its input and waits, without a runtime, until it is gone; it is killed if that takes too long.
    pub(crate) fn let_end(mut self, limit: Duration) -> Result<()> {
        self.close_input();
        let deadline = std::time::Instant::now() + limit;
        while self.child.try_wait().context("wait for a process")?.is_none() {
            if std::time::Instant::now() > deadline {
                bail!("it has not ended after {limit:?}: {}", self.last_words());
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }

    /// Waits until it ends by itself, well.
    pub(crate) async fn finish(mut self, limit: Duration) -> Result<()> {
        let status = tokio::time::timeout(limit, self.child.wait()).await;
        let status = status.with_context(|| format!("it does not end: {}", self.last_words()))?;
        let status = status.context("wait for a process")?;
        if !status.success() {
            bail!("it failed with {status}: {}", self.last_words());
        }
        Ok(())
    }

    /// Kills it and waits for its end.
    pub(crate) async fn end(mut self) -> Result<()> {
        self.child.kill().await.context("end a process")
    }
}

/// Resident memory in MiB, of what `/proc` says of a process.
pub(crate) fn resident(status: &str) -> Option<f64> {
    let kib = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?.trim().strip_suffix(" kB")?;
    Some(kib.parse::<f64>().ok()? / 1024.0)
}

fn last_words(log: &Path) -> String {
    let text = std::fs::read_to_string(log).unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    let last = lines[lines.len().saturating_sub(5)..].join("\n");
    if last.is_empty() { "it said nothing".into() } else { last }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resident_memory_is_read_in_mebibytes() {
        assert_eq!(resident("Name:\ta\nVmRSS:\t   10240 kB\nThreads:\t3\n"), Some(10.0));
        assert_eq!(resident("Name:\ta\n"), None);
    }
}
