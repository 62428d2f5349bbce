//! Orphans come to the engine: daemons whose parents end are re-parented to the nearest subreaper.
//!
//! Without it they would go to process 1, which in a container often reaps nobody. The reaper must not
//! take what belongs to others in this process (tokio waits for its own children), so it reaps only
//! what is surely an orphan of an instance: an ended child that is no main process of ours and is in
//! another session than ours. Every instance starts with a session of its own, and no process can join
//! a session. The engine's other children (builds) must stay in its session, as they do unless they
//! call `setsid` themselves.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::io;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rustix::process::{Pid, WaitId, WaitIdOptions, child_subreaper, getpid, set_child_subreaper, waitid};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use crate::procfs::{self, Stat};

/// Many ends at once are one look at `/proc`.
const DEBOUNCE: Duration = Duration::from_millis(50);

/// The main processes of instances that are, or may become, children of this process, counted: one that
/// was adopted may be reaped by another, and its number be a child's of ours before we let go of it.
///
/// One for all supervisors of a process, because children are the process's. Locked across fork and
/// entry, so that a child of ours is never an unknown one.
static LEADERS: Mutex<BTreeMap<u32, usize>> = Mutex::new(BTreeMap::new());

/// The main processes, locked.
pub(crate) struct Leaders(MutexGuard<'static, BTreeMap<u32, usize>>);

impl Leaders {
    pub(crate) fn lock() -> Self {
        // Every change is one insert or remove: a panic elsewhere leaves it whole.
        Self(LEADERS.lock().unwrap_or_else(PoisonError::into_inner))
    }

    pub(crate) fn insert(&mut self, pid: u32) {
        *self.0.entry(pid).or_default() += 1;
    }

    pub(crate) fn remove(&mut self, pid: u32) {
        if let Entry::Occupied(mut entry) = self.0.entry(pid) {
            *entry.get_mut() -= 1;
            if *entry.get() == 0 {
                entry.remove();
            }
        }
    }

    fn contains(&self, pid: u32) -> bool {
        self.0.contains_key(&pid)
    }
}

/// Makes this process the one that orphans come to. For its whole life; calling it twice is fine.
///
/// # Errors
/// If the kernel refuses.
pub fn enable() -> io::Result<()> {
    Ok(set_child_subreaper(Some(getpid()))?)
}

/// Reaps orphans until cancelled.
pub(crate) async fn run(cancel: CancellationToken) -> io::Result<()> {
    let mut ends = signal(SignalKind::child())?;
    loop {
        // Both arms are cancel safe: a signal that was not received is kept by the stream.
        let more = tokio::select! {
            () = cancel.cancelled() => return Ok(()),
            more = ends.recv() => more,
        };
        if more.is_none() {
            return Ok(());
        }
        tokio::time::sleep(DEBOUNCE).await;
        // A blocking task that fails has panicked, which it tells itself; the next end tries again.
        let _ = tokio::task::spawn_blocking(reap_orphans).await;
    }
}

/// Reaps the orphans that have ended, and says how many there were. The main processes are locked all
/// the while: a child that is being started is entered before we look, and what we see is reaped by no
/// other before us, so that its number stays its own.
pub(crate) fn reap_orphans() -> usize {
    if !matches!(child_subreaper(), Ok(Some(_))) {
        return 0;
    }
    let leaders = Leaders::lock();
    let me = std::process::id();
    // Not by `getsid`: a session that began outside this pid namespace is 0 there, which it cannot say.
    let Some(Stat { session, .. }) = Stat::read(me) else { return 0 };
    let mut ended = Vec::new();
    // Cut short, it leaves some for the next time.
    let _ = procfs::scan(|stat| {
        if stat.parent == me && stat.is_zombie() && stat.session != session && !leaders.contains(stat.pid) {
            ended.push(stat.pid);
        }
    });
    let reaped = ended.into_iter().filter_map(|pid| Pid::from_raw(pid.cast_signed())).filter(|pid| {
        let reaped = waitid(WaitId::Pid(*pid), WaitIdOptions::EXITED | WaitIdOptions::NOHANG);
        matches!(reaped, Ok(Some(_)))
    });
    reaped.count()
}
