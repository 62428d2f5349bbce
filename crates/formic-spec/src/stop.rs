//! `stop`: how an instance is told to end, and how long it may take.

pub use formic_core::StopSignal;
use serde::{Deserialize, Serialize};

use crate::units::HumanDuration;

/// `stop`: how an instance is stopped.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stop {
    /// How long an instance may take from the signal until all its processes are gone: 30 s.
    pub grace: HumanDuration,
    /// What it is sent: SIGTERM. Left out where it is that, so that no revision changed when it came.
    #[serde(default, skip_serializing_if = "StopSignal::is_default")]
    pub signal: StopSignal,
}

impl Default for Stop {
    fn default() -> Self {
        Self { grace: HumanDuration::from_secs(30), signal: StopSignal::default() }
    }
}
