//! Ending a whole tree: ask the main process, tell those that outlive it, kill what remains.
//!
//! Done means that no process of the tree is left, looked at twice. A leader that is gone proves
//! nothing: its children may hold its port and its database.

use std::collections::{BTreeSet, HashSet};
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use formic_core::InstanceId;
use rustix::process::Signal;
use tokio::io::unix::AsyncFd;
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until, timeout_at};

use crate::adrift::Inherited;
use crate::cgroup::Group;
use crate::pidfd::{PidFd, Waited, ended};
use crate::procfs::Stat;
use crate::snapshot::{Claim, Scanner, Snapshot};

/// How long killed processes may take to be gone. Longer means that the kernel holds them, for
/// example in a read from a dead disk, and waiting more is no use.
const KILL_LIMIT: Duration = Duration::from_secs(5);

/// A look at `/proc` costs about a millisecond per hundred processes: often at first, then less.
const LOOK_FIRST: Duration = Duration::from_millis(2);
const LOOK_MOST: Duration = Duration::from_millis(100);

/// See [`Ending::kill`].
const SHARED_ROUNDS: u32 = 3;

/// The end of a tree.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Ended {
    /// Those that had to be killed.
    pub(crate) killed: BTreeSet<u32>,
}

#[derive(Debug)]
pub(crate) enum TreeError {
    Scan(io::Error),
    Survivors(Vec<u32>),
    /// In a session of its number, and nothing proves whose.
    Unproven(Vec<u32>),
}

/// The session of a main process, which is the instance's for as long as its number surely means it.
///
/// A number stays taken while the process of that number is unreaped, and while any process is in the
/// session of that number. Where another reaps the main process, the second is what remains: one process
/// that was seen in the session before, and is in it still, proves the rest.
#[derive(Debug, Default)]
pub(crate) struct Session {
    number: Option<u32>,
    /// Number and start time of those that were seen in it.
    proven: Mutex<HashSet<(u32, u64)>>,
    /// The same of all that were seen to be the instance's, for example because their parent was.
    known: Mutex<HashSet<(u32, u64)>>,
    /// The same of those that may be, and nothing proves it.
    suspects: Mutex<BTreeSet<(u32, u64)>>,
}

impl Session {
    pub(crate) fn new(number: Option<u32>) -> Self {
        Self { number, ..Self::default() }
    }

    /// The session, if its number means it now.
    fn held(&self, leader: Option<&PidFd>) -> Option<u32> {
        let number = self.number?;
        let is_held = leader.is_some_and(|leader| !leader.is_reaped())
            || self.lock().iter().any(|(pid, start_time)| {
                Stat::read(*pid).is_some_and(|now| now.start_time == *start_time && now.session == number)
            });
        is_held.then_some(number)
    }

    /// Remembers who is in it and says whether it may be claimed in this snapshot. Asked after the
    /// snapshot was taken: what holds now held then.
    pub(crate) fn learn(&self, leader: Option<&PidFd>, snapshot: &Snapshot) -> Option<u32> {
        let number = self.held(leader)?;
        self.lock().extend(snapshot.session(number).map(|stat| (stat.pid, stat.start_time)));
        Some(number)
    }

    /// Those in a session of its number that nothing proves to be the instance's, or another's: the number
    /// is nobody's own, and whoever began the session is gone.
    pub(crate) fn unproven(&self, leader: Option<&PidFd>, snapshot: &Snapshot) -> Vec<u32> {
        let Some(number) = self.number.filter(|_| self.held(leader).is_none()) else { return Vec::new() };
        // A process of that number took it when it was free, so no process of the old session was left.
        if Stat::read(number).is_some() {
            return Vec::new();
        }
        snapshot.session(number).map(|stat| stat.pid).collect()
    }

    /// Those that were seen to be the instance's, with these.
    fn remember(&self, seen: &[Stat]) {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.extend(seen.iter().map(|stat| (stat.pid, stat.start_time)));
    }

