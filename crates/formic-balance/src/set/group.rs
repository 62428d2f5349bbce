//! A group of endpoints, in the own zone and elsewhere, and the pick among them.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use super::Pick;
use crate::backend::OUT;
use crate::board::{Board, Seats};
use crate::ejection::Shared;
use crate::load::Slot;
use crate::policy::{Among, Burden, Care, Choice, Draws, Picker};
use crate::table::Table;
use crate::{Backend, micros};

/// With this share of the own zone's endpoints in, they still bear all of its calls; with less, the rest goes
/// elsewhere. Envoy's overprovisioning factor of 1.4.
const ENOUGH: f32 = 1.0 / 1.4;

/// How long a due probe waits, in microseconds, for a call that may be lost without harm.
const PATIENCE: u64 = 1_000_000;

/// Of so many endpoints the work in flight is summed up for each pick that asks, of those alone who are in; of more
/// it is counted as calls begin and end.
const SUMMED: usize = 64;

/// No version of the endpoints' common state: these count from 1.
const UNSEEN: u64 = 0;

/// The endpoints that a rule, or none, leaves to a call.
#[derive(Clone, Debug)]
pub(crate) struct Group {
    /// One, or the own zone's and the others.
    tiers: Vec<Arc<Tier>>,
    /// Everybody, where the tiers are subsets: for when too few of these are in.
    rest: Option<Arc<Tier>>,
    spill: Option<f32>,
    panic: f32,
}

/// How the endpoints of a group fare, for people.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Census {
    /// How many are in,
    pub(crate) fit: u32,
    /// of how many.
    pub(crate) len: usize,
    /// Calls that go nowhere else get those who are ejected, too.
    pub(crate) panics: bool,
    /// Where the subset is not kept to: how many of it are in, and of how many.
    pub(crate) subset: Option<(u32, usize)>,
}

/// Endpoints among which nothing but the policy decides.
#[derive(Debug)]
pub(crate) struct Tier {
    /// From position to index in the set.
    seats: Box<[u32]>,
    members: Seats,
    board: Board,
    policy: Picker,
    scale: Option<Scale>,
    pulse: Pulse,
}

/// Where the policy goes by the work of all: where that is counted, and what they weigh together.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Scale {
    pub(crate) slot: Slot,
    pub(crate) weight: f64,
}

/// What a pick needs besides the call.
#[derive(Clone, Copy)]
pub(crate) struct Scene<'a> {
    pub(crate) shared: &'a Shared,
    pub(crate) table: &'a Table<Arc<Backend>>,
}

/// Who is in, as of a version of the endpoints' common state. A pick that finds it old looks anew.
#[derive(Debug)]
struct Pulse {
    version: AtomicU64,
    fit: AtomicU32,
    up: AtomicU32,
    next_probe: AtomicU64,
    /// What those weigh who are in, and who can be reached; `f64` bits.
    weights: [AtomicU64; 2],
}

// === impl Group ===

impl Group {
    pub(crate) fn new(
        tiers: Vec<Arc<Tier>>,
        rest: Option<Arc<Tier>>,
        spill: Option<f32>,
        panic: f64,
    ) -> Self {
        Self { tiers, rest, spill, panic: panic as f32 }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.tiers.iter().all(|tier| tier.seats.is_empty())
    }

    /// Whether there is an endpoint of which so much may be asked, or one that is due to be probed.
    pub(crate) fn is_alive(&self, choice: &Choice<'_>, scene: Scene<'_>, care: Care) -> bool {
        self.tiers.iter().chain(&self.rest).any(|tier| {
            tier.look(scene);
            match care {
                Care::In => tier.pulse.fit.load(Ordering::Relaxed) > 0 || tier.due(choice).is_some(),
                Care::Up => tier.pulse.up.load(Ordering::Relaxed) > 0,
                Care::Any => !tier.seats.is_empty(),
            }
        })
    }

