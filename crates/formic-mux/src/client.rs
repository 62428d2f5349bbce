//! The calling end on a socket. One task a connection reads and writes; a call is an entry in a table, and no task.
//!
//! Callers write into the machine under its lock and wake the task, once for all who do so before it runs: so what many
//! callers say at a time is one write, and what comes back in one read wakes all of them.

mod call;
mod crowd;
mod drive;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Waker;
use std::time::Duration;

use bytes::Bytes;
use formic_core::{Error, Metadata};
use formic_rpc::Run;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::task::AbortHandle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::capture::{Direction, Recording};
use crate::codec::Fault;
use crate::limits::{Limits, MOST_ON_ITS_WAY};
use crate::link::{Clock, Pipe};
use crate::machine::{Alive, Machine, Role};

pub use call::Failure;

/// What a connection is made with.
#[derive(Clone, Debug)]
pub struct Connect {
    /// What the server may send.
    pub limits: Limits,
    /// A server that says nothing for so long while calls wait for it is asked whether it is there.
    pub ping: Duration,
    /// How long it may take to say something then.
    pub ping_timeout: Duration,
    /// Where connections are recorded.
    pub capture: Option<Recording>,
    /// Who owns the tasks of connections and of requests that stream.
    pub tasks: TaskTracker,
    /// Ends them.
    pub stop: CancellationToken,
}

/// Why a server was not greeted.
#[derive(Debug, thiserror::Error)]
pub enum NoGreeting {
    /// It speaks something else, or another version.
    #[error("the server does not speak the multiplexed wire")]
    Foreign(#[source] Fault),
    /// It closed the connection, which servers do that do not understand what they are told.
    #[error("the server closed the connection instead of a greeting")]
    Closed,
    /// The connection broke.
    #[error("the connection broke before the greeting")]
    Io(#[source] io::Error),
}

/// A connection to a server. When the last clone is dropped, the connection ends after the last of its calls.
#[derive(Clone)]
pub struct Sender(Arc<Owner>);

struct Owner {
    link: Arc<Link>,
    tasks: TaskTracker,
}

/// What callers and the connection's task share.
pub(crate) struct Link {
    state: Mutex<State>,
    /// No more calls are taken; beside the state, since it is asked before every call.
    leaving: AtomicBool,
    /// The endpoint, for errors.
    name: Arc<str>,
}

struct State {
    machine: Machine<u32>,
    slots: Slots,
    /// Wakes the connection's task; unset while it runs.
    driver: Option<Waker>,
    /// Callers who wait until the server takes more calls, by their turn.
    room: BTreeMap<u64, Waker>,
    turns: u64,
    /// Nobody can make another call.
    orphaned: bool,
    /// The connection is over.
    closed: bool,
}

/// Calls by a number that is used again, so that looking one up is one step.
#[derive(Default)]
struct Slots {
    slots: Vec<Slot>,
    free: Vec<u32>,
}

/// One call as its caller sees it.
#[derive(Default)]
struct Slot {
    id: u32,
    waker: Option<Waker>,
    metadata: Option<Metadata>,
    /// The message of an answer in one frame; most calls have no other.
    message: Option<Bytes>,
    /// Messages that came together, with what they cost.
    queue: VecDeque<(Run, u32)>,
    end: Option<Result<Metadata, Error>>,
    /// Sends a request that streams, and waits for room.
    pump: Option<AbortHandle>,
    room: Option<Waker>,
}

/// Greets a server on a fresh connection and starts the connection's task. The caller bounds the time.
///
/// # Errors
/// If the server does not greet back.
pub async fn connect<S>(io: S, name: Arc<str>, with: &Connect) -> Result<Sender, NoGreeting>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let alive = Alive { interval: with.ping, timeout: with.ping_timeout, busy_only: true };
    let machine = Machine::new(Role::Client, with.limits, alive).growing(MOST_ON_ITS_WAY);
    let state = State {
        machine,
        slots: Slots::default(),
        driver: None,
        room: BTreeMap::new(),
        turns: 0,
        orphaned: false,
        closed: false,
    };
    let capture = with.capture.as_ref().and_then(|recording| recording.begin(&name));
    let link = Arc::new(Link { state: Mutex::new(state), leaving: AtomicBool::new(false), name });
    let mut driver = drive::Driver {
        link: Arc::clone(&link),
        pipe: Pipe::new(io, Direction::Up, capture),
        clock: Clock::new(),
        wake: Vec::new(),
        crowd: crowd::Crowd::new(),
        yielded: false,
    };
    driver.greet().await?;
    let stop = with.stop.clone();
    with.tasks.spawn(async move {
        // Dropping the driver ends all calls.
        stop.run_until_cancelled(driver.run()).await;
    });
    Ok(Sender(Arc::new(Owner { link, tasks: with.tasks.clone() })))
}

impl std::fmt::Debug for Sender {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Sender({})", self.0.link.name)
    }
}

