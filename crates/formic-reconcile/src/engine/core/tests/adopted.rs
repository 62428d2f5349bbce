//! An engine that goes on where another one died, at any moment.

use std::time::Duration;

use super::*;

fn config() -> Config {
    Config {
        app: "shop".into(),
        logs: "/state/logs".into(),
        data: "/state/data".into(),
        daemon: "unix:/state/api.sock".into(),
    }
}

fn release(id: InstanceId, answer: tokio::sync::oneshot::Sender<bool>) -> Command {
    Command::Release { id, cause: "release (uid 7)".into(), answer }
}

impl World {
    /// An engine that writes down what it decides.
    pub(super) fn kept(services: Vec<Service>) -> Self {
        let mut world = Self::new(Vec::new());
        let state = State::in_memory().unwrap();
        world.core.restore(&state, "boot", world.now()).unwrap();
        world.state = Some(state);
        world.apply(services, None).1.unwrap();
        world
    }

    /// The engine dies, and another one finds this.
    pub(super) fn successor(&mut self, found: &[(&str, Fate)]) -> Vec<String> {
        let found = found.iter().map(|(slot, fate)| Found {
            id: self.id(slot),
            note: Value::Null,
            port: None,
            fate: fate.clone(),
        });
        let found = found.collect();
        self.succeeded_by(found)
    }

    /// The same, with what is beside the records.
    pub(super) fn succeeded_by(&mut self, found: Vec<Found>) -> Vec<String> {
        self.core = Core::new(config(), BTreeMap::new(), fastrand::Rng::with_seed(self.millis + 11));
        let state = self.state.take().unwrap();
        self.core.restore(&state, &self.boot, self.now()).unwrap();
        self.state = Some(state);
        self.handle(Event::Adopted(found))
    }
}

fn running(pid: u32) -> Fate {
    Fate::Running { pid }
}

/// `order` needs `user`; both ready, and all of it on disk.
fn shop() -> World {
    let mut world = World::kept(vec![service("order", 1, &["user"]), service("user", 1, &[])]);
    world.up("user/0");
    world.up("order/0");
    world
}

#[test]
fn what_runs_goes_on_as_what_it_was() {
    let mut world = shop();
    world.handle(Event::Registered([registered(&world.id("user/0"), "127.0.0.1:7")].into_iter().collect()));
    world.after(1000);
    let lines = world.successor(&[("user/0", running(7)), ("order/0", running(8))]);
    assert_eq!(lines, ["follow order/0", "probe order/0", "follow user/0", "probe user/0"].map(String::from));
    assert!(world.core.view_anew(world.now().time).is_ready());
    assert_eq!((world.instance("user").pid, world.instance("user").address.as_str()), (7, "127.0.0.1:7"));
    assert_eq!(world.recorded, ["adopted  took over 2 instances of the engine before"]);
    let found = [Found { id: world.id("user/0"), note: Value::Null, port: None, fate: running(7) }];
    assert_eq!(world.core.remembered(&found)[0].metadata["zone"], "a");
    // And its end is seen.
    let lines = world.leader_exits("user/0", 1);
    assert!(lines.iter().any(|line| line.starts_with("tell user ended by itself")), "{lines:?}");
    world.gone("user/0", false);
}

#[test]
fn an_engine_that_was_never_told_anything_touches_nothing() {
    let mut world = shop();
    let note = serde_json::to_value((
        world.core.roster.iter().find(|i| i.service == "user").unwrap(),
        world.core.roster.cell(&world.id("user/0")).unwrap(),
    ))
    .unwrap();
    // The database is lost; the record is not.
    let state = State::in_memory().unwrap();
    world.core = Core::new(config(), BTreeMap::new(), fastrand::Rng::with_seed(1));
    world.core.restore(&state, "boot", world.now()).unwrap();
    world.state = Some(state);
    let found = vec![Found { id: world.id("user/0"), note, port: None, fate: running(7) }];
    assert_eq!(world.handle(Event::Adopted(found)), ["follow user/0", "probe user/0"].map(String::from));
    world.after(120_000);
    assert_eq!(world.handle(Event::Timer), Vec::<String>::new());
    // Told again, it keeps what it has.
    let (lines, answer) = world.apply(vec![service("user", 1, &[])], None);
    assert_eq!(answer, Ok(Applied { index: 1, changed: true }));
    assert!(!lines.iter().any(|line| line.starts_with("kill")), "{lines:?}");
    assert_eq!(world.row("user").instances[0].pid, 7);
}

