//! Who is out and who is down, as bits by seat: what ten thousand endpoints do is counted in a hundred words, and
//! not by asking each.
//!
//! A seat is an endpoint's number in its roster, and its index in every set, for as long as it is remembered.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// The words of a block.
const WORDS: usize = 8;

/// The seats of a block.
const SEATS: usize = WORDS * 64;

/// The bits of some seats.
#[derive(Debug, Default)]
struct Block {
    out: [AtomicU64; WORDS],
    down: [AtomicU64; WORDS],
}

/// The bits of all seats of a roster; a clone has the same bits, and none of seats that were added since.
#[derive(Clone, Debug, Default)]
pub(crate) struct Board(Arc<[Arc<Block>]>);

/// Where an endpoint's own bits are.
#[derive(Debug)]
pub(crate) struct Place {
    block: Arc<Block>,
    seat: u32,
}

/// Some seats.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Seats(Vec<u64>);

/// How some endpoints fare.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Tally {
    /// In, and can be reached.
    pub(crate) fit: u32,
    /// Can be reached.
    pub(crate) up: u32,
    /// Left out for their failures.
    pub(crate) out: u32,
}

// === impl Board ===

impl Board {
    /// The place of a seat.
    pub(crate) fn place(&mut self, seat: u32) -> Place {
        let at = seat as usize / SEATS;
        if self.0.len() <= at {
            let mut more = self.0.to_vec();
            more.resize_with(at + 1, Arc::default);
            self.0 = more.into();
        }
        let place = Place { block: Arc::clone(&self.0[at]), seat };
        // Somebody else's once.
        place.set_out(false);
        place.set_down(false);
        place
    }

    pub(crate) fn tally(&self, seats: &Seats) -> Tally {
        let mut tally = Tally::default();
        for (block, words) in self.0.iter().zip(seats.0.chunks(WORDS)) {
            for (at, &members) in words.iter().enumerate() {
                let out = block.out[at].load(Ordering::Acquire) & members;
                let up = members & !block.down[at].load(Ordering::Acquire);
                tally.out += out.count_ones();
                tally.up += up.count_ones();
                tally.fit += (up & !out).count_ones();
            }
        }
        tally
    }

    /// Tells of those that are out or cannot be reached, and of the latter that they cannot.
    pub(crate) fn absent(&self, seats: &Seats, mut tell: impl FnMut(usize, bool)) {
        for (number, (block, words)) in self.0.iter().zip(seats.0.chunks(WORDS)).enumerate() {
            for (at, &members) in words.iter().enumerate() {
                let down = block.down[at].load(Ordering::Acquire);
                let mut left = (block.out[at].load(Ordering::Acquire) | down) & members;
                while left != 0 {
                    let bit = left.trailing_zeros();
                    tell(number * SEATS + at * 64 + bit as usize, down >> bit & 1 == 1);
                    left &= left - 1;
                }
            }
        }
    }

    /// Finds a seat among those that are out and can be reached.
    pub(crate) fn find_out(&self, seats: &Seats, mut is_it: impl FnMut(usize) -> bool) -> Option<usize> {
        for (number, (block, words)) in self.0.iter().zip(seats.0.chunks(WORDS)).enumerate() {
            for (at, &members) in words.iter().enumerate() {
                let down = block.down[at].load(Ordering::Acquire);
                let mut left = block.out[at].load(Ordering::Acquire) & members & !down;
                while left != 0 {
                    let seat = number * SEATS + at * 64 + left.trailing_zeros() as usize;
                    if is_it(seat) {
                        return Some(seat);
                    }
                    left &= left - 1;
                }
            }
        }
        None
    }
}

// === impl Place ===

impl Place {
    pub(crate) fn seat(&self) -> u32 {
        self.seat
    }

    fn set(&self, words: &[AtomicU64; WORDS], on: bool) {
        let (word, bit) = (&words[self.seat as usize % SEATS / 64], 1u64 << (self.seat % 64));
        if on {
            word.fetch_or(bit, Ordering::AcqRel);
        } else {
            word.fetch_and(!bit, Ordering::AcqRel);
        }
    }

    pub(crate) fn set_out(&self, out: bool) {
        self.set(&self.block.out, out);
    }

    pub(crate) fn set_down(&self, down: bool) {
        self.set(&self.block.down, down);
    }
}

// === impl Seats ===

impl Seats {
    pub(crate) fn add(&mut self, seat: u32) {
        let word = seat as usize / 64;
        if self.0.len() <= word {
            self.0.resize(word + 1, 0);
        }
        self.0[word] |= 1 << (seat % 64);
    }

    /// Each of them, or one in so many, without a look at those between.
    pub(crate) fn every(&self, step: usize) -> impl Iterator<Item = usize> + '_ {
        let (mut at, mut left, mut skip) = (0, self.0.first().copied().unwrap_or(0), 0);
        std::iter::from_fn(move || {
            loop {
                let ones = left.count_ones() as usize;
                if ones > skip {
                    break;
                }
                (at, skip) = (at + 1, skip - ones);
                left = *self.0.get(at)?;
            }
            (0..skip).for_each(|_| left &= left - 1);
            let seat = at * 64 + left.trailing_zeros() as usize;
            left &= left - 1;
            skip = step - 1;
            Some(seat)
        })
    }

    /// How many they are.
    pub(crate) fn count(&self) -> usize {
        self.0.iter().map(|word| word.count_ones() as usize).sum()
    }

    /// As long as another, so that they compare.
    #[cfg(test)]
    pub(crate) fn pad(&mut self, other: &Self) {
        self.0.resize(self.0.len().max(other.0.len()), 0);
    }

    pub(crate) fn remove(&mut self, seat: u32) {
        if let Some(word) = self.0.get_mut(seat as usize / 64) {
            *word &= !(1 << (seat % 64));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bits_are_counted_among_members_only() {
        let (mut board, mut members) = (Board::default(), Seats::default());
        let places: Vec<_> = (0..1_500).map(|seat| board.place(seat)).collect();
        (0..1_500).step_by(3).for_each(|seat| members.add(seat));
        places[3].set_out(true);
        places[4].set_out(true);
        places[600].set_out(true);
        places[600].set_down(true);
        places[1_497].set_down(true);
        assert_eq!(board.tally(&members), Tally { fit: 497, up: 498, out: 2 });
        let mut seen = Vec::new();
        assert_eq!(
            board.find_out(&members, |seat| {
                seen.push(seat);
                false
            }),
            None
        );
        assert_eq!(seen, [3]);
        for step in [1, 7, 64, 100, 499, 500, 9_999] {
            let every: Vec<_> = members.every(step).collect();
            assert_eq!(every, (0..1_500).step_by(3).step_by(step).collect::<Vec<_>>(), "{step}");
        }
        assert_eq!(Seats::default().every(1).next(), None);
        members.remove(3);
        assert_eq!(board.tally(&members), Tally { fit: 497, up: 497, out: 1 });
        // Whoever gets a seat anew is well.
        board.place(600);
        assert_eq!(board.tally(&members).fit, 498);
    }
}
