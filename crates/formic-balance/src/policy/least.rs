//! The least work in flight, whatever it takes.

use super::{Among, Choice, Draws, Policy, is_warm};
use crate::Backend;

/// So few endpoints are all looked at.
const FEW: usize = 8;

/// Of more, so many are drawn: enough to be near the best, too few for all callers to meet there.
const DRAWN: usize = 4;

/// More load than there ever is.
const COLD: f32 = 1e9;

/// The endpoint with the least work in flight: of a few the least of all, of many the least of some drawn at
/// random.
#[derive(Clone, Copy, Debug, Default)]
pub struct LeastRequest;

impl Policy for LeastRequest {
    fn pick(&self, among: &Among<'_>, choice: &Choice<'_>) -> Option<usize> {
        let (mut draws, len) = (Draws(choice.random), among.len());
        // One that only starts would get every call for a while, for it has nothing to do.
        let mut chance = draws;
        let mut load = |backend: &Backend| {
            let cold = !is_warm(backend, choice, &mut chance);
            backend.load() + if cold { COLD } else { 0.0 }
        };
        let mut less = |best: Option<(usize, f32)>, (position, backend)| {
            let load = load(backend);
            best.filter(|best| best.1 <= load).or(Some((position, load)))
        };
        let best = if len <= FEW {
            // From a random place on, so that equal ones share alike.
            let from = draws.below(len.max(1));
            let open = |position| Some((position, among.open(position, choice)?));
            (from..len).chain(0..from).filter_map(open).fold(None, less)
        } else {
            let mut best = None;
            for _ in 0..DRAWN {
                let position = draws.usable(len, |position| among.usable(position, choice))?;
                best = less(best, (position, among.backend(position)));
            }
            best
        };
        best.map(|(position, _)| position)
    }

    fn weighs(&self) -> bool {
        true
    }
}
