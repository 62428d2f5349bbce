//! Running one step of the gate: its output is streamed line by line while it is read, and its time is bounded.
//!
//! Standard output and standard error share one pipe, so that cargo's `Running …` headings and the results of the test
//! binaries arrive in the order in which they were written; the parser of test results leans on that.

use std::io::{BufRead as _, BufReader};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};

use crate::term;
use crate::workspace::describe;

/// A step that takes longer hangs: the whole gate on a fresh two-core machine is to end within 30 minutes.
const STEP_LIMIT: Duration = Duration::from_secs(40 * 60);
/// How long the output may stay open after the step itself has ended.
const DRAIN_LIMIT: Duration = Duration::from_secs(5);
/// How often to look whether the step has ended while it prints nothing.
const POLL: Duration = Duration::from_millis(100);

/// How a step ended.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Ending {
    /// It ended by itself.
    Exited(ExitStatus),
    /// It was killed for taking longer than the limit.
    TimedOut(Duration),
    /// It ended, and something that it started holds its output open.
    LeftBehind(ExitStatus),
}

impl Ending {
    /// `None` when the step did well, else what went wrong.
    pub(crate) fn fault(&self) -> Option<String> {
        match self {
            Self::Exited(status) if status.success() => None,
            Self::Exited(status) => Some(format!("ended with {status}")),
            Self::TimedOut(limit) => Some(format!("killed: it ran for more than {} s", limit.as_secs())),
            Self::LeftBehind(_) => {
                Some("a process that it started is still running and holds its output open".to_owned())
            }
        }
    }
}

/// Runs `command` to its end and gives each line of its output to `on_line`.
pub(crate) fn stream(command: &mut Command, on_line: impl FnMut(&str)) -> Result<Ending> {
    stream_within(command, STEP_LIMIT, on_line)
}

/// The same with a limit of its own.
pub(crate) fn stream_within(
    command: &mut Command,
    limit: Duration,
    mut on_line: impl FnMut(&str),
) -> Result<Ending> {
    let name = describe(command);
    if term::coloured() {
        command.env("CARGO_TERM_COLOR", "always");
    }
    let (reader, writer) = std::io::pipe().context("make a pipe")?;
    command.stdin(Stdio::null()).stdout(writer.try_clone().context("share a pipe")?).stderr(writer);
    let mut child = command.spawn().with_context(|| format!("start `{name}`"))?;
    // The command holds the writing end of the pipe: without this the pipe would never reach its end.
    command.stdout(Stdio::null()).stderr(Stdio::null());

    let (lines, incoming) = mpsc::sync_channel::<String>(1024);
    // Not joined: when something left behind keeps the pipe open, this thread waits for as long as that lives.
    std::thread::spawn(move || {
        let mut reader = BufReader::new(reader);
        let mut buffer = Vec::new();
        while matches!(reader.read_until(b'\n', &mut buffer), Ok(read) if read > 0) {
            let line = String::from_utf8_lossy(&buffer).trim_end_matches(['\n', '\r']).to_owned();
            buffer.clear();
            if lines.send(line).is_err() {
                return;
            }
        }
    });

    let started = Instant::now();
    let mut closed = false;
    let mut ended: Option<(ExitStatus, Instant)> = None;
    loop {
        match incoming.recv_timeout(POLL) {
            Ok(line) => on_line(&line),
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => {
                // A closed channel answers at once; the step may still run with its output closed.
                if closed {
                    std::thread::sleep(POLL);
                }
                closed = true;
            }
        }
        if ended.is_none() {
            ended = child
                .try_wait()
                .with_context(|| format!("wait for `{name}`"))?
                .map(|status| (status, Instant::now()));
        }
        match ended {
            Some((status, _)) if closed => return Ok(Ending::Exited(status)),
            Some((status, at)) if at.elapsed() > DRAIN_LIMIT => return Ok(Ending::LeftBehind(status)),
            None if started.elapsed() > limit => {
                kill_tree(&mut child);
                return Ok(Ending::TimedOut(limit));
            }
            _ => {}
        }
    }
}

