//! What cannot run here is counted as skipped, with its reason, and never silently.

/// Says that a test did not run on this machine; the test returns after it. `cargo xtask test` counts
/// the line and moves the test from passed to skipped.
#[expect(clippy::print_stdout, reason = "the test runner reads it")]
pub fn skipped(test: &str, reason: &str) {
    println!("formic-test-skipped: {test}: {reason}");
}
