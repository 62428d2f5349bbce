//! What `/proc` says of processes.

use std::fs;
use std::io;
use std::mem::MaybeUninit;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use rustix::fs::{Mode, OFlags, RawDir};

use crate::exit::ExitStatus;
use crate::home::Home;
use crate::{INSTANCE_ENV, RUN_DIR_ENV, RUN_ID_ENV};

/// The fields of `/proc/<pid>/stat` that matter here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Stat {
    pub(crate) pid: u32,
    pub(crate) state: u8,
    pub(crate) parent: u32,
    pub(crate) session: u32,
    /// In clock ticks since boot.
    pub(crate) start_time: u64,
    pub(crate) threads: u64,
    /// Whether its environment has a place and a length, or neither yet.
    pub(crate) env: Extent,
}

/// Where a process keeps its environment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Extent {
    /// It has no memory (a kernel thread, or about to be gone), or we may not know.
    None,
    /// It is in the middle of an exec: the new program's environment is not in place yet.
    Pending,
    /// It has none.
    Empty,
    /// It has one.
    Some,
}

impl Stat {
    /// Reads one process; `None` if it is gone.
    pub(crate) fn read(pid: u32) -> Option<Self> {
        Self::parse(&fs::read(format!("/proc/{pid}/stat")).ok()?)
    }

    fn parse(line: &[u8]) -> Option<Self> {
        // The name is in parentheses and may hold spaces and parentheses itself: cut at the last one.
        let open = line.iter().position(|&byte| byte == b'(')?;
        let close = line.iter().rposition(|&byte| byte == b')')?;
        let pid = std::str::from_utf8(&line[..open]).ok()?.trim().parse().ok()?;
        let rest: Vec<&str> =
            std::str::from_utf8(line.get(close + 1..)?).ok()?.split_ascii_whitespace().collect();
        Some(Self {
            pid,
            state: *rest.first()?.as_bytes().first()?,
            parent: rest.get(1)?.parse().ok()?,
            // A session of another pid namespace reads as 0 or -1.
            session: rest.get(3)?.parse().unwrap_or(0),
            start_time: rest.get(19)?.parse().ok()?,
            threads: rest.get(17)?.parse().ok()?,
            env: match (*rest.get(20)?, rest.get(47).copied(), rest.get(48).copied()) {
                ("0", ..) | (_, None, _) | (_, _, None) => Extent::None,
                (_, Some("0"), Some("0")) => Extent::Pending,
                (_, Some(start), Some(end)) if start == end => Extent::Empty,
                _ => Extent::Some,
            },
        })
    }

    /// Whether it has ended and waits to be reaped. Such a process does nothing and holds nothing. One
    /// whose first thread has ended looks the same, while its other threads go on.
    pub(crate) fn is_zombie(&self) -> bool {
        matches!(self.state, b'Z' | b'X' | b'x') && self.threads <= 1
    }
}

/// Whether a process of this number runs. One that has ended runs no more, though its parent has not reaped it
/// yet, or never will.
pub fn is_running(pid: u32) -> bool {
    Stat::read(pid).is_some_and(|stat| !stat.is_zombie())
}

/// What one process has used and uses.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Consumed {
    pub(crate) cpu: Duration,
    /// In bytes.
    pub(crate) resident: u64,
    pub(crate) threads: u64,
}

/// Reads what a process uses; `None` if it is gone.
pub(crate) fn consumed(pid: u32) -> Option<Consumed> {
    let line = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let fields: Vec<&str> = line.rsplit_once(')')?.1.split_ascii_whitespace().collect();
    let number = |at: usize| fields.get(at)?.parse::<u64>().ok();
    let ticks = u32::try_from(constant(libc::_SC_CLK_TCK)).ok().filter(|ticks| *ticks > 0)?;
    let page = u64::try_from(constant(libc::_SC_PAGESIZE)).ok()?;
    Some(Consumed {
        cpu: Duration::from_secs(number(11)? + number(12)?) / ticks,
        resident: number(21)? * page,
        threads: number(17)?,
    })
}