/// Kills the step and everything below it. Not by process group: a step in a group of its own would not hear Ctrl-C.
fn kill_tree(child: &mut Child) {
    let table = Command::new("ps").args(["-A", "-o", "pid=,ppid="]).stdin(Stdio::null()).output();
    let below = table
        .map(|output| descendants(&String::from_utf8_lossy(&output.stdout), child.id()))
        .unwrap_or_default();
    for pid in below {
        // It may have ended since the table was read, which is as good.
        let _ = Command::new("kill")
            .args(["-9", &pid.to_string()])
            .stdin(Stdio::null())
            .stderr(Stdio::null())
            .status();
    }
    let _ = child.kill();
    let _ = child.wait();
}

/// The processes below `root` in the output of `ps -A -o pid=,ppid=`.
fn descendants(table: &str, root: u32) -> Vec<u32> {
    let pairs: Vec<(u32, u32)> = table
        .lines()
        .filter_map(|line| {
            let mut fields = line.split_whitespace();
            Some((fields.next()?.parse().ok()?, fields.next()?.parse().ok()?))
        })
        .collect();
    let mut found = Vec::new();
    let mut frontier = vec![root];
    while let Some(parent) = frontier.pop() {
        for &(pid, ppid) in &pairs {
            if ppid == parent && pid != root && !found.contains(&pid) {
                found.push(pid);
                frontier.push(pid);
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn shell(script: &str) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        command
    }

    #[test]
    fn both_outputs_arrive_in_the_order_written() {
        let mut lines = Vec::new();
        let ending =
            stream(&mut shell("echo one; echo two >&2; echo three"), |line| lines.push(line.to_owned()))
                .unwrap();
        assert_eq!(lines, ["one", "two", "three"]);
        assert_eq!(ending.fault(), None);
    }

    #[test]
    fn a_failure_is_a_fault() {
        let ending = stream(&mut shell("exit 3"), |_| {}).unwrap();
        assert!(ending.fault().unwrap().contains('3'), "{ending:?}");
    }

    #[test]
    fn a_program_that_is_not_there_is_an_error_with_its_name() {
        let error = stream(&mut Command::new("formic-no-such-program"), |_| {}).unwrap_err();
        assert!(format!("{error:#}").contains("formic-no-such-program"));
    }

    #[test]
    fn a_step_that_hangs_is_killed_with_what_it_started() {
        let mut pid = String::new();
        let limit = Duration::from_secs(2);
        let mut command = shell("sleep 600 & echo $!; wait");
        let ending = stream_within(&mut command, limit, |line| line.clone_into(&mut pid)).unwrap();
        assert_eq!(ending, Ending::TimedOut(limit));
        assert!(!pid.is_empty(), "it never began");
        // `kill -0` asks whether the process is there. It may be a zombie for a moment until its new parent reaps it.
        let gone = (0..50).any(|_| {
            std::thread::sleep(Duration::from_millis(20));
            let state = Command::new("ps").args(["-o", "stat=", "-p", &pid]).output().unwrap().stdout;
            state.is_empty() || state.starts_with(b"Z")
        });
        assert!(gone, "process {pid} outlived the step");
    }

    #[test]
    fn something_left_behind_is_noticed() {
        let mut pid = String::new();
        let ending = stream(&mut shell("sleep 60 & echo $!"), |line| line.clone_into(&mut pid)).unwrap();
        Command::new("kill").args(["-9", &pid]).status().unwrap();
        assert!(matches!(ending, Ending::LeftBehind(_)), "{ending:?}");
        assert!(ending.fault().is_some());
    }

    #[test]
    fn the_whole_tree_is_found() {
        let table = "1 0\n10 1\n11 10\n12 11\n20 1\nnonsense\n";
        let mut below = descendants(table, 10);
        below.sort_unstable();
        assert_eq!(below, [11, 12]);
    }
}
