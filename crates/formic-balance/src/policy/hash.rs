//! A consistent hash with bounded load: the same endpoint for the same key, as long as it is not
//! overloaded.

use std::sync::Arc;

use super::{Among, Burden, Choice, Draws, P2c, Policy};
use crate::table::Table;
use crate::{Backend, hash, mix};

/// Places of an endpoint of weight 1 on the ring. More spread the keys more evenly and take more memory.
const PLACES: usize = 160;

/// All places together, about, however many endpoints there are.
const ALL: usize = 1 << 18;

/// The places of a stretch, about: what is copied for each place that comes or goes.
const STRETCH: usize = 128;

/// So many places in a row are looked at for an endpoint with room.
const ROW: usize = 16;

/// And so many elsewhere, where the key leads after that: in a row for ever, a hot key would fill the places behind it,
/// which are those of other keys too. With a bound of 1.25 a fifth of the endpoints by weight have room, whatever the
/// keys, so one look in five finds one.
const JUMPS: u64 = 48;

/// And so many anywhere, for a key that has filled all of these, before the least loaded of them gets the call.
const DRAWN: u64 = 32;

/// A weight's fractions, for a sum that is exact in any order.
const UNIT: f32 = 65_536.0;

/// A ring of places, several for each endpoint; a key belongs to the next place on the ring.
///
/// When an endpoint comes or goes only its own keys move, unless their number or their mean weight passes a power of two
/// (`Grain`): which places there are follows from who is there alone, so that all callers agree. An endpoint that has more than its bound of the
/// work in flight passes keys on to their next place, so a hot key cannot run over one endpoint
/// (consistent hashing with bounded loads, Mirrokni and others). The bound is a multiple of an endpoint's
/// share by weight of the work of those among whom the ring chooses: a canary's of the canary's.
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
    stretches: Table<Arc<Vec<Place>>>,
    /// How many these are.
    count: usize,
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
        circle.count = about;
        for (at, stretch) in stretches.into_iter().enumerate() {
            circle.stretches.set(at, Some(Arc::new(stretch)));
        }
        circle
    }

    /// Somebody comes. Says whether that was all: if not, it is to be made anew.
    #[must_use]
    pub(crate) fn add(&mut self, backend: &Backend) -> bool {
        let weight = backend.weight();
        self.endpoints += 1;
        self.sum += units(weight);
        if self.due() != self.grain || self.count == 0 {
            return false;
        }
        for place in self.grain.places(backend, weight) {
            let at = self.stretch(place.0);
            let stretch = Arc::make_mut(self.stretches.get_mut(at).expect("a hash has a stretch"));
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
            let stretch = Arc::make_mut(self.stretches.get_mut(at).expect("a hash has a stretch"));
            if let Ok(found) = stretch.binary_search(&place) {
                stretch.remove(found);
                self.places -= 1;
            }
        }
        true
    }

    /// What its endpoints weigh together.
    pub(crate) fn weight(&self) -> f64 {
        self.sum as f64 / f64::from(UNIT)
    }

    fn due(&self) -> Grain {
        let count = self.endpoints.max(1);
        let usual = PLACES.min(ALL / count.next_power_of_two()).max(1);
        let mean = self.weight() / count as f64;
        Grain { usual, mean: if self.sum == 0 { 0 } else { mean.log2().round() as i32 } }
    }

    fn stretch(&self, hash: u64) -> usize {
        // A shift by all bits is none; then there is one stretch.
        hash.checked_shr(self.shift).unwrap_or(0) as usize
    }

    /// The places from the first at or after a hash on, around.
    fn from(&self, hash: u64) -> impl Iterator<Item = u32> {
        let first = self.stretch(hash);
        let stretch = move |at| self.stretches.get(at).map_or(&[][..], |all| all.as_slice());
        let begin = stretch(first).partition_point(|place| place.0 < hash);
        let count = self.count;
        let rest = (1..=count).flat_map(move |step| stretch((first + step) % count));
        let start = &stretch(first)[begin..];
        start.iter().chain(rest).take(self.places).map(|place| place.1)
    }
}

#[cfg(test)]
impl Circle {
    /// Every place, in order.
    pub(crate) fn all(&self) -> Vec<(u64, u32)> {
        self.stretches.iter().flat_map(|(_, stretch)| stretch.iter().copied()).collect()
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

    /// How much work in flight an endpoint may have for each unit of its weight, with one more call.
    fn room(&self, among: &Among<'_>) -> f64 {
        let Burden { work, weight } = among.burden();
        self.bound * (work + 1) as f64 / weight
    }
}

impl Policy for Ring {
    fn pick(&self, among: &Among<'_>, choice: &Choice<'_>) -> Option<usize> {
        let Some(value) = (choice.metadata)(&self.key) else { return P2c.pick(among, choice) };
        let room = self.room(among);
        let mut least: Option<(usize, f32)> = None;
        let begin = hash(value);
        let row = self.circle.from(begin).take(ROW);
        let mut draws = Draws(choice.random);
        let jumps = (1..=JUMPS).map(|jump| mix(begin ^ mix(jump))).chain((0..DRAWN).map(|_| draws.next()));
        for seat in row.chain(jumps.filter_map(|hash| self.circle.from(hash).next())) {
            let position = self.positions[seat as usize] as usize;
            let Some(backend) = among.open(position, choice) else { continue };
            if f64::from(backend.in_flight()) < (room * f64::from(backend.weight())).ceil() {
                return Some(position);
            }
            let load = backend.load();
            least = least.filter(|least| least.1 <= load).or(Some((position, load)));
        }
        least.map(|(position, _)| position).or_else(|| P2c.pick(among, choice))
    }
}
