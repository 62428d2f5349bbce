//! A group of endpoints, in the own zone and elsewhere, and the pick among them.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use super::Pick;
use crate::backend::OUT;
use crate::ejection::Shared;
use crate::policy::{Among, Care, Choice, Draws, Policy};
use crate::{Backend, micros};

/// With this share of the own zone's endpoints in, they still bear all of its calls; with less, the rest goes
/// elsewhere. Envoy's overprovisioning factor of 1.4.
const ENOUGH: f32 = 1.0 / 1.4;

/// How long a due probe waits, in microseconds, for a call that may be lost without harm.
const PATIENCE: u64 = 1_000_000;

/// Of so many endpoints the work in flight is summed up for each pick that asks; of more it is estimated.
const SUMMED: usize = 64;

/// The endpoints that a rule, or none, leaves to a call.
#[derive(Debug)]
pub(crate) struct Group {
    /// One, or the own zone's and the others.
    tiers: Vec<Tier>,
    spill: Option<f32>,
    panic: f32,
}

/// Endpoints among which nothing but the policy decides.
#[derive(Debug)]
pub(crate) struct Tier {
    list: Box<[Arc<Backend>]>,
    /// From position to index in the set; the same if there is none.
    map: Option<Box<[u32]>>,
    policy: Box<dyn Policy>,
    pulse: Pulse,
}

/// Who is in, as of a version of the endpoints' common state. A pick that finds it old looks anew.
#[derive(Debug)]
struct Pulse {
    version: AtomicU64,
    fit: AtomicU32,
    up: AtomicU32,
    next_probe: AtomicU64,
}

// === impl Group ===

impl Group {
    pub(crate) fn new(tiers: Vec<Tier>, spill: Option<f32>, panic: f64) -> Self {
        Self { tiers, spill, panic: panic as f32 }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.tiers.iter().all(|tier| tier.list.is_empty())
    }

    /// Whether any endpoint can be reached.
    pub(crate) fn is_up(&self, shared: &Shared) -> bool {
        self.tiers.iter().any(|tier| {
            tier.look(shared);
            tier.pulse.up.load(Ordering::Relaxed) > 0
        })
    }

    pub(crate) fn pick(&self, choice: &Choice<'_>, shared: &Shared, all: usize) -> Option<Pick> {
        let (mut fit, mut len) = (0, 0);
        for tier in &self.tiers {
            tier.look(shared);
            if let Some(index) = tier.probe(choice) {
                return Some(Pick { index, probe: true });
            }
            fit += tier.pulse.fit.load(Ordering::Relaxed);
            len += tier.list.len();
        }
        // Too few would have to carry all: better some calls to endpoints that fail some.
        let care = if (fit as f32) < self.panic * len as f32 { Care::Up } else { Care::In };
        let index = self.among(choice, shared, all, care, false).or_else(|| {
            // The best there is: whoever is in although this call was there, then whoever can be reached,
            // then any.
            let mut last = [(care, true), (Care::Up, false), (Care::Up, true), (Care::Any, true)].into_iter();
            last.find_map(|(care, tried)| self.among(choice, shared, all, care, tried))
        })?;
        Some(Pick { index, probe: false })
    }

    fn among(
        &self,
        choice: &Choice<'_>,
        shared: &Shared,
        all: usize,
        care: Care,
        tried: bool,
    ) -> Option<usize> {
        let [near, far] = &self.tiers[..] else {
            return self.tiers.first()?.pick(choice, shared, all, care, tried).map(|(index, _)| index);
        };
        let fit = near.pulse.fit.load(Ordering::Relaxed) as f32 / near.list.len().max(1) as f32;
        let mut draws = Draws(choice.random ^ 0x5a5a);
        let stay = care == Care::Any || fit >= ENOUGH || draws.unit() < fit / ENOUGH;
        let (first, second) = if stay { (near, far) } else { (far, near) };
        let Some((index, cost)) = first.pick(choice, shared, all, care, tried) else {
            return second.pick(choice, shared, all, care, tried).map(|(index, _)| index);
        };
        if let (true, Some(spill), Some(cost)) = (stay, self.spill, cost)
            && let Some((other, Some(elsewhere))) = far.pick(choice, shared, all, care, tried)
            && cost > spill * elsewhere
        {
            return Some(other);
        }
        Some(index)
    }
}

// === impl Tier ===

impl Tier {
    pub(crate) fn new(list: Vec<Arc<Backend>>, map: Option<Vec<u32>>, policy: Box<dyn Policy>) -> Self {
        let pulse = Pulse {
            version: AtomicU64::new(0),
            fit: AtomicU32::new(0),
            up: AtomicU32::new(0),
            next_probe: AtomicU64::new(u64::MAX),
        };
        Self { list: list.into(), map: map.map(Into::into), policy, pulse }
    }

    /// Looks who is in, if that may have changed since the last look.
    fn look(&self, shared: &Shared) {
        let version = shared.version();
        let pulse = &self.pulse;
        if pulse.version.load(Ordering::Acquire) == version {
            return;
        }
        let (mut fit, mut up, mut next) = (0, 0, u64::MAX);
        for backend in &self.list {
            let reachable = !backend.is_down();
            up += u32::from(reachable);
            fit += u32::from(reachable && !backend.is_ejected());
            if backend.state() == OUT && reachable {
                next = next.min(backend.probe_at());
            }
        }
        // Two may look at once and see different things; a change after either look shows in the version.
        pulse.fit.store(fit, Ordering::Relaxed);
        pulse.up.store(up, Ordering::Relaxed);
        pulse.next_probe.store(next, Ordering::Relaxed);
        pulse.version.store(version, Ordering::Release);
    }

    /// Takes an endpoint that is due to be probed, if there is one and this call may do it.
    fn probe(&self, choice: &Choice<'_>) -> Option<usize> {
        let next = self.pulse.next_probe.load(Ordering::Relaxed);
        if next == u64::MAX {
            return None;
        }
        let patience = if choice.expendable { 0 } else { PATIENCE };
        let due = micros(choice.now).checked_sub(patience).filter(|&due| next <= due)?;
        let among = self.among(Care::Up, false, None);
        let position = self.list.iter().enumerate().position(|(position, backend)| {
            backend.state() == OUT
                && backend.probe_at() <= due
                && among.usable(position, choice)
                && backend.claim_probe()
        })?;
        Some(among.index(position))
    }

    /// An index, and what it costs, where the policy goes by that.
    fn pick(
        &self,
        choice: &Choice<'_>,
        shared: &Shared,
        all: usize,
        care: Care,
        tried: bool,
    ) -> Option<(usize, Option<f32>)> {
        let many = self.list.len() > SUMMED;
        let total = many.then(|| shared.in_flight() * self.list.len() as u64 / all.max(1) as u64);
        let among = self.among(care, tried, total);
        let position = self.policy.pick(&among, choice)?;
        let cost = self.policy.weighs().then(|| self.list[position].cost(choice.now));
        Some((among.index(position), cost))
    }

    fn among(&self, care: Care, tried: bool, total: Option<u64>) -> Among<'_> {
        Among { list: &self.list, map: self.map.as_deref(), care, tried, total }
    }
}
