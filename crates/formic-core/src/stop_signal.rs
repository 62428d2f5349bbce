//! What a program is sent when it is to end: the same word in a manifest, in a desired state and in the record of a process.
//!
//! Which number it has is the system's, and known where it is sent.

use std::fmt;

use serde::{Deserialize, Serialize};

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
    pub const WORDS: [(&'static str, Self); 7] = [
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
