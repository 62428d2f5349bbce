//! The cgroups of one run directory: made, found again, cleared away.

use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use formic_core::InstanceId;

use super::detect::{Cgroups, Controller, LEAF};
use super::{Group, Limits, is_gone};
use crate::home::Home;
use crate::launch::is_file_name;

/// The cgroup that those of the instances of a run directory are in.
#[derive(Debug)]
pub(crate) struct Groups {
    dir: PathBuf,
    /// Whether to make any: an engine that may not still looks after those that are there.
    used: bool,
    /// The controllers that are handed down to the instances.
    enabled: Vec<Controller>,
}

/// The name of the cgroup of a run directory, the same for every engine of it, wherever it is moved to.
fn name(home: &Home) -> String {
    hashed(home.id.as_bytes())
}

/// What engines of earlier releases called it, in whose cgroups instances may be still.
fn name_of_path(run_dir: &Path) -> String {
    hashed(run_dir.as_os_str().as_bytes())
}

/// FNV-1a: an engine of another release must come to the same name.
fn hashed(bytes: &[u8]) -> String {
    let hash = bytes.iter().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3)
    });
    format!("formic-{hash:016x}")
}

// === impl Groups ===

impl Groups {
    /// Finds the place without making it.
    pub(crate) fn find(home: &Home, cgroups: &Cgroups) -> Option<Self> {
        let base = cgroups.base.as_ref().ok()?;
        Some(Self { dir: base.join(name(home)), used: true, enabled: Vec::new() })
    }

    /// Makes the place and hands the controllers down to it. What cannot be had is taken out of `cgroups`,
    /// with the reason. `ours` are the processes that may be moved out of the way: this one and its keeper.
    pub(crate) fn prepare(home: &Home, cgroups: &mut Cgroups, ours: &[u32]) -> Option<Self> {
        let mut groups = Self::find(home, cgroups)?;
        if let Err(error) = fs::create_dir_all(&groups.dir) {
            cgroups.give_up(&format!("cannot be made ({error})"));
            return None;
        }
        let Some(base) = groups.dir.parent().map(Path::to_owned) else { return Some(groups) };
        for controller in Controller::ALL {
            if cgroups.missing.contains_key(&controller) {
                continue;
            }
            match hand_down(&base, controller, ours).and_then(|()| enable(&groups.dir, controller)) {
                Ok(()) => groups.enabled.push(controller),
                Err(error) if error.raw_os_error() == Some(libc::EBUSY) => {
                    cgroups.lose(controller, "other processes are in its cgroup");
                }
                Err(error) => cgroups.lose(controller, &format!("cannot be handed down ({error})")),
            }
        }
        Some(groups)
    }

    /// The one that they are all in.
    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    /// The cgroup of an instance, made or not.
    pub(crate) fn of(&self, id: &InstanceId) -> Group {
        Group::at(self.dir.join(id.as_str()))
    }

    /// Makes the cgroup of an instance that is about to be started, with its limits.
    pub(crate) fn create(&self, id: &InstanceId, limits: &Limits) -> io::Result<Group> {
        let group = self.of(id);
        // Left by an engine that was killed, and empty, or the next step fails.
        group.remove()?;
        match fs::create_dir(group.dir()) {
            Err(error) if is_gone(&error) => {
                // Another engine of this run directory has cleared the place away when it ended.
                fs::create_dir_all(&self.dir)?;
                for controller in &self.enabled {
                    enable(&self.dir, *controller)?;
                }
                fs::create_dir(group.dir())?;
            }
            made => made?,
        }
        for controller in &self.enabled {
            for (file, value) in limits.files(*controller) {
                if let Err(error) = fs::write(group.dir().join(file), value) {
                    let _ = group.remove();
                    return Err(io::Error::new(error.kind(), format!("{file}: {error}")));
                }
            }
        }
        Ok(group)
    }

    /// The cgroups that are there, by instance.
    pub(crate) fn present(&self) -> io::Result<Vec<(InstanceId, Group)>> {
        let entries = match fs::read_dir(&self.dir) {
            Err(error) if is_gone(&error) => return Ok(Vec::new()),
            entries => entries?,
        };
        let mut present = Vec::new();
        for entry in entries.flatten() {
            let name = entry.file_name();
            if let Some(id) = name.to_str().filter(|id| is_file_name(id))
                && entry.file_type().is_ok_and(|kind| kind.is_dir())
            {
                present.push((InstanceId::new(id), Group::at(entry.path())));
            }
        }
        Ok(present)
    }

    /// The cgroup that a record names, if it is one that an engine of this run directory makes: a damaged
    /// record must not have another's processes killed.
    pub(crate) fn recorded(home: &Home, id: &InstanceId, dir: &Path) -> Option<Group> {
        let parent = dir.parent()?.file_name()?;
        let is_ours = parent == name(home).as_str() || parent == name_of_path(&home.dir).as_str();
        let ours = dir.is_absolute() && dir.file_name()? == id.as_str() && is_ours;
        ours.then(|| Group::at(dir.to_owned()))
    }
}

