//! Which cgroups there are for us, and per controller why not. Changes nothing.

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};

use rustix::fs::{Access, access};
use serde::Serialize;

use super::limits::Limits;

/// The name of the leaf that keeper and brain live in, which a unit file can ask for as well
/// (`DelegateSubgroup=keeper`).
pub(super) const LEAF: &str = "keeper";

/// What limits one kind of resource.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Controller {
    /// Memory.
    Memory,
    /// Processor time.
    Cpu,
    /// Processes and threads.
    Pids,
}

impl Controller {
    /// All that are used.
    pub(super) const ALL: [Self; 3] = [Self::Memory, Self::Cpu, Self::Pids];

    /// The kernel's name, which is also its name in a mask.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Memory => "memory",
            Self::Cpu => "cpu",
            Self::Pids => "pids",
        }
    }
}

/// A limit that is asked for and not enforced here. Shown as `memory: v1`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Unenforced {
    /// What is not limited.
    pub controller: Controller,
    /// Why not, in a word or two: `v1`, `not delegated`.
    pub reason: String,
}

impl fmt::Display for Unenforced {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.controller.name(), self.reason)
    }
}

/// Which cgroups there are for us.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cgroups {
    /// Where ours are made; why nowhere.
    pub(crate) base: Result<PathBuf, String>,
    /// The controllers that limit nothing, and why.
    pub(crate) missing: BTreeMap<Controller, String>,
}

// === impl Cgroups ===

impl Cgroups {
    /// Reads what there is from a `/proc`.
    pub(crate) fn detect(proc: &Path) -> Self {
        let mounts = fs::read_to_string(proc.join("self/mountinfo")).unwrap_or_default();
        let places = fs::read_to_string(proc.join("self/cgroup")).unwrap_or_default();
        let base = base(&mounts, &places);
        let available = match &base {
            Ok(base) => fs::read_to_string(base.join("cgroup.controllers")).unwrap_or_default(),
            Err(_) => String::new(),
        };
        let missing = Controller::ALL.into_iter().filter_map(|controller| {
            if available.split_ascii_whitespace().any(|name| name == controller.name()) {
                return None;
            }
            let reason = if is_v1(controller, &places) {
                "v1".to_owned()
            } else {
                base.as_ref().err().cloned().unwrap_or_else(|| "not delegated".to_owned())
            };
            Some((controller, reason))
        });
        Self { missing: missing.collect(), base }
    }

    /// Where those of run directories are made, or why nowhere.
    ///
    /// # Errors
    /// The reason, in a word or two.
    pub fn base(&self) -> Result<&Path, &str> {
        self.base.as_deref().map_err(String::as_str)
    }

    /// Whether processes are held together by cgroups.
    #[must_use]
    pub fn is_used(&self) -> bool {
        self.base.is_ok()
    }

    /// Without cgroups at all, for this reason.
    pub(crate) fn give_up(&mut self, reason: &str) {
        self.base = Err(reason.to_owned());
        for controller in Controller::ALL {
            self.missing.entry(controller).or_insert_with(|| reason.to_owned());
        }
    }

    /// Without one controller.
    pub(crate) fn lose(&mut self, controller: Controller, reason: &str) {
        self.missing.insert(controller, reason.to_owned());
    }

    /// Which of these limits are not enforced here.
    #[must_use]
    pub fn unenforced(&self, limits: &Limits) -> Vec<Unenforced> {
        let asked = limits.controllers().into_iter();
        asked
            .filter_map(|controller| {
                let reason = self.missing.get(&controller)?.clone();
                Some(Unenforced { controller, reason })
            })
            .collect()
    }
}

/// Whether a controller belongs to a hierarchy of version 1: a line `4:memory:/` and not the `0::/` of version 2.
fn is_v1(controller: Controller, places: &str) -> bool {
    places
        .lines()
        .filter_map(|line| line.split(':').nth(1))
        .any(|names| names.split(',').any(|name| name == controller.name()))
}

/// Our place in the tree of version 2, or above it where we are in the leaf that is made for us.
fn base(mounts: &str, places: &str) -> Result<PathBuf, String> {
    let (root, mount) = mounts.lines().find_map(mount_of_v2).ok_or("no cgroup v2")?;
    let place = places.lines().find_map(|line| line.strip_prefix("0::")).ok_or("no cgroup v2")?;
    let place = Path::new(place).strip_prefix(&root).map_err(|_| "outside of what is mounted")?;
    if place.components().any(|part| part == std::path::Component::ParentDir) {
        return Err("outside of what is mounted".to_owned());
    }
    let own = mount.join(place);
    let own = own.components().collect::<PathBuf>();
    let base = match own.parent() {
        Some(parent) if own.file_name().is_some_and(|name| name == LEAF) => parent.to_owned(),
        _ => own,
    };
    let may = Access::WRITE_OK | Access::EXEC_OK;
    if access(&base, may).is_err() || access(base.join("cgroup.procs"), Access::WRITE_OK).is_err() {
        return Err("not writable".to_owned());
    }
    Ok(base)
}