#[test]
fn a_count_of_restarts_never_falls_and_a_back_off_is_kept() {
    let mut world = World::kept(vec![service("user", 1, &[])]);
    let mut restarts = 0;
    for round in 0..4u32 {
        world.started("user/0");
        world.after(10);
        world.leader_exits("user/0", 1);
        world.gone("user/0", false);
        let until = world.wake_at.unwrap();
        // Dies while it waits: the next one waits on, and does not start anew.
        assert_eq!(world.successor(&[]), Vec::<String>::new());
        assert_eq!(world.instance("user").state, "backoff");
        assert_eq!((world.wake_at, world.instance("user").restarts), (Some(until), round));
        world.millis = until.millis();
        assert_eq!(world.handle(Event::Timer), ["spawn user/0"]);
        assert!(world.instance("user").restarts > restarts || round == 0);
        restarts = world.instance("user").restarts;
    }
    assert_eq!(restarts, 4);
    // Dies between the record and the process: that was no crash, and it is not counted as one.
    let never = [("user/0", Fate::NeverRan)];
    assert_eq!(world.successor(&never), ["spawn user/0"]);
    assert_eq!(world.instance("user").restarts, restarts);
    // Dies with the process, and nobody saw how.
    world.up("user/0");
    let lines = world.successor(&[]);
    assert_eq!(lines, Vec::<String>::new());
    assert_eq!((world.instance("user").state, world.instance("user").restarts), ("backoff", restarts));
}

#[test]
fn a_stop_goes_on_to_the_deadline_that_it_was_given() {
    let mut world = shop();
    assert_eq!(world.apply(vec![service("user", 1, &[])], None).0, ["stop order/0 within 30s"]);
    world.after(10_000);
    // Recorded by the supervisor or not: the signal may never have been sent.
    let lines = world.successor(&[("user/0", running(7)), ("order/0", running(8))]);
    assert_eq!(lines, ["follow order/0", "stop order/0 within 20s", "follow user/0", "probe user/0"]);
    let left = Fate::Stopping { pid: 8, left: Duration::from_secs(5) };
    world.after(15_000);
    let lines = world.successor(&[("user/0", running(7)), ("order/0", left)]);
    assert_eq!(lines[..2], ["follow order/0".to_owned(), "stop order/0 within 5s".to_owned()]);
    world.after(5_000);
    assert_eq!(world.handle(Event::Timer), ["kill order/0"]);
}

#[test]
fn what_is_of_the_folder_that_this_one_is_a_copy_of_is_no_crash_and_started_here() {
    let mut world = shop();
    let elsewhere = Fate::Elsewhere { dir: "/w/run".into() };
    let lines = world.successor(&[("user/0", elsewhere.clone()), ("order/0", elsewhere)]);
    assert_eq!(lines, ["spawn user/0"], "and `order` after it");
    assert!(world.recorded.iter().any(|line| line.contains("of /w/run, of which this folder is a copy")));
    assert!(world.recorded.iter().all(|line| !line.contains("took over")), "{:?}", world.recorded);
    assert_eq!(world.instance("user").restarts, 0);
}

