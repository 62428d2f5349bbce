//! `cargo xtask test`: every kind of test, run in one order and counted together.
//!
//! It ends with `N passed, N failed, N skipped` alone on the last line, after what failed and what each of those said; their names
//! are told after each kind already, for a gate that is cut off. A test binary counts its tests; any other step counts
//! as one. A kind that runs nothing has failed: a gate that looks at nothing must not say that all is well. A test that
//! cannot run on this machine says so (see [`libtest::SKIP_MARK`]) and counts as skipped.

use std::time::Instant;

use anyhow::Result;

use crate::term::{Style, paint};
use crate::workspace::Workspace;

mod excerpt;
mod fuzz;
mod kinds;
mod libtest;
mod options;
mod tally;
mod vm;

use kinds::Kind;
use options::Options;
use tally::Tally;

/// Runs the gate; `Ok(false)` when anything failed.
pub(crate) fn run(workspace: &Workspace, args: &[String]) -> Result<bool> {
    let options = Options::parse(args)?;
    if options.list {
        for kind in Kind::ALL {
            println!("{:8} {}", kind.name(), kind.about());
        }
        return Ok(true);
    }

    let mut total = Tally::default();
    let mut timings = Vec::new();
    for &kind in &options.kinds {
        println!("{}", paint(Style::Bold, &format!("== {}: {}", kind.name(), kind.about())));
        let started = Instant::now();
        let tally =
            kinds::run(kind, workspace, options.verbose).unwrap_or_else(|error| Tally::broken(&error));
        let seconds = started.elapsed().as_secs_f64();
        let style = if tally.failed() == 0 { Style::Good } else { Style::Bad };
        println!("{}", paint(style, &format!("-- {}: {} ({seconds:.1} s)", kind.name(), tally.line())));
        for name in tally.failed_names() {
            println!("{}", paint(Style::Bad, &format!("   failed: {name}")));
        }
        println!();
        timings.push((kind, seconds));
        total.add(kind.name(), tally);
    }

    if options.timings {
        println!("timings");
        for (kind, seconds) in &timings {
            println!("  {:8} {seconds:8.1} s", kind.name());
        }
        let sum: f64 = timings.iter().map(|(_, seconds)| seconds).sum();
        println!("  {:8} {sum:8.1} s\n", "all");
    }
    print_list(Style::Note, "skipped", total.skips());
    print_list(Style::Bad, "failed", &told(&total));
    println!("{}", total.line());
    Ok(total.failed() == 0)
}

/// Each that failed, with what it said below.
fn told(tally: &Tally) -> Vec<String> {
    let failures = tally.failures().iter();
    failures
        .flat_map(|failure| {
            let said = failure.said.iter().map(|line| format!("    | {line}"));
            std::iter::once(failure.what.clone()).chain(said)
        })
        .collect()
}

fn print_list(style: Style, title: &str, entries: &[String]) {
    if entries.is_empty() {
        return;
    }
    println!("{}", paint(style, title));
    for entry in entries {
        println!("  {entry}");
    }
    println!();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_failed_is_told_with_what_it_said() {
        let mut tally = Tally::default();
        tally.fail_saying("e2e: a::b (server)".to_owned(), &["thread", "why"].into_iter().collect());
        tally.fail("fmt: cargo fmt ended with exit status: 1".to_owned());
        let expected =
            ["e2e: a::b (server)", "    | thread", "    | why", "fmt: cargo fmt ended with exit status: 1"];
        assert_eq!(told(&tally), expected);
    }
}
