//! Rollouts: how one revision of a service takes the place of another, and how it goes back.
//!
//! A [`Fleet`] is the state of all of it, plain data that is written to disk and read again. The executor
//! calls [`Fleet::apply`] when somebody wants something else and [`Fleet::advance`] after every event; the
//! latter gives the [`Desired`](crate::Desired) for [`plan`](crate::plan()), in which every slot says which
//! revision it runs, and what was decided and why. It writes the fleet down **before** it carries out the
//! plan: then a crash between the two repeats a decision and never takes one back. Deadlines are moments, not
//! lengths, so a crash does not set them back either.
//!
//! # The states
//!
//! ```text
//! Pending → Progressing ⇄ Verifying → Promoting → Succeeded
//!                 │    ⇅ Paused
//!                 └→ Reverting → Reverted     (to the last revision that succeeded)
//!                 └→ Failed | RevertNoop      (nothing to go back to: it goes on trying)
//! ```
//!
//! # The rules
//!
//! - There are never more live instances than wanted ones and the surge, those that are stopping included.
//!   An old instance is stopped only when enough others have been ready for `min_ready`.
//! - A new revision fails at once when a process cannot be started, when an instance ends for good (exit
//!   code 78), when three crashed before they had worked, and when a crash loop is found; and when no
//!   instance more became ready for the length of `progress_deadline`. One that becomes ready, fails and
//!   becomes ready again is no progress.
//! - A failed rollout goes back at once, without the waits of the way forward. It never begins another
//!   rollout, and no instance of the failed revision is started any more. Going back has no deadline: there
//!   is nothing better to do.
//! - After success, old instances are kept without calls for `keep_old`, so that a way back finds them
//!   ready: all of them after blue-green, as many as the surge allows after a rolling update. From then on
//!   an instance that fails is replaced; nothing is reverted.
//! - A change that a running process can take up (count, limits, exposure, rules of restart and stop) is
//!   made in place, also while a rollout goes on. An identical one is no change.
//! - Where instances are too many, those that are not ready go first, then the newest.
//!
//! Refused: replica sets with state of their own. What belongs to which revision is read off the instances,
//! so nothing can disagree with what is there.

mod apply;
mod decision;
mod fleet;
mod shape;
mod step;
mod survey;

use formic_spec::{HumanDuration, Revision};
use serde::{Deserialize, Serialize};

pub use self::apply::Change;
pub use self::decision::{Decision, Failure, What};
pub use self::fleet::{Advance, Applied, Fleet, Stale};
use crate::set::Template;
use crate::state::{Service, Time};

/// A new revision that crashes so often before it has worked has failed.
pub const CRASHES: u32 = 3;

/// One service under a fleet: what is led to, what to go back to, and how far it has come.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Deployment {
    /// What is led to. While a failed rollout goes back, this is what it goes back to.
    pub wanted: Release,
    /// The last that succeeded.
    pub good: Option<Release>,
    /// The present rollout, or the last one.
    pub rollout: Rollout,
}

/// A service at a revision.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Release {
    /// What was asked for.
    pub service: Service,
    /// The number of the rollout that brought it.
    pub rollout: u64,
    /// Instances that rollouts before this one started are not of this release, even if they run the same:
    /// a restart by hand. 0 where all are.
    #[serde(default)]
    pub since: u64,
}

/// A change from one revision to another.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rollout {
    /// Its number, unique in the fleet.
    pub number: u64,
    /// The revision that it brings. A failed rollout keeps it.
    pub to: Revision,
    /// The revision that was wanted before.
    pub from: Option<Revision>,
    /// When it began.
    pub started: Time,
    /// The most instances of it that have been ready at one time.
    pub best: u32,
    /// That it is of a job, and all of that came to its end with success.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub done: bool,
    /// How far it is.
    pub phase: Phase,
}

/// How far a rollout is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "phase", rename_all = "snake_case")]
#[non_exhaustive]
pub enum Phase {
    /// It waits for these services.
    Pending {
        /// Their names.
        needs: Vec<String>,
    },
    /// Instances are being started.
    Progressing {
        /// When it fails unless another instance becomes ready.
        deadline: Time,
    },
    /// All instances are ready, not all of them for long enough.
    Verifying {
        /// As for `Progressing`.
        deadline: Time,
    },
    /// All calls go to the new instances from now on.
    Promoting,
    /// Done.
    Succeeded {
        /// When.
        at: Time,
        /// What is kept running for a way back.
        kept: Option<Kept>,
    },
    /// Stopped by hand for now.
    Paused {
        /// How much of the deadline was left.
        left: HumanDuration,
    },
    /// Failed, and nothing to go back to. The instances go on trying; should all of them come to work, it
    /// has succeeded after all.
    Failed {
        /// When.
        at: Time,
        /// Why.
        cause: Failure,
    },
    /// Failed, and on the way back.
    Reverting {
        /// Since when.
        since: Time,
        /// Why.
        cause: Failure,
    },
    /// Failed, and back at the last revision that succeeded.
    Reverted {
        /// When.
        at: Time,
        /// Why.
        cause: Failure,
    },
    /// Failed, and the last revision that succeeded is the same: as `Failed`.
    RevertNoop {
        /// When.
        at: Time,
        /// Why.
        cause: Failure,
    },
}

/// Old instances that are kept running without calls.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Kept {
    /// Their revision.
    pub revision: Revision,
    /// What of it needs a new process.
    pub process: Revision,
    /// Until when.
    pub until: Time,
}

// === impl Rollout ===

impl Rollout {
    /// Whether nothing more comes of it: what is wanted runs, or cannot.
    #[must_use]
    pub const fn is_over(&self) -> bool {
        matches!(
            self.phase,
            Phase::Succeeded { .. }
                | Phase::Failed { .. }
                | Phase::Reverted { .. }
                | Phase::RevertNoop { .. }
        )
    }

    /// Why it failed, if it did.
    #[must_use]
    pub const fn failure(&self) -> Option<&Failure> {
        match &self.phase {
            Phase::Failed { cause, .. }
            | Phase::Reverting { cause, .. }
            | Phase::Reverted { cause, .. }
            | Phase::RevertNoop { cause, .. } => Some(cause),
            _ => None,
        }
    }
}

// === impl Deployment ===

impl Deployment {
    /// Whether it is a job that came to its end with success, and rests.
    fn has_completed(&self) -> bool {
        self.wanted.service.job.is_some() && self.rollout.done
    }
}

// === impl Release ===

impl Release {
    /// Whether an instance runs this.
    #[must_use]
    pub fn is_run_by(&self, instance: &crate::Instance) -> bool {
        instance.process() == self.service.process() && instance.rollout >= self.since
    }

    /// What is wanted in a slot that runs this.
    fn template(&self) -> Template<'_> {
        Template { rollout: self.rollout, ..self.service.template() }
    }
}
