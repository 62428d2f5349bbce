//! Ejection: who is left out for a while, on what evidence, and how it comes back.
//!
//! Two kinds of evidence. *Failures in a row, or nearly so*, work from two endpoints on: each failure
//! counts one, each success takes a quarter back, so that an endpoint that fails every second call is
//! found as well as one that fails all; and what the others do must not explain it. *Outliers*, gRPC's A50, compare success rates where five or more
//! endpoints have calls enough, and ask for more than chance explains. Neither ejects when the others fail as much: then it is the service that
//! is ill, or the callers' requests, and not an instance.
//!
//! At most a share of the endpoints is out, one always may be, the last never. An endpoint that is out
//! gets one call at a time once its wait is over, or, once for each ejection, when another one ought to be out and there is no
//! room; when enough of these succeed it is back, and starts slowly. Every lock here is taken on failures and transitions only, never by a pick.

use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use crate::backend::{Counts, FAILED, FAILURE, IN, OUT, PROBING};
use crate::board::{Board, Seats};
use crate::load::Loads;
use crate::table::Table;
use crate::traffic::{Ejection, Traffic};
use crate::{Backend, Outcome, micros, mix};

mod evidence;

/// After so long without an ejection the next one counts as the first.
const FORGIVEN: Duration = Duration::from_secs(60);

/// How much of a wait is left to chance, so that callers do not probe together.
const JITTER: f64 = 0.2;

/// So many are asked what they take, for the median: enough to be near it.
const ASKED: usize = 128;

/// How long an ejection that was not granted is not asked for again: the question costs a look at all.
const RECESS: u64 = 100_000;

/// How long what all take counts as known, in microseconds: that question costs a look at many, too.
const FRESH: u64 = 100_000;

/// For so long it is taken for what it was while all of whom it is known fail, in microseconds.
const KEPT: u64 = 60_000_000;

/// More suspicion than there ever is.
const NEVER: u32 = u32::MAX / 2;

const NEVER_ASKED: u64 = u64::MAX;

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
        /// … of so many calls since it was last beyond suspicion.
        calls: u64,
        /// The share of failures of the others, of the last ten seconds.
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
    /// The work in flight of those parts whose policy asks for it.
    pub(crate) loads: Loads,
    /// Something failed since the outliers were looked for.
    troubled: AtomicBool,
    /// No ejection for failures is considered before.
    recess: AtomicU64,
    /// What an endpoint takes, as of then; in microseconds.
    usual: AtomicU64,
    usual_at: AtomicU64,
    /// When somebody was there to tell it.
    usual_known: AtomicU64,
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
    pub(crate) members: Seats,
    pub(crate) len: usize,
    pub(crate) board: Board,
}

