//! Where the workspace is, how cargo is called in it, and what `cargo metadata` says about it.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail};
use serde::Deserialize;

/// A checkout of this repository.
#[derive(Debug)]
pub(crate) struct Workspace {
    pub(crate) root: PathBuf,
}

impl Workspace {
    /// Asks cargo, from the current folder upwards.
    pub(crate) fn locate() -> Result<Self> {
        // `cargo run` says which manifest it ran, which also works from outside the workspace with --manifest-path.
        let mut command = Command::new(cargo_program());
        command.args(["locate-project", "--workspace", "--message-format", "plain"]);
        if let Some(manifest) = std::env::var_os("CARGO_MANIFEST_DIR") {
            command.current_dir(manifest);
        }
        let manifest = PathBuf::from(capture(&mut command)?.trim());
        let root = manifest.parent().context("cargo named a manifest without a folder")?.to_owned();
        Ok(Self { root })
    }

    /// `cargo <args>` in the root, with standard input closed.
    pub(crate) fn cargo<I, S>(&self, args: I) -> Command
    where
        I: IntoIterator<Item = S>,
        S: AsRef<std::ffi::OsStr>,
    {
        let mut command = Command::new(cargo_program());
        command.args(args).current_dir(&self.root).stdin(Stdio::null());
        // What `cargo run` told this process about xtask is not for the children: build scripts that watch these
        // variables would run again for nothing.
        for (key, _) in std::env::vars_os() {
            if key
                .to_str()
                .is_some_and(|key| key.starts_with("CARGO_PKG_") || key.starts_with("CARGO_MANIFEST_"))
            {
                command.env_remove(key);
            }
        }
        command
    }

    /// Every package in the resolved graph: all platforms, all features of our own crates.
    pub(crate) fn metadata(&self) -> Result<Metadata> {
        let mut command = self.cargo(["metadata", "--format-version", "1", "--all-features", "--locked"]);
        let json = capture(&mut command)?;
        let mut metadata: Metadata =
            serde_json::from_str(&json).context("read what cargo metadata printed")?;
        metadata.relative_to(&self.root);
        metadata.only(&self.built()?);
        Ok(metadata)
    }

    /// Name and version of every package that some build takes in. The lock file, and `cargo metadata` with it, also
    /// lists optional packages whose features are named only for the case that they are there (`ring?/alloc`).
    fn built(&self) -> Result<BTreeSet<(String, String)>> {
        let mut command =
            self.cargo(["tree", "--workspace", "--all-features", "--target", "all", "--edges", "all"]);
        command.args(["--prefix", "none", "--format", "{p}", "--locked"]);
        Ok(listed(&capture(&mut command)?))
    }
}

/// The packages of `cargo tree`: `name v1.2.3 (path)` a line.
fn listed(tree: &str) -> BTreeSet<(String, String)> {
    tree.lines()
        .filter_map(|line| {
            let mut words = line.split(' ');
            Some((words.next()?.to_owned(), words.next()?.strip_prefix('v')?.to_owned()))
        })
        .collect()
}

fn cargo_program() -> std::ffi::OsString {
    std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into())
}

/// The folder in which cargo builds.
pub(crate) fn target_dir(workspace: &Workspace) -> PathBuf {
    let root = &workspace.root;
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root.join("target"), |target| root.join(target))
}

/// Runs `command` and returns its standard output; a failure carries its standard error.
pub(crate) fn capture(command: &mut Command) -> Result<String> {
    let name = describe(command);
    let output = command.stdin(Stdio::null()).output().with_context(|| format!("start `{name}`"))?;
    if !output.status.success() {
        bail!("`{name}` failed ({}): {}", output.status, String::from_utf8_lossy(&output.stderr).trim());
    }
    String::from_utf8(output.stdout).with_context(|| format!("`{name}` printed something that is not text"))
}

/// The command as a person would type it.
pub(crate) fn describe(command: &Command) -> String {
    let program = Path::new(command.get_program()).file_name().unwrap_or(command.get_program());
    let mut text = program.to_string_lossy().into_owned();
    for arg in command.get_args() {
        text.push(' ');
        text.push_str(&arg.to_string_lossy());
    }
    text
}

// === cargo metadata, as far as it is read here ===

