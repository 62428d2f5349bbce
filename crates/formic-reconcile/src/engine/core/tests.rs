//! Orders of events and what follows from them, without a runtime.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

use std::path::PathBuf;

use formic_plan::{Service, ServiceState};
use formic_spec::{Health, HumanDuration, Probe, Restart, Revision};
use formic_state::State;

use super::*;
use crate::engine::{Applied, Change, Preview, Restarted};
use crate::start::Start;
use crate::view::{InstanceView, ServiceView};

fn service(name: &str, replicas: u32, depends_on: &[&str]) -> Service {
    let start = Start {
        program: PathBuf::from("/bin").join(name),
        args: Vec::new(),
        env: BTreeMap::new(),
        cwd: "/".into(),
        port: None,
        listen: Vec::new(),
        health: Health {
            ready: Probe::Grpc,
            path: String::new(),
            command: Vec::new(),
            line: String::new(),
            interval: HumanDuration::from_secs(1),
            timeout: HumanDuration::from_secs(1),
            deadline: HumanDuration::from_secs(60),
        },
        restart: Restart::default(),
        stop_signal: Default::default(),
        secrets: Default::default(),
        privileges: Default::default(),
        system: false,
        limits: Default::default(),
        artifact: String::new(),
        files: Default::default(),
    };
    serde_json::from_value(serde_json::json!({
        "name": name,
        "revision": Revision::of(&name.into()),
        "replicas": replicas,
        "depends_on": depends_on,
        "ready_within": "60s",
        "grace": "30s",
        // Ready is ready, and nothing is kept: most orders are about other things.
        "update": { "min_ready": "0s", "keep_old": "0s" },
        "start": start,
    }))
    .unwrap()
}

/// A core, its clock, and the ids that it made up, by service and slot.
struct World {
    core: Core,
    millis: u64,
    ids: HashMap<String, InstanceId>,
    pid: u32,
    /// What the executor chooses for those whose port is to be any.
    port: Option<u16>,
    wake_at: Option<Time>,
    ended: Option<Stopped>,
    /// What was recorded at the last turn, apart from rollouts.
    recorded: Vec<String>,
    /// What was recorded of rollouts.
    rollouts: Vec<String>,
    /// What is hidden from those who call, by slot.
    hidden: Vec<String>,
    /// Where it is written down, if it is.
    state: Option<State>,
    /// Whose records were to be removed at the last turn.
    over: Vec<String>,
    /// What each next engine finds besides what it is told.
    others: Vec<Found>,
    boot: String,
}

impl World {
    fn new(services: Vec<Service>) -> Self {
        let config = Config {
            app: "shop".into(),
            logs: "/state/logs".into(),
            data: "/state/data".into(),
            daemon: "unix:/state/api.sock".into(),
        };
        let core = Core::new(config, BTreeMap::new(), fastrand::Rng::with_seed(7));
        let mut world = Self {
            core,
            millis: 0,
            ids: HashMap::new(),
            pid: 100,
            port: None,
            wake_at: None,
            ended: None,
            recorded: Vec::new(),
            rollouts: Vec::new(),
            hidden: Vec::new(),
            state: None,
            over: Vec::new(),
            others: Vec::new(),
            boot: "boot".into(),
        };
        if !services.is_empty() {
            assert_eq!(world.apply(services, Some(0)).1, Ok(Applied { index: 1, changed: true }));
        }
        world
    }

    /// `order` needs `user`; both started and ready.
    fn running() -> Self {
        let mut world = Self::new(vec![service("order", 1, &["user"]), service("user", 1, &[])]);
        world.up("user/0");
        world.up("order/0");
        world
    }

    fn now(&self) -> Now {
        let unix_ms = 1_000_000 + i64::try_from(self.millis).unwrap();
        Now { time: Time::from_millis(self.millis), unix_ms }
    }

    fn after(&mut self, millis: u64) -> &mut Self {
        self.millis += millis;
        self
    }

    /// Hands the event over; the effects as lines, apart from answers.
    fn handle(&mut self, event: Event) -> Vec<String> {
        let turn = self.core.handle([event], self.now());
        self.over.clear();
        if let (Some(state), Some(save)) = (&self.state, turn.save) {
            save.commit(state, &self.boot).unwrap();
            self.over.extend(save.over().map(ToOwned::to_owned));
        }
        self.wake_at = turn.wake_at;
        self.ended = turn.ended.or(self.ended);
        self.recorded.clear();
        // After every event of every test: what is kept from turn to turn is what is made anew.
        let now = self.now().time;
        assert_eq!(self.core.view(now), self.core.view_anew(now));
        self.core.roster.check();
        turn.effects.into_iter().filter_map(|effect| self.line(effect)).collect()
    }

