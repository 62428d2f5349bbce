//! What every file must say, and what none may: a `//!` header, no notes to self, no paths of somebody's machine.

use super::Finding;
use super::code::has_word;
use super::tree::Source;

// Put together from halves, so that this file passes its own check.
const NOTES: [&str; 3] = [concat!("TO", "DO"), concat!("FIX", "ME"), concat!("XX", "X")];
const HOMES: [&str; 4] =
    [concat!("/ho", "me/"), concat!("/ro", "ot/"), concat!("/Us", "ers/"), concat!("C:\\", "Users\\")];

pub(crate) fn check(sources: &[Source]) -> Vec<Finding> {
    let mut findings = Vec::new();
    for source in sources {
        findings.extend(header(source));
        // A lock file holds hashes and addresses, which are nobody's words.
        if source.is_generated() || source.path.ends_with(".lock") || source.path.ends_with("-lock.json") {
            continue;
        }
        for (index, line) in source.text.lines().enumerate() {
            findings.extend(note(&source.path, index + 1, line));
            findings.extend(home(&source.path, index + 1, line));
        }
    }
    findings
}

fn header(source: &Source) -> Option<Finding> {
    if !source.is_rust() || source.is_generated() {
        return None;
    }
    let first = source.text.lines().find(|line| !line.trim().is_empty()).unwrap_or_default();
    let says_something = first.strip_prefix("//!").is_some_and(|rest| !rest.trim().is_empty());
    (!says_something).then(|| {
        Finding::new(
            &source.path,
            1,
            "the file does not begin with a `//!` header",
            "say there why this file exists",
        )
    })
}

fn note(path: &str, number: usize, line: &str) -> Option<Finding> {
    let note = NOTES.into_iter().find(|note| has_word(line, note))?;
    Some(Finding::new(
        path,
        number,
        format!("a note to self ({note})"),
        "do it now, or write it down where work is planned",
    ))
}

fn home(path: &str, number: usize, line: &str) -> Option<Finding> {
    let found = HOMES.into_iter().find(|home| {
        line.match_indices(home).any(|(at, _)| {
            // Part of a longer path or an address, such as `https://example.org/home/`, is nobody's home.
            let before = line[..at].chars().next_back();
            let after = line[at + home.len()..].chars().next();
            !before.is_some_and(|c| c.is_alphanumeric() || matches!(c, '_' | '-' | '.' | '}'))
                && after.is_some_and(|c| c.is_alphanumeric() || c == '_')
        })
    })?;
    let what = format!("a path of somebody's machine ({found}…)");
    Some(Finding::new(path, number, what, "use a relative or a temporary path"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn faults(path: &str, text: &str) -> Vec<usize> {
        check(&[Source::new(path, text)]).into_iter().map(|finding| finding.line).collect()
    }

    #[test]
    fn a_rust_file_begins_with_its_reason() {
        assert!(faults("a/src/lib.rs", "//! Why.\n").is_empty());
        assert!(faults("a/src/lib.rs", "\n//! Why.\n").is_empty());
        assert_eq!(faults("a/src/lib.rs", "use a;\n//! Late.\n"), [1]);
        assert_eq!(faults("a/src/lib.rs", "//!\n"), [1]);
        assert_eq!(faults("a/src/lib.rs", ""), [1]);
        assert!(faults("a/src/gen/lib.rs", "use a;\n").is_empty());
        assert!(faults("a/run.sh", "set -eu\n").is_empty());
    }

    #[test]
    fn notes_to_self_are_found_as_words() {
        let note = NOTES[0];
        assert_eq!(faults("README.md", &format!("fine\n{note}: later\n")), [2]);
        assert_eq!(faults("a.toml", &format!("# {}\n", NOTES[1])), [1]);
        assert!(faults("README.md", &format!("{note}S are many, {}\n", note.to_lowercase())).is_empty());
    }

    #[test]
    fn paths_of_a_machine_are_found() {
        let home = HOMES[0];
        assert_eq!(faults("README.md", &format!("see {home}ada/formic\n")), [1]);
        assert_eq!(faults("a.toml", &format!("path = \"{}x\"\n", HOMES[1])), [1]);
        assert!(faults("README.md", &format!("https://example.org{home}page\n")).is_empty());
        assert!(faults("README.md", &format!("under `{home}` somewhere\n")).is_empty());
    }
}
