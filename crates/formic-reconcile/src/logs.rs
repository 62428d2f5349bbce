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

    fn masked(&self, mut lines: Vec<Line>) -> Vec<Line> {
        // Read for every batch of lines: a secret may have been set since the last one.
        let texts = lines.iter_mut().map(|line| &mut line.text);
        if let Some(state) = self.secrets.as_deref() {
            mask(state, texts);
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
        let lines = if lines == 0 { usize::MAX } else { lines };
        let mut out = Vec::new();
        let since = self.which.since_unix_ms.saturating_mul(1000);
        for file in self.files() {
            let size = tokio::fs::metadata(&file.path).await?.len();
            let texts = tail(&file.path, lines).await?;
            let times = times(&texts, file.modified);
            let all = times.into_iter().zip(texts).filter(|((time, _), _)| since == 0 || *time >= since);
            out.extend(all.map(|((time, by), text)| (time, file.line(text, time / 1000, by))));
            self.places.insert(file.path, Place { offset: size, ..Place::default() });
        }
        // Stable: lines of one moment stay in the order of their files.
        out.sort_by_key(|(time, _)| *time);
        let out = out.split_off(out.len().saturating_sub(lines));
        Ok(self.masked(out.into_iter().map(|(_, line)| line).collect()))
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
            place.offset += file.take(CHUNK).read_to_end(&mut bytes).await? as u64;
            for byte in bytes {
                if byte == b'\n' || place.partial.len() >= MAX_LINE {
                    let text = String::from_utf8_lossy(&place.partial).trim_end_matches('\r').to_owned();
                    // Of a line whose beginning is gone, the rest is not a line.
                    if !std::mem::take(&mut place.broken) {
                        let (time, by) =
                            time(&text).map_or((now, ToldBy::Read), |told| (told / 1000, ToldBy::Line));
                        out.push(log.line(text, time, by));
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
    fn line(&self, text: String, unix_ms: i64, told_by: ToldBy) -> Line {
        let (service, instance) = (self.service.clone(), self.instance.clone());
        Line { service, instance, stream: self.stream, text, unix_ms, told_by }
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

    #[tokio::test]
    async fn the_last_lines_of_several_are_merged_by_their_times() {
        let dir = scratch("merge");
        std::fs::create_dir_all(dir.join("user")).expect("folder");
        let line = |second: u32, text: &str| {
            format!("{{\"time\":\"2026-11-21T07:00:{second:02}.5Z\",\"message\":\"{text}\"}}\n")
        };
        let order = format!("{}{}  at: trace\n{}", line(1, "a"), line(5, "b"), line(9, "c"));
        std::fs::write(dir.join("order/order-1.err.log"), order).expect("write");
        std::fs::write(dir.join("user/user-1.err.log"), line(3, "x") + &line(6, "y")).expect("write");
        let mut logs = Logs::new(dir.clone(), vec![]);
        let last = logs.last(5).await.expect("read");
        let texts: Vec<&str> = last
            .iter()
            .map(|line| {
                line.text.rsplit("message").next().unwrap_or_default().trim_matches(['"', ':', '}', ' '])
            })
            .collect();
        assert_eq!(texts, ["x", "b", "at: trace", "y", "c"]);
        std::fs::remove_dir_all(dir).expect("remove");
    }

    #[tokio::test]
    async fn a_line_says_when_it_was_written_and_what_tells_so() {
        let dir = scratch("told");
        let path = dir.join("order/order-1.out.log");
        let line = |second| format!("{{\"time\":\"1970-01-01T00:00:{second:02}.5Z\",\"message\":\"x\"}}\n");
        std::fs::write(&path, format!("first\n{}  at: trace\n", line(7))).expect("write");
        std::fs::write(dir.join("order/order-1.err.log"), "plain\n").expect("write");
        let mut logs = Logs::new(dir.clone(), vec![]);
        let told = |lines: Vec<Line>| -> Vec<(i64, &'static str)> {
            lines.into_iter().map(|line| (line.unix_ms, line.told_by.as_str())).collect()
        };
        let last = told(logs.last(0).await.expect("read"));
        assert_eq!(last[..3], [(7500, "near"), (7500, "line"), (7500, "near")]);
        assert!(last[3].0 > 1_000_000 && last[3].1 == "file", "{last:?}");
        let mut file = std::fs::OpenOptions::new().append(true).open(&path).expect("open");
        file.write_all(format!("late\n{}", line(9)).as_bytes()).expect("write");
        let more = told(logs.more().await.expect("read"));
        assert!(more[0].0 > 1_000_000 && more[0].1 == "read", "{more:?}");
        assert_eq!(more[1], (9500, "line"));
        // What was written before is left out, what cannot be told counts by its file.
        let which = Which { since_unix_ms: 8_000, ..Which::default() };
        let mut since = Logs::new(dir.clone(), vec![]).with_which(which);
        assert_eq!(since.last(0).await.expect("read").len(), 2);
        std::fs::remove_dir_all(dir).expect("remove");
    }

    #[tokio::test]
    async fn one_instance_or_the_previous_one_is_read_by_itself() {
        let dir = scratch("which");
        for (at, id) in ["order-1", "order-2", "order-3"].into_iter().enumerate() {
            let path = dir.join(format!("order/{id}.out.log"));
            std::fs::write(&path, format!("{id}\n")).expect("write");
            let file = std::fs::File::options().append(true).open(path).expect("open");
            let when = SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(1000 + at as u64);
            file.set_modified(when).expect("touch");
        }
        let texts = async |which| {
            let mut logs = Logs::new(dir.clone(), vec![]).with_which(which);
            let lines = logs.last(0).await.expect("read");
            lines.into_iter().map(|line| line.text).collect::<Vec<_>>()
        };
        let one = Which { instance: "order-2".into(), ..Which::default() };
        assert_eq!(texts(one).await, ["order-2"]);
        let running = ["order-3".to_owned()].into();
        let previous = Which { previous: Some(running), ..Which::default() };
        assert_eq!(texts(previous).await, ["order-2"]);
        let none = Which { instance: "order-9".into(), ..Which::default() };
        assert!(Logs::new(dir.clone(), vec![]).with_which(none).is_empty());
        std::fs::remove_dir_all(&dir).expect("remove");
    }

    #[tokio::test]
    async fn the_value_of_a_secret_is_not_shown() {
        let dir = scratch("masked");
        let path = dir.join("order/order-1.out.log");
        std::fs::write(&path, "token=hunter2-and-more\n").expect("write");
        let state = Arc::new(State::in_memory().expect("state"));
        let set = |value: &str| {
            let mut write = state.write().expect("write");
            write.set_secret("api", &formic_state::Secret::new(value), 1).expect("set");
            write.commit().expect("commit");
        };
        set("hunter2");
        let mut logs = Logs::new(dir.clone(), vec![]).without_secrets(Arc::clone(&state));
        assert_eq!(logs.last(0).await.expect("read")[0].text, "token=[secret api]-and-more");
        set("set meanwhile");
        let mut file = std::fs::OpenOptions::new().append(true).open(&path).expect("open");
        file.write_all(b"now set meanwhile\n").expect("write");
        assert_eq!(logs.more().await.expect("read")[0].text, "now [secret api]");
        std::fs::remove_dir_all(dir).expect("remove");
    }

    #[test]
    fn times_are_read_as_the_calendar_has_them() {
        let at = |text: &str| time(&format!("{{\"time\":\"{text}\",\"level\":\"info\"}}"));
        assert_eq!(at("1970-01-01T00:00:00Z"), Some(0));
        assert_eq!(at("2000-02-29T00:00:00.000001Z"), Some(951_782_400_000_001));
        assert_eq!(at("2026-11-21T07:30:35.211Z"), Some(1_795_246_235_211_000));
        for none in ["yesterday", "2026-11-21", "2026-11-21T07:30Z", "2026-11-21T07:30:00+01:00"] {
            assert_eq!(at(none), None, "{none}");
        }
        assert_eq!(time("plain \"time\":\"1970-01-01T00:00:00Z\""), None);
    }
}
