//! Ejection: who is left out for a while, on what evidence, and how it comes back.
//!
//! Two kinds of evidence. *Failures in a row, or nearly so*, work from two endpoints on: each failure
//! counts one, each success takes a quarter back, so that an endpoint that fails every second call is
//! found as well as one that fails all. *Outliers*, gRPC's A50, compare success rates where five or more
//! endpoints have calls enough, and ask for more than chance explains. Neither ejects when the others fail as much: then it is the service that
//! is ill, or the callers' requests, and not an instance.
//!
//! At most a share of the endpoints is out, one always may be, the last never. An endpoint that is out
//! gets one call at a time once its wait is over; when enough of these succeed it is back, and starts
//! slowly. Every lock here is taken on failures and transitions only, never by a pick.

use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use crate::backend::{Counts, FAILED, IN, OUT, PROBING};
use crate::board::{Board, Seats};
use crate::table::Table;
use crate::traffic::{Ejection, Traffic};
use crate::{Backend, Outcome, micros, mix};

/// After so long without an ejection the next one counts as the first.
const FORGIVEN: Duration = Duration::from_secs(60);

/// How much of a wait is left to chance, so that callers do not probe together.
const JITTER: f64 = 0.2;

/// So many standard errors of its own success rate are chance.
const CHANCE: f64 = 3.0;

/// So many others are asked how they fare, before somebody is ejected for failures.
const WITNESSES: usize = 64;

/// So many are asked what they take, for the median: enough to be near it.
const ASKED: usize = 128;

/// How long an ejection that was not granted is not asked for again: the question costs a look at all.
const RECESS: u64 = 100_000;

/// More suspicion than there ever is.
const NEVER: u32 = u32::MAX / 2;

/// What became of an endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// It gets no calls for a while; [`Backend::ejected`] says why.
    Ejected,
    /// It gets calls again.
    Returned,
}

/// An ejection, as people want to know it.
#[derive(Clone, Debug, PartialEq)]
pub struct Ejected {
    /// What it was found to do.
    pub reason: Reason,
    /// Since when, on the clock of whoever asks the balancer.
    pub since: Duration,
    /// When a call may find out whether it is well again.
    pub probe_at: Duration,
    /// How many times in a row, this one included.
    pub times: u32,
}

/// The evidence for an ejection. Its text is for people.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub enum Reason {
    /// Failures with hardly a success between them.
    Failures {
        /// So many failures …
        failed: u64,
        /// … of so many calls of the last ten seconds.
        calls: u64,
        /// The share of failures of the others meanwhile.
        others: f64,
    },
    /// A success rate far below that of the others.
    Outlier {
        /// Its success rate.
        rate: f64,
        /// The least that would have passed.
        bound: f64,
        /// Of so many calls of the last ten seconds.
        calls: u64,
    },
    /// More failures than are borne from anybody.
    Failing {
        /// Its share of failures.
        share: f64,
        /// Of so many calls of the last ten seconds.
        calls: u64,
    },
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let percent = |share: f64| (share * 100.0).round();
        match *self {
            Self::Failures { failed, calls, others } => {
                write!(f, "{failed} of the last {calls} calls failed, of the others' {} %", percent(others))
            }
            Self::Outlier { rate, bound, calls } => {
                let (rate, bound) = (percent(rate), percent(bound));
                write!(
                    f,
                    "{rate} % of the last {calls} calls succeeded, the others' spread begins at {bound} %"
                )
            }
            Self::Failing { share, calls } => {
                write!(f, "{} % of the last {calls} calls failed", percent(share))
            }
        }
    }
}

/// What all endpoints of a roster share.
#[derive(Debug)]
pub(crate) struct Shared {
    /// Grows whenever somebody goes out, comes in or changes otherwise; sets look whether it did.
    version: AtomicU64,
    /// The suspicion from which on an ejection is considered.
    enough: AtomicU32,
    slow_start: AtomicU64,
    /// Work in flight is summed up only where somebody asks for the sum.
    counting: AtomicBool,
    in_flight: AtomicI64,
    /// Something failed since the outliers were looked for.
    troubled: AtomicBool,
    /// No ejection for failures is considered before.
    recess: AtomicU64,
    court: Mutex<Court>,
}

#[derive(Debug, Default)]
struct Court {
    /// Owned by the roster: who is there knows what they share, and not the other way round.
    present: Weak<Present>,
    rules: Ejection,
}

