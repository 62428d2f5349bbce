//! Sockets that listen, and are handed from one process to the next.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::{OwnedFd, RawFd};

use rustix::net::sockopt::socket_acceptconn;

/// Whether this is a TCP socket that listens there. What was taken from elsewhere may be anything.
#[must_use]
pub fn listens_on(socket: &OwnedFd, address: SocketAddr) -> bool {
    let Ok(copy) = socket.try_clone() else { return false };
    socket_acceptconn(&copy) == Ok(true)
        && TcpListener::from(copy).local_addr().is_ok_and(|local| local == address)
}

/// How many descriptors of a process are looked at. What it was handed came first, and has a low number.
const LOOKED_AT: usize = 1024;

/// The numbers under which a process has sockets, the lowest first.
pub(crate) fn sockets(pid: u32) -> io::Result<Vec<RawFd>> {
    let mut numbers = Vec::new();
    for entry in std::fs::read_dir(format!("/proc/{pid}/fd"))?.take(LOOKED_AT) {
        let entry = entry?;
        let is_socket = std::fs::read_link(entry.path())
            .is_ok_and(|link| link.as_os_str().as_encoded_bytes().starts_with(b"socket:"));
        if is_socket && let Some(number) = entry.file_name().to_str().and_then(|name| name.parse().ok()) {
            numbers.push(number);
        }
    }
    numbers.sort_unstable();
    Ok(numbers)
}
