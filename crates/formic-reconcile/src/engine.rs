//! The loop: events in, plans made, actions carried out, status told.

use std::collections::HashMap;
use std::ffi::OsString;
use std::os::unix::fs::DirBuilderExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use formic_client::Client;
use formic_core::{InstanceId, ServiceName};
use formic_plan::{Action, Desired, Instance, Observed, Outcome, State, StopCause, Time, plan};
use formic_registry::DynRegistry;
use formic_spec::Restart;
use formic_supervise::{ExitStatus, Launch, Process, SpawnError, StopError, Supervisor};
use tokio::sync::{broadcast, mpsc, oneshot, watch};
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::Instant;

use crate::logs;
use crate::probe::Target;
use crate::start::{self, Start};
use crate::view::{InstanceView, View};

/// Commands that wait; a caller beyond that is told that the engine is busy.
const QUEUE: usize = 64;
/// Logs are kept for so many instances of a service.
const KEEP_LOGS: usize = 10;
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

/// What the engine is asked to do.
#[derive(Debug)]
pub enum Command {
    /// Make this so. An older generation than the present one is refused, the same one changes nothing.
    Apply(Desired, oneshot::Sender<Result<(), u64>>),
    /// Stop everything, dependants first, and end.
    Stop {
        /// Kill instead of drain.
        now: bool,
        /// Told when all of it is gone.
        done: Option<oneshot::Sender<Stopped>>,
    },
}

/// What came of a stop.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stopped {
    /// Instances that had to be killed.
    pub killed: u32,
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

/// The engine has more commands than it can take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Busy;

impl std::fmt::Display for Busy {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("the engine is busy or has ended")
    }
}

impl std::error::Error for Busy {}

/// The way to an engine.
#[derive(Clone, Debug)]
pub struct Handle {
    commands: mpsc::Sender<Command>,
    view: watch::Receiver<View>,
    notices: broadcast::Sender<Notice>,
}

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
}

enum Event {
    Command(Command),
    Spawned(formic_plan::InstanceId, Box<Result<Process, SpawnError>>),
    Exited(formic_plan::InstanceId, ExitStatus),
    Gone(formic_plan::InstanceId, Result<formic_supervise::Stopped, StopError>),
    Probe(formic_plan::InstanceId, bool),
    Registry,
    Timer,
}

/// What belongs to one instance besides the planner's view of it.
struct Cell {
    process: Option<Process>,
    rule: Restart,
    stop_asked: Option<StopKind>,
    stop_running: bool,
    main_exit: Option<ExitStatus>,
    tasks: Vec<AbortHandle>,
    started: SystemTime,
    stderr: PathBuf,
    last_exit: String,
}

#[derive(Clone, Copy, PartialEq)]
enum StopKind {
    Ask(Duration),
    Kill,
}

/// The loop's state. Run it with [`Engine::run`]; talk to it by its [`Handle`].
pub struct Engine {
    config: Config,
    supervisor: Supervisor,
    registry: DynRegistry,
    client: Client,
    desired: Desired,
    observed: Observed,
    cells: HashMap<formic_plan::InstanceId, Cell>,
    addresses: HashMap<String, String>,
    commands: mpsc::Receiver<Command>,
    events: (mpsc::UnboundedSender<Event>, mpsc::UnboundedReceiver<Event>),
    tasks: JoinSet<()>,
    view: watch::Sender<View>,
    notices: broadcast::Sender<Notice>,
    stopping: Option<Vec<oneshot::Sender<Stopped>>>,
    killed: u32,
    origin: Instant,
}