impl Default for Shared {
    fn default() -> Self {
        Self {
            version: AtomicU64::new(1),
            enough: AtomicU32::new(NEVER),
            slow_start: AtomicU64::new(0),
            loads: Loads::default(),
            troubled: AtomicBool::new(false),
            recess: AtomicU64::new(0),
            usual: AtomicU64::new(0),
            usual_at: AtomicU64::new(NEVER_ASKED),
            usual_known: AtomicU64::new(0),
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
    pub(crate) fn configure(&self, traffic: &Traffic) {
        let rules = traffic.ejection.clone();
        let enough =
            if rules.failures == 0 { NEVER } else { rules.failures.saturating_mul(FAILED).min(NEVER) };
        self.enough.store(enough, Ordering::Relaxed);
        self.slow_start.store(micros(traffic.slow_start), Ordering::Relaxed);
        self.court().rules = rules;
        self.changed();
    }

    pub(crate) fn version(&self) -> u64 {
        self.version.load(Ordering::Acquire)
    }

    pub(crate) fn changed(&self) {
        self.version.fetch_add(1, Ordering::Release);
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

    /// What an endpoint takes that is well, as the one in the middle does. While that is not known of anybody it may be long: who
    /// hangs is found all the same by callers who give calls as much as they get by themselves.
    pub(crate) fn usual(&self, now: Duration) -> Duration {
        let (now_at, at) = (micros(now), self.usual_at.load(Ordering::Acquire));
        if at == NEVER_ASKED || now_at.saturating_sub(at) >= FRESH {
            let present = self.court().present();
            let all = || present.sample(ASKED).filter(|one| one.state() == IN);
            // Of those who failed lately the latency is partly what failures count as.
            let well =
                middle(all().filter(|one| !one.is_suspect()).filter_map(|one| one.known(now)).collect());
            if !well.is_zero() {
                self.usual.store(micros(well), Ordering::Relaxed);
                self.usual_known.store(now_at, Ordering::Relaxed);
            } else if at == NEVER_ASKED
                || now_at.saturating_sub(self.usual_known.load(Ordering::Relaxed)) >= KEPT
            {
                self.usual.store(micros(FAILURE), Ordering::Relaxed);
            }
            // Others who ask meanwhile find out by themselves, or take the answer before.
            self.usual_at.store(now_at, Ordering::Release);
        }
        Duration::from_micros(self.usual.load(Ordering::Relaxed))
    }

    /// Ejects an endpoint that failed too often, unless the others fare no better.
    pub(crate) fn eject_for_failures(&self, backend: &Backend, now: Duration) -> Option<Change> {
        if backend.state() != IN || micros(now) < self.recess.load(Ordering::Relaxed) {
            return None;
        }
        let course = backend.spell()?;
        let court = self.court();
        let present = court.present();
        let others = evidence::witnesses(&present, backend, course, now);
        if !evidence::is_own(course, others, now) {
            self.recess.store(micros(now) + RECESS, Ordering::Relaxed);
            return None;
        }
        let (failed, calls) = (course.failures.into(), course.calls.into());
        self.eject(&court, &present, backend, Reason::Failures { failed, calls, others: others.usual }, now)
    }

    /// Looks for outliers; cheap while nothing fails.
    pub(crate) fn sweep(&self, now: Duration) -> Vec<Arc<Backend>> {
        if !self.troubled.swap(false, Ordering::Relaxed) {
            return Vec::new();
        }
        let court = self.court();
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
                let (rate, calls) = (rate(counts), counts.calls);
                // Of equal endpoints one is the last all the same: it must also be further off than chance
                // explains.
                if rate < spread && evidence::is_no_chance(calls, 1.0 - rate, 1.0 - mean) {
                    found.push((
                        *backend,
                        Reason::Outlier { rate, bound: spread, calls: calls.round() as u64 },
                    ));
                }
            }
        }
        let shares = measured(half);
        if rules.hosts > 0 && shares.len() >= rules.hosts as usize {
            let sum: f64 = shares.iter().map(|(_, counts)| counts.failing()).sum();
            let others = |own: f64| (sum - own) / (shares.len() - 1).max(1) as f64;
            // Where the others fail half as much it is not the endpoint, however much that is.
            let is_too_much = |share: f64| share >= rules.failing && share >= 2.0 * others(share);
            for (backend, counts) in shares.iter().filter(|(_, counts)| is_too_much(counts.failing())) {
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
        let share = (present.len as f64 * court.rules.max_share) as usize;
        let most = if court.rules.max_share > 0.0 { share.max(1) } else { 0 };
        if !others || out >= most {
            self.recess.store(micros(now) + RECESS, Ordering::Relaxed);
            self.hurry(present, now);
            return None;
        }
        let mut case = backend.case();
        if now.saturating_sub(case.returned) >= FORGIVEN {
            case.times = 0;
        }
        case.times += 1;
        (case.passed, case.hurried) = (0, false);
        let probe_at = now + wait(&court.rules, case.times, backend, now);
        case.ejected = Some(Ejected { reason, since: now, probe_at, times: case.times });
        drop(case);
        backend.put_out(probe_at);
        self.changed();
        Some(Change::Ejected)
    }

    /// Those who are out take up the room that another needs: who of them is well again is to say so now, and not at the end of
    /// its wait.
    fn hurry(&self, present: &Present, now: Duration) {
        let mut any = false;
        present.board.find_out(&present.members, |seat| {
            any |= present.backends.get(seat).is_some_and(|backend| backend.hurry(now));
            false
        });
        if any {
            self.changed();
        }
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
        if !matches!(backend.state(), OUT | PROBING) {
            // Who was not out has nothing to come back from, and keeps what is known of it.
            return None;
        }
        (case.ejected, case.times, case.passed) = (None, 0, 0);
        drop(case);
        backend.put_in(court.median(backend, now), 0, now);
        self.changed();
        Some(Change::Returned)
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
        median(&present.backends, &present.members, Some(backend), now)
    }
}

// === impl Present ===

impl Present {
    fn iter(&self) -> impl Iterator<Item = &Arc<Backend>> {
        self.sample(usize::MAX)
    }

    /// About so many of them, from everywhere; all, where there are no more.
    fn sample(&self, most: usize) -> impl Iterator<Item = &Arc<Backend>> {
        sample(&self.backends, &self.members, most)
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

fn sample<'a>(
    backends: &'a Table<Arc<Backend>>,
    seats: &'a Seats,
    most: usize,
) -> impl Iterator<Item = &'a Arc<Backend>> {
    // Of members and not of seats: those who stay when most have gone may sit anywhere.
    let step = seats.count().div_ceil(most).max(1);
    seats.every(step).filter_map(|seat| backends.get(seat))
}

/// What those take that are in, without one of them, as far as this caller has measured it. Of many only some are asked;
/// which, has nothing to do with how they fare.
pub(crate) fn median(
    backends: &Table<Arc<Backend>>,
    seats: &Seats,
    without: Option<&Backend>,
    now: Duration,
) -> Duration {
    let is_other = |other: &&Arc<Backend>| without.is_none_or(|without| !std::ptr::eq(&***other, without));
    let mut others: Vec<_> = sample(backends, seats, ASKED).filter(is_other).collect();
    // All are read before any is reckoned with: the waits for memory overlap.
    others.retain(|other| other.state() == IN);
    middle(others.into_iter().filter_map(|other| other.measured(now)).collect())
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

#[cfg(test)]
mod tests;
