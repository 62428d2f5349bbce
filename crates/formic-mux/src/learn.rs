//! Which methods are quick enough to be run where their request was read.
//!
//! A handler that computes for long would keep all other calls of its connection waiting. Whether one does is not
//! declared but learnt: a counter goes up with each poll that took longer than the limit and down with each that did not,
//! so it climbs if and only if the median is above the limit.
//!
//! A poll of many milliseconds is another matter: a few in a thousand stop a connection for so long that its caller gives it up,
//! with all calls on it. One is enough, and it takes many quick ones until it is forgotten. Since most polls are not measured,
//! the connection's task also tells when all that it had read took very long.

use std::collections::HashMap;
use std::sync::atomic::{AtomicI32, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// A poll that takes longer is long.
const LONG: Duration = Duration::from_micros(50);

/// From here on a method gets a task of its own at once; below, it is polled first.
const SLOW: i32 = 8;

/// How far the counter goes, so that it can come back.
const END: i32 = 16;

/// A poll that takes so long is not to happen again where requests are read.
const ENDLESS: Duration = Duration::from_millis(10);

/// Where the counter is then.
const NEVER_AGAIN: i32 = 256;

/// The requests of one read that take longer had such a poll among them, or the machine is so busy that a task more is nothing.
pub const BATCH: Duration = Duration::from_millis(100);

/// Every call is measured at first, then one in so many: reading the clock twice costs as much as many handlers do.
const ALL: u32 = 64;
const ONE_IN: u32 = 16;

/// Methods that are learnt about apart; a proxy may see any number.
const METHODS: usize = 4096;

/// What was learnt of a method.
#[derive(Debug, Default)]
pub struct Learnt {
    counter: AtomicI32,
    calls: AtomicU32,
}

/// What was learnt of all methods of a server.
#[derive(Debug, Default)]
pub struct Book(Mutex<HashMap<Arc<str>, Arc<Learnt>>>);

impl Book {
    /// What was learnt of a method.
    #[must_use]
    pub fn of(&self, path: &Arc<str>) -> Arc<Learnt> {
        let mut book = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(learnt) = book.get(path) {
            return Arc::clone(learnt);
        }
        let learnt = Arc::new(Learnt::default());
        if book.len() < METHODS {
            book.insert(Arc::clone(path), Arc::clone(&learnt));
        }
        learnt
    }
}

impl Learnt {
    /// Whether this call is to be measured.
    #[must_use]
    pub fn measures(&self) -> bool {
        let calls = self.calls.fetch_add(1, Ordering::Relaxed);
        calls < ALL || calls.is_multiple_of(ONE_IN)
    }

    /// Takes a measurement.
    pub fn note(&self, took: Duration) {
        // Two at a time may lose a step, which a median survives.
        let counter = match self.counter.load(Ordering::Relaxed) {
            _ if took >= ENDLESS => NEVER_AGAIN,
            counter if took > LONG => (counter + 1).min(counter.max(END)),
            counter => (counter - 1).max(-END),
        };
        self.counter.store(counter, Ordering::Relaxed);
    }

    /// Whether the method's polls are long.
    #[must_use]
    pub fn is_slow(&self) -> bool {
        self.counter.load(Ordering::Relaxed) >= SLOW
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_decides_and_may_change() {
        let learnt = Book::default().of(&"/a".into());
        let (quick, long) = (Duration::from_micros(5), Duration::from_millis(1));
        for n in 0..100 {
            learnt.note(if n % 5 < 2 { long } else { quick });
        }
        assert!(!learnt.is_slow(), "two of five are long");
        for n in 0..200 {
            learnt.note(if n % 5 < 3 { long } else { quick });
        }
        assert!(learnt.is_slow(), "three of five are long");
        for _ in 0..40 {
            learnt.note(quick);
        }
        assert!(!learnt.is_slow(), "it became quick");
    }

    #[test]
    fn one_endless_poll_is_enough_and_long_remembered() {
        let learnt = Learnt::default();
        let (quick, long) = (Duration::from_micros(5), Duration::from_millis(1));
        for _ in 0..1000 {
            learnt.note(quick);
        }
        learnt.note(Duration::from_secs(3));
        for n in 0..100 {
            assert!(learnt.is_slow(), "forgotten after {n}");
            learnt.note(if n % 2 == 0 { quick } else { long });
            learnt.note(quick);
        }
        for _ in 0..300 {
            learnt.note(quick);
        }
        assert!(!learnt.is_slow(), "it became quick");
    }

    #[test]
    fn first_all_are_measured_and_then_some() {
        let learnt = Learnt::default();
        let measured = (0..ALL + 1600).filter(|_| learnt.measures()).count();
        assert_eq!(measured, 64 + 100);
    }
}
