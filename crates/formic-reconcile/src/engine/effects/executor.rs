//! Carries effects out.
//!
//! Nothing here decides. Everything slow (a spawn with its fsyncs, a stop with its grace, a probe) is a
//! task of the executor's own set that reports back as an event; the loop outlives its tasks, so a
//! report that cannot be sent means that nobody is left to care.

use std::collections::{BTreeSet, HashMap};
use std::os::unix::fs::DirBuilderExt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use formic_client::Client;
use formic_core::ServiceName;
use formic_core::error::in_full;
use formic_plan::InstanceId;
use formic_registry::DynRegistry;
use formic_spec::{Port, StopSignal};
use formic_supervise::{FileError, SpawnError, Supervisor, keeper};
use tokio::sync::{broadcast, mpsc, watch};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::{Effect, Probing, Spawn};
use crate::account;
use crate::engine::Notice;
use crate::engine::cell::{Output, StopKind};
use crate::engine::core::{Event, Found};
use crate::engine::permit::Permit;
use crate::journal::Journal;
use crate::logs;
use crate::measures::Measures;
use crate::ports::{Ports, is_taken};
use crate::probe::{Target, Way};
use crate::secrets::{self, Secrets};
use crate::shelf::{self, Shelf};
use crate::shown::without_passwords;
use crate::sockets::Sockets;

/// How many lines of a failed instance are shown.
const SHOWN: usize = 12;
/// The pause before the registry is watched anew.
const REWATCH: Duration = Duration::from_secs(1);

/// How long the news that an instance goes may take to spread; as a Formic service does by default.
const PROPAGATION: Duration = Duration::from_millis(100);

/// What carries the mark of an instance that nobody has recorded gets so long to end.
const STRAY_GRACE: Duration = Duration::from_secs(5);

/// Who is told of what.
#[derive(Debug)]
pub(crate) struct Listeners {
    pub(crate) events: mpsc::UnboundedSender<Event>,
    pub(crate) notices: broadcast::Sender<Notice>,
    pub(crate) journal: Journal,
    /// The instances that are hidden from those who call.
    pub(crate) hidden: watch::Sender<BTreeSet<String>>,
    pub(crate) measures: Measures,
}

/// An instance that is being asked.
struct Probed {
    /// Ends the asking, and takes out of the registry what is there from here. Not with the task: one that
    /// ends with the engine leaves it there.
    over: CancellationToken,
    /// The registry has it from here, not from itself.
    announced: bool,
}

/// Carries effects out.
pub(crate) struct Executor {
    /// What instances are given theirs by.
    pub(crate) secrets: Option<Secrets>,
    /// Told of each user whose instances need a way to the engine.
    pub(crate) doors: Option<mpsc::UnboundedSender<u32>>,
    supervisor: Supervisor,
    registry: DynRegistry,
    client: Client,
    logs: PathBuf,
    shelf: Arc<Mutex<Shelf>>,
    events: mpsc::UnboundedSender<Event>,
    notices: broadcast::Sender<Notice>,
    journal: Journal,
    hidden: watch::Sender<BTreeSet<String>>,
    tasks: JoinSet<()>,
    probes: HashMap<InstanceId, Probed>,
    ports: Ports,
    sockets: Sockets,
    measures: Measures,
}

impl std::fmt::Debug for Executor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Executor").field("tasks", &self.tasks.len()).finish_non_exhaustive()
    }
}

// === impl Executor ===

impl Executor {
    pub(crate) fn new(
        supervisor: Supervisor,
        registry: DynRegistry,
        client: Client,
        logs: PathBuf,
        listeners: Listeners,
    ) -> Self {
        let Listeners { events, notices, journal, hidden, measures } = listeners;
        let (tasks, probes, ports) = (JoinSet::new(), HashMap::new(), Ports::new());
        let shelf = Arc::new(Mutex::new(Shelf::new(logs.clone(), shelf::KEEP)));
        let sockets = Sockets::new(supervisor.clone(), None);
        Self {
            secrets: None,
            doors: None,
            supervisor,
            registry,
            client,
            logs,
            shelf,
            events,
            notices,
            journal,
            hidden,
            tasks,
            probes,
            ports,
            sockets,
            measures,
        }
    }

    /// Has how instances ended kept beside their records, until what follows from that is on the disk.
    pub(crate) fn keep_ends(&self) {
        self.supervisor.keep_ends();
    }