impl Sender {
    /// Whether another connection is needed for the next call.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.0.link.leaving.load(Ordering::Acquire)
    }
}

impl Drop for Owner {
    fn drop(&mut self) {
        let mut state = self.link.lock();
        state.orphaned = true;
        let waker = state.driver.take();
        drop(state);
        wake(waker);
    }
}

/// Wakes outside of the lock.
fn wake(waker: Option<Waker>) {
    if let Some(waker) = waker {
        waker.wake();
    }
}

impl Link {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn broken(&self, unsent: bool, why: Option<&str>) -> Error {
        if unsent {
            return Error::unavailable(format!("the call to {} was not sent", self.name)).with_unsent();
        }
        let mut text = format!("the connection to {} was lost", self.name);
        if let Some(why) = why {
            text.extend([": ", why]);
        }
        Error::unavailable(text).with_lost()
    }

    /// Ends all calls, for the connection is over; it may be known why.
    fn close(&self, unwritten: usize, why: Option<&str>) {
        let mut wakers = Vec::new();
        self.leaving.store(true, Ordering::Release);
        let mut guard = self.lock();
        let state = &mut *guard;
        state.closed = true;
        state.driver = None;
        let lost = state.machine.lost(unwritten);
        let blamed = state.machine.blamed().map(|said| format!("the server gave it up: {said}"));
        let why = blamed.as_deref().or(why);
        for (key, unsent) in lost {
            let slot = state.slots.get(key);
            slot.end = Some(Err(self.broken(unsent, why)));
            wakers.extend(slot.waker.take());
            wakers.extend(slot.room.take());
            // Whoever owns the tasks waits for them, perhaps before the caller looks again.
            if let Some(pump) = slot.pump.take() {
                pump.abort();
            }
        }
        wakers.extend(std::mem::take(&mut state.room).into_values());
        drop(guard);
        wakers.into_iter().for_each(Waker::wake);
    }
}

impl State {
    /// Who waits longest for a call to end.
    fn next_in_line(&mut self) -> Option<Waker> {
        self.room.pop_first().map(|(_, waker)| waker)
    }
}

impl Slots {
    fn take(&mut self) -> u32 {
        match self.free.pop() {
            Some(key) => key,
            None => {
                self.slots.push(Slot::default());
                (self.slots.len() - 1) as u32
            }
        }
    }

    fn get(&mut self, key: u32) -> &mut Slot {
        &mut self.slots[key as usize]
    }

    /// Makes the slot another call's. The result is how many batches were not taken that cost credit, and how much.
    fn put_back(&mut self, key: u32) -> (u32, usize, u32) {
        let slot = &mut self.slots[key as usize];
        let left = slot.queue.drain(..).map(|(_, charge)| charge).filter(|charge| *charge > 0);
        let (id, (count, charge)) = (slot.id, left.fold((0, 0), |(count, sum), one| (count + 1, sum + one)));
        slot.id = 0;
        slot.waker = None;
        slot.metadata = None;
        slot.message = None;
        slot.end = None;
        slot.room = None;
        if let Some(pump) = slot.pump.take() {
            pump.abort();
        }
        self.free.push(key);
        (id, count, charge)
    }
}
