//! What the keeper and a service manager that speaks systemd's words tell each other.
//!
//! That it is ready, that it reloads, that it ends; and sockets that it holds, which the service manager
//! holds too, so that none closes even when the keeper itself is killed.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram};

use super::process::say;
use crate::passing;

/// Where the service manager listens.
pub(super) const SOCKET_ENV: &str = "NOTIFY_SOCKET";

/// The line to the service manager, or none.
#[derive(Debug)]
pub(super) struct Notifier(Option<UnixDatagram>);

impl Notifier {
    pub(super) fn from_env() -> Self {
        let Some(name) = std::env::var_os(SOCKET_ENV).filter(|name| !name.is_empty()) else {
            return Self(None);
        };
        let connect = || {
            let address = match name.as_encoded_bytes() {
                [b'@', rest @ ..] => SocketAddr::from_abstract_name(rest)?,
                _ => SocketAddr::from_pathname(&name)?,
            };
            let socket = UnixDatagram::unbound()?;
            socket.connect_addr(&address)?;
            // A service manager that does not read must not hold the keeper up.
            socket.set_nonblocking(true)?;
            Ok::<_, io::Error>(socket)
        };
        match connect() {
            Ok(socket) => Self(Some(socket)),
            Err(error) => {
                say(&format!("cannot reach the service manager: {error}"));
                Self(None)
            }
        }
    }

    pub(super) fn ready(&self) {
        self.send("READY=1", &[]);
    }

    pub(super) fn reloading(&self) {
        let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
        let micros = i128::from(now.tv_sec) * 1_000_000 + i128::from(now.tv_nsec) / 1000;
        self.send(&format!("RELOADING=1\nMONOTONIC_USEC={micros}"), &[]);
    }

    pub(super) fn stopping(&self) {
        self.send("STOPPING=1", &[]);
    }

    /// Has a socket kept under a name, in place of one that was.
    pub(super) fn store(&self, name: &str, socket: &OwnedFd) {
        self.forget(name);
        // Without being looked at: a listener that fails is still the keeper's to judge.
        self.send(&format!("FDSTORE=1\nFDNAME={name}\nFDPOLL=0"), &[socket.as_fd()]);
    }

    pub(super) fn forget(&self, name: &str) {
        self.send(&format!("FDSTOREREMOVE=1\nFDNAME={name}"), &[]);
    }

    fn send(&self, words: &str, fds: &[BorrowedFd<'_>]) {
        if let Some(socket) = &self.0
            && let Err(error) = passing::send(socket, words.as_bytes(), fds)
        {
            say(&format!("cannot tell the service manager: {error}"));
        }
    }
}

/// Whether a name can stand in the lists of a service manager.
pub(super) fn is_name(name: &str) -> bool {
    (1..=255).contains(&name.len()) && name.bytes().all(|byte| byte.is_ascii_graphic() && byte != b':')
}

/// Takes the sockets that the service manager has kept of a keeper before.
pub(super) fn kept() -> io::Result<BTreeMap<String, OwnedFd>> {
    let mut kept = BTreeMap::new();
    for (name, socket) in formic_handed::take()? {
        if is_name(&name) {
            kept.insert(name, socket);
        } else {
            say("a socket without a name was handed over, and is closed");
        }
    }
    Ok(kept)
}
