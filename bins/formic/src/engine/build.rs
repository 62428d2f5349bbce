//! Building the Cargo packages of an application: one cargo for all of them, its own progress and
//! messages shown, and the name of the service whose build failed.

use std::collections::{BTreeMap, BTreeSet};
use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use serde::Deserialize;
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, BufReader};

use crate::exit::{Failure, Outcome};
use crate::output;

/// What was built: package name to executable.
pub(crate) type Artifacts = BTreeMap<String, PathBuf>;

/// The parts of cargo's JSON messages that matter here.
#[derive(Deserialize)]
struct Message {
    reason: String,
    #[serde(default)]
    package_id: String,
    #[serde(default)]
    executable: Option<PathBuf>,
    #[serde(default)]
    target: Option<Target>,
    #[serde(default)]
    message: Option<Diagnostic>,
}

#[derive(Deserialize)]
struct Target {
    name: String,
    kind: Vec<String>,
}

#[derive(Deserialize)]
struct Diagnostic {
    level: String,
    rendered: Option<String>,
}

/// Builds these packages (package to service), with cargo in the manifest's folder.
pub(crate) async fn build(
    folder: &Path,
    packages: &BTreeMap<String, String>,
    release: bool,
) -> Outcome<Artifacts> {
    if packages.is_empty() {
        return Ok(Artifacts::new());
    }
    let colour = output::colour(std::io::stderr().is_terminal());
    let mut command =
        tokio::process::Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.arg("build").current_dir(folder);
    command.arg(if colour {
        "--message-format=json-diagnostic-rendered-ansi"
    } else {
        "--message-format=json"
    });
    if release {
        command.arg("--release");
    }
    for package in packages.keys() {
        command.args(["--package", package]);
    }
    // Under `cargo run` these describe the binary's own package, and build scripts look at them.
    for (name, _) in std::env::vars_os() {
        let name = name.to_string_lossy();
        if name.starts_with("CARGO_PKG_") || name == "CARGO_MANIFEST_DIR" || name == "CARGO_MANIFEST_PATH" {
            command.env_remove(&*name);
        }
    }
    if std::io::stderr().is_terminal() {
        // Its progress, although it goes through our hands.
        command.env("CARGO_TERM_COLOR", if colour { "always" } else { "never" });
        command.env("CARGO_TERM_PROGRESS_WHEN", "always");
        command.env("CARGO_TERM_PROGRESS_WIDTH", output::width().to_string());
    }
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    // A group of its own, which ends as a whole when we are asked to end.
    command.process_group(0);
    let mut child = command.spawn().map_err(|error| {
        Failure::user("cannot run cargo").help("install Rust from rustup.rs").because(error)
    })?;
    let group = Group::of(&child);
    let without = || Failure::bug("cargo was started without its output");
    let stdout = child.stdout.take().ok_or_else(without)?;
    let stderr = child.stderr.take().ok_or_else(without)?;
    let (messages, scripts) = tokio::join!(read(stdout), pass_on(stderr));
    let (artifacts, mut failed) = messages;
    let status = child.wait().await.map_err(|error| Failure::user("cargo did not end").because(error))?;
    group.ended();
    if !status.success() {
        failed.extend(scripts);
        failed.dedup();
        let services: Vec<_> = failed
            .iter()
            .map(|package| packages.get(package).map_or(package.as_str(), String::as_str))
            .collect();
        return Err(match services.as_slice() {
            [] => Failure::user("the build failed; cargo's message is above"),
            [one] => Failure::user(format!("the build of {one} failed; the message is above")),
            many => {
                Failure::user(format!("the builds of {} failed; the messages are above", many.join(", ")))
            }
        });
    }
    for (package, service) in packages {
        if !artifacts.contains_key(package) {
            return Err(Failure::user(format!("the package {package:?} of service {service} has no binary"))
                .help("`cargo = …` names a package with a src/main.rs"));
        }
    }
    Ok(artifacts)
}

/// cargo and what it has started.
struct Group(Option<rustix::process::Pid>);

impl Group {
    fn of(child: &tokio::process::Child) -> Self {
        Self(child.id().and_then(|id| rustix::process::Pid::from_raw(id.cast_signed())))
    }

    fn ended(mut self) {
        self.0 = None;
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        // Not waited for yet, so that the number is still its own.
        if let Some(pid) = self.0 {
            let _ = rustix::process::kill_process_group(pid, rustix::process::Signal::TERM);
        }
    }
}

/// Shows what cargo says, as it comes, and returns the packages whose build script failed: of those it tells
/// people alone.
async fn pass_on(mut stderr: impl AsyncRead + Unpin) -> Vec<String> {
    let (mut said, mut chunk) = (Vec::new(), [0; 4096]);
    while let Ok(length @ 1..) = stderr.read(&mut chunk).await {
        output::talk_raw(&chunk[..length]);
        said.extend_from_slice(&chunk[..length]);
        let excess = said.len().saturating_sub(KEPT);
        said.drain(..excess);
    }
    failed_scripts(&String::from_utf8_lossy(&said))
}

/// What cargo said last is kept up to this size.
const KEPT: usize = 64 << 10;

fn failed_scripts(said: &str) -> Vec<String> {
    let after = said.split("failed to run custom build command for `").skip(1);
    after.filter_map(|rest| rest.split([' ', '`']).next()).map(str::to_owned).collect()
}

