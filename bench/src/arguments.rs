//! The command line.

use std::path::PathBuf;
use std::time::Duration;

pub(crate) const USAGE: &str = "\
usage: formic-bench rpc [--json FILE] [--rounds N] [--seconds N] [--quick]

  --json FILE    write the rows and the targets there too
  --rounds N     how often each subject is measured, interleaved with the others (5)
  --seconds N    how long each measurement takes (4)
  --quick        one round of one second, to see that it works; writes no results page
";

/// What is asked for.
#[derive(Debug, PartialEq)]
pub(crate) enum Command {
    Help,
    Rpc(Arguments),
}

/// How `rpc` measures.
#[derive(Debug, PartialEq)]
pub(crate) struct Arguments {
    pub(crate) json: Option<PathBuf>,
    pub(crate) rounds: usize,
    pub(crate) measured: Duration,
    pub(crate) warm_up: Duration,
    /// How often the service is started to see how long that takes.
    pub(crate) starts: usize,
    pub(crate) quick: bool,
}

impl Arguments {
    /// In words, for who reads the results.
    pub(crate) fn load(&self) -> String {
        let (rounds, seconds) = (self.rounds, self.measured.as_secs_f64());
        let word = if rounds == 1 { "round" } else { "rounds" };
        format!(
            "{rounds} interleaved {word} of {seconds} s after {} s of warm-up",
            self.warm_up.as_secs_f64()
        )
    }
}

pub(crate) fn parse(arguments: &[String]) -> Result<Command, String> {
    let mut arguments = arguments.iter();
    match arguments.next().map(String::as_str) {
        Some("rpc") => {}
        Some("--help" | "-h" | "help") => return Ok(Command::Help),
        Some(other) => return Err(format!("there is nothing to measure called {other:?}; there is rpc")),
        None => return Err("say what to measure; there is rpc".into()),
    }
    let (mut json, mut rounds, mut seconds, mut quick) = (None, None, None, false);
    while let Some(argument) = arguments.next() {
        let mut value = || arguments.next().ok_or_else(|| format!("{argument} needs a value"));
        match argument.as_str() {
            "--json" => json = Some(PathBuf::from(value()?)),
            "--rounds" => rounds = Some(number(argument, value()?)?),
            "--seconds" => seconds = Some(number(argument, value()?)?),
            "--quick" => quick = true,
            "--help" | "-h" => return Ok(Command::Help),
            other => return Err(format!("there is no flag {other:?}")),
        }
    }
    let (default_rounds, default_seconds, starts) = if quick { (1, 1, 5) } else { (5, 4, 20) };
    Ok(Command::Rpc(Arguments {
        json,
        rounds: rounds.unwrap_or(default_rounds),
        measured: Duration::from_secs(seconds.unwrap_or(default_seconds) as u64),
        warm_up: Duration::from_millis(if quick { 300 } else { 1000 }),
        starts,
        quick,
    }))
}

fn number(flag: &str, value: &str) -> Result<usize, String> {
    match value.parse() {
        Ok(number @ 1..=1000) => Ok(number),
        _ => Err(format!("{flag} takes a number from 1 to 1000, not {value:?}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Command, String> {
        let arguments: Vec<String> = line.split_whitespace().map(String::from).collect();
        super::parse(&arguments)
    }

    #[test]
    fn flags_win_over_quick_and_over_defaults() {
        let Ok(Command::Rpc(quick)) = parse("rpc --quick --rounds 2 --json a.json") else {
            panic!("it parses")
        };
        assert_eq!((quick.rounds, quick.measured, quick.quick), (2, Duration::from_secs(1), true));
        assert_eq!(quick.json, Some("a.json".into()));
        let Ok(Command::Rpc(full)) = parse("rpc --seconds 9") else { panic!("it parses") };
        assert_eq!((full.rounds, full.measured, full.starts), (5, Duration::from_secs(9), 20));
    }

    #[test]
    fn faults_name_what_is_wrong() {
        for (line, word) in [
            ("", "rpc"),
            ("rcp", "\"rcp\""),
            ("rpc --jsn x", "\"--jsn\""),
            ("rpc --json", "--json needs"),
            ("rpc --rounds 0", "\"0\""),
            ("rpc --seconds four", "\"four\""),
        ] {
            let fault = parse(line).expect_err(line);
            assert!(fault.contains(word), "{line}: {fault}");
        }
        assert_eq!(parse("rpc --help"), Ok(Command::Help));
    }
}