/// Root and mount point of a line of `mountinfo`, if it is one of cgroup version 2.
fn mount_of_v2(line: &str) -> Option<(PathBuf, PathBuf)> {
    let (place, kind) = line.split_once(" - ")?;
    if kind.split(' ').next()? != "cgroup2" {
        return None;
    }
    let mut fields = place.split(' ').skip(3);
    Some((unescape(fields.next()?).into(), unescape(fields.next()?).into()))
}

/// The kernel writes blanks and backslashes in paths as octal numbers.
fn unescape(path: &str) -> String {
    path.replace("\\040", " ").replace("\\011", "\t").replace("\\012", "\n").replace("\\134", "\\")
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]

    use super::*;

    /// A `/proc` and a cgroup tree of our own making.
    struct Fake(PathBuf);

    impl Fake {
        fn new(name: &str, place: &str, controllers: &str) -> Self {
            let dir = std::env::temp_dir().join(format!("formic-cgroup-{name}-{}", std::process::id()));
            let _ = fs::remove_dir_all(&dir);
            let group = dir.join("fs").join(place.trim_start_matches('/'));
            fs::create_dir_all(dir.join("self")).unwrap();
            fs::create_dir_all(&group).unwrap();
            for group in group.ancestors().take_while(|group| *group != dir) {
                fs::write(group.join("cgroup.procs"), "").unwrap();
                fs::write(group.join("cgroup.controllers"), controllers).unwrap();
            }
            Self(dir)
        }

        fn detect(&self, places: &str) -> Cgroups {
            let mounts = format!(
                "30 23 0:27 / /sys rw - sysfs sysfs rw\n31 30 0:28 / {} rw - cgroup2 cgroup2 rw\n",
                self.0.join("fs").display()
            );
            fs::write(self.0.join("self/mountinfo"), mounts).unwrap();
            fs::write(self.0.join("self/cgroup"), places).unwrap();
            Cgroups::detect(&self.0)
        }
    }

    impl Drop for Fake {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    const ALL: Limits = Limits { memory: Some(1), cpu: Some(1.0), cpu_weight: None, pids: Some(1) };

    fn told(cgroups: &Cgroups) -> Vec<String> {
        cgroups.unenforced(&ALL).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn everything_is_there() {
        let fake = Fake::new("all", "/a/formic.service", "cpu io memory pids\n");
        let cgroups = fake.detect("0::/a/formic.service\n");
        assert_eq!(cgroups.base, Ok(fake.0.join("fs/a/formic.service")));
        assert!(told(&cgroups).is_empty(), "{cgroups:?}");
    }

    #[test]
    fn from_the_leaf_the_place_above_is_ours() {
        let fake = Fake::new("leaf", "/a/formic.service/keeper", "memory pids\n");
        let cgroups = fake.detect("0::/a/formic.service/keeper\n");
        assert_eq!(cgroups.base, Ok(fake.0.join("fs/a/formic.service")));
        assert_eq!(told(&cgroups), ["cpu: not delegated"]);
    }

    #[test]
    fn a_hybrid_machine_holds_trees_and_says_what_is_v1() {
        let fake = Fake::new("hybrid", "/", "hugetlb\n");
        let cgroups = fake.detect("5:memory:/\n3:cpu,cpuacct:/\n0::/\n");
        assert!(cgroups.is_used());
        assert_eq!(told(&cgroups), ["memory: v1", "cpu: v1", "pids: not delegated"]);
    }

    #[test]
    fn without_a_place_of_our_own_nothing_is_used() {
        let fake = Fake::new("none", "/", "memory cpu pids\n");
        assert_eq!(fake.detect("5:memory:/\n").base, Err("no cgroup v2".into()));
        let outside = fake.detect("0::/../other\n");
        assert_eq!(told(&outside)[0], "memory: outside of what is mounted");
        fs::write(fake.0.join("self/mountinfo"), "").unwrap();
        let mut none = Cgroups::detect(&fake.0);
        assert_eq!(told(&none)[1], "cpu: no cgroup v2");
        none.give_up("switched off");
        assert_eq!(told(&none)[1], "cpu: no cgroup v2", "the first reason is the one to mend");
    }
}