#[test]
fn what_cannot_be_proven_is_quarantined_until_somebody_has_looked() {
    let mut world = shop();
    let doubt = Fate::Quarantined { reason: "its record names no process".into() };
    let lines = world.successor(&[("order/0", running(8)), ("user/0", doubt)]);
    assert_eq!(
        lines,
        [
            "follow order/0",
            "probe order/0",
            "tell user may be running, and is left alone: its record names no process"
        ]
    );
    assert_eq!(world.row("user").state, ServiceState::Quarantined);
    world.after(600_000);
    assert_eq!(world.handle(Event::Timer), Vec::<String>::new());
    let (_, why) = world.ask(|answer| Command::Why("user".into(), answer));
    assert!(why.unwrap().contains("`formic release user-"));
    // Not one that is fine.
    let fine = world.id("order/0");
    let (_, released) = world.ask(|answer| release(fine, answer));
    assert!(!released);
    let id = world.id("user/0");
    let (lines, released) = world.ask(|answer| release(id, answer));
    assert!(released);
    assert!(lines[0].starts_with("release ") && lines[1] == "spawn user/0", "{lines:?}");
    assert!(
        world.recorded.iter().any(|line| line.contains("given up by release (uid 7)")),
        "{:?}",
        world.recorded
    );
}

#[test]
fn what_was_released_is_gone_though_that_could_not_be_written_down() {
    let mut world = shop();
    let doubt = Fate::Quarantined { reason: "its record names no process".into() };
    world.successor(&[("order/0", running(8)), ("user/0", doubt)]);
    let (answer, mut released) = oneshot::channel();
    let release = release(world.id("user/0"), answer);
    // The disk was full, and the record is gone all the same.
    let turn = world.core.handle([Event::Command(release)], world.now());
    assert!(!turn.save.unwrap().is_of_what_is_wanted());
    for effect in turn.effects {
        world.line(effect);
    }
    assert!(released.try_recv().unwrap());
    let lines = world.successor(&[("order/0", running(8))]);
    assert_eq!(lines.len(), 2, "{lines:?}");
    world.after(60_000);
    assert_eq!(world.handle(Event::Timer), ["spawn user/0"]);
}

#[test]
fn after_a_start_of_the_machine_everything_is_started_again() {
    let mut world = shop();
    world.after(5_000_000);
    world.leader_exits("user/0", 3);
    world.gone("user/0", false);
    world.up("user/0");
    (world.boot, world.millis) = ("another".into(), 40);
    let lines = world.successor(&[("user/0", Fate::Gone), ("order/0", Fate::Gone)]);
    assert_eq!(lines, ["spawn user/0"]);
    assert_eq!(
        world.instance("user").restarts,
        1,
        "the count goes on, and a start of the machine is no crash"
    );
    world.up("user/0");
    world.up("order/0");
    world.after(100);
    assert_eq!(world.handle(Event::Timer), Vec::<String>::new());
    assert!(world.core.view_anew(world.now().time).is_ready());
}

#[test]
fn history_and_events_are_those_of_the_engine_before() {
    let mut world = shop();
    world.apply(vec![service("user", 3, &[])], Some(1)).1.unwrap();
    world.successor(&[("user/0", running(7))]);
    let (_, history) = world.ask(Command::History);
    let causes: Vec<(u64, &str)> = history.iter().map(|g| (g.index, g.cause.as_str())).collect();
    assert_eq!(causes, [(1, "apply"), (2, "apply")]);
    assert_eq!(world.apply(Vec::new(), Some(1)).1, Err(Refused::Stale { asked: 1, present: 2 }));
    let events = world.state.as_ref().unwrap().last_events(100).unwrap();
    assert!(events.iter().any(|(_, event)| event.text.contains("index 2 by apply")), "{events:?}");
    let journal = crate::journal::Journal::new();
    // One was lost after them: its number is not given again.
    let last = events.last().unwrap().0 + 1;
    journal.restore(events.clone(), last + 1);
    assert_eq!(journal.since(0).len(), events.len());
    assert_eq!(*journal.last().borrow(), last);
}