/// How many files a process has open; nothing if we may not know.
pub(crate) fn open_files(pid: u32) -> Option<u64> {
    // One directory entry for each: where the kernel counts them itself (6.2), the size is the number.
    let dir = format!("/proc/{pid}/fd");
    let size = fs::metadata(&dir).ok()?.len();
    let count = || Some(fs::read_dir(&dir).ok()?.count() as u64);
    if size > 0 { Some(size) } else { count() }
}

#[expect(unsafe_code, reason = "rustix would need a feature that the rest of the tree does not build")]
fn constant(name: libc::c_int) -> libc::c_long {
    // SAFETY: answers a number, whatever is asked.
    unsafe { libc::sysconf(name) }
}

/// How a process ended that nobody has reaped yet. `None` if it was reaped or we may not know.
///
/// The kernel shows zero to those who may not know, so zero is believed only of a process whose user and
/// group are wholly our own.
pub(crate) fn zombie_status(pid: u32) -> Option<ExitStatus> {
    let line = fs::read(format!("/proc/{pid}/stat")).ok()?;
    if !Stat::parse(&line)?.is_zombie() {
        return None;
    }
    let code: i32 = std::str::from_utf8(&line).ok()?.split_ascii_whitespace().next_back()?.parse().ok()?;
    (code != 0 || is_of_our_user(pid)).then(|| ExitStatus::from_wait(code))
}

fn is_of_our_user(pid: u32) -> bool {
    let Ok(status) = fs::read_to_string(format!("/proc/{pid}/status")) else { return false };
    id(&status, "Uid:") == Some(rustix::process::geteuid().as_raw())
        && id(&status, "Gid:") == Some(rustix::process::getegid().as_raw())
}

/// Whose a process wholly is: `None` if it is partly another's, or gone.
pub(crate) fn user(pid: u32) -> Option<u32> {
    id(&fs::read_to_string(format!("/proc/{pid}/status")).ok()?, "Uid:")
}

/// The number that all of a line of numbers are.
fn id(status: &str, field: &str) -> Option<u32> {
    let mut ids = status.lines().find_map(|line| line.strip_prefix(field))?.split_ascii_whitespace();
    let first = ids.next()?;
    if ids.all(|id| id == first) { first.parse().ok() } else { None }
}

/// How long one look at all processes may take before it is given up as incomplete. Reached only when
/// processes are made faster than they are read.
const SCAN_LIMIT: Duration = Duration::from_secs(2);

/// Room for the longest name in `/proc` and no more than two process numbers.
const SCAN_BUFFER: usize = 64;

/// Shows every process that this one can see to `each`, in the order of their numbers. `false` if it
/// took too long.
pub(crate) fn scan(mut each: impl FnMut(Stat)) -> io::Result<bool> {
    numbers(|pid| {
        if let Some(stat) = Stat::read(pid) {
            each(stat);
        }
    })
}

/// The same with nothing but their numbers.
///
/// The directory is read in the smallest steps there are, and each process right after its number. A
/// listing taken at once is old by the time its last process is read: a program that forks a successor
/// and ends, again and again, is never in it. Here its successors, whose numbers are higher, lie ahead.
pub(crate) fn numbers(mut each: impl FnMut(u32)) -> io::Result<bool> {
    let begun = Instant::now();
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let proc = rustix::fs::open("/proc", flags, Mode::empty())?;
    let mut buffer = [MaybeUninit::uninit(); SCAN_BUFFER];
    let mut entries = RawDir::new(proc, &mut buffer);
    while let Some(entry) = entries.next() {
        if let Some(number) = entry?.file_name().to_str().ok().and_then(|name| name.parse().ok()) {
            each(number);
        }
        if begun.elapsed() > SCAN_LIMIT {
            return Ok(false);
        }
    }
    Ok(true)
}

/// The files that a process has as its standard output and error, by number and name. They are not looked at: of a file system
/// that does not answer, nothing would come back.
pub(crate) fn outputs(pid: u32) -> Vec<(u32, PathBuf)> {
    let output = |number| Some((number, fs::read_link(format!("/proc/{pid}/fd/{number}")).ok()?));
    [1, 2].into_iter().filter_map(output).collect()
}

