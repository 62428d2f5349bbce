//! All processes at about one moment, and which of them are an instance's.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Weak};
use std::time::Instant;

use tokio::sync::Mutex;

use crate::cgroup;
use crate::process::{Process, Table};
use crate::procfs::{self, Extent, Mark, Stat, mark};

/// One process of a [`Snapshot`].
#[derive(Clone, Debug)]
struct Seen {
    stat: Stat,
    mark: Mark,
}

/// All processes at about one moment.
#[derive(Debug)]
pub(crate) struct Snapshot {
    processes: Vec<Seen>,
    complete: bool,
}

/// Which processes are an instance's.
#[derive(Clone, Debug)]
pub(crate) struct Claim {
    /// The id that its processes carry in their environment.
    pub(crate) instance: String,
    /// Its session, only if it is proven that the number still means it.
    pub(crate) session: Option<u32>,
}

impl Claim {
    /// Whether a process says itself that it is the instance's. Never this one, and never init.
    fn holds(&self, seen: &Seen) -> bool {
        let says = matches!(&seen.mark, Mark::Instance(instance) if *instance == self.instance)
            || self.session.is_some_and(|session| seen.stat.session == session);
        says && seen.may_be_claimed()
    }
}

impl Seen {
    /// A main process that has not ended, and so has its number still. It began its session and cannot leave it,
    /// no other instance's process is its parent, and what it has made of its environment makes it no less the
    /// instance's.
    fn main(process: &Process) -> Option<Self> {
        if process.has_ended() {
            return None;
        }
        let (pid, start_time) = (process.pid(), process.identity().start_time);
        let stat =
            Stat { pid, state: b'S', parent: 0, session: pid, start_time, threads: 1, env: Extent::Some };
        Some(Self { stat, mark: Mark::Instance(process.id().as_str().to_owned()) })
    }

    fn may_be_claimed(&self) -> bool {
        self.stat.pid != std::process::id() && self.stat.pid != 1
    }
}

impl Snapshot {
    /// `mains` are the main processes that are held, by their numbers: of those that live, all that matters
    /// here is known without a look at their files, so that one stop among many instances costs little more than
    /// one among few.
    fn take(
        run_dir: &Path,
        mains: &HashMap<u32, Process>,
        mut on_sight: impl FnMut(&Seen),
    ) -> io::Result<Self> {
        let mut processes = Vec::new();
        let complete = procfs::numbers(|pid| {
            if let Some(seen) = mains.get(&pid).and_then(Seen::main) {
                on_sight(&seen);
                processes.push(seen);
                return;
            }
            let Some(stat) = Stat::read(pid).filter(|stat| !stat.is_zombie()) else { return };
            // Kernel threads have no memory, so no environment. Their session reads as 0, but so does that of
            // every process whose session began outside this pid namespace, or with the first process.
            let mark = if stat.env == Extent::None { Mark::None } else { mark(stat.pid, run_dir) };
            let seen = Seen { stat, mark };
            on_sight(&seen);
            processes.push(seen);
        })?;
        Ok(Self { processes, complete })
    }

    /// Those alone that are in none of the cgroups below this one, where the instances' are.
    ///
    /// Found by the kernel's lists of cgroups and not by `/proc`, which takes some microseconds for each process of the
    /// machine to be listed: this costs nothing for those of instances.
    fn take_outside(run_dir: &Path, groups: &Path, most: u64) -> io::Result<Self> {
        let mut processes = Vec::new();
        let complete = cgroup::pids_outside(groups, most, |pid| {
            let Some(stat) = Stat::read(pid).filter(|stat| !stat.is_zombie()) else { return };
            let mark = if stat.env == Extent::None { Mark::None } else { mark(stat.pid, run_dir) };
            processes.push(Seen { stat, mark });
        })?;
        Ok(Self { processes, complete })
    }

