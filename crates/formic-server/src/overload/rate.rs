//! Rate limits by key: the generic cell rate algorithm (GCRA), one time per key and no timers. Pure: time
//! is handed in.
//!
//! The number of keys is bounded. A key that has its whole burst again is forgotten, which loses nothing;
//! and when all that are left are in use, new ones share one allowance, so that a stranger who makes up
//! keys takes nothing from those who are known. `governor` does the like with a tree of fourteen crates;
//! this is its core.

use std::borrow::Cow;
use std::collections::HashMap;
use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;
use std::net::Ipv6Addr;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use http::HeaderName;

use super::Head;

/// What calls are counted by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum By {
    /// All together.
    All,
    /// The address that they come from, without the port; of version 6, the network of 64 bits that it is in.
    Peer,
    /// A metadata value; calls without it share one allowance.
    Metadata(HeaderName),
}

/// A limit.
#[derive(Clone, Debug)]
pub struct Rate {
    /// For people and metrics.
    pub name: String,
    /// What is counted separately.
    pub by: By,
    /// Calls a second in the long run.
    pub per_second: f64,
    /// Calls at once after a pause; at least one.
    pub burst: u32,
    /// Which methods count, as [`matches()`] reads patterns; all, if there is none.
    pub methods: Vec<String>,
}

/// Keys of one limit at a time; some 100 bytes each, and up to 350 where they are as long as they may be.
const KEYS: usize = 65_536;

/// Room is looked for no more seldom, however rarely a key falls due.
const SWEEP: Duration = Duration::from_secs(1);

/// So that callers with different keys seldom wait for each other.
const SHARDS: usize = 16;

/// The longest key that is told from others; nobody's name is longer, and memory is bounded.
const KEY: usize = 256;

/// Whether a pattern is about a method: `/package.Service/Method`, `/package.Service/*` or `*`.
#[must_use]
pub fn matches(pattern: &str, path: &str) -> bool {
    match pattern.strip_suffix('*') {
        Some("") => true,
        Some(prefix) => path.strip_prefix(prefix).is_some_and(|rest| !rest.contains('/')),
        None => pattern == path,
    }
}

/// A limit with what it has counted.
#[derive(Debug)]
pub struct Limiter {
    rate: Rate,
    /// Between two calls in the long run.
    interval: Duration,
    /// How far ahead of time a key may be.
    ahead: Duration,
    shards: [Mutex<Shard>; SHARDS],
    hasher: RandomState,
    keys: usize,
}

#[derive(Debug, Default)]
struct Shard {
    /// For each key the time at which its whole burst is there again.
    due: HashMap<Box<str>, Duration>,
    /// Of all the keys for which there was no room.
    others: Duration,
    /// Keys to forget are not looked for before then: that is a look at all.
    swept: Duration,
}

impl Limiter {
    /// Counts nothing yet.
    #[must_use]
    pub fn new(rate: Rate) -> Self {
        Self::with_keys(rate, KEYS)
    }

    fn with_keys(rate: Rate, keys: usize) -> Self {
        // A day between two calls is as good as never.
        let interval = Duration::from_secs_f64((1.0 / rate.per_second.max(1e-9)).min(86_400.0));
        let ahead = interval * (rate.burst.max(1) - 1);
        let shards = std::array::from_fn(|_| Mutex::default());
        Self { rate, interval, ahead, shards, hasher: RandomState::new(), keys: keys / SHARDS }
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.rate.name
    }

    /// Whether it counts this method.
    #[must_use]
    pub fn applies(&self, path: &str) -> bool {
        self.rate.methods.is_empty() || self.rate.methods.iter().any(|pattern| matches(pattern, path))
    }

    /// Counts a call.
    ///
    /// # Errors
    /// With the time until there is room for one.
    pub fn check(&self, now: Duration, head: &Head<'_>) -> Result<(), Duration> {
        self.take(now, &self.key(head))
    }

    /// Takes back the count of a call that was turned away for another reason.
    pub fn give_back(&self, head: &Head<'_>) {
        self.give_back_to(&self.key(head));
    }

    /// The same of one that was counted by this key.
    pub(crate) fn give_back_to(&self, key: &str) {
        let mut shard = self.shard(key);
        let shard = &mut *shard;
        let is_full = shard.due.len() >= self.keys;
        let due = match shard.due.get_mut(key) {
            Some(due) => due,
            None if is_full => &mut shard.others,
            // Forgotten meanwhile, since it has its whole burst.
            None => return,
        };
        *due = due.saturating_sub(self.interval);
    }

    /// What a call is counted by.
    pub(crate) fn key<'h>(&self, head: &Head<'h>) -> Cow<'h, str> {
        let key = match &self.rate.by {
            By::All => "",
            By::Peer => return head.peer.map_or(Cow::Borrowed(""), |peer| host(&peer.0)),
            By::Metadata(name) => {
                head.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
            }
        };
        let key = key.get(..KEY).unwrap_or(key);
        Cow::Borrowed(if key.len() > KEY { "" } else { key })
    }

    fn shard(&self, key: &str) -> MutexGuard<'_, Shard> {
        let index = usize::try_from(self.hasher.hash_one(key) % SHARDS as u64).unwrap_or(0);
        self.shards[index].lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn take(&self, now: Duration, key: &str) -> Result<(), Duration> {
        let mut shard = self.shard(key);
        let shard = &mut *shard;
        if let Some(due) = shard.due.get_mut(key) {
            return count(due, now, self.interval, self.ahead);
        }
        if shard.due.len() >= self.keys && now >= shard.swept {
            shard.due.retain(|_, due| *due > now);
            shard.swept = now + self.interval.clamp(SWEEP / 10, SWEEP);
        }
        if shard.due.len() >= self.keys {
            return count(&mut shard.others, now, self.interval, self.ahead);
        }
        let mut due = Duration::ZERO;
        let counted = count(&mut due, now, self.interval, self.ahead);
        shard.due.insert(key.into(), due);
        counted
    }
}