impl std::fmt::Debug for Engine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Engine").field("app", &self.config.app).finish_non_exhaustive()
    }
}

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
        let (notices, _) = broadcast::channel(256);
        let handle = Handle { commands: sender, view: seen, notices: notices.clone() };
        let engine = Self {
            config,
            supervisor,
            registry,
            client,
            desired: Desired::nothing(0),
            observed: Observed::default(),
            cells: HashMap::new(),
            addresses: HashMap::new(),
            commands,
            // Not bounded: the senders are the loop's own tasks, a few per instance.
            events: mpsc::unbounded_channel(),
            tasks: JoinSet::new(),
            view,
            notices,
            stopping: None,
            killed: 0,
            origin: Instant::now(),
        };
        (engine, handle)
    }

    fn now(&self) -> Time {
        Time::from_millis(u64::try_from(self.origin.elapsed().as_millis()).unwrap_or(u64::MAX))
    }

    /// Runs until a stop is complete, or until every handle is gone, which stops too.
    pub async fn run(mut self) -> Stopped {
        self.follow_registry();
        let mut wake: Option<Time> = None;
        loop {
            let until = wake.map_or(RESYNC, |at| at.since(self.now()).min(RESYNC));
            // Each arm is cancel safe: receivers and a timer. What they yield is one event.
            let event = tokio::select! {
                command = self.commands.recv() => match command {
                    Some(command) => Event::Command(command),
                    None => Event::Command(Command::Stop { now: false, done: None }),
                },
                // The loop holds a sender, so this channel never closes.
                Some(event) = self.events.1.recv() => event,
                () = tokio::time::sleep(until) => Event::Timer,
            };
            self.handle(event).await;
            while self.tasks.try_join_next().is_some() {}
            wake = self.act();
            self.publish();
            if self.stopping.is_some() && !self.observed.instances.iter().any(Instance::is_live) {
                break;
            }
        }
        self.tasks.shutdown().await;
        let stopped = Stopped { killed: self.killed };
        for done in self.stopping.take().into_iter().flatten() {
            // Whoever asked may have gone.
            let _ = done.send(stopped);
        }
        stopped
    }

    fn follow_registry(&mut self) {
        let (registry, events) = (Arc::clone(&self.registry), self.events.0.clone());
        self.tasks.spawn(async move {
            loop {
                let mut watch = registry.watch(None);
                while watch.next().await.is_ok() {
                    if events.send(Event::Registry).is_err() {
                        return;
                    }
                }
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
        });
    }

    async fn handle(&mut self, event: Event) {
        let now = self.now();
        match event {
            Event::Timer => {}
            Event::Registry => self.read_addresses().await,
            Event::Command(Command::Apply(desired, answer)) => {
                let present = self.desired.generation;
                let refused = desired.generation < present || self.stopping.is_some();
                if !refused && desired.generation > present {
                    self.desired = desired;
                }
                // The caller may have gone.
                let _ = answer.send(if refused { Err(present) } else { Ok(()) });
            }
            Event::Command(Command::Stop { now: at_once, done }) => {
                self.desired = Desired::nothing(self.desired.generation + 1);
                self.stopping.get_or_insert_default().extend(done);
                if at_once {
                    let live: Vec<_> = self
                        .observed
                        .instances
                        .iter()
                        .filter(|i| i.is_live())
                        .map(|i| i.id.clone())
                        .collect();
                    for id in live {
                        self.stop(&id, StopKind::Kill, StopCause::ShutDown);
                    }
                }
            }
            Event::Probe(id, ready) => {
                if let Some(instance) = find(&mut self.observed, &id) {
                    if ready { instance.ready(now) } else { instance.unready(now) }
                }
                if ready {
                    self.read_addresses().await;
                }
            }
            Event::Spawned(id, outcome) => self.spawned(&id, *outcome).await,
            Event::Exited(id, status) => {
                if let Some(cell) = self.cells.get_mut(&id) {
                    cell.main_exit = Some(status);
                    // The leader's end is not the tree's: what it left behind goes now.
                    let kind = cell.stop_asked.unwrap_or(StopKind::Ask(Duration::from_secs(1)));
                    self.run_stop(&id, kind);
                }
            }
            Event::Gone(id, outcome) => self.gone(&id, outcome).await,
        }
    }

    async fn read_addresses(&mut self) {
        if let Ok(snapshot) = self.registry.watch(None).next().await {
            self.addresses =
                snapshot.instances.iter().map(|i| (i.id.to_string(), i.endpoint.to_string())).collect();
        }
    }

    /// Plans and carries out; returns when to look again.
    fn act(&mut self) -> Option<Time> {
        let now = self.now();
        let plan = plan(&self.desired, &self.observed, now);
        if !plan.is_idle() {
            tracing::debug!(%plan, "acting");
        }
        for action in &plan.actions {
            match action {
                Action::Kill { instance, .. } => self.stop(instance, StopKind::Kill, StopCause::Requested),
                Action::Stop { instance, grace, cause, .. } => {
                    self.stop(instance, StopKind::Ask(grace.get()), *cause);
                }
                Action::Start { service, slot, .. } => self.start(service, *slot, now),
                Action::Wait { .. } => {}
                _ => tracing::warn!(%action, "the planner asks for something unknown"),
            }
        }
        plan.wake_at
    }

    fn start(&mut self, service: &str, slot: u32, now: Time) {
        let Some(wanted) = self.desired.service(service).cloned() else { return };
        let id = formic_plan::InstanceId::from(format!("{service}-{:08x}", fastrand::u32(..)));
        let previous = self.observed.slot(service, slot).cloned();
        let instance = Instance::begin(id.clone(), &wanted, slot, previous.as_ref(), now);
        if let Some(previous) = &previous {
            self.observed.instances.retain(|i| i.id != previous.id);
        }
        let last_exit =
            previous.as_ref().and_then(Instance::exit).map(|exit| exit.to_string()).unwrap_or_default();
        if let Some(previous) = previous {
            self.cells.remove(&previous.id);
        }
        self.observed.instances.push(instance);
        let spec: Result<Start, _> = serde_json::from_value(wanted.start.clone());
        let name = ServiceName::new(service);
        let dir = self.config.logs.join(service);
        let mut cell = Cell {
            process: None,
            rule: Restart::default(),
            stop_asked: None,
            stop_running: false,
            main_exit: None,
            tasks: Vec::new(),
            started: SystemTime::now(),
            stderr: dir.join(format!("{}.err.log", id.as_str())),
            last_exit,
        };
        let (Ok(spec), Ok(name)) = (spec, name) else {
            self.cells.insert(id.clone(), cell);
            return self
                .ended(&id, Outcome::NotStarted("the desired state does not say how to start it".into()));
        };
        cell.rule = spec.restart.clone();
        let launch = self.launch(&id, name, slot, wanted.revision.short(), &spec, &cell.stderr);
        let (supervisor, events, logs) =
            (self.supervisor.clone(), self.events.0.clone(), self.config.logs.clone());
        let data = self.config.data.join(service);
        let (spawning, service) = (id.clone(), service.to_owned());
        self.tasks.spawn(async move {
            logs::prune(&logs, &service, KEEP_LOGS - 1);
            let made = [logs.join(&service), data]
                .iter()
                .try_for_each(|dir| std::fs::DirBuilder::new().recursive(true).mode(0o700).create(dir));
            let outcome = match made {
                Ok(()) => supervisor.spawn(launch).await,
                Err(source) => Err(SpawnError::Start { trampoline: logs, source }),
            };
            // The loop outlives its tasks.
            let _ = events.send(Event::Spawned(spawning, Box::new(outcome)));
        });
        self.cells.insert(id, cell);
    }

    fn launch(
        &self,
        id: &formic_plan::InstanceId,
        service: ServiceName,
        slot: u32,
        version: &str,
        spec: &Start,
        stderr: &std::path::Path,
    ) -> Launch {
        let mut env = start::inherited();
        let mut set = |name: &str, value: &str| env.insert(name.to_owned(), OsString::from(value));
        set("FORMIC_APP", &self.config.app);
        set("FORMIC_SERVICE", service.as_str());
        set("FORMIC_VERSION", version);
        set("FORMIC_DAEMON", &self.config.daemon);
        set("FORMIC_LISTEN", "127.0.0.1:0");
        if let Some(port) = spec.port {
            set("PORT", &port.to_string());
        }
        for (name, value) in &spec.env {
            set(name, value);
        }
        env.insert("FORMIC_DATA_DIR".into(), self.config.data.join(service.as_str()).into());
        Launch {
            id: InstanceId::new(id.as_str()),
            slot,
            revision: version.to_owned(),
            program: spec.program.clone().into(),
            args: spec.args.iter().map(Into::into).collect(),
            env,
            cwd: spec.cwd.clone(),
            stdout: stderr.with_file_name(format!("{}.out.log", id.as_str())),
            stderr: stderr.to_path_buf(),
            service,
        }
    }

    async fn spawned(&mut self, id: &formic_plan::InstanceId, outcome: Result<Process, SpawnError>) {
        match outcome {
            Ok(process) => {
                self.watch_exit(id, &process);
                self.watch_health(id, &process);
                let Some(cell) = self.cells.get_mut(id) else { return };
                cell.process = Some(process);
                // A stop that came while it was being started.
                if let Some(kind) = cell.stop_asked {
                    self.run_stop(id, kind);
                }
            }
            Err(error) => {
                let mut text = error.to_string();
                let mut cause = std::error::Error::source(&error);
                while let Some(error) = cause {
                    text.push_str(": ");
                    text.push_str(&error.to_string());
                    cause = error.source();
                }
                self.tell(id, format!("cannot be started: {text}")).await;
                self.ended(id, Outcome::NotStarted(text));
            }
        }
    }

    fn watch_exit(&mut self, id: &formic_plan::InstanceId, process: &Process) {
        let (id, process, events) = (id.clone(), process.clone(), self.events.0.clone());
        self.tasks.spawn(async move {
            let status = process.wait().await;
            let _ = events.send(Event::Exited(id, status));
        });
    }

    fn watch_health(&mut self, id: &formic_plan::InstanceId, process: &Process) {
        let service = process.service().clone();
        let start = self.desired.service(service.as_str()).map(|wanted| wanted.start.clone());
        let Some(Ok(spec)) = start.map(serde_json::from_value::<Start>) else { return };
        let target = Target {
            instance: InstanceId::new(id.as_str()),
            service,
            health: spec.health,
            port: spec.port,
            registry: Arc::clone(&self.registry),
            client: self.client.clone(),
            known: None,
        };
        let (events, probed) = (self.events.0.clone(), id.clone());
        let task = self.tasks.spawn(target.watch(move |ready| {
            let _ = events.send(Event::Probe(probed.clone(), ready));
        }));
        if let Some(cell) = self.cells.get_mut(id) {
            cell.tasks.push(task);
        }
    }

    fn stop(&mut self, id: &formic_plan::InstanceId, kind: StopKind, cause: StopCause) {
        let now = self.now();
        if let Some(instance) = find(&mut self.observed, id) {
            instance.stopping(cause, now);
        }
        let Some(cell) = self.cells.get_mut(id) else { return };
        if cell.stop_asked == Some(StopKind::Kill) || (cell.stop_asked.is_some() && kind != StopKind::Kill) {
            return;
        }
        cell.stop_asked = Some(kind);
        cell.stop_running = false;
        if cause == StopCause::NotReady {
            let (service, log) = (self.service_of(id), cell_log(&self.cells, id));
            let notice = Notice { service, text: "did not get ready in time; it is stopped".into(), log };
            // Nobody may be listening.
            let _ = self.notices.send(notice);
        }
        self.run_stop(id, kind);
    }

    fn run_stop(&mut self, id: &formic_plan::InstanceId, kind: StopKind) {
        let Some(cell) = self.cells.get_mut(id) else { return };
        let Some(process) = cell.process.clone() else { return };
        if cell.stop_running {
            return;
        }
        cell.stop_running = true;
        let (id, events) = (id.clone(), self.events.0.clone());
        self.tasks.spawn(async move {
            let outcome = match kind {
                StopKind::Ask(grace) => process.stop(grace).await,
                StopKind::Kill => process.kill().await,
            };
            let _ = events.send(Event::Gone(id, outcome));
        });
    }

    async fn gone(
        &mut self,
        id: &formic_plan::InstanceId,
        outcome: Result<formic_supervise::Stopped, StopError>,
    ) {
        let Some(cell) = self.cells.get(id) else { return };
        let asked = cell.stop_asked.is_some();
        let status = match outcome {
            Ok(stopped) => {
                if asked && !stopped.killed.is_empty() {
                    self.killed += 1;
                }
                cell.main_exit.unwrap_or(stopped.status)
            }
            Err(error) => {
                self.tell(id, format!("cannot be stopped: {error}")).await;
                ExitStatus::Unknown
            }
        };
        if !asked {
            self.tell(id, format!("ended by itself: {status}")).await;
        }
        self.ended(
            id,
            match status {
                ExitStatus::Code(code) => Outcome::Code(code),
                ExitStatus::Signal(signal) => Outcome::Signal(signal),
                ExitStatus::Unknown => Outcome::Unknown,
            },
        );
        // A crashed instance cannot deregister itself.
        let registry = Arc::clone(&self.registry);
        let dead = InstanceId::new(id.as_str());
        self.tasks.spawn(async move {
            let _ = registry.deregister(&dead).await;
        });
    }

    fn ended(&mut self, id: &formic_plan::InstanceId, outcome: Outcome) {
        let now = self.now();
        if let Some(cell) = self.cells.get_mut(id) {
            cell.tasks.drain(..).for_each(|task| task.abort());
            cell.process = None;
            let rule = cell.rule.clone();
            if let Some(instance) = find(&mut self.observed, id) {
                instance.exited(outcome, &rule, fastrand::f64(), now);
            }
        }
        self.addresses.remove(id.as_str());
    }

    fn service_of(&self, id: &formic_plan::InstanceId) -> String {
        self.observed.instances.iter().find(|i| i.id == *id).map(|i| i.service.clone()).unwrap_or_default()
    }

    async fn tell(&self, id: &formic_plan::InstanceId, text: String) {
        let log = cell_log(&self.cells, id);
        // Nobody may be listening.
        let _ = self.notices.send(Notice { service: self.service_of(id), text, log });
    }

    fn publish(&self) {
        let mut services = View::services(&self.desired, &self.observed, self.now());
        if self.stopping.is_none() && self.desired.services.is_empty() {
            services.clear();
        }
        for service in &mut services {
            let mut own: Vec<&Instance> =
                self.observed.instances.iter().filter(|i| i.service == service.name).collect();
            own.sort_by_key(|i| i.slot);
            service.instances = own.into_iter().map(|i| self.instance(i)).collect();
        }
        let view = View { services };
        self.view.send_if_modified(|present| {
            let changed = *present != view;
            *present = view;
            changed
        });
    }

    fn instance(&self, instance: &Instance) -> InstanceView {
        let cell = self.cells.get(&instance.id);
        let process = cell.and_then(|cell| cell.process.as_ref());
        let own_exit = instance.exit().map(|exit| exit.to_string());
        let last = cell.map(|cell| cell.last_exit.clone()).unwrap_or_default();
        let started = cell.and_then(|cell| cell.started.duration_since(UNIX_EPOCH).ok()).unwrap_or_default();
        InstanceView {
            id: instance.id.as_str().to_owned(),
            slot: instance.slot,
            version: instance.revision.short().to_owned(),
            state: match instance.state {
                State::Starting { .. } => "starting",
                State::Ready { .. } => "ready",
                State::Unready { .. } => "unready",
                State::Stopping { .. } => "stopping",
                State::Backoff { .. } => "backoff",
                _ => "exited",
            },
            address: self.addresses.get(instance.id.as_str()).cloned().unwrap_or_default(),
            pid: process.map_or(0, Process::pid),
            restarts: instance.history.restarts,
            started_unix_ms: i64::try_from(started.as_millis()).unwrap_or(i64::MAX),
            last_exit: own_exit.unwrap_or(last),
        }
    }
}

fn find<'a>(observed: &'a mut Observed, id: &formic_plan::InstanceId) -> Option<&'a mut Instance> {
    observed.instances.iter_mut().find(|instance| instance.id == *id)
}

/// How many lines of a failed instance are shown.
const SHOWN: usize = 12;

/// The last lines that an instance wrote to standard error, else to standard output.
fn cell_log(cells: &HashMap<formic_plan::InstanceId, Cell>, id: &formic_plan::InstanceId) -> Vec<String> {
    let Some(cell) = cells.get(id) else { return Vec::new() };
    let out = cell.stderr.with_file_name(format!("{}.out.log", id.as_str()));
    [cell.stderr.clone(), out]
        .iter()
        .map(|path| logs::last_lines(path, SHOWN))
        .find(|lines| !lines.is_empty())
        .unwrap_or_default()
}
