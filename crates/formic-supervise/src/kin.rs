//! Who came to where orphans go: the processes that a main process may have left behind, and no others.
//!
//! Every process of an instance descends from its main process, and that from one process where orphans go: the keeper,
//! or an engine that is its own. When a main process has ended and its cgroup is empty, whoever of its tree is left must
//! be below a child of that one which is no main process itself. The kernel lists children of a thread, so this
//! costs as much as there are such children, where `/proc` costs as much as there are processes on the machine.
//!
//! What `formic exec` has started for people is no such descendant. It is in the cgroup like the others, and as it may be moved
//! out, the whole machine is looked through for the marks of an instance that somebody has entered so.

use std::collections::HashSet;
use std::fs;
use std::io;
use std::time::{Duration, Instant};

use rustix::process::child_subreaper;

use crate::procfs::Stat;

/// Where so often something changed while it was looked at, others must look.
const ROUNDS: usize = 8;

/// The same where it takes this long.
const LIMIT: Duration = Duration::from_secs(2);

/// The process that orphans come to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Kin {
    root: u32,
}

impl Kin {
    /// Of a process that is known to be one.
    #[cfg(test)]
    pub(crate) fn of(root: u32) -> Self {
        Self { root }
    }

    pub(crate) fn is(self, pid: u32) -> bool {
        self.root == pid
    }

    /// Where those go that are left behind by what this process starts. `None` where that is not known, or where the kernel
    /// lists no children.
    pub(crate) fn find(keeper: Option<u32>) -> Option<Self> {
        let own = std::process::id();
        let root = if matches!(child_subreaper(), Ok(Some(_))) {
            own
        } else {
            // It is one for all that it has started, and for what those have.
            keeper.filter(|keeper| Stat::read(own).is_some_and(|stat| stat.parent == *keeper))?
        };
        children(root).is_ok().then_some(Self { root })
    }

    /// Whether a process was started by this engine's keeper, or came to it: then so has, or will, whatever it started.
    pub(crate) fn is_parent_of(self, pid: u32) -> bool {
        Stat::read(pid).is_some_and(|stat| stat.parent == self.root)
    }

    /// Whether a process that was seen has come to it, or was started by it.
    pub(crate) fn has_child(self, seen: &Stat) -> bool {
        seen.parent == self.root
    }

    /// The living processes below those of its children that are none of `held`, which says of numbers which of them are of
    /// main processes. Whoever was left behind before this was called, and lives when it returns, is among them.
    ///
    /// # Errors
    /// If children cannot be listed, or do not stand still.
    pub(crate) fn left_behind(self, held: impl Fn(&HashSet<u32>) -> HashSet<u32>) -> io::Result<Vec<Stat>> {
        let begun = Instant::now();
        // Those that had ended before the list was read: what they have left is in it.
        let mut ended = HashSet::new();
        for _ in 0..ROUNDS {
            let listed: HashSet<u32> = children(self.root)?.into_iter().collect();
            let strangers = |listed: &HashSet<u32>| -> Vec<u32> {
                let held = held(listed);
                let others = listed.iter().filter(|pid| !held.contains(pid) && **pid != std::process::id());
                others.copied().collect()
            };
            let mut next = strangers(&listed);
            let mut seen: HashSet<u32> = next.iter().copied().collect();
            let (mut living, mut settled) = (Vec::new(), true);
            while let Some(pid) = next.pop() {
                if begun.elapsed() > LIMIT {
                    return Err(io::ErrorKind::TimedOut.into());
                }
                let Some(stat) = Stat::read(pid) else {
                    settled = false;
                    continue;
                };
                let name = (pid, stat.start_time);
                let below = if stat.is_zombie() { Ok(Vec::new()) } else { children(pid) };
                // Asked once more: the children of one that lives are still its own.
                let lives = |now: &Stat| now.start_time == stat.start_time && !now.is_zombie();
                match (below, Stat::read(pid).filter(lives)) {
                    (Ok(below), Some(now)) => {
                        living.push(now);
                        next.extend(below.into_iter().filter(|pid| seen.insert(*pid)));
                    }
                    // What it leaves behind goes to the root, whose list was read before.
                    _ => settled &= !ended.insert(name),
                }
            }
            if !settled {
                continue;
            }
            // A list is read in steps, and whoever is taken out of it meanwhile may have another left out.
            let again: HashSet<u32> = children(self.root)?.into_iter().collect();
            let added: HashSet<u32> = again.difference(&listed).copied().collect();
            // Mostly nobody was: who is held need not be asked for that.
            if listed.is_subset(&again) && (added.is_empty() || strangers(&added).is_empty()) {
                return Ok(living);
            }
        }
        Err(io::Error::new(io::ErrorKind::ResourceBusy, "processes come and go too quickly"))
    }
}

