//! All processes at about one moment, and which of them are an instance's.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Weak};
use std::time::Instant;

use tokio::sync::Mutex;

use crate::adrift::{self, Above, Inherited, Output};
use crate::cgroup;
use crate::home::Home;
use crate::kin::Kin;
use crate::process::{Process, Table};
use crate::procfs::{self, Extent, Mark, Stat, mark};

/// One process of a [`Snapshot`].
#[derive(Clone, Debug)]
struct Seen {
    stat: Stat,
    mark: Mark,
    /// What it has as its standard output and error. Asked only of an orphan that says nothing else.
    outputs: Vec<Output>,
    /// Whether it came to somebody else than the one that orphans come to now.
    adrift: bool,
    /// Of such a one that has an output: whose it is, if it is one user's.
    user: Option<u32>,
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
    /// Number and start time of those that were seen to be its before: one that says so no more, whose parent has ended, still is.
    pub(crate) known: HashSet<(u32, u64)>,
    /// What its processes have from it. An orphan of this engine's that has one of its logs has inherited that.
    pub(crate) inherited: Inherited,
}

impl Claim {
    /// Whether a process says itself that it is the instance's, or is known for it. Never this one, and never init.
    fn holds(&self, seen: &Seen) -> bool {
        let says = self.known.contains(&(seen.stat.pid, seen.stat.start_time))
            || matches!(&seen.mark, Mark::Instance(instance) if *instance == self.instance)
            || self.session.is_some_and(|session| seen.stat.session == session)
            || (self.is_written_to_by(seen) && self.is_inherited_by(seen));
        says && seen.may_be_claimed()
    }

    fn is_written_to_by(&self, seen: &Seen) -> bool {
        seen.outputs.iter().any(|output| self.inherited.logs.contains(&output.file))
    }

    fn is_inherited_by(&self, seen: &Seen) -> bool {
        !seen.adrift || self.inherited.is_proven(&seen.stat, seen.user, &seen.outputs)
    }
}

