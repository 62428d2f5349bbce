//! One cgroup (version 2) per instance: its processes held together by the kernel, its limits, its account.
//!
//! Who is in it cannot leave by forking, by a new session or by clearing its environment, and all of them
//! can be killed at once. What is used is decided per controller: on a machine where memory is still
//! controlled by version 1, trees are held and counted all the same, and the memory limit is told as
//! unenforced, never dropped silently.
//!
//! ```text
//! base                      ours by delegation, or our own place in the tree
//! ├─ keeper                 keeper and brain: an inner node with controllers may hold no process itself
//! └─ formic-<run dir>       one per run directory
//!    ├─ order-1             an instance: the trampoline is born in it
//!    └─ order-2
//! ```
//!
//! Written here instead of taken from a crate: it is little, and those that exist carry version 1 along.

mod detect;
mod groups;
mod limits;
mod outside;

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};
use rustix::process::Signal;

pub use detect::{Cgroups, Controller, Unenforced};
pub(crate) use groups::Groups;
pub use limits::Limits;
pub(crate) use outside::pids_outside;

use crate::pidfd::PidFd;
use crate::procfs::Stat;

/// The cgroup of one instance.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Group {
    dir: PathBuf,
}

// === impl Group ===

impl Group {
    pub(crate) fn at(dir: PathBuf) -> Self {
        Self { dir }
    }

    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    pub(crate) fn exists(&self) -> bool {
        self.dir.is_dir()
    }

    /// Puts a process in.
    pub(crate) fn admit(&self, pid: u32) -> io::Result<()> {
        fs::write(self.dir.join("cgroup.procs"), pid.to_string())
    }

    /// Its directory, for those that are to be born in it.
    pub(crate) fn open(&self) -> io::Result<OwnedFd> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        Ok(rustix::fs::open(&self.dir, flags, Mode::empty())?)
    }

    /// Whether a living process is in it or below it. A cgroup that is gone has none.
    pub(crate) fn is_populated(&self) -> io::Result<bool> {
        match fs::read_to_string(self.dir.join("cgroup.events")) {
            Ok(events) => Ok(field(&events, "populated") != Some(0)),
            Err(error) if is_gone(&error) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// The living processes in it and below it, in order.
    pub(crate) fn members(&self) -> io::Result<Vec<Stat>> {
        let mut pids = BTreeSet::new();
        for dir in self.tree()? {
            match fs::read_to_string(dir.join("cgroup.procs")) {
                Ok(procs) => pids.extend(procs.lines().filter_map(|pid| pid.parse::<u32>().ok())),
                Err(error) if is_gone(&error) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(pids.into_iter().filter_map(Stat::read).filter(|stat| !stat.is_zombie()).collect())
    }

    /// Kills all of it at once. Before Linux 5.14 one by one, which a storm of forks may outrun for a while.
    pub(crate) fn kill(&self) -> io::Result<()> {
        match fs::write(self.dir.join("cgroup.kill"), "1") {
            Ok(()) => return Ok(()),
            Err(error) if is_gone(&error) && !self.exists() => return Ok(()),
            Err(error) if is_gone(&error) || error.kind() == io::ErrorKind::PermissionDenied => {}
            Err(error) => return Err(error),
        }
        for member in self.members()? {
            let Some(pidfd) = PidFd::open(member.pid)? else { continue };
            // Asked after the descriptor was taken: if the number was used again in between, it shows.
            if Stat::read(member.pid).is_some_and(|now| now.start_time == member.start_time) {
                pidfd.signal(Signal::KILL)?;
            }
        }
        Ok(())
    }

    /// How many of its processes the kernel has killed for want of memory.
    pub(crate) fn oom_kills(&self) -> u64 {
        let events = fs::read_to_string(self.dir.join("memory.events")).unwrap_or_default();
        field(&events, "oom_kill").unwrap_or(0)
    }

    /// Removes it and what the instance may have made below it. It must be empty.
    pub(crate) fn remove(&self) -> io::Result<()> {
        let tree = match self.tree() {
            Err(error) if is_gone(&error) => return Ok(()),
            tree => tree?,
        };
        for dir in tree.iter().rev() {
            match fs::remove_dir(dir) {
                Err(error) if !is_gone(&error) => return Err(error),
                _ => {}
            }
        }
        Ok(())
    }

    /// Its directory and those below it, each after the one that it is in.
    fn tree(&self) -> io::Result<Vec<PathBuf>> {
        let mut found = vec![self.dir.clone()];
        let mut next = 0;
        while let Some(dir) = found.get(next).cloned() {
            let entries = match fs::read_dir(&dir) {
                // One below it, that is: the instance removes its own.
                Err(error) if is_gone(&error) && next > 0 => {
                    next += 1;
                    continue;
                }
                entries => entries?,
            };
            for entry in entries.flatten() {
                if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                    found.push(entry.path());
                }
            }
            next += 1;
        }
        Ok(found)
    }
}

/// The number behind a word in one of the kernel's lists.
pub(crate) fn field(text: &str, name: &str) -> Option<u64> {
    text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.trim().parse().ok())
}

/// The kernel says ENODEV of a file that it has open and whose cgroup was removed.
fn is_gone(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::NotFound || error.raw_os_error() == Some(libc::ENODEV)
}
