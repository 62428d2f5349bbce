//! Where the programs under test are: cargo builds them into the folder that the tests come from.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::process::Tool;

/// The folder of built programs, `…/debug`.
///
/// # Panics
/// If this test was not built by cargo.
#[must_use]
pub fn build_folder() -> PathBuf {
    let test = std::env::current_exe().unwrap();
    // …/debug/deps/name-hash
    test.parent().and_then(Path::parent).unwrap().to_path_buf()
}

/// The target folder.
///
/// # Panics
/// As [`build_folder`].
#[must_use]
pub fn target_folder() -> PathBuf {
    build_folder().parent().unwrap().to_path_buf()
}

/// The repository.
///
/// # Panics
/// If it is gone.
#[must_use]
pub fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize().unwrap()
}

fn built(name: &str) -> PathBuf {
    let path = build_folder().join(name);
    assert!(
        path.is_file(),
        "{} is not built: `cargo xtask test --only e2e` builds the programs first",
        path.display()
    );
    path
}

/// The program of one of the shop's services.
#[must_use]
pub fn service_program(service: &str) -> PathBuf {
    built(service)
}

/// The binary with arguments, for [`Tool::run`]. What a person at this machine has set is kept away from it.
#[must_use]
pub fn formic(args: &[&str]) -> Tool {
    let mut command = Command::new(built("formic"));
    for name in ["FORMIC_LOG", "RUST_LOG", "NO_COLOR", "CARGO"] {
        command.env_remove(name);
    }
    command.args(args).current_dir(std::env::temp_dir());
    Tool::from(command)
}

/// The same, run in a folder.
#[must_use]
pub fn formic_in(folder: &Path, args: &[&str]) -> Tool {
    formic(args).within(folder)
}

/// A program that runs cargo: into the folder of the tests' own build, with its profile, so that what is built there is
/// not built again; without a network; and without what cargo told this test about itself.
#[must_use]
pub fn builds(tool: Tool) -> Tool {
    let mut tool = tool
        .env("CARGO_TARGET_DIR", target_folder())
        .env("CARGO_PROFILE_DEV_DEBUG", "line-tables-only")
        .env("CARGO_NET_OFFLINE", "true");
    for (name, _) in std::env::vars() {
        if name.starts_with("CARGO_PKG_") || name.starts_with("CARGO_MANIFEST_") || name == "CARGO_CRATE_NAME"
        {
            tool = tool.env_remove(&name);
        }
    }
    tool
}
