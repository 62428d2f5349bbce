//! What is measured, built: the release profile of both workspaces, through cargo.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail};
use serde_json::Value;

/// Where things are.
pub(crate) struct Workspace {
    pub(crate) root: PathBuf,
    target: PathBuf,
}

/// The programs, by path.
pub(crate) struct Programs {
    pub(crate) echo: PathBuf,
    pub(crate) caller: PathBuf,
    pub(crate) connectrpc: PathBuf,
    pub(crate) tonic: PathBuf,
    pub(crate) tarpc: PathBuf,
    formic: PathBuf,
}

impl Workspace {
    pub(crate) fn find() -> Result<Self> {
        let manifest = Path::new(env!("CARGO_MANIFEST_DIR")).join("Cargo.toml");
        let mut cargo = cargo("metadata");
        cargo.args(["--format-version", "1", "--no-deps", "--locked", "--manifest-path"]).arg(&manifest);
        let output = cargo.stderr(Stdio::inherit()).output().context("start cargo")?;
        let metadata: Value = serde_json::from_slice(&output.stdout).context("read what cargo says")?;
        let path = |key: &str| metadata[key].as_str().map(PathBuf::from).context("cargo named no folder");
        Ok(Self { root: path("workspace_root")?, target: path("target_directory")? })
    }
}

impl Programs {
    pub(crate) fn build(workspace: &Workspace) -> Result<Self> {
        let main = workspace.root.join("Cargo.toml");
        let peers = workspace.root.join("bench/peers/Cargo.toml");
        let ours = ["-p", "formic-bench", "-p", "formic-cli", "--bins"];
        let mut ours = build(&main, &workspace.target, &ours)?;
        let mut theirs = build(&peers, &workspace.target.join("bench-peers"), &["--workspace"])?;
        let take = |from: &mut HashMap<String, PathBuf>, name: &str| {
            from.remove(name).with_context(|| format!("cargo built no {name}"))
        };
        Ok(Self {
            echo: take(&mut ours, "bench-echo")?,
            caller: take(&mut ours, "bench-caller")?,
            formic: take(&mut ours, "formic")?,
            connectrpc: take(&mut theirs, "peer-connectrpc")?,
            tonic: take(&mut theirs, "peer-tonic")?,
            tarpc: take(&mut theirs, "peer-tarpc")?,
        })
    }

    /// In bytes.
    pub(crate) fn formic_size(&self) -> Result<u64> {
        let facts = std::fs::metadata(&self.formic);
        Ok(facts.with_context(|| format!("look at {}", self.formic.display()))?.len())
    }
}

fn cargo(verb: &str) -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.arg(verb).stdin(Stdio::null());
    command
}

/// Builds, and says where each program is.
fn build(manifest: &Path, target: &Path, what: &[&str]) -> Result<HashMap<String, PathBuf>> {
    let mut cargo = cargo("build");
    cargo.args(["--release", "--locked", "--message-format", "json-render-diagnostics"]);
    cargo.arg("--manifest-path").arg(manifest).args(what);
    // In the environment, since a setting there would win over a flag's absence for the peers.
    cargo.env("CARGO_TARGET_DIR", target);
    let output = cargo.stderr(Stdio::inherit()).output().context("start cargo")?;
    if !output.status.success() {
        bail!("what is to be measured does not build");
    }
    let messages = output.stdout.split(|&byte| byte == b'\n').filter(|line| !line.is_empty());
    let mut programs = HashMap::new();
    for message in messages {
        let message: Value = serde_json::from_slice(message).context("read what cargo says")?;
        if let (Some(name), Some(path)) = (message["target"]["name"].as_str(), message["executable"].as_str())
        {
            programs.insert(name.to_owned(), PathBuf::from(path));
        }
    }
    Ok(programs)
}