    /// An endpoint of which so much may be asked. `last`: calls that find nobody here go nowhere else, so where too
    /// few are in, whoever can be reached is as good.
    pub(crate) fn pick(
        &self,
        choice: &Choice<'_>,
        scene: Scene<'_>,
        (care, tried): (Care, bool),
        last: bool,
    ) -> Option<Pick> {
        // Those outside of the subset are probed too: while they are out, fewer of its own can be ejected.
        for tier in self.rest.as_slice().iter().chain(&self.tiers) {
            tier.look(scene);
            if care == Care::In
                && !tried
                && let Some(index) = tier.probe(choice, scene)
            {
                return Some(Pick { index, probe: true });
            }
        }
        let rest = self.rest.as_ref().filter(|_| fit(&self.tiers) == 0 || self.is_thin(&self.tiers));
        let tiers = rest.map_or(&self.tiers[..], std::slice::from_ref);
        // Too few would have to carry all: better some calls to endpoints that fail some.
        let care = if last && care == Care::In && self.is_thin(tiers) { Care::Up } else { care };
        let index = self.among(tiers, choice, scene, care, tried)?;
        Some(Pick { index, probe: false })
    }

    /// How its endpoints fare.
    pub(crate) fn census(&self, scene: Scene<'_>) -> Census {
        self.tiers.iter().chain(&self.rest).for_each(|tier| tier.look(scene));
        let len = |tiers: &[Arc<Tier>]| tiers.iter().map(|tier| tier.seats.len()).sum::<usize>();
        let chosen = (fit(&self.tiers), len(&self.tiers));
        let rest = self.rest.as_ref().filter(|_| chosen.0 == 0 || self.is_thin(&self.tiers));
        let tiers = rest.map_or(&self.tiers[..], std::slice::from_ref);
        let up: u32 = tiers.iter().map(|tier| tier.pulse.up.load(Ordering::Relaxed)).sum();
        let fit = fit(tiers);
        // Where nobody is out there is nothing to ignore.
        let panics = up > fit && (fit == 0 || self.is_thin(tiers));
        Census { fit, len: len(tiers), panics, subset: rest.map(|_| chosen) }
    }

    /// Whether some are in, and too few for all the calls.
    fn is_thin(&self, tiers: &[Arc<Tier>]) -> bool {
        let (fit, len) = (fit(tiers), tiers.iter().map(|tier| tier.seats.len()).sum::<usize>());
        fit > 0 && (fit as f32) < self.panic * len as f32
    }

    fn among(
        &self,
        tiers: &[Arc<Tier>],
        choice: &Choice<'_>,
        scene: Scene<'_>,
        care: Care,
        tried: bool,
    ) -> Option<usize> {
        let [near, far] = tiers else {
            return tiers.first()?.pick(choice, scene, care, tried).map(|(index, _)| index);
        };
        let fit = near.pulse.fit.load(Ordering::Relaxed) as f32 / near.seats.len().max(1) as f32;
        let mut draws = Draws(choice.random ^ 0x5a5a);
        let stay = care == Care::Any || fit >= ENOUGH || draws.unit() < fit / ENOUGH;
        let (first, second) = if stay { (near, far) } else { (far, near) };
        let Some((index, cost)) = first.pick(choice, scene, care, tried) else {
            return second.pick(choice, scene, care, tried).map(|(index, _)| index);
        };
        if let (true, Some(spill), Some(cost)) = (stay, self.spill, cost)
            && let Some((other, Some(elsewhere))) = far.pick(choice, scene, care, tried)
            && cost > spill * elsewhere
        {
            return Some(other);
        }
        Some(index)
    }
}

/// How many were in as of the last look.
fn fit(tiers: &[Arc<Tier>]) -> u32 {
    tiers.iter().map(|tier| tier.pulse.fit.load(Ordering::Relaxed)).sum()
}

// === impl Tier ===

impl Tier {
    pub(crate) fn new(
        seats: Box<[u32]>,
        members: Seats,
        board: Board,
        policy: Picker,
        scale: Option<Scale>,
    ) -> Self {
        let pulse = Pulse {
            version: AtomicU64::new(UNSEEN),
            fit: AtomicU32::new(0),
            up: AtomicU32::new(0),
            next_probe: AtomicU64::new(u64::MAX),
            weights: [const { AtomicU64::new(0) }; 2],
        };
        let scale = scale.filter(|_| seats.len() > SUMMED);
        Self { seats, members, board, policy, scale, pulse }
    }

