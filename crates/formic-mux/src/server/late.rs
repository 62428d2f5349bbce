//! Until when an answer may wait for its caller to take it.
//!
//! A handler is bounded by its deadline, but what it answered may still wait for credit, which the caller gives or does not:
//! nobody polls the handler meanwhile. So the connection's task keeps the time, for answers that wait and for no others.

use std::collections::BTreeSet;
use std::time::Duration;

use tokio::time::Instant;

/// Answers that wait, by their time. One that went out after all is forgotten later.
#[derive(Debug, Default)]
pub(super) struct Late(BTreeSet<(Instant, u32)>);

/// An answer that streams: when its call is over.
#[derive(Debug)]
pub(super) struct Patience {
    deadline: Option<Instant>,
    /// Nobody may ask for more; so much counts for a call without a deadline, from when it begins to wait.
    longest: Duration,
    /// It is noted under this time.
    noted: Option<Instant>,
}

impl Patience {
    pub(super) fn new(deadline: Option<Instant>, longest: Duration) -> Self {
        Self { deadline, longest, noted: None }
    }
}

impl Late {
    /// An answer waits from now on.
    pub(super) fn note(&mut self, id: u32, until: Instant) {
        self.0.insert((until, id));
    }

    /// The same of one that streams. It may be noted already.
    pub(super) fn waits(&mut self, id: u32, patience: &mut Patience) {
        let Patience { deadline, longest, noted } = patience;
        self.note(id, *noted.get_or_insert_with(|| deadline.unwrap_or_else(|| Instant::now() + *longest)));
    }

    /// It has moved.
    pub(super) fn moved(&mut self, id: u32, patience: &mut Patience) {
        if let Some(until) = patience.noted.take() {
            self.0.remove(&(until, id));
        }
    }

    /// Forgets answers that went out, if there may be many.
    pub(super) fn tidy(&mut self, open: usize, is_open: impl Fn(u32) -> bool) {
        if self.0.len() > 2 * open + 64 {
            self.0.retain(|(_, id)| is_open(*id));
        }
    }

    /// When the first of them has waited long enough.
    pub(super) fn due(&self) -> Option<Instant> {
        self.0.first().map(|(until, _)| *until)
    }

    /// One whose time is over.
    pub(super) fn expired(&mut self, now: Instant) -> Option<u32> {
        let (until, _) = self.0.first()?;
        if *until > now {
            return None;
        }
        self.0.pop_first().map(|(_, id)| id)
    }
}
