//! Waiting with a limit, and a word on what did not happen.

use std::fmt::Debug;
use std::thread::sleep;
use std::time::{Duration, Instant};

/// How long to wait between two looks.
pub(crate) const STEP: Duration = Duration::from_millis(15);

/// Looks until there is something.
///
/// # Panics
/// If there is nothing within the time; `what` says what was waited for.
pub fn wait_for<T>(what: &str, within: Duration, mut look: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(start.elapsed() < within, "waited {within:?} for {what}, in vain");
        sleep(STEP);
    }
}

/// Looks until what is seen is what it is to be.
///
/// # Panics
/// If it is not within the time, with what was seen last.
pub fn wait_same<T: PartialEq + Debug>(
    what: &str,
    within: Duration,
    expected: &T,
    mut look: impl FnMut() -> T,
) {
    let start = Instant::now();
    loop {
        let seen = look();
        if seen == *expected {
            return;
        }
        assert!(
            start.elapsed() < within,
            "waited {within:?} for {what}, in vain: {seen:#?}\nis not {expected:#?}"
        );
        sleep(STEP);
    }
}

/// Looks until something is so.
///
/// # Panics
/// If it is not within the time.
pub fn wait_until(what: &str, within: Duration, mut so: impl FnMut() -> bool) {
    wait_for(what, within, || so().then_some(()));
}
