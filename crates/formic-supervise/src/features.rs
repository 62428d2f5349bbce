//! What this kernel and this user allow, decided once and told as data.
//!
//! Each feature falls back by itself; a status page can print [`Features::report`] as it is. Tests take
//! features away with [`Features::masked`] to walk the older paths on a new kernel.

use std::fmt;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::cgroup::{Cgroups, Controller, Limits, Unenforced};
use crate::pidfd::PidFd;

/// The variable that switches features off, by their names with commas between, for tests and for machines
/// where one of them misbehaves.
pub const FEATURES_OFF_ENV: &str = "FORMIC_FEATURES_OFF";

/// What a mask can name, which is what [`Features::report`] names.
const NAMES: [&str; 8] =
    ["pidfs", "pidfs-handle", "exit-info", "children", "cgroup", "memory", "cpu", "pids"];

/// Why a feature that is there is not used.
const OFF: &str = "switched off";

/// How the processes of an instance are held together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Containment {
    /// By session, by the marker in their environment, and by descent. Works for every user.
    Session,
    /// By a cgroup of its own, with limits as far as there are controllers.
    Cgroup,
}

/// What is used here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Features {
    /// Whether processes have a number that is never used again (Linux 6.9).
    pub pidfs: bool,
    /// Whether a process can be found again by that number (Linux 6.14).
    pub pidfs_handle: bool,
    /// Whether the kernel keeps how a process ended for others than its parent (Linux 6.15).
    pub exit_info: bool,
    /// Whether the kernel lists the children of a process.
    pub children: bool,
    /// How the processes of an instance are held together.
    pub containment: Containment,
    /// Which cgroups there are for us, and why not others.
    pub cgroups: Cgroups,
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

/// A mask names what is no feature.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{FEATURES_OFF_ENV} names {}: there are {}", list(unknown), NAMES.join(", "))]
pub struct UnknownFeatures {
    /// The names that are none.
    pub unknown: Vec<String>,
}

