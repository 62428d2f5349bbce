//! Which methods are quick enough to be run where their request was read.
//!
//! A handler that computes for long would keep all other calls of its connection waiting. Whether one does is not
//! declared but learnt: a counter goes up with each poll that took longer than the limit and down with each that did not,
//! so it climbs if and only if the median is above the limit.

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
        let step = if took > LONG { 1 } else { -1 };
        // Two at a time may lose a step, which a median survives.
        let counter = (self.counter.load(Ordering::Relaxed) + step).clamp(-END, END);
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
    fn first_all_are_measured_and_then_some() {
        let learnt = Learnt::default();
        let measured = (0..ALL + 1600).filter(|_| learnt.measures()).count();
        assert_eq!(measured, 64 + 100);
    }
}
