//! The command line.

use std::path::PathBuf;
use std::time::Duration;

pub(crate) const USAGE: &str = "\
usage: formic-bench rpc [--json FILE] [--rounds N] [--seconds N] [--quick]
       formic-bench wire [--calls N] [--json FILE] [--rounds N] [--seconds N] [--quick]
       formic-bench traffic [--json FILE] [--scene N]... [--seconds N]
       formic-bench traffic --redraw FILE [--scene N]...
       formic-bench engine [--json FILE] [--instances N,N,N]

rpc: what a call costs beside the peers
wire: answers that stream, idle connections, and calls in bad weather

  --json FILE    write the rows and the targets there too
  --rounds N     how often each subject is measured, interleaved with the others (5)
  --seconds N    how long each measurement takes (4)
  --calls N      how many calls are made in the storm (10000000); with fewer no results page is written
  --quick        one round of one second, to see that it works; writes no results page

traffic: what becomes of calls when instances are slow, fail, end or have too much to do

  --json FILE    write the rows and the targets there too
  --redraw FILE  measure nothing; draw the figures anew that an earlier run with --json wrote to FILE
  --scene N      only this scene, 1 to 7; may be given again; the results page stays as it is
  --seconds N    how long each part of a scene takes (8); with less than that the page stays as it is

engine: what the engine costs, and how quick it is, with many instances

  --json FILE          write the findings and the targets there too
  --instances N,N,N    how many instances (10,100,1000); with others the results page stays as it is
";

/// What is asked for.
#[derive(Debug, PartialEq)]
pub(crate) enum Command {
    Help,
    Rpc(Arguments),
    Wire(Arguments),
    Traffic(Traffic),
    Engine(Engine),
}

/// How `traffic` measures.
#[derive(Debug, PartialEq)]
pub(crate) struct Traffic {
    pub(crate) json: Option<PathBuf>,
    pub(crate) scenes: Vec<u8>,
    /// Of each part of a scene.
    pub(crate) seconds: f64,
    /// Draw what an earlier run kept, and measure nothing.
    pub(crate) redraw: Option<PathBuf>,
}

/// Short enough for a coffee, long enough for a p99 of a few thousand calls.
const SECONDS: usize = 8;

impl Traffic {
    /// Whether it is all of it, and so worth a page.
    pub(crate) fn is_whole(&self) -> bool {
        self.scenes.len() == 7 && self.is_long()
    }

    /// Whether what it finds is worth to be kept.
    pub(crate) fn is_long(&self) -> bool {
        self.seconds >= SECONDS as f64
    }
}

/// How `engine` measures.
#[derive(Debug, PartialEq)]
pub(crate) struct Engine {
    pub(crate) json: Option<PathBuf>,
    /// In growing order.
    pub(crate) instances: Vec<u32>,
}

/// The sizes that the results page shows.
const SIZES: [u32; 3] = [10, 100, 1000];

impl Engine {
    /// Whether it is all of it, and so worth a page.
    pub(crate) fn is_whole(&self) -> bool {
        self.instances == SIZES
    }
}

/// How many calls the storm has that the page is about.
pub(crate) const CALLS: u64 = 10_000_000;

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
    /// Calls of the storm.
    pub(crate) calls: u64,
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

    /// Why what it finds is no page's, if that is so.
    pub(crate) fn too_short(&self) -> Option<String> {
        if self.quick {
            return Some("a quick run is too short to be kept".into());
        }
        let calls = self.calls;
        (calls < CALLS)
            .then(|| format!("a storm of {calls} calls is too short to be kept: the page is about {CALLS}"))
    }
}

pub(crate) fn parse(arguments: &[String]) -> Result<Command, String> {
    let mut arguments = arguments.iter();
    let wire = match arguments.next().map(String::as_str) {
        Some("rpc") => false,
        Some("wire") => true,
        Some("engine") => return engine(arguments),
        Some("traffic") => return traffic(arguments),
        Some("--help" | "-h" | "help") => return Ok(Command::Help),
        Some(other) => {
            return Err(format!(
                "there is nothing to measure called {other:?}; there are rpc, traffic, wire and engine"
            ));
        }
        None => return Err("say what to measure; there are rpc, traffic, wire and engine".into()),
    };
    let (mut json, mut rounds, mut seconds, mut calls, mut quick) = (None, None, None, None, false);
    while let Some(argument) = arguments.next() {
        let mut value = || arguments.next().ok_or_else(|| format!("{argument} needs a value"));
        match argument.as_str() {
            "--json" => json = Some(PathBuf::from(value()?)),
            "--rounds" => rounds = Some(number(argument, value()?)?),
            "--seconds" => seconds = Some(number(argument, value()?)?),
            "--calls" if wire => calls = Some(value()?.parse().map_err(|error| format!("--calls: {error}"))?),
            "--quick" => quick = true,
            "--help" | "-h" => return Ok(Command::Help),
            other => return Err(format!("there is no flag {other:?}")),
        }
    }
    let (default_rounds, default_seconds, starts) = if quick { (1, 1, 5) } else { (5, 4, 20) };
    let arguments = Arguments {
        json,
        rounds: rounds.unwrap_or(default_rounds),
        measured: Duration::from_secs(seconds.unwrap_or(default_seconds) as u64),
        warm_up: Duration::from_millis(if quick { 300 } else { 1000 }),
        starts,
        quick,
        calls: calls.unwrap_or(if quick { 100_000 } else { CALLS }),
    };
    Ok(if wire { Command::Wire(arguments) } else { Command::Rpc(arguments) })
}

