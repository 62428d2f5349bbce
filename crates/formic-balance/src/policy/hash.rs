//! A consistent hash with bounded load: the same endpoint for the same key, as long as it is not
//! overloaded.

use super::{Among, Burden, Choice, Draws, P2c, Policy};
use crate::{Backend, hash, mix};

mod places;

pub(crate) use places::Places;

use places::{Change, Place};

/// Places of an endpoint of weight 1 on the ring. More spread the keys more evenly and take more memory.
const PLACES: usize = 160;

/// All places together, about, however many endpoints there are.
const ALL: usize = 1 << 18;

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
pub(crate) struct Ring {
    key: Box<str>,
    bound: f64,
    places: Places,
}

/// The places of some endpoints, kept while these come and go. Which places there are follows from who is
/// there, in whatever order they came.
#[derive(Debug)]
pub(crate) struct Circle {
    places: Places,
    /// What comes and goes with the next version.
    changes: Vec<Change>,
    grain: Grain,
    endpoints: usize,
    /// Of their weights, in [`UNIT`]s.
    sum: u128,
}

/// How many places a weight has. It follows from the powers of two next to the number of endpoints and their mean
/// weight, so that one who comes or goes changes nobody else's places, but when such a power is crossed.
#[derive(Clone, Copy, Debug, PartialEq)]
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
        let (mut endpoints, mut sum) = (0, 0);
        for backend in all.clone() {
            endpoints += 1;
            sum += units(backend.weight());
        }
        let grain = Grain::of(endpoints, sum);
        let places = Places::of(all.flat_map(|backend| grain.places(backend)).collect());
        Self { places, changes: Vec::new(), grain, endpoints, sum }
    }

    /// Somebody comes. Says whether that was all: if not, it is to be made anew.
    #[must_use]
    pub(crate) fn add(&mut self, backend: &Backend) -> bool {
        self.endpoints += 1;
        self.sum += units(backend.weight());
        self.note(backend, true)
    }

    /// Somebody leaves, of the weight that it came with. Says whether that was all.
    #[must_use]
    pub(crate) fn remove(&mut self, backend: &Backend) -> bool {
        self.endpoints -= 1;
        self.sum -= units(backend.weight());
        self.note(backend, false)
    }

    fn note(&mut self, backend: &Backend, comes: bool) -> bool {
        if Grain::of(self.endpoints, self.sum) != self.grain {
            return false;
        }
        self.changes.extend(self.grain.places(backend).map(|place| Change { place, comes }));
        // So much is made anew as quickly, and where nobody asks for a version it does not pile up.
        self.changes.len() <= self.places.len()
    }

    /// A version with all who are there.
    pub(crate) fn places(&mut self) -> Places {
        if !self.changes.is_empty() {
            self.places.change(std::mem::take(&mut self.changes));
        }
        self.places.clone()
    }

    /// What its endpoints weigh together.
    pub(crate) fn weight(&self) -> f64 {
        weight(self.sum)
    }
}

#[cfg(test)]
impl Circle {
    /// Every place, in order.
    pub(crate) fn all(&self) -> Vec<Place> {
        self.places.all()
    }
}

fn units(weight: f32) -> u128 {
    (weight * UNIT).ceil() as u128
}

fn weight(units: u128) -> f64 {
    units as f64 / f64::from(UNIT)
}

// === impl Grain ===

impl Grain {
    /// For so many endpoints, which weigh so much together.
    fn of(endpoints: usize, sum: u128) -> Self {
        let count = endpoints.max(1);
        let usual = PLACES.min(ALL / count.next_power_of_two()).max(1);
        let mean = weight(sum) / count as f64;
        Self { usual, mean: if sum == 0 { 0 } else { mean.log2().round() as i32 } }
    }

    fn places(self, backend: &Backend) -> impl Iterator<Item = Place> + use<> {
        let share = f64::from(backend.weight()) / 2f64.powi(self.mean);
        let count = (self.usual as f64 * share).round().clamp(1.0, ALL as f64) as u64;
        let (key, seat) = (backend.key(), backend.seat());
        (0..count).map(move |n| (mix(key.wrapping_add(mix(n + 1))), seat))
    }
}

// === impl Ring ===

impl Ring {
    pub(crate) fn new(key: &str, bound: f64, places: Places) -> Self {
        Self { key: key.into(), bound, places }
    }

    /// How much work in flight an endpoint may have for each unit of its weight, with one more call.
    fn room(&self, among: &Among<'_>) -> f64 {
        let Burden { work, weight } = among.burden();
        self.bound * (work + 1) as f64 / weight
    }

    /// The index of the endpoint that gets the next call: the ring has seats, and no list of who is where.
    pub(crate) fn pick(&self, among: &Among<'_>, choice: &Choice<'_>) -> Option<usize> {
        let any = || P2c.pick(among, choice).map(|position| among.index(position));
        let Some(value) = (choice.metadata)(&self.key) else { return any() };
        let room = self.room(among);
        let mut least: Option<(usize, f32)> = None;
        let begin = hash(value);
        let row = self.places.from(begin).take(ROW);
        let mut draws = Draws(choice.random);
        let jumps = (1..=JUMPS).map(|jump| mix(begin ^ mix(jump))).chain((0..DRAWN).map(|_| draws.next()));
        for seat in row.chain(jumps.filter_map(|hash| self.places.from(hash).next())) {
            let index = seat as usize;
            let Some(backend) = among.admit(index, choice) else { continue };
            if f64::from(backend.in_flight()) < (room * f64::from(backend.weight())).ceil() {
                return Some(index);
            }
            let load = backend.load();
            least = least.filter(|least| least.1 <= load).or(Some((index, load)));
        }
        least.map(|(index, _)| index).or_else(any)
    }
}
