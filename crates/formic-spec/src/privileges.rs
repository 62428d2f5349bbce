//! As whom a service's programs run, and what one process of them may have.
//!
//! All of it is left out where it is the default, so that no revision changed when it came.

use serde::{Deserialize, Serialize};

use crate::units::ByteSize;

/// `user`, `group`, `no_new_privileges` and `ulimits`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Privileges {
    /// The user, by name or number: that of the engine.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// The group, by name or number: the user's own.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub group: Option<String>,
    /// Whether no program that an instance executes gets more rights than it has: yes, as next to no service needs
    /// that, and it is how many break-ins go on.
    #[serde(skip_serializing_if = "is_true")]
    pub no_new_privileges: bool,
    /// `ulimits`.
    #[serde(skip_serializing_if = "Ulimits::is_default")]
    pub ulimits: Ulimits,
}

/// `ulimits`: limits of each process, as the shell's `ulimit` shows them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Ulimits {
    /// Open files: what the engine itself may raise them to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub nofile: Option<u32>,
    /// Processes and threads of the user, wherever they run: not limited.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub nproc: Option<u32>,
    /// The size of a core dump: none, because it holds what the program held, secrets too.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub core: Option<ByteSize>,
}

fn is_true(value: &bool) -> bool {
    *value
}

impl Default for Privileges {
    fn default() -> Self {
        Self { user: None, group: None, no_new_privileges: true, ulimits: Ulimits::default() }
    }
}

impl Privileges {
    /// Whether nothing is said of them.
    #[must_use]
    pub fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

impl Ulimits {
    fn is_default(&self) -> bool {
        *self == Self::default()
    }
}