    /// Whether every process was asked, and could say, whose it is.
    pub(crate) fn is_decided(&self) -> bool {
        self.complete && self.processes.iter().all(|seen| seen.mark != Mark::Undecided)
    }

    /// The processes of a session, which must be known to be an instance's.
    pub(crate) fn session(&self, session: u32) -> impl Iterator<Item = &Stat> {
        self.processes
            .iter()
            .filter(|seen| seen.may_be_claimed())
            .map(|seen| &seen.stat)
            .filter(move |stat| stat.session == session)
    }

    /// The ids that processes carry in their environment.
    pub(crate) fn marked(&self) -> BTreeSet<&str> {
        let marks = self.processes.iter().filter(|seen| seen.may_be_claimed()).map(|seen| &seen.mark);
        marks
            .filter_map(|mark| if let Mark::Instance(id) = mark { Some(id.as_str()) } else { None })
            .collect()
    }

    /// The living processes of a claim: those that carry the marker, those of the session (a program
    /// may clear its environment), and the descendants of both (a child may do so and leave the session).
    pub(crate) fn members(&self, claim: &Claim) -> Vec<Stat> {
        let claimed = self.processes.iter().filter(|seen| claim.holds(seen));
        let mut pids: HashSet<u32> = claimed.map(|seen| seen.stat.pid).collect();
        if pids.is_empty() {
            return Vec::new();
        }
        loop {
            let before = pids.len();
            pids.extend(
                self.processes
                    .iter()
                    .filter(|seen| seen.may_be_claimed())
                    .filter(|seen| pids.contains(&seen.stat.parent))
                    .map(|seen| seen.stat.pid)
                    .collect::<Vec<_>>(),
            );
            if pids.len() == before {
                break;
            }
        }
        self.processes.iter().map(|seen| seen.stat).filter(|stat| pids.contains(&stat.pid)).collect()
    }
}

/// A look into a cgroup costs about as much as this many processes do in `/proc`, each some five microseconds.
const DEARER: u64 = 6;

/// Takes snapshots, one for all who ask at the same time: stopping a hundred instances reads `/proc`
/// no more often than stopping one.
#[derive(Debug)]
pub(crate) struct Scanner {
    run_dir: Arc<PathBuf>,
    /// Empty where nothing is held.
    table: Weak<Table>,
    /// Where the cgroups of the instances are, if they have any.
    groups: Option<Arc<PathBuf>>,
    last: Mutex<Option<(Instant, Arc<Snapshot>)>>,
    outside: Mutex<Option<(Instant, Arc<Snapshot>)>>,
}

impl Scanner {
    pub(crate) fn new(run_dir: &Path) -> Self {
        let (last, outside) = (Mutex::default(), Mutex::default());
        Self { run_dir: Arc::new(run_dir.to_owned()), table: Weak::new(), groups: None, last, outside }
    }

    /// The same for one who holds main processes.
    pub(crate) fn with_table(self, table: &Arc<Table>) -> Self {
        Self { table: Arc::downgrade(table), ..self }
    }

    /// The same where instances have cgroups, below this one.
    pub(crate) fn with_groups(self, groups: Option<&Path>) -> Self {
        Self { groups: groups.map(|groups| Arc::new(groups.to_owned())), ..self }
    }

    /// How many cgroups cost as much to look into as the processes that need not be looked at then.
    fn worth(&self) -> u64 {
        let held = self.table.upgrade().map_or(0, |table| table.lock().processes.len());
        held as u64 / DEARER
    }

    fn mains(&self) -> HashMap<u32, Process> {
        let Some(table) = self.table.upgrade() else { return HashMap::new() };
        let rows = table.lock();
        rows.processes.values().map(|process| (process.pid(), process.clone())).collect()
    }

    pub(crate) fn run_dir(&self) -> &Path {
        &self.run_dir
    }

