//! The two clocks of the engine: one that nobody sets, by which everything is measured that takes time, and the one on the
//! wall, by which cron jobs are due and everything is dated.
//!
//! A test cannot set the clock on the wall, which is the whole machine's. A file can name by how much it is off, in
//! milliseconds, and may be changed meanwhile: the engine sees what it would see of a clock that was set. Without [`FILE_ENV`]
//! in the environment that costs one load.

use std::path::PathBuf;
use std::sync::OnceLock;
use std::time::{SystemTime, UNIX_EPOCH};

use formic_plan::Time;

use crate::engine::Now;

/// The variable with the path of the file.
const FILE_ENV: &str = "FORMIC_CLOCK_FILE";

/// The moment, on both.
pub(crate) fn now() -> Now {
    let wall = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let wall = i64::try_from(wall.as_millis()).unwrap_or(i64::MAX);
    Now { time: Time::from_millis(formic_supervise::boottime_ms()), unix_ms: wall.saturating_add(off()) }
}

fn off() -> i64 {
    static FILE: OnceLock<Option<PathBuf>> = OnceLock::new();
    let file = FILE.get_or_init(|| std::env::var_os(FILE_ENV).map(PathBuf::from));
    let Some(file) = file else { return 0 };
    let text = std::fs::read_to_string(file).unwrap_or_default();
    text.trim().parse().unwrap_or(0)
}
