//! What is known of one endpoint: how long it takes lately, how much it has to do, how often it fails,
//! and whether it is out.
//!
//! All by atomics, shared by every call to it. `now` is the time since any moment that the caller keeps
//! for all endpoints alike.

use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use formic_core::InstanceId;

use crate::board::{Board, Place};
use crate::ejection::{Change, Ejected, Shared};
use crate::load::{Slot, Slots};
use crate::{hash, micros};

mod average;
mod spell;
mod window;

pub(crate) use average::tick;
pub use average::{DECAY, FLOOR, RISE};
pub(crate) use spell::Course;
pub(crate) use window::Counts;

use average::{Average, Fit};
use spell::Spell;
use window::Window;

/// What a failure counts as, so that one costs an endpoint some of its traffic and a series of them
/// nearly all, however fast it fails; and no more, or it could never come back.
pub const FAILURE: Duration = Duration::from_secs(1);

/// The most that a server's wish to be left alone counts as: it knows its load, not how many would have to
/// bear it instead.
pub const PUSH_BACK: Duration = Duration::from_secs(5);

/// How often an endpoint that failed lately gets a call that it would not have got, so that it is soon
/// either cleared or ejected; shunned for good on a few failures it would be neither.
const TRIAL: u32 = 200;

/// How much later a trial comes after one that its caller gave up: who calls one after the other would have every call of his
/// make one, if none of them waits long enough to clear or eject. Any call to a suspect that is given up puts it off, trial or
/// not: which calls are trials is not kept, and each of them had its chance to tell.
const LATER: u32 = 10_000;

/// The smallest share of its traffic that an endpoint gets while it starts: none at all teaches nothing.
const COLD: f32 = 0.1;

/// So many times what calls take must have passed before a deadline that runs out is the endpoint's failure and not its caller's
/// haste: whoever may choose deadlines could have healthy endpoints ejected otherwise.
const OVERDUE: u32 = 2;

/// So many answers must have borne out what calls take before anybody's haste is judged by it: the first ones say less than
/// they took, for a slow one raises the average by a few times at most, and a few may all have been for something easy.
const KNOWN: u32 = 4;

/// One failure, in the unit of suspicion: a success takes back a quarter of it.
pub(crate) const FAILED: u32 = 4;

const NEVER: u64 = u64::MAX;

/// How an attempt at an endpoint ended, as far as it tells something of the endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It answered; an error that is the request's own is an answer too.
    Success,
    /// It failed: an error that is the endpoint's own, a lost connection, an answer that came too late.
    Failure,
    /// It refused for want of capacity, and may have said when to come back.
    Rejected {
        /// When to come back.
        after: Option<Duration>,
    },
    /// It says nothing either way, such as a quota of the caller's that is used up.
    Neutral,
}

/// One endpoint.
#[derive(Debug)]
pub struct Backend {
    hot: Hot,
    id: InstanceId,
    key: u64,
    /// Its seat, and its bits on the board.
    place: Place,
    recent: Window,
    /// Of its calls since suspicion fell on it; old news while none does.
    spell: Spell,
    slots: Slots,
    /// When it may be probed, in microseconds, while it is out.
    probe_at: AtomicU64,
    /// Touched only when it is ejected, probed or looked at by people.
    case: Mutex<Case>,
    shared: Arc<Shared>,
}

/// What picks read, in one line of a cache: among ten thousand endpoints each line is a wait for memory.
#[derive(Debug)]
#[repr(align(64))]
struct Hot {
    average: Average,
    /// When its slow start began, in microseconds; [`NEVER`] if it has its whole share.
    ramp: AtomicU64,
    in_flight: AtomicU32,
    /// `f32` bits.
    weight: AtomicU32,
    /// Failures, less a quarter for each success; see [`FAILED`].
    suspicion: AtomicU32,
    /// The tick of the last trial.
    tried: AtomicU32,
    /// Answers that bore out the average, up to [`KNOWN`].
    borne_out: AtomicU32,
    down: AtomicBool,
    /// One of [`IN`], [`OUT`], [`PROBING`].
    state: AtomicU8,
}

