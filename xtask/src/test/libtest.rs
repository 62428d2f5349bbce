//! Reads what `cargo test -- --show-output` prints, test by test.
//!
//! The text form is read because the JSON form of the test harness is not stable. The output of a test may hold anything, even
//! the results of another `cargo test`, so a result line counts only where one is due and only when its sum is the number of
//! tests that the binary announced.

use std::collections::BTreeMap;

use super::excerpt::Excerpt;
use super::tally::Tally;
use crate::term;

/// A test that cannot run on this machine prints `formic-test-skipped: <name>: <reason>` on a line of its own to standard
/// output (by `println!`, so that the harness captures it) and returns. It then counts as skipped and not as passed, with
/// the name and the reason shown at the end.
pub(crate) const SKIP_MARK: &str = "formic-test-skipped: ";

/// Whether a line is worth a person's time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Show {
    Always,
    /// A test that passed, or its output.
    Verbose,
}

#[derive(Debug, Default, PartialEq, Eq)]
enum State {
    /// Between test binaries.
    #[default]
    Idle,
    /// A binary announced its tests and is running them.
    Running,
    /// It prints the output of tests that passed.
    Successes,
    /// It prints the output of tests that failed.
    Failures,
}

/// Counts tests from the lines of `cargo test`.
#[derive(Debug, Default)]
pub(crate) struct Parser {
    state: State,
    /// The heading of the present binary, as cargo printed it.
    binary: String,
    announced: usize,
    failed_names: Vec<String>,
    /// What the present binary has said, should it end without a result.
    said: Excerpt,
    /// What each test that failed said, by its name.
    said_by: BTreeMap<String, Excerpt>,
    /// The test whose output is being read.
    speaks: Option<String>,
    /// The same before the list of names that may end it: the output of a test may hold such a line itself.
    before_names: Option<Excerpt>,
    ignored: Vec<String>,
    /// The test whose output is being printed has said already why it was skipped.
    section_skipped: bool,
    skipped: Vec<String>,
    tally: Tally,
}

impl Parser {
    /// Reads one line.
    pub(crate) fn line(&mut self, raw: &str) -> Show {
        let stripped = term::strip(raw);
        let line = stripped.as_str();
        if heading(line).is_none() {
            self.said.push(line);
        }
        match self.state {
            State::Idle => self.idle(line),
            State::Running => self.running(line),
            State::Successes | State::Failures => self.report(line),
        }
    }

    /// The counts, when there are no more lines.
    pub(crate) fn finish(mut self) -> Tally {
        self.crashed();
        self.tally
    }

    fn idle(&mut self, line: &str) -> Show {
        if let Some(binary) = heading(line) {
            self.begins(binary);
        } else if let Some(tests) = announcement(line) {
            self.announced = tests;
            self.state = State::Running;
            return Show::Verbose;
        }
        // The harness puts empty lines around everything that is not shown.
        if line.is_empty() { Show::Verbose } else { Show::Always }
    }

    fn running(&mut self, line: &str) -> Show {
        if let Some(binary) = heading(line) {
            self.crashed();
            self.begins(binary);
            return Show::Always;
        }
        match line {
            "successes:" => return self.enter(State::Successes),
            "failures:" => return self.enter(State::Failures),
            _ => {}
        }
        if self.result(line) {
            return Show::Always;
        }
        let Some((name, outcome)) = line.strip_prefix("test ").and_then(|rest| rest.rsplit_once(" ... "))
        else {
            return Show::Always;
        };
        if outcome == "ok" {
            return Show::Verbose;
        }
        if outcome.starts_with("FAILED") {
            self.failed_names.push(name.to_owned());
        } else if let Some(reason) = outcome.strip_prefix("ignored") {
            let reason = reason.strip_prefix(", ").unwrap_or("marked #[ignore]");
            self.ignored.push(format!("{name}: {reason}"));
        }
        Show::Always
    }

    fn report(&mut self, line: &str) -> Show {
        let passing = self.state == State::Successes;
        match line {
            "successes:" => return self.enter(State::Successes),
            "failures:" => {
                self.before_names = self.speaks.as_ref().and_then(|name| self.said_by.get(name)).cloned();
                self.spoken(line);
                return self.enter(State::Failures);
            }
            _ => {}
        }
        if self.result(line) {
            return Show::Always;
        }
        if !passing {
            self.spoken(line);
        }
        if line.starts_with("---- ") && line.ends_with(" stdout ----") {
            self.section_skipped = false;
        } else if passing
            && !self.section_skipped
            && let Some(skip) = line.strip_prefix(SKIP_MARK)
        {
            // One test is one skip, however many reasons it gives.
            self.section_skipped = true;
            self.skipped.push(skip.to_owned());
            return Show::Always;
        }
        if passing { Show::Verbose } else { Show::Always }
    }

