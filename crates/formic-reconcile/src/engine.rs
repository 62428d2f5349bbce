//! The engine: a loop, and the way to talk to it.
//!
//! The loop owns the receivers and decides nothing: `select!` makes one [`Event`] of whatever comes,
//! [`Core`] turns events into effects, and [`Executor`] carries them out.

mod cell;
mod command;
mod core;
mod effects;
mod launch;
mod permit;
mod view;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use formic_client::Client;
use formic_core::error::in_full;
use formic_plan::Time;
use formic_registry::DynRegistry;
use formic_state::State;
use formic_supervise::{Rights, Supervisor, keeper};
use tokio::sync::{broadcast, mpsc, watch};

pub use self::command::{
    Applied, Busy, Change, Command, Generation, Preview, Refused, Restarted, Slot, Stopped,
};
pub(crate) use self::core::Now;
use self::core::{Core, Event, Fate, Found, Turn};
pub(crate) use self::effects::Probing;
use self::effects::{Effect, Executor, Listeners};
use self::permit::Permit;
use crate::clock::now;
use crate::gated::Gated;
use crate::journal::{self, Journal};
use crate::measures::{Measured, Measures, Probed};
use crate::secrets::Secrets;
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

/// What is remembered of the registry counts for so long: an instance that lives registers itself again well
/// before, and one that does not is taken out when it is found gone.
const REMEMBERED: Duration = Duration::from_secs(60);

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

/// What an engine found at its start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Takeover {
    /// Instances that run, and go on.
    pub running: usize,
    /// Instances of which nobody can say whether they run.
    pub quarantined: usize,
}