pub(crate) const IN: u8 = 0;
pub(crate) const OUT: u8 = 1;
pub(crate) const PROBING: u8 = 2;

/// For so long nobody is asked before its time: what makes two ill at once is no reason to ask the first.
const SETTLED: Duration = Duration::from_millis(500);

/// What an ejection is about.
#[derive(Debug, Default)]
pub(crate) struct Case {
    pub(crate) ejected: Option<Ejected>,
    /// Ejections in a row.
    pub(crate) times: u32,
    /// Probes that succeeded since it was ejected.
    pub(crate) passed: u32,
    /// That it was probed before its time: one that is not well would be so again and again.
    pub(crate) hurried: bool,
    pub(crate) returned: Duration,
}

// === impl Backend ===

impl Backend {
    /// An endpoint on its own, which is never ejected, for there is no other to go to.
    #[must_use]
    pub fn alone(id: InstanceId, now: Duration) -> Self {
        Self::new(id, Duration::ZERO, now, Arc::default(), Board::default().place(0))
    }

    /// An endpoint that is expected to take `prior`; zero says that nothing is known.
    pub(crate) fn new(
        id: InstanceId,
        prior: Duration,
        now: Duration,
        shared: Arc<Shared>,
        place: Place,
    ) -> Self {
        let hot = Hot {
            average: Average::new(prior, now),
            ramp: AtomicU64::new(NEVER),
            in_flight: AtomicU32::new(0),
            weight: AtomicU32::new(1f32.to_bits()),
            suspicion: AtomicU32::new(0),
            tried: AtomicU32::new(tick(now)),
            borne_out: AtomicU32::new(0),
            down: AtomicBool::new(false),
            state: AtomicU8::new(IN),
        };
        Self {
            hot,
            key: hash(id.as_str()),
            id,
            place,
            recent: Window::default(),
            spell: Spell::default(),
            slots: Slots::default(),
            probe_at: AtomicU64::new(NEVER),
            case: Mutex::default(),
            shared,
        }
    }

    /// Whose endpoint it is.
    #[must_use]
    pub fn id(&self) -> &InstanceId {
        &self.id
    }

    /// Its identity as a number that every caller computes alike.
    pub(crate) fn key(&self) -> u64 {
        self.key
    }

    /// Its number in its roster, and its index in every set.
    pub(crate) fn seat(&self) -> u32 {
        self.place.seat()
    }

    /// A call goes out.
    pub fn begin(&self) {
        self.hot.in_flight.fetch_add(1, Ordering::Relaxed);
        self.shared.loads.add(&self.slots, 1);
    }

    /// It is over, however it ended. Once for each [`begin`](Self::begin).
    pub fn end(&self) {
        self.hot.in_flight.fetch_sub(1, Ordering::Relaxed);
        self.shared.loads.add(&self.slots, -1);
    }

    /// Its work counts in a part from now on.
    pub(crate) fn join(&self, slot: Slot) {
        self.slots.join(slot);
        self.shared.loads.shift(slot, i64::from(self.in_flight()));
    }

    /// Its work counts in a part no longer.
    pub(crate) fn leave(&self, slot: Slot) {
        self.slots.leave(slot);
        self.shared.loads.shift(slot, -i64::from(self.in_flight()));
    }

    /// Its work counts in no part.
    pub(crate) fn leave_all(&self) {
        self.slots.clear();
    }

    /// Calls on their way.
    #[must_use]
    pub fn in_flight(&self) -> u32 {
        self.hot.in_flight.load(Ordering::Relaxed)
    }

    /// An attempt ended, after `took`; `probe` is what the pick said. Tells whether that changed who gets calls.
    pub fn learn(
        &self,
        now: Duration,
        took: Option<Duration>,
        outcome: Outcome,
        probe: bool,
    ) -> Option<Change> {
        if let (Outcome::Success, Some(took)) = (outcome, took) {
            self.answered(now, took);
        }
        self.judge(now, took, outcome, probe)
    }

