//! The verbs that are one cargo command: `fmt`, `lint`, `doc`.

use std::process::Command;

use anyhow::{Context as _, Result, bail};

use crate::workspace::{Workspace, describe};

/// `cargo xtask fmt [--check]`.
pub(crate) fn fmt(workspace: &Workspace, args: &[String]) -> Result<bool> {
    let check = match args {
        [] => false,
        [flag] if flag == "--check" => true,
        other => bail!("fmt takes --check or nothing, not {other:?}"),
    };
    if check { attached(&mut fmt_check(workspace)) } else { attached(&mut workspace.cargo(["fmt", "--all"])) }
}

/// `cargo xtask lint`.
pub(crate) fn lint(workspace: &Workspace, args: &[String]) -> Result<bool> {
    no_arguments("lint", args)?;
    attached(&mut clippy(workspace))
}

/// `cargo xtask doc`.
pub(crate) fn doc(workspace: &Workspace, args: &[String]) -> Result<bool> {
    no_arguments("doc", args)?;
    attached(&mut docs(workspace))
}

pub(crate) fn fmt_check(workspace: &Workspace) -> Command {
    workspace.cargo(["fmt", "--all", "--", "--check"])
}

pub(crate) fn clippy(workspace: &Workspace) -> Command {
    workspace.cargo(["clippy", "--workspace", "--all-targets", "--locked", "--", "-D", "warnings"])
}

pub(crate) fn docs(workspace: &Workspace) -> Command {
    // Libraries only: the binary `formic` and the library `formic` would write to the same page.
    let mut command = workspace.cargo(["doc", "--workspace", "--no-deps", "--lib", "--locked"]);
    command.env("RUSTDOCFLAGS", "-D warnings");
    command
}

pub(crate) fn no_arguments(verb: &str, args: &[String]) -> Result<()> {
    if args.is_empty() {
        return Ok(());
    }
    bail!("{verb} takes no arguments, not {args:?}")
}

/// Runs `command` with this process's own output.
pub(crate) fn attached(command: &mut Command) -> Result<bool> {
    let name = describe(command);
    let status = command.status().with_context(|| format!("start `{name}`"))?;
    Ok(status.success())
}
