//! The work in flight of parts of the endpoints, for bounded loads: kept by the calls themselves, so that a pick
//! among ten thousand knows it without a look at each.
//!
//! An endpoint is in several parts (a rule's, the own zone, everybody's), so each has a number, and an endpoint's
//! parts are bits of one word: a call that begins or ends reads that word and allocates nothing. Endpoints that come
//! or go while calls begin or end can leave a count wrong by as many; every sweep counts anew.

use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};

/// So many parts are counted. In those beyond, which take two dozen rules, a pick sums up its endpoints' work itself.
pub(crate) const COUNTED: usize = u64::BITS as usize;

/// The work in flight of each part, by its number.
#[derive(Debug)]
pub(crate) struct Loads([AtomicI64; COUNTED]);

/// The number of a part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Slot(u8);

/// The parts that an endpoint's work counts in.
#[derive(Debug, Default)]
pub(crate) struct Slots(AtomicU64);

// === impl Loads ===

impl Default for Loads {
    fn default() -> Self {
        Self([const { AtomicI64::new(0) }; COUNTED])
    }
}

impl Loads {
    /// Of a part, as of now.
    pub(crate) fn get(&self, slot: Slot) -> u64 {
        self.0[usize::from(slot.0)].load(Ordering::Relaxed).max(0) as u64
    }

    /// What it was found to be.
    pub(crate) fn set(&self, slot: Slot, work: u64) {
        self.0[usize::from(slot.0)].store(work as i64, Ordering::Relaxed);
    }

    /// Work that begins in some parts, or that is over.
    pub(crate) fn add(&self, slots: &Slots, work: i64) {
        let mut left = slots.0.load(Ordering::Relaxed);
        while left != 0 {
            self.0[left.trailing_zeros() as usize].fetch_add(work, Ordering::Relaxed);
            left &= left - 1;
        }
    }

    /// Nobody is in any part yet.
    pub(crate) fn clear(&self) {
        self.0.iter().for_each(|load| load.store(0, Ordering::Relaxed));
    }

    /// An endpoint comes to a part, or leaves it, with its work.
    pub(crate) fn shift(&self, slot: Slot, work: i64) {
        self.0[usize::from(slot.0)].fetch_add(work, Ordering::Relaxed);
    }
}

// === impl Slot ===

impl Slot {
    /// Of a part by its number, if so many are counted.
    pub(crate) fn new(number: usize) -> Option<Self> {
        (number < COUNTED).then_some(Self(number as u8))
    }

    fn bit(self) -> u64 {
        1 << self.0
    }
}

// === impl Slots ===

impl Slots {
    pub(crate) fn join(&self, slot: Slot) {
        self.0.fetch_or(slot.bit(), Ordering::Relaxed);
    }

    pub(crate) fn leave(&self, slot: Slot) {
        self.0.fetch_and(!slot.bit(), Ordering::Relaxed);
    }

    pub(crate) fn clear(&self) {
        self.0.store(0, Ordering::Relaxed);
    }
}
