//! What a server holds in memory for all of its connections together.
//!
//! Each connection has limits of its own, but many connections that each keep to theirs could still fill a machine. So all of them
//! draw on one number of bytes: requests that are not complete, messages that no handler has taken, messages that handlers work on,
//! answers and errors that are not written, what was noted in tables.
//!
//! A connection may take more as long as it holds no more than is left for all others. So one alone may have half of it, whoever
//! comes when much is held may have as much as any other, and something is always left: nobody has to be told how many
//! there are. When little is left, those who hold more than that give up requests that do not go on.
//!
//! What was refused: a fixed part for each connection, which is too little for one or too much for ten thousand.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// A connection that holds no more than this is not counted: small calls need nothing of the budget, and are answered when it is
/// used up too.
pub(crate) const FREE: usize = 16 << 10;

/// It is counted in portions, so that most frames change nothing.
const PORTION: usize = 16 << 10;

/// Little is left if it is less than one part of so many.
const LITTLE: usize = 8;

/// Is told of a budget, by whatever task draws on it; so it must be quick.
pub trait Watch: Send + Sync {
    /// So many bytes more are held, or less.
    fn changed(&self, bytes: i64);

    /// A call was refused, or given up, for want of room.
    fn refused(&self);
}

/// Bytes that a server may hold for its connections.
pub struct Budget {
    most: usize,
    held: AtomicUsize,
    watch: Option<Box<dyn Watch>>,
}

/// What one connection draws.
#[derive(Debug, Default)]
pub(crate) struct Share {
    /// A client has none.
    budget: Option<Arc<Budget>>,
    drawn: usize,
}

impl std::fmt::Debug for Budget {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Budget").field("most", &self.most).field("held", &self.held()).finish_non_exhaustive()
    }
}

impl Budget {
    /// So many bytes, beside the first few of each connection.
    #[must_use]
    pub fn new(most: usize) -> Self {
        Self { most, held: AtomicUsize::new(0), watch: None }
    }

    /// Has somebody told of what becomes of it.
    #[must_use]
    pub fn watched(mut self, watch: impl Watch + 'static) -> Self {
        self.watch = Some(Box::new(watch));
        self
    }

    /// How much of it is used.
    #[must_use]
    pub fn held(&self) -> usize {
        self.held.load(Ordering::Relaxed)
    }

    fn left(&self) -> usize {
        self.most.saturating_sub(self.held())
    }

    fn draw(&self, own: usize, more: usize) -> bool {
        let drawn = self.held.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |held| {
            let after = held.checked_add(more)?;
            let left = self.most.checked_sub(after)?;
            (own + more <= left).then_some(after)
        });
        if drawn.is_ok()
            && let Some(watch) = &self.watch
        {
            watch.changed(i64::try_from(more).unwrap_or(i64::MAX));
        }
        drawn.is_ok()
    }

    fn give_back(&self, bytes: usize) {
        self.held.fetch_sub(bytes, Ordering::Relaxed);
        if let Some(watch) = &self.watch {
            watch.changed(-i64::try_from(bytes).unwrap_or(i64::MAX));
        }
    }
}

impl Share {
    pub(crate) fn of(budget: Arc<Budget>) -> Self {
        Self { budget: Some(budget), drawn: 0 }
    }

    /// Whether the connection may hold so many bytes.
    pub(crate) fn covers(&mut self, bytes: usize) -> bool {
        if bytes <= FREE || bytes <= self.drawn {
            return true;
        }
        let Some(budget) = &self.budget else { return true };
        let more = bytes.next_multiple_of(PORTION) - self.drawn;
        let covered = budget.draw(self.drawn, more);
        if covered {
            self.drawn += more;
        }
        covered
    }

    /// Whether the connection may hold so many bytes as things are, without a draw.
    pub(crate) fn allows(&self, bytes: usize) -> bool {
        let Some(budget) = &self.budget else { return true };
        bytes.saturating_add(bytes.saturating_sub(self.drawn)) <= budget.left()
    }

    /// Whether another connection might hold so many bytes, once this one has given back these.
    pub(crate) fn allows_another(&self, bytes: usize, given_back: usize) -> bool {
        let Some(budget) = &self.budget else { return true };
        bytes.next_multiple_of(PORTION).saturating_mul(2) <= budget.left() + given_back.min(self.drawn)
    }

    /// Gives back what a connection that holds so many bytes does not need.
    pub(crate) fn settle(&mut self, bytes: usize) {
        if self.drawn == 0 {
            return;
        }
        let needed = if bytes <= FREE { 0 } else { bytes.next_multiple_of(PORTION) };
        if needed < self.drawn
            && let Some(budget) = &self.budget
        {
            budget.give_back(self.drawn - needed);
            self.drawn = needed;
        }
    }

    /// Whether the connection holds anything that counts.
    pub(crate) fn is_drawn(&self) -> bool {
        self.drawn > 0
    }

    /// Whether little is left, and the connection holds some.
    pub(crate) fn is_scarce(&self) -> bool {
        self.drawn > 0 && self.budget.as_ref().is_some_and(|budget| budget.left() < budget.most / LITTLE)
    }

    /// Whether little is left, and the connection holds more than that.
    pub(crate) fn is_excessive(&self) -> bool {
        self.is_excessive_without(0)
    }

    /// The same if it held so many bytes less.
    pub(crate) fn is_excessive_without(&self, bytes: usize) -> bool {
        let Some(budget) = &self.budget else { return false };
        let left = budget.left();
        left < budget.most / LITTLE && self.drawn.saturating_sub(bytes) > left
    }

    /// Notes that a call was refused, or given up.
    pub(crate) fn refused(&self) {
        if let Some(watch) = self.budget.as_ref().and_then(|budget| budget.watch.as_ref()) {
            watch.refused();
        }
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.settle(0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KIB: usize = 1 << 10;

    /// As much as a connection gets, in small steps.
    fn greedy(budget: &Arc<Budget>) -> (Share, usize) {
        let (mut share, mut held) = (Share::of(Arc::clone(budget)), 0);
        while share.covers(held + KIB) {
            held += KIB;
        }
        (share, held)
    }

    #[test]
    fn one_has_half_and_something_is_always_left() {
        let budget = Arc::new(Budget::new(1024 * KIB));
        let mut all = Vec::new();
        for _ in 0..100 {
            all.push(greedy(&budget));
            assert!(budget.held() <= 1024 * KIB);
        }
        assert_eq!(all[0].1, 512 * KIB);
        assert_eq!(all[1].1, 256 * KIB);
        // Whoever comes late is not counted.
        assert_eq!(all[99].1, FREE);
        assert!(all[0].0.is_excessive() && !all[99].0.is_excessive());
        drop(all);
        assert_eq!(budget.held(), 0);
    }

    #[test]
    fn who_holds_less_gives_back() {
        let budget = Arc::new(Budget::new(1024 * KIB));
        let mut share = Share::of(Arc::clone(&budget));
        assert!(share.covers(FREE) && budget.held() == 0);
        assert!(share.covers(300 * KIB) && share.is_drawn());
        assert_eq!(budget.held(), 304 * KIB);
        assert!(!share.covers(600 * KIB));
        assert!(share.allows(512 * KIB) && !share.allows(513 * KIB));
        assert_eq!(budget.held(), 304 * KIB);
        share.settle(100 * KIB);
        assert_eq!(budget.held(), 112 * KIB);
        share.settle(KIB);
        assert_eq!(budget.held(), 0);
    }
}
