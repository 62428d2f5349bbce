//! Sockets that a process was started with, as systemd and this crate's own [`Start`](crate::Start) hand them
//! over: open from descriptor 3 on, with their number and names in the environment.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::{FromRawFd as _, OwnedFd, RawFd};
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::io::{FdFlags, fcntl_setfd};
use rustix::net::sockopt::socket_acceptconn;

/// The variables that tell of them. They are meant for one process, and so never passed on.
pub(crate) const LISTEN_ENV: [&str; 3] = ["LISTEN_FDS", "LISTEN_FDNAMES", "LISTEN_PID"];

/// The first of them.
pub(crate) const FIRST: RawFd = 3;

/// The sockets that were handed to this process, with their names, in order; none if none were, or if they were
/// meant for another. They are given out once.
///
/// # Errors
/// What the environment tells is not there.
pub fn handed_sockets() -> io::Result<Vec<(String, OwnedFd)>> {
    static GIVEN: AtomicBool = AtomicBool::new(false);
    let [count, names, pid] = LISTEN_ENV.map(|name| std::env::var(name).unwrap_or_default());
    if pid != std::process::id().to_string() || GIVEN.swap(true, Ordering::Relaxed) {
        return Ok(Vec::new());
    }
    let count: RawFd = count.parse().map_err(io::Error::other)?;
    let mut names = names.split(':');
    let one = |number| Ok((names.next().unwrap_or_default().to_owned(), own(number)?));
    (FIRST..FIRST.saturating_add(count)).map(one).collect()
}

/// Whether this is a TCP socket that listens there. What was taken from elsewhere may be anything.
#[must_use]
pub fn listens_on(socket: &OwnedFd, address: SocketAddr) -> bool {
    let Ok(copy) = socket.try_clone() else { return false };
    socket_acceptconn(&copy) == Ok(true)
        && TcpListener::from(copy).local_addr().is_ok_and(|local| local == address)
}

/// Owns a descriptor that was left open for this process: by its earlier image, or by who started it. What this
/// process starts does not inherit it.
#[expect(unsafe_code, reason = "descriptors outlive an exec by their number alone")]
pub(crate) fn own(number: RawFd) -> io::Result<OwnedFd> {
    // SAFETY: asks about a number only.
    if number <= 2 || unsafe { libc::fcntl(number, libc::F_GETFD) } == -1 {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    // SAFETY: it is open, it was given up to us, and nothing else here has taken it: it was open before this
    // program began, so that nothing that was opened since has its number, and each number is named once.
    let fd = unsafe { OwnedFd::from_raw_fd(number) };
    fcntl_setfd(&fd, FdFlags::CLOEXEC)?;
    Ok(fd)
}
