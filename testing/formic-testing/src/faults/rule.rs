//! Which calls meet which fault, how often, and how often they did.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::{Fault, Inner};

/// How often a fault happens.
#[derive(Clone, Copy, Debug)]
enum Plan {
    Times(usize),
    Always,
    Chance(f64),
}

#[derive(Clone, Debug)]
struct Entry {
    fault: Fault,
    from: Option<String>,
    to: Option<String>,
    method: Option<String>,
    plan: Plan,
    /// So many calls are let through first.
    skip: usize,
    /// How many calls or connections were told to meet it.
    dealt: usize,
    /// How many have: a connection may end before its fault was due.
    happened: usize,
    expected: bool,
    stopped: bool,
}

/// The fault of a connection, to come.
#[derive(Debug)]
pub(crate) struct Dealt {
    pub(crate) fault: Fault,
    inner: Arc<Inner>,
    index: usize,
    struck: AtomicBool,
}

/// All of them, in the order in which they were made; a call meets the first that is about it.
#[derive(Debug)]
pub(super) struct Rules {
    entries: Vec<Entry>,
    random: fastrand::Rng,
}

impl Rules {
    pub(super) fn new(seed: u64) -> Self {
        Self { entries: Vec::new(), random: fastrand::Rng::with_seed(seed) }
    }

    /// The fault for a call or connection of this kind, and whose it is.
    pub(super) fn deal(
        &mut self,
        from: Option<&str>,
        to: Option<&str>,
        method: Option<&str>,
    ) -> Option<(Fault, usize)> {
        let fits = |wanted: &Option<String>, is: Option<&str>| wanted.is_none() || wanted.as_deref() == is;
        for (index, entry) in self.entries.iter_mut().enumerate() {
            let about = fits(&entry.from, from) && fits(&entry.to, to) && fits(&entry.method, method);
            if !about || entry.stopped || matches!(entry.plan, Plan::Times(times) if entry.dealt >= times) {
                continue;
            }
            if entry.skip > 0 {
                entry.skip -= 1;
                continue;
            }
            if let Plan::Chance(chance) = entry.plan
                && self.random.f64() >= chance
            {
                continue;
            }
            entry.dealt += 1;
            return Some((entry.fault.clone(), index));
        }
        None
    }

    /// What was dealt has happened.
    pub(super) fn strike(&mut self, index: usize) {
        self.entries[index].happened += 1;
    }

    /// What was dealt has not happened and cannot any more, so another one may meet it.
    fn give_back(&mut self, index: usize) {
        self.entries[index].dealt -= 1;
    }

    pub(super) fn happened(&self) -> usize {
        self.entries.iter().map(|entry| entry.happened).sum()
    }

    pub(super) fn left(&self) -> usize {
        let left = |entry: &Entry| match entry.plan {
            Plan::Times(times) if !entry.stopped => times - entry.happened.min(times),
            _ => 0,
        };
        self.entries.iter().map(left).sum()
    }

    pub(super) fn missing(&self) -> Vec<String> {
        let missing = self.entries.iter().filter(|entry| entry.expected && entry.happened == 0);
        let name = |name: &Option<String>| name.clone().unwrap_or_else(|| "anybody".into());
        missing
            .map(|entry| {
                let method = entry.method.as_ref().map(|method| format!(" in {method}")).unwrap_or_default();
                format!("{:?} from {} to {}{method}", entry.fault, name(&entry.from), name(&entry.to))
            })
            .collect()
    }
}

// === impl Dealt ===

impl Dealt {
    pub(super) fn new(inner: Arc<Inner>, (fault, index): (Fault, usize)) -> Self {
        Self { fault, inner, index, struck: AtomicBool::new(false) }
    }

    /// It happens, which counts once.
    pub(crate) fn strike(&self) {
        if !self.struck.swap(true, Ordering::AcqRel) {
            self.inner.rules().strike(self.index);
        }
    }
}

impl Drop for Dealt {
    fn drop(&mut self) {
        if !self.struck.load(Ordering::Acquire) {
            self.inner.rules().give_back(self.index);
        }
    }
}

/// The calls that a fault is about, and how many of them meet it: once, unless said otherwise.
#[derive(Debug)]
#[must_use = "nothing happens until the calls meet a fault"]
pub struct Calls {
    inner: Arc<Inner>,
    from: Option<String>,
    to: Option<String>,
    method: Option<String>,
    plan: Plan,
    skip: usize,
    expected: bool,
}

impl Calls {
    pub(super) fn new(inner: Arc<Inner>) -> Self {
        Self { inner, from: None, to: None, method: None, plan: Plan::Times(1), skip: 0, expected: true }
    }

    /// Of this caller.
    pub fn from(mut self, name: &str) -> Self {
        self.from = Some(name.into());
        self
    }

    /// To this service.
    pub fn to(mut self, name: &str) -> Self {
        self.to = Some(name.into());
        self
    }