    /// A snapshot that was begun after this call was made.
    pub(crate) async fn snapshot(&self) -> io::Result<Arc<Snapshot>> {
        let take = || {
            let (run_dir, mains) = (self.run_dir.clone(), self.mains());
            move || Snapshot::take(&run_dir, &mains, |_| {})
        };
        shared(&self.last, take).await
    }

    /// The same of those alone that are in no instance's cgroup: of an instance whose own is empty, who has left it.
    /// Where instances have none, or few beside what else the machine has, or they cannot be read, of all.
    pub(crate) async fn outside(&self) -> io::Result<Arc<Snapshot>> {
        let Some(groups) = &self.groups else { return self.snapshot().await };
        let take = || {
            let (run_dir, groups, most) = (self.run_dir.clone(), Arc::clone(groups), self.worth());
            move || Snapshot::take_outside(&run_dir, &groups, most)
        };
        match shared(&self.outside, take).await {
            Ok(snapshot) => Ok(snapshot),
            Err(error) => {
                tracing::debug!(%error, "all processes of the machine are looked at, and not its cgroups");
                self.snapshot().await
            }
        }
    }

    /// A snapshot for a claim alone that calls `on_sight` for each process at the moment it is found.
    pub(crate) async fn hunt(
        &self,
        claim: &Claim,
        on_sight: impl Fn(&Stat) + Send + 'static,
    ) -> io::Result<Snapshot> {
        let (claim, run_dir, mains) = (claim.clone(), self.run_dir.clone(), self.mains());
        let take = move || {
            Snapshot::take(&run_dir, &mains, |seen| {
                if claim.holds(seen) {
                    on_sight(&seen.stat)
                }
            })
        };
        tokio::task::spawn_blocking(take).await.map_err(io::Error::other)?
    }
}

/// What was begun after this call was made, by this caller or by another who waits for the same.
async fn shared<T>(
    last: &Mutex<Option<(Instant, Arc<Snapshot>)>>,
    take: impl FnOnce() -> T,
) -> io::Result<Arc<Snapshot>>
where
    T: FnOnce() -> io::Result<Snapshot> + Send + 'static,
{
    let asked = Instant::now();
    let mut last = last.lock().await;
    if let Some((begun, snapshot)) = &*last
        && *begun >= asked
    {
        return Ok(snapshot.clone());
    }
    let begun = Instant::now();
    let snapshot = tokio::task::spawn_blocking(take()).await.map_err(io::Error::other)??;
    let snapshot = Arc::new(snapshot);
    *last = Some((begun, snapshot.clone()));
    Ok(snapshot)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::procfs::Extent;

    fn seen(pid: u32, parent: u32, session: u32, instance: Option<&str>) -> Seen {
        Seen {
            stat: Stat { pid, state: b'S', parent, session, start_time: 1, threads: 1, env: Extent::Some },
            mark: instance.map_or(Mark::None, |instance| Mark::Instance(instance.to_owned())),
        }
    }

    #[test]
    fn members_are_marked_in_the_session_or_descend_from_either() {
        let snapshot = Snapshot {
            complete: true,
            processes: vec![
                seen(10, 2, 10, None),        // the leader, environment cleared
                seen(11, 1, 11, Some("a-1")), // a daemon that left the session
                seen(12, 11, 12, None),       // its child, session and environment its own
                seen(13, 2, 13, Some("a-2")), // another instance
                seen(14, 1, 14, None),        // a stranger
                seen(1, 0, 1, Some("a-1")),   // never init, whatever it says
            ],
        };
        let pids = |claim: &Claim| snapshot.members(claim).iter().map(|stat| stat.pid).collect::<Vec<_>>();
        assert_eq!(pids(&Claim { instance: "a-1".into(), session: Some(10) }), [10, 11, 12]);
        assert_eq!(pids(&Claim { instance: "a-1".into(), session: None }), [11, 12]);
        assert_eq!(pids(&Claim { instance: "a-3".into(), session: None }), [0_u32; 0]);
    }
}
