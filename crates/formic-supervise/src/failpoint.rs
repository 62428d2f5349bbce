//! Named moments at which a test can have a process of the engine die, as a machine or a person would: by
//! SIGKILL, with nothing put in order.
//!
//! A file names the moment at which the next process that comes to it dies; it is removed by that process, so
//! each arming is one death and can be counted. Without [`FILE_ENV`] in the environment a moment costs one load.

use std::path::PathBuf;
use std::sync::OnceLock;

use rustix::process::{Signal, getpid, kill_process};

/// The variable with the path of the file.
pub const FILE_ENV: &str = "FORMIC_FAILPOINT_FILE";

/// Every moment, in the order in which an instance comes by them.
pub const ALL: [&str; 28] = [
    "save.before",
    "save.after",
    "promote.before",
    "promote.after",
    "start.intent.before",
    "start.intent.after",
    "start.forked",
    "start.recorded.before",
    "start.recorded.after",
    "start.admitted",
    "start.gate.open",
    "start.running",
    "log.punch.before",
    "log.punch.after",
    "stop.recorded.before",
    "stop.recorded.after",
    "stop.gone",
    "stop.noted",
    "stop.reaped",
    "stop.unrecorded.before",
    "stop.unrecorded.after",
    "adopt.before",
    "adopt.after",
    "keeper.fenced",
    "keeper.brain.started",
    "keeper.journal.before",
    "keeper.journal.after",
    "keeper.reaped",
];

/// Dies here if that is asked for.
pub fn hit(moment: &'static str) {
    static FILE: OnceLock<Option<PathBuf>> = OnceLock::new();
    let Some(file) = FILE.get_or_init(|| std::env::var_os(FILE_ENV).map(PathBuf::from)) else { return };
    debug_assert!(ALL.contains(&moment), "{moment}");
    // Whoever removes the file is the one that dies.
    if std::fs::read_to_string(file).is_ok_and(|armed| armed.trim() == moment)
        && std::fs::remove_file(file).is_ok()
    {
        // If even that is refused, the test that waits for the death says so.
        let _ = kill_process(getpid(), Signal::KILL);
        loop {
            std::thread::park();
        }
    }
}