/// The children of all threads of a process, those included that have ended and are not reaped.
fn children(pid: u32) -> io::Result<Vec<u32>> {
    let entries = fs::read_dir(format!("/proc/{pid}/task"))?;
    let threads = entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    let mut threads: Vec<u32> = threads.collect();
    // The first thread last: it takes over the children of a thread that ends.
    threads.sort_unstable_by_key(|thread| *thread == pid);
    let mut found = Vec::new();
    for thread in threads {
        match fs::read_to_string(format!("/proc/{pid}/task/{thread}/children")) {
            Ok(text) => found.extend(text.split_ascii_whitespace().filter_map(|pid| pid.parse::<u32>().ok())),
            // It has ended. Where the kernel lists no children, no thread has a list.
            Err(error) if thread != pid && is_gone(&error) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(found)
}

fn is_gone(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::NotFound || error.raw_os_error() == Some(libc::ESRCH)
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]
    #![expect(clippy::print_stdout, reason = "a test that cannot run says so")]

    use std::io::{BufRead as _, BufReader};
    use std::process::{Child, Command, Stdio};

    use rustix::process::Signal;

    use super::*;
    use crate::pidfd::PidFd;

    /// A child of this process, with its first line.
    fn child(script: &str) -> (Child, String) {
        let mut child = Command::new("/bin/sh").args(["-c", script]).stdout(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        (child, line.trim().to_owned())
    }

    /// Asked again while the other tests of this process start and end children of their own.
    fn left(kin: Kin, held: &HashSet<u32>) -> HashSet<u32> {
        let limit = Instant::now() + Duration::from_secs(20);
        loop {
            match kin.left_behind(|listed| listed.intersection(held).copied().collect()) {
                Ok(found) => return found.iter().map(|stat| stat.pid).collect(),
                Err(error) => assert!(Instant::now() < limit, "{error}"),
            }
        }
    }

    #[test]
    fn the_living_below_a_child_that_nobody_holds_are_found() {
        let kin = Kin { root: std::process::id() };
        if let Err(error) = children(kin.root) {
            println!(
                "formic-test-skipped: kin::the_living_below_a_child_that_nobody_holds_are_found: {error}"
            );
            return;
        }
        let (mut one, below) = child("sh -c 'echo $$; exec sleep 60' & wait");
        let (mut two, other) = child("sh -c 'echo $$; exec sleep 60' & wait");
        let (below, other): (u32, u32) = (below.parse().unwrap(), other.parse().unwrap());
        let found = left(kin, &[two.id()].into());
        assert!(found.contains(&one.id()) && found.contains(&below), "{found:?}");
        assert!(!found.contains(&two.id()) && !found.contains(&other), "{found:?}");
        // One that has ended and is not reaped hides nobody, and is not found.
        one.kill().unwrap();
        let limit = Instant::now() + Duration::from_secs(20);
        while !Stat::read(one.id()).unwrap().is_zombie() {
            assert!(Instant::now() < limit, "it does not end");
            std::thread::sleep(Duration::from_millis(2));
        }
        let found = left(kin, &HashSet::new());
        assert!(!found.contains(&one.id()) && found.contains(&other), "{found:?}");
        for pid in [below, other] {
            PidFd::open(pid).unwrap().unwrap().signal(Signal::KILL).unwrap();
        }
        two.wait().unwrap();
        one.wait().unwrap();
    }
}
