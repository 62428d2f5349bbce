//! `stop`: how an instance is told to end, and how long it may take.

use std::fmt;

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

/// The signals that a program may take for the wish that it ends. SIGKILL is none: it follows after the grace, and
/// at once where that is zero.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum StopSignal {
    /// What nearly every program takes for it.
    #[default]
    Term,
    /// For nginx: finish what is being answered.
    Quit,
    /// As Ctrl-C sends it.
    Int,
    /// As a terminal that is closed sends it.
    Hup,
    /// As the program defines it.
    Usr1,
    /// As the program defines it.
    Usr2,
    /// For the Apache HTTP server: finish what is being answered.
    Winch,
}

impl StopSignal {
    /// What a manifest may say, and what it means.
    pub(crate) const WORDS: [(&'static str, Self); 7] = [
        ("TERM", Self::Term),
        ("QUIT", Self::Quit),
        ("INT", Self::Int),
        ("HUP", Self::Hup),
        ("USR1", Self::Usr1),
        ("USR2", Self::Usr2),
        ("WINCH", Self::Winch),
    ];

    /// Whether it is what is sent where nobody says what.
    #[must_use]
    pub fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

impl fmt::Display for StopSignal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let word = Self::WORDS.iter().find(|(_, signal)| signal == self).map_or("TERM", |(word, _)| word);
        write!(f, "SIG{word}")
    }
}

impl Default for Stop {
    fn default() -> Self {
        Self { grace: HumanDuration::from_secs(30), signal: StopSignal::default() }
    }
}