    fn suspect<'s>(&self, seen: impl Iterator<Item = &'s Stat>) {
        let mut suspects = self.suspects.lock().unwrap_or_else(PoisonError::into_inner);
        suspects.extend(seen.map(|stat| (stat.pid, stat.start_time)));
    }

    /// Tells of those that live and may be the instance's, which is gone.
    pub(crate) fn tell_of_suspects(&self, instance: &InstanceId) {
        let suspects = self.suspects.lock().unwrap_or_else(PoisonError::into_inner);
        let lives = |(pid, start_time): &&(u32, u64)| {
            Stat::read(*pid).is_some_and(|now| now.start_time == *start_time && !now.is_zombie())
        };
        let pids: Vec<u32> = suspects.iter().filter(lives).map(|(pid, _)| *pid).collect();
        if !pids.is_empty() {
            tracing::warn!(
                %instance, ?pids,
                "processes write to the log of an instance that is gone, and nothing proves that they are its own: they go on"
            );
        }
    }

    fn known(&self) -> HashSet<(u32, u64)> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn lock(&self) -> MutexGuard<'_, HashSet<(u32, u64)>> {
        // Only ever added to.
        self.proven.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One tree on its way to its end.
pub(crate) struct Ending<'a> {
    pub(crate) scanner: &'a Scanner,
    /// The id that its processes carry in their environment.
    pub(crate) instance: &'a str,
    pub(crate) session: &'a Session,
    /// What its processes have from it.
    pub(crate) inherited: Inherited,
    /// Its cgroup, if it has one.
    pub(crate) group: Option<&'a Group>,
    /// Whether what its main process leaves behind goes where [`Scanner::left_behind`] looks.
    pub(crate) is_kin: bool,
    /// The main process, if it is held.
    pub(crate) leader: Option<&'a AsyncFd<PidFd>>,
    /// What asking is.
    pub(crate) ask: Signal,
    /// When asking turns to killing. It may be brought forward meanwhile.
    pub(crate) deadline: watch::Receiver<Instant>,
}

