//! The gate in front of dispatch: counts what is worked on, lets calls wait, turns calls away.
//!
//! While there is room a call costs two atomics on its way in and one lock that nobody is waited for on
//! its way out. Locks are held for a few comparisons and never across an await.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use formic_core::{Error, Shed};
use formic_telemetry::Overload;
use http::HeaderName;
use tokio::sync::oneshot;
use tokio::time::{Instant, timeout_at};

use super::gradient::{self, Gradient, Sample};
use super::queue::{Patience, Queue};
use super::rate::{self, Limiter};
use super::{Config, Head, Priority};

/// Push-back to callers who were turned away: long enough to be of use, short enough not to be noticed once
/// there is room again.
const MIN_PUSHBACK: Duration = Duration::from_millis(50);
const MAX_PUSHBACK: Duration = Duration::from_secs(1);

/// The peer of calls from within the process. What they are made for was let in already; if they had to wait
/// for a place, those who hold the places would wait for them.
const IN_PROCESS: &str = "in-process";

/// Decides which calls are worked on, and when.
#[derive(Debug)]
pub struct Gate {
    origin: Instant,
    limit: AtomicUsize,
    /// No more than the limit.
    room: AtomicUsize,
    working: AtomicUsize,
    waiting: AtomicUsize,
    /// Methods that are slow by nature do not count.
    slow: Box<[AtomicBool]>,
    core: Mutex<Core>,
    limiters: Vec<Limiter>,
    exempt: Vec<String>,
    adaptive: bool,
    priority: Option<HeaderName>,
    metrics: Arc<Overload>,
}

#[derive(Debug)]
struct Core {
    gradient: Gradient,
    queue: Queue<Waiter>,
}

/// What a call is told that waits.
type Told = Result<Permit, Shed>;

/// A call that waits.
#[derive(Debug)]
struct Waiter {
    method: usize,
    turn: oneshot::Sender<Told>,
}

/// What became of a call at the gate.
#[derive(Debug)]
pub enum Entry {
    /// The limit is not about it.
    Free,
    /// There is room.
    Open(Permit),
    /// There may be room soon.
    Wait(Box<Turn>),
}

impl Gate {
    /// An open gate for so many methods.
    #[must_use]
    pub fn new(config: &Config, max_in_flight: usize, methods: usize, metrics: Arc<Overload>) -> Self {
        let limits = gradient::Config { floor: config.min_in_flight, ceiling: max_in_flight };
        let gradient = Gradient::new(limits, methods);
        metrics.limit(gradient.limit());
        Self {
            origin: Instant::now(),
            limit: AtomicUsize::new(gradient.limit()),
            room: AtomicUsize::new(gradient.room()),
            working: AtomicUsize::new(0),
            waiting: AtomicUsize::new(0),
            slow: (0..methods).map(|_| AtomicBool::new(false)).collect(),
            core: Mutex::new(Core { gradient, queue: Queue::new(config.queue) }),
            limiters: config.rates.iter().cloned().map(Limiter::new).collect(),
            exempt: config.exempt.clone(),
            adaptive: config.adaptive,
            priority: config.priority.clone(),
            metrics,
        }
    }

    /// Whether the adaptive limit is about a method.
    #[must_use]
    pub fn limits(&self, path: &str) -> bool {
        self.adaptive && !self.exempt.iter().any(|pattern| rate::matches(pattern, path))
    }

    /// How many calls are worked on at a time.
    #[must_use]
    pub fn limit(&self) -> usize {
        self.limit.load(Ordering::Relaxed)
    }

    /// How much a call matters, as its metadata says.
    #[must_use]
    pub fn priority(&self, head: &Head<'_>) -> Priority {
        let header = self.priority.as_ref();
        header.map_or(Priority::Normal, |header| Priority::of_headers(head.headers, header))
    }

    /// Holds a call against the rate limits.
    ///
    /// # Errors
    /// A refusal that says when there is room for one.
    pub fn rate(&self, head: &Head<'_>) -> Result<(), Error> {
        if self.limiters.is_empty() {
            return Ok(());
        }
        let now = self.now();
        let counts = || self.limiters.iter().filter(|limiter| limiter.applies(head.path));
        for (counted, limiter) in counts().enumerate() {
            if let Err(wait) = limiter.check(now, head) {
                // One that is turned away takes nothing from those who are let in: else a caller over its own limit
                // would use up what all of them share.
                counts().take(counted).for_each(|limiter| limiter.give_back(head));
                self.metrics.shed(Shed::Rate, self.priority(head));
                let message = format!("the rate limit {:?} is used up", limiter.name());
                return Err(Error::shed(Shed::Rate, message, wait));
            }
        }
        Ok(())
    }

    /// Takes back what the rate limits have counted of a call that was turned away for want of room: it had nothing for
    /// it, and may come again.
    pub fn give_back(&self, head: &Head<'_>) {
        let counts = self.limiters.iter().filter(|limiter| limiter.applies(head.path));
        counts.for_each(|limiter| limiter.give_back(head));
    }

