//! The engine: a loop, and the way to talk to it.
//!
//! The loop owns the receivers and decides nothing: `select!` makes one [`Event`] of whatever comes,
//! [`Core`] turns events into effects, and [`Executor`] carries them out.

mod cell;
mod command;
mod core;
mod effects;
mod launch;
mod view;

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use formic_client::Client;
use formic_plan::Time;
use formic_registry::DynRegistry;
use formic_supervise::Supervisor;
use tokio::sync::{broadcast, mpsc, watch};
use tokio::time::Instant;

pub use self::command::{Applied, Busy, Change, Command, Generation, Preview, Refused, Slot, Stopped};
use self::core::{Core, Event, Now};
use self::effects::{Executor, Listeners};
use crate::gated::Gated;
use crate::journal::Journal;
use crate::start;
use crate::view::View;

/// Commands that wait; a caller beyond that is told that the engine is busy.
const QUEUE: usize = 64;
/// Notices that a slow listener may be behind.
const NOTICES: usize = 256;
/// Events that are taken at once before it is planned anew: many instances that change together cost
/// one plan, and a flood cannot keep the loop from acting.
const BATCH: usize = 256;
/// Even without an event the world is looked at again so often.
const RESYNC: Duration = Duration::from_secs(30);

/// Where an engine keeps what it makes, and what it works with.
#[derive(Clone, Debug)]
pub struct Config {
    /// Name of the application.
    pub app: String,
    /// Folder of the logs.
    pub logs: PathBuf,
    /// Folder of the services' data.
    pub data: PathBuf,
    /// Where instances find the daemon, `unix:/path`.
    pub daemon: String,
}

/// Something that people want to be told at once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Notice {
    /// About which service.
    pub service: String,
    /// What happened, in a sentence.
    pub text: String,
    /// The last lines that the instance wrote, if it failed.
    pub log: Vec<String>,
}

/// The way to an engine.
#[derive(Clone, Debug)]
pub struct Handle {
    commands: mpsc::Sender<Command>,
    view: watch::Receiver<View>,
    notices: broadcast::Sender<Notice>,
    journal: Journal,
    registry: DynRegistry,
}

/// The loop's state. Run it with [`Engine::run`]; talk to it by its [`Handle`].
#[derive(Debug)]
pub struct Engine {
    core: Core,
    executor: Executor,
    commands: mpsc::Receiver<Command>,
    events: mpsc::UnboundedReceiver<Event>,
    view: watch::Sender<View>,
    origin: Instant,
}

// === impl Handle ===

impl Handle {
    /// Sends a command.
    ///
    /// # Errors
    /// `Busy` if the queue is full or the engine has ended.
    pub fn send(&self, command: Command) -> Result<(), Busy> {
        self.commands.try_send(command).map_err(|_| Busy)
    }

    /// What is shown to people, now and at every change.
    #[must_use]
    pub fn view(&self) -> watch::Receiver<View> {
        self.view.clone()
    }

    /// What happens from now on.
    #[must_use]
    pub fn notices(&self) -> broadcast::Receiver<Notice> {
        self.notices.subscribe()
    }

    /// The registry as those see it who call: without instances that run and are to get no calls.
    #[must_use]
    pub fn registry(&self) -> DynRegistry {
        Arc::clone(&self.registry)
    }

    /// What was decided and what happened so far.
    #[must_use]
    pub fn journal(&self) -> &Journal {
        &self.journal
    }
}

// === impl Engine ===

impl Engine {
    /// An engine that wants nothing yet.
    #[must_use]
    pub fn new(
        config: Config,
        supervisor: Supervisor,
        registry: DynRegistry,
        client: Client,
    ) -> (Self, Handle) {
        let (sender, commands) = mpsc::channel(QUEUE);
        let (view, seen) = watch::channel(View::default());
        let (notices, _) = broadcast::channel(NOTICES);
        // Not bounded: the senders are the loop's own tasks, a few per instance.
        let (reports, events) = mpsc::unbounded_channel();
        let journal = Journal::new();
        let (hidden, hides) = watch::channel(BTreeSet::new());
        let handle = Handle {
            commands: sender,
            view: seen,
            notices: notices.clone(),
            journal: journal.clone(),
            registry: Arc::new(Gated::new(Arc::clone(&registry), hides)),
        };
        let listeners = Listeners { events: reports, notices, journal, hidden };
        let executor = Executor::new(supervisor, registry, client, config.logs.clone(), listeners);
        let inherited: BTreeMap<_, _> = start::inherited();
        let core = Core::new(config, inherited, fastrand::Rng::new());
        (Self { core, executor, commands, events, view, origin: Instant::now() }, handle)
    }

    /// Runs until a stop is complete, or until every handle is gone, which stops too.
    pub async fn run(mut self) -> Stopped {
        self.executor.follow_registry();
        let mut wake: Option<Time> = None;
        let mut open = true;
        loop {
            let until = wake.map_or(RESYNC, |at| at.since(self.now().time).min(RESYNC));
            // Each arm is cancel safe: receivers and a timer. What they yield is one event.
            let event = tokio::select! {
                command = self.commands.recv(), if open => match command {
                    Some(command) => Event::Command(command),
                    None => {
                        open = false;
                        Event::Command(Command::Stop { now: false, done: None })
                    }
                },
                // The executor holds a sender, so this channel never closes.
                Some(event) = self.events.recv() => event,
                () = tokio::time::sleep(until) => Event::Timer,
            };
            let queued = std::iter::from_fn(|| self.events.try_recv().ok()).take(BATCH);
            let batch: Vec<Event> = std::iter::once(event).chain(queued).collect();
            let turn = self.core.handle(batch, self.now());
            wake = turn.wake_at;
            for effect in turn.effects {
                self.executor.carry_out(effect);
            }
            self.publish();
            if let Some(stopped) = turn.ended {
                self.executor.end().await;
                return stopped;
            }
        }
    }

    fn now(&self) -> Now {
        let time = u64::try_from(self.origin.elapsed().as_millis()).unwrap_or(u64::MAX);
        let wall = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Now { time: Time::from_millis(time), unix_ms: i64::try_from(wall.as_millis()).unwrap_or(i64::MAX) }
    }

    fn publish(&self) {
        let view = self.core.view(self.now().time);
        self.view.send_if_modified(|present| {
            let changed = *present != view;
            *present = view;
            changed
        });
    }
}