    fn begins(&mut self, binary: &str) {
        binary.clone_into(&mut self.binary);
        self.said = Excerpt::default();
    }

    /// A line of what tests that failed have said.
    fn spoken(&mut self, line: &str) {
        let name = line.strip_prefix("---- ").and_then(|rest| rest.strip_suffix(" stdout ----"));
        if let Some(name) = name.filter(|name| self.failed_names.iter().any(|failed| failed == name)) {
            self.speaks = Some(name.to_owned());
            self.before_names = None;
        } else if let Some(name) = &self.speaks {
            self.said_by.entry(name.clone()).or_default().push(line);
        }
    }

    fn enter(&mut self, state: State) -> Show {
        let show = if state == State::Successes { Show::Verbose } else { Show::Always };
        self.state = state;
        self.section_skipped = false;
        show
    }

    /// Takes a result line if it is the one that is due.
    fn result(&mut self, line: &str) -> bool {
        let Some(counts) = Counts::parse(line) else { return false };
        if counts.passed + counts.failed + counts.ignored + counts.measured != self.announced {
            return false;
        }
        let skipped = std::mem::take(&mut self.skipped);
        self.tally.pass((counts.passed + counts.measured).saturating_sub(skipped.len()));
        for skip in skipped {
            self.tally.skip(skip);
        }
        let ignored = std::mem::take(&mut self.ignored);
        for index in 0..counts.ignored {
            self.tally.skip(
                ignored.get(index).cloned().unwrap_or_else(|| format!("{}: an ignored test", self.binary)),
            );
        }
        let failed = std::mem::take(&mut self.failed_names);
        let mut said_by = std::mem::take(&mut self.said_by);
        if let (Some(name), Some(said)) = (self.speaks.take(), self.before_names.take()) {
            said_by.insert(name, said);
        }
        for index in 0..counts.failed {
            let name = failed.get(index).map_or("a test", String::as_str);
            let said = said_by.remove(name).unwrap_or_default();
            self.tally.fail_saying(format!("{name} ({})", self.binary), &said);
        }
        self.state = State::Idle;
        true
    }

    /// The binary ended without a result, if one was due.
    fn crashed(&mut self) {
        if self.state == State::Idle {
            return;
        }
        let what = format!("{} ended without a result: it crashed or was killed", self.binary);
        self.tally.fail_saying(what, &std::mem::take(&mut self.said));
        self.state = State::Idle;
        self.failed_names.clear();
        self.said_by.clear();
        (self.speaks, self.before_names) = (None, None);
        self.ignored.clear();
        self.skipped.clear();
    }
}

/// `     Running unittests src/lib.rs (target/…/deps/formic_core-0123)` or `   Doc-tests formic_core`, as cargo prints it
/// above the output of each test binary.
fn heading(line: &str) -> Option<&str> {
    if let Some(rest) = line.strip_prefix("     Running ") {
        // The name of the executable says which crate it is; the source path alone does not.
        let (source, executable) = rest.split_once(" (")?;
        let stem = executable.trim_end_matches(')').rsplit(['/', '\\']).next()?;
        let name = stem.rsplit_once('-').map_or(stem, |(name, _)| name);
        return Some(if name.is_empty() { source } else { name });
    }
    line.strip_prefix("   Doc-tests ").map(|_| line.trim_start())
}

/// `running 12 tests`
fn announcement(line: &str) -> Option<usize> {
    let rest = line.strip_prefix("running ")?;
    let (number, word) = rest.split_once(' ')?;
    if word == "test" || word == "tests" { number.parse().ok() } else { None }
}

#[derive(Debug, Default, PartialEq, Eq)]
struct Counts {
    passed: usize,
    failed: usize,
    ignored: usize,
    measured: usize,
}

impl Counts {
    /// `test result: ok. 3 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.01s`
    fn parse(line: &str) -> Option<Self> {
        let rest = line.strip_prefix("test result: ")?;
        let (_, numbers) = rest.split_once(". ")?;
        let mut counts = Self::default();
        for part in numbers.split("; ") {
            let Some((number, word)) = part.split_once(' ') else { continue };
            let slot = match word {
                "passed" => &mut counts.passed,
                "failed" => &mut counts.failed,
                "ignored" => &mut counts.ignored,
                "measured" => &mut counts.measured,
                _ => continue,
            };
            *slot = number.parse().ok()?;
        }
        Some(counts)
    }
}

#[cfg(test)]
mod tests;