/// Reads cargo's messages: the executables, and the packages that did not compile.
async fn read(stdout: impl AsyncRead + Unpin) -> (Artifacts, Vec<String>) {
    let mut lines = BufReader::new(stdout).lines();
    let mut artifacts = Artifacts::new();
    let mut failed: Vec<String> = Vec::new();
    while let Ok(Some(line)) = lines.next_line().await {
        let Ok(message) = serde_json::from_str::<Message>(&line) else { continue };
        let package = package_name(&message.package_id);
        match message.reason.as_str() {
            "compiler-artifact" => {
                let binary = message
                    .target
                    .as_ref()
                    .is_some_and(|target| target.kind.iter().any(|kind| kind == "bin"));
                if let (true, Some(executable)) = (binary, message.executable) {
                    // A package with several binaries runs the one of its own name, else the first.
                    let named = message.target.is_some_and(|target| target.name == package);
                    if named || !artifacts.contains_key(&package) {
                        artifacts.insert(package, executable);
                    }
                }
            }
            "compiler-message" => {
                if let Some(diagnostic) = message.message
                    && diagnostic.level.starts_with("error")
                {
                    if let Some(text) = diagnostic.rendered {
                        output::talk(text.trim_end());
                    }
                    if !failed.contains(&package) {
                        failed.push(package);
                    }
                }
            }
            _ => {}
        }
    }
    (artifacts, failed)
}

/// What cargo says of a workspace, as far as it matters here.
#[derive(Deserialize)]
struct Metadata {
    target_directory: PathBuf,
    packages: Vec<PackageInfo>,
}

#[derive(Deserialize)]
struct PackageInfo {
    name: String,
    manifest_path: PathBuf,
    dependencies: Vec<Dependency>,
    targets: Vec<Target>,
}

#[derive(Deserialize)]
struct Dependency {
    /// For one that is given by its folder.
    path: Option<PathBuf>,
}

/// What cargo says of the workspace of a folder.
async fn metadata(folder: &Path) -> Outcome<Metadata> {
    let output = tokio::process::Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
        .args(["metadata", "--format-version=1", "--no-deps", "--offline"])
        .current_dir(folder)
        .stdin(Stdio::null())
        .output()
        .await
        .map_err(|error| {
            Failure::user("cannot run cargo").help("install Rust from rustup.rs").because(error)
        })?;
    if !output.status.success() {
        return Err(Failure::user(format!(
            "cargo does not know this folder: {}",
            String::from_utf8_lossy(&output.stderr)
        )));
    }
    serde_json::from_slice(&output.stdout).map_err(|error| {
        Failure::bug("cargo's description of the workspace is not what is expected").because(error)
    })
}

/// The folders that packages are made of: their own, and those of the packages that they depend on by path,
/// near and far.
pub(crate) async fn folders(
    folder: &Path,
    packages: &BTreeSet<String>,
) -> Outcome<BTreeMap<String, BTreeSet<PathBuf>>> {
    let metadata = metadata(folder).await?;
    let by_folder: BTreeMap<&Path, &PackageInfo> =
        metadata.packages.iter().filter_map(|info| Some((info.manifest_path.parent()?, info))).collect();
    let mut found = BTreeMap::new();
    for info in metadata.packages.iter().filter(|info| packages.contains(&info.name)) {
        let (mut folders, mut open) = (BTreeSet::new(), Vec::new());
        open.extend(info.manifest_path.parent().map(Path::to_path_buf));
        while let Some(folder) = open.pop() {
            if let Some(info) = by_folder.get(folder.as_path()) {
                open.extend(info.dependencies.iter().filter_map(|dependency| dependency.path.clone()));
                open.retain(|next| !folders.contains(next));
            }
            folders.insert(folder);
        }
        found.insert(info.name.clone(), folders);
    }
    Ok(found)
}

/// Where an earlier build has put these packages' executables.
pub(crate) async fn find(
    folder: &Path,
    packages: &BTreeMap<String, String>,
    release: bool,
) -> Outcome<Artifacts> {
    if packages.is_empty() {
        return Ok(Artifacts::new());
    }
    let metadata = metadata(folder).await?;
    let profile = metadata.target_directory.join(if release { "release" } else { "debug" });
    let mut artifacts = Artifacts::new();
    for (package, service) in packages {
        let found = metadata.packages.iter().find(|info| info.name == *package);
        let bins = found
            .iter()
            .flat_map(|info| &info.targets)
            .filter(|target| target.kind.iter().any(|kind| kind == "bin"));
        let executable = bins
            .min_by_key(|target| target.name != *package)
            .map(|target| profile.join(&target.name))
            .filter(|path| path.is_file());
        match executable {
            Some(path) => artifacts.insert(package.clone(), path),
            None => {
                return Err(Failure::user(format!("{service} is not built"))
                    .help("run `formic up` without --no-build"));
            }
        };
    }
    Ok(artifacts)
}

/// `path+file:///x/y#name@0.1.0`, `path+file:///x/name#0.1.0` or `registry+…#name@1.0`: the name.
fn package_name(id: &str) -> String {
    let (url, fragment) = id.rsplit_once('#').unwrap_or(("", id));
    match fragment.split_once('@') {
        Some((name, _)) => name.into(),
        None => url.rsplit('/').next().unwrap_or(fragment).into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packages_whose_build_script_failed() {
        let said = "   Compiling x v1\n\u{1b}[1merror\u{1b}[0m: failed to run custom build command for `shop-order v0.1.0 (/x/order)`\n";
        assert_eq!(failed_scripts(said), ["shop-order"]);
        assert_eq!(failed_scripts("error: could not compile `shop-order`"), Vec::<String>::new());
    }

    #[test]
    fn names_of_packages() {
        assert_eq!(package_name("path+file:///x/user#shop-user@0.1.0"), "shop-user");
        assert_eq!(package_name("path+file:///x/greeter#0.1.0"), "greeter");
    }
}