    /// An answer came, or began to.
    fn answered(&self, now: Duration, took: Duration) {
        if self.sample(now, took) == Fit::Within && self.hot.borne_out.load(Ordering::Relaxed) < KNOWN {
            // One too many does no harm.
            self.hot.borne_out.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Something counts as so long an answer.
    fn sample(&self, now: Duration, took: Duration) -> Fit {
        let fit = self.hot.average.learn(now, took);
        if fit == Fit::First {
            self.hot.borne_out.store(0, Ordering::Relaxed);
        }
        fit
    }

    /// An answer that streams began, after `took`. How fast the endpoint is it has shown, and whether it is well it
    /// has not: that is told by [`judge`](Self::judge).
    pub fn begun(&self, now: Duration, took: Duration) {
        self.answered(now, took);
    }

    /// What became of an attempt whose beginning was learnt from already, after `took`; otherwise as
    /// [`learn`](Self::learn).
    pub fn judge(
        &self,
        now: Duration,
        took: Option<Duration>,
        outcome: Outcome,
        probe: bool,
    ) -> Option<Change> {
        match outcome {
            Outcome::Success => {
                self.recent.add(now, false);
                if self.hot.suspicion.load(Ordering::Relaxed) > 0 {
                    self.spell.add(false);
                    let less = |suspicion: u32| suspicion.checked_sub(1);
                    let before = self.hot.suspicion.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less);
                    if let (Ok(1), Some(took)) = (before, took) {
                        // Cleared, and so what its failures counted as is not held against it any longer.
                        self.hot.average.lower(took, now);
                    }
                }
            }
            Outcome::Failure => {
                self.recent.add(now, true);
                if let change @ Some(_) = self.fail(now, took, probe, false) {
                    return change;
                }
            }
            Outcome::Rejected { after } => {
                let sample = after.unwrap_or_default().min(PUSH_BACK).max(took.unwrap_or_default());
                self.sample(now, sample.max(FLOOR));
            }
            Outcome::Neutral => {}
        }
        if probe { self.shared.probed(self, outcome, now) } else { None }
    }

    /// An attempt that was judged a success failed after all, as a stream does that breaks off: it counts as a failure
    /// and no more as a success.
    pub fn revoke(&self, now: Duration) -> Option<Change> {
        self.recent.amend(now);
        self.fail(now, None, false, true)
    }

    /// One more call was lost with a connection whose end has counted: a failure among its calls, and none in a row.
    /// `after_all` says that it was counted as a success before.
    pub fn lost_too(&self, now: Duration, after_all: bool) {
        if after_all {
            self.recent.amend(now)
        } else {
            self.recent.add(now, true)
        }
        self.shared.note_trouble();
    }

    /// `after_all` says that it was counted as a success before.
    fn fail(&self, now: Duration, took: Option<Duration>, probe: bool, after_all: bool) -> Option<Change> {
        self.sample(now, took.unwrap_or_default().max(FAILURE));
        self.shared.note_trouble();
        // No more than is enough: what could not be ejected need not be made up for for ever.
        let enough = self.shared.enough();
        // What its success has taken off is put back.
        let added = |suspicion: u32| suspicion + u32::from(after_all && suspicion > 0) + FAILED;
        let more = |suspicion: u32| Some(added(suspicion).min(enough));
        let before = self.hot.suspicion.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more);
        let before = before.unwrap_or_default();
        if before == 0 {
            self.spell.begin(now, 1);
        } else if after_all {
            self.spell.turn();
        } else {
            self.spell.add(true);
        }
        let suspect = !probe && added(before) >= enough;
        if suspect { self.shared.eject_for_failures(self, now) } else { None }
    }

    /// The caller gave up after `took`: an answer would have taken at least that.
    pub fn abandoned(&self, now: Duration, took: Duration, probe: bool) {
        self.hot.average.reached(now, took);
        if self.is_suspect() {
            self.hot.tried.store(tick(now).wrapping_add(LATER), Ordering::Relaxed);
        }
        if probe {
            self.shared.probe_abandoned(self, now);
        }
    }

