//! How many calls to work on at a time, found from how long they take. Pure: time is handed in.
//!
//! Each method has a *usual* latency, learnt while nothing is in the way. What counts is the *stretch* of a
//! call: how long it took against what is usual for its method, so that a change in the mix of methods is
//! no evidence. Where the calls of a window are stretched beyond what is tolerated, fewer are let in; that
//! is an experiment, and its outcome is looked at:
//!
//! - the stretch went down with the number of calls: there was a queue inside, and the cut stays;
//! - it did not: the calls are slow for a reason that letting in fewer does not change (a dependency, a
//!   colder cache). The cut is taken back, and the new latency is what is usual from now on.
//!
//! The limit starts at its ceiling. A service that is idle, or slow by nature, gives no evidence, and so is
//! never limited.

use std::time::Duration;

use super::reach::Reach;

/// How the limit is found.
#[derive(Clone, Copy, Debug)]
pub struct Config {
    /// The limit does not fall below this.
    pub floor: usize,
    /// It does not rise above this, and starts here.
    pub ceiling: usize,
}

/// Calls may be stretched by a third: the waiting within a busy server that is well used.
const TOLERANCE: f64 = 1.35;

/// Differences below are the scheduler's, not a queue's.
const NOISE: f64 = 0.001;

/// The least time between two decisions; one also takes [`SAMPLES`].
const WINDOW: Duration = Duration::from_millis(100);

/// Fewer say nothing about a mean.
const SAMPLES: u32 = 25;

/// Windows in a row that must be stretched before the first cut: one may be a pause of the machine.
const STRIKES: u32 = 2;

/// The deepest cut at once.
const CUT: f64 = 0.6;

/// The share of the hoped-for effect that a cut must have to be kept.
const EFFECT: f64 = 0.3;

/// With that share of it they were all in a queue.
const FULL: f64 = 0.75;

/// While calls are turned away, so often are fewer let in for one window, to see what is usual.
const PROBE_EVERY: Duration = Duration::from_secs(5);

/// The share that is let in meanwhile.
const PROBE: f64 = 0.7;

/// A limit that nobody reaches doubles in this time.
const RELAX: Duration = Duration::from_secs(5);

/// Samples after which a method's latency is taken for usual, at first.
const FIRST: u32 = 10;

/// The calls that end first are the quick ones. After so many times their latency the slow ones of the same
/// age have ended too, and a mean is one.
const SETTLE: f64 = 3.0;

/// Longer than that nothing is waited for.
const SETTLE_MOST: Duration = Duration::from_secs(10);

/// A method whose calls take longer by nature waits for something; limiting it helps nobody.
const SLOW: f64 = 1.0;

/// One stretched call says no more than this.
const MOST: f64 = 1000.0;

/// A call that is stretched by more than so many times what is common says no more than that: a method may have
/// a few calls that take a thousand times as long as its others, and they are no queue. A queue stretches all.
const OUTLIER: f64 = 4.0;

/// By how much one call changes the opinion of what is common: tenfold within the calls of a window.
const SWAY: f64 = 1.1;

/// What a method's calls take.
#[derive(Clone, Copy, Debug, Default)]
struct Usual {
    /// Seconds; none until there are samples.
    latency: Option<f64>,
    sum: f64,
    count: u32,
    /// When the last of the first calls was made.
    first: Duration,
}

/// What was seen since the last decision.
#[derive(Clone, Copy, Debug, Default)]
struct Window {
    since: Duration,
    count: u32,
    stretch: f64,
    squares: f64,
    /// Seconds.
    took: f64,
    /// Calls in flight that each sample found.
    found: f64,
    /// The most of these.
    most: f64,
    /// Somebody had to wait.
    bound: bool,
}

/// What came out of a window.
#[derive(Clone, Copy, Debug)]
struct Seen {
    stretch: f64,
    /// How far the mean may be off.
    doubt: f64,
    /// Seconds.
    took: f64,
    found: f64,
}

/// An experiment that is under way.
#[derive(Clone, Copy, Debug)]
enum Trial {
    /// Fewer are let in because calls are stretched.
    Cut { before: Seen, limit: f64 },
    /// Fewer are let in for one window.
    Probe { before: Seen, limit: f64 },
}

/// A call that ended.
#[derive(Clone, Copy, Debug)]
pub struct Sample {
    /// Which method, by the number that it was made known under.
    pub method: usize,
    /// When its work began.
    pub began: Duration,
    /// How long it took.
    pub took: Duration,
    /// How many calls were in flight when it began, itself included.
    pub found: usize,
    /// Whether it came to an end; else it was given up, and took at least so long.
    pub finished: bool,
}

/// The limit and what it follows from.
#[derive(Debug)]
pub struct Gradient {
    config: Config,
    limit: f64,
    usual: Vec<Usual>,
    /// What calls usually take, over all methods, in seconds.
    typical: f64,
    window: Window,
    /// Calls that began earlier were let in under another limit.
    epoch: Duration,
    /// Calls that ended earlier were the quick ones of their age.
    settled: Duration,
    trial: Option<Trial>,
    reach: Reach,
    /// As many calls are stretched by more as by less.
    common: f64,
    strikes: u32,
    /// Since when calls have been turned away without a probe.
    bound_since: Option<Duration>,
}

