//! Processes that end with the bench: killed when dropped, and by the end of their input when the bench
//! itself was killed.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use serde::Deserialize;
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::{Child, ChildStdout, Command};

/// How long a server may take to say where it listens.
const START: Duration = Duration::from_secs(10);
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

    /// Runs a caller to its end.
    pub(crate) async fn measure(mut self, load: Duration) -> Result<Measured> {
        self.command.stdin(Stdio::null());
        let output = tokio::time::timeout(load + SLACK, self.command.output()).await;
        let log = last_words(&self.log);
        let output =
            output.with_context(|| format!("the caller hangs: {log}"))?.context("start the caller")?;
        if !output.status.success() {
            bail!("the caller failed with {}: {log}", output.status);
        }
        let text = String::from_utf8_lossy(&output.stdout);
        serde_json::from_str(&text).with_context(|| format!("read what the caller said: {text:?}"))
    }
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

    /// Kills it and waits for its end.
    pub(crate) async fn end(mut self) -> Result<()> {
        self.child.kill().await.context("end a process")
    }
}

fn resident(status: &str) -> Option<f64> {
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