    /// What they have counted of a call that waits, in case that it is turned away later.
    fn counted(&self, head: &Head<'_>) -> Counted {
        let counts = self.limiters.iter().enumerate().filter(|(_, limiter)| limiter.applies(head.path));
        Counted(counts.map(|(index, limiter)| (index, limiter.key(head).into_owned().into())).collect())
    }

    /// Lets a call in, has it wait, or turns it away.
    ///
    /// # Errors
    /// A refusal.
    pub fn enter(self: &Arc<Self>, method: Option<usize>, head: &Head<'_>) -> Result<Entry, Error> {
        let Some(method) = method else { return Ok(Entry::Free) };
        if head.peer.is_some_and(|peer| &*peer.0 == IN_PROCESS) {
            return Ok(Entry::Free);
        }
        let now = self.now();
        if self.slow[method].load(Ordering::Relaxed) {
            return Ok(Entry::Open(self.permit(method, now, 1, false)));
        }
        if self.waiting.load(Ordering::SeqCst) == 0
            && let Some(found) = self.take()
        {
            return Ok(Entry::Open(self.permit(method, now, found, true)));
        }
        self.queue(method, now, head)
    }

    /// The way of a call that finds no room.
    fn queue(self: &Arc<Self>, method: usize, now: Duration, head: &Head<'_>) -> Result<Entry, Error> {
        let priority = self.priority(head);
        let mut core = self.core();
        let core_ref = &mut *core;
        let mut turns = self.grant(core_ref, now);
        if core_ref.queue.is_empty()
            && let Some(found) = self.take()
        {
            drop(core);
            turns.announce();
            return Ok(Entry::Open(self.permit(method, now, found, true)));
        }
        core_ref.gradient.bound();
        let patience = Patience::of(core_ref.gradient.typical());
        let (turn, told) = oneshot::channel();
        let mut pushed = core_ref.queue.push(now, priority, Waiter { method, turn });
        if let Err(waiter) = pushed {
            // Some of those who wait may have left.
            core_ref.queue.forget(now, |waiter| waiter.turn.is_closed());
            pushed = core_ref.queue.push(now, priority, waiter);
        }
        let full = pushed.is_err();
        if let Ok(Some(pushed_out)) = pushed {
            turns.refuse(pushed_out, Shed::QueueFull);
        }
        self.waiting.store(core_ref.queue.len(), Ordering::SeqCst);
        // Somebody may have left between the look above and the store, and seen nobody waiting.
        turns.0.append(&mut self.grant(core_ref, now).0);
        drop(core);
        turns.announce();
        if full {
            return Err(self.refusal(Shed::QueueFull, priority, patience));
        }
        let counted = self.counted(head);
        Ok(Entry::Wait(Box::new(Turn { gate: Arc::clone(self), told, priority, patience, counted })))
    }

    /// Takes a place if there is one; says how many are taken then.
    fn take(&self) -> Option<usize> {
        let found = self.working.fetch_add(1, Ordering::SeqCst) + 1;
        if found <= self.room.load(Ordering::SeqCst) {
            self.metrics.began();
            return Some(found);
        }
        self.working.fetch_sub(1, Ordering::SeqCst);
        None
    }

    /// Gives free places to those who wait.
    fn grant(self: &Arc<Self>, core: &mut Core, now: Duration) -> Turns {
        let mut turns = Turns::default();
        if core.queue.is_empty() {
            return turns;
        }
        let patience = Patience::of(core.gradient.typical());
        let mut late = Vec::new();
        while let Some(found) = self.take() {
            let next = loop {
                match core.queue.pop(now, patience, &mut late) {
                    // Whoever has left needs no place.
                    Some(waiter) if waiter.turn.is_closed() => {}
                    next => break next,
                }
            };
            let Some(waiter) = next else {
                // Nobody is woken for it: nobody waits, and whoever comes looks again under the lock.
                self.metrics.ended();
                self.working.fetch_sub(1, Ordering::SeqCst);
                break;
            };
            turns.0.push((waiter.turn, Ok(self.permit(waiter.method, now, found, true))));
        }
        for waiter in late {
            turns.refuse(waiter, Shed::QueueDelay);
        }
        self.waiting.store(core.queue.len(), Ordering::SeqCst);
        self.metrics.queued(core.queue.len());
        turns
    }

    fn permit(self: &Arc<Self>, method: usize, began: Duration, found: usize, counted: bool) -> Permit {
        Permit { gate: Arc::clone(self), method, began, found, counted, end: End::GivenUp }
    }

    /// The refusal of a call, counted.
    pub(crate) fn refuse(&self, reason: Shed, head: &Head<'_>) -> Error {
        self.refusal(reason, self.priority(head), self.patience())
    }

    fn patience(&self) -> Patience {
        Patience::of(self.core().gradient.typical())
    }

    /// How long a place is kept for a call whose message is on its way: as long as a call of this kind would wait for one.
    pub(crate) fn keeps(&self, head: &Head<'_>) -> Duration {
        self.patience().most(self.priority(head))
    }