/// GCRA: `due` is when the whole burst is there again.
fn count(due: &mut Duration, now: Duration, interval: Duration, ahead: Duration) -> Result<(), Duration> {
    let start = (*due).max(now);
    let early = (start - now).saturating_sub(ahead);
    if early > Duration::ZERO {
        return Err(early);
    }
    *due = start + interval;
    Ok(())
}

/// An address without its port; a caller has as many ports as it likes. And whoever has one address of version 6 has a
/// network full of them.
fn host(peer: &str) -> Cow<'_, str> {
    let host = peer.rsplit_once(':').map_or(peer, |(host, _)| host);
    let six = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
    // A zone, as in `fe80::1%eth0`, is no part of the address.
    let six = six.and_then(|host| host.split('%').next()?.parse::<Ipv6Addr>().ok());
    match six.map(|six| (six, six.to_ipv4_mapped())) {
        None => Cow::Borrowed(host),
        Some((_, Some(four))) => Cow::Owned(four.to_string()),
        Some((six, None)) => Cow::Owned(Ipv6Addr::from_bits(six.to_bits() >> 64 << 64).to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    fn limiter(per_second: f64, burst: u32, keys: usize) -> Limiter {
        let rate = Rate { name: "r".into(), by: By::All, per_second, burst, methods: Vec::new() };
        Limiter::with_keys(rate, keys)
    }

    #[test]
    fn a_burst_and_then_the_rate() {
        let limiter = limiter(10.0, 3, KEYS);
        let now = 1000 * MS;
        for _ in 0..3 {
            assert_eq!(limiter.take(now, "a"), Ok(()));
        }
        assert_eq!(limiter.take(now, "a"), Err(100 * MS));
        assert_eq!(limiter.take(now + 40 * MS, "a"), Err(60 * MS), "a refusal costs nothing");
        assert_eq!(limiter.take(now + 100 * MS, "a"), Ok(()));
        assert_eq!(limiter.take(now, "b"), Ok(()), "each key has its own");
        let mut passed = 0;
        for tick in 0..10_000 {
            passed += u32::from(limiter.take(now + 200 * MS + tick * MS, "a").is_ok());
        }
        assert!((99..=104).contains(&passed), "{passed}");
    }

    #[test]
    fn keys_are_bounded_and_strangers_take_nothing_from_the_known() {
        let limiter = limiter(1.0, 2, 16 * SHARDS);
        assert_eq!(limiter.take(MS, "known"), Ok(()));
        let strangers = (0..100_000).filter(|n| limiter.take(MS, &format!("stranger-{n}")).is_ok()).count();
        let held: usize = limiter.shards.iter().map(|shard| shard.lock().expect("whole").due.len()).sum();
        assert!(held <= 16 * SHARDS, "{held}");
        // One each for those who found room, then what the shared allowances hold.
        assert!(strangers <= 16 * SHARDS + 2 * SHARDS, "{strangers}");
        assert_eq!(limiter.take(MS, "known"), Ok(()), "its second is still there");
        // After a pause all are forgotten, for they have their bursts again.
        let later = Duration::from_secs(10);
        assert_eq!(limiter.take(later, "new"), Ok(()));
        assert_eq!(limiter.take(later, "new"), Ok(()));
    }

    #[test]
    fn odd_rates_do_not_overflow() {
        for (per_second, burst) in
            [(0.0, 0), (f64::MAX, u32::MAX), (f64::NAN, 1), (-1.0, 7), (1e-30, u32::MAX)]
        {
            let limiter = limiter(per_second, burst, KEYS);
            let _ = (limiter.take(MS, "a"), limiter.take(MS, "a"));
        }
        let limiter = limiter(1.0, 1, KEYS);
        let long = "ä".repeat(10_000);
        assert!(limiter.take(MS, &long).is_ok());
    }

    #[test]
    fn patterns() {
        assert!(matches("*", "/a.B/C") && matches("/a.B/*", "/a.B/C") && matches("/a.B/C", "/a.B/C"));
        assert!(
            !matches("/a.B/*", "/a.Bad/C") && !matches("/a.B/C", "/a.B/Cd") && !matches("/a.*", "/a.B/C")
        );
    }

    #[test]
    fn an_address_counts_without_its_port_and_one_of_version_six_by_its_network() {
        let hosts = [
            "127.0.0.1:80",
            "unix",
            "[2001:db8:1:2:3::4]:80",
            "[2001:db8:1:2::9]:1",
            "[::ffff:10.0.0.1]:80",
            "[fe80::1%3]:80",
        ];
        assert_eq!(
            hosts.map(host),
            ["127.0.0.1", "unix", "2001:db8:1:2::", "2001:db8:1:2::", "10.0.0.1", "fe80::"]
        );
        assert_ne!(host("[2001:db8:1:3::4]:80"), host("[2001:db8:1:2::4]:80"));
    }
}
