//! The policies: each picks one endpoint out of those that a set leaves to it.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::time::Duration;

use crate::table::Table;
use crate::traffic::{Algorithm, Traffic};
use crate::{Backend, mix};

mod hash;
mod least;
mod p2c;
mod robin;
mod weighted;

pub(crate) use hash::{Circle, Places, Ring};
pub use least::LeastRequest;
pub use p2c::P2c;
pub use robin::RoundRobin;
#[cfg(test)]
pub(crate) use weighted::ClassView;
pub(crate) use weighted::Schedule;
pub use weighted::WeightedRoundRobin;

/// What a pick may look at besides the endpoints themselves.
#[derive(Clone, Copy)]
pub struct Choice<'a> {
    /// The time, as [`Backend`] takes it.
    pub now: Duration,
    /// Randomness, fresh for each pick.
    pub random: u64,
    /// The metadata of the call, for rules and hashes.
    pub metadata: &'a dyn Fn(&str) -> Option<&'a str>,
    /// Whether the endpoint at an index may be picked; not, say, if this very call failed there.
    pub usable: &'a dyn Fn(usize) -> bool,
    /// Whether the call may be lost without harm, because it would be repeated: such calls are the first to
    /// find out whether an endpoint that was ejected is well again.
    pub expendable: bool,
}

impl fmt::Debug for Choice<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Choice").field("now", &self.now).field("random", &self.random).finish_non_exhaustive()
    }
}

/// Picks an endpoint. One policy serves one group of endpoints, from any number of threads.
pub trait Policy: fmt::Debug + Send + Sync + 'static {
    /// The position of the endpoint that gets the next call; `None` if none is usable.
    ///
    /// Takes no lock and allocates nothing.
    fn pick(&self, among: &Among<'_>, choice: &Choice<'_>) -> Option<usize>;

    /// Whether it goes by [`Backend::cost`], so that the cost of its pick can be compared with another's.
    fn weighs(&self) -> bool {
        false
    }
}

/// Makes policies of an author's own: for the endpoints of one group, whenever they change.
pub type Factory = Arc<dyn Fn(&[Arc<Backend>]) -> Box<dyn Policy> + Send + Sync>;

/// How much is asked of an endpoint that is picked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Care {
    /// It can be reached and is not ejected.
    In,
    /// It can be reached.
    Up,
    /// Nothing.
    Any,
}

/// The endpoints of a group, by their position in it, and which of them may be picked.
#[derive(Clone, Copy, Debug)]
pub struct Among<'a> {
    /// From position to index in the set.
    pub(crate) seats: &'a [u32],
    pub(crate) table: &'a Table<Arc<Backend>>,
    pub(crate) care: Care,
    /// Even those that the choice leaves out.
    pub(crate) tried: bool,
    /// Where it is too much to sum up.
    pub(crate) burden: Option<Burden>,
}

/// The work of some endpoints, and who bears it.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Burden {
    /// All their work in flight.
    pub(crate) work: u64,
    /// The weights of those of whom so much may be asked.
    pub(crate) weight: f64,
}

/// Any.
#[derive(Clone, Copy, Debug, Default)]
pub struct Random;

/// What the policies keep from one arrangement to the next.
pub(crate) type Cursor = Arc<AtomicUsize>;

/// What a policy is made of, beside who is there.
pub(crate) struct Made {
    pub(crate) cursor: Cursor,
    /// Where the policy goes by weight.
    pub(crate) weighted: Option<WeightedRoundRobin>,
    /// Where the policy is a ring.
    pub(crate) places: Option<Places>,
}

/// A policy among the endpoints of a part.
#[derive(Debug)]
pub(crate) enum Picker {
    /// By indices. By positions, each version would copy where everybody is.
    Ring(Ring),
    /// By positions.
    Policy(Box<dyn Policy>),
}

impl Algorithm {
    pub(crate) fn build(self, traffic: &Traffic, made: Made) -> Picker {
        Picker::Policy(match self {
            Self::P2c => Box::new(P2c),
            Self::RoundRobin => Box::new(RoundRobin::new(made.cursor)),
            Self::WeightedRoundRobin => match made.weighted {
                Some(weighted) => Box::new(weighted),
                // Made for another policy: all weigh the same.
                None => Box::new(RoundRobin::new(made.cursor)),
            },
            Self::LeastRequest => Box::new(LeastRequest),
            Self::Random => Box::new(Random),
            Self::Hash => match (&traffic.hash, made.places) {
                (Some(hash), Some(places)) => {
                    return Picker::Ring(Ring::new(&hash.key, hash.bound, places));
                }
                // A policy that was not validated; the best there is without a key.
                _ => Box::new(P2c),
            },
        })
    }
}

/// Further draws from the randomness of one pick (SplitMix64).
#[derive(Clone, Copy, Debug)]
pub(crate) struct Draws(pub(crate) u64);

