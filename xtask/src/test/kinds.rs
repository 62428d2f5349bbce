//! The kinds of test, in the order of the gate: what is quick to fail comes first.

use std::process::Command;

use anyhow::{Context as _, Result};

use super::excerpt::Excerpt;
use super::libtest::{Parser, Show};
use super::tally::Tally;
use crate::workspace::{Metadata, Workspace};
use crate::{codegen, run, simple, term, tidy};

/// The package whose tests drive the real binary and the shop.
const E2E: &str = "formic-e2e";
/// Test targets of that package whose names begin so drive the shop with clients that are not ours.
const FOREIGN: &str = "foreign";
/// Those that compile for long, or start nothing that calls.
const ALIKE: [&str; 2] = ["scaffold", "alone"];
/// Modules of the others whose programs call nobody: over either wire they are the same.
const SILENT: [&str; 6] = ["again::", "clock::", "damage::", "door::", "proxied::", "users::"];
/// The package whose tests are about calls that go wrong.
const SCENES: &str = "formic-testing";

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Fmt,
    Clippy,
    Tidy,
    Unit,
    Doc,
    Docs,
    Codegen,
    E2e,
    Foreign,
    Http,
    Vm,
    Fuzz,
}

impl Kind {
    pub(crate) const ALL: [Self; 12] = [
        Self::Fmt,
        Self::Clippy,
        Self::Tidy,
        Self::Unit,
        Self::Doc,
        Self::Docs,
        Self::Codegen,
        Self::E2e,
        Self::Foreign,
        Self::Http,
        Self::Vm,
        Self::Fuzz,
    ];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Fmt => "fmt",
            Self::Clippy => "clippy",
            Self::Tidy => "tidy",
            Self::Unit => "unit",
            Self::Doc => "doc",
            Self::Docs => "docs",
            Self::Codegen => "codegen",
            Self::E2e => "e2e",
            Self::Foreign => "foreign",
            Self::Http => "http",
            Self::Vm => "vm",
            Self::Fuzz => "fuzz",
        }
    }

    /// Whether it runs when no kind is asked for. An emulated machine takes minutes, and its packages to be installed.
    pub(crate) fn is_of_the_gate(self) -> bool {
        self != Self::Vm
    }

    pub(crate) fn about(self) -> &'static str {
        match self {
            Self::Fmt => "the code is formatted",
            Self::Clippy => "no warning from the compiler or clippy",
            Self::Tidy => "the rules of the house",
            Self::Unit => "unit, integration and conformance tests of every crate",
            Self::Doc => "the examples in the documentation",
            Self::Docs => "the documentation builds without a warning",
            Self::Codegen => "generated code is what its protos say",
            Self::E2e => "the binary and the shop, end to end",
            Self::Foreign => "the shop, driven by clients that are not ours",
            Self::Http => "the shop, the crash tests and the fault scenes once more, over HTTP",
            Self::Vm => "what needs cgroup v2 with every controller, in a machine of its own",
            Self::Fuzz => "what parses bytes from outside, a minute under a fuzzer",
        }
    }
}

/// Runs one kind.
pub(crate) fn run(kind: Kind, workspace: &Workspace, verbose: bool) -> Result<Tally> {
    match kind {
        Kind::Fmt => step("cargo fmt", &mut simple::fmt_check(workspace)),
        Kind::Clippy => step("cargo clippy", &mut simple::clippy(workspace)),
        Kind::Docs => step("cargo doc", &mut simple::docs(workspace)),
        Kind::Codegen => Ok(one("codegen --check", codegen::check(workspace)?)),
        Kind::Tidy => Ok(one("tidy", tidy::run(workspace)?)),
        Kind::Unit => {
            // --tests and not --all-targets: the latter would also run benches as tests.
            let targets = ["--lib", "--bins", "--tests", "--examples"];
            let mut command = cargo_test(workspace, &["--workspace", "--exclude", E2E]);
            tests(command.args(targets), &[], verbose)
        }
        Kind::Doc => {
            let mut command = cargo_test(workspace, &["--workspace", "--doc"]);
            // `--doc` asks every library, also those whose manifest says `doctest = false`.
            for package in workspace.metadata()?.members().values() {
                let library =
                    package.targets.iter().find(|target| target.kind.iter().any(|kind| kind == "lib"));
                if library.is_some_and(|library| !library.doctest) {
                    command.args(["--exclude", &package.name]);
                }
            }
            tests(&mut command, &[], verbose)
        }
        Kind::E2e | Kind::Foreign | Kind::Http => end_to_end(kind, workspace, verbose),
        Kind::Vm => super::vm::run(workspace, verbose),
        Kind::Fuzz => super::fuzz::run(workspace),
    }
}