/// An engine cannot go on where the one before it ended.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ResumeError {
    /// Its state cannot be read.
    #[error(transparent)]
    State(#[from] formic_state::Error),
    /// The records of instances cannot be read.
    #[error(transparent)]
    Records(#[from] formic_supervise::FileError),
    /// The system does not say which start of the machine this is.
    #[error("read the identity of this boot")]
    Boot(#[source] std::io::Error),
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
    supervisor: Supervisor,
    measures: Measures,
}

/// Of what comes with the present desired state, and with an earlier one, what is to come with the present one once this service
/// is what it was in the earlier one.
pub type WayBack = fn(&serde_json::Value, &serde_json::Value, &str) -> serde_json::Value;

/// The loop's state. Run it with [`Engine::run`]; talk to it by its [`Handle`].
#[derive(Debug)]
pub struct Engine {
    core: Core,
    executor: Executor,
    commands: mpsc::Receiver<Command>,
    events: mpsc::UnboundedReceiver<Event>,
    view: watch::Sender<View>,
    journal: Journal,
    registry: DynRegistry,
    /// Where what is wanted is written down, and the identity of this start of the machine.
    state: Option<(Arc<State>, String)>,
    measures: Measures,
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

    /// What instances use, how they answer, and how quick the engine is. Reads files of the kernel's.
    #[must_use]
    pub fn measured(&self) -> Measured {
        self.measures.now(&self.supervisor)
    }

    /// How the probes of all instances go.
    #[must_use]
    pub fn probed(&self) -> HashMap<formic_core::InstanceId, Probed> {
        self.measures.probed()
    }

    /// What each instance that is not gone was started with.
    #[must_use]
    pub fn rights(&self) -> HashMap<formic_core::InstanceId, Rights> {
        let processes = self.supervisor.processes().into_iter();
        processes.map(|process| (process.id().clone(), process.rights())).collect()
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
        let measures = Measures::default();
        let handle = Handle {
            commands: sender,
            view: seen,
            notices: notices.clone(),
            journal: journal.clone(),
            registry: Arc::new(Gated::new(Arc::clone(&registry), hides)),
            supervisor: supervisor.clone(),
            measures: measures.clone(),
        };
        let listeners = Listeners {
            events: reports,
            notices,
            journal: journal.clone(),
            hidden,
            measures: measures.clone(),
        };
        let executor =
            Executor::new(supervisor, Arc::clone(&registry), client, config.logs.clone(), listeners);
        let inherited: BTreeMap<_, _> = start::inherited();
        let core = Core::new(config, inherited, fastrand::Rng::new());
        (Self { core, executor, commands, events, view, journal, registry, state: None, measures }, handle)
    }

    /// Hands secrets to instances; without them, none that needs one starts.
    #[must_use]
    pub fn with_secrets(mut self, secrets: Secrets) -> Self {
        self.executor.secrets = Some(secrets);
        self
    }

    /// Tells of each user, other than this one, whose instances are started: they look for the engine at
    /// [`account::socket`](crate::account::socket).
    #[must_use]
    pub fn with_doors(mut self, doors: mpsc::UnboundedSender<u32>) -> Self {
        self.executor.doors = Some(doors);
        self
    }

    /// What comes with a desired state is, of a service that goes back, what came with the one that it goes back to.
    #[must_use]
    pub fn with_way_back(mut self, way_back: WayBack) -> Self {
        self.core.way_back = Some(way_back);
        self
    }

    /// Has a keeper hold the public sockets, so that they outlive this engine.
    #[must_use]
    pub fn with_keeper(mut self, keeper: keeper::Client) -> Self {
        self.executor.kept_by(keeper);
        self
    }

    /// Goes on where the engine before this one ended, and takes over what it has left running: to be called
    /// before the registry is served, so that nobody sees one that is half full. Everything is written to
    /// `state` from now on, before it is acted upon.
    ///
    /// # Errors
    /// What is on disk cannot be read.
    pub async fn resume(&mut self, state: Arc<State>) -> Result<Takeover, ResumeError> {
        let boot = formic_supervise::boot_id().map_err(ResumeError::Boot)?;
        self.core.restore(&state, &boot, now())?;
        self.journal.restore(state.last_events(journal::KEPT)?, state.next_event()?);
        self.state = Some((state, boot));
        self.executor.keep_ends();
        let found = self.executor.adopt().await?;
        if let Some(secrets) = &self.executor.secrets {
            let there = |found: &&Found| {
                use Fate::{Elsewhere, Gone, NeverRan, Over};
                !matches!(found.fate, Gone | NeverRan | Elsewhere { .. } | Over { .. })
            };
            let live = found.iter().filter(there).map(|found| found.id.as_str().to_owned());
            secrets.sweep(&live.collect());
        }
        let mut takeover = Takeover::default();
        for found in &found {
            match found.fate {
                Fate::Running { .. } => takeover.running += 1,
                Fate::Quarantined { .. } => takeover.quarantined += 1,
                _ => {}
            }
        }
        for instance in self.core.remembered(&found) {
            // What it cannot take back is not in the way: the instance registers itself again.
            let _ = self.registry.register(instance, REMEMBERED).await;
        }
        let turn = self.core.handle([Event::Adopted(found)], now());
        self.carry_out(turn).await;
        Ok(takeover)
    }

    /// Runs until a stop is complete, or until every handle is gone, which stops too.
    pub async fn run(mut self) -> Stopped {
        self.executor.follow_registry();
        let mut wake: Option<Time> = None;
        let mut open = true;
        loop {
            let until = wake.map_or(RESYNC, |at| at.since(now().time).min(RESYNC));
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
            self.measures.took(batch.len(), self.events.len() + self.commands.len());
            let began = Instant::now();
            let turn = self.core.handle(batch, now());
            self.measures.turned(began.elapsed());
            wake = turn.wake_at;
            let ended = turn.ended;
            self.carry_out(turn).await;
            if let Some(stopped) = ended {
                self.executor.end().await;
                return stopped;
            }
        }
    }

    /// Writes down what a turn decided, and then does it. What is to be started comes up to its gate meanwhile, and the
    /// gate opens when the decision is on the disk.
    async fn carry_out(&mut self, turn: Turn) {
        let mut unsaved = None;
        let (starts, effects): (Vec<_>, Vec<_>) =
            turn.effects.into_iter().partition(|effect| matches!(effect, Effect::Spawn(_)));
        let (permits, permit) = Permit::pending();
        let start = |executor: &mut Executor| {
            for start in starts {
                executor.carry_out(start, &permit);
            }
        };
        if let (Some((state, boot)), Some(save)) = (&self.state, turn.save) {
            let (state, boot, save) = (Arc::clone(state), boot.clone(), Arc::new(*save));
            let writes = Arc::clone(&save);
            let began = Instant::now();
            let written = tokio::task::spawn_blocking(move || {
                writes.commit(&state, &boot).map_err(|error| in_full(&error))
            });
            // After the commit was begun, which would else wait behind a thousand forks.
            start(&mut self.executor);
            match self.core.written(&save, written.await) {
                Ok(()) => {
                    self.measures.committed(began.elapsed());
                    self.executor.release_ended(save.over());
                }
                Err(why) => unsaved = Some((why, !save.is_of_what_is_wanted())),
            }
        } else {
            start(&mut self.executor);
        }
        permits.say(unsaved.as_ref().map(|(why, _)| why.as_str()));
        for effect in effects {
            match &unsaved {
                None => self.executor.carry_out(effect, &permit),
                Some((why, is_kept)) => self.executor.carry_out_unsaved(effect, &permit, why, *is_kept),
            }
        }
        self.publish();
    }

    fn publish(&mut self) {
        let view = self.core.view(now().time);
        self.view.send_if_modified(|present| {
            let changed = *present != view;
            *present = view;
            changed
        });
    }
}
