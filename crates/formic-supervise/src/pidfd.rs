//! A process held by descriptor: the only way this crate signals anything.
//!
//! A number may come to mean another process between looking and signalling; a pidfd cannot.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::process::{
    Pid, PidfdFlags, Signal, WaitId, WaitIdOptions, pidfd_open, pidfd_send_signal, waitid,
};
use tokio::io::Interest;
use tokio::io::unix::{AsyncFd, AsyncFdRegisterError};

use crate::exit::ExitStatus;

/// The magic number of the file system that pidfds live on since Linux 6.9.
const PID_FS_MAGIC: u64 = 0x5049_4446;

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

    /// How this child ended, leaving it unreaped so that its number, which is also the number of its
    /// session, stays taken. `None` while it runs.
    pub(crate) fn peek(&self) -> Option<ExitStatus> {
        self.wait(WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT)
    }

    /// Reaps this child if it has ended.
    pub(crate) fn reap(&self) -> Option<ExitStatus> {
        self.wait(WaitIdOptions::EXITED | WaitIdOptions::NOHANG)
    }

    /// Reaps this child when it ends. For children that were just killed.
    pub(crate) fn reap_blocking(&self) -> Option<ExitStatus> {
        self.wait(WaitIdOptions::EXITED)
    }

    fn wait(&self, options: WaitIdOptions) -> Option<ExitStatus> {
        loop {
            return match waitid(WaitId::PidFd(self.fd.as_fd()), options) {
                Ok(status) => status.as_ref().map(ExitStatus::new),
                Err(Errno::INTR) => continue,
                // ECHILD: not ours, or reaped by another. It may only be called ended if it has.
                Err(_) => self.has_ended().then_some(ExitStatus::Unknown),
            };
        }
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