/// Who is there.
#[derive(Debug, Default)]
pub(crate) struct Present {
    pub(crate) backends: Table<Arc<Backend>>,
    pub(crate) seats: Box<[u32]>,
    pub(crate) members: Seats,
    pub(crate) board: Board,
}

impl Default for Shared {
    fn default() -> Self {
        Self {
            version: AtomicU64::new(1),
            enough: AtomicU32::new(NEVER),
            slow_start: AtomicU64::new(0),
            counting: AtomicBool::new(false),
            in_flight: AtomicI64::new(0),
            troubled: AtomicBool::new(false),
            recess: AtomicU64::new(0),
            court: Mutex::default(),
        }
    }
}

// === impl Shared ===

impl Shared {
    /// Takes over who is there.
    pub(crate) fn seat(&self, present: &Arc<Present>) {
        self.court().present = Arc::downgrade(present);
        self.changed();
    }

    /// Takes over the policy.
    pub(crate) fn configure(&self, traffic: &Traffic, counting: bool) {
        let rules = traffic.ejection.clone();
        let enough =
            if rules.failures == 0 { NEVER } else { rules.failures.saturating_mul(FAILED).min(NEVER) };
        self.enough.store(enough, Ordering::Relaxed);
        self.slow_start.store(micros(traffic.slow_start), Ordering::Relaxed);
        self.counting.store(counting, Ordering::Relaxed);
        let mut court = self.court();
        court.rules = rules;
        self.count(&court.present());
        drop(court);
        self.changed();
    }

    /// Counts the work in flight anew: for what began before counting did, and what those took along who left.
    fn count(&self, present: &Present) {
        if self.counting.load(Ordering::Relaxed) {
            let sum = present.iter().map(|backend| i64::from(backend.in_flight())).sum();
            self.in_flight.store(sum, Ordering::Relaxed);
        }
    }

    pub(crate) fn version(&self) -> u64 {
        self.version.load(Ordering::Acquire)
    }

    pub(crate) fn changed(&self) {
        self.version.fetch_add(1, Ordering::Release);
    }

    pub(crate) fn begin(&self) {
        if self.counting.load(Ordering::Relaxed) {
            self.in_flight.fetch_add(1, Ordering::Relaxed);
        }
    }

    pub(crate) fn end(&self) {
        if self.counting.load(Ordering::Relaxed) {
            self.in_flight.fetch_sub(1, Ordering::Relaxed);
        }
    }

    /// All work in flight, where it is counted.
    pub(crate) fn in_flight(&self) -> u64 {
        self.in_flight.load(Ordering::Relaxed).max(0) as u64
    }

    pub(crate) fn slow_start(&self) -> u64 {
        self.slow_start.load(Ordering::Relaxed)
    }

    pub(crate) fn note_trouble(&self) {
        if !self.troubled.load(Ordering::Relaxed) {
            self.troubled.store(true, Ordering::Relaxed);
        }
    }

    /// The suspicion from which on an ejection is considered.
    pub(crate) fn enough(&self) -> u32 {
        self.enough.load(Ordering::Relaxed)
    }

