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

/// What is of this workspace, by path.
#[derive(Clone)]
pub(crate) struct Ours {
    pub(crate) echo: PathBuf,
    pub(crate) caller: PathBuf,
    pub(crate) instance: PathBuf,
    pub(crate) driver: PathBuf,
    pub(crate) storm: PathBuf,
    pub(crate) socket: PathBuf,
    pub(crate) formic: PathBuf,
}

/// That, and the peers.
pub(crate) struct Programs {
    pub(crate) ours: Ours,
    pub(crate) connectrpc: PathBuf,
    pub(crate) tonic: PathBuf,
    pub(crate) tarpc: PathBuf,
}

/// What `engine` starts, by path.
pub(crate) struct Managed {
    pub(crate) formic: PathBuf,
    pub(crate) idle: PathBuf,
}

impl Managed {
    /// Builds only what is needed.
    pub(crate) fn build(workspace: &Workspace) -> Result<Self> {
        let manifest = workspace.root.join("Cargo.toml");
        let mut formic = build(&manifest, &workspace.target, &["-p", "formic-cli", "--bins"])?;
        let mut idle = build(&manifest, &workspace.target, &["-p", "formic-bench", "--bin", "bench-idle"])?;
        Ok(Self {
            formic: formic.remove("formic").context("cargo built no formic")?,
            idle: idle.remove("bench-idle").context("cargo built no bench-idle")?,
        })
    }
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

impl Ours {
    pub(crate) fn build(workspace: &Workspace) -> Result<Self> {
        let manifest = workspace.root.join("Cargo.toml");
        let what = ["-p", "formic-bench", "-p", "formic-cli", "--bins"];
        let mut built = build(&manifest, &workspace.target, &what)?;
        Ok(Self {
            echo: take(&mut built, "bench-echo")?,
            caller: take(&mut built, "bench-caller")?,
            instance: take(&mut built, "bench-instance")?,
            driver: take(&mut built, "bench-driver")?,
            storm: take(&mut built, "bench-storm")?,
            socket: take(&mut built, "bench-socket")?,
            formic: take(&mut built, "formic")?,
        })
    }

    /// In bytes.
    pub(crate) fn formic_size(&self) -> Result<u64> {
        let facts = std::fs::metadata(&self.formic);
        Ok(facts.with_context(|| format!("look at {}", self.formic.display()))?.len())
    }
}

impl Programs {
    pub(crate) fn build(workspace: &Workspace) -> Result<Self> {
        Self::beside(Ours::build(workspace)?, workspace)
    }

    /// Builds the peers beside what is built.
    pub(crate) fn beside(ours: Ours, workspace: &Workspace) -> Result<Self> {
        let manifest = workspace.root.join("bench/peers/Cargo.toml");
        let mut built = build(&manifest, &workspace.target.join("bench-peers"), &["--workspace"])?;
        Ok(Self {
            ours,
            connectrpc: take(&mut built, "peer-connectrpc")?,
            tonic: take(&mut built, "peer-tonic")?,
            tarpc: take(&mut built, "peer-tarpc")?,
        })
    }
}

fn take(from: &mut HashMap<String, PathBuf>, name: &str) -> Result<PathBuf> {
    from.remove(name).with_context(|| format!("cargo built no {name}"))
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
