//! Reading the files that instances write: the last lines, and what comes after.
//!
//! Files are polled, not watched: it costs a `stat` per file and works on every file system.

use std::collections::{BTreeSet, HashMap};
use std::io::{self, SeekFrom};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use formic_state::State;
use tokio::fs::File;
use tokio::io::{AsyncReadExt, AsyncSeekExt};

mod mask;

use self::mask::Mask;
use crate::shown::without_passwords;

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
    /// When it was written, in milliseconds since 1970, as far as that can be told.
    pub unix_ms: i64,
    /// What tells so.
    pub told_by: ToldBy,
    /// Where the next line of its file begins.
    pub next: u64,
}

/// A place in a log file, from where it can be read on.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct LogPlace {
    /// The service.
    pub service: String,
    /// The instance.
    pub instance: String,
    /// `out` or `err`.
    pub stream: String,
    /// In bytes from the beginning.
    pub offset: u64,
}

/// What tells when a line was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ToldBy {
    /// The line itself, as those of Formic services do.
    Line,
    /// The line next to it that does: it was written no earlier than the one before it.
    Near,
    /// Its file, which was last written to then: it was written no later.
    File,
    /// Who read it as it came: it was written just before.
    Read,
}

/// Which lines are read of those of some services.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Which {
    /// Those that were written from then on, in milliseconds since 1970; 0 is any time.
    pub since_unix_ms: i64,
    /// Those of this instance; empty is any.
    pub instance: String,
    /// Those of the last instance of each service that is none of these, which run.
    pub previous: Option<BTreeSet<String>>,
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
pub(crate) fn files(dir: &Path, services: &[String]) -> Vec<LogFile> {
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

/// When each line was written, in microseconds since 1970, as far as that can be told, and what tells so.
fn times(lines: &[String], modified: Option<SystemTime>) -> Vec<(i64, ToldBy)> {
    let since = modified.and_then(|time| time.duration_since(SystemTime::UNIX_EPOCH).ok());
    let modified = since.and_then(|since| i64::try_from(since.as_micros()).ok()).unwrap_or_default();
    let told: Vec<Option<i64>> = lines.iter().map(|line| time(line)).collect();
    // What stands before the first one that says when was written by then.
    let first = told.iter().flatten().next().copied();
    let (mut last, other) = first.map_or((modified, ToldBy::File), |first| (first, ToldBy::Near));
    let known = |time: Option<i64>| {
        last = time.unwrap_or(last);
        (last, if time.is_some() { ToldBy::Line } else { other })
    };
    told.into_iter().map(known).collect()
}

/// `"time":"2026-11-21T07:31:31.250001Z"` near the front of a structured line, in microseconds since 1970.
fn time(line: &str) -> Option<i64> {
    let text = line.starts_with('{').then(|| line.split_once("\"time\":\""))??.1;
    let text = text.get(..text.find('"')?)?.strip_suffix('Z')?;
    let (date, clock) = text.split_once('T')?;
    let whole = |text: &str| text.parse::<i64>().ok();
    let mut date = date.split('-').map(whole);
    let (year, month, day) = (date.next()??, date.next()??, date.next()??);
    let mut clock = clock.split(':');
    let (hour, minute, second) = (whole(clock.next()?)?, whole(clock.next()?)?, clock.next()?);
    let (second, part) = second.split_once('.').unwrap_or((second, ""));
    let micros = whole(format!("{part:0<6}").get(..6)?)?;
    // Days of the Gregorian calendar, by years that begin in March: their leap day is the last.
    let (year, month) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let days = 365 * year + year.div_euclid(4) - year.div_euclid(100)
        + year.div_euclid(400)
        + (153 * month + 2) / 5
        + day
        - 719_469;
    Some((((days * 24 + hour) * 60 + minute) * 60 + whole(second)?) * 1_000_000 + micros)
}

/// The last lines of one file.
///
/// # Errors
/// If it cannot be read.
pub async fn tail(path: &Path, lines: usize) -> io::Result<Vec<String>> {
    Ok(placed_tail(path, lines).await?.1.into_iter().map(|(line, _)| line).collect())
}

/// The same with where they begin, and where each of them ends: at the last, the end of what was read.
async fn placed_tail(path: &Path, lines: usize) -> io::Result<(u64, Vec<(String, u64)>)> {
    let mut file = File::open(path).await?;
    let size = file.metadata().await?.len();
    let mut at = size.saturating_sub(MAX_TAIL);
    file.seek(SeekFrom::Start(at)).await?;
    let mut bytes = Vec::new();
    file.take(MAX_TAIL).read_to_end(&mut bytes).await?;
    let mut all: Vec<&[u8]> = bytes.split_inclusive(|byte| *byte == b'\n').collect();
    let shown = all.split_off(all.len().saturating_sub(lines));
    at += all.into_iter().map(<[u8]>::len).sum::<usize>() as u64;
    let begins = at;
    let placed = |line: &[u8]| {
        at += line.len() as u64;
        let line = String::from_utf8_lossy(line);
        (line.trim_end_matches('\n').trim_end_matches('\r').to_owned(), at)
    };
    Ok((begins, shown.into_iter().map(placed).collect()))
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

/// Takes the values of secrets out of lines. Where they cannot be known, nothing is shown.
pub(crate) fn mask<'l>(state: &State, lines: impl ExactSizeIterator<Item = &'l mut String>) {
    if lines.len() == 0 {
        return;
    }
    let mask = Mask::of(state).inspect_err(|error| tracing::warn!(%error, "logs are not shown"));
    for line in lines {
        *line = match &mask {
            Ok(mask) => mask.apply(std::mem::take(line)),
            Err(_) => "[not shown: the secrets that may be in it cannot be read]".to_owned(),
        };
    }
}

/// A reader of all logs of some services.
#[derive(Debug)]
pub struct Logs {
    dir: PathBuf,
    services: Vec<String>,
    which: Which,
    /// Whose secrets are not shown.
    secrets: Option<Arc<State>>,
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
        Self { dir, services, which: Which::default(), secrets: None, places: HashMap::new() }
    }

    /// Reads only these lines.
    #[must_use]
    pub fn with_which(self, which: Which) -> Self {
        Self { which, ..self }
    }

    /// Shows none of these secrets.
    #[must_use]
    pub fn without_secrets(self, state: Arc<State>) -> Self {
        Self { secrets: Some(state), ..self }
    }

    /// Without secrets, and without what is known to be a password.
    fn masked(&self, mut lines: Vec<Line>) -> Vec<Line> {
        // Read for every batch of lines: a secret may have been set since the last one.
        let texts = lines.iter_mut().map(|line| &mut line.text);
        if let Some(state) = self.secrets.as_deref() {
            mask(state, texts);
        }
        for line in &mut lines {
            // Nearly all lines are let through at a look.
            if line.text.contains("--") || line.text.contains("://") {
                line.text = without_passwords(&line.text);
            }
        }
        lines
    }

    /// Whether there is any log to read at the moment.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.files().is_empty()
    }

    /// The log files that are read, oldest first.
    fn files(&self) -> Vec<LogFile> {
        let mut found = files(&self.dir, &self.services);
        if !self.which.instance.is_empty() {
            found.retain(|file| file.instance == self.which.instance);
        }
        if let Some(running) = &self.which.previous {
            found.retain(|file| !running.contains(&file.instance));
            // The oldest are first, so the last one of each service stays.
            let last: HashMap<String, String> =
                found.iter().map(|file| (file.service.clone(), file.instance.clone())).collect();
            found.retain(|file| last.get(&file.service) == Some(&file.instance));
        }
        found
    }

    /// The last lines of everything, oldest first; following goes on after them. 0 takes all that is within
    /// reach. Lines that say when they were written (as those of Formic services do) are merged by that; one
    /// that does not stays with the line before it, and a file without any times stands where it was last
    /// written to.
    ///
    /// # Errors
    /// If a file cannot be read.
    pub async fn last(&mut self, lines: usize) -> io::Result<Vec<Line>> {
        Ok(self.last_and_places(lines).await?.1)
    }

    /// The same with the places in all files from where exactly these, and what is written after them, are read.
    ///
    /// # Errors
    /// If a file cannot be read.
    pub async fn last_and_places(&mut self, lines: usize) -> io::Result<(Vec<LogPlace>, Vec<Line>)> {
        let lines = if lines == 0 { usize::MAX } else { lines };
        let (mut out, mut places) = (Vec::new(), Vec::new());
        let since = self.which.since_unix_ms.saturating_mul(1000);
        for file in self.files() {
            let (mut begins, tail) = placed_tail(&file.path, lines).await?;
            let (texts, ends): (Vec<_>, Vec<_>) = tail.into_iter().unzip();
            let times = times(&texts, file.modified);
            for ((time, by), (text, next)) in times.into_iter().zip(texts.into_iter().zip(ends)) {
                if since == 0 || time >= since {
                    out.push((time, places.len(), begins, file.line(text, time / 1000, by, next)));
                }
                begins = next;
            }
            // What is written after the last one is told when it is followed.
            let LogFile { service, instance, stream, path, .. } = file;
            places.push(LogPlace { service, instance, stream: stream.to_owned(), offset: begins });
            self.places.insert(path, Place { offset: begins, ..Place::default() });
        }
        // Stable: lines of one moment stay in the order of their files.
        out.sort_by_key(|(time, ..)| *time);
        let out = out.split_off(out.len().saturating_sub(lines));
        for (_, file, begins, _) in &out {
            places[*file].offset = places[*file].offset.min(*begins);
        }
        Ok((places, self.masked(out.into_iter().map(|(.., line)| line).collect())))
    }

    /// Goes on at these places, instead of with the last lines. A file that is not named is read from its beginning.
    pub fn go_on(&mut self, places: impl IntoIterator<Item = LogPlace>) {
        for LogPlace { service, instance, stream, offset } in places {
            // Looked for by these names when it is read, so a name that leads elsewhere leads nowhere.
            let path = self.dir.join(service).join(format!("{instance}.{stream}.log"));
            self.places.insert(path, Place { offset, ..Place::default() });
        }
    }

    /// Skips what is there; following starts with what is written from now on.
    pub fn skip(&mut self) {
        for file in self.files() {
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
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let now = i64::try_from(now.as_millis()).unwrap_or(i64::MAX);
        for log in self.files() {
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
            let at = place.offset;
            place.offset += file.take(CHUNK).read_to_end(&mut bytes).await? as u64;
            for (at, byte) in (at..).zip(bytes) {
                if byte == b'\n' || place.partial.len() >= MAX_LINE {
                    let text = String::from_utf8_lossy(&place.partial).trim_end_matches('\r').to_owned();
                    // Of a line whose beginning is gone, the rest is not a line.
                    if !std::mem::take(&mut place.broken) {
                        let (time, by) =
                            time(&text).map_or((now, ToldBy::Read), |told| (told / 1000, ToldBy::Line));
                        out.push(log.line(text, time, by, at + u64::from(byte == b'\n')));
                    }
                    place.partial.clear();
                }
                if byte != b'\n' {
                    place.partial.push(byte);
                }
            }
        }
        Ok(self.masked(out))
    }
}

impl LogFile {
    fn line(&self, text: String, unix_ms: i64, told_by: ToldBy, next: u64) -> Line {
        let (service, instance) = (self.service.clone(), self.instance.clone());
        Line { service, instance, stream: self.stream, text, unix_ms, told_by, next }
    }
}

impl ToldBy {
    /// The word for it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Line => "line",
            Self::Near => "near",
            Self::File => "file",
            Self::Read => "read",
        }
    }
}

#[cfg(test)]
mod tests;
