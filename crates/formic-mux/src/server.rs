//! The answering end on a socket. One task a connection reads, calls handlers and writes.
//!
//! A handler is polled once where its request was read. If it is ready, which most are, its answer goes out with all
//! others of the same read, and the call has cost no task. If it waits, it becomes a task. A method whose polls turn out
//! to be long becomes a task at once (see [`crate::learn`]).

mod answer;
pub mod door;
mod drive;
mod gather;
mod inbox;
mod late;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Waker;
use std::time::Duration;

use formic_rpc::{Handle, Peer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_util::sync::CancellationToken;

use crate::budget::Budget;
use crate::capture::Direction;
use crate::learn::Book;
use crate::limits::{Limits, MOST_ON_ITS_WAY};
use crate::link::{Clock, Pipe};
use crate::machine::{Alive, Machine, Role};
use door::Door;
use inbox::Inbox;

/// What a call may send ahead of its handler once it is let in, if the greeting says less.
const WINDOW: u32 = 512 << 10;

/// How connections are served; one for all of a server.
pub struct Accept {
    /// Who answers.
    pub handle: Arc<dyn Handle>,
    /// Who lets calls in whose message is not there with their head; without, they ask as the others do, when they are whole.
    pub door: Option<Arc<dyn Door>>,
    /// What clients may send.
    pub limits: Limits,
    /// How long a client may take to greet.
    pub greeting: Duration,
    /// How long nothing of a request may arrive while the rest of it is waited for, whatever its deadline. Requests that
    /// stream may pause.
    pub body_timeout: Duration,
    /// When a silent client is asked whether it is there, and how long it may take to say so.
    pub alive: (Duration, Duration),
    /// Deadline of a call that brought none; of an answer that streams it bounds the beginning.
    pub default_deadline: Duration,
    /// The longest deadline that a caller may ask for.
    pub max_deadline: Duration,
    /// A connection without a call for so long is closed, with a word.
    pub idle: Duration,
    /// What all connections together may hold.
    pub budget: Arc<Budget>,
    /// What was learnt of methods.
    pub book: Book,
}

impl std::fmt::Debug for Accept {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Accept").field("limits", &self.limits).finish_non_exhaustive()
    }
}

/// What handlers and the connection's task share.
struct Link(Mutex<State>);

struct State {
    machine: Machine<Option<Arc<Inbox>>>,
    /// Wakes the connection's task; unset while it runs.
    driver: Option<Waker>,
    /// Answers that stream and wait until they may send.
    room: HashMap<u32, Waker>,
    /// Answers that wait, and until when.
    late: late::Late,
}

/// Serves a connection to its end. `read` was read from it already.
pub async fn serve<S>(
    io: S,
    read: &[u8],
    accept: Arc<Accept>,
    peer: Option<Peer>,
    draining: CancellationToken,
) where
    S: AsyncRead + AsyncWrite + Unpin + Send,
{
    let (interval, timeout) = accept.alive;
    let machine = Machine::new(Role::Server, accept.limits, Alive { interval, timeout, busy_only: false });
    let machine = machine.granting(WINDOW).growing(MOST_ON_ITS_WAY).drawing_on(Arc::clone(&accept.budget));
    let state = State { machine, driver: None, room: HashMap::new(), late: late::Late::default() };
    let mut driver = drive::Driver {
        link: Arc::new(Link(Mutex::new(state))),
        pipe: Pipe::new(io, Direction::Down, None),
        clock: Clock::new(),
        events: Vec::new(),
        calls: answer::Calls::new(accept, peer),
        drained: false,
        yielded: false,
        unasked: false,
        quiet: None,
        weighed: Duration::ZERO,
        tidied: Duration::ZERO,
    };
    let fault = driver.begin(read).err();
    driver.run(draining, fault).await;
}

impl Link {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Has the machine say something, and the task write it.
    fn say<T>(&self, what: impl FnOnce(&mut Machine<Option<Arc<Inbox>>>) -> T) -> T {
        self.with(|state| what(&mut state.machine))
    }

    /// The same, with more at hand.
    fn with<T>(&self, what: impl FnOnce(&mut State) -> T) -> T {
        let mut state = self.lock();
        let said = what(&mut state);
        let driver = if state.machine.has_output() { state.driver.take() } else { None };
        drop(state);
        if let Some(driver) = driver {
            driver.wake();
        }
        said
    }
}