#[test]
fn down_wants_nothing_and_a_way_back_brings_it_up() {
    let mut world = shop();
    let (done, mut stopped) = oneshot::channel();
    let lines = world.handle(Event::Command(Command::Down { now: false, cause: "down".into(), done }));
    assert_eq!(lines, ["stop order/0 within 30s"]);
    assert_eq!(world.apply(vec![service("user", 1, &[])], None).1, Err(Refused::Stopping));
    world.gone("order/0", false);
    assert!(stopped.try_recv().is_err());
    world.gone("user/0", true);
    assert_eq!(stopped.try_recv().unwrap(), Ok(Stopped { killed: 1 }));
    assert!(world.ended.is_none(), "the engine goes on");
    // It stays down when the engine dies, too.
    assert_eq!(world.successor(&[]), Vec::<String>::new());
    let (_, history) = world.ask(Command::History);
    let before = history.iter().rev().find(|state| !state.services.is_empty()).unwrap();
    assert_eq!(world.apply(before.services.clone(), None).0, ["spawn user/0"]);
}

#[test]
fn what_could_not_be_written_is_written_with_the_next_turn() {
    let mut world = shop();
    let turn = world.core.handle(
        [Event::Command(Command::Change(
            Change {
                services: vec![service("user", 2, &[])],
                tag: Value::Null,
                index: None,
                cause: "scale".into(),
            },
            oneshot::channel().0,
        ))],
        world.now(),
    );
    // The disk was full.
    let save = turn.save.unwrap();
    assert!(save.is_of_what_is_wanted());
    world.core.unsaved(&save);
    // Whoever asks for the same again is to know that it is not on the disk yet.
    let save = world.core.handle([Event::Timer], world.now()).save.unwrap();
    assert!(save.is_of_what_is_wanted());
    world.core.unsaved(&save);
    world.handle(Event::Timer);
    assert!(world.core.handle([Event::Timer], world.now()).save.is_none());
    let state = world.state.as_ref().unwrap();
    assert_eq!(state.generations().unwrap().len(), 2);
    assert_eq!(state.fleet().unwrap().unwrap().0, world.core.fleet);
    assert_eq!(state.instances().unwrap().len(), world.core.roster.observed().instances.len());
}

#[test]
fn nothing_is_replaced_before_those_who_call_are_back() {
    let mut world = shop();
    world.after(10_000);
    world.successor(&[("user/0", running(7)), ("order/0", running(8))]);
    let two = Service { replicas: 2, ..service("user", 1, &[]) };
    world.apply(vec![service("order", 1, &["user"]), two], None).1.unwrap();
    world.up("user/1");
    let (lines, answer) = world.apply(vec![service("order", 1, &["user"]), service("user", 1, &[])], None);
    assert_eq!((lines, answer), (Vec::new(), Ok(Applied { index: 3, changed: true })));
    assert_eq!(world.wake_at, Some(Time::from_millis(12_000)));
    world.after(2_000);
    assert_eq!(world.handle(Event::Timer), ["stop user/1 within 30s"]);
}

#[test]
fn what_became_of_a_state_is_known_to_the_next_engine() {
    let mut world = shop();
    let bad = Service { revision: Revision::of(&"bad".into()), ..service("user", 1, &[]) };
    world.apply(vec![service("order", 1, &["user"]), bad], None).1.unwrap();
    world.started("user/1");
    world.leader_exits("user/1", 78);
    world.gone("user/1", false);
    world.successor(&[("user/0", running(7)), ("order/0", running(8))]);
    let (_, history) = world.ask(Command::History);
    let outcomes: Vec<&str> = history.iter().filter_map(|state| Some(state.outcome?.as_str())).collect();
    assert_eq!(outcomes, ["succeeded", "reverted", "succeeded"]);
    let whys: Vec<&str> = history.iter().map(|state| state.why.as_str()).collect();
    assert!(whys[1].starts_with("user: user-") && whys[1].contains("exited with code 78"), "{whys:?}");
    assert_eq!((whys[0], whys[2]), ("", ""));
}
