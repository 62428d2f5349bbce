//! The reader of test results against what cargo prints, and against output made to mislead it.

use super::*;

fn read(text: &str) -> Tally {
    let mut parser = Parser::default();
    for line in text.lines() {
        parser.line(line);
    }
    parser.finish()
}

const PASSING: &str = "\
   Compiling formic-core v0.1.0 (crates/formic-core)
     Running unittests src/lib.rs (target/debug/deps/formic_core-0123456789abcdef)

running 3 tests
test names::tests::short ... ok
test names::tests::long ... ok
test names::tests::slow ... ignored, needs an hour

test result: ok. 2 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.00s

   Doc-tests formic_core

running 0 tests

test result: ok. 0 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.00s
";

#[test]
fn passed_and_ignored_tests_are_counted() {
    let tally = read(PASSING);
    assert_eq!(tally.line(), "2 passed, 0 failed, 1 skipped");
    assert_eq!(tally.skips(), ["names::tests::slow: needs an hour"]);
}

#[test]
fn colour_does_not_matter() {
    let coloured = PASSING.replace("     Running", "\u{1b}[1m\u{1b}[92m     Running\u{1b}[0m");
    assert_eq!(read(&coloured).line(), "2 passed, 0 failed, 1 skipped");
}

const SKIPPING: &str = "
     Running tests/foreign.rs (target/debug/deps/foreign-0123456789abcdef)

running 3 tests
test node_unary ... ok
test python_unary ... ok
test broken ... FAILED

successes:

---- python_unary stdout ----
formic-test-skipped: python_unary: python3 is not installed
formic-test-skipped: python_unary: said twice


successes:
    node_unary
    python_unary

failures:

---- broken stdout ----
formic-test-skipped: broken: a test that fails is not skipped
thread 'broken' panicked at testing/e2e/tests/foreign.rs:1:1:

failures:
    broken

test result: FAILED. 2 passed; 1 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.01s

error: test failed, to rerun pass `-p formic-e2e --test foreign`
";

#[test]
fn a_skipped_test_moves_from_passed_to_skipped_once() {
    let tally = read(SKIPPING);
    assert_eq!(tally.line(), "1 passed, 1 failed, 1 skipped");
    assert_eq!(tally.skips(), ["python_unary: python3 is not installed"]);
    assert_eq!(tally.failed_names(), ["broken (foreign)"]);
}

#[test]
fn output_of_passing_tests_is_for_the_curious_and_failures_are_for_all() {
    let mut parser = Parser::default();
    let shown: Vec<&str> = SKIPPING.lines().filter(|line| parser.line(line) == Show::Always).collect();
    assert!(!shown.contains(&"test node_unary ... ok"));
    assert!(!shown.contains(&"---- python_unary stdout ----"));
    assert!(shown.contains(&"formic-test-skipped: python_unary: python3 is not installed"));
    assert!(shown.contains(&"test broken ... FAILED"));
    assert!(shown.contains(&"thread 'broken' panicked at testing/e2e/tests/foreign.rs:1:1:"));
}

#[test]
fn a_binary_that_crashes_is_a_failure() {
    let text = "
     Running tests/a.rs (target/debug/deps/a-0123456789abcdef)

running 2 tests
test one ... ok
     Running tests/b.rs (target/debug/deps/b-0123456789abcdef)

running 1 test
test two ... ok

test result: ok. 1 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.00s
";
    let tally = read(text);
    assert_eq!(tally.line(), "1 passed, 1 failed, 0 skipped");
    assert!(tally.failed_names()[0].starts_with("a ended without a result"));
    assert_eq!(tally.failures()[0].said.last().map(String::as_str), Some("test one ... ok"));
    // And the same at the end of the output.
    let cut: String = text.lines().take(6).map(|line| format!("{line}\n")).collect();
    assert_eq!(read(&cut).line(), "0 passed, 1 failed, 0 skipped");
}

#[test]
fn results_in_the_output_of_a_test_do_not_count() {
    let text = "
     Running tests/scaffold.rs (target/debug/deps/scaffold-0123456789abcdef)

running 2 tests
test a_new_service_passes_its_own_test ... ok
test other ... ok

successes:

---- a_new_service_passes_its_own_test stdout ----
     Running unittests src/main.rs (target/debug/deps/greeter-fedcba9876543210)
running 1 test
test says_hello ... ok
test result: ok. 1 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.00s


successes:
    a_new_service_passes_its_own_test
    other

test result: ok. 2 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out; finished in 9.00s
";
    assert_eq!(read(text).line(), "2 passed, 0 failed, 0 skipped");
}

const FAILING: &str = "
     Running tests/server/main.rs (target/debug/deps/server-0123456789abcdef)

running 3 tests
test follow::one ... FAILED
test follow::two ... FAILED
test good ... ok

successes:

---- good stdout ----
what nobody asks for

successes:
    good

failures:

---- follow::one stdout ----

thread 'follow::one' panicked at tests/server/follow.rs:1:1:
waited 30s for the next brain, in vain
--- server
the end of its log

---- follow::two stdout ----
---- another stdout ----
failures:
    inner
it is the last

failures:
    follow::one
    follow::two

test result: FAILED. 1 passed; 2 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.01s
";

#[test]
fn each_failure_has_what_its_test_said() {
    let tally = read(FAILING);
    assert_eq!(tally.failed_names(), ["follow::one (server)", "follow::two (server)"]);
    let said = |index: usize| tally.failures()[index].said.join("\n");
    assert_eq!(
        said(0),
        "\nthread 'follow::one' panicked at tests/server/follow.rs:1:1:\n\
         waited 30s for the next brain, in vain\n--- server\nthe end of its log"
    );
    assert_eq!(said(1), "---- another stdout ----\nfailures:\n    inner\nit is the last");
}

#[test]
fn nothing_is_nothing() {
    assert!(read("   Compiling a v0.1.0\nerror: could not compile `a`\n").is_empty());
}

#[test]
fn a_result_line_is_read_in_full() {
    let counts = Counts::parse(
        "test result: FAILED. 3 passed; 2 failed; 1 ignored; 4 measured; 9 filtered out; finished in 0.01s",
    );
    assert_eq!(counts, Some(Counts { passed: 3, failed: 2, ignored: 1, measured: 4 }));
    assert_eq!(Counts::parse("test results: none"), None);
}