impl Gradient {
    /// For so many methods.
    #[must_use]
    pub fn new(config: Config, methods: usize) -> Self {
        let floor = config.floor.max(1);
        let config = Config { floor, ceiling: config.ceiling.max(floor) };
        Self {
            config,
            limit: config.ceiling as f64,
            usual: vec![Usual::default(); methods],
            typical: 0.0,
            window: Window::default(),
            epoch: Duration::ZERO,
            settled: Duration::ZERO,
            trial: None,
            reach: Reach::default(),
            common: 1.0,
            strikes: 0,
            bound_since: None,
        }
    }

    /// How many calls to work on at a time.
    #[must_use]
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "between floor and ceiling")]
    pub fn limit(&self) -> usize {
        self.limit as usize
    }

    /// How many calls to work on at a time as yet: the limit, or less where more were never seen to be well.
    #[must_use]
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "between floor and ceiling")]
    pub fn room(&self) -> usize {
        self.reach.most().map_or(self.limit, |most| self.clamp(most).min(self.limit)) as usize
    }

    /// What a call usually takes; zero while nothing is known.
    #[must_use]
    pub fn typical(&self) -> Duration {
        Duration::from_secs_f64(self.typical)
    }

    /// Whether a method is slow by nature, and so not limited.
    #[must_use]
    pub fn is_slow(&self, method: usize) -> bool {
        self.usual.get(method).and_then(|usual| usual.latency).is_some_and(|latency| latency > SLOW)
    }

    /// Notes that a call found no room.
    pub fn bound(&mut self) {
        self.window.bound = true;
    }

    /// Learns from a call that ended.
    pub fn sample(&mut self, now: Duration, sample: Sample) {
        let took = sample.took.as_secs_f64();
        let Some(usual) = self.usual.get_mut(sample.method) else { return };
        let Some(latency) = usual.latency else {
            if sample.finished {
                usual.begin(now, sample);
            }
            return;
        };
        // What was given up early says nothing of how long it would have taken.
        if !sample.finished && took <= latency * TOLERANCE {
            return;
        }
        let stretch = ((took + NOISE) / (latency + NOISE)).min(MOST);
        self.common *= if stretch > self.common { SWAY } else { 1.0 / SWAY };
        let at_most = OUTLIER * self.common.max(1.0);
        let (stretch, took) = (stretch.min(at_most), took.min((latency + NOISE) * at_most));
        if latency > SLOW {
            // It is not limited, so no window is about it; what is usual may change all the same.
            usual.take(took);
            if usual.count >= SAMPLES {
                usual.fold(true);
            }
            return;
        }
        if sample.began < self.epoch || now < self.settled {
            return;
        }
        usual.take(took);
        self.typical += (latency - self.typical) * if self.typical > 0.0 { 0.02 } else { 1.0 };
        let window = &mut self.window;
        window.count += 1;
        window.took += took;
        window.stretch += stretch;
        window.squares += stretch * stretch;
        window.found += sample.found as f64;
        window.most = window.most.max(sample.found as f64);
        self.reach.sample(now, sample.found as f64, stretch, TOLERANCE);
        if window.count >= SAMPLES && now.saturating_sub(window.since) >= WINDOW {
            self.decide(now);
        }
    }

    fn decide(&mut self, now: Duration) {
        let window = std::mem::replace(&mut self.window, Window { since: now, ..Window::default() });
        let count = f64::from(window.count);
        let mean = window.stretch / count;
        let variance = (window.squares / count - mean * mean).max(0.0);
        let seen = Seen {
            stretch: mean,
            doubt: (variance / count).sqrt(),
            took: window.took / count,
            found: window.found / count,
        };
        match self.trial.take() {
            Some(Trial::Cut { before, limit }) if useless(before, seen) => {
                self.accept();
                self.reach.forget();
                self.strikes = 0;
                return self.set(now, limit * 2.0, seen);
            }
            // Exactly as much quicker as they are fewer: all of it is waiting, so there is more to find.
            Some(Trial::Probe { before, .. }) if effect(before, seen) > FULL => {
                self.learn_down();
                self.trial = Some(Trial::Probe { before: seen, limit: self.limit });
                return self.set(now, self.limit * PROBE, seen);
            }
            Some(Trial::Probe { before, limit }) => {
                if before.stretch > 1.0 + NOISE && useless(before, seen) {
                    self.accept();
                } else {
                    self.learn(false);
                }
                return self.set(now, limit, seen);
            }
            Some(Trial::Cut { .. }) | None => {}
        }
        let limited = window.bound || self.bound_since.is_some();
        self.learn(!limited && seen.stretch <= TOLERANCE);
        if !window.bound {
            self.bound_since = None;
        }
        if self.stretched(seen, window.bound) {
            self.strikes += 1;
            if self.strikes >= STRIKES || window.bound {
                self.lower(now, seen);
            }
            return;
        }
        self.strikes = 0;
        if seen.stretch <= TOLERANCE {
            self.reach.well(now, window.most);
        }
        if window.bound {
            self.raise_or_probe(now, seen);
        } else if self.limit < self.config.ceiling as f64 {
            let doublings = now.saturating_sub(window.since).as_secs_f64() / RELAX.as_secs_f64();
            self.limit = (self.limit * doublings.exp2()).min(self.config.ceiling as f64);
        }
    }

    /// Whether the calls of a window are stretched beyond doubt; where the limit is at work already, a
    /// correction needs no proof.
    fn stretched(&self, seen: Seen, bound: bool) -> bool {
        let doubt = if bound { 0.0 } else { 3.0 * seen.doubt };
        seen.stretch - doubt > TOLERANCE && seen.found > self.config.floor as f64
    }

    fn lower(&mut self, now: Duration, seen: Seen) {
        let before = self.limit;
        let wanted = seen.found * (TOLERANCE / seen.stretch).max(CUT) + 1.0;
        // A correction of little is no experiment.
        if wanted < 0.85 * seen.found {
            self.trial = Some(Trial::Cut { before: seen, limit: before });
        }
        self.bound_since.get_or_insert(now);
        self.set(now, wanted.min(before), seen);
    }

    fn raise_or_probe(&mut self, now: Duration, seen: Seen) {
        let since = *self.bound_since.get_or_insert(now);
        if now.saturating_sub(since) >= PROBE_EVERY {
            self.bound_since = Some(now);
            self.trial = Some(Trial::Probe { before: seen, limit: self.limit });
            return self.set(now, self.limit * PROBE, seen);
        }
        self.limit = self.clamp(self.limit * (TOLERANCE / seen.stretch).clamp(1.0, TOLERANCE) + 1.0);
    }

    fn set(&mut self, now: Duration, limit: f64, seen: Seen) {
        self.limit = self.clamp(limit);
        self.epoch = now;
        self.settled = now + Duration::from_secs_f64(seen.took * SETTLE).min(SETTLE_MOST);
        for usual in &mut self.usual {
            if usual.latency.is_some() {
                usual.empty();
            }
        }
    }

    fn clamp(&self, limit: f64) -> f64 {
        limit.clamp(self.config.floor as f64, self.config.ceiling as f64)
    }

    /// Takes what was seen into what is usual; upwards only when nothing is in the way.
    fn learn(&mut self, upwards: bool) {
        for usual in &mut self.usual {
            if usual.latency.is_some() && usual.count >= FIRST {
                usual.fold(upwards);
            }
        }
    }

    /// What was seen is what is usual where it is less.
    fn learn_down(&mut self) {
        for usual in &mut self.usual {
            if usual.count > 0 {
                let mean = usual.empty();
                usual.latency = usual.latency.map(|latency| latency.min(mean));
            }
        }
    }

    /// What was seen is what is usual.
    fn accept(&mut self) {
        for usual in &mut self.usual {
            if usual.latency.is_some() && usual.count > 0 {
                let mean = usual.empty();
                usual.latency = Some(mean);
            }
        }
    }
}

