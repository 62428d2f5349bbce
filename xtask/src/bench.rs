//! `cargo xtask bench <what> [--json FILE] [--quick]`: builds and runs `formic-bench` in the release profile.
//!
//! The measuring lives in `bench/`; this verb only makes sure that nobody measures a debug build by mistake.

use anyhow::{Context as _, Result, bail};

use crate::simple::attached;
use crate::workspace::Workspace;

/// Everything after the verb goes to the binary as it is.
pub(crate) fn run(workspace: &Workspace, args: &[String]) -> Result<bool> {
    if args.is_empty() {
        bail!("bench needs to know what to measure, rpc, wire, traffic or engine");
    }
    let mut command = workspace.cargo(["run", "--release", "--locked", "--package", "formic-bench", "--"]);
    // A relative `--json FILE` means the folder in which the person stands.
    command.args(args).current_dir(std::env::current_dir().context("find the current folder")?);
    attached(&mut command)
}
