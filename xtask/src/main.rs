//! `cargo xtask <verb>`: the same commands for people and for CI.
//!
//! The gate is a program of the workspace and not a shell script, so that it runs wherever Rust does, needs no tool that
//! Rust does not ship, and its own rules are unit-tested. `main` only dispatches; each verb is a module.
#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a command line tool: its output is what it is for"
)]

use std::process::ExitCode;

use anyhow::{Result, bail};

mod bench;
mod chaos;
mod codegen;
mod run;
mod simple;
mod term;
mod test;
mod tidy;
mod workspace;

use workspace::Workspace;

const USAGE: &str = "\
usage: cargo xtask <verb>

  test [--only KIND…] [--list] [--timings] [--verbose]   the gate: every kind of test, counted together
  tidy                                                   floors, vendors, sizes, calls, licences, bans
  fmt [--check]                                          format the workspace
  lint                                                   clippy, warnings are errors
  doc                                                    the documents of every crate, warnings are errors
  codegen [--check]                                      the generated code of formic-api, anew or compared
  bench rpc|wire|traffic|engine [--json FILE] [--quick]  side-by-side benchmarks, release profile
  chaos [--seconds N] [--seed N] [--json FILE]           kills brain and keeper of a server under load
";

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    match dispatch(&args) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("xtask: {error:#}");
            ExitCode::from(2)
        }
    }
}

/// Runs one verb. `Ok(false)` means that it ran and found something wrong.
fn dispatch(args: &[String]) -> Result<bool> {
    let Some((verb, rest)) = args.split_first() else {
        eprint!("{USAGE}");
        return Ok(false);
    };
    if matches!(verb.as_str(), "help" | "-h" | "--help") {
        print!("{USAGE}");
        return Ok(true);
    }
    // Nobody who asks what there is waits for a build.
    if rest.iter().any(|arg| matches!(arg.as_str(), "-h" | "--help")) {
        print!("{USAGE}");
        return Ok(true);
    }
    let workspace = Workspace::locate()?;
    match verb.as_str() {
        "test" => test::run(&workspace, rest),
        "tidy" => {
            simple::no_arguments("tidy", rest)?;
            tidy::run(&workspace)
        }
        "fmt" => simple::fmt(&workspace, rest),
        "lint" => simple::lint(&workspace, rest),
        "doc" => simple::doc(&workspace, rest),
        "codegen" => codegen::run(&workspace, rest),
        "bench" => bench::run(&workspace, rest),
        "chaos" => chaos::run(&workspace, rest),
        other => bail!("there is no verb `{other}`\n\n{USAGE}"),
    }
}