    fn line(&mut self, effect: Effect) -> Option<String> {
        Some(match effect {
            Effect::Spawn(spawn) => {
                let slot = format!("{}/{}", spawn.launch.service, spawn.launch.slot);
                self.ids.insert(slot.clone(), spawn.id);
                format!("spawn {slot}")
            }
            Effect::Stop { id, kind: StopKind::Kill, .. } => format!("kill {}", self.slot(&id)),
            Effect::Stop { id, kind: StopKind::Ask(grace), signal } => {
                let by = signal.filter(|by| !by.is_default()).map_or(String::new(), |by| format!(" by {by}"));
                format!("stop {} within {}{by}", self.slot(&id), HumanDuration::from(grace))
            }
            Effect::Probe(probing) => format!("probe {}", self.slot(&probing.id)),
            Effect::Follow { id } => format!("follow {}", self.slot(&id)),
            Effect::Release { id } => format!("release {}", self.slot(&id)),
            Effect::TakeBack { id } => format!("take back {}", self.slot(&id)),
            Effect::StopProbing { id } => format!("leave {}", self.slot(&id)),
            Effect::Deregister { id } => format!("deregister {}", self.slot(&id)),
            Effect::Tell { service, text, output } => {
                assert!(output.stderr.starts_with(format!("/state/logs/{service}")), "{output:?}");
                assert_ne!(output.stdout, output.stderr);
                format!("tell {service} {text}")
            }
            Effect::Record(news) => {
                assert_eq!(news.unix_ms, self.now().unix_ms);
                let mut text = format!("{} {} {}", news.kind.as_str(), news.service, news.text);
                for (slot, id) in &self.ids {
                    text = text.replace(id.as_str(), slot);
                }
                let to = if news.kind == Kind::Rollout { &mut self.rollouts } else { &mut self.recorded };
                to.push(text);
                return None;
            }
            Effect::Hide(ids) => {
                self.hidden = ids.iter().map(|id| self.slot(&id.as_str().into())).collect();
                return None;
            }
            // Nobody listens: what every order begins with.
            Effect::Listen(wanted) if wanted.is_empty() => return None,
            Effect::Listen(wanted) => {
                let wanted: Vec<String> = wanted.keys().map(ToString::to_string).collect();
                format!("listen on {}", wanted.join(" and "))
            }
            Effect::Answer(answer) => {
                answer.send();
                return None;
            }
        })
    }

    fn slot(&self, id: &InstanceId) -> String {
        self.ids.iter().find(|(_, known)| *known == id).unwrap().0.clone()
    }

    fn id(&self, slot: &str) -> InstanceId {
        self.ids[slot].clone()
    }

    /// Sends a command; its effects and its answer.
    fn ask<T>(&mut self, command: impl FnOnce(oneshot::Sender<T>) -> Command) -> (Vec<String>, T) {
        let (answer, mut answered) = oneshot::channel();
        let lines = self.handle(Event::Command(command(answer)));
        (lines, answered.try_recv().unwrap())
    }

    fn apply(
        &mut self,
        services: Vec<Service>,
        index: Option<u64>,
    ) -> (Vec<String>, Result<Applied, Refused>) {
        let change = Change { services, tag: Value::Null, index, cause: "apply".into() };
        self.ask(|answer| Command::Change(change, answer))
    }

    fn restart(&mut self, name: &str) -> (Vec<String>, Result<Restarted, Refused>) {
        self.ask(|answer| Command::Restart {
            services: vec![name.into()],
            cause: format!("restart {name} (uid 7)"),
            answer,
        })
    }

    fn shut_down(&mut self, at_once: bool) -> Vec<String> {
        self.handle(Event::Command(Command::Stop { now: at_once, done: None }))
    }

    fn started(&mut self, slot: &str) -> Vec<String> {
        self.pid += 1;
        self.handle(Event::Started { id: self.id(slot), pid: self.pid, port: self.port })
    }

    fn probed(&mut self, slot: &str, ready: bool) -> Vec<String> {
        self.heard(
            slot,
            match ready {
                true => Heard::Ready(Some(format!("http://{slot}"))),
                false => Heard::Unready("HTTP 503".into()),
            },
        )
    }