    /// It is, of these. Nobody waits for the files to be gone: what is left, the next engine removes.
    pub(crate) fn release_ended<'i>(&mut self, ids: impl Iterator<Item = &'i str>) {
        let ids: Vec<String> = ids.map(ToOwned::to_owned).collect();
        if !ids.is_empty() {
            let supervisor = self.supervisor.clone();
            // Not one of the tasks, which end with the engine: its own end is the next that would be left.
            drop(tokio::task::spawn_blocking(move || {
                supervisor.release_ended(ids.iter().map(String::as_str));
            }));
        }
    }

    /// Has a keeper hold the public sockets, so that they outlive this process.
    pub(crate) fn kept_by(&mut self, keeper: keeper::Client) {
        self.sockets = Sockets::new(self.supervisor.clone(), Some(keeper));
    }

    /// Does it, or starts a task that does. What is started runs once that is permitted.
    pub(crate) fn carry_out(&mut self, effect: Effect, permit: &Permit) {
        // What has finished since the last time; nothing is in it, tasks report by events.
        while self.tasks.try_join_next().is_some() {}
        match effect {
            Effect::Spawn(spawn) => self.spawn(*spawn, permit.clone()),
            Effect::Stop { id, kind, signal } => self.stop(id, kind, signal),
            Effect::Probe(probing) => self.probe(*probing),
            Effect::Follow { id } => self.follow(id),
            Effect::Release { id } => {
                let supervisor = self.supervisor.clone();
                self.tasks.spawn(async move {
                    let released = supervisor.release(&formic_core::InstanceId::new(id.as_str())).await;
                    if let Err(error) = released {
                        tracing::warn!(instance = %id, error = in_full(&error), "its record stays");
                    }
                });
            }
            Effect::TakeBack { id } => {
                if let Some(secrets) = &self.secrets {
                    secrets.take_back(id.as_str());
                }
            }
            Effect::StopProbing { id } => {
                self.measures.forget(&formic_core::InstanceId::new(id.as_str()));
                if let Some(probed) = self.probes.remove(&id) {
                    probed.over.cancel();
                }
            }
            Effect::Deregister { id } => {
                self.ports.release(&id);
                let (registry, dead) =
                    (Arc::clone(&self.registry), formic_core::InstanceId::new(id.as_str()));
                self.tasks.spawn(async move {
                    // If it does not answer, the lease ends by itself.
                    let _ = registry.deregister(&dead).await;
                });
            }
            Effect::Tell { service, text, output } => {
                let mut log = last_words(&output);
                if let Some(secrets) = &self.secrets {
                    logs::mask(secrets.state(), log.iter_mut());
                }
                let log = log.iter().map(|line| without_passwords(line)).collect();
                // Nobody may be listening.
                let _ = self.notices.send(Notice { service, text, log });
            }
            Effect::Record(news) => self.journal.record(news),
            Effect::Hide(hidden) => drop(self.hidden.send_replace(hidden)),
            Effect::Listen(wanted) => drop(self.tasks.spawn(self.sockets.keep(wanted))),
            Effect::Answer(answer) => answer.send(),
        }
    }

    /// Takes over what an engine before this one has left running.
    pub(crate) async fn adopt(&self) -> Result<Vec<Found>, FileError> {
        let adopted = self.supervisor.adopt(STRAY_GRACE).await?;
        if let Some(doors) = &self.doors {
            for user in self.supervisor.processes().iter().filter_map(|process| process.record().account) {
                let _ = doors.send(user.uid);
            }
        }
        Ok(adopted.into_iter().map(Found::from).collect())
    }

    /// The same where what led to it could not be written down: who asked is told, and what was to be started hears it
    /// from its permit. Stops, probes and the like are only what follows from what there is.
    pub(crate) fn carry_out_unsaved(&mut self, effect: Effect, permit: &Permit, why: &str, is_kept: bool) {
        match effect {
            Effect::Answer(answer) => answer.unsaved(why, is_kept).send(),
            other => self.carry_out(other, permit),
        }
    }

    /// Tells of the registry's addresses, now and at every change.
    pub(crate) fn follow_registry(&mut self) {
        let (registry, events) = (Arc::clone(&self.registry), self.events.clone());
        self.tasks.spawn(async move {
            loop {
                let mut watch = registry.watch(None);
                while let Ok(snapshot) = watch.next().await {
                    if events.send(Event::Registered(snapshot.instances)).is_err() {
                        return;
                    }
                }
                tokio::time::sleep(REWATCH).await;
            }
        });
    }

    /// Ends all tasks.
    pub(crate) async fn end(&mut self) {
        self.tasks.shutdown().await;
    }

    /// Starts a process, tells of it, and tells of its end.
    fn spawn(&mut self, spawn: Spawn, permit: Permit) {
        let Spawn { id, mut launch, limits, port, listen, data, secrets: given, stop_signal, .. } = spawn;
        let Spawn { privileges, note, .. } = spawn;
        let (secrets, doors) = (self.secrets.clone(), self.doors.clone());
        let (supervisor, events, logs) = (self.supervisor.clone(), self.events.clone(), self.logs.clone());
        let (ports, public) = (self.ports.clone(), self.sockets.clone());
        let (service, shelf) = (launch.service.to_string(), self.shelf(&launch.service));
        self.tasks.spawn(async move {
            let folders = [logs.join(&service), data];
            let made = folders
                .iter()
                .try_for_each(|dir| std::fs::DirBuilder::new().recursive(true).mode(0o700).create(dir));
            let privileges = match account::settle(privileges, &logs, &folders[1], &mut launch, doors).await {
                Ok(privileges) => privileges,
                Err(why) => {
                    let _ = events.send(Event::NotStarted { id, why, withheld: false });
                    return;
                }
            };
            let chosen = match give_port(port, &ports, &id) {
                Ok(chosen) => chosen,
                Err(why) => {
                    let _ = events.send(Event::NotStarted { id, why, withheld: false });
                    return;
                }
            };
            launch.env.extend(chosen.map(|port| ("PORT".into(), port.to_string().into())));
            if !given.is_empty() {
                let delivered = secrets.ok_or(secrets::Error::None);
                let user = privileges.account.as_ref().filter(|user| !user.is_own());
                match delivered.and_then(|secrets| secrets.deliver(id.as_str(), &given, user)) {
                    Ok(env) => launch.env.extend(env),
                    Err(error) => {
                        let _ = events.send(Event::NotStarted { id, why: in_full(&error), withheld: false });
                        return;
                    }
                }
            }
            let sockets = match public.open(&launch.service, &listen).await {
                Ok(sockets) => sockets,
                Err(error) => {
                    ports.release(&id);
                    let _ = events.send(Event::NotStarted { id, why: in_full(&error), withheld: false });
                    return;
                }
            };
            let spawned = match made {
                Ok(()) => {
                    let start = launch.with_limits(limits).with_note(note).with_port(chosen);
                    let start = start.with_sockets(sockets).with_stop_signal(stop_signal);
                    let start = start.with_privileges(privileges);
                    supervisor.spawn_when(start, permit.wait()).await
                }
                Err(source) => Err(SpawnError::Start { trampoline: logs, source }),
            };
            let process = match spawned {
                Ok(process) => process,
                Err(error) => {
                    ports.release(&id);
                    put(&shelf, &service, &id);
                    let _ = events.send(Event::NotStarted {
                        id,
                        why: in_full(&error),
                        withheld: error.is_retryable(),
                    });
                    return;
                }
            };
            let _ = events.send(Event::Started { id: id.clone(), pid: process.pid(), port: chosen });
            let status = process.wait().await;
            let _ = events.send(Event::LeaderExited { id, status });
        });
    }

    /// Tells of the end of one that an engine before this one has started.
    fn follow(&mut self, id: InstanceId) {
        let Some(process) = self.supervisor.get(&formic_core::InstanceId::new(id.as_str())) else { return };
        let events = self.events.clone();
        self.tasks.spawn(async move {
            let status = process.wait().await;
            let _ = events.send(Event::LeaderExited { id, status });
        });
    }

    fn stop(&mut self, id: InstanceId, kind: StopKind, signal: Option<StopSignal>) {
        // Without an entry it is gone, and that has been reported by the stop that ended it.
        let Some(process) = self.supervisor.get(&formic_core::InstanceId::new(id.as_str())) else { return };
        // What cannot say itself that it goes: callers hear of it first, as a Formic service would tell them.
        let announced = self.probes.get(&id).is_some_and(|probed| probed.announced);
        if announced && let Some(probed) = self.probes.remove(&id) {
            probed.over.cancel();
        }
        let (events, registry) = (self.events.clone(), Arc::clone(&self.registry));
        let shelf = self.shelf(process.service());
        self.tasks.spawn(async move {
            if announced {
                let _ = registry.deregister(&formic_core::InstanceId::new(id.as_str())).await;
                if kind != StopKind::Kill {
                    tokio::time::sleep(PROPAGATION).await;
                }
            }
            let stopped = match kind {
                StopKind::Ask(grace) => match signal {
                    Some(signal) => process.stop_by(signal, grace).await,
                    None => process.stop(grace).await,
                },
                StopKind::Kill => process.kill().await,
            };
            let event = match stopped {
                Ok(stopped) => {
                    put(&shelf, process.service().as_str(), &id);
                    Event::Gone { id, status: stopped.status, killed: !stopped.killed.is_empty() }
                }
                Err(error) => Event::NotStopped { id, why: in_full(&error) },
            };
            let _ = events.send(event);
        });
    }

    /// The logs of what has ended, once it is known what a service has left.
    fn shelf(&self, service: &ServiceName) -> Arc<Mutex<Shelf>> {
        let alive = |id: &str| self.supervisor.get(&formic_core::InstanceId::new(id)).is_some();
        self.shelf.lock().unwrap_or_else(PoisonError::into_inner).know(service.as_str(), alive);
        Arc::clone(&self.shelf)
    }

    fn probe(&mut self, probing: Probing) {
        if let Some(port) = probing.port {
            self.ports.hold(&probing.id, port);
        }
        let instance = formic_core::InstanceId::new(probing.id.as_str());
        let way = Way::of(&probing, self.supervisor.get(&instance), &self.client);
        let target = Target {
            instance,
            way,
            service: probing.service,
            version: probing.version,
            health: probing.health,
            port: probing.port,
            registry: Arc::clone(&self.registry),
            measures: self.measures.clone(),
            ready: probing.ready,
            secrets: self.secrets.as_ref().map(|secrets| Arc::clone(secrets.state())),
        };
        let (events, id, announced) = (self.events.clone(), probing.id.clone(), probing.port.is_some());
        let over = CancellationToken::new();
        self.tasks.spawn(target.watch(over.clone(), move |heard| {
            let _ = events.send(Event::Probed { id: id.clone(), heard });
        }));
        if let Some(before) = self.probes.insert(probing.id, Probed { over, announced }) {
            before.over.cancel();
        }
    }
}

