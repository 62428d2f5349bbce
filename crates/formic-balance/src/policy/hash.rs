//! A consistent hash with bounded load: the same endpoint for the same key, as long as it is not
//! overloaded.

use std::sync::Arc;

use super::{Among, Choice, P2c, Policy};
use crate::{Backend, hash, mix};

/// Places of an endpoint of weight 1 on the ring. More spread the keys more evenly and take more memory.
const PLACES: usize = 160;

/// All places together, about, however many endpoints there are.
const ALL: usize = 1 << 17;

/// So many places are looked at for an endpoint with room, before the first usable one gets the call.
const WALK: usize = 256;

/// A ring of places, several for each endpoint; a key belongs to the next place on the ring.
///
/// When an endpoint comes or goes only its own keys move. An endpoint that has more than its bound of the
/// work in flight passes keys on to their next place, so a hot key cannot run over one endpoint
/// (consistent hashing with bounded loads, Mirrokni and others).
#[derive(Debug)]
pub struct Ring {
    key: Box<str>,
    bound: f64,
    /// Hash and position, by hash.
    places: Box<[(u64, u32)]>,
    /// Where the places of each stretch of the ring begin, so that finding one is no search.
    starts: Box<[u32]>,
    shift: u32,
}

// === impl Ring ===

impl Ring {
    pub(crate) fn new(key: &str, bound: f64, list: &[Arc<Backend>]) -> Self {
        let sum: f32 = list.iter().map(|backend| backend.weight()).sum();
        let usual = PLACES.min(ALL / list.len().max(1)).max(1) as f32;
        let mean = (sum / list.len().max(1) as f32).max(f32::MIN_POSITIVE);
        let mut places = Vec::new();
        for (position, backend) in list.iter().enumerate() {
            let count = (usual * backend.weight() / mean).round().clamp(1.0, ALL as f32) as u64;
            let place = |n| mix(backend.key().wrapping_add(mix(n + 1)));
            places.extend((0..count).map(|n| (place(n), position as u32)));
        }
        places.sort_unstable();
        let bits = places.len().max(2).next_power_of_two().trailing_zeros();
        let shift = u64::BITS - bits;
        let mut starts = vec![0u32; (1 << bits) + 1];
        for &(hash, _) in &places {
            starts[(hash >> shift) as usize + 1] += 1;
        }
        for at in 1..starts.len() {
            starts[at] += starts[at - 1];
        }
        Self { key: key.into(), bound, places: places.into(), starts: starts.into(), shift }
    }

    /// The first place at or after a hash.
    fn find(&self, hash: u64) -> usize {
        let stretch = (hash >> self.shift) as usize;
        let (from, to) = (self.starts[stretch] as usize, self.starts[stretch + 1] as usize);
        from + self.places[from..to].partition_point(|&(place, _)| place < hash)
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
        let (from, len) = (self.find(hash(value)), self.places.len());
        let room = self.room(among);
        let mut usable = None;
        for step in 0..len.min(WALK) {
            let position = self.places[(from + step) % len].1 as usize;
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
