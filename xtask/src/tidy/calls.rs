//! Calls that have one home: starting tasks and processes, printing, changing the environment.

use std::collections::BTreeSet;

use super::Finding;
use super::code::{bare, test_lines};
use super::tree::Source;

const HERE: &str = "xtask/src/tidy/calls.rs";

/// A call that is refused outside its homes.
struct Rule {
    calls: &'static [&'static str],
    /// Beginnings of paths where it is at home.
    homes: &'static [&'static str],
    /// Where the rule holds at all: beginnings of paths, or everywhere when empty.
    within: &'static [&'static str],
    /// Whether test code may.
    tests_may: bool,
    what: &'static str,
    remedy: &'static str,
}

const RULES: &[Rule] = &[
    Rule {
        calls: &["tokio::spawn", "tokio::task::spawn", "Handle::current().spawn"],
        homes: &[
            // Waits for the second signal, which ends the process: it lives as long as the process does.
            "crates/formic/src/lifecycle.rs",
        ],
        within: &[],
        tests_may: true,
        what: "a task without an owner",
        remedy: "spawn it on a JoinSet or TaskTracker that somebody joins",
    },
    Rule {
        calls: &["Command::new"],
        homes: &[
            "crates/formic-supervise/",
            // Builds the services: cargo and the compiler's messages are a face of the binary, not of the engine.
            "bins/formic/",
            "bench/",
            "xtask/",
        ],
        within: &[],
        tests_may: true,
        what: "a process started outside supervision",
        remedy: "go through formic-supervise, which owns processes",
    },
    Rule {
        calls: &["env::set_var", "env::remove_var"],
        homes: &[],
        within: &[],
        tests_may: false,
        what: "the environment of the whole process is changed",
        remedy: "pass the value, or set it on the child process",
    },
    Rule {
        calls: &["println!", "eprintln!", "print!", "eprint!", "dbg!"],
        homes: &[
            // A build script talks to cargo and to the person in front of it by printing.
            "crates/formic-build/",
            // The last words of a service whose logger is gone, and the answer to `--explain`.
            "crates/formic/src/entry.rs",
            "crates/formic/src/lifecycle.rs",
        ],
        within: &["crates/", "plugins/"],
        tests_may: true,
        what: "a library prints",
        remedy: "return it, or log it with tracing",
    },
];

pub(crate) fn check(sources: &[Source]) -> Vec<Finding> {
    let mut findings = scan(sources);
    findings.extend(gone(sources));
    findings
}

/// Homes that are no more.
fn gone(sources: &[Source]) -> Vec<Finding> {
    let homes: BTreeSet<&str> = RULES.iter().flat_map(|rule| rule.homes).copied().collect();
    let empty = homes.into_iter().filter(|home| !sources.iter().any(|source| source.path.starts_with(home)));
    empty
        .map(|home| {
            Finding::new(HERE, 1, format!("a home that is not there: {home}"), "take it off the list")
        })
        .collect()
}

fn scan(sources: &[Source]) -> Vec<Finding> {
    sources.iter().filter(|source| source.is_rust() && !source.is_generated()).flat_map(check_one).collect()
}

fn check_one(source: &Source) -> Vec<Finding> {
    let begins = |paths: &[&str]| paths.iter().any(|path| source.path.starts_with(path));
    let bare = bare(&source.text);
    let in_tests = test_lines(&bare);
    let mut findings = Vec::new();
    for rule in RULES {
        let applies = rule.within.is_empty() || begins(rule.within);
        if !applies || begins(rule.homes) || (rule.tests_may && source.is_test()) {
            continue;
        }
        for (index, line) in bare.lines().enumerate() {
            if rule.tests_may && in_tests[index] {
                continue;
            }
            if let Some(call) = rule.calls.iter().find(|call| calls(line, call)) {
                let what = format!("{} (`{call}`)", rule.what);
                findings.push(Finding::new(&source.path, index + 1, what, rule.remedy));
            }
        }
    }
    findings
}

/// Whether `line` names `call`, and not something longer that ends or begins so.
fn calls(line: &str, call: &str) -> bool {
    let part = |c: char| c.is_alphanumeric() || c == '_';
    line.match_indices(call).any(|(at, _)| {
        !line[..at].chars().next_back().is_some_and(part)
            && !line[at + call.len()..].chars().next().is_some_and(part)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn faults(path: &str, text: &str) -> Vec<usize> {
        scan(&[Source::new(path, text)]).into_iter().map(|finding| finding.line).collect()
    }

    #[test]
    fn a_task_needs_an_owner() {
        assert_eq!(faults("crates/a/src/lib.rs", "fn f() {\n    tokio::spawn(async {});\n}\n"), [2]);
        assert_eq!(faults("bins/formic/src/a.rs", "use tokio::spawn;\n"), [1]);
        assert!(
            faults("crates/a/src/lib.rs", "tasks.spawn(async {}); tokio::task::spawn_blocking(f);\n")
                .is_empty()
        );
        assert!(faults("crates/a/src/lib.rs", "// tokio::spawn is not for here\n").is_empty());
    }

    #[test]
    fn processes_have_a_home() {
        assert_eq!(faults("crates/a/src/lib.rs", "std::process::Command::new(\"ls\");\n"), [1]);
        assert_eq!(faults("crates/a/src/lib.rs", "Command::new(\"ls\");\n"), [1]);
        assert!(faults("crates/formic-supervise/src/a.rs", "Command::new(\"ls\");\n").is_empty());
        assert!(faults("crates/a/src/lib.rs", "ServiceCommand::new();\n").is_empty());
    }

    #[test]
    fn tests_may_spawn_and_start_but_not_change_the_environment() {
        let text = "#[cfg(test)]\nmod tests {\n    fn f() {\n        tokio::spawn(a());\n        Command::new(b);\n        std::env::set_var(c, d);\n    }\n}\n";
        assert_eq!(faults("crates/a/src/lib.rs", text), [6]);
        assert!(faults("crates/a/tests/x.rs", "tokio::spawn(a());\n").is_empty());
    }

    #[test]
    fn a_home_that_is_gone_is_found() {
        let everything: Vec<Source> = RULES
            .iter()
            .flat_map(|rule| rule.homes)
            .map(|home| Source::new(&format!("{home}/x"), ""))
            .collect();
        assert!(gone(&everything).is_empty());
        assert!(!gone(&[]).is_empty());
    }

    #[test]
    fn libraries_do_not_print() {
        assert_eq!(faults("crates/a/src/lib.rs", "println!(\"x\");\n"), [1]);
        assert_eq!(faults("plugins/a/src/lib.rs", "std::eprint!(\"x\");\n"), [1]);
        assert!(faults("bins/formic/src/main.rs", "println!(\"x\");\n").is_empty());
        assert!(
            faults("crates/formic-build/src/lib.rs", "println!(\"cargo::rerun-if-changed=a\");\n").is_empty()
        );
        assert!(faults("crates/a/src/lib.rs", "//! println!(\"in an example\")\n").is_empty());
    }
}