// === impl Picker ===

impl Picker {
    /// The index of the endpoint that gets the next call; `None` if none is usable.
    pub(crate) fn pick(&self, among: &Among<'_>, choice: &Choice<'_>) -> Option<usize> {
        match self {
            Self::Ring(ring) => ring.pick(among, choice),
            Self::Policy(policy) => policy.pick(among, choice).map(|position| among.index(position)),
        }
    }

    /// As [`Policy::weighs`].
    pub(crate) fn weighs(&self) -> bool {
        match self {
            Self::Ring(_) => false,
            Self::Policy(policy) => policy.weighs(),
        }
    }
}

// === impl Draws ===

impl Draws {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        mix(self.0)
    }

    pub(crate) fn below(&mut self, bound: usize) -> usize {
        // Fewer than 2⁶⁴, so the high half of the product is below the bound.
        ((u128::from(self.next()) * bound as u128) >> 64) as usize
    }

    /// From 0 to 1, without 1.
    pub(crate) fn unit(&mut self) -> f32 {
        (self.next() >> 40) as f32 / (1u64 << 24) as f32
    }

    /// A usable position, each alike but for the last resort.
    pub(crate) fn usable(&mut self, len: usize, usable: impl Fn(usize) -> bool) -> Option<usize> {
        if len <= 1 {
            return (len == 1 && usable(0)).then_some(0);
        }
        for _ in 0..4 {
            let position = self.below(len);
            if usable(position) {
                return Some(position);
            }
        }
        // Few are usable: the next one after a random place.
        scan(self.below(len), len, usable)
    }
}

/// The first usable position from a place on, around.
pub(crate) fn scan(from: usize, len: usize, usable: impl Fn(usize) -> bool) -> Option<usize> {
    (from..len).chain(0..from).find(|&position| usable(position))
}

// === impl Care ===

impl Care {
    fn fits(self, backend: &Backend) -> bool {
        match self {
            Self::In => !backend.is_ejected() && !backend.is_down(),
            Self::Up => !backend.is_down(),
            Self::Any => true,
        }
    }
}

// === impl Among ===

impl Among<'_> {
    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.seats.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.seats.is_empty()
    }

    /// What is known of the endpoint at a position.
    #[must_use]
    pub fn backend(&self, position: usize) -> &Backend {
        let seat = self.seats[position] as usize;
        self.table.get(seat).expect("whoever has a position has a seat")
    }

    /// Whether the endpoint at a position may be picked.
    #[must_use]
    pub fn usable(&self, position: usize, choice: &Choice<'_>) -> bool {
        self.open(position, choice).is_some()
    }

    /// What is known of the endpoint at a position, if it may be picked: looked up once.
    pub(crate) fn open(&self, position: usize, choice: &Choice<'_>) -> Option<&Backend> {
        self.admit(self.index(position), choice)
    }

    /// The same of the endpoint at an index in the set.
    pub(crate) fn admit(&self, index: usize, choice: &Choice<'_>) -> Option<&Backend> {
        let backend = self.table.get(index).expect("whoever is picked from has a seat");
        (self.care.fits(backend) && (self.tried || (choice.usable)(index))).then_some(backend)
    }

    /// Their work, and who bears it.
    pub(crate) fn burden(&self) -> Burden {
        self.burden.unwrap_or_else(|| {
            let all = (0..self.len()).map(|position| self.backend(position));
            all.filter(|backend| self.care.fits(backend)).fold(Burden::default(), |sum, backend| Burden {
                work: sum.work + u64::from(backend.in_flight()),
                weight: sum.weight + f64::from(backend.weight()),
            })
        })
    }

    pub(crate) fn index(&self, position: usize) -> usize {
        self.seats[position] as usize
    }

    /// Whether an endpoint that only starts takes this call; one that has started takes every.
    pub(crate) fn is_warm(&self, position: usize, choice: &Choice<'_>, draws: &mut Draws) -> bool {
        is_warm(self.backend(position), choice, draws)
    }
}

fn is_warm(backend: &Backend, choice: &Choice<'_>, draws: &mut Draws) -> bool {
    let warmth = backend.warmth(choice.now);
    warmth >= 1.0 || draws.unit() < warmth
}

// === impl Random ===

impl Policy for Random {
    fn pick(&self, among: &Among<'_>, choice: &Choice<'_>) -> Option<usize> {
        let mut draws = Draws(choice.random);
        let mut last = None;
        for _ in 0..4 {
            let position = draws.usable(among.len(), |position| among.usable(position, choice))?;
            if among.is_warm(position, choice, &mut draws) {
                return Some(position);
            }
            last = Some(position);
        }
        last
    }
}

#[cfg(test)]
pub(crate) mod tests;
