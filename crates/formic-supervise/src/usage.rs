//! What an instance uses, read when asked for.

use std::fs;
use std::path::Path;
use std::time::Duration;

use serde::Serialize;

use crate::cgroup::{Group, field};
use crate::procfs::{self, Consumed};

/// What an instance uses. What nobody counts here is `None`.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Usage {
    /// Whether this counts all processes, those that have ended included, and not the living main process alone.
    pub whole_tree: bool,
    /// Processor time so far.
    pub cpu: Option<Duration>,
    /// Memory in bytes: what is charged to it, or what is resident where nobody charges.
    pub memory: Option<u64>,
    /// Processes and threads, or processes alone where threads are not counted.
    pub pids: Option<u64>,
    /// Open file descriptors, of those processes whose we may see.
    pub files: Option<u64>,
    /// Time lost waiting for the processor.
    pub cpu_pressure: Option<Pressure>,
    /// Time lost for want of memory.
    pub memory_pressure: Option<Pressure>,
    /// Time lost waiting for disks.
    pub io_pressure: Option<Pressure>,
    /// How many of its processes the kernel has killed for want of memory.
    pub oom_kills: u64,
}

/// Time lost for want of something.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Pressure {
    /// The share of the last ten seconds in which some of it waited, 0 to 1.
    pub some: f64,
    /// The share of the last ten seconds in which all of it waited, 0 to 1.
    pub full: f64,
    /// The time in which some of it waited, since it was started.
    pub total: Duration,
}

impl Usage {
    pub(crate) fn of_group(group: &Group) -> Self {
        let read = |file: &str| fs::read_to_string(group.dir().join(file)).ok();
        let number = |file: &str| read(file)?.trim().parse::<u64>().ok();
        let members = group.members().unwrap_or_default();
        let resident =
            || members.iter().filter_map(|member| Some(procfs::consumed(member.pid)?.resident)).sum();
        Self {
            whole_tree: true,
            cpu: read("cpu.stat").and_then(|stat| field(&stat, "usage_usec")).map(Duration::from_micros),
            memory: number("memory.current").or_else(|| Some(resident())),
            pids: number("pids.current").or_else(|| u64::try_from(members.len()).ok()),
            files: members
                .iter()
                .map(|member| procfs::open_files(member.pid))
                .fold(None, |sum, files| sum.map_or(files, |sum: u64| Some(sum + files.unwrap_or(0)))),
            cpu_pressure: pressure(&group.dir().join("cpu.pressure")),
            memory_pressure: pressure(&group.dir().join("memory.pressure")),
            io_pressure: pressure(&group.dir().join("io.pressure")),
            oom_kills: group.oom_kills(),
        }
    }

    /// Of a process that is not reaped.
    pub(crate) fn of_process(pid: u32) -> Self {
        let Some(Consumed { cpu, resident, threads }) = procfs::consumed(pid) else { return Self::default() };
        let files = procfs::open_files(pid);
        Self { cpu: Some(cpu), memory: Some(resident), pids: Some(threads), files, ..Self::default() }
    }
}

fn pressure(file: &Path) -> Option<Pressure> {
    parse(&fs::read_to_string(file).ok()?)
}

fn parse(text: &str) -> Option<Pressure> {
    let value = |line: &str, name: &str| -> Option<f64> {
        let line = text.lines().find_map(|text| text.strip_prefix(line))?;
        line.split_ascii_whitespace()
            .find_map(|pair| pair.strip_prefix(name)?.strip_prefix('='))?
            .parse()
            .ok()
    };
    Some(Pressure {
        some: value("some", "avg10")? / 100.0,
        // Older kernels have no such line for the processor.
        full: value("full", "avg10").unwrap_or(0.0) / 100.0,
        total: Duration::try_from_secs_f64(value("some", "total")? / 1e6).ok()?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pressure_is_read_with_and_without_a_full_line() {
        let some = "some avg10=25.50 avg60=1.00 avg300=0.00 total=1500000\n";
        let full = "full avg10=50.00 avg60=0.00 avg300=0.00 total=1\n";
        let whole = Pressure { some: 0.255, full: 0.5, total: Duration::from_millis(1500) };
        assert_eq!(parse(&format!("{some}{full}")), Some(whole));
        assert_eq!(parse(some), Some(Pressure { full: 0.0, ..whole }));
        assert_eq!(parse(""), None);
    }

    #[test]
    fn a_process_without_a_cgroup_is_counted_alone() {
        let usage = Usage::of_process(std::process::id());
        assert!(!usage.whole_tree && usage.memory > Some(100_000) && usage.pids >= Some(1), "{usage:?}");
        assert!(usage.cpu.is_some() && usage.files >= Some(3) && usage.cpu_pressure.is_none());
        assert_eq!(Usage::of_process(u32::MAX), Usage::default());
    }
}