impl Drop for Groups {
    fn drop(&mut self) {
        if self.used {
            // Not empty: another engine of this run directory, or instances that outlive this one.
            let _ = fs::remove_dir(&self.dir);
        }
    }
}

/// Hands a controller down from `dir`, moving ourselves to a leaf if we are all that stands in the way.
fn hand_down(dir: &Path, controller: Controller, ours: &[u32]) -> io::Result<()> {
    match enable(dir, controller) {
        Err(error) if error.raw_os_error() == Some(libc::EBUSY) => {}
        done => return done,
    }
    let busy = || io::Error::from_raw_os_error(libc::EBUSY);
    let procs = fs::read_to_string(dir.join("cgroup.procs"))?;
    let pids: Option<Vec<u32>> = procs.lines().map(|pid| pid.parse().ok()).collect();
    let pids = pids.filter(|pids| !pids.is_empty() && pids.iter().all(|pid| ours.contains(pid)));
    let pids = pids.ok_or_else(busy)?;
    let leaf = dir.join(LEAF);
    fs::create_dir_all(&leaf)?;
    for pid in pids {
        fs::write(leaf.join("cgroup.procs"), pid.to_string())?;
    }
    enable(dir, controller)
}

fn enable(dir: &Path, controller: Controller) -> io::Result<()> {
    let file = dir.join("cgroup.subtree_control");
    let enabled = fs::read_to_string(&file)?;
    if enabled.split_ascii_whitespace().any(|name| name == controller.name()) {
        return Ok(());
    }
    fs::write(file, format!("+{}", controller.name()))
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]

    use std::collections::BTreeMap;

    use super::*;

    /// On plain files: what is written where, on machines of every kind.
    #[test]
    fn controllers_are_handed_down_and_limits_are_written() {
        let base = std::env::temp_dir().join(format!("formic-groups-{}", std::process::id()));
        let _ = fs::remove_dir_all(&base);
        fs::create_dir_all(&base).unwrap();
        let home = Home::find(base.clone()).unwrap();
        let ours = base.join(name(&home));
        fs::create_dir_all(&ours).unwrap();
        for dir in [&base, &ours] {
            fs::write(dir.join("cgroup.subtree_control"), "cpu").unwrap();
        }
        let missing = BTreeMap::from([(Controller::Memory, "v1".to_owned())]);
        let mut cgroups = Cgroups { base: Ok(base.clone()), missing };
        let groups = Groups::prepare(&home, &mut cgroups, &[]).unwrap();
        assert_eq!(groups.enabled, [Controller::Cpu, Controller::Pids]);
        for dir in [&base, &ours] {
            // The kernel would add it to the others; a file holds what was written last.
            assert_eq!(fs::read_to_string(dir.join("cgroup.subtree_control")).unwrap(), "+pids");
        }
        let limits = Limits { memory: Some(1 << 20), cpu: Some(2.0), cpu_weight: None, pids: Some(9) };
        let group = groups.create(&InstanceId::new("a-1"), &limits).unwrap();
        let read = |file: &str| fs::read_to_string(group.dir().join(file)).ok();
        assert_eq!((read("cpu.max"), read("pids.max")), (Some("200000 100000".into()), Some("9".into())));
        assert_eq!(read("memory.max"), None);
        assert_eq!(cgroups.unenforced(&limits)[0].to_string(), "memory: v1");
        assert_eq!(groups.present().unwrap(), [(InstanceId::new("a-1"), group)]);
        fs::remove_dir_all(base).unwrap();
    }

    #[test]
    fn only_a_cgroup_that_is_made_here_is_taken_from_a_record() {
        let run_dir = Path::new("/srv/shop/run");
        let home = Home { dir: run_dir.into(), ..Home::find("/".into()).unwrap() };
        let id = InstanceId::new("a-1");
        let good = Path::new("/sys/fs/cgroup/x").join(name(&home)).join("a-1");
        let recorded = |dir: &Path| Groups::recorded(&home, &id, dir).is_some();
        assert!(recorded(&good));
        let earlier = Path::new("/sys/fs/cgroup/x").join(name_of_path(run_dir)).join("a-1");
        assert!(recorded(&earlier), "of an instance that an earlier release started");
        assert!(!recorded(Path::new("/sys/fs/cgroup/system.slice")));
        assert!(!recorded(&good.with_file_name("a-2")));
        assert!(!recorded(&Path::new("/sys/fs/cgroup").join(name_of_path(Path::new("/other"))).join("a-1")));
        assert_eq!(name_of_path(run_dir), "formic-c122031e6e4c8e02", "other releases look there");
    }
}
