//! Who waits for a turn, who is next, who has waited for too long. Pure: time is handed in.
//!
//! After CoDel: a queue that was empty a moment ago absorbs a burst, so its calls may wait for a while and
//! go in the order in which they came. A queue that has *stood* absorbs nothing and only makes everybody
//! late: its calls may wait a little only, and the newest goes first, for its caller is the one most likely
//! to be still there.

use std::collections::VecDeque;
use std::time::Duration;

use super::Priority;

/// How long calls may wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Patience {
    /// In a queue that stands.
    pub target: Duration,
    /// In a queue that was empty so long ago at most; one that was not, stands.
    pub interval: Duration,
}

impl Patience {
    /// A call may wait for a third of what calls take, in a burst for twice of it.
    #[must_use]
    pub fn of(typical: Duration) -> Self {
        let target = (typical / 3).clamp(Duration::from_micros(500), Duration::from_millis(250));
        Self { target, interval: (target * 6).max(Duration::from_millis(10)) }
    }

    /// What matters most is not given up for a moment's standing, nor while a cut of the limit takes effect: those
    /// who wait of it are few, and the first to go on.
    #[must_use]
    pub fn important(self) -> Duration {
        self.interval * 3
    }

    /// The longest that a call may wait at all.
    #[must_use]
    pub fn most(self, priority: Priority) -> Duration {
        if priority == Priority::High { self.important() } else { self.interval }
    }
}

/// The lane of what matters most.
const HIGH: usize = Priority::High as usize;

#[derive(Debug)]
struct Waiting<T> {
    since: Duration,
    call: T,
}

/// Calls that wait, by priority.
#[derive(Debug)]
pub struct Queue<T> {
    lanes: [VecDeque<Waiting<T>>; Priority::ALL.len()],
    capacity: usize,
    /// When it was empty last.
    empty: Duration,
    /// When it stood last.
    stood: Option<Duration>,
}

/// So many intervals long a queue that has stood is not trusted with bursts again: under a steady overload
/// it is empty for a moment now and then.
const MEMORY: u32 = 16;

impl<T> Queue<T> {
    /// Room for so many.
    #[must_use]
    pub fn new(capacity: usize) -> Self {
        Self { lanes: std::array::from_fn(|_| VecDeque::new()), capacity, empty: Duration::ZERO, stood: None }
    }

    /// How many wait.
    #[must_use]
    pub fn len(&self) -> usize {
        self.lanes.iter().map(VecDeque::len).sum()
    }

