//! Processor time of processes: it says why one subject is faster than another where requests per second
//! only say that it is.

use std::time::Duration;

/// `/proc` counts in these on every Linux of today, whatever the kernel's own tick.
const TICK: Duration = Duration::from_millis(10);

/// What a process has used so far, user and system together; `None` where there is no `/proc`.
#[must_use]
pub fn used(pid: u32) -> Option<Duration> {
    parse(&std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
}

fn parse(stat: &str) -> Option<Duration> {
    // The name may hold spaces and parentheses; what follows the last one does not.
    let mut fields = stat.rsplit_once(')')?.1.split_ascii_whitespace().skip(11);
    let mut ticks = || fields.next()?.parse::<u32>().ok();
    Some(TICK * (ticks()? + ticks()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn user_and_system_time_add_up_whatever_the_name() {
        let stat = "42 (a) b) S 1 42 42 0 -1 4194560 100 0 0 0 250 50 0 0 20 0 3 0 100 0 0";
        assert_eq!(parse(stat), Some(Duration::from_secs(3)));
        assert_eq!(parse("42 (cut"), None);
    }

    #[test]
    fn ones_own_time_is_known_on_linux() {
        assert_eq!(used(std::process::id()).is_some(), cfg!(target_os = "linux"));
    }
}
