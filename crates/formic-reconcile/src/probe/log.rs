//! Ready by a line: looks through what an instance writes for a text, once.

use std::io;
use std::path::PathBuf;

use tokio::fs::File;
use tokio::io::{AsyncReadExt, AsyncSeekExt};

/// Read at a time; a program that floods its log is caught up with over several probes.
const CHUNK: usize = 64 * 1024;
/// Read of one file in one probe.
const MOST: usize = 1024 * 1024;

/// A part of a line that an instance is expected to write.
pub(crate) struct Line {
    files: Vec<Reading>,
    text: Vec<u8>,
    written: bool,
}

struct Reading {
    path: PathBuf,
    offset: u64,
    /// The end of what was read, in which the text may have begun.
    tail: Vec<u8>,
}

impl Line {
    /// Looks from the beginning of these files.
    pub(crate) fn new(files: impl IntoIterator<Item = PathBuf>, text: &str) -> Self {
        let files = files.into_iter().map(|path| Reading { path, offset: 0, tail: Vec::new() }).collect();
        Self { files, text: text.as_bytes().to_vec(), written: false }
    }

    /// Whether it was written by now. Once it was, it stays so.
    pub(crate) async fn was_written(&mut self) -> bool {
        if self.written {
            return true;
        }
        for file in &mut self.files {
            // One that is not there yet has nothing in it.
            self.written |= file.look_for(&self.text).await.unwrap_or(false);
        }
        self.written
    }
}

impl Reading {
    async fn look_for(&mut self, text: &[u8]) -> io::Result<bool> {
        let mut file = File::open(&self.path).await?;
        file.seek(io::SeekFrom::Start(self.offset)).await?;
        let mut chunk = vec![0; CHUNK];
        let mut read = 0;
        while read < MOST {
            let more = file.read(&mut chunk).await?;
            if more == 0 {
                break;
            }
            read += more;
            self.offset += more as u64;
            self.tail.extend_from_slice(&chunk[..more]);
            // The text has no end of line in it, so it cannot be found across two.
            if self.tail.windows(text.len().max(1)).any(|part| part == text) {
                return Ok(true);
            }
            let keep = self.tail.len().min(text.len().saturating_sub(1));
            self.tail.drain(..self.tail.len() - keep);
        }
        Ok(false)
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]

    use std::io::Write as _;

    use super::*;

    #[tokio::test]
    async fn a_line_is_found_in_either_file_wherever_it_is_cut() {
        let dir = std::env::temp_dir().join(format!("formic-line-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        let (out, err) = (dir.join("out"), dir.join("err"));
        let mut line = Line::new([out.clone(), err.clone()], "listening on");
        assert!(!line.was_written().await, "the files are not there yet");
        let mut file = std::fs::File::create(&err).unwrap();
        file.write_all(b"listening").unwrap();
        file.write_all(&vec![b'.'; 2 * CHUNK]).unwrap();
        file.write_all(b"\nserver listen").unwrap();
        assert!(!line.was_written().await);
        file.write_all(b"ing on 0.0.0.0:80\n").unwrap();
        assert!(line.was_written().await);
        std::fs::remove_dir_all(&dir).unwrap();
        assert!(line.was_written().await, "once is enough");
    }
}
