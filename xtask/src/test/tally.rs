//! The counts of the gate, and the names of what failed or was skipped.

use super::excerpt::Excerpt;

/// What a kind of test, or the whole gate, came to.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Tally {
    passed: usize,
    failures: Vec<Failure>,
    skips: Vec<String>,
}

/// One that failed.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Failure {
    /// Its name, and what went wrong where that is known.
    pub(crate) what: String,
    /// Of what it said, the part that counts.
    pub(crate) said: Vec<String>,
}

impl Tally {
    /// A kind that could not be run at all.
    pub(crate) fn broken(error: &anyhow::Error) -> Self {
        let mut tally = Self::default();
        tally.fail(format!("{error:#}"));
        tally
    }

    pub(crate) fn pass(&mut self, tests: usize) {
        self.passed += tests;
    }

    pub(crate) fn fail(&mut self, what: String) {
        self.fail_saying(what, &Excerpt::default());
    }

    pub(crate) fn fail_saying(&mut self, what: String, said: &Excerpt) {
        self.failures.push(Failure { what, said: said.lines() });
    }

    pub(crate) fn skip(&mut self, what: String) {
        self.skips.push(what);
    }

    /// Adds the tally of one kind, each name with the kind before it.
    pub(crate) fn add(&mut self, kind: &str, other: Self) {
        self.passed += other.passed;
        let of_kind = |failure: Failure| Failure { what: format!("{kind}: {}", failure.what), ..failure };
        self.failures.extend(other.failures.into_iter().map(of_kind));
        self.skips.extend(other.skips.into_iter().map(|what| format!("{kind}: {what}")));
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.passed == 0 && self.failures.is_empty() && self.skips.is_empty()
    }

    pub(crate) fn failed(&self) -> usize {
        self.failures.len()
    }

    pub(crate) fn failures(&self) -> &[Failure] {
        &self.failures
    }

    /// The names of what failed.
    pub(crate) fn failed_names(&self) -> Vec<&str> {
        self.failures.iter().map(|failure| failure.what.as_str()).collect()
    }

    pub(crate) fn skips(&self) -> &[String] {
        &self.skips
    }

    /// The line that ends the gate. Programs read it: its form is fixed.
    pub(crate) fn line(&self) -> String {
        format!("{} passed, {} failed, {} skipped", self.passed, self.failures.len(), self.skips.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_add_up_and_keep_their_names() {
        let mut unit = Tally::default();
        unit.pass(40);
        unit.fail_saying("a::b".to_owned(), &["it said why"].into_iter().collect());
        let mut foreign = Tally::default();
        foreign.pass(2);
        foreign.skip("python: no python3".to_owned());
        let mut total = Tally::default();
        assert!(total.is_empty());
        total.add("unit", unit);
        total.add("foreign", foreign);
        assert_eq!(total.line(), "42 passed, 1 failed, 1 skipped");
        assert_eq!(total.failed_names(), ["unit: a::b"]);
        assert_eq!(total.failures()[0].said, ["it said why"]);
        assert_eq!(total.skips(), ["foreign: python: no python3"]);
    }

    #[test]
    fn a_kind_that_could_not_run_is_a_failure() {
        let error = anyhow::anyhow!("no cargo").context("start `cargo fmt`");
        let tally = Tally::broken(&error);
        assert_eq!(tally.line(), "0 passed, 1 failed, 0 skipped");
        assert_eq!(tally.failed_names(), ["start `cargo fmt`: no cargo"]);
    }
}
