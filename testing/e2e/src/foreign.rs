//! Clients that are not ours: finding their tools, and installing them once per target folder.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::process::{Ended, Tool};
use crate::programs::{repository, target_folder};

/// Why a client cannot run on this machine; its tests are then counted as skipped, with this reason.
#[derive(Debug, Clone)]
pub struct Absent(pub String);

/// Registries are slow at times.
const INSTALL: Duration = Duration::from_secs(300);

/// What package managers say when the registry is not to be reached; any other failure is one.
const NO_NETWORK: [&str; 10] = [
    "ENOTFOUND",
    "EAI_AGAIN",
    "ECONNREFUSED",
    "ECONNRESET",
    "ETIMEDOUT",
    "ENETUNREACH",
    "Failed to establish a new connection",
    "Temporary failure in name resolution",
    "Connection timed out",
    "Read timed out",
];

/// A program that answers to its version flag.
///
/// # Errors
/// If there is none in `PATH`.
pub fn program(name: &str, flag: &str) -> Result<Ended, Absent> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    if !std::env::split_paths(&path).any(|folder| folder.join(name).is_file()) {
        return Err(Absent(format!("there is no `{name}` in PATH")));
    }
    let ended = Tool::new(name).args([flag]).run();
    if ended.code == Some(0) { Ok(ended) } else { Err(Absent(format!("`{name} {flag}` fails"))) }
}

/// A folder below the target folder that is made once for a recipe and kept between runs. Others that want the same
/// wait for it meanwhile.
///
/// # Errors
/// What `make` says; the next caller tries again.
///
/// # Panics
/// If the target folder cannot be written.
pub fn installed(
    name: &str,
    recipe: &str,
    make: impl FnOnce(&Path) -> Result<(), Absent>,
) -> Result<PathBuf, Absent> {
    let home = target_folder().join("foreign");
    fs::create_dir_all(&home).unwrap();
    let lock = File::create(home.join(format!("{name}.lock"))).unwrap();
    lock.lock().unwrap();
    let folder = home.join(name);
    // Written last: what was interrupted is made anew.
    let complete = folder.join(".recipe");
    if fs::read_to_string(&complete).is_ok_and(|present| present == recipe) {
        return Ok(folder);
    }
    if folder.exists() {
        fs::remove_dir_all(&folder).unwrap();
    }
    fs::create_dir_all(&folder).unwrap();
    make(&folder)?;
    fs::write(&complete, recipe).unwrap();
    Ok(folder)
}

/// Runs an installer.
///
/// # Errors
/// If the registry is not to be reached.
///
/// # Panics
/// If it fails for another reason.
pub fn install(tool: Tool) -> Result<(), Absent> {
    let ended = tool.limit(INSTALL).run();
    if ended.code == Some(0) {
        return Ok(());
    }
    let said = format!("{}\n{}", ended.stdout, ended.stderr);
    match said.lines().find(|line| NO_NETWORK.iter().any(|sign| line.contains(sign))) {
        Some(line) => Err(Absent(format!("the package registry cannot be reached: {}", line.trim()))),
        None => panic!("the installation fails\n{said}"),
    }
}

/// A file of `testing/e2e/foreign`.
#[must_use]
pub fn foreign_file(name: &str) -> PathBuf {
    repository().join("testing/e2e/foreign").join(name)
}

/// The protos of the shop: the folder to include, and the file in it.
#[must_use]
pub fn shop_protos() -> Vec<(PathBuf, String)> {
    ["user", "product", "order", "payment", "shipping"]
        .iter()
        .map(|name| {
            (
                repository().join("examples/shop").join(name).join("proto"),
                format!("shop/{name}/v1/{name}.proto"),
            )
        })
        .collect()
}