    fn heard(&mut self, slot: &str, heard: Heard) -> Vec<String> {
        self.handle(Event::Probed { id: self.id(slot), heard })
    }

    fn up(&mut self, slot: &str) {
        assert_eq!(self.started(slot), [format!("probe {slot}")]);
        self.probed(slot, true);
    }

    fn leader_exits(&mut self, slot: &str, code: i32) -> Vec<String> {
        self.handle(Event::LeaderExited { id: self.id(slot), status: ExitStatus::Code(code) })
    }

    fn gone(&mut self, slot: &str, killed: bool) -> Vec<String> {
        self.handle(Event::Gone { id: self.id(slot), status: ExitStatus::Signal(15), killed })
    }

    fn row(&self, name: &str) -> ServiceView {
        self.core.view_anew(self.now().time).services.into_iter().find(|row| row.name == name).unwrap()
    }

    fn instance(&self, name: &str) -> InstanceView {
        self.row(name).instances[0].as_ref().clone()
    }
}

fn registered(id: &InstanceId, address: &str) -> formic_core::Instance {
    formic_core::Instance {
        id: formic_core::InstanceId::new(id.as_str()),
        service: formic_core::ServiceName::new("user").unwrap(),
        version: String::new(),
        endpoint: address.parse().unwrap(),
        metadata: BTreeMap::from([("zone".to_owned(), "a".to_owned())]),
        rpc: Vec::new(),
    }
}

mod adopted;
mod commands;
mod cron;
mod ends;
mod over;
mod programs;
mod revisions;
mod roster;
mod secrets;
mod stops;
mod views;

#[test]
fn dependants_start_when_what_they_need_is_ready() {
    let mut world = World::new(Vec::new());
    let services = vec![service("order", 2, &["user"]), service("user", 1, &[])];
    let (lines, answer) = world.apply(services, None);
    assert_eq!((lines, answer), (vec!["spawn user/0".to_owned()], Ok(Applied { index: 1, changed: true })));
    assert_eq!(
        world.recorded.iter().filter(|line| !line.starts_with("start")).collect::<Vec<_>>(),
        [
            "applied  index 1 by apply: order added, user added",
            "wait order order/0 needs user",
            "wait order order/1 needs user",
        ]
    );
    assert_eq!(world.row("order").reason, "needs user");
    assert_eq!(world.started("user/0"), ["probe user/0"]);
    assert_eq!(world.probed("user/0", true), ["spawn order/0", "spawn order/1"]);
    world.up("order/0");
    world.up("order/1");
    assert!(world.core.view_anew(world.now().time).is_ready());
}

#[test]
fn shutting_down_stops_dependants_first_and_ends_when_all_is_gone() {
    let mut world = World::running();
    let (done, mut stopped) = oneshot::channel();
    let lines = world.handle(Event::Command(Command::Stop { now: false, done: Some(done) }));
    assert_eq!(lines, ["stop order/0 within 30s"]);
    assert_eq!(
        world.gone("order/0", false),
        ["leave order/0", "deregister order/0", "stop user/0 within 30s"]
    );
    // What is gone is still shown until the end.
    assert_eq!(world.row("order").state, ServiceState::Stopped);
    assert!(stopped.try_recv().is_err() && world.ended.is_none());
    assert_eq!(world.gone("user/0", true), ["leave user/0", "deregister user/0"]);
    assert_eq!(stopped.try_recv().unwrap(), Stopped { killed: 1 });
    assert_eq!(world.ended, Some(Stopped { killed: 1 }));
}

#[test]
fn nothing_to_stop_ends_at_once() {
    let mut world = World::new(Vec::new());
    assert_eq!(world.shut_down(false), Vec::<String>::new());
    assert_eq!(world.ended, Some(Stopped { killed: 0 }));
}

#[test]
fn a_crash_is_told_and_restarted_and_counted_when_it_starts() {
    let mut world = World::running();
    world.after(20_000);
    // It is told at once, and what the leader left behind goes first.
    let lines = world.leader_exits("user/0", 3);
    assert_eq!(lines, ["tell user ended by itself: exit code 3", "stop user/0 within 1s"].map(String::from));
    assert_eq!(world.recorded, ["exit user ended by itself: exit code 3"]);
    // Heard of twice, it is told once.
    assert_eq!(world.leader_exits("user/0", 3), ["stop user/0 within 1s"]);
    assert_eq!(world.recorded, [""; 0]);
    // Until the rest of it is gone it is neither ready nor gone, and a probe that comes late makes it neither.
    assert_eq!((world.row("user").state, world.row("user").ready), (ServiceState::Stopping, 0));
    assert_eq!(world.probed("user/0", true), [""; 0]);
    assert_eq!((world.recorded.len(), world.instance("user").state), (0, "ending"));
    assert_eq!(world.instance("user").restarts, 0);
    let before = world.id("user/0");
    let lines = world.gone("user/0", false);
    assert_eq!(lines[..2], ["leave user/0", "deregister user/0"].map(String::from));
    // It had worked, so it starts at once.
    assert_eq!(lines[2..], ["spawn user/0".to_owned()]);
    assert_ne!(world.id("user/0"), before);
    let row = world.instance("user");
    assert_eq!((row.restarts, row.state, row.pid), (1, "starting", 0));
    assert_eq!(row.last_exit, "exited with code 3");
}