    /// Whether nobody waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.lanes.iter().all(VecDeque::is_empty)
    }

    /// Whether it has not been empty for longer than bursts last.
    #[must_use]
    pub fn stands(&self, now: Duration, patience: Patience) -> bool {
        let lately = |stood| now.saturating_sub(stood) <= patience.interval * MEMORY;
        !self.is_empty()
            && (now.saturating_sub(self.empty) > patience.interval || self.stood.is_some_and(lately))
    }

    /// Lets a call wait. In a full queue it takes the place of the oldest that matters less, which comes
    /// back; or comes back itself.
    ///
    /// # Errors
    /// With the call for which there is no room.
    pub fn push(&mut self, now: Duration, priority: Priority, call: T) -> Result<Option<T>, T> {
        if self.is_empty() {
            self.empty = now;
        }
        let mut out = None;
        if self.len() >= self.capacity {
            let lower = self.lanes[priority as usize + 1..].iter_mut().rev();
            match lower.filter_map(VecDeque::pop_front).next() {
                Some(lower) => out = Some(lower.call),
                None => return Err(call),
            }
        }
        self.lanes[priority as usize].push_back(Waiting { since: now, call });
        Ok(out)
    }

    /// The next call, if there is one. Those that have waited for too long are put into `late`.
    pub fn pop(&mut self, now: Duration, patience: Patience, late: &mut Vec<T>) -> Option<T> {
        let stands = self.stands(now, patience);
        if now.saturating_sub(self.empty) > patience.interval && !self.is_empty() {
            self.stood = Some(now);
        }
        self.purge(now, patience, stands, late);
        let mut next = None;
        for lane in &mut self.lanes {
            next = if stands { lane.pop_back() } else { lane.pop_front() };
            if next.is_some() {
                break;
            }
        }
        if self.is_empty() {
            self.empty = now;
        }
        next.map(|waiting| waiting.call)
    }

    fn purge(&mut self, now: Duration, patience: Patience, stands: bool, late: &mut Vec<T>) {
        for (lane, calls) in self.lanes.iter_mut().enumerate() {
            let most = match lane {
                HIGH => patience.important(),
                _ if stands => patience.target,
                _ => patience.interval,
            };
            while calls.front().is_some_and(|waiting| now.saturating_sub(waiting.since) > most) {
                late.extend(calls.pop_front().map(|waiting| waiting.call));
            }
        }
    }

    /// Forgets calls of which this is so: their callers have left.
    pub fn forget(&mut self, now: Duration, mut gone: impl FnMut(&T) -> bool) {
        for lane in &mut self.lanes {
            lane.retain(|waiting| !gone(&waiting.call));
        }
        if self.is_empty() {
            self.empty = now;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);
    const PATIENCE: Patience =
        Patience { target: Duration::from_millis(5), interval: Duration::from_millis(20) };

    fn pop(queue: &mut Queue<u32>, at: Duration) -> (Option<u32>, Vec<u32>) {
        let mut late = Vec::new();
        let next = queue.pop(at, PATIENCE, &mut late);
        (next, late)
    }

    #[test]
    fn a_burst_is_served_in_its_order() {
        let mut queue = Queue::new(10);
        for call in 1..=3 {
            assert_eq!(queue.push(100 * MS, Priority::Normal, call), Ok(None));
        }
        assert_eq!(pop(&mut queue, 110 * MS), (Some(1), vec![]));
        assert_eq!(pop(&mut queue, 119 * MS), (Some(2), vec![]));
        // Too late even for a burst.
        assert_eq!(pop(&mut queue, 121 * MS), (None, vec![3]));
        assert!(queue.is_empty());
    }

    #[test]
    fn a_queue_that_stands_serves_the_newest_and_gives_up_the_old() {
        let mut queue = Queue::new(100);
        let mut now = Duration::ZERO;
        // Two come for each that goes.
        for call in 0..40 {
            now += MS;
            assert_eq!(queue.push(now, Priority::Normal, call), Ok(None));
            if call % 2 == 0 && now < 20 * MS {
                pop(&mut queue, now);
            }
        }
        assert!(queue.stands(now, PATIENCE));
        let (next, late) = pop(&mut queue, now);
        assert_eq!(next, Some(39), "the newest");
        assert!(late.len() > 20 && !late.contains(&36), "{late:?}");
        // Empty for a moment is not enough; empty for a while, it absorbs bursts again.
        while pop(&mut queue, now).0.is_some() {}
        queue.push(now + MS, Priority::Normal, 50).expect("room");
        assert!(queue.stands(now + 2 * MS, PATIENCE));
        assert_eq!(pop(&mut queue, now + 10 * MS), (None, vec![50]));
        let later = now + 20 * MS * (MEMORY + 1);
        queue.push(later, Priority::Normal, 51).expect("room");
        assert!(!queue.stands(later + 20 * MS, PATIENCE));
    }

    #[test]
    fn what_matters_more_goes_first_and_pushes_out_what_matters_less() {
        let mut queue = Queue::new(3);
        assert_eq!(queue.push(MS, Priority::Low, 1), Ok(None));
        assert_eq!(queue.push(MS, Priority::Low, 2), Ok(None));
        assert_eq!(queue.push(MS, Priority::Normal, 3), Ok(None));
        assert_eq!(queue.push(MS, Priority::Low, 4), Err(4), "full, and nothing matters less");
        assert_eq!(queue.push(MS, Priority::High, 5), Ok(Some(1)));
        assert_eq!(queue.push(MS, Priority::Normal, 6), Ok(Some(2)));
        assert_eq!(queue.push(MS, Priority::High, 7), Ok(Some(3)));
        assert_eq!(queue.push(MS, Priority::High, 8), Ok(Some(6)));
        assert_eq!(queue.push(MS, Priority::High, 9), Err(9));
        assert_eq!([5, 7, 8].map(Some), std::array::from_fn(|_| pop(&mut queue, 2 * MS).0));
    }

    #[test]
    fn a_queue_without_room_keeps_nobody() {
        let mut queue = Queue::new(0);
        assert_eq!(queue.push(MS, Priority::High, 1), Err(1));
        assert_eq!(pop(&mut queue, MS), (None, vec![]));
    }

    #[test]
    fn patience_follows_what_calls_take() {
        assert_eq!(Patience::of(Duration::ZERO).target, Duration::from_micros(500));
        assert_eq!(Patience::of(30 * MS), Patience { target: 10 * MS, interval: 60 * MS });
        assert_eq!(Patience::of(Duration::from_secs(60)).interval, Duration::from_millis(1500));
    }
}
