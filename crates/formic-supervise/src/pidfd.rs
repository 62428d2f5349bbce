//! A process held by descriptor: the only way this crate signals anything.
//!
//! A number may come to mean another process between looking and signalling; a pidfd cannot.

use std::fs;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::process::{
    Pid, PidfdFlags, PidfdGetfdFlags, Signal, WaitId, WaitIdOptions, pidfd_getfd, pidfd_open,
    pidfd_send_signal, waitid,
};
use tokio::io::Interest;
use tokio::io::unix::{AsyncFd, AsyncFdRegisterError};

use crate::exit::ExitStatus;
use crate::pidfs;
use crate::procfs;

/// The magic number of the file system that pidfds live on since Linux 6.9.
const PID_FS_MAGIC: u64 = 0x5049_4446;

/// What the kernel shows for the number of a process that was reaped.
const REAPED: i64 = -1;

/// What a parent is told of its child.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Waited {
    /// It runs.
    Running,
    /// It has ended.
    Ended(ExitStatus),
    /// It is not our child, or not any more.
    NotOurs,
}

impl Waited {
    pub(crate) fn status(self) -> Option<ExitStatus> {
        match self {
            Self::Ended(status) => Some(status),
            Self::Running | Self::NotOurs => None,
        }
    }
}

/// A process by descriptor.
#[derive(Debug)]
pub(crate) struct PidFd {
    pid: u32,
    fd: OwnedFd,
}

