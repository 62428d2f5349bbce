//! A consistent hash with bounded load: the same endpoint for the same key, as long as it is not
//! overloaded.

use std::sync::Arc;

use super::{Among, Choice, P2c, Policy};
use crate::{Backend, hash, mix};

/// Places of an endpoint of weight 1 on the ring. More spread the keys more evenly and take more memory.
const PLACES: usize = 160;

/// All places together, about, however many endpoints there are.
const ALL: usize = 1 << 18;

/// The places of a stretch, about: what is copied for each place that comes or goes.
const STRETCH: usize = 128;

/// So many places are looked at for an endpoint with room, before the first usable one gets the call.
const WALK: usize = 256;

/// A weight's fractions, for a sum that is exact in any order.
const UNIT: f32 = 65_536.0;

/// A ring of places, several for each endpoint; a key belongs to the next place on the ring.
///
/// When an endpoint comes or goes only its own keys move. An endpoint that has more than its bound of the
/// work in flight passes keys on to their next place, so a hot key cannot run over one endpoint
/// (consistent hashing with bounded loads, Mirrokni and others).
#[derive(Debug)]
pub struct Ring {
    key: Box<str>,
    bound: f64,
    circle: Circle,
    /// By seat.
    positions: Box<[u32]>,
}

/// Hash and seat, by hash.
type Place = (u64, u32);

/// The places of some endpoints, in stretches that versions share. Which places there are follows from who is
/// there, in whatever order they came.
#[derive(Clone, Debug, Default)]
pub(crate) struct Circle {
    stretches: Vec<Arc<Vec<Place>>>,
    shift: u32,
    grain: Grain,
    places: usize,
    endpoints: usize,
    /// Of their weights, in [`UNIT`]s.
    sum: u128,
}

/// How many places a weight has. It follows from the powers of two next to the number of endpoints and their mean
/// weight, so that one who comes or goes changes nobody else's places, but when such a power is crossed.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Grain {
    /// Of an endpoint of the mean weight.
    usual: usize,
    /// The power of the mean.
    mean: i32,
}

// === impl Circle ===

impl Circle {
    /// Of these, from nothing.
    pub(crate) fn of<'a>(all: impl Iterator<Item = &'a Backend> + Clone) -> Self {
        let mut circle = Self::default();
        for backend in all.clone() {
            circle.endpoints += 1;
            circle.sum += units(backend.weight());
        }
        circle.grain = circle.due();
        let about = (circle.grain.usual * circle.endpoints / STRETCH).max(1).next_power_of_two();
        circle.shift = u64::BITS - about.trailing_zeros();
        let mut stretches = vec![Vec::new(); about];
        for backend in all {
            for place in circle.grain.places(backend, backend.weight()) {
                stretches[circle.stretch(place.0)].push(place);
                circle.places += 1;
            }
        }
        stretches.iter_mut().for_each(|stretch| stretch.sort_unstable());
        circle.stretches = stretches.into_iter().map(Arc::new).collect();
        circle
    }

    /// Somebody comes. Says whether that was all: if not, it is to be made anew.
    #[must_use]
    pub(crate) fn add(&mut self, backend: &Backend) -> bool {
        let weight = backend.weight();
        self.endpoints += 1;
        self.sum += units(weight);
        if self.due() != self.grain || self.stretches.is_empty() {
            return false;
        }
        for place in self.grain.places(backend, weight) {
            let at = self.stretch(place.0);
            let stretch = Arc::make_mut(&mut self.stretches[at]);
            stretch.insert(stretch.partition_point(|other| *other < place), place);
            self.places += 1;
        }
        true
    }

    /// Somebody leaves, of the weight that it came with. Says whether that was all.
    #[must_use]
    pub(crate) fn remove(&mut self, backend: &Backend) -> bool {
        let weight = backend.weight();
        self.endpoints -= 1;
        self.sum -= units(weight);
        if self.due() != self.grain {
            return false;
        }
        for place in self.grain.places(backend, weight) {
            let at = self.stretch(place.0);
            if let Ok(found) = self.stretches[at].binary_search(&place) {
                Arc::make_mut(&mut self.stretches[at]).remove(found);
                self.places -= 1;
            }
        }
        true
    }

    fn due(&self) -> Grain {
        let count = self.endpoints.max(1);
        let usual = PLACES.min(ALL / count.next_power_of_two()).max(1);
        let mean = self.sum as f64 / f64::from(UNIT) / count as f64;
        Grain { usual, mean: if self.sum == 0 { 0 } else { mean.log2().round() as i32 } }
    }

    fn stretch(&self, hash: u64) -> usize {
        // A shift by all bits is none; then there is one stretch.
        hash.checked_shr(self.shift).unwrap_or(0) as usize
    }

    /// The places from the first at or after a hash on, around.
    fn from(&self, hash: u64) -> impl Iterator<Item = u32> {
        let first = self.stretch(hash);
        let begin = self.stretches.get(first).map_or(0, |all| all.partition_point(|place| place.0 < hash));
        let count = self.stretches.len();
        let rest = (1..=count).flat_map(move |step| self.stretches[(first + step) % count].iter());
        let start = self.stretches.get(first).into_iter().flat_map(move |all| &all[begin..]);
        start.chain(rest).take(self.places).map(|place| place.1)
    }
}

#[cfg(test)]
impl Circle {
    /// Every place, in order.
    pub(crate) fn all(&self) -> Vec<(u64, u32)> {
        self.stretches.iter().flat_map(|stretch| stretch.iter().copied()).collect()
    }
}

fn units(weight: f32) -> u128 {
    (weight * UNIT).ceil() as u128
}

// === impl Grain ===

impl Grain {
    fn places(self, backend: &Backend, weight: f32) -> impl Iterator<Item = Place> + use<> {
        let share = f64::from(weight) / 2f64.powi(self.mean);
        let count = (self.usual as f64 * share).round().clamp(1.0, ALL as f64) as u64;
        let (key, seat) = (backend.key(), backend.seat());
        (0..count).map(move |n| (mix(key.wrapping_add(mix(n + 1))), seat))
    }
}

// === impl Ring ===

impl Ring {
    pub(crate) fn new(key: &str, bound: f64, circle: Circle, positions: Box<[u32]>) -> Self {
        Self { key: key.into(), bound, circle, positions }
    }

    /// How much work in flight an endpoint may have with one more call.
    fn room(&self, among: &Among<'_>) -> f64 {
        let mean = (among.in_flight() + 1) as f64 / among.len().max(1) as f64;
        (self.bound * mean).ceil()
    }
}

impl Policy for Ring {
    fn pick(&self, among: &Among<'_>, choice: &Choice<'_>) -> Option<usize> {
        let Some(value) = (choice.metadata)(&self.key) else { return P2c.pick(among, choice) };
        let room = self.room(among);
        let mut usable = None;
        for seat in self.circle.from(hash(value)).take(WALK) {
            let position = self.positions[seat as usize] as usize;
            if !among.usable(position, choice) {
                continue;
            }
            if f64::from(among.backend(position).in_flight()) < room {
                return Some(position);
            }
            usable = usable.or(Some(position));
        }
        usable.or_else(|| P2c.pick(among, choice))
    }
}
