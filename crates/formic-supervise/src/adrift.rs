//! What a keeper, or an engine that was its own, had taken in when it was killed: whoever takes in orphans above it has them
//! now, among many that are nobody's here.
//!
//! One that has left its session and emptied its environment says nothing of itself any more but where it writes to. Among a
//! living keeper's children that is enough. Here it is taken for an instance's only if all agrees that can be asked: it has
//! come to one of those above this engine, and is not in that one's session, as what a person starts in a shell is; it has the
//! instance's log open as its standard output or error, to append to it, as it was given it; it is wholly of the instance's
//! user; and it is no older than the instance's main process. One that has the log and is not all of that is told, and left alone.
//! So is one that came to somebody else who takes in orphans: the `systemd --user` of a desktop is not above an engine that was
//! started over ssh.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};

use crate::kin::Kin;
use crate::procfs::{self, Stat};
use crate::record::Record;

/// No chain of parents is nearly as long.
const LONGEST: usize = 256;

/// The processes above this one, with their sessions: where those go that what was below them has left.
#[derive(Clone, Debug, Default)]
pub(crate) struct Above(HashMap<u32, u32>);

/// What the processes of an instance have from it, whatever they leave.
#[derive(Clone, Debug, Default)]
pub(crate) struct Inherited {
    /// The files that they are given as their standard output and error, and no other instance's.
    pub(crate) logs: Vec<PathBuf>,
    /// When the main process began, in clock ticks since boot.
    pub(crate) born: u64,
    pub(crate) user: u32,
}

/// What an orphan has as its standard output or error.
#[derive(Clone, Debug)]
pub(crate) struct Output {
    pub(crate) file: PathBuf,
    /// Asked only of one that came to somebody else.
    pub(crate) appends: bool,
}

impl Above {
    /// From this process up to the first. Not the one that orphans come to, which has only its own.
    pub(crate) fn find(kin: Option<Kin>) -> Self {
        let mut above = Self::of(std::process::id(), Stat::read);
        above.0.retain(|pid, _| kin.is_none_or(|kin| !kin.is(*pid)));
        above
    }

    fn of(process: u32, read: impl Fn(u32) -> Option<Stat>) -> Self {
        let mut above = HashMap::new();
        let mut next = process;
        while let Some(stat) = read(next)
            && above.len() < LONGEST
            && above.insert(next, stat.session).is_none()
        {
            next = stat.parent;
        }
        // Who was started from outside the process namespace (`docker exec`, `nsenter`) has no parent in it; what it leaves
        // behind comes to the first process all the same.
        above.extend(read(1).map(|first| (1, first.session)));
        Self(above)
    }

    /// Whether a process that was seen has come to one of them, as far as that can be said.
    pub(crate) fn took_in(&self, seen: &Stat) -> bool {
        self.0.get(&seen.parent).is_some_and(|session| *session != seen.session)
    }
}

impl Inherited {
    pub(crate) fn of(record: &Record) -> Self {
        let own = || rustix::process::geteuid().as_raw();
        Self {
            logs: [&record.stdout, &record.stderr].into_iter().filter_map(|log| in_full(log)).collect(),
            born: record.identity.as_ref().map_or(u64::MAX, |identity| identity.start_time),
            user: record.account.as_ref().map_or_else(own, |account| account.uid),
        }
    }

    /// Whether one that has a log, and came to somebody else, is the instance's.
    pub(crate) fn is_proven(&self, seen: &Stat, user: Option<u32>, outputs: &[Output]) -> bool {
        let appends = outputs.iter().any(|output| output.appends && self.logs.contains(&output.file));
        appends && user == Some(self.user) && seen.start_time >= self.born
    }
}

/// What a process has that came to somebody else, and whose it is.
pub(crate) fn ask(pid: u32) -> (Vec<Output>, Option<u32>) {
    let files = files(pid).into_iter();
    let outputs: Vec<_> =
        files.map(|(number, file)| Output { file, appends: procfs::appends(pid, number) }).collect();
    let user = if outputs.is_empty() { None } else { procfs::user(pid) };
    (outputs, user)
}

/// The files that a process has as its standard output and error. Most have none that could be a log.
pub(crate) fn files(pid: u32) -> Vec<(u32, PathBuf)> {
    let mut files = procfs::outputs(pid);
    files.retain(|(_, file)| file.is_absolute() && !file.starts_with("/dev"));
    files
}

/// A log's name as the kernel tells it. Only its folder may be a link: where another file was put in its place, nobody has
/// that from us.
fn in_full(log: &Path) -> Option<PathBuf> {
    Some(fs::canonicalize(log.parent()?).ok()?.join(log.file_name()?))
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]

    use super::*;
    use crate::procfs::Extent;

    fn seen(parent: u32, session: u32, start_time: u64) -> Stat {
        Stat { pid: 50, state: b'S', parent, session, start_time, threads: 1, env: Extent::Some }
    }

    #[test]
    fn the_first_process_is_above_and_who_is_in_the_session_of_one_above_was_not_taken_in() {
        let above = Above::find(None);
        let own = Stat::read(std::process::id()).unwrap();
        assert!(above.0.contains_key(&1) && above.0.contains_key(&own.pid), "{above:?}");
        // Of one that was started from outside the namespace, too.
        let entered = |pid| match pid {
            1 => Some(Stat { pid, ..seen(0, 0, 1) }),
            40 => Some(Stat { pid, ..seen(30, 30, 7) }),
            30 => Some(Stat { pid, ..seen(0, 30, 6) }),
            _ => None,
        };
        assert_eq!(Above::of(40, entered).0, [(40, 30), (30, 30), (1, 0)].into());
        assert!(!Above::find(Some(Kin::of(own.pid))).0.contains_key(&own.pid));
        let above = Above([(1, 1), (40, 30)].into());
        assert!(above.took_in(&seen(1, 49, 7)) && above.took_in(&seen(40, 49, 7)));
        assert!(!above.took_in(&seen(40, 30, 7)) && !above.took_in(&seen(41, 49, 7)));
    }

    #[test]
    fn nothing_is_an_instances_by_half_of_the_proof() {
        let instance = Inherited { logs: vec!["/logs/a.log".into()], born: 7, user: 1000 };
        let output = |file: &str, appends| vec![Output { file: file.into(), appends }];
        let log = output("/logs/a.log", true);
        let all = |seen: &Stat, user, outputs: &[Output]| instance.is_proven(seen, user, outputs);
        assert!(all(&seen(1, 49, 7), Some(1000), &log) && all(&seen(1, 49, 8), Some(1000), &log));
        assert!(!all(&seen(1, 49, 6), Some(1000), &log), "older");
        assert!(!all(&seen(1, 49, 7), Some(1001), &log) && !all(&seen(1, 49, 7), None, &log), "another user");
        assert!(!all(&seen(1, 49, 7), Some(1000), &output("/logs/a.log", false)), "not as it was given");
        assert!(!all(&seen(1, 49, 7), Some(1000), &output("/logs/b.log", true)), "another's");
    }
}
