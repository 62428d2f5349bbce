//! Reading the files that instances write: the last lines, and what comes after.
//!
//! Files are polled, not watched: it costs a `stat` per file and works on every file system.

use std::collections::HashMap;
use std::io::{self, SeekFrom};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use tokio::fs::File;
use tokio::io::{AsyncReadExt, AsyncSeekExt};

/// A line is cut here; what follows is the next line. Bounds memory against a program that never ends one.
const MAX_LINE: usize = 64 << 10;
/// How much of a file's end is searched for its last lines.
const MAX_TAIL: u64 = 4 << 20;
/// How much of one file is read at a time, so that a flood in one does not hide the others.
const CHUNK: u64 = 256 << 10;

/// A line that an instance wrote.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    /// Its service.
    pub service: String,
    /// Its instance.
    pub instance: String,
    /// `out` or `err`.
    pub stream: &'static str,
    /// Without its end.
    pub text: String,
}

/// A log file as its name tells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogFile {
    /// Its service.
    pub service: String,
    /// Its instance.
    pub instance: String,
    /// `out` or `err`.
    pub stream: &'static str,
    /// Where it is.
    pub path: PathBuf,
    modified: Option<SystemTime>,
}

/// The log files of services (all if none is named) under `logs/<service>/`, oldest first.
fn files(dir: &Path, services: &[String]) -> Vec<LogFile> {
    let mut found = Vec::new();
    let folders = std::fs::read_dir(dir).into_iter().flatten().flatten();
    for folder in folders {
        let service = folder.file_name().to_string_lossy().into_owned();
        if !services.is_empty() && !services.contains(&service) {
            continue;
        }
        for file in std::fs::read_dir(folder.path()).into_iter().flatten().flatten() {
            let name = file.file_name().to_string_lossy().into_owned();
            let parsed = name
                .strip_suffix(".out.log")
                .map(|instance| (instance, "out"))
                .or_else(|| name.strip_suffix(".err.log").map(|instance| (instance, "err")));
            if let Some((instance, stream)) = parsed {
                let modified = file.metadata().and_then(|meta| meta.modified()).ok();
                found.push(LogFile {
                    service: service.clone(),
                    instance: instance.to_owned(),
                    stream,
                    path: file.path(),
                    modified,
                });
            }
        }
    }
    found.sort_by(|a, b| (a.modified, &a.path).cmp(&(b.modified, &b.path)));
    found
}

/// The last lines of one file.
///
/// # Errors
/// If it cannot be read.
pub async fn tail(path: &Path, lines: usize) -> io::Result<Vec<String>> {
    let mut file = File::open(path).await?;
    let size = file.metadata().await?.len();
    let from = size.saturating_sub(MAX_TAIL);
    file.seek(SeekFrom::Start(from)).await?;
    let mut bytes = Vec::new();
    file.take(MAX_TAIL).read_to_end(&mut bytes).await?;
    let text = String::from_utf8_lossy(&bytes);
    let all: Vec<&str> = text.lines().collect();
    Ok(all[all.len().saturating_sub(lines)..].iter().map(|line| (*line).to_owned()).collect())
}

/// The same without a runtime, for the few lines that go with a failure; nothing if it cannot be read.
pub(crate) fn last_lines(path: &Path, lines: usize) -> Vec<String> {
    use std::io::{Read, Seek};
    /// Enough for a dozen long lines.
    const REACH: u64 = 16 << 10;
    let read = || -> io::Result<Vec<u8>> {
        let mut file = std::fs::File::open(path)?;
        let size = file.metadata()?.len();
        file.seek(SeekFrom::Start(size.saturating_sub(REACH)))?;
        let mut bytes = Vec::new();
        file.take(REACH).read_to_end(&mut bytes)?;
        Ok(bytes)
    };
    let bytes = read().unwrap_or_default();
    let text = String::from_utf8_lossy(&bytes);
    let all: Vec<&str> = text.lines().collect();
    all[all.len().saturating_sub(lines)..].iter().map(|line| (*line).to_owned()).collect()
}

/// A reader of all logs of some services.
#[derive(Debug)]
pub struct Logs {
    dir: PathBuf,
    services: Vec<String>,
    places: HashMap<PathBuf, Place>,
}

#[derive(Debug, Default)]
struct Place {
    offset: u64,
    partial: Vec<u8>,
    /// It is in the middle of a line whose beginning is gone.
    broken: bool,
}

impl Logs {
    /// Reads under `dir`; no service means all.
    #[must_use]
    pub fn new(dir: PathBuf, services: Vec<String>) -> Self {
        Self { dir, services, places: HashMap::new() }
    }