/// Gives an instance the port that it is to have, and says which if it was chosen.
fn give_port(port: Option<Port>, ports: &Ports, id: &InstanceId) -> Result<Option<u16>, String> {
    match port {
        Some(Port::Fixed(port)) if is_taken(port) => Err(format!("port {port} is in use by another process")),
        Some(Port::Auto) => {
            ports.choose(id).map(Some).ok_or_else(|| "no port of 20000 to 32000 is free".into())
        }
        _ => Ok(None),
    }
}

/// The logs of an instance are those of one that has ended.
fn put(shelf: &Mutex<Shelf>, service: &str, id: &InstanceId) {
    shelf.lock().unwrap_or_else(PoisonError::into_inner).ended(service, id.as_str());
}

/// The last lines that an instance wrote to standard error, else to standard output.
fn last_words(output: &Output) -> Vec<String> {
    [&output.stderr, &output.stdout]
        .into_iter()
        .map(|path| logs::last_lines(path, SHOWN))
        .find(|lines| !lines.is_empty())
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]

    use super::*;

    #[test]
    fn last_words_are_from_standard_error_if_there_are_any() {
        let dir = std::env::temp_dir().join(format!("formic-last-words-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        let output = Output { stdout: dir.join("out"), stderr: dir.join("err") };
        assert_eq!(last_words(&output), Vec::<String>::new());
        std::fs::write(&output.stdout, "one\ntwo\n").unwrap();
        std::fs::write(&output.stderr, "").unwrap();
        assert_eq!(last_words(&output), ["one", "two"]);
        let many: String = (0..40).map(|n| format!("line {n}\n")).collect();
        std::fs::write(&output.stderr, many).unwrap();
        let words = last_words(&output);
        assert_eq!((words.len(), words.last().map(String::as_str)), (SHOWN, Some("line 39")));
        std::fs::remove_dir_all(dir).unwrap();
    }

    #[test]
    fn errors_are_told_with_their_causes() {
        let source = std::io::Error::new(std::io::ErrorKind::NotFound, "no such file");
        let error = SpawnError::Start { trampoline: "/bin/x".into(), source };
        let text = in_full(&error);
        assert!(text.starts_with(&error.to_string()) && text.ends_with(": no such file"), "{text}");
    }
}