    /// Whether a call that has no answer after so long says something of the endpoint: not where its caller gave it less time
    /// than calls take, and while little is known of that, not before two seconds.
    #[must_use]
    pub fn is_overdue(&self, now: Duration, took: Duration) -> bool {
        took >= self.shared.usual(now) * OVERDUE
    }

    /// Whether calls take so long, as the endpoint in the middle does, or it is not known whether they take longer.
    #[must_use]
    pub fn is_due(&self, now: Duration, took: Duration) -> bool {
        let usual = self.shared.usual(now);
        // Which stands for not known.
        took >= usual || usual == FAILURE
    }

    /// A pick whose call never went out; only matters for probes.
    pub fn unused(&self, now: Duration, probe: bool) {
        if probe {
            self.shared.probe_abandoned(self, now);
        }
    }

    /// What an answer takes lately; fades to zero while nobody asks, so that a slow endpoint is tried
    /// again some day.
    #[must_use]
    pub fn latency(&self, now: Duration) -> Duration {
        Duration::from_secs_f32(self.hot.average.seconds(now))
    }

    /// The same where this caller has measured it.
    pub(crate) fn measured(&self, now: Duration) -> Option<Duration> {
        self.hot.average.measured(now)
    }

    /// What an answer took lately as of the last one, for people: where nobody asks, no endpoint gets faster.
    pub(crate) fn last(&self, now: Duration) -> Option<Duration> {
        self.hot.average.last(now)
    }

    /// The same where enough answers have borne it out to hold callers to it.
    pub(crate) fn known(&self, now: Duration) -> Option<Duration> {
        (self.hot.borne_out.load(Ordering::Relaxed) >= KNOWN).then(|| self.last(now)).flatten()
    }

    /// Its bad spell, if it is in one.
    pub(crate) fn spell(&self) -> Option<Course> {
        self.is_suspect().then(|| self.spell.course())
    }

    /// Whether it has answered since a tick, one way or the other.
    pub(crate) fn heard_since(&self, tick: u32) -> bool {
        self.hot.average.heard_since(tick)
    }

    /// What one more call to it costs, in seconds: its latency times the calls that it would then have, more
    /// for one of small weight.
    #[must_use]
    pub fn cost(&self, now: Duration) -> f32 {
        self.hot.average.seconds(now).max(FLOOR.as_secs_f32()) * self.load()
    }

    /// The calls that it would have with one more, as its weight makes them count.
    pub(crate) fn load(&self) -> f32 {
        self.in_flight().saturating_add(1) as f32 / self.weight()
    }

    /// Its weight against others.
    #[must_use]
    pub fn weight(&self) -> f32 {
        f32::from_bits(self.hot.weight.load(Ordering::Relaxed))
    }

    pub(crate) fn set_weight(&self, weight: f32) {
        self.hot.weight.store(weight.to_bits(), Ordering::Relaxed);
    }

    /// The share of its traffic that an endpoint gets which is starting: from a tenth to all of it.
    #[must_use]
    pub fn warmth(&self, now: Duration) -> f32 {
        let began = self.hot.ramp.load(Ordering::Relaxed);
        if began == NEVER {
            return 1.0;
        }
        let (elapsed, whole) = (micros(now).saturating_sub(began), self.shared.slow_start());
        if elapsed >= whole {
            // Unless another one has begun meanwhile.
            let _ = self.hot.ramp.compare_exchange(began, NEVER, Ordering::Relaxed, Ordering::Relaxed);
            return 1.0;
        }
        (elapsed as f32 / whole as f32).max(COLD)
    }

    pub(crate) fn start_slowly(&self, now: Duration) {
        self.hot.ramp.store(micros(now), Ordering::Relaxed);
    }

    /// Whether it failed lately and has not made up for it.
    #[must_use]
    pub fn is_suspect(&self) -> bool {
        self.hot.suspicion.load(Ordering::Relaxed) > 0
    }