/// A step that passes or fails as a whole.
fn step(name: &str, command: &mut Command) -> Result<Tally> {
    let mut said = Excerpt::default();
    let ending = run::stream(command, |line| {
        println!("{line}");
        said.push(&term::strip(line));
    })?;
    let mut tally = Tally::default();
    match ending.fault() {
        None => tally.pass(1),
        Some(fault) => tally.fail_saying(format!("{name} {fault}; its output is above"), &said),
    }
    Ok(tally)
}

fn one(name: &str, good: bool) -> Tally {
    let mut tally = Tally::default();
    if good {
        tally.pass(1)
    } else {
        tally.fail(format!("{name} found faults; they are listed above"))
    }
    tally
}

fn cargo_test(workspace: &Workspace, packages: &[&str]) -> Command {
    let mut command = workspace.cargo(["test", "--no-fail-fast", "--locked"]);
    command.args(packages);
    command
}

/// Runs `cargo test …` and counts its tests one by one.
fn tests(command: &mut Command, left_out: &[&str], verbose: bool) -> Result<Tally> {
    // Output of tests that pass is asked for because a skipped test says so there.
    command.args(["--", "--show-output"]);
    for name in left_out {
        command.args(["--skip", name]);
    }
    let (mut parser, mut said) = (Parser::default(), Excerpt::default());
    let ending = run::stream(command, |line| {
        said.push(&term::strip(line));
        if parser.line(line) == Show::Always || verbose {
            println!("{line}");
        }
    })?;
    let mut tally = parser.finish();
    match ending.fault() {
        // A test that failed explains the status of cargo; without one, it is a build that failed or a crash.
        Some(fault) if tally.failed() == 0 => {
            tally.fail_saying(format!("cargo test {fault}; its output is above"), &said);
        }
        None if tally.is_empty() => tally.fail("no test ran; a kind without tests proves nothing".to_owned()),
        Some(_) | None => {}
    }
    Ok(tally)
}

fn end_to_end(kind: Kind, workspace: &Workspace, verbose: bool) -> Result<Tally> {
    let metadata = workspace.metadata()?;
    let targets = e2e_targets(&metadata, kind)?;
    if targets.is_empty() {
        let mut tally = Tally::default();
        tally.fail(format!("{E2E} has no test target for this kind"));
        return Ok(tally);
    }
    // The tests start these programs; built here, no test spends its time limit on the compiler.
    let mut build = workspace.cargo(["build", "--locked", "--bins"]);
    for package in programs(&metadata) {
        build.args(["--package", package]);
    }
    let built = step("building the programs under test:", &mut build)?;
    if built.failed() > 0 {
        return Ok(built);
    }
    let mut command = cargo_test(workspace, &["--package", E2E]);
    command.args(targets);
    if kind == Kind::Http {
        // The setting that services, the gateway and the binary read. By default all of it is multiplexed, and the test
        // `wire` of the shop proves both.
        command.env("FORMIC_TRANSPORT", "http").args(["--package", SCENES]).args(scenes(&metadata)?);
    }
    tests(&mut command, if kind == Kind::Http { &SILENT } else { &[] }, verbose)
}

