//! Open sockets that a process was started with, as systemd hands them over: from descriptor 3 on, with their
//! number and names in the environment.
//!
//! ```text
//! LISTEN_FDS=2   LISTEN_FDNAMES=http:admin   LISTEN_PID=4711     descriptors 3 and 4
//! ```
//!
//! A crate of its own because a descriptor that has a number and no owner can be taken only by unsafe code, and
//! both those who supervise and those who serve take them.

#[cfg(unix)]
pub use unix::{FIRST, own, take};

/// The variables that tell of them. They are meant for one process, and so never passed on.
pub const VARIABLES: [&str; 3] = ["LISTEN_FDS", "LISTEN_FDNAMES", "LISTEN_PID"];

#[cfg(unix)]
mod unix {
    use std::io;
    use std::os::fd::{BorrowedFd, FromRawFd as _, OwnedFd, RawFd};
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::VARIABLES;

    /// The first of them.
    pub const FIRST: RawFd = 3;

    /// The sockets that were handed to this process, with their names, in order; none if none were, or if they
    /// were meant for another. They are given out once: a second call gets none.
    ///
    /// # Errors
    /// What the environment tells is not there.
    pub fn take() -> io::Result<Vec<(String, OwnedFd)>> {
        static GIVEN: AtomicBool = AtomicBool::new(false);
        let [count, names, pid] = VARIABLES.map(|name| std::env::var(name).unwrap_or_default());
        if pid != std::process::id().to_string() || GIVEN.swap(true, Ordering::Relaxed) {
            return Ok(Vec::new());
        }
        let count: RawFd = count.parse().map_err(io::Error::other)?;
        let mut names = names.split(':');
        let one = |number| Ok((names.next().unwrap_or_default().to_owned(), own(number)?));
        (FIRST..FIRST.saturating_add(count)).map(one).collect()
    }

    /// Owns a descriptor that was left open for this process: by its earlier image, or by who started it. What
    /// this process starts does not inherit it. To be called once for each number, with one that was open before
    /// this program began.
    ///
    /// # Errors
    /// It is not open, or one of the three that every process has.
    #[expect(unsafe_code, reason = "descriptors outlive an exec by their number alone")]
    pub fn own(number: RawFd) -> io::Result<OwnedFd> {
        if number < FIRST {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        // SAFETY: used for one question, whose answer is an error if it is not open; not -1, as was checked.
        let copy = unsafe { BorrowedFd::borrow_raw(number) }.try_clone_to_owned()?;
        // The copy is closed on exec. The original is not, and goes.
        // SAFETY: it is open, as has just been seen, it was given up to us, and nothing else here has taken it:
        // it was open before this program began, so nothing that was opened since has its number.
        drop(unsafe { OwnedFd::from_raw_fd(number) });
        Ok(copy)
    }

    #[cfg(test)]
    mod tests {
        use super::*;

        #[test]
        fn what_is_not_there_is_not_taken() {
            assert!(own(0).is_err());
            assert!(own(9_999).is_err());
            // Nobody has handed anything to a test.
            assert!(take().is_ok_and(|sockets| sockets.is_empty()));
        }
    }
}
