//! A server with its instances, in a folder of its own. Nothing of it outlives the stage, however it ends.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use formic::registry::Memory;
use formic::{Channel, Client, Endpoint};
use formic_api::control::v1 as pb;
use rustix::process::{Pid, Signal, kill_process};

use crate::programs::Managed;

/// A command of `formic` that takes longer hangs.
const COMMAND: Duration = Duration::from_secs(120);
/// One look at the status; a brain that is not there refuses at once.
const LOOK: Duration = Duration::from_secs(2);
/// The only service.
pub(super) const SERVICE: &str = "idle";

/// See the module.
pub(super) struct Stage {
    formic: PathBuf,
    folder: PathBuf,
}

impl Stage {
    /// Writes the manifest and starts a server that wants nothing yet.
    pub(super) async fn set(programs: &Managed, scratch: &Path, instances: u32) -> Result<Self> {
        let folder = scratch.join(format!("app-{instances}"));
        std::fs::create_dir_all(&folder).with_context(|| format!("make {}", folder.display()))?;
        let idle = serde_json::to_string(&programs.idle).context("the program's path is no text")?;
        let manifest = format!(
            "[app]\nname = \"bench\"\n\n[service.{SERVICE}]\ncommand = [{idle}]\nreplicas = {instances}\n\
             health = {{ ready = \"none\" }}\n"
        );
        std::fs::write(folder.join("formic.toml"), manifest).context("write the manifest")?;
        let stage = Self { formic: programs.formic.clone(), folder };
        stage.formic(&["server", "--detach"]).await?;
        Ok(stage)
    }

    /// Runs a command of `formic` in the folder.
    pub(super) async fn formic(&self, arguments: &[&str]) -> Result<String> {
        let mut command = tokio::process::Command::new(&self.formic);
        command.args(arguments).current_dir(&self.folder).stdin(Stdio::null()).kill_on_drop(true);
        for (name, _) in std::env::vars_os() {
            if name.to_str().is_some_and(|name| name.starts_with("FORMIC_") || name == "TOKIO_WORKER_THREADS")
            {
                command.env_remove(name);
            }
        }
        let what = arguments.join(" ");
        let output = tokio::time::timeout(COMMAND, command.output())
            .await
            .with_context(|| format!("formic {what} hangs"))?
            .with_context(|| format!("start formic {what}"))?;
        if !output.status.success() {
            bail!("formic {what} failed: {}", String::from_utf8_lossy(&output.stderr));
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    fn state(&self) -> PathBuf {
        self.folder.join(".formic")
    }

    /// Where an instance's first line is.
    pub(super) fn output(&self, instance: &str) -> PathBuf {
        self.state().join("logs").join(SERVICE).join(format!("{instance}.out.log"))
    }

    /// A new way to the brain: one that has failed waits before it tries again.
    pub(super) fn channel(&self) -> Channel {
        let client = Client::new(Arc::new(Memory::new()), Default::default());
        client.at(Endpoint::Unix(self.state().join("api.sock")))
    }

    pub(super) async fn status(&self) -> Option<pb::StatusResponse> {
        let control = pb::ControlServiceClient::new(self.channel());
        let asked = tokio::time::timeout(LOOK, control.status(pb::StatusRequest::default())).await;
        Some(asked.ok()?.ok()?.into_message())
    }

    /// Looks at the status until it is as it is to be; says how long that took.
    pub(super) async fn until(
        &self,
        what: &str,
        pause: Duration,
        limit: Duration,
        is: impl Fn(&pb::StatusResponse) -> bool,
    ) -> Result<(Duration, pb::StatusResponse)> {
        let began = Instant::now();
        loop {
            let status = self.status().await;
            if let Some(status) = status.filter(|status| is(status)) {
                return Ok((began.elapsed(), status));
            }
            if began.elapsed() > limit {
                bail!(
                    "not within {} s: {what}; the server's log ends with {}",
                    limit.as_secs(),
                    self.last_words()
                );
            }
            tokio::time::sleep(pause).await;
        }
    }

    fn last_words(&self) -> String {
        let text = std::fs::read_to_string(self.state().join("server.log")).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(3)..].join(" | ")
    }

    /// Ends the instances and then the server, as people do.
    pub(super) async fn clear(self) -> Result<Duration> {
        let began = Instant::now();
        let control = pb::ControlServiceClient::new(self.channel());
        let stop = pb::StopRequest { now: true, ..Default::default() };
        control.stop(stop).timeout(COMMAND).await.context("stop all instances")?;
        let took = began.elapsed();
        self.formic(&["server", "stop"]).await?;
        Ok(took)
    }

    /// Ends every process that belongs here, whatever state it is in. The keeper first, or it would start anew
    /// what is killed.
    fn sweep(&self) {
        let folder = self.folder.as_os_str().as_encoded_bytes();
        for _ in 0..50 {
            let found = belonging(folder);
            if found.is_empty() {
                return;
            }
            for pid in found {
                // What is gone by now needs no signal.
                let _ = kill(pid);
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        self.sweep();
    }
}

/// The processes whose arguments or environment name the folder: the server's by the first, the instances by the
/// second. The folder's name has the bench's process number in it, so nobody else's do. In the order of their numbers:
/// the keeper is the oldest.
fn belonging(folder: &[u8]) -> Vec<u32> {
    let mut found: Vec<u32> = Vec::new();
    for entry in std::fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        let names = |file: &str| {
            let content = std::fs::read(entry.path().join(file)).unwrap_or_default();
            content.windows(folder.len()).any(|part| part == folder)
        };
        if pid != std::process::id() && (names("cmdline") || names("environ")) {
            found.push(pid);
        }
    }
    found.sort_unstable();
    found
}

/// Kills a process by its number.
pub(super) fn kill(pid: u32) -> Result<()> {
    let number = i32::try_from(pid).ok().and_then(Pid::from_raw).context("no process number")?;
    kill_process(number, Signal::KILL).with_context(|| format!("kill process {pid}"))
}
