//! A file that nobody can hold in the head is two files.

use super::Finding;
use super::tree::Source;

/// Lines, tests included. Where 250 is the aim and 400 asks a question, this is the end.
const LIMIT: usize = 800;

/// Files that may be longer, each with its reason.
const LONGER: &[(&str, &str)] = &[];

pub(crate) fn check(sources: &[Source]) -> Vec<Finding> {
    check_with(sources, LONGER)
}

fn check_with(sources: &[Source], longer: &[(&str, &str)]) -> Vec<Finding> {
    let mut findings = Vec::new();
    for source in sources.iter().filter(|source| source.is_rust() && !source.is_generated()) {
        let lines = source.text.lines().count();
        let listed = longer.iter().any(|(path, _)| *path == source.path);
        if lines > LIMIT && !listed {
            let what = format!("{lines} lines, where {LIMIT} is the limit");
            findings.push(Finding::new(
                &source.path,
                LIMIT + 1,
                what,
                "split it, or list it with a reason in xtask/src/tidy/sizes.rs",
            ));
        } else if lines <= LIMIT && listed {
            let what = format!("{lines} lines: it needs no exception any more");
            findings.push(Finding::new(
                &source.path,
                1,
                what,
                "take it off the list in xtask/src/tidy/sizes.rs",
            ));
        }
    }
    for (path, _) in longer {
        if !sources.iter().any(|source| source.path == *path) {
            findings.push(Finding::new(
                path,
                1,
                "an exception for a file that is not there",
                "take it off the list in xtask/src/tidy/sizes.rs",
            ));
        }
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(path: &str, lines: usize) -> Source {
        Source::new(path, &"x\n".repeat(lines))
    }

    #[test]
    fn the_limit_holds_for_written_code() {
        let sources = [
            source("a/src/lib.rs", 800),
            source("a/src/long.rs", 801),
            source("a/src/gen/x.rs", 5000),
            source("a.md", 900),
        ];
        let findings = check_with(&sources, &[]);
        assert_eq!(findings.len(), 1);
        assert_eq!(findings[0].path, "a/src/long.rs");
    }

    #[test]
    fn an_exception_must_be_needed() {
        let longer =
            [("a/src/long.rs", "a table"), ("a/src/short.rs", "once long"), ("a/src/gone.rs", "gone")];
        let findings = check_with(&[source("a/src/long.rs", 900), source("a/src/short.rs", 10)], &longer);
        let paths: Vec<&str> = findings.iter().map(|finding| finding.path.as_str()).collect();
        assert_eq!(paths, ["a/src/short.rs", "a/src/gone.rs"]);
    }
}