    /// The last lines of everything, file by file, oldest first; following goes on after them.
    /// 0 takes all that is within reach.
    ///
    /// # Errors
    /// If a file cannot be read.
    pub async fn last(&mut self, lines: usize) -> io::Result<Vec<Line>> {
        let lines = if lines == 0 { usize::MAX } else { lines };
        let mut out = Vec::new();
        for file in files(&self.dir, &self.services) {
            let size = tokio::fs::metadata(&file.path).await?.len();
            let texts = tail(&file.path, lines).await?;
            out.extend(texts.into_iter().map(|text| file.line(text)));
            self.places.insert(file.path, Place { offset: size, ..Place::default() });
        }
        Ok(out.split_off(out.len().saturating_sub(lines)))
    }

    /// Skips what is there; following starts with what is written from now on.
    pub fn skip(&mut self) {
        for file in files(&self.dir, &self.services) {
            let offset = std::fs::metadata(&file.path).map(|meta| meta.len()).unwrap_or(0);
            self.places.insert(file.path, Place { offset, ..Place::default() });
        }
    }

    /// What was written since the last look; empty when there was nothing.
    ///
    /// # Errors
    /// If a file cannot be read.
    pub async fn more(&mut self) -> io::Result<Vec<Line>> {
        let mut out = Vec::new();
        for log in files(&self.dir, &self.services) {
            let place = self.places.entry(log.path.clone()).or_default();
            let Ok(meta) = tokio::fs::metadata(&log.path).await else { continue };
            if meta.len() <= place.offset {
                continue;
            }
            let mut file = File::open(&log.path).await?.into_std().await;
            // The front of a log that grows too large is freed: what is behind it is gone.
            let begins = formic_supervise::log_begins(&file, place.offset)?;
            if begins > place.offset {
                *place = Place { offset: begins, partial: Vec::new(), broken: true };
            }
            std::io::Seek::seek(&mut file, SeekFrom::Start(place.offset))?;
            let file = File::from_std(file);
            let mut bytes = Vec::new();
            place.offset += file.take(CHUNK).read_to_end(&mut bytes).await? as u64;
            for byte in bytes {
                if byte == b'\n' || place.partial.len() >= MAX_LINE {
                    let text = String::from_utf8_lossy(&place.partial).trim_end_matches('\r').to_owned();
                    // Of a line whose beginning is gone, the rest is not a line.
                    if !std::mem::take(&mut place.broken) {
                        out.push(log.line(text));
                    }
                    place.partial.clear();
                }
                if byte != b'\n' {
                    place.partial.push(byte);
                }
            }
        }
        Ok(out)
    }
}

impl LogFile {
    fn line(&self, text: String) -> Line {
        Line { service: self.service.clone(), instance: self.instance.clone(), stream: self.stream, text }
    }
}

/// Removes the logs of all but the newest instances of a service.
pub(crate) fn prune(dir: &Path, service: &str, keep: usize) {
    let all = files(dir, &[service.to_owned()]);
    let mut instances: Vec<&str> = Vec::new();
    for file in all.iter().rev() {
        if !instances.contains(&file.instance.as_str()) {
            instances.push(&file.instance);
        }
    }
    for file in all.iter().filter(|file| instances.iter().skip(keep).any(|old| *old == file.instance)) {
        // The next start tries again.
        let _ = std::fs::remove_file(&file.path);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    fn scratch(name: &str) -> PathBuf {
        let dir = std::env::temp_dir().join(format!("formic-logs-{name}-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&dir);
        std::fs::create_dir_all(dir.join("order")).expect("temporary directory");
        dir
    }

    #[tokio::test]
    async fn following_misses_nothing_and_joins_split_lines() {
        let dir = scratch("follow");
        let path = dir.join("order/order-1.out.log");
        let mut file = std::fs::File::create(&path).expect("create");
        file.write_all(b"one\ntwo\nthree\n").expect("write");
        let mut logs = Logs::new(dir.clone(), vec![]);
        let last: Vec<_> = logs.last(2).await.expect("read").into_iter().map(|line| line.text).collect();
        assert_eq!(last, ["two", "three"]);
        file.write_all(b"fo").expect("write");
        assert_eq!(logs.more().await.expect("read"), []);
        file.write_all(b"ur\r\nfive\n").expect("write");
        let more = logs.more().await.expect("read");
        assert_eq!(more.iter().map(|line| line.text.as_str()).collect::<Vec<_>>(), ["four", "five"]);
        assert_eq!(
            (more[0].service.as_str(), more[0].instance.as_str(), more[0].stream),
            ("order", "order-1", "out")
        );
        std::fs::remove_dir_all(dir).expect("remove");
    }

    #[test]
    fn only_the_newest_instances_are_kept() {
        let dir = scratch("prune");
        for at in 0..5 {
            let path = dir.join(format!("order/order-{at}.out.log"));
            let file = std::fs::File::create(path).expect("create");
            file.set_modified(SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(at))
                .expect("set the time");
        }
        prune(&dir, "order", 2);
        let left: Vec<_> = files(&dir, &[]).into_iter().map(|file| file.instance).collect();
        assert_eq!(left, ["order-3", "order-4"]);
        std::fs::remove_dir_all(dir).expect("remove");
    }
}
