//! Sockets that listen, and are handed from one process to the next.

use std::net::{SocketAddr, TcpListener};
use std::os::fd::OwnedFd;

use rustix::net::sockopt::socket_acceptconn;

/// Whether this is a TCP socket that listens there. What was taken from elsewhere may be anything.
#[must_use]
pub fn listens_on(socket: &OwnedFd, address: SocketAddr) -> bool {
    let Ok(copy) = socket.try_clone() else { return false };
    socket_acceptconn(&copy) == Ok(true)
        && TcpListener::from(copy).local_addr().is_ok_and(|local| local == address)
}