    /// Holds the lock, to show who waits for it.
    #[cfg(test)]
    pub(crate) fn hold(&self) -> impl Sized + '_ {
        self.court()
    }

    fn court(&self) -> MutexGuard<'_, Court> {
        self.court.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ejects an endpoint that failed too often, unless the others fare no better.
    pub(crate) fn eject_for_failures(&self, backend: &Backend, now: Duration) -> Option<Change> {
        if backend.state() != IN || micros(now) < self.recess.load(Ordering::Relaxed) {
            return None;
        }
        let court = self.court();
        let present = court.present();
        let (own, others) = (backend.counts(now), witnesses(&present, backend, now));
        if others.calls >= 5.0 && others.failing() * 2.0 >= own.failing() {
            self.recess.store(micros(now) + RECESS, Ordering::Relaxed);
            return None;
        }
        let reason = Reason::Failures {
            failed: own.failures.round() as u64,
            calls: own.calls.round() as u64,
            others: others.failing(),
        };
        self.eject(&court, &present, backend, reason, now)
    }

    /// Looks for outliers; cheap while nothing fails.
    pub(crate) fn sweep(&self, now: Duration) -> Vec<Arc<Backend>> {
        let (troubled, counting) =
            (self.troubled.swap(false, Ordering::Relaxed), self.counting.load(Ordering::Relaxed));
        if !troubled && !counting {
            return Vec::new();
        }
        let court = self.court();
        self.count(&court.present());
        if !troubled {
            return Vec::new();
        }
        let rules = &court.rules.outliers;
        let present = court.present();
        let measured = |calls: f64| {
            let inside = present.iter().filter(|backend| backend.state() == IN);
            let counted = inside.map(|backend| (backend, backend.counts(now)));
            counted.filter(|(_, counts)| counts.calls >= calls).collect::<Vec<_>>()
        };
        let (enough, half) = (f64::from(rules.calls), f64::from(rules.calls) / 2.0);
        let mut found = Vec::new();
        let rates = measured(enough);
        if rules.hosts > 0 && rates.len() >= rules.hosts as usize {
            let rate = |counts: &Counts| 1.0 - counts.failing();
            let mean = rates.iter().map(|(_, counts)| rate(counts)).sum::<f64>() / rates.len() as f64;
            let square = rates.iter().map(|(_, counts)| (rate(counts) - mean).powi(2)).sum::<f64>();
            let spread = mean - rules.deviations * (square / rates.len() as f64).sqrt();
            for (backend, counts) in &rates {
                // Of equal endpoints one is the last all the same: it must also be further off than chance
                // explains.
                let chance = CHANCE * (mean * (1.0 - mean) / counts.calls).sqrt();
                let (rate, bound) = (rate(counts), spread.min(mean - chance));
                if rate < bound {
                    let calls = counts.calls.round() as u64;
                    found.push((*backend, Reason::Outlier { rate, bound, calls }));
                }
            }
        }
        let shares = measured(half);
        if rules.hosts > 0 && shares.len() >= rules.hosts as usize {
            for (backend, counts) in shares.iter().filter(|(_, counts)| counts.failing() >= rules.failing) {
                let calls = counts.calls.round() as u64;
                found.push((*backend, Reason::Failing { share: counts.failing(), calls }));
            }
        }
        let granted = found
            .into_iter()
            .filter(|(backend, reason)| self.eject(&court, &present, backend, *reason, now).is_some());
        granted.map(|(backend, _)| Arc::clone(backend)).collect()
    }

    fn eject(
        &self,
        court: &Court,
        present: &Present,
        backend: &Backend,
        reason: Reason,
        now: Duration,
    ) -> Option<Change> {
        if backend.state() != IN || !present.has(backend) {
            return None;
        }
        let tally = present.board.tally(&present.members);
        let (out, others) = (tally.out as usize, tally.fit > u32::from(!backend.is_down()));
        let share = (present.seats.len() as f64 * court.rules.max_share) as usize;
        let most = if court.rules.max_share > 0.0 { share.max(1) } else { 0 };
        if !others || out >= most {
            self.recess.store(micros(now) + RECESS, Ordering::Relaxed);
            return None;
        }
        let mut case = backend.case();
        if now.saturating_sub(case.returned) >= FORGIVEN {
            case.times = 0;
        }
        case.times += 1;
        case.passed = 0;
        let probe_at = now + wait(&court.rules, case.times, backend, now);
        case.ejected = Some(Ejected { reason, since: now, probe_at, times: case.times });
        drop(case);
        backend.put_out(probe_at);
        self.changed();
        Some(Change::Ejected)
    }

    /// A probe ended.
    pub(crate) fn probed(&self, backend: &Backend, outcome: Outcome, now: Duration) -> Option<Change> {
        let court = self.court();
        let mut case = backend.case();
        if backend.state() != PROBING {
            return None;
        }
        let probe_at = match outcome {
            Outcome::Success => {
                case.passed += 1;
                if case.passed >= court.rules.probes {
                    case.ejected = None;
                    case.returned = now;
                    drop(case);
                    let parole =
                        if court.rules.failures == 0 { 0 } else { court.rules.failures * FAILED / 2 };
                    backend.put_in(court.median(backend, now), parole, now);
                    self.changed();
                    return Some(Change::Returned);
                }
                // The next one at once.
                now
            }
            Outcome::Failure => {
                case.passed = 0;
                case.times = case.times.saturating_add(1);
                now + wait(&court.rules, case.times, backend, now)
            }
            // Alive, and too busy to tell more.
            Outcome::Rejected { after } => {
                let wait = wait(&court.rules, 1, backend, now).max(after.unwrap_or_default());
                now + wait.min(court.rules.max_wait)
            }
            Outcome::Neutral => now + wait(&court.rules, 1, backend, now),
        };
        let times = case.times;
        if let Some(ejected) = &mut case.ejected {
            (ejected.probe_at, ejected.times) = (probe_at, times);
        }
        drop(case);
        backend.put_out(probe_at);
        self.changed();
        None
    }

    /// A probe that told nothing; the next call may try.
    pub(crate) fn probe_abandoned(&self, backend: &Backend, now: Duration) {
        let case = backend.case();
        if backend.state() == PROBING {
            backend.put_out(now);
            drop(case);
            self.changed();
        }
    }

    pub(crate) fn reset(&self, backend: &Backend, now: Duration) -> Option<Change> {
        let court = self.court();
        let mut case = backend.case();
        let was_out = matches!(backend.state(), OUT | PROBING);
        (case.ejected, case.times, case.passed) = (None, 0, 0);
        drop(case);
        backend.put_in(court.median(backend, now), 0, now);
        self.changed();
        was_out.then_some(Change::Returned)
    }
}