#[test]
fn one_that_never_worked_backs_off_and_is_not_yet_restarted() {
    let mut world = World::new(vec![service("user", 1, &[])]);
    world.started("user/0");
    world.after(100);
    world.leader_exits("user/0", 1);
    let lines = world.gone("user/0", false);
    assert!(!lines.iter().any(|line| line.starts_with("spawn")), "{lines:?}");
    let (row, until) = (world.row("user"), world.wake_at.unwrap());
    assert_eq!(
        (row.state, row.instances[0].restarts, row.instances[0].state),
        (ServiceState::Backoff, 0, "backoff")
    );
    assert!(row.reason.contains("starts again in"), "{}", row.reason);
    let wait = u64::try_from(until.since(world.now().time).as_millis()).unwrap();
    assert!((187..=312).contains(&wait), "{wait} ms");
    world.after(wait - 1);
    assert_eq!(world.handle(Event::Timer), Vec::<String>::new());
    world.after(1);
    assert_eq!(world.handle(Event::Timer), ["spawn user/0"]);
    assert_eq!(world.instance("user").restarts, 1);
}

#[test]
fn what_is_not_ready_in_time_is_told_and_stopped_and_has_failed() {
    let mut world = World::new(vec![service("user", 1, &[])]);
    world.started("user/0");
    world.after(60_000);
    let lines = world.handle(Event::Timer);
    let hint = "It never announced itself: a Formic service does so by itself";
    assert!(lines[0].starts_with("tell user did not get ready in time; it is stopped. "), "{lines:?}");
    assert!(lines[0].contains(hint) && lines[0].contains("ready = \"none\""), "{lines:?}");
    assert_eq!(lines[1], "stop user/0 within 30s");
    assert!(world.recorded.iter().any(|entry| entry.contains(hint)), "{:?}", world.recorded);
    world.gone("user/0", false);
    assert_eq!(world.row("user").state, ServiceState::Backoff);
    assert_eq!(world.instance("user").last_exit, "was not ready in time");
    assert!(why(&mut world, "user").contains(hint), "while it backs off");
}

fn why(world: &mut World, service: &str) -> String {
    world.ask(|answer| Command::Why(service.into(), answer)).1.unwrap()
}

#[test]
fn what_announced_itself_or_has_a_port_is_not_told_to() {
    let mut world = World::new(vec![service("user", 1, &[])]);
    world.started("user/0");
    assert!(!why(&mut world, "user").contains("announced"), "it is only starting");
    world.after(5_000);
    assert!(why(&mut world, "user").contains("It never announced itself"), "it takes long");
    let known = registered(&world.id("user/0"), "127.0.0.1:7000");
    world.handle(Event::Registered([known].into_iter().collect()));
    assert!(!why(&mut world, "user").contains("announced"));
    world.after(60_000);
    let lines = world.handle(Event::Timer);
    assert_eq!(lines[..2], ["tell user did not get ready in time; it is stopped", "stop user/0 within 30s"]);
}