impl Ending<'_> {
    /// Ends the tree. Cancel safe: calling it again goes on.
    pub(crate) async fn run(&mut self) -> Result<Ended, TreeError> {
        let ended = self.end().await?;
        // Only where another reaps the main process can there be any.
        if self.session.number.is_some() && self.pidfd().is_none_or(PidFd::is_reaped) {
            let snapshot = self.others().await?;
            let unproven = self.session.unproven(self.pidfd(), &snapshot);
            if !unproven.is_empty() {
                return Err(TreeError::Unproven(unproven));
            }
        }
        if self.group.is_none() && !self.is_kin && !self.inherited.logs.is_empty() {
            self.look_elsewhere().await;
        }
        Ok(ended)
    }

    /// Who was left behind under a keeper that is gone may have come to one that is not above this engine. Looked for once, as it
    /// costs a look at all processes of the machine and what is found is only told.
    async fn look_elsewhere(&self) {
        match self.scanner.writers().await {
            Ok(snapshot) => self.session.suspect(snapshot.suspects(&self.claim(None))),
            Err(error) => {
                tracing::debug!(%error, "whether others write to the log of an instance is not known")
            }
        }
    }

    async fn end(&mut self) -> Result<Ended, TreeError> {
        let lives = |leader: &PidFd| !leader.has_ended();
        let is_anothers = |leader: &PidFd| leader.peek() == Waited::NotOurs && !leader.is_reaped();
        if self.pidfd().is_some_and(|leader| is_anothers(leader) || (self.group.is_none() && lives(leader))) {
            // Another reaps it, at once perhaps: who is in its session is to be learnt before that. And where there is no
            // cgroup, nothing but its parent says of a child whose it is that has emptied its environment and left the session.
            self.look().await?;
        }
        if let Some(leader) = self.leader
            && !leader.get_ref().has_ended()
            && !self.is_overdue()
        {
            // Only the main process: many supervise children of their own and would see them die first.
            signal(leader.get_ref(), self.ask);
            self.until_deadline(ended(leader)).await;
        }
        if !self.is_overdue() && self.until_gone().await? {
            return Ok(Ended::default());
        }
        self.kill().await
    }

    fn is_overdue(&self) -> bool {
        *self.deadline.borrow() <= Instant::now()
    }

    /// Waits for `event` or the deadline, whichever is first, following the deadline when it moves.
    async fn until_deadline(&mut self, event: impl Future<Output = ()>) {
        tokio::pin!(event);
        loop {
            let deadline = *self.deadline.borrow_and_update();
            // Cancel safe arms: the event is pinned outside, the others hold nothing.
            tokio::select! {
                () = &mut event => return,
                () = sleep_until(deadline) => return,
                Ok(()) = self.deadline.changed() => {}
            }
        }
    }

    fn pidfd(&self) -> Option<&PidFd> {
        self.leader.map(AsyncFd::get_ref)
    }

    fn claim(&self, session: Option<u32>) -> Claim {
        let (instance, inherited) = (self.instance.to_owned(), self.inherited.clone());
        Claim { instance, session, known: self.session.known(), inherited }
    }

    async fn look(&self) -> Result<Look, TreeError> {
        if let Some(members) = self.in_group()? {
            return Ok(Look { members, decided: false });
        }
        Ok(self.seen_in(&*self.others().await?))
    }

    /// Where its processes may be that are not in its cgroup.
    async fn others(&self) -> Result<Arc<Snapshot>, TreeError> {
        let has_ended = self.pidfd().is_some_and(PidFd::has_ended);
        let snapshot = match self.group {
            // It is empty, and who has the right to may have left it; to be among another instance's is no way out.
            Some(_) if self.is_kin && has_ended => self.scanner.left_behind().await,
            Some(_) => self.scanner.outside().await,
            None => self.scanner.snapshot().await,
        };
        snapshot.map_err(TreeError::Scan)
    }

    /// The processes in the cgroup while there are any.
    fn in_group(&self) -> Result<Option<Vec<Stat>>, TreeError> {
        match self.group {
            Some(group) if group.is_populated().map_err(TreeError::Scan)? => {
                group.members().map(Some).map_err(TreeError::Scan)
            }
            _ => Ok(None),
        }
    }

    fn seen_in(&self, snapshot: &Snapshot) -> Look {
        let claim = self.claim(self.session.learn(self.pidfd(), snapshot));
        let members = snapshot.members(&claim);
        self.session.remember(&members);
        self.session.suspect(snapshot.suspects(&claim));
        Look { members, decided: snapshot.is_decided() }
    }

    /// A look of our own that kills on sight.
    async fn hunt(&self, done: &mut Ended) -> Result<Look, TreeError> {
        let killed = Arc::new(Mutex::new(Vec::new()));
        let on_sight = {
            let killed = killed.clone();
            move |seen: &Stat| {
                if signal_member(seen, Signal::KILL) {
                    killed.lock().unwrap_or_else(PoisonError::into_inner).push(seen.pid);
                }
            }
        };
        let claim = self.claim(self.session.held(self.pidfd()));
        let snapshot = self.scanner.hunt(&claim, on_sight).await.map_err(TreeError::Scan)?;
        done.killed.extend(killed.lock().unwrap_or_else(PoisonError::into_inner).drain(..));
        Ok(self.seen_in(&snapshot))
    }

    /// Waits until nobody is left, telling each one left behind once. `false` at the deadline.
    async fn until_gone(&mut self) -> Result<bool, TreeError> {
        let mut told = HashSet::new();
        let mut looks = Looks::default();
        loop {
            let look = self.look().await?;
            if looks.is_empty(&look) {
                return Ok(true);
            }
            for member in look.members {
                if told.insert((member.pid, member.start_time)) {
                    signal_member(&member, self.ask);
                }
            }
            if self.is_overdue() {
                return Ok(false);
            }
            let pause = looks.pause();
            self.until_deadline(tokio::time::sleep(pause)).await;
        }
    }

    async fn kill(&mut self) -> Result<Ended, TreeError> {
        let mut done = Ended::default();
        let limit = Instant::now() + KILL_LIMIT;
        if let Some(group) = self.group
            && let Some(members) = self.in_group()?
        {
            group.kill().map_err(TreeError::Scan)?;
            done.killed.extend(members.iter().map(|member| member.pid));
        }
        if let Some(leader) = self.leader.map(AsyncFd::get_ref)
            && !leader.has_ended()
            && signal(leader, Signal::KILL)
        {
            // At once, without looking around first.
            done.killed.insert(leader.pid());
        }
        let mut looks = Looks::default();
        for round in 0_u32.. {
            // A look is shared by all who are stopping, and old when it is done. What escapes it some
            // times is forking as fast as we look, and is killed as it is seen.
            let look = if round < SHARED_ROUNDS || self.in_group()?.is_some() {
                self.look().await?
            } else {
                self.hunt(&mut done).await?
            };
            if looks.is_empty(&look) {
                break;
            }
            if Instant::now() >= limit {
                if look.members.is_empty() {
                    // Something on this machine hangs in an exec; that it is ours is unlikely and unprovable.
                    break;
                }
                return Err(TreeError::Survivors(look.members.iter().map(|member| member.pid).collect()));
            }
            // Again each time: one may have forked between being seen and being killed.
            if let Some(group) = self.group {
                group.kill().map_err(TreeError::Scan)?;
            }
            for member in &look.members {
                if signal_member(member, Signal::KILL) {
                    done.killed.insert(member.pid);
                }
            }
            tokio::time::sleep(looks.pause()).await;
        }
        if let Some(leader) = self.leader
            && timeout_at(limit, ended(leader)).await.is_err()
        {
            return Err(TreeError::Survivors(vec![leader.get_ref().pid()]));
        }
        Ok(done)
    }
}

