//! Fuzzing in the gate: every target of `fuzz/` for a while, from the corpus that is kept there.
//!
//! Built by the nightly toolchain beside, with the flags that `cargo fuzz` gives, so that nothing has to be installed for it.
//! Without a nightly, or a compiler for the fuzzer's own C++, it is skipped, and says so.

use std::fs::File;
use std::io::Read as _;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result};

use super::excerpt::Excerpt;
use super::tally::Tally;
use crate::run;
use crate::workspace::{Workspace, capture, target_dir};

/// The targets, and how many seconds of the minute each gets: a connection has more states than a file.
const TARGETS: [(&str, u32); 2] = [("machine", 45), ("capture", 15)];

/// What makes a program one that a fuzzer can see into.
const FLAGS: &str = "--cfg fuzzing -Cdebug-assertions -Copt-level=2 -Ccodegen-units=1 -Zsanitizer=address \
     -Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
     -Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table \
     -Cllvm-args=-sanitizer-coverage-trace-compares";

/// A fresh machine compiles for some minutes.
const BUILD: Duration = Duration::from_secs(15 * 60);
/// More than the fuzzer's own limit.
const RUN: Duration = Duration::from_secs(3 * 60);

/// Bytes of what was found that are shown.
const MOST_SHOWN: u64 = 4096;

/// A target that did less has not looked.
const FEWEST: u64 = 1_000;

pub(crate) fn run(workspace: &Workspace) -> Result<Tally> {
    let mut tally = Tally::default();
    let host = match host() {
        Ok(host) => host,
        Err(reason) => {
            tally.skip(reason);
            return Ok(tally);
        }
    };
    let folder = target_dir(workspace).join("fuzz");
    let cargo = |verb: &str, target: &str| {
        let mut command = Command::new("rustup");
        command.args([
            "run", "nightly", "cargo", verb, "--quiet", "--locked", "--target", &host, "--bin", target,
        ]);
        command.arg("--manifest-path").arg(workspace.root.join("fuzz/Cargo.toml"));
        command.arg("--target-dir").arg(&folder).env("RUSTFLAGS", FLAGS).env_remove("CARGO");
        command.current_dir(&workspace.root);
        command
    };
    for (target, seconds) in TARGETS {
        let built = run::stream_within(&mut cargo("build", target), BUILD, |line| println!("{line}"))?;
        if let Some(fault) = built.fault() {
            tally.fail(format!("building {target} {fault}; its output is above"));
            continue;
        }
        let found = folder.join("corpus").join(target);
        std::fs::create_dir_all(&found).with_context(|| format!("make {}", found.display()))?;
        let mut command = cargo("run", target);
        // What is new goes to the first folder; the second is the corpus that is kept.
        command.arg("--").arg(&found).arg(workspace.root.join("fuzz/corpus").join(target));
        command
            .args([format!("-max_total_time={seconds}"), format!("-artifact_prefix={}/", folder.display())]);
        command.args(["-timeout=10", "-rss_limit_mb=2048", "-print_final_stats=1", "-verbosity=0"]);
        let (mut runs, mut lines) = (0, Vec::new());
        let ending = run::stream_within(&mut command, RUN, |line| {
            runs = executed(line).unwrap_or(runs);
            lines.push(line.to_owned());
        })?;
        match ending.fault() {
            Some(fault) => {
                lines.iter().for_each(|line| println!("{line}"));
                let mut said: Excerpt = lines.iter().map(String::as_str).collect();
                // The file may be on a machine that is gone by the time that somebody looks.
                for line in
                    lines.iter().filter_map(|line| artifact(line)).flat_map(|file| hex(Path::new(file)))
                {
                    println!("{line}");
                    said.push(&line);
                }
                tally.fail_saying(format!("{target} {fault}; what it found is above"), &said);
            }
            None if runs < FEWEST => tally.fail(format!("{target} made {runs} runs in {seconds} s")),
            None => {
                println!("{target}: {runs} runs in {seconds} s, nothing found");
                tally.pass(1);
            }
        }
    }
    Ok(tally)
}

/// The platform of the nightly toolchain, or why there is no fuzzing.
fn host() -> Result<String, String> {
    let about = capture(Command::new("rustup").args(["run", "nightly", "rustc", "-vV"])).map_err(|_| {
        "there is no nightly toolchain beside (`rustup toolchain install nightly`)".to_owned()
    })?;
    capture(Command::new("c++").arg("--version"))
        .map_err(|_| "there is no C++ compiler, which the fuzzer itself needs".to_owned())?;
    about
        .lines()
        .find_map(|line| line.strip_prefix("host: "))
        .map(str::to_owned)
        .ok_or_else(|| "the nightly toolchain does not say its platform".to_owned())
}

/// The file with what a fuzzer found, where a line says so.
fn artifact(line: &str) -> Option<&str> {
    Some(line.split_once("Test unit written to ")?.1.trim())
}

/// A file as lines of hexadecimal digits, for `xxd -r -p`; of a long one the beginning.
fn hex(file: &Path) -> Vec<String> {
    let mut bytes = Vec::new();
    let opened = File::open(file).and_then(|open| {
        let length = open.metadata()?.len();
        open.take(MOST_SHOWN).read_to_end(&mut bytes)?;
        Ok(length)
    });
    let head = match opened {
        Ok(length) if length > MOST_SHOWN => format!("{length} bytes, of which the first {MOST_SHOWN} are"),
        Ok(length) => format!("{length} bytes, which are"),
        Err(error) => return vec![format!("{}: {error}", file.display())],
    };
    let line = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    std::iter::once(format!("{}: {head}", file.display())).chain(bytes.chunks(64).map(line)).collect()
}

/// How many runs a fuzzer made, from its last words.
fn executed(line: &str) -> Option<u64> {
    line.strip_prefix("stat::number_of_executed_units:")?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_found_is_shown_as_far_as_it_fits() {
        let line = "artifact_prefix='/t/fuzz/'; Test unit written to /t/fuzz/crash-0a1b";
        assert_eq!(artifact(line), Some("/t/fuzz/crash-0a1b"));
        assert_eq!(artifact("stat::peak_rss_mb: 40"), None);
        let file = std::env::temp_dir().join(format!("xtask-artifact-{}", std::process::id()));
        let shown = |bytes: &[u8]| {
            std::fs::write(&file, bytes).expect("a temporary file");
            hex(&file)
        };
        let short = shown(b"\x00ab\xff");
        assert_eq!(short[1..], ["006162ff"]);
        assert!(short[0].ends_with("4 bytes, which are"), "{short:?}");
        let long = shown(&[7; 5000]);
        assert_eq!((long.len(), long[1].len()), (1 + 64, 128));
        assert!(long[0].ends_with("5000 bytes, of which the first 4096 are"), "{}", long[0]);
        std::fs::remove_file(&file).expect("it is there");
        assert_eq!(hex(&file).len(), 1, "why there is nothing to show");
    }

    #[test]
    fn the_number_of_runs_is_read() {
        assert_eq!(executed("stat::number_of_executed_units: 1838331"), Some(1_838_331));
        assert_eq!(executed("stat::average_exec_per_sec:     4285"), None);
    }
}