/// The arguments that choose the test targets of [`E2E`] for a kind.
fn e2e_targets(metadata: &Metadata, kind: Kind) -> Result<Vec<String>> {
    let members = metadata.members();
    let package = members.get(E2E).with_context(|| format!("the workspace has no package {E2E}"))?;
    let mut args = Vec::new();
    for target in &package.targets {
        let is_foreign = target.name.starts_with(FOREIGN);
        let is_alike = kind == Kind::Http && ALIKE.contains(&target.name.as_str());
        if target.kind.iter().any(|k| k == "test") && is_foreign == (kind == Kind::Foreign) && !is_alike {
            args.extend(["--test".to_owned(), target.name.clone()]);
        } else if kind == Kind::E2e && target.kind.iter().any(|k| k == "lib") {
            args.push("--lib".to_owned());
        }
    }
    Ok(args)
}

/// The arguments that choose every test target of [`SCENES`].
fn scenes(metadata: &Metadata) -> Result<Vec<String>> {
    let members = metadata.members();
    let package = members.get(SCENES).with_context(|| format!("the workspace has no package {SCENES}"))?;
    let tests = package.targets.iter().filter(|target| target.kind.iter().any(|kind| kind == "test"));
    Ok(tests.flat_map(|target| ["--test".to_owned(), target.name.clone()]).collect())
}

/// The packages whose programs the end-to-end tests start.
fn programs(metadata: &Metadata) -> Vec<&str> {
    let members = metadata.members();
    members
        .iter()
        .filter(|(_, package)| {
            let path = package.manifest_path.as_str();
            (path.starts_with("bins/") || path.starts_with("examples/"))
                && package.targets.iter().any(|target| target.kind.iter().any(|k| k == "bin"))
        })
        .map(|(name, _)| *name)
        .collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::workspace::{Package, Target};

    fn target(name: &str, kind: &str) -> Target {
        Target { name: name.to_owned(), kind: vec![kind.to_owned()], doctest: false }
    }

    fn package(name: &str, manifest: &str, targets: Vec<Target>) -> Package {
        Package {
            id: name.to_owned(),
            name: name.to_owned(),
            manifest_path: manifest.to_owned(),
            targets,
            ..Package::default()
        }
    }

    fn metadata() -> Metadata {
        let packages = vec![
            package(
                E2E,
                "testing/e2e/Cargo.toml",
                vec![
                    target("formic_e2e", "lib"),
                    target("scaffold", "test"),
                    target("shop", "test"),
                    target("foreign_python", "test"),
                ],
            ),
            package(
                SCENES,
                "testing/formic-testing/Cargo.toml",
                vec![target("formic_testing", "lib"), target("faults", "test"), target("traffic", "test")],
            ),
            package("formic-cli", "bins/formic/Cargo.toml", vec![target("formic", "bin")]),
            package("shop-order", "examples/shop/order/Cargo.toml", vec![target("shop-order", "bin")]),
            package("formic-core", "crates/formic-core/Cargo.toml", vec![target("formic_core", "lib")]),
        ];
        let workspace_members = packages.iter().map(|package| package.id.clone()).collect();
        Metadata { packages, workspace_members }
    }

    #[test]
    fn foreign_clients_are_a_kind_of_their_own() {
        let all = ["--lib", "--test", "scaffold", "--test", "shop"];
        assert_eq!(e2e_targets(&metadata(), Kind::E2e).unwrap(), all);
        assert_eq!(e2e_targets(&metadata(), Kind::Http).unwrap(), ["--test", "shop"]);
        assert_eq!(e2e_targets(&metadata(), Kind::Foreign).unwrap(), ["--test", "foreign_python"]);
    }

    #[test]
    fn all_calls_that_go_wrong_do_so_over_http_too() {
        assert_eq!(scenes(&metadata()).unwrap(), ["--test", "faults", "--test", "traffic"]);
    }

    #[test]
    fn the_programs_under_test_are_the_binary_and_the_examples() {
        assert_eq!(programs(&metadata()), ["formic-cli", "shop-order"]);
    }

    #[test]
    fn names_are_unique() {
        let names: std::collections::BTreeSet<_> = Kind::ALL.iter().map(|kind| kind.name()).collect();
        assert_eq!(names.len(), Kind::ALL.len());
    }
}
