//! `cargo xtask chaos`: the test that kills the processes of a server, for as long as one likes.
//!
//! The test is one of the gate's (`testing/e2e/tests/server/chaos.rs`), where it runs for two minutes; here it is given more
//! time, a seed to repeat, and a file for the figures.

use std::path::PathBuf;

use anyhow::{Context as _, Result, bail};

use crate::simple;
use crate::workspace::Workspace;

/// The packages of the programs that the test starts.
const PROGRAMS: [&str; 6] =
    ["formic-cli", "shop-user", "shop-product", "shop-payment", "shop-shipping", "shop-order"];

/// What is asked for.
#[derive(Debug, Default, PartialEq)]
struct Options {
    seconds: Option<u64>,
    seed: Option<u64>,
    json: Option<PathBuf>,
}

/// `cargo xtask chaos [--seconds N] [--seed N] [--json FILE]`.
pub(crate) fn run(workspace: &Workspace, args: &[String]) -> Result<bool> {
    let options = parse(args)?;
    let mut build = workspace.cargo(["build", "--locked"]);
    build.args(PROGRAMS.iter().flat_map(|package| ["-p", package]));
    if !simple::attached(&mut build)? {
        return Ok(false);
    }
    let test = ["test", "--locked", "-p", "formic-e2e", "--test", "server", "--", "--nocapture", "chaos"];
    let mut command = workspace.cargo(test);
    if let Some(seconds) = options.seconds {
        command.env("FORMIC_CHAOS_SECONDS", seconds.to_string());
    }
    if let Some(seed) = options.seed {
        command.env("FORMIC_CHAOS_SEED", seed.to_string());
    }
    if let Some(file) = options.json {
        // The test runs in its package's folder.
        command.env("FORMIC_CHAOS_JSON", std::path::absolute(&file).context("find the file")?);
    }
    simple::attached(&mut command)
}

fn parse(args: &[String]) -> Result<Options> {
    let mut options = Options::default();
    let mut args = args.iter();
    while let Some(flag) = args.next() {
        let value = args.next().with_context(|| format!("{flag} needs a value"))?;
        let number = || value.parse::<u64>().with_context(|| format!("{flag}: {value:?} is no number"));
        match flag.as_str() {
            "--seconds" => options.seconds = Some(number()?),
            "--seed" => options.seed = Some(number()?),
            "--json" => options.json = Some(value.into()),
            other => bail!("chaos takes --seconds, --seed and --json, not {other:?}"),
        }
    }
    Ok(options)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_read_and_faults_named() {
        let parse = |line: &str| parse(&line.split_whitespace().map(str::to_owned).collect::<Vec<_>>());
        let all = Options { seconds: Some(90), seed: Some(7), json: Some("x.json".into()) };
        assert_eq!(parse("--seconds 90 --seed 7 --json x.json").ok(), Some(all));
        assert_eq!(parse("").ok(), Some(Options::default()));
        for (line, part) in
            [("--seconds", "needs a value"), ("--seed x", "\"x\""), ("--minutes 3", "--minutes")]
        {
            let fault = parse(line).map_err(|error| error.to_string());
            assert!(fault.as_ref().is_err_and(|fault| fault.contains(part)), "{line}: {fault:?}");
        }
    }
}