fn traffic<'a>(mut arguments: impl Iterator<Item = &'a String>) -> Result<Command, String> {
    let (mut json, mut redraw, mut scenes, mut seconds) = (None, None, Vec::new(), SECONDS);
    while let Some(argument) = arguments.next() {
        let mut value = || arguments.next().ok_or_else(|| format!("{argument} needs a value"));
        match argument.as_str() {
            "--json" => json = Some(PathBuf::from(value()?)),
            "--redraw" => redraw = Some(PathBuf::from(value()?)),
            "--scene" => {
                let given = value()?;
                let scene = given.parse().ok().filter(|scene| (1..=7).contains(scene));
                scenes.push(scene.ok_or_else(|| format!("there are scenes 1 to 7, not {given:?}"))?);
            }
            "--seconds" => seconds = number(argument, value()?)?,
            "--help" | "-h" => return Ok(Command::Help),
            other => return Err(format!("there is no flag {other:?}")),
        }
    }
    if scenes.is_empty() {
        scenes = (1..=7).collect();
    }
    scenes.sort_unstable();
    scenes.dedup();
    Ok(Command::Traffic(Traffic { json, scenes, seconds: seconds as f64, redraw }))
}

fn engine<'a>(mut arguments: impl Iterator<Item = &'a String>) -> Result<Command, String> {
    let (mut json, mut instances) = (None, SIZES.to_vec());
    while let Some(argument) = arguments.next() {
        let mut value = || arguments.next().ok_or_else(|| format!("{argument} needs a value"));
        match argument.as_str() {
            "--json" => json = Some(PathBuf::from(value()?)),
            "--instances" => {
                let sizes = value()?.split(',').map(|size| number(argument, size));
                instances = sizes.map(|size| size.map(|size| size as u32)).collect::<Result<_, _>>()?;
            }
            "--help" | "-h" => return Ok(Command::Help),
            other => return Err(format!("there is no flag {other:?}")),
        }
    }
    instances.sort_unstable();
    instances.dedup();
    Ok(Command::Engine(Engine { json, instances }))
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
    fn scenes_are_all_or_those_that_are_given() {
        let traffic = |line| match parse(line) {
            Ok(Command::Traffic(traffic)) => traffic,
            other => panic!("{other:?}"),
        };
        let all = traffic("traffic");
        assert!(all.is_whole() && all.scenes == [1, 2, 3, 4, 5, 6, 7]);
        let some = traffic("traffic --scene 5 --scene 2 --scene 5 --seconds 3");
        assert_eq!((some.scenes, some.seconds), (vec![2, 5], 3.0));
        assert!(!traffic("traffic --seconds 2").is_whole());
        assert_eq!(traffic("traffic --redraw a.json").redraw, Some("a.json".into()));
    }

    #[test]
    fn only_the_wire_has_a_storm() {
        let Ok(Command::Wire(wire)) = parse("wire --calls 5") else { panic!("it parses") };
        assert_eq!(wire.calls, 5);
        assert!(parse("rpc --calls 5").is_err());
    }

    #[test]
    fn a_page_is_about_a_whole_storm() {
        let too_short = |line| match parse(line) {
            Ok(Command::Wire(wire)) => wire.too_short(),
            other => panic!("{other:?}"),
        };
        assert_eq!(too_short("wire"), None);
        assert_eq!(too_short("wire --calls 10000000 --rounds 3"), None);
        assert!(too_short("wire --calls 9999999").is_some_and(|why| why.contains("9999999 calls")));
        assert!(too_short("wire --quick --calls 10000000").is_some_and(|why| why.contains("quick")));
    }

    #[test]
    fn sizes_are_the_usual_or_those_that_are_given() {
        let engine = |line| match parse(line) {
            Ok(Command::Engine(engine)) => engine,
            other => panic!("{other:?}"),
        };
        assert!(engine("engine").is_whole());
        let some = engine("engine --instances 100,5,100 --json a.json");
        assert_eq!((some.instances.as_slice(), some.is_whole()), ([5, 100].as_slice(), false));
        assert_eq!(some.json, Some("a.json".into()));
    }

    #[test]
    fn faults_name_what_is_wrong() {
        for (line, word) in [
            ("", "rpc"),
            ("rcp", "\"rcp\""),
            ("engine --instances 10,x", "\"x\""),
            ("engine --instances", "--instances needs"),
            ("engine --rounds 2", "\"--rounds\""),
            ("rpc --jsn x", "\"--jsn\""),
            ("traffic --scene 8", "\"8\""),
            ("traffic --rounds 8", "\"--rounds\""),
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
