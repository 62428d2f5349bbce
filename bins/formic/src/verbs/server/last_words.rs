//! Why a server that was started in the background has ended: what it wrote to its log at last.

use std::fs::File;
use std::io::{Read as _, Seek as _, SeekFrom};
use std::path::Path;

/// How much of a log is looked at.
const AT_MOST: u64 = 64 << 10;
/// How a failure's first line begins, and the one that says what to do about it.
const ERROR: &str = "error: ";
const HELP: &str = "help: ";

/// The last error that a server has written to its log from there on, and what to do about it.
pub(super) fn last_error(log: &Path, from: u64) -> Option<(String, Option<String>)> {
    let mut file = File::open(log).ok()?;
    let to = file.metadata().ok()?.len();
    file.seek(SeekFrom::Start(from.max(to.saturating_sub(AT_MOST)))).ok()?;
    let mut bytes = Vec::new();
    file.take(AT_MOST).read_to_end(&mut bytes).ok()?;
    last_of(&String::from_utf8_lossy(&bytes))
}

/// Only a line's own beginning counts: what a cause says may hold the same words.
fn last_of(text: &str) -> Option<(String, Option<String>)> {
    let lines: Vec<&str> = text.lines().collect();
    let at = lines.iter().rposition(|line| line.starts_with(ERROR))?;
    let help = lines[at + 1..].iter().find_map(|line| line.trim().strip_prefix(HELP));
    Some((lines[at][ERROR.len()..].to_owned(), help.map(ToOwned::to_owned)))
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]

    use super::*;

    #[test]
    fn the_last_line_that_is_an_error_counts_whatever_it_says() {
        let text = "the brain is up\nerror: the first\n\
                    error: the state cannot be opened: I/O error: Index out-of-range\n  help: error: is no beginning\n\
                    formic keeper: the brain has ended: error: 65\n";
        let (error, help) = last_of(text).unwrap();
        assert_eq!(error, "the state cannot be opened: I/O error: Index out-of-range");
        assert_eq!(help.as_deref(), Some("error: is no beginning"));
        assert_eq!(last_of("nothing of the kind\n"), None);
    }

    #[test]
    fn of_a_long_log_its_end_is_read_whatever_bytes_it_holds() {
        let path = std::env::temp_dir().join(format!("formic-last-words-{}", std::process::id()));
        let mut log = vec![0xff; 3 * usize::try_from(AT_MOST).unwrap()];
        log.extend_from_slice(b"\nerror: at last\n");
        std::fs::write(&path, &log).unwrap();
        let last = last_error(&path, 1);
        let later = last_error(&path, u64::try_from(log.len()).unwrap());
        std::fs::remove_file(&path).unwrap();
        assert_eq!(last, Some(("at last".to_owned(), None)));
        assert_eq!(later, None);
    }
}
