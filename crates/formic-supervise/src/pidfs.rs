//! What newer kernels know of a process beyond its life: its handle, and how it ended.
//!
//! A pidfs handle (Linux 6.14) finds the one process of an id or none, whoever asks and however often the
//! process number was used again. How a process ended (Linux 6.15) is kept for whoever held a pidfd of it
//! before it was reaped, the parent or not.

use std::io;
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd};

use rustix::io::Errno;
use rustix::ioctl::{Updater, opcode};

use crate::exit::ExitStatus;

/// The type of a pidfs handle, `FILEID_KERNFS`: its eight bytes are the id.
const HANDLE_TYPE: i32 = 0xfe;

/// The kernel's `struct file_handle` with a body of eight bytes.
#[repr(C)]
struct Handle {
    bytes: u32,
    kind: i32,
    id: [u8; 8],
}

/// Opens the process of this id; `None` if it has ended and was reaped. Any pidfd serves as the door to
/// the file system, one's own for example.
#[expect(unsafe_code, reason = "rustix has no open_by_handle_at")]
pub(crate) fn open(door: BorrowedFd<'_>, id: u64) -> io::Result<Option<OwnedFd>> {
    let mut handle = Handle { bytes: 8, kind: HANDLE_TYPE, id: id.to_ne_bytes() };
    // SAFETY: the kernel reads as many bytes behind the head as the head says, and writes nothing.
    let fd = unsafe {
        libc::syscall(libc::SYS_open_by_handle_at, door.as_raw_fd(), &raw mut handle, libc::O_CLOEXEC)
    };
    match i32::try_from(fd) {
        // SAFETY: the call made this descriptor just now, and nobody else knows it.
        Ok(fd) if fd >= 0 => Ok(Some(unsafe { OwnedFd::from_raw_fd(fd) })),
        _ => match io::Error::last_os_error() {
            gone if gone.raw_os_error() == Some(libc::ESTALE) => Ok(None),
            error => Err(error),
        },
    }
}

/// The kernel's `struct pidfd_info` in its first form, which every later kernel still takes.
#[repr(C)]
#[derive(Default)]
struct Info {
    mask: u64,
    cgroup: u64,
    /// pid, tgid, ppid, and eight user and group ids.
    numbers: [u32; 11],
    exit_code: i32,
}

/// Asks for, and tells of, the exit status.
const INFO_EXIT: u64 = 1 << 3;

/// How a process ended, once it was reaped by anyone. `None` before, and on older kernels.
#[expect(unsafe_code, reason = "rustix asks for a promise about an ioctl's opcode and structure")]
pub(crate) fn exit_status(pidfd: BorrowedFd<'_>) -> Option<ExitStatus> {
    const GET_INFO: rustix::ioctl::Opcode = opcode::read_write::<Info>(0xff, 11);
    let mut info = Info { mask: INFO_EXIT, ..Info::default() };
    // SAFETY: the opcode carries the size of `Info`, which the kernel reads and fills and no more.
    let asked = unsafe { rustix::ioctl::ioctl(pidfd.as_fd(), Updater::<GET_INFO, Info>::new(&mut info)) };
    match asked {
        Ok(()) if info.mask & INFO_EXIT != 0 => Some(ExitStatus::from_wait(info.exit_code)),
        Ok(()) | Err(Errno::SRCH | Errno::NOTTY | Errno::INVAL) => None,
        Err(error) => {
            tracing::debug!(%error, "the kernel does not say how a process ended");
            None
        }
    }
}
