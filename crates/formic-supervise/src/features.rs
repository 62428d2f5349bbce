//! What this kernel and this user allow, decided once and told as data.
//!
//! Each feature falls back by itself; a status page can print [`Features::report`] as it is. Tests take
//! features away with [`Features::masked`] to walk the older paths on a new kernel.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::pidfd::PidFd;

/// How the processes of an instance are held together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Containment {
    /// By session, by the marker in their environment, and by descent. Works for every user.
    Session,
}

/// What is used here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Features {
    /// Whether processes have a number that is never used again (Linux 6.9).
    pub pidfs: bool,
    /// How the processes of an instance are held together.
    pub containment: Containment,
}

/// One line of [`Features::report`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Feature {
    /// Its short name, which is also its name in a mask.
    pub name: &'static str,
    /// Whether it is used.
    pub used: bool,
    /// What that means.
    pub effect: &'static str,
}

/// This kernel has no pidfds, without which nothing can be signalled safely.
#[derive(Debug, thiserror::Error)]
#[error("supervise processes: this kernel has no pidfd_open; Linux 5.4 or later is needed")]
pub struct Unsupported {
    #[source]
    source: std::io::Error,
}

impl Features {
    /// Finds out what there is.
    ///
    /// # Errors
    /// If the kernel has no pidfds.
    pub fn detect() -> Result<Self, Unsupported> {
        let own = PidFd::open(std::process::id())
            .map_err(std::io::Error::from)
            .and_then(|own| own.ok_or_else(|| std::io::ErrorKind::Unsupported.into()))
            .map_err(|source| Unsupported { source })?;
        Ok(Self { pidfs: own.unique_id().is_some(), containment: Containment::Session })
    }

    /// Without the features of these names.
    #[must_use]
    pub fn masked<'a>(mut self, names: impl IntoIterator<Item = &'a str>) -> Self {
        for name in names {
            if name == "pidfs" {
                self.pidfs = false;
            }
        }
        self
    }

    /// The decisions, to be shown.
    #[must_use]
    pub fn report(&self) -> Vec<Feature> {
        vec![
            Feature {
                name: "pidfs",
                used: self.pidfs,
                effect: if self.pidfs {
                    "identity is (boot, pidfs id)"
                } else {
                    "identity is (boot, pid, start time, marker); what is ambiguous is quarantined"
                },
            },
            Feature {
                name: "cgroup",
                used: false,
                effect: match self.containment {
                    Containment::Session => {
                        "trees are found by session, marker and descent; limits are unenforced"
                    }
                },
            },
        ]
    }
}

impl fmt::Display for Features {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (position, feature) in self.report().iter().enumerate() {
            let separator = if position == 0 { "" } else { "; " };
            let state = if feature.used { "on" } else { "off" };
            write!(f, "{separator}{} {state}: {}", feature.name, feature.effect)?;
        }
        Ok(())
    }
}