fn list(names: &[String]) -> String {
    let quoted: Vec<String> = names.iter().map(|name| format!("{name:?}")).collect();
    quoted.join(", ")
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
        let id = own.unique_id();
        let pidfs_handle = id.is_some_and(|id| matches!(PidFd::reopen(own.pid(), id), Ok(Some(_))));
        let mut features = Self {
            pidfs: id.is_some(),
            pidfs_handle,
            exit_info: kernel_version() >= (6, 15),
            children: Path::new("/proc/thread-self/children").exists(),
            containment: Containment::Session,
            cgroups: Cgroups::detect(Path::new("/proc")),
        };
        features.contain();
        Ok(features)
    }

    /// Whether [`FEATURES_OFF_ENV`] names features and nothing else. For whoever begins with that: an engine that goes on
    /// under another release passes over what it does not know.
    ///
    /// # Errors
    /// If it names what is none.
    pub fn check_env() -> Result<(), UnknownFeatures> {
        check(&std::env::var_os(FEATURES_OFF_ENV).unwrap_or_default().to_string_lossy())
    }

    /// Finds out what there is, without what [`FEATURES_OFF_ENV`] names.
    ///
    /// # Errors
    /// If the kernel has no pidfds.
    pub fn from_env() -> Result<Self, Unsupported> {
        let mask = std::env::var(FEATURES_OFF_ENV).unwrap_or_default();
        Ok(Self::detect()?.masked(mask.split(',').map(str::trim)))
    }

    /// Without the features of these names.
    #[must_use]
    pub fn masked<'a>(mut self, names: impl IntoIterator<Item = &'a str>) -> Self {
        for name in names {
            match name {
                // Without the numbers there is nothing to find again.
                "pidfs" => (self.pidfs, self.pidfs_handle) = (false, false),
                "pidfs-handle" => self.pidfs_handle = false,
                "exit-info" => self.exit_info = false,
                "children" => self.children = false,
                "cgroup" => self.cgroups.give_up(OFF),
                "memory" => self.cgroups.lose(Controller::Memory, OFF),
                "cpu" => self.cgroups.lose(Controller::Cpu, OFF),
                "pids" => self.cgroups.lose(Controller::Pids, OFF),
                _ => {}
            }
        }
        self.contain();
        self
    }

    /// Which of these limits are not enforced here, as far as can be said without trying.
    #[must_use]
    pub fn unenforced(&self, limits: &Limits) -> Vec<Unenforced> {
        self.cgroups.unenforced(limits)
    }

    /// Follows what there is of cgroups.
    pub(crate) fn contain(&mut self) {
        self.containment = if self.cgroups.is_used() { Containment::Cgroup } else { Containment::Session };
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
                name: "pidfs-handle",
                used: self.pidfs_handle,
                effect: if self.pidfs_handle {
                    "a new engine finds a process by its pidfs id"
                } else {
                    "a new engine finds a process by its number and proves it afterwards"
                },
            },
            Feature {
                name: "exit-info",
                used: self.exit_info,
                effect: if self.exit_info {
                    "the kernel tells how an adopted process ended"
                } else {
                    "how an adopted process ended is known from the keeper's journal, or unknown"
                },
            },
            Feature {
                name: "children",
                used: self.children,
                effect: if self.children {
                    "who has left the cgroup of an ended instance is looked for among what was left behind"
                } else {
                    "who has left the cgroup of an ended instance is looked for on the whole machine"
                },
            },
            Feature {
                name: "cgroup",
                used: self.containment == Containment::Cgroup,
                effect: match self.containment {
                    Containment::Session => {
                        "trees are found by session, marker and descent; limits are unenforced"
                    }
                    Containment::Cgroup => "trees are cgroups",
                },
            },
            self.limit(Controller::Memory, "memory is limited", "memory limits are unenforced"),
            self.limit(Controller::Cpu, "processor time is limited", "processor limits are unenforced"),
            self.limit(Controller::Pids, "processes are limited", "limits of processes are unenforced"),
        ]
    }

    fn limit(&self, controller: Controller, on: &'static str, off: &'static str) -> Feature {
        let used = !self.cgroups.missing.contains_key(&controller);
        Feature { name: controller.name(), used, effect: if used { on } else { off } }
    }
}

fn check(mask: &str) -> Result<(), UnknownFeatures> {
    let names = mask.split(',').map(str::trim).filter(|name| !name.is_empty());
    let unknown: Vec<String> = names.filter(|name| !NAMES.contains(name)).map(ToOwned::to_owned).collect();
    if unknown.is_empty() { Ok(()) } else { Err(UnknownFeatures { unknown }) }
}

/// Major and minor version of the kernel; zero where it cannot be read, so that nothing newer is used.
fn kernel_version() -> (u32, u32) {
    let uname = rustix::system::uname();
    let mut numbers = uname.release().to_str().unwrap_or_default().split(|byte: char| !byte.is_ascii_digit());
    let mut next = || numbers.next().and_then(|number| number.parse().ok()).unwrap_or(0);
    (next(), next())
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

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]

    use super::*;

    #[test]
    fn a_mask_names_what_is_reported_and_another_name_is_told_with_those() {
        let all = Features::detect().unwrap();
        assert_eq!(all.report().iter().map(|feature| feature.name).collect::<Vec<_>>(), NAMES);
        let bare = all.masked(NAMES);
        assert!(bare.report().iter().all(|feature| !feature.used), "{bare}");
        assert_eq!(check(""), Ok(()));
        assert_eq!(check("pidfs, cgroup,"), Ok(()));
        let error = check("cgroup,nonsense,Pidfs").unwrap_err();
        assert_eq!(error.unknown, ["nonsense", "Pidfs"]);
        let told = error.to_string();
        assert!(told.contains("\"nonsense\", \"Pidfs\": there are pidfs, pidfs-handle, "), "{told}");
    }
}
