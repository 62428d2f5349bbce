//! The trivial program of `formic-bench engine`: says when it began, and then does nothing.

use std::io::Write as _;
use std::time::{SystemTime, UNIX_EPOCH};

fn main() {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    // Whoever measures it misses the line and says so.
    let _ = writeln!(std::io::stdout(), "{}", since.as_micros());
    loop {
        std::thread::park();
    }
}
