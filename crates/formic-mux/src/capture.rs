//! Records of connections: written by a client that is asked to, read by `formic wire decode`.

mod read;
mod recording;

use std::fs::{File, OpenOptions};
use std::io::{self, BufWriter, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

pub use read::{Said, Unreadable, decode};
pub use recording::{Recording, Series};

/// How a capture begins.
pub const MAGIC: [u8; 8] = *b"\xf0fmxcap1";

/// Who has sent some bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// The client.
    Up,
    /// The server.
    Down,
}

impl Direction {
    /// The other one.
    #[must_use]
    pub fn other(self) -> Self {
        match self {
            Self::Up => Self::Down,
            Self::Down => Self::Up,
        }
    }
}

/// A record that is being written.
#[derive(Debug)]
pub struct Capture {
    /// None once there is nothing more to be written.
    file: Option<BufWriter<File>>,
    began: Instant,
    /// How long it is, to the end of the last record that is whole.
    whole: u64,
    /// How many bytes more it may have.
    left: u64,
    /// More was said than it may have.
    cut: Arc<AtomicBool>,
}

/// What a record has beside the bytes that were sent: direction, time, length.
const HEAD: usize = 13;

impl Capture {
    /// Begins a record of so many bytes at most, which nobody else can read: it holds what was said, secrets included.
    ///
    /// # Errors
    /// If the file cannot be made, or exists.
    pub fn create(path: &Path, most: u64) -> io::Result<Self> {
        let mut file =
            BufWriter::new(OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?);
        file.write_all(&MAGIC)?;
        let whole = MAGIC.len() as u64;
        let left = most.saturating_sub(whole);
        Ok(Self { file: Some(file), began: Instant::now(), whole, left, cut: Arc::default() })
    }

    /// Adds what was sent. A full disk, or a full record, ends the record, not the connection.
    pub fn record(&mut self, direction: Direction, bytes: &[u8]) {
        let Some(file) = &mut self.file else { return };
        let length = (HEAD + bytes.len()) as u64;
        let Some(left) = self.left.checked_sub(length) else {
            tracing::info!(bytes = self.whole, "a record of a connection is full, and ends");
            return self.end();
        };
        self.left = left;
        let mut head = [0; HEAD];
        head[0] = direction as u8;
        let micros = u64::try_from(self.began.elapsed().as_micros()).unwrap_or(u64::MAX);
        head[1..9].copy_from_slice(&micros.to_be_bytes());
        head[9..].copy_from_slice(&u32::try_from(bytes.len()).unwrap_or(u32::MAX).to_be_bytes());
        let written = file.write_all(&head).and_then(|()| file.write_all(bytes));
        // Whoever looks into the file while it grows wants whole records.
        match written.and_then(|()| file.flush()) {
            Ok(()) => self.whole += length,
            Err(error) => {
                tracing::warn!(%error, "a connection cannot be recorded any further");
                self.end();
            }
        }
    }

    /// What a failed write has left, or would when the file is closed, is no record.
    fn end(&mut self) {
        self.cut.store(true, Ordering::Relaxed);
        let Some(file) = self.file.take() else { return };
        let (file, _) = file.into_parts();
        if let Err(error) = file.set_len(self.whole) {
            tracing::debug!(%error, "the end of a record stays torn");
        }
    }
}