#[test]
fn why_a_probe_fails_is_told_once_and_goes_with_what_it_is_stopped_for() {
    let mut wanted = service("user", 1, &[]);
    wanted.start["port"] = 7000.into();
    let mut world = World::new(vec![wanted]);
    world.started("user/0");
    let refused = || Heard::Failing("connection refused at 127.0.0.1:7000".into());
    world.heard("user/0", refused());
    assert_eq!(world.recorded, ["unready user its probe fails: connection refused at 127.0.0.1:7000"]);
    world.heard("user/0", refused());
    assert_eq!(world.recorded, Vec::<String>::new());
    assert_eq!(world.instance("user").probe_failure, "connection refused at 127.0.0.1:7000");
    assert!(
        why(&mut world, "user").contains("is not ready yet: connection refused"),
        "{}",
        why(&mut world, "user")
    );
    world.up("user/0");
    assert_eq!(world.instance("user").probe_failure, "");
    // What is not ready any more may fail for another reason later on.
    world.probed("user/0", false);
    world.heard("user/0", refused());
    assert_eq!(world.recorded, ["unready user its probe fails: connection refused at 127.0.0.1:7000"]);
    assert!(
        why(&mut world, "user").contains("its probe for 0s: connection refused"),
        "{}",
        why(&mut world, "user")
    );

    let mut world = World::new(vec![service("user", 1, &[])]);
    world.started("user/0");
    let known = registered(&world.id("user/0"), "127.0.0.1:7000");
    world.handle(Event::Registered([known].into_iter().collect()));
    world.heard("user/0", refused());
    world.after(60_000);
    let lines = world.handle(Event::Timer);
    let told = "tell user did not get ready in time (connection refused at 127.0.0.1:7000); it is stopped";
    assert_eq!(lines[0], told);
    world.gone("user/0", false);
    assert_eq!(
        world.instance("user").last_exit,
        "was not ready in time (connection refused at 127.0.0.1:7000)"
    );
}

#[test]
fn an_instance_is_stopped_by_the_signal_that_its_manifest_names() {
    let mut wanted = service("user", 1, &[]);
    wanted.start["stop_signal"] = "QUIT".into();
    let mut world = World::new(vec![wanted]);
    world.up("user/0");
    assert_eq!(world.shut_down(false), ["stop user/0 within 30s by SIGQUIT"]);
}

#[test]
fn every_decision_is_recorded_with_its_cause() {
    let mut world = World::running();
    assert_eq!(world.recorded, ["ready order is ready"]);
    world.after(100);
    world.leader_exits("user/0", 3);
    assert_eq!(world.recorded, ["exit user ended by itself: exit code 3"]);
    world.gone("user/0", false);
    assert_eq!(world.recorded.len(), 1, "{:?}", world.recorded);
    let backoff = &world.recorded[0];
    assert!(backoff.starts_with("backoff user exited with code 3, starts again in "), "{backoff}");
    assert!(backoff.ends_with("ms as restart 1"), "{backoff}");
    let revision = Revision::of(&serde_json::json!("user"));
    world.after(400);
    world.handle(Event::Timer);
    assert_eq!(world.recorded, [format!("start user starts as user/0 at {revision}: restart 1")]);
    world.up("user/0");
    world.probed("user/0", false);
    assert_eq!(world.recorded, ["unready user does not answer its probe: HTTP 503"]);
    world.shut_down(false);
    assert_eq!(
        world.recorded,
        [
            "shut-down  everything is told to stop",
            "stop order is told to stop within 30s: shut down",
            "wait user user/0 is needed by order",
        ]
    );
    // A wait is told once.
    world.handle(Event::Timer);
    assert_eq!(world.recorded, Vec::<String>::new());
    world.shut_down(true);
    assert_eq!(world.recorded, ["kill order is killed: shut down", "kill user is killed: shut down"]);
    world.gone("order/0", true);
    assert_eq!(world.recorded, ["exit order is gone, killed: SIGTERM"]);
}

#[test]
fn a_service_that_is_removed_is_stopped_and_forgotten() {
    let mut world = World::running();
    let services = vec![service("user", 1, &[])];
    assert_eq!(world.apply(services, None).0, ["stop order/0 within 30s"]);
    world.gone("order/0", false);
    let names: Vec<String> =
        world.core.view_anew(world.now().time).services.into_iter().map(|s| s.name).collect();
    assert_eq!(names, ["user"]);
    assert_eq!(world.core.roster.observed().instances.len(), 1);
}

#[test]
fn news_of_an_instance_that_nobody_knows_does_no_harm() {
    let mut world = World::running();
    let id = InstanceId::from("stranger");
    world.ids.insert("stranger".into(), id.clone());
    assert_eq!(world.handle(Event::Started { id: id.clone(), pid: 1, port: None }), ["kill stranger"]);
    assert_eq!(world.leader_exits("stranger", 0), Vec::<String>::new());
    assert_eq!(world.gone("stranger", true), Vec::<String>::new());
    assert_eq!(world.probed("stranger", true), Vec::<String>::new());
    world.shut_down(false);
    world.gone("order/0", false);
    world.gone("user/0", false);
    assert_eq!(world.ended, Some(Stopped { killed: 0 }));
}