    /// Whether it is time to give a suspect a call that it would not have got; then to this caller only.
    pub(crate) fn take_trial(&self, now: Duration) -> bool {
        if !self.is_suspect() {
            return false;
        }
        let (tick, last) = (tick(now), self.hot.tried.load(Ordering::Relaxed));
        let elapsed = tick.wrapping_sub(last);
        (TRIAL..=u32::MAX / 2).contains(&elapsed)
            && self.hot.tried.compare_exchange(last, tick, Ordering::Relaxed, Ordering::Relaxed).is_ok()
    }

    /// Whether it cannot be reached, as whoever holds the connections says.
    #[must_use]
    pub fn is_down(&self) -> bool {
        self.hot.down.load(Ordering::Relaxed)
    }

    /// Says whether it can be reached.
    pub fn set_down(&self, down: bool) {
        if self.hot.down.swap(down, Ordering::AcqRel) != down {
            self.place.set_down(down);
            self.shared.changed();
        }
    }

    /// Whether it is left out for its failures, a probe on its way included.
    #[must_use]
    pub fn is_ejected(&self) -> bool {
        self.state() != IN
    }

    /// Why it is out, if it is.
    #[must_use]
    pub fn ejected(&self) -> Option<Ejected> {
        self.case().ejected.clone()
    }

    /// Ends an ejection by hand, and forgets what led to it.
    pub fn reset(&self, now: Duration) -> Option<Change> {
        self.shared.reset(self, now)
    }

    /// The share of successes among the calls of the last ten seconds, and how many these were.
    #[must_use]
    pub fn success_rate(&self, now: Duration) -> (Option<f64>, u64) {
        let counts = self.recent.counts(now);
        let calls = counts.calls.round() as u64;
        ((calls > 0).then(|| 1.0 - counts.failing()), calls)
    }

    pub(crate) fn counts(&self, now: Duration) -> Counts {
        self.recent.counts(now)
    }

    pub(crate) fn state(&self) -> u8 {
        self.hot.state.load(Ordering::Relaxed)
    }

    pub(crate) fn probe_at(&self) -> u64 {
        self.probe_at.load(Ordering::Relaxed)
    }

    /// Makes an endpoint that is out the probe's; only one caller gets it.
    pub(crate) fn claim_probe(&self) -> bool {
        let claimed =
            self.hot.state.compare_exchange(OUT, PROBING, Ordering::AcqRel, Ordering::Relaxed).is_ok();
        if claimed {
            self.shared.changed();
        }
        claimed
    }

    /// Out, until it may be probed.
    pub(crate) fn put_out(&self, probe_at: Duration) {
        self.probe_at.store(micros(probe_at), Ordering::Relaxed);
        self.hot.state.store(OUT, Ordering::Release);
        self.place.set_out(true);
    }

    /// Has it probed at once, if it is out and was not asked before its time so far.
    pub(crate) fn hurry(&self, now: Duration) -> bool {
        let mut case = self.case();
        let due = |ejected: &Ejected| ejected.probe_at > now && now.saturating_sub(ejected.since) >= SETTLED;
        if case.hurried || self.state() != OUT || !case.ejected.as_ref().is_some_and(due) {
            return false;
        }
        case.hurried = true;
        if let Some(ejected) = &mut case.ejected {
            ejected.probe_at = now;
        }
        self.probe_at.store(micros(now), Ordering::Relaxed);
        true
    }

    /// Back in: what it took while it was ill is forgotten, and half of what it takes to be out again is not.
    pub(crate) fn put_in(&self, prior: Duration, suspicion: u32, now: Duration) {
        self.hot.average.reset(prior, now);
        self.hot.borne_out.store(0, Ordering::Relaxed);
        self.recent.clear();
        self.hot.suspicion.store(suspicion, Ordering::Relaxed);
        // Its failures from before count as much as the suspicion does.
        self.spell.begin(now, suspicion / FAILED);
        self.start_slowly(now);
        self.probe_at.store(NEVER, Ordering::Relaxed);
        self.hot.state.store(IN, Ordering::Release);
        self.place.set_out(false);
    }

    pub(crate) fn case(&self) -> std::sync::MutexGuard<'_, Case> {
        self.case.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests;