    /// Of this method, `/package.Service/Method`. Connections have none.
    pub fn method(mut self, path: &str) -> Self {
        self.method = Some(path.into());
        self
    }

    /// The next so many.
    pub fn times(mut self, times: usize) -> Self {
        self.plan = Plan::Times(times);
        self
    }

    /// All of them, until the rule is stopped.
    pub fn always(mut self) -> Self {
        self.plan = Plan::Always;
        self
    }

    /// Each with this probability.
    pub fn chance(mut self, chance: f64) -> Self {
        self.plan = Plan::Chance(chance);
        self
    }

    /// Only after so many that are let through.
    pub fn after(mut self, calls: usize) -> Self {
        self.skip = calls;
        self
    }

    /// It is no failure of the test if none comes.
    pub fn optional(mut self) -> Self {
        self.expected = false;
        self
    }

    /// What they meet, from now on.
    pub fn meet(self, fault: Fault) -> Rule {
        let Self { inner, from, to, method, plan, skip, expected } = self;
        let (dealt, happened, stopped) = (0, 0, false);
        let entry = Entry { fault, from, to, method, plan, skip, dealt, happened, expected, stopped };
        let mut rules = inner.rules();
        let index = rules.entries.len();
        rules.entries.push(entry);
        drop(rules);
        Rule { inner, index }
    }
}

/// A fault that was ordered.
#[derive(Clone, Debug)]
pub struct Rule {
    inner: Arc<Inner>,
    index: usize,
}

impl Rule {
    /// How often it has happened.
    #[must_use]
    pub fn happened(&self) -> usize {
        self.inner.rules().entries[self.index].happened
    }

    /// It happens no more.
    pub fn stop(&self) {
        self.inner.rules().entries[self.index].stopped = true;
    }
}

#[cfg(test)]
mod tests {
    use super::super::Faults;
    use super::*;

    #[test]
    fn the_first_that_fits_happens_as_often_as_it_was_told() {
        let faults = Faults::new();
        let calls = || faults.calls().to("payment").method("/p.P/Pay");
        let twice = calls().times(2).meet(Fault::Drop);
        let later = calls().after(1).meet(Fault::Reset);
        let all = faults.calls().from("order").always().meet(Fault::Refuse);
        let take = |from, to| faults.0.take(Some(from), Some(to), Some("/p.P/Pay"));
        assert!(matches!(take("order", "payment"), Some(Fault::Drop)));
        assert!(matches!(take("web", "payment"), Some(Fault::Drop)));
        assert_eq!(faults.left(), 1);
        assert!(take("web", "payment").is_none(), "the later one lets one through");
        assert!(matches!(take("web", "payment"), Some(Fault::Reset)));
        assert!(take("web", "payment").is_none() && take("web", "user").is_none());
        assert!(matches!(take("order", "user"), Some(Fault::Refuse)));
        all.stop();
        assert!(take("order", "user").is_none());
        assert_eq!((twice.happened(), later.happened(), all.happened()), (2, 1, 1));
        assert_eq!((faults.happened(), faults.left()), (4, 0));
    }

    #[test]
    fn a_connection_that_ended_before_its_fault_leaves_it_to_the_next() {
        let faults = Faults::new();
        let rule = faults.calls().to("payment").meet(Fault::Reset);
        let deal = || faults.0.deal(Some("order"), Some("payment"));
        let idle = deal().expect("the first connection meets it");
        assert!(deal().is_none(), "it was ordered once");
        drop(idle);
        assert_eq!((rule.happened(), faults.left()), (0, 1), "nothing was sent over it");
        let used = deal().expect("the next one meets it");
        used.strike();
        used.strike();
        drop(used);
        assert!(deal().is_none());
        assert_eq!((rule.happened(), faults.left()), (1, 0));
    }

    #[test]
    fn chance_is_the_same_in_every_run_of_a_seed() {
        let run = |seed| {
            let faults = Faults::seeded(seed);
            let rule = faults.calls().chance(0.3).meet(Fault::Drop);
            let hits: Vec<bool> = (0..1000).map(|_| faults.0.take(None, None, None).is_some()).collect();
            assert!((220..380).contains(&rule.happened()), "{}", rule.happened());
            hits
        };
        assert_eq!(run(1), run(1));
        assert_ne!(run(1), run(2));
    }

    #[test]
    fn a_fault_that_never_happened_fails_the_test() {
        let unused = || {
            let faults = Faults::new();
            faults.calls().to("payment").meet(Fault::Drop);
            drop(faults.calls().from("order"));
            drop(faults);
        };
        let said = std::panic::catch_unwind(unused).expect_err("nothing happened");
        let text = said.downcast_ref::<String>().expect("a text");
        assert!(text.contains("Drop from anybody to payment"), "{text}");
        let parted = || Faults::new().part("order", "payment");
        assert!(std::panic::catch_unwind(parted).is_err(), "nothing was held up");
        let faults = Faults::new();
        faults.calls().optional().meet(Fault::Drop);
        drop(faults);
    }
}
