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

/// What package managers say when the registry is not to be reached, or cannot answer now; any other failure is one.
const NO_NETWORK: [&str; 29] = [
    // npm
    "ENOTFOUND",
    "EAI_AGAIN",
    "ECONNREFUSED",
    "ECONNRESET",
    "ETIMEDOUT",
    "ENETUNREACH",
    "EHOSTUNREACH",
    "ERR_SOCKET_TIMEOUT",
    "network timeout",
    "code E429",
    "code E500",
    "code E502",
    "code E503",
    "code E504",
    // pip
    "Failed to establish a new connection",
    "Temporary failure in name resolution",
    "Connection timed out",
    "Read timed out",
    "Network is unreachable",
    "No route to host",
    "Connection reset by peer",
    "Remote end closed connection",
    "ProxyError",
    "429 Client Error",
    "HTTP error 429",
    "500 Server Error",
    "502 Server Error",
    "503 Server Error",
    "504 Server Error",
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
/// If the registry is not to be reached, or does not come to an end.
///
/// # Panics
/// If it fails for another reason.
pub fn install(tool: Tool) -> Result<(), Absent> {
    install_within(tool, INSTALL)
}

fn install_within(tool: Tool, limit: Duration) -> Result<(), Absent> {
    let out_of_reach = |why: &str| Absent(format!("the package registry cannot be reached: {why}"));
    let ended = tool.limit(limit).try_run();
    let ended = ended.map_err(|_| out_of_reach(&format!("no end of the installation within {limit:?}")))?;
    if ended.code == Some(0) {
        return Ok(());
    }
    let said = format!("{}\n{}", ended.stdout, ended.stderr);
    match said.lines().find(|line| is_of_the_network(line)) {
        Some(line) => Err(out_of_reach(line.trim())),
        None => panic!("the installation fails\n{said}"),
    }
}

fn is_of_the_network(line: &str) -> bool {
    NO_NETWORK.iter().any(|sign| line.contains(sign))
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_registry_out_of_reach_is_told_from_a_recipe_that_is_wrong() {
        for line in [
            "npm error code ERR_SOCKET_TIMEOUT",
            "npm error code E503",
            "npm error code E429",
            "npm warn request network timeout at: https://registry.example/grpc",
            "ERROR: HTTP error 429 while getting https://registry.example/grpcio.whl",
            "requests.exceptions.HTTPError: 503 Server Error: Service Unavailable for url: https://registry.example",
            "WARNING: Retrying after connection broken by 'ProxyError('Cannot connect to proxy.')': /simple/grpcio/",
            "[Errno 101] Network is unreachable",
        ] {
            assert!(is_of_the_network(line), "{line}");
        }
        for line in [
            "npm error code E404",
            "npm error code ERESOLVE",
            "npm error code EINTEGRITY",
            "ERROR: No matching distribution found for grpcio==0.0.503",
            "error: subprocess-exited-with-error",
        ] {
            assert!(!is_of_the_network(line), "{line}");
        }
    }

    #[test]
    fn an_installer_that_does_not_end_is_a_registry_out_of_reach() {
        let absent =
            install_within(Tool::new("sleep").args(["600"]), Duration::from_millis(100)).unwrap_err();
        assert!(absent.0.contains("no end of the installation"), "{}", absent.0);
    }
}