/// What was seen of the tree at one moment.
struct Look {
    members: Vec<Stat>,
    /// Whether those that are not among the members are surely none.
    decided: bool,
}

/// Empty is believed when seen twice: a fork may land on a number that the first look had passed.
#[derive(Default)]
struct Looks {
    was_empty: bool,
    paused: Option<Duration>,
}

impl Looks {
    fn is_empty(&mut self, look: &Look) -> bool {
        let empty = look.members.is_empty() && look.decided;
        std::mem::replace(&mut self.was_empty, empty) && empty
    }

    fn pause(&mut self) -> Duration {
        if self.was_empty {
            return Duration::ZERO;
        }
        let pause = self.paused.map_or(LOOK_FIRST, |pause| (pause * 2).min(LOOK_MOST));
        self.paused = Some(pause);
        pause
    }
}

/// Signals a process that was seen in `/proc`, if it is still the one that was seen.
fn signal_member(seen: &Stat, with: Signal) -> bool {
    match PidFd::open(seen.pid) {
        Ok(Some(pidfd)) => {
            // Asked after the descriptor was taken: if the number was used again in between, it shows.
            let same = Stat::read(seen.pid).is_some_and(|now| now.start_time == seen.start_time);
            same && !pidfd.has_ended() && signal(&pidfd, with)
        }
        Ok(None) => false,
        Err(error) => {
            tracing::warn!(pid = seen.pid, %error, "cannot take hold of a process");
            false
        }
    }
}

fn signal(pidfd: &PidFd, with: Signal) -> bool {
    match pidfd.signal(with) {
        Ok(sent) => sent,
        Err(error) => {
            // For example one that changed its user. It is reported as a survivor in the end.
            tracing::warn!(pid = pidfd.pid(), signal = ?with, %error, "cannot signal a process");
            false
        }
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]

    use std::io::{BufRead as _, BufReader};
    use std::process::{Command, Stdio};

    use super::*;
    use crate::home::Home;

    #[tokio::test]
    async fn who_has_the_log_and_came_to_somebody_else_is_told_and_goes_on() {
        let dir = std::fs::canonicalize(std::env::temp_dir()).unwrap();
        let log = dir.join(format!("formic-elsewhere-{}.out.log", std::process::id()));
        // The shell is not above this process, and has taken in the first; the other is its own.
        let script = r#"setsid sleep 600 >>"$0" & echo $!; sleep 600 >>"$0" & echo $!; wait"#;
        let mut shell = Command::new("/bin/sh");
        shell.args(["-c", script]).arg(&log).env_clear().env("PATH", "/usr/bin:/bin").stdout(Stdio::piped());
        let mut shell = shell.spawn().unwrap();
        let mut lines = BufReader::new(shell.stdout.take().unwrap()).lines();
        let [taken, own]: [u32; 2] = std::array::from_fn(|_| lines.next().unwrap().unwrap().parse().unwrap());
        let limit = Instant::now() + Duration::from_secs(20);
        while Stat::read(taken).unwrap().session != taken {
            assert!(Instant::now() < limit, "it stays in its session");
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        let (scanner, session) =
            (Scanner::new(&Home::find(std::env::temp_dir()).unwrap()), Session::default());
        let (_keep, deadline) = watch::channel(limit);
        let mut tree = Ending {
            scanner: &scanner,
            instance: "elsewhere-1",
            session: &session,
            inherited: Inherited {
                logs: vec![log.clone()],
                born: 0,
                user: rustix::process::geteuid().as_raw(),
            },
            group: None,
            is_kin: false,
            leader: None,
            ask: Signal::TERM,
            deadline,
        };
        let ended = tree.run().await;
        let found: Vec<u32> = session.suspects.lock().unwrap().iter().map(|(pid, _)| *pid).collect();
        let live = [taken, own].map(crate::procfs::is_running);
        for pid in [taken, own] {
            PidFd::open(pid).unwrap().unwrap().signal(Signal::KILL).unwrap();
        }
        shell.wait().unwrap();
        std::fs::remove_file(log).unwrap();
        assert_eq!((found, live), (vec![taken], [true, true]));
        assert_eq!(ended.unwrap(), Ended::default());
    }
}