    /// Looks who is in, if that may have changed since the last look.
    fn look(&self, scene: Scene<'_>) {
        let version = scene.shared.version();
        let pulse = &self.pulse;
        let before = pulse.version.load(Ordering::Acquire);
        if before == version {
            return;
        }
        let tally = self.board.tally(&self.members);
        let mut next = u64::MAX;
        if tally.out > 0 {
            self.board.find_out(&self.members, |seat| {
                let out = scene.table.get(seat).filter(|backend| backend.state() == OUT);
                next = out.map_or(next, |backend| next.min(backend.probe_at()));
                false
            });
        }
        pulse.fit.store(tally.fit, Ordering::Relaxed);
        pulse.up.store(tally.up, Ordering::Relaxed);
        pulse.next_probe.store(next, Ordering::Relaxed);
        if let Some(scale) = self.scale {
            let (mut fit, mut up) = (scale.weight, scale.weight);
            self.board.absent(&self.members, |seat, down| {
                let weight = scene.table.get(seat).map_or(0.0, |backend| f64::from(backend.weight()));
                fit -= weight;
                up -= if down { weight } else { 0.0 };
            });
            for (stored, weight) in pulse.weights.iter().zip([fit, up]) {
                // Nobody is left, or a rest of what was rounded.
                stored.store(weight.max(f64::from(f32::MIN_POSITIVE)).to_bits(), Ordering::Relaxed);
            }
        }
        // Two may look at once, see different things and write them one over the other. Whoever did not begin with what is
        // there now knows that, and the next pick looks once more.
        if pulse.version.compare_exchange(before, version, Ordering::AcqRel, Ordering::Relaxed).is_err() {
            pulse.version.store(UNSEEN, Ordering::Release);
        }
    }

    /// Until when an endpoint must have been due for a probe to get it from this call; `None` if none is.
    fn due(&self, choice: &Choice<'_>) -> Option<u64> {
        let next = self.pulse.next_probe.load(Ordering::Relaxed);
        if next == u64::MAX {
            return None;
        }
        let patience = if choice.expendable { 0 } else { PATIENCE };
        micros(choice.now).checked_sub(patience).filter(|&due| next <= due)
    }

    /// Takes an endpoint that is due to be probed, if there is one and this call may do it.
    fn probe(&self, choice: &Choice<'_>, scene: Scene<'_>) -> Option<usize> {
        let due = self.due(choice)?;
        self.board.find_out(&self.members, |seat| {
            (choice.usable)(seat)
                && scene.table.get(seat).is_some_and(|backend| {
                    backend.state() == OUT && backend.probe_at() <= due && backend.claim_probe()
                })
        })
    }

    /// An index, and what it costs, where the policy goes by that.
    fn pick(
        &self,
        choice: &Choice<'_>,
        scene: Scene<'_>,
        care: Care,
        tried: bool,
    ) -> Option<(usize, Option<f32>)> {
        let burden = self.scale.map(|scale| self.burden(scale, scene, care));
        let among = Among { seats: &self.seats, table: scene.table, care, tried, burden };
        let index = self.policy.pick(&among, choice)?;
        let backend = || scene.table.get(index).filter(|_| self.policy.weighs());
        Some((index, backend().map(|backend| backend.cost(choice.now))))
    }

    /// The work of all: of those, too, who are out, which leaves the others somewhat more room.
    fn burden(&self, scale: Scale, scene: Scene<'_>, care: Care) -> Burden {
        let weight = |at: usize| f64::from_bits(self.pulse.weights[at].load(Ordering::Relaxed));
        let weight = match care {
            Care::In => weight(0),
            Care::Up => weight(1),
            Care::Any => scale.weight,
        };
        Burden { work: scene.shared.loads.get(scale.slot), weight }
    }
}
