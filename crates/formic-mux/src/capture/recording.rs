//! Where connections are recorded.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::Capture;

/// The most connections of a series that are recorded.
const MOST: usize = 8;

/// The most bytes of one connection in a folder: a connection may last for as long as its service.
const MOST_BYTES: u64 = 64 << 20;

/// Where the connections of a client are recorded.
#[derive(Clone, Debug)]
pub enum Recording {
    /// Each in a file of this folder, whose name says to whom; the first 64 MiB of it.
    Folder(PathBuf),
    /// Each in the next file of a series.
    Series(Arc<Series>),
}

/// The files of few connections: the first has the name that was asked for, the next `name.2` and so on.
#[derive(Debug)]
pub struct Series {
    path: PathBuf,
    most: u64,
    made: Mutex<Made>,
}

#[derive(Debug, Default)]
struct Made {
    /// It is there from the beginning, so that what stands against it is known before a call is made.
    first: Option<Capture>,
    files: Vec<(PathBuf, Arc<AtomicBool>)>,
    closed: bool,
}

impl Recording {
    /// A record of a connection, if it can be made.
    pub(crate) fn begin(&self, name: &str) -> Option<Box<Capture>> {
        let (file, capture) = match self {
            Self::Folder(folder) => {
                let plain = name.replace(|c: char| !c.is_ascii_alphanumeric() && c != '.', "-");
                let file =
                    folder.join(format!("{plain}-{}-{:08x}.fmx", std::process::id(), fastrand::u32(..)));
                let capture = Capture::create(&file, MOST_BYTES);
                (file, capture)
            }
            Self::Series(series) => series.next()?,
        };
        match capture {
            Ok(capture) => {
                tracing::info!(file = %file.display(), "a connection is recorded");
                Some(Box::new(capture))
            }
            Err(error) => {
                tracing::warn!(file = %file.display(), %error, "a connection cannot be recorded");
                None
            }
        }
    }
}

impl Series {
    /// A series of files of so many bytes at most each.
    ///
    /// # Errors
    /// If the first cannot be made, or exists.
    pub fn create(path: &Path, most: u64) -> io::Result<Self> {
        let made = Made { first: Some(Capture::create(path, most)?), ..Made::default() };
        Ok(Self { path: path.to_owned(), most, made: Mutex::new(made) })
    }

    fn made(&self) -> MutexGuard<'_, Made> {
        self.made.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn next(&self) -> Option<(PathBuf, io::Result<Capture>)> {
        let mut made = self.made();
        let number = made.files.len() + 1;
        let mut path = self.path.clone();
        if number > 1 {
            path.as_mut_os_string().push(format!(".{number}"));
        }
        let capture = match made.first.take() {
            Some(first) => Ok(first),
            None if made.closed || number > MOST => return None,
            None => Capture::create(&path, self.most),
        };
        if let Ok(capture) = &capture {
            made.files.push((path.clone(), Arc::clone(&capture.cut)));
        }
        Some((path, capture))
    }

    /// The files that connections were recorded in, and of each whether more was said than it may hold.
    #[must_use]
    pub fn files(&self) -> Vec<(PathBuf, bool)> {
        self.made().files.iter().map(|(path, cut)| (path.clone(), cut.load(Ordering::Relaxed))).collect()
    }

    /// Begins no more records, and takes a first file away that no connection was recorded in.
    pub fn close(&self) {
        let mut made = self.made();
        made.closed = true;
        if made.first.take().is_some() {
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

impl Drop for Series {
    fn drop(&mut self) {
        self.close();
    }
}
