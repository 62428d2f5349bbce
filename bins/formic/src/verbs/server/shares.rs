//! How many places of the API's door one address may hold: nobody takes them all by opening connections and saying nothing.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Half of the places. Who comes through a tunnel comes from this machine's own address, and so may many.
pub(super) const SHARE: usize = super::door::CONNECTIONS / 2;

/// Who holds how many. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub(super) struct Shares(Arc<Mutex<HashMap<IpAddr, usize>>>);

/// One place, given back when this is dropped.
#[derive(Debug)]
pub(super) struct Share {
    of: Shares,
    who: IpAddr,
}

// === impl Shares ===

impl Shares {
    /// A place for an address, unless it has as many as it may.
    pub(super) fn take(&self, address: IpAddr) -> Option<Share> {
        let who = household(address);
        let mut held = self.lock();
        let count = held.entry(who).or_default();
        if *count >= SHARE {
            return None;
        }
        *count += 1;
        drop(held);
        Some(Share { of: self.clone(), who })
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<IpAddr, usize>> {
        // Each change is one number.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        let mut held = self.of.lock();
        if let Some(count) = held.get_mut(&self.who) {
            *count -= 1;
            if *count == 0 {
                held.remove(&self.who);
            }
        }
    }
}

/// Of version 6 whoever has an address has its whole network of 64 bits.
fn household(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) if !address.is_loopback() => {
            IpAddr::V6((address.to_bits() & (u128::MAX << 64)).into())
        }
        other => other,
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]

    use super::*;

    #[test]
    fn one_address_takes_no_more_than_its_share() {
        let shares = Shares::default();
        let at = |text: &str| text.parse::<IpAddr>().unwrap();
        let mut held: Vec<Share> = (0..SHARE).map(|_| shares.take(at("10.0.0.1")).unwrap()).collect();
        assert!(shares.take(at("10.0.0.1")).is_none() && shares.take(at("::ffff:10.0.0.1")).is_none());
        assert!(shares.take(at("10.0.0.2")).is_some());
        held.pop();
        held.push(shares.take(at("10.0.0.1")).unwrap());
        held.extend((0..SHARE).map(|n| shares.take(at(&format!("2001:db8::{:x}", n + 1))).unwrap()));
        assert!(shares.take(at("2001:db8::ffff:1")).is_none());
        assert!(shares.take(at("2001:db8:0:1::1")).is_some());
        drop(held);
        assert!(shares.lock().is_empty());
    }
}
