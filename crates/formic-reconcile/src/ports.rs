//! `port = "auto"`: free ports of this machine for programs that are given theirs.
//!
//! A port is held for an instance from before its start until it is gone. Whether it is free otherwise is
//! found out by binding it, which proves nothing about the moment after: a program that finds its port
//! taken ends, and its next start gets another, because the search goes on from where it was.

use std::collections::HashMap;
use std::net::{Ipv4Addr, TcpListener};
use std::ops::RangeInclusive;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use formic_plan::InstanceId;

/// Where ports come from: below those that the kernel gives to outgoing connections (from 32768 on), which
/// would take one in between; above those with names. Nomad's range.
const RANGE: RangeInclusive<u16> = 20_000..=32_000;

/// The ports that were given away. Clones are the same.
#[derive(Clone, Debug)]
pub(crate) struct Ports(Arc<Mutex<Held>>);

#[derive(Debug)]
struct Held {
    by: HashMap<InstanceId, u16>,
    next: u16,
}

impl Ports {
    /// Begins anywhere, so that two engines of a machine seldom look at the same port.
    pub(crate) fn new() -> Self {
        Self(Arc::new(Mutex::new(Held { by: HashMap::new(), next: fastrand::u16(RANGE) })))
    }

    /// A free port, held for this instance; nothing if there is none.
    pub(crate) fn choose(&self, id: &InstanceId) -> Option<u16> {
        let mut held = self.lock();
        for _ in RANGE {
            let port = held.next;
            held.next = if port == *RANGE.end() { *RANGE.start() } else { port + 1 };
            if !held.by.values().any(|taken| *taken == port) && is_free(port) {
                held.by.insert(id.clone(), port);
                return Some(port);
            }
        }
        None
    }

    /// Holds the port that an instance has, as one does that was taken over.
    pub(crate) fn hold(&self, id: &InstanceId, port: u16) {
        self.lock().by.insert(id.clone(), port);
    }

    /// The port of this instance is free again.
    pub(crate) fn release(&self, id: &InstanceId) {
        self.lock().by.remove(id);
    }

    fn lock(&self) -> MutexGuard<'_, Held> {
        // Every change is one insert or remove: a panic elsewhere leaves it whole.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether nobody listens on a port of this machine.
fn is_free(port: u16) -> bool {
    TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok()
}

/// Whether another process listens on a port of this machine: a probe would find that one ready.
pub(crate) fn is_taken(port: u16) -> bool {
    let bound = TcpListener::bind((Ipv4Addr::LOCALHOST, port));
    bound.is_err_and(|error| error.kind() == std::io::ErrorKind::AddrInUse)
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]

    use super::*;

    #[test]
    fn no_two_instances_and_no_two_starts_in_a_row_get_one_port() {
        let ports = Ports::new();
        let (a, b) = (InstanceId::from("a"), InstanceId::from("b"));
        let (first, second) = (ports.choose(&a).unwrap(), ports.choose(&b).unwrap());
        assert!(first != second && RANGE.contains(&first) && RANGE.contains(&second));
        ports.release(&a);
        assert_ne!(ports.choose(&a).unwrap(), first, "the last one may be what made it fail");
    }

    #[test]
    fn what_is_held_or_taken_is_passed_over() {
        let ports = Ports::new();
        let next = |at: u16| if at == *RANGE.end() { *RANGE.start() } else { at + 1 };
        let from = ports.lock().next;
        ports.hold(&"adopted".into(), from);
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, next(from)));
        let port = ports.choose(&"new".into()).unwrap();
        assert!(port != from && port != next(from), "{port}");
        drop(listener);
        assert!(!is_taken(port));
        let listening = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        assert!(is_taken(listening.local_addr().unwrap().port()));
    }

    #[test]
    fn the_range_is_gone_through_round_its_end() {
        let ports = Ports::new();
        ports.lock().next = *RANGE.end();
        for n in 0..3 {
            ports.choose(&format!("{n}").into()).unwrap();
        }
        assert!(ports.lock().by.values().any(|port| *port < 21_000));
    }
}