impl Seen {
    fn of(stat: Stat, home: &Home, kin: Option<Kin>, above: &Above) -> Self {
        // Kernel threads have no memory, so no environment. Their session reads as 0, but so does that of
        // every process whose session began outside this pid namespace, or with the first process.
        let mark = if stat.env == Extent::None { Mark::None } else { mark(stat.pid, home) };
        let is_orphan = mark == Mark::None && kin.is_some_and(|kin| kin.has_child(&stat));
        let adrift = mark == Mark::None && !is_orphan && above.took_in(&stat);
        let (outputs, user) = if adrift {
            adrift::ask(stat.pid)
        } else if is_orphan {
            let outputs = procfs::outputs(stat.pid).into_iter();
            (outputs.map(|(_, file)| Output { file, appends: true }).collect(), None)
        } else {
            (Vec::new(), None)
        };
        Self { stat, mark, outputs, adrift, user }
    }

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
        let mark = Mark::Instance(process.id().as_str().to_owned());
        Some(Self { stat, mark, outputs: Vec::new(), adrift: false, user: None })
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
        home: &Home,
        kin: Option<Kin>,
        mains: &HashMap<u32, Process>,
        mut on_sight: impl FnMut(&Seen),
    ) -> io::Result<Self> {
        let (mut processes, above) = (Vec::new(), Above::find(kin));
        let complete = procfs::numbers(|pid| {
            if let Some(seen) = mains.get(&pid).and_then(Seen::main) {
                on_sight(&seen);
                processes.push(seen);
                return;
            }
            let Some(stat) = Stat::read(pid).filter(|stat| !stat.is_zombie()) else { return };
            let seen = Seen::of(stat, home, kin, &above);
            on_sight(&seen);
            processes.push(seen);
        })?;
        Ok(Self { processes, complete })
    }

    /// Those alone that are in none of the cgroups below this one, where the instances' are.
    ///
    /// Found by the kernel's lists of cgroups and not by `/proc`, which takes some microseconds for each process of the
    /// machine to be listed: this costs nothing for those of instances.
    fn take_outside(home: &Home, kin: Option<Kin>, groups: &Path, most: u64) -> io::Result<Self> {
        let (mut processes, above) = (Vec::new(), Above::find(kin));
        let complete = cgroup::pids_outside(groups, most, |pid| {
            let Some(stat) = Stat::read(pid).filter(|stat| !stat.is_zombie()) else { return };
            processes.push(Seen::of(stat, home, kin, &above));
        })?;
        Ok(Self { processes, complete })
    }

    /// Those alone that main processes which have ended may have left behind.
    fn take_left_behind(home: &Home, kin: Kin, table: &Weak<Table>) -> io::Result<Self> {
        let left = kin.left_behind(|listed| {
            let Some(table) = table.upgrade() else { return HashSet::new() };
            let listed: Vec<Process> = {
                let rows = table.lock();
                rows.processes.values().filter(|process| listed.contains(&process.pid())).cloned().collect()
            };
            listed.iter().filter(|process| process.has_its_number()).map(Process::pid).collect()
        })?;
        let seen = |stat: Stat| Seen::of(stat, home, Some(kin), &Above::default());
        Ok(Self { processes: left.into_iter().map(seen).collect(), complete: true })
    }

    /// Those alone that say nothing of themselves but which files they write to, and are not in the session of their parent, whoever
    /// that is. Of such ones nothing is proven.
    fn take_writers(home: &Home, mains: &HashMap<u32, Process>) -> io::Result<Self> {
        let mut processes = Vec::new();
        let complete = procfs::numbers(|pid| {
            if mains.get(&pid).is_some_and(|process| !process.has_ended()) {
                return;
            }
            // First, as it is the cheapest question that most are out by.
            let files = adrift::files(pid);
            if files.is_empty() {
                return;
            }
            let Some(stat) = Stat::read(pid).filter(|stat| !stat.is_zombie()) else { return };
            let is_in_parents = |parent: Stat| parent.session == stat.session;
            if Stat::read(stat.parent).is_some_and(is_in_parents) || mark(pid, home) != Mark::None {
                return;
            }
            let outputs = files.into_iter().map(|(_, file)| Output { file, appends: false }).collect();
            processes.push(Seen { stat, mark: Mark::None, outputs, adrift: true, user: None });
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

    /// Those that write to the log of a claim, and nothing proves that they are of it.
    pub(crate) fn suspects(&self, claim: &Claim) -> impl Iterator<Item = &Stat> {
        let writers = self.processes.iter().filter(|seen| claim.is_written_to_by(seen) && !claim.holds(seen));
        writers.map(|seen| &seen.stat)
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
    home: Arc<Home>,
    /// Empty where nothing is held.
    table: Weak<Table>,
    /// Where the cgroups of the instances are, if they have any.
    groups: Option<Arc<PathBuf>>,
    /// Where those go whose parents have ended, if that is known.
    kin: Option<Kin>,
    last: Mutex<Option<(Instant, Arc<Snapshot>)>>,
    left_behind: Mutex<Option<(Instant, Arc<Snapshot>)>>,
    outside: Mutex<Option<(Instant, Arc<Snapshot>)>>,
    writers: Mutex<Option<(Instant, Arc<Snapshot>)>>,
}

impl Scanner {
    pub(crate) fn new(home: &Home) -> Self {
        let (last, left_behind, outside) = (Mutex::default(), Mutex::default(), Mutex::default());
        let (home, writers) = (Arc::new(home.clone()), Mutex::default());
        Self { home, table: Weak::new(), groups: None, kin: None, last, left_behind, outside, writers }
    }

    /// The same for one who holds main processes.
    pub(crate) fn with_table(self, table: &Arc<Table>) -> Self {
        Self { table: Arc::downgrade(table), ..self }
    }

    /// The same where instances have cgroups, below this one.
    pub(crate) fn with_groups(self, groups: Option<&Path>) -> Self {
        Self { groups: groups.map(|groups| Arc::new(groups.to_owned())), ..self }
    }

    /// The same where it is known who takes in orphans.
    pub(crate) fn with_kin(self, kin: Option<Kin>) -> Self {
        Self { kin, ..self }
    }

    pub(crate) fn kin(&self) -> Option<Kin> {
        self.kin
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

    /// A snapshot that was begun after this call was made.
    pub(crate) async fn snapshot(&self) -> io::Result<Arc<Snapshot>> {
        let take = || {
            let (home, kin, mains) = (Arc::clone(&self.home), self.kin, self.mains());
            move || Snapshot::take(&home, kin, &mains, |_| {})
        };
        shared(&self.last, take).await
    }

    /// The same of those alone that are in no instance's cgroup: of an instance whose own is empty, who has left it.
    /// Where instances have none, or few beside what else the machine has, or they cannot be read, of all.
    pub(crate) async fn outside(&self) -> io::Result<Arc<Snapshot>> {
        let Some(groups) = &self.groups else { return self.snapshot().await };
        let take = || {
            let (home, groups, most) = (Arc::clone(&self.home), Arc::clone(groups), self.worth());
            let kin = self.kin;
            move || Snapshot::take_outside(&home, kin, &groups, most)
        };
        match shared(&self.outside, take).await {
            Ok(snapshot) => Ok(snapshot),
            Err(error) => {
                tracing::debug!(%error, "all processes of the machine are looked at, and not its cgroups");
                self.snapshot().await
            }
        }
    }

    /// The same of those alone that are below where orphans go, for an instance that descends from there and whose main
    /// process has ended.
    pub(crate) async fn left_behind(&self) -> io::Result<Arc<Snapshot>> {
        let Some(kin) = self.kin else { return self.outside().await };
        let take = || {
            let (home, table) = (Arc::clone(&self.home), Weak::clone(&self.table));
            move || Snapshot::take_left_behind(&home, kin, &table)
        };
        match shared(&self.left_behind, take).await {
            Ok(snapshot) => Ok(snapshot),
            Err(error) => {
                tracing::debug!(%error, "others than those that were left behind are looked at too");
                self.outside().await
            }
        }
    }

    /// Those that write to files and say nothing else, whoever has taken them in: nothing is proven by that, so they are only
    /// [suspects](Snapshot::suspects).
    pub(crate) async fn writers(&self) -> io::Result<Arc<Snapshot>> {
        let take = || {
            let (home, mains) = (Arc::clone(&self.home), self.mains());
            move || Snapshot::take_writers(&home, &mains)
        };
        shared(&self.writers, take).await
    }

    /// The numbers of those that somebody of ours has left behind, and nothing says who: below where orphans go, held by nobody, in
    /// sessions of their own, with an environment that names no instance.
    pub(crate) async fn strays(&self) -> io::Result<Vec<u32>> {
        let Some(kin) = self.kin else { return Ok(Vec::new()) };
        let (home, table) = (Arc::clone(&self.home), Weak::clone(&self.table));
        let take = move || Snapshot::take_left_behind(&home, kin, &table);
        let snapshot = tokio::task::spawn_blocking(take).await.map_err(io::Error::other)??;
        // What the engine itself has started, and its keeper before that, is in its session.
        let own = Stat::read(std::process::id()).map(|stat| stat.session);
        let strays =
            snapshot.processes.iter().filter(|seen| seen.mark == Mark::None && seen.may_be_claimed());
        Ok(strays
            .map(|seen| &seen.stat)
            .filter(|stat| Some(stat.session) != own)
            .map(|stat| stat.pid)
            .collect())
    }

    /// A snapshot for a claim alone that calls `on_sight` for each process at the moment it is found.
    pub(crate) async fn hunt(
        &self,
        claim: &Claim,
        on_sight: impl Fn(&Stat) + Send + 'static,
    ) -> io::Result<Snapshot> {
        let (claim, home, mains) = (claim.clone(), Arc::clone(&self.home), self.mains());
        let kin = self.kin;
        let take = move || {
            Snapshot::take(&home, kin, &mains, |seen| {
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
    #![expect(clippy::unwrap_used, reason = "a test may panic")]
    #![expect(clippy::print_stdout, reason = "a test that cannot run says so")]

    use super::*;
    use crate::procfs::Extent;

    fn seen(pid: u32, parent: u32, session: u32, instance: Option<&str>) -> Seen {
        Seen {
            stat: Stat { pid, state: b'S', parent, session, start_time: 1, threads: 1, env: Extent::Some },
            mark: instance.map_or(Mark::None, |instance| Mark::Instance(instance.to_owned())),
            outputs: Vec::new(),
            adrift: false,
            user: None,
        }
    }

    #[tokio::test]
    async fn strays_have_neither_the_mark_of_an_instance_nor_the_session_of_the_engine() {
        let home = Home::find(std::env::temp_dir()).unwrap();
        let scanner = Scanner::new(&home).with_kin(Some(Kin::of(std::process::id())));
        if let Err(error) = Kin::of(std::process::id()).left_behind(|_| HashSet::new())
            && error.kind() == io::ErrorKind::NotFound
        {
            println!(
                "formic-test-skipped: snapshot::strays_have_neither_the_mark_of_an_instance_nor_the_session_of_the_engine: {error}"
            );
            return;
        }
        let child = |args: &[&str], env: Vec<(String, std::ffi::OsString)>| {
            let mut command = std::process::Command::new(args[0]);
            command.args(&args[1..]).env_clear().envs(env).spawn().unwrap()
        };
        let marked = crate::launch::marker(&formic_core::InstanceId::new("a-1"), &home);
        let apart = ["/usr/bin/setsid", "/bin/sleep", "600"];
        let mut children =
            [child(&apart, Vec::new()), child(&apart, marked.into()), child(&apart[1..], Vec::new())];
        let pids: Vec<u32> = children.iter().map(std::process::Child::id).collect();
        let limit = Instant::now() + std::time::Duration::from_secs(20);
        // Other tests of this process have children that come and go, and each of ours becomes what it is in steps.
        let found = loop {
            let strays = scanner.strays().await.unwrap_or_default();
            let found: Vec<bool> = pids.iter().map(|pid| strays.contains(pid)).collect();
            if found == [true, false, false] || Instant::now() > limit {
                break found;
            }
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        };
        for child in &mut children {
            child.kill().unwrap();
            child.wait().unwrap();
        }
        assert_eq!(found, [true, false, false]);
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
        let claim = |instance: &str, session, known: &[(u32, u64)]| Claim {
            instance: instance.into(),
            session,
            known: known.iter().copied().collect(),
            inherited: Inherited { logs: vec!["/logs/a.log".into()], born: 2, user: 1000 },
        };
        assert_eq!(pids(&claim("a-1", Some(10), &[])), [10, 11, 12]);
        assert_eq!(pids(&claim("a-1", None, &[])), [11, 12]);
        assert_eq!(pids(&claim("a-3", None, &[])), [0_u32; 0]);
        // The same one that was seen before, and not another of its number.
        assert_eq!(pids(&claim("a-3", None, &[(12, 1)])), [12]);
        assert_eq!(pids(&claim("a-3", None, &[(12, 2)])), [0_u32; 0]);
        // An orphan that writes to the log of the instance, and what it has started since.
        let mut snapshot = snapshot;
        let outputs = |files: &[&str]| -> Vec<Output> {
            files.iter().map(|file| Output { file: file.into(), appends: true }).collect()
        };
        snapshot
            .processes
            .push(Seen { outputs: outputs(&["/dev/null", "/logs/a.log"]), ..seen(15, 2, 15, None) });
        snapshot
            .processes
            .push(Seen { outputs: outputs(&["/logs/a.log (deleted)"]), ..seen(16, 2, 16, None) });
        snapshot.processes.push(seen(17, 15, 17, None));
        // One that came to somebody else is to have all that an instance's has: this one is too old.
        let mut older = Seen { adrift: true, user: Some(1000), ..seen(18, 1, 18, None) };
        older.outputs = outputs(&["/logs/a.log"]);
        snapshot.processes.push(older.clone());
        let mut younger = older;
        (younger.stat.pid, younger.stat.start_time) = (19, 2);
        snapshot.processes.push(younger);
        let pids = |claim: &Claim| snapshot.members(claim).iter().map(|stat| stat.pid).collect::<Vec<_>>();
        assert_eq!(pids(&claim("a-3", None, &[])), [15, 17, 19]);
        let suspects = |claim: &Claim| snapshot.suspects(claim).map(|stat| stat.pid).collect::<Vec<_>>();
        assert_eq!(suspects(&claim("a-3", None, &[])), [18]);
    }
}
