//! The instances behind one address: who is ready, as last known, and which of them gets a connection.

use std::sync::Arc;
use std::time::Duration;

use formic_balance::{Algorithm, Backend, Choice, Outcome, Pick, Roster, Seat, Set, Traffic};
use formic_client::connect::{self, Io};
use formic_registry::cache::{Instances, View};
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until, timeout_at};

/// How long one instance may take to answer before another is tried.
const ONE: Duration = Duration::from_secs(1);

/// After everybody was tried in vain it is begun anew, this much later if nobody comes before.
const AGAIN: Duration = Duration::from_millis(100);

/// Who is ready.
#[derive(Debug)]
pub(super) struct Pool {
    sets: watch::Receiver<Arc<Set>>,
    /// From which all times are counted.
    began: Instant,
}

/// A connection to an instance.
pub(super) struct Reached {
    pub(super) io: Io,
    _load: Load,
}

/// Counts a connection among an instance's while it lives.
struct Load(Arc<Backend>);

impl Drop for Load {
    fn drop(&mut self) {
        self.0.end();
    }
}

/// The fewest connections, and everybody their whole share at once: a connection may last for days.
fn policy() -> Traffic {
    Traffic { policy: Algorithm::LeastRequest, slow_start: Duration::ZERO, ..Traffic::default() }
}

// === impl Pool ===

impl Pool {
    /// Those of a service, and what keeps them up to date.
    pub(super) fn follow(mut instances: Instances) -> (Self, impl Future<Output = ()> + Send) {
        let began = Instant::now();
        let (mut roster, traffic, seat) = (Roster::new(), policy(), Seat::default());
        let mut arrange =
            move |view: &View| Arc::new(roster.arrange(&view.instances, &traffic, &seat, began.elapsed()));
        let (sender, sets) = watch::channel(arrange(&instances.view()));
        let follow = async move {
            // Ends with the cache.
            while let Some(view) = instances.changed().await {
                sender.send_replace(arrange(&view));
            }
            // What was known last goes on to be known.
            std::future::pending::<()>().await;
        };
        (Self { sets, began }, follow)
    }

    /// The one with the fewest connections, of those that were not tried.
    fn pick(&self, set: &Set, tried: &[usize]) -> Option<Pick> {
        let choice = Choice {
            now: self.began.elapsed(),
            random: fastrand::u64(..),
            metadata: &|_| None,
            usable: &|index| !tried.contains(&index),
            expendable: true,
        };
        set.pick(&choice).filter(|pick| !tried.contains(&pick.index))
    }

    /// A connection to the instance with the fewest of those that answer; `None` when the time is up. Who comes while
    /// there is nobody waits for somebody.
    pub(super) async fn reach(&self, until: Instant) -> Option<Reached> {
        let mut sets = self.sets.clone();
        let mut tried = Vec::new();
        while Instant::now() < until {
            let set = Arc::clone(&sets.borrow_and_update());
            if let Some(pick) = self.pick(&set, &tried) {
                let backend = set.backend(pick.index);
                backend.begin();
                let load = Load(Arc::clone(backend));
                let begun = Instant::now();
                let endpoint = &set.instance(pick.index).endpoint;
                let opened = timeout_at(until.min(begun + ONE), connect::open(None, endpoint)).await;
                let (now, took) = (self.began.elapsed(), Some(begun.elapsed()));
                if let Ok(Ok(io)) = opened {
                    backend.learn(now, took, Outcome::Success, pick.probe);
                    return Some(Reached { io, _load: load });
                }
                backend.learn(now, took, Outcome::Failure, pick.probe);
                tracing::debug!(instance = %backend.id(), "an instance takes no connection; another is tried");
                tried.push(pick.index);
                continue;
            }
            tried.clear();
            // Cancel safe arms: neither holds anything. The cache outlives this, or nobody comes any more.
            tokio::select! {
                Ok(()) = sets.changed() => {}
                () = sleep_until(until.min(Instant::now() + AGAIN)) => {}
            }
        }
        None
    }
}