/// Whether a process has a file open to append to it.
pub(crate) fn appends(pid: u32, number: u32) -> bool {
    let Ok(about) = fs::read_to_string(format!("/proc/{pid}/fdinfo/{number}")) else { return false };
    let flags = about.lines().find_map(|line| line.strip_prefix("flags:"));
    let flags =
        flags.and_then(|flags| u32::from_str_radix(flags.trim(), 8).ok()).map(OFlags::from_bits_retain);
    flags.is_some_and(|flags| {
        flags.contains(OFlags::APPEND) && flags.intersects(OFlags::WRONLY | OFlags::RDWR)
    })
}

/// Whose a process says it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Mark {
    /// This instance's, of our run directory.
    Instance(String),
    /// It carries no mark of ours, or its environment is not for us to read.
    None,
    /// It is becoming another program just now, and will have a mark, or none, in a moment.
    Undecided,
}

/// Reads the mark of a process for the engine of this run directory.
pub(crate) fn mark(pid: u32, home: &Home) -> Mark {
    // Unreadable: another user's, one that protects itself, or gone.
    let Ok(environment) = fs::read(format!("/proc/{pid}/environ")) else { return Mark::None };
    if environment.is_empty() {
        // Truly empty, or read in the middle of an exec. A chain of quick execs could hide for ever.
        return match Stat::read(pid) {
            Some(stat) if !stat.is_zombie() && matches!(stat.env, Extent::Pending | Extent::Some) => {
                Mark::Undecided
            }
            _ => Mark::None,
        };
    }
    if !home.is_meant(value(&environment, RUN_DIR_ENV), value(&environment, RUN_ID_ENV)) {
        return Mark::None;
    }
    value(&environment, INSTANCE_ENV)
        .and_then(|instance| std::str::from_utf8(instance).ok())
        .map_or(Mark::None, |instance| Mark::Instance(instance.to_owned()))
}

/// Whether a process carries the mark of an engine of another run directory.
pub(crate) fn is_of_another(pid: u32, home: &Home) -> bool {
    let Ok(environment) = fs::read(format!("/proc/{pid}/environ")) else { return false };
    let dir = value(&environment, RUN_DIR_ENV);
    dir.is_some() && !home.is_meant(dir, value(&environment, RUN_ID_ENV))
}

fn value<'a>(environment: &'a [u8], name: &str) -> Option<&'a [u8]> {
    environment
        .split(|&byte| byte == 0)
        .find_map(|variable| variable.strip_prefix(name.as_bytes())?.strip_prefix(b"="))
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]

    use super::*;

    #[test]
    fn a_name_with_spaces_and_parentheses_is_read() {
        let line = b"42 (a) b (c)) S 7 42 41 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 13 0 12345 99 1\n";
        let stat = Stat::parse(line).unwrap();
        assert_eq!(
            stat,
            Stat {
                pid: 42,
                state: b'S',
                parent: 7,
                session: 41,
                start_time: 12345,
                threads: 13,
                env: Extent::None
            }
        );
        assert!(Stat::parse(b"42 (cut off) S 7").is_none());
        assert!(Stat::parse(b"").is_none());
    }

    #[test]
    fn how_an_unreaped_process_ended_is_read() {
        for (script, status) in [("exit 0", ExitStatus::Code(0)), ("kill -9 $$", ExitStatus::Signal(9))] {
            let mut child = std::process::Command::new("/bin/sh").args(["-c", script]).spawn().unwrap();
            let limit = Instant::now() + Duration::from_secs(20);
            let found = loop {
                match zombie_status(child.id()) {
                    None if Instant::now() < limit => std::thread::sleep(Duration::from_millis(2)),
                    found => break found,
                }
            };
            child.wait().unwrap();
            assert_eq!(found, Some(status), "{script}");
            assert_eq!(zombie_status(child.id()), None);
        }
    }

    #[test]
    fn a_scan_sees_this_process_and_every_one_in_order() {
        let mut pids = Vec::new();
        assert!(scan(|stat| pids.push(stat.pid)).unwrap());
        assert!(pids.is_sorted() && pids.contains(&std::process::id()) && pids.contains(&1), "{pids:?}");
    }
}