impl PidFd {
    /// Takes hold of whichever process has this number now; `None` if there is none.
    pub(crate) fn open(pid: u32) -> Result<Option<Self>, Errno> {
        let Some(number) = i32::try_from(pid).ok().and_then(Pid::from_raw) else { return Ok(None) };
        match pidfd_open(number, PidfdFlags::empty()) {
            Ok(fd) => Ok(Some(Self { pid, fd })),
            // EINVAL: the number is a thread's, so no process has it.
            Err(Errno::SRCH | Errno::INVAL) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Finds the process that has this id on pidfs, whose number was `pid`. `Ok(None)` if it is gone.
    pub(crate) fn reopen(pid: u32, id: u64) -> io::Result<Option<Self>> {
        let door = Self::open(std::process::id())?.ok_or(io::ErrorKind::NotFound)?;
        let Some(fd) = pidfs::open(door.as_fd(), id)? else { return Ok(None) };
        let found = Self { pid, fd };
        // A record may be damaged and still be well formed: both its numbers must mean this process.
        if found.unique_id() != Some(id) || found.number() != Some(i64::from(pid)) {
            return if found.number() == Some(REAPED) {
                Ok(None)
            } else {
                Err(io::ErrorKind::InvalidData.into())
            };
        }
        Ok(Some(found))
    }

    pub(crate) fn pid(&self) -> u32 {
        self.pid
    }

    /// The number that no other process of this boot ever had or will have, on kernels that have one.
    pub(crate) fn unique_id(&self) -> Option<u64> {
        let kind = rustix::fs::fstatfs(&self.fd).ok()?.f_type;
        if u64::try_from(kind).ok()? != PID_FS_MAGIC {
            return None;
        }
        Some(rustix::fs::fstat(&self.fd).ok()?.st_ino)
    }

    /// Sends a signal; `false` if the process has ended and was reaped.
    pub(crate) fn signal(&self, signal: Signal) -> Result<bool, Errno> {
        match pidfd_send_signal(&self.fd, signal) {
            Ok(()) => Ok(true),
            Err(Errno::SRCH) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Whether it has ended, reaped or not.
    pub(crate) fn has_ended(&self) -> bool {
        let mut fds = [PollFd::new(&self.fd, PollFlags::IN)];
        matches!(poll(&mut fds, Some(&Timespec::default())), Ok(1..))
    }

    /// Whether it has ended and was reaped, so that its number may be another's by now.
    pub(crate) fn is_reaped(&self) -> bool {
        let mut fds = [PollFd::new(&self.fd, PollFlags::IN)];
        if !matches!(poll(&mut fds, Some(&Timespec::default())), Ok(1..)) {
            return false;
        }
        if fds[0].revents().contains(PollFlags::HUP) {
            return true;
        }
        // Kernels before pidfs do not tell the two apart by polling.
        self.number() == Some(REAPED)
    }

    /// A descriptor of the process, under this number there, as one of our own. Asks for as much as a debugger.
    pub(crate) fn descriptor(&self, number: RawFd) -> io::Result<OwnedFd> {
        Ok(pidfd_getfd(&self.fd, number, PidfdGetfdFlags::empty())?)
    }

    /// The process number as the kernel tells it.
    fn number(&self) -> Option<i64> {
        let about = fs::read_to_string(format!("/proc/self/fdinfo/{}", self.fd.as_raw_fd())).ok()?;
        about.lines().find_map(|line| line.strip_prefix("Pid:"))?.trim().parse().ok()
    }

    /// How this child ended, leaving it unreaped so that its number, which is also the number of its
    /// session, stays taken.
    pub(crate) fn peek(&self) -> Waited {
        self.wait(WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT)
    }

    /// Reaps this child if it has ended.
    pub(crate) fn reap(&self) -> Waited {
        self.wait(WaitIdOptions::EXITED | WaitIdOptions::NOHANG)
    }

    /// Reaps this child when it ends. For children that were just killed.
    pub(crate) fn reap_blocking(&self) -> Waited {
        self.wait(WaitIdOptions::EXITED)
    }

    fn wait(&self, options: WaitIdOptions) -> Waited {
        loop {
            return match waitid(WaitId::PidFd(self.fd.as_fd()), options) {
                Ok(Some(status)) => Waited::Ended(ExitStatus::new(&status)),
                Ok(None) => Waited::Running,
                Err(Errno::INTR) => continue,
                // ECHILD: not ours, or reaped by another.
                Err(_) => Waited::NotOurs,
            };
        }
    }

    /// How a process ended whose parent is another: what the kernel keeps of the reaped, else what `/proc`
    /// says of the unreaped. `None` if neither can tell.
    pub(crate) fn exit_of_another(&self, kernel_keeps: bool) -> Option<ExitStatus> {
        if !self.has_ended() {
            return None;
        }
        // First the later state: what is reaped between the two questions is asked about again.
        if kernel_keeps && let Some(status) = pidfs::exit_status(self.as_fd()) {
            return Some(status);
        }
        let status = procfs::zombie_status(self.pid);
        // The number was its own while it was not reaped, and only if it is not reaped now, it was then.
        if status.is_some() && !self.is_reaped() {
            return status;
        }
        if kernel_keeps { pidfs::exit_status(self.as_fd()) } else { None }
    }
}

impl AsRawFd for PidFd {
    fn as_raw_fd(&self) -> RawFd {
        self.fd.as_raw_fd()
    }
}

impl AsFd for PidFd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// Lets the runtime watch it; on failure gives it back.
#[expect(unsafe_code, reason = "AsyncFd asks for a promise about AsRawFd that it cannot check")]
pub(crate) fn watch(pidfd: PidFd) -> Result<AsyncFd<PidFd>, (PidFd, io::Error)> {
    // SAFETY: `as_raw_fd` answers the descriptor that the value owns, always the same, until it is dropped.
    unsafe { AsyncFd::register_with_interest(pidfd, Interest::READABLE) }
        .map_err(AsyncFdRegisterError::into_parts)
}

/// Waits until the process has ended. Cancel safe, and many may wait.
pub(crate) async fn ended(pidfd: &AsyncFd<PidFd>) {
    loop {
        // The guard before the check: an end between the two is not lost.
        let Ok(mut guard) = pidfd.readable().await else {
            // Only when the runtime shuts down, which drops this future.
            return std::future::pending().await;
        };
        if pidfd.get_ref().has_ended() {
            return;
        }
        guard.clear_ready();
    }
}
