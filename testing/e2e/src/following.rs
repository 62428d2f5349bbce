//! A command that goes on, and what it has said so far.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::Value;

use crate::clock::STEP;
use crate::folder::Folder;
use crate::process::{Tool, signal, wait_child};

/// A command that goes on until somebody ends it, and ends with its test at the latest. What it writes goes to files of its
/// own, for a pipe that nobody reads would hold it up.
#[derive(Debug)]
pub struct Following {
    child: Child,
    files: Folder,
}

impl Following {
    /// Starts it.
    ///
    /// # Panics
    /// If that fails.
    #[must_use]
    pub fn start(tool: Tool) -> Self {
        Self::command(tool.into_command())
    }

    /// The same with a command that was put together otherwise.
    ///
    /// # Panics
    /// If it cannot be started.
    #[must_use]
    pub fn command(command: Command) -> Self {
        let files = Folder::new("following");
        let file = File::create(out(files.path())).unwrap();
        Self::begin(command, file.into(), files)
    }

    /// Its standard output goes elsewhere, and what is [`shown`](Self::shown) is nothing.
    ///
    /// # Panics
    /// If it cannot be started.
    #[must_use]
    pub fn writing_to(tool: Tool, stdout: impl Into<Stdio>) -> Self {
        Self::begin(tool.into_command(), stdout.into(), Folder::new("following"))
    }

    fn begin(mut command: Command, stdout: Stdio, files: Folder) -> Self {
        let stderr = File::create(err(files.path())).unwrap();
        let child = command.stdin(Stdio::null()).stdout(stdout).stderr(stderr).spawn();
        let child = child.unwrap_or_else(|error| panic!("start {command:?}: {error}"));
        Self { child, files }
    }

    /// Its process.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// What it has written to standard output. Bytes, because the last character may not be whole yet.
    #[must_use]
    pub fn shown(&self) -> Vec<u8> {
        std::fs::read(out(self.files.path())).unwrap_or_default()
    }

    /// What it has written to standard error.
    #[must_use]
    pub fn told(&self) -> String {
        String::from_utf8_lossy(&std::fs::read(err(self.files.path())).unwrap_or_default()).into_owned()
    }

    /// Both, for people.
    #[must_use]
    pub fn said(&self) -> String {
        format!("{}{}", String::from_utf8_lossy(&self.shown()), self.told())
    }

    /// The whole lines of standard output, each a value.
    ///
    /// # Panics
    /// If one is none.
    #[must_use]
    pub fn lines(&self) -> Vec<Value> {
        let shown = self.shown();
        let end = shown.iter().rposition(|byte| *byte == b'\n').unwrap_or(0);
        let text = String::from_utf8_lossy(&shown[..end]);
        let line = |line: &str| {
            serde_json::from_str(line)
                .unwrap_or_else(|error| panic!("{error} in {line:?} of {}", self.said()))
        };
        text.lines().map(line).collect()
    }

    /// Waits until it has written this to standard output.
    ///
    /// # Panics
    /// If it does not, or ends without it.
    pub fn wait_shown(&mut self, words: &str, within: Duration) {
        self.wait_written(words, within, |it| String::from_utf8_lossy(&it.shown()).into_owned());
    }

    /// Waits until it has written this to standard error.
    ///
    /// # Panics
    /// If it does not, or ends without it.
    pub fn wait_told(&mut self, words: &str, within: Duration) {
        self.wait_written(words, within, Self::told);
    }

    fn wait_written(&mut self, words: &str, within: Duration, written: impl Fn(&Self) -> String) {
        let begun = Instant::now();
        loop {
            // Looked at first: what it wrote last is there once it has ended.
            let goes_on = self.goes_on();
            if written(self).contains(words) {
                return;
            }
            assert!(goes_on, "it ended without {words:?}:\n{}", self.said());
            assert!(begun.elapsed() < within, "no {words:?} within {within:?}:\n{}", self.said());
            sleep(STEP);
        }
    }

    /// Whether it has not ended.
    ///
    /// # Panics
    /// If the system forbids to look.
    pub fn goes_on(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    /// Sends it a signal.
    ///
    /// # Panics
    /// If it is gone.
    pub fn signal(&self, what: Signal) {
        assert!(signal(self.pid(), what), "it is gone: {}", self.said());
    }

    /// Waits for its end.
    ///
    /// # Panics
    /// If it does not come in time; with what it said.
    pub fn wait_end(&mut self, within: Duration) -> ExitStatus {
        let ended = wait_child(&mut self.child, within);
        ended.unwrap_or_else(|| panic!("it did not end within {within:?}:\n{}", self.said()))
    }
}

impl Drop for Following {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn out(folder: &Path) -> PathBuf {
    folder.join("out")
}

fn err(folder: &Path) -> PathBuf {
    folder.join("err")
}