#[derive(Debug, Default, Deserialize)]
pub(crate) struct Metadata {
    pub(crate) packages: Vec<Package>,
    pub(crate) workspace_members: BTreeSet<String>,
}

#[derive(Debug, Default, Clone, Deserialize)]
pub(crate) struct Package {
    pub(crate) id: String,
    pub(crate) name: String,
    pub(crate) version: String,
    pub(crate) license: Option<String>,
    pub(crate) manifest_path: String,
    pub(crate) dependencies: Vec<Dependency>,
    #[serde(default)]
    pub(crate) targets: Vec<Target>,
}

#[derive(Debug, Default, Clone, Deserialize)]
pub(crate) struct Dependency {
    pub(crate) name: String,
    /// `None` is a normal dependency; else `dev` or `build`.
    pub(crate) kind: Option<String>,
    #[serde(default)]
    pub(crate) optional: bool,
}

#[derive(Debug, Default, Clone, Deserialize)]
pub(crate) struct Target {
    pub(crate) name: String,
    pub(crate) kind: Vec<String>,
    /// Whether the manifest wants its documentation's examples tested.
    #[serde(default)]
    pub(crate) doctest: bool,
}

impl Metadata {
    /// Forgets what no build takes in.
    fn only(&mut self, built: &BTreeSet<(String, String)>) {
        self.packages.retain(|package| built.contains(&(package.name.clone(), package.version.clone())));
    }

    /// The packages of this workspace, by name.
    pub(crate) fn members(&self) -> BTreeMap<&str, &Package> {
        self.packages
            .iter()
            .filter(|package| self.workspace_members.contains(&package.id))
            .map(|package| (package.name.as_str(), package))
            .collect()
    }

    fn relative_to(&mut self, root: &Path) {
        for package in &mut self.packages {
            if let Ok(relative) = Path::new(&package.manifest_path).strip_prefix(root) {
                package.manifest_path = relative.to_string_lossy().replace('\\', "/");
            }
        }
    }
}

impl Dependency {
    pub(crate) fn is_dev(&self) -> bool {
        self.kind.as_deref() == Some("dev")
    }

    pub(crate) fn is_build(&self) -> bool {
        self.kind.as_deref() == Some("build")
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn metadata_is_read_and_made_relative() {
        let json = r#"{"packages":[
            {"id":"a 1","name":"a","version":"0.1.0","license":"MIT","manifest_path":"/somewhere/crates/a/Cargo.toml",
             "dependencies":[{"name":"b","kind":null},{"name":"c","kind":"dev"}],"targets":[{"name":"t","kind":["test"]}]},
            {"id":"b 1","name":"b","version":"1.0.0","license":null,"manifest_path":"/elsewhere/b/Cargo.toml","dependencies":[]}
          ],"workspace_members":["a 1"],"version":1}"#;
        let mut metadata: Metadata = serde_json::from_str(json).unwrap();
        metadata.relative_to(Path::new("/somewhere"));
        let members = metadata.members();
        assert_eq!(members.keys().copied().collect::<Vec<_>>(), ["a"]);
        assert_eq!(members["a"].manifest_path, "crates/a/Cargo.toml");
        assert!(members["a"].dependencies[1].is_dev());
        assert!(!members["a"].dependencies[0].is_dev());
    }

    #[test]
    fn what_no_build_takes_in_is_forgotten() {
        let package = |name: &str, version: &str| Package {
            name: name.to_owned(),
            version: version.to_owned(),
            ..Package::default()
        };
        let packages = vec![
            package("a", "0.1.0"),
            package("ring", "0.17.14"),
            package("b", "1.0.0"),
            package("b", "2.0.0"),
        ];
        let mut metadata = Metadata { packages, ..Metadata::default() };
        metadata.only(&listed("a v0.1.0 (/somewhere/a)\nb v2.0.0\nb v2.0.0 (*)\n\nc v1.0.0 (proc-macro)\n"));
        let left: Vec<_> = metadata.packages.iter().map(|p| format!("{} {}", p.name, p.version)).collect();
        assert_eq!(left, ["a 0.1.0", "b 2.0.0"]);
    }

    #[test]
    fn a_command_reads_as_it_is_typed() {
        let mut command = Command::new("/opt/rust/bin/cargo");
        command.args(["test", "--workspace"]);
        assert_eq!(describe(&command), "cargo test --workspace");
    }
}
