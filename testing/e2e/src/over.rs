//! The end of a scope, for the threads in it.

use std::sync::atomic::{AtomicBool, Ordering};

/// Says that it is over once this is dropped: threads of a scope that go on until somebody says so would else hold it up for
/// ever when something in it fails.
#[derive(Debug)]
pub struct Over<'a>(&'a AtomicBool);

impl<'a> Over<'a> {
    /// What the threads look at; set when this is dropped.
    #[must_use]
    pub const fn at_the_end(over: &'a AtomicBool) -> Self {
        Self(over)
    }
}

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_in_a_scope_ends_its_threads() {
        let over = AtomicBool::new(false);
        let failed = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            std::thread::scope(|scope| {
                let _over = Over::at_the_end(&over);
                scope.spawn(|| {
                    while !over.load(Ordering::Relaxed) {
                        std::thread::yield_now();
                    }
                });
                std::panic::resume_unwind(Box::new("it fails"));
            });
        }));
        assert!(failed.is_err() && over.into_inner());
    }
}