// === impl Court ===

impl Court {
    fn present(&self) -> Arc<Present> {
        self.present.upgrade().unwrap_or_default()
    }

    /// What the others take.
    fn median(&self, backend: &Backend, now: Duration) -> Duration {
        let present = self.present();
        median(&present.backends, &present.seats, Some(backend), now)
    }
}

// === impl Present ===

impl Present {
    fn iter(&self) -> impl Iterator<Item = &Arc<Backend>> {
        self.sample(usize::MAX)
    }

    /// About so many of them, from everywhere; all, where there are no more.
    fn sample(&self, most: usize) -> impl Iterator<Item = &Arc<Backend>> {
        sample(&self.backends, &self.seats, most)
    }

    fn has(&self, backend: &Backend) -> bool {
        self.backends.get(backend.seat() as usize).is_some_and(|one| std::ptr::eq(&**one, backend))
    }
}

/// Twice as long each time, less a little chance that follows from who it is and when.
fn wait(rules: &Ejection, times: u32, backend: &Backend, now: Duration) -> Duration {
    let doubled = 1u32.checked_shl(times.saturating_sub(1).min(31)).unwrap_or(u32::MAX);
    let wait = rules.min_wait.saturating_mul(doubled).min(rules.max_wait);
    let chance = (mix(backend.key() ^ micros(now)) >> 11) as f64 / (1u64 << 53) as f64;
    wait.mul_f64(1.0 - JITTER * chance)
}

/// How some of the others fare together.
fn witnesses(present: &Present, backend: &Backend, now: Duration) -> Counts {
    let others =
        present.sample(WITNESSES).filter(|other| !std::ptr::eq(&***other, backend) && other.state() == IN);
    others.map(|other| other.counts(now)).fold(Counts::default(), |sum, counts| Counts {
        calls: sum.calls + counts.calls,
        failures: sum.failures + counts.failures,
    })
}

fn sample<'a>(
    backends: &'a Table<Arc<Backend>>,
    seats: &'a [u32],
    most: usize,
) -> impl Iterator<Item = &'a Arc<Backend>> {
    let step = seats.len().div_ceil(most).max(1);
    seats.iter().step_by(step).filter_map(|&seat| backends.get(seat as usize))
}

/// What those take that are in, without one of them. Of many only some are asked; which, has nothing to do with how
/// they fare.
pub(crate) fn median(
    backends: &Table<Arc<Backend>>,
    seats: &[u32],
    without: Option<&Backend>,
    now: Duration,
) -> Duration {
    let is_other = |other: &Backend| without.is_none_or(|without| !std::ptr::eq(other, without));
    let others = sample(backends, seats, ASKED).filter(|other| is_other(other) && other.state() == IN);
    middle(others.map(|other| other.latency(now)).collect())
}

/// The median, the lower one of two: an endpoint that is taken for too fast is soon known better, one
/// that is taken for too slow is not asked. Zero for none.
fn middle(mut all: Vec<Duration>) -> Duration {
    if all.is_empty() {
        return Duration::ZERO;
    }
    let at = (all.len() - 1) / 2;
    *all.select_nth_unstable(at).1
}