impl Usual {
    /// The first calls of a method: those that began with the ones that ended first. Later ones may have met
    /// a backlog.
    fn begin(&mut self, now: Duration, sample: Sample) {
        if self.count < FIRST {
            self.first = self.first.max(sample.began);
        } else if sample.began > self.first {
            return self.settle(now);
        }
        self.take(sample.took.as_secs_f64());
        self.settle(now);
    }

    fn settle(&mut self, now: Duration) {
        let settle = Duration::from_secs_f64(self.sum / f64::from(self.count) * SETTLE).min(SETTLE_MOST);
        if self.count >= FIRST && now.saturating_sub(self.first) >= settle {
            let mean = self.empty();
            self.latency = Some(mean);
        }
    }

    fn take(&mut self, took: f64) {
        self.sum += took;
        self.count += 1;
    }

    fn empty(&mut self) -> f64 {
        let mean = self.sum / f64::from(self.count.max(1));
        (self.sum, self.count) = (0.0, 0);
        mean
    }

    fn fold(&mut self, upwards: bool) {
        let count = f64::from(self.count);
        let mean = self.empty();
        let Some(latency) = &mut self.latency else { return };
        // Down quickly, for nothing but an idle server is quick by chance; up slowly.
        let weight = match (mean < *latency, upwards) {
            (true, _) => 0.5 * count / (count + 40.0),
            (false, true) => 0.1 * count / (count + 10.0),
            (false, false) => 0.0,
        };
        *latency += (mean - *latency) * weight;
    }
}

/// How much of the hoped-for effect it had to let in fewer: 1 if calls were quicker by as much as they were
/// fewer, 0 if they were not quicker at all.
fn effect(before: Seen, after: Seen) -> f64 {
    let fewer = after.found / before.found;
    // Hardly fewer: nothing was tried.
    if fewer < 0.9 { (1.0 - after.stretch / before.stretch) / (1.0 - fewer) } else { EFFECT }
}

/// Whether letting in fewer changed nothing.
fn useless(before: Seen, after: Seen) -> bool {
    effect(before, after) < EFFECT
}

#[cfg(test)]
mod tests;
