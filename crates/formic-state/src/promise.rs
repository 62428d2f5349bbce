//! What the database has promised, in a file beside it: how many commits it has told to be on the disk.
//!
//! A database whose last commit is damaged, or that somebody put back, can be whole and older than what an engine has acted on.
//! It cannot tell so itself. This file is written after each commit has returned, so it never promises what was not on the
//! disk, and is not synced: after a crash of the machine it may promise less, and never more. It costs one small write.

use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;

/// The name of the file in its folder.
pub(crate) const PROMISED: &str = "state.promised";

/// Commits of the database are missing that were told to be on the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lost {
    /// How many.
    pub commits: u64,
}

/// How far a database has come.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Mark {
    pub(crate) commits: u64,
    /// The number that the next event gets.
    pub(crate) next_event: u64,
}

/// The file, open.
#[derive(Debug)]
pub(crate) struct Promise {
    file: File,
    identity: String,
}

impl Promise {
    /// Opens it, made if need be, and says what it promises of the database of this identity.
    pub(crate) fn open(folder: &Path, identity: &str) -> io::Result<(Self, Option<Mark>)> {
        let mut options = File::options();
        let file = options.read(true).write(true).create(true).truncate(false).mode(0o600);
        let file = file.open(folder.join(PROMISED))?;
        let mut text = [0; 128];
        let length = file.read_at(&mut text, 0)?;
        let mark = std::str::from_utf8(&text[..length]).ok().and_then(|text| parse(text, identity));
        Ok((Self { file, identity: identity.to_owned() }, mark))
    }

    /// Promises this much. In place and of one length: whoever reads it reads it whole, or sees that it is not.
    pub(crate) fn write(&self, mark: Mark) -> io::Result<()> {
        self.file.write_all_at(text(mark, &self.identity).as_bytes(), 0)
    }
}

fn text(mark: Mark, identity: &str) -> String {
    let text = format!("{identity} {:020} {:020}", mark.commits, mark.next_event);
    format!("{text} {:016x}\n", sum(&text))
}

/// `None` of what is damaged, or of another database.
fn parse(text: &str, identity: &str) -> Option<Mark> {
    let mut words = text.strip_suffix('\n')?.split(' ').skip(1);
    let mark = Mark { commits: words.next()?.parse().ok()?, next_event: words.next()?.parse().ok()? };
    (text == self::text(mark, identity)).then_some(mark)
}

/// FNV-1a: against accidents.
fn sum(text: &str) -> u64 {
    text.bytes()
        .fold(0xcbf2_9ce4_8422_2325, |sum, byte| (sum ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_damaged_or_of_another_database_promises_nothing() {
        let mark = Mark { commits: 7, next_event: 12 };
        let text = text(mark, "0123456789abcdef");
        assert_eq!(parse(&text, "0123456789abcdef"), Some(mark));
        assert_eq!(parse(&text, "fedcba9876543210"), None);
        assert_eq!(parse("", "0123456789abcdef"), None);
        for at in 0..text.len() {
            assert_eq!(parse(&text[..at], "0123456789abcdef"), None, "cut at {at}");
            let mut flipped = text.clone().into_bytes();
            flipped[at] ^= 1;
            let flipped = String::from_utf8(flipped).expect("ASCII");
            assert_eq!(parse(&flipped, "0123456789abcdef"), None, "flipped at {at}");
        }
    }
}