    fn refusal(&self, reason: Shed, priority: Priority, patience: Patience) -> Error {
        self.metrics.shed(reason, priority);
        // Those who were turned away together must not come back together.
        let after = (patience.interval * 2).clamp(MIN_PUSHBACK, MAX_PUSHBACK).mul_f64(0.5 + fastrand::f64());
        let message = match reason {
            Shed::InFlight => "the server has as many calls in flight as it takes",
            Shed::QueueFull => "the server is overloaded: too many calls wait for their turn",
            Shed::QueueDelay => "the server is overloaded: the call waited for its turn for too long",
            Shed::Rate => "a rate limit is used up",
            Shed::Memory => "the server holds as much of requests and answers as it may",
        };
        Error::shed(reason, message, after)
    }

    fn core(&self) -> MutexGuard<'_, Core> {
        self.core.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn now(&self) -> Duration {
        Instant::now().saturating_duration_since(self.origin)
    }
}

/// What those who waited are told once the lock is let go of: a permit that nobody takes ends at once, and
/// takes the lock to do so.
#[derive(Debug, Default)]
struct Turns(Vec<(oneshot::Sender<Told>, Told)>);

impl Turns {
    fn refuse(&mut self, waiter: Waiter, reason: Shed) {
        self.0.push((waiter.turn, Err(reason)));
    }

    fn announce(self) {
        for (turn, outcome) in self.0 {
            // Whoever left in this moment needs no answer; the place goes to the next by the permit's drop.
            if let Err(Ok(mut permit)) = turn.send(outcome) {
                permit.end = End::Unused;
            }
        }
    }
}

/// A call's turn, which is to come.
#[derive(Debug)]
pub struct Turn {
    gate: Arc<Gate>,
    told: oneshot::Receiver<Told>,
    priority: Priority,
    patience: Patience,
    counted: Counted,
}

/// The rate limits that have counted a call, and by which keys.
#[derive(Debug)]
struct Counted(Box<[(usize, Box<str>)]>);

impl Turn {
    /// Waits for it; not beyond the deadline, and not for long. Cancel safe: a turn that comes to nobody is
    /// given to the next.
    ///
    /// # Errors
    /// A refusal, also where the deadline passes first: no work was done, and that is what callers must know.
    pub async fn come(self, deadline: Option<Instant>) -> Result<Permit, Error> {
        // Who is next is decided when a call ends; this is for when none does.
        let most = Instant::now() + self.patience.most(self.priority);
        let until = deadline.map_or(most, |deadline| deadline.min(most));
        let reason = match timeout_at(until, self.told).await {
            Ok(Ok(Ok(permit))) => return Ok(permit),
            Ok(Ok(Err(reason))) => reason,
            Ok(Err(_)) | Err(_) => Shed::QueueDelay,
        };
        for (index, key) in &self.counted.0 {
            self.gate.limiters[*index].give_back_to(key);
        }
        Err(self.gate.refusal(reason, self.priority, self.patience))
    }
}

/// How the work on a call ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    /// Its caller left, or its deadline passed.
    GivenUp,
    Finished,
    /// Failures are quick or slow for reasons of their own.
    Failed,
    /// It never began.
    Unused,
}

/// A place among the calls that are worked on; given back by its drop.
#[derive(Debug)]
pub struct Permit {
    gate: Arc<Gate>,
    method: usize,
    began: Duration,
    found: usize,
    counted: bool,
    end: End,
}

impl Permit {
    /// The work has not begun: the call's message is on its way, which says nothing of the work.
    pub(crate) fn not_yet(&mut self) {
        self.end = End::Unused;
    }

    /// The work begins now.
    pub(crate) fn begins(&mut self) {
        self.began = self.gate.now();
        self.end = End::GivenUp;
    }

    /// Notes that the handler has answered.
    pub fn answered<T>(&mut self, outcome: &Result<T, Error>) {
        self.end = if outcome.is_ok() { End::Finished } else { End::Failed };
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        let gate = &self.gate;
        let now = gate.now();
        if matches!(self.end, End::Finished | End::GivenUp)
            // A sample more or less does not matter; waiting for others would.
            && let Ok(mut core) = gate.core.try_lock()
        {
            let took = now.saturating_sub(self.began);
            let finished = self.end == End::Finished;
            let sample = Sample { method: self.method, began: self.began, took, found: self.found, finished };
            core.gradient.sample(now, sample);
            gate.slow[self.method].store(core.gradient.is_slow(self.method), Ordering::Relaxed);
            gate.room.store(core.gradient.room(), Ordering::SeqCst);
            let limit = core.gradient.limit();
            if limit != gate.limit.load(Ordering::Relaxed) {
                gate.limit.store(limit, Ordering::SeqCst);
                gate.metrics.limit(limit);
            }
        }
        if !self.counted {
            return;
        }
        gate.metrics.ended();
        gate.working.fetch_sub(1, Ordering::SeqCst);
        if gate.waiting.load(Ordering::SeqCst) > 0 {
            let turns = gate.grant(&mut gate.core(), now);
            turns.announce();
        }
    }
}
