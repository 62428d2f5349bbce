//! The journal: what was decided and what happened, each with its cause, in the order of it.
//!
//! A bounded ring in memory. Every reader has its own place; one that is too slow sees a gap in the
//! sequence and can tell that it missed something.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde::Serialize;
use tokio::sync::watch;

/// So many entries are kept: some hours of a quiet application, some minutes of a crash loop.
pub(crate) const KEPT: usize = 4096;

/// What an entry is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// Another state is wanted.
    Applied,
    /// A change was asked for and refused.
    Refused,
    /// Somebody asked for a restart.
    Restart,
    /// Nothing is wanted any more.
    ShutDown,
    /// A change of a revision goes on, succeeds, or goes back.
    Rollout,
    /// An instance is started.
    Start,
    /// An instance answers its probe.
    Ready,
    /// An instance does not answer its probe any more, or for another reason than before.
    Unready,
    /// An instance is told to stop.
    Stop,
    /// An instance is killed.
    Kill,
    /// An instance is gone.
    Exit,
    /// A running instance takes up a change.
    Adjust,
    /// An instance could not be started or stopped.
    Failed,
    /// An instance is started again, later.
    Backoff,
    /// Nothing is done about a slot yet.
    Wait,
    /// An engine took over what the one before it had left running.
    Adopted,
    /// A run of a cron job is due, begins, or came to its end.
    Run,
    /// A secret was set or removed.
    Secret,
    /// Somebody had an instance count again that callers had left out.
    Traffic,
}

const KINDS: [Kind; 19] = [
    Kind::Applied,
    Kind::Refused,
    Kind::Restart,
    Kind::ShutDown,
    Kind::Rollout,
    Kind::Start,
    Kind::Ready,
    Kind::Unready,
    Kind::Stop,
    Kind::Kill,
    Kind::Exit,
    Kind::Adjust,
    Kind::Failed,
    Kind::Backoff,
    Kind::Wait,
    Kind::Adopted,
    Kind::Run,
    Kind::Secret,
    Kind::Traffic,
];

/// Something that was decided or that happened.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Entry {
    /// Grows by one with each entry; the first is 1.
    pub sequence: u64,
    /// Milliseconds since 1970.
    pub unix_ms: i64,
    /// What it is about.
    pub kind: Kind,
    /// The service; empty for what is about the whole application.
    pub service: String,
    /// The instance, if there is one.
    pub instance: String,
    /// What, and why.
    pub text: String,
}

/// An entry that has no number yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct News {
    pub(crate) unix_ms: i64,
    pub(crate) kind: Kind,
    pub(crate) service: String,
    pub(crate) instance: String,
    pub(crate) text: String,
}

/// The entries, for any number of readers.
#[derive(Clone, Debug)]
pub struct Journal(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    ring: Mutex<VecDeque<Entry>>,
    last: watch::Sender<u64>,
}

// === impl Kind ===

impl Kind {
    /// The word for it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Applied => "applied",
            Self::Refused => "refused",
            Self::Restart => "restart",
            Self::ShutDown => "shut-down",
            Self::Rollout => "rollout",
            Self::Start => "start",
            Self::Ready => "ready",
            Self::Unready => "unready",
            Self::Stop => "stop",
            Self::Kill => "kill",
            Self::Exit => "exit",
            Self::Adjust => "adjust",
            Self::Failed => "failed",
            Self::Backoff => "backoff",
            Self::Wait => "wait",
            Self::Adopted => "adopted",
            Self::Run => "run",
            Self::Secret => "secret",
            Self::Traffic => "traffic",
        }
    }

    fn of(word: &str) -> Option<Self> {
        KINDS.into_iter().find(|kind| kind.as_str() == word)
    }
}

// === impl Journal ===

impl Journal {
    pub(crate) fn new() -> Self {
        Self(Arc::new(Shared { ring: Mutex::default(), last: watch::Sender::new(0) }))
    }

    /// Goes on from what an engine before this one has written. A kind that this one does not know is left out.
    pub(crate) fn restore(&self, events: Vec<(u64, formic_state::Event)>, next: u64) {
        let mut ring = self.lock();
        for (sequence, event) in events {
            if let Some(kind) = Kind::of(&event.kind) {
                ring.push_back(Entry {
                    sequence,
                    unix_ms: i64::try_from(event.at_unix_ms).unwrap_or_default(),
                    kind,
                    service: event.service.unwrap_or_default(),
                    instance: event.instance.unwrap_or_default(),
                    text: event.text,
                });
            }
        }
        // Those that were lost have been seen by somebody: their numbers are not given again.
        self.0.last.send_replace(next.saturating_sub(1));
    }

    pub(crate) fn record(&self, news: News) {
        let News { unix_ms, kind, service, instance, text } = news;
        let mut ring = self.lock();
        if ring.len() == KEPT {
            ring.pop_front();
        }
        let sequence = *self.0.last.borrow() + 1;
        ring.push_back(Entry { sequence, unix_ms, kind, service, instance, text });
        // Within the lock: whoever sees the number finds the entry.
        self.0.last.send_replace(sequence);
    }

    /// What is kept of the entries after the one of this number, oldest first.
    #[must_use]
    pub fn since(&self, sequence: u64) -> Vec<Entry> {
        let ring = self.lock();
        let from = ring.partition_point(|entry| entry.sequence <= sequence);
        ring.range(from..).cloned().collect()
    }

    /// The number of the last entry, now and at every change.
    #[must_use]
    pub fn last(&self) -> watch::Receiver<u64> {
        self.0.last.subscribe()
    }

    fn lock(&self) -> MutexGuard<'_, VecDeque<Entry>> {
        self.0.ring.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn news(n: usize) -> News {
        News {
            unix_ms: 0,
            kind: Kind::Start,
            service: "order".into(),
            instance: String::new(),
            text: format!("{n}"),
        }
    }

    #[test]
    fn readers_go_on_where_they_were_and_see_what_they_missed() {
        let journal = Journal::new();
        let last = journal.last();
        assert_eq!(journal.since(0), []);
        (0..3).for_each(|n| journal.record(news(n)));
        assert_eq!(*last.borrow(), 3);
        let texts = |from| journal.since(from).into_iter().map(|entry| entry.text).collect::<Vec<_>>();
        assert_eq!(
            (texts(0), texts(2), texts(3)),
            (vec!["0".into(), "1".into(), "2".into()], vec!["2".into()], vec![])
        );
        (3..KEPT + 10).for_each(|n| journal.record(news(n)));
        let kept = journal.since(3);
        assert_eq!((kept.len(), kept[0].sequence), (KEPT, 11), "entries 4 to 10 are lost, and it shows");
    }
}
