//! Engines that die between the end of an instance and what follows from it on the disk: before the end is noted in its
//! record, between that and the reaping, before and after the commit, before the record is gone.

use super::*;
use crate::engine::cell::Cell;

/// Where an engine dies on the way from an end to its record's removal.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Dies {
    /// Before it saw the end.
    Unseen,
    /// After it was told, and what follows from that is on disk: the tree is being ended.
    Seen,
    /// After it was noted, before or after it was reaped: what the supervisor told was never heard.
    Noted,
    /// After what follows was decided, and not written.
    Undecided,
    /// After that was written, before the record is removed.
    Written,
    /// Not on this way.
    Never,
}

const ALL: [Dies; 6] = [Dies::Unseen, Dies::Seen, Dies::Noted, Dies::Undecided, Dies::Written, Dies::Never];

impl World {
    /// The record of an instance as the supervisor finds it, with what was written beside it at its start.
    fn record(&self, slot: &str, fate: Fate) -> Found {
        let id = self.id(slot);
        let instance = self.core.roster.iter().find(|instance| instance.id == id).unwrap();
        let note = serde_json::to_value((instance, &self.core.roster.cell(&id).unwrap())).unwrap();
        Found { id, note, port: None, fate }
    }

    /// An end, on the way of which the engine dies. What comes before that, and goes on after it, is the same.
    fn dies_after(&mut self, slot: &str, code: i32, dies: Dies) {
        let (id, status) = (self.id(slot), ExitStatus::Code(code));
        let ended = self.record(slot, Fate::Ended { pid: 7 });
        let over = self.record(slot, Fate::Over { status });
        if dies == Dies::Unseen {
            self.next(ended);
            self.seen_and_gone(slot, status);
            return;
        }
        self.handle(Event::LeaderExited { id: id.clone(), status });
        match dies {
            Dies::Seen => {
                self.next(ended);
                self.seen_and_gone(slot, status);
            }
            Dies::Noted => self.next(over),
            Dies::Undecided => {
                let turn = self.core.handle([Event::Gone { id, status, killed: false }], self.now());
                assert!(turn.save.is_some());
                self.next(over);
            }
            Dies::Written => {
                self.handle(Event::Gone { id, status, killed: false });
                self.next(over);
            }
            Dies::Unseen | Dies::Never => {
                self.handle(Event::Gone { id, status, killed: false });
            }
        }
    }

    /// The next engine finds this of it, and all that runs.
    fn next(&mut self, found: Found) {
        let mut found = vec![found];
        found.append(&mut self.others);
        self.succeeded_by(found);
    }

    /// What the next engine hears of one that has ended.
    fn seen_and_gone(&mut self, slot: &str, status: ExitStatus) {
        let id = self.id(slot);
        self.handle(Event::LeaderExited { id: id.clone(), status });
        self.handle(Event::Gone { id, status, killed: false });
    }
}

#[test]
fn a_count_of_restarts_never_falls_wherever_an_engine_dies_after_an_end() {
    for seed in 0..30 {
        let mut random = fastrand::Rng::with_seed(seed);
        let mut world = World::kept(vec![service("user", 1, &[])]);
        for crash in 1..=8 {
            let before = world.instance("user").restarts;
            if random.bool() {
                world.up("user/0");
            } else {
                world.started("user/0");
            }
            // Not so long that it is started again at once.
            world.after(random.u64(1..9_000));
            let (dies, id) = (random.choice(ALL).unwrap(), world.id("user/0"));
            world.dies_after("user/0", 3, dies);
            let row = world.instance("user");
            assert_eq!(
                (row.state, row.last_exit.as_str()),
                ("backoff", "exited with code 3"),
                "{seed} {dies:?}"
            );
            assert!(row.restarts >= before, "{seed} {dies:?}");
            // The record goes with what follows from it, and not before.
            assert_eq!(world.over, [id.as_str()], "{seed} {dies:?}");
            if random.bool() {
                // Once more: by then there is no record.
                world.successor(&[]);
            }
            world.after(120_000);
            assert_eq!(world.handle(Event::Timer), ["spawn user/0"], "{seed} {dies:?}");
            assert_eq!(world.instance("user").restarts, crash, "{seed} {dies:?}: once for each end");
            assert_eq!(world.core.roster.observed().instances.len(), 1);
        }
    }
}

#[test]
fn work_that_is_done_is_not_done_again_wherever_an_engine_dies_after_it() {
    for dies in ALL {
        let mut world = World::kept(vec![super::ends::job("mig")]);
        world.up("mig/0");
        world.dies_after("mig/0", 0, dies);
        assert_eq!(world.row("mig").state, ServiceState::Completed, "{dies:?}");
        assert_eq!(world.after(600_000).handle(Event::Timer), [""; 0], "{dies:?}");
    }
}

/// What people asked for goes on where it was: a stop, a removal, and another instance in its place.
#[test]
fn what_was_asked_for_is_done_wherever_an_engine_dies_after_the_end() {
    let revised = Service { revision: Revision::of(&"two".into()), ..service("user", 1, &[]) };
    let asked = [
        ("stop", vec![Service { replicas: 0, ..service("user", 1, &[]) }], 0),
        ("rm", Vec::new(), 0),
        ("update", vec![revised], 1),
    ];
    for (what, wanted, left) in asked {
        for dies in ALL {
            let mut world = World::kept(vec![service("user", 1, &[]), service("other", 1, &[])]);
            world.up("user/0");
            world.up("other/0");
            world.after(10_000);
            let mut wanted = wanted.clone();
            wanted.push(service("other", 1, &[]));
            world.apply(wanted, None).1.unwrap();
            if left == 1 {
                world.up("user/1");
            }
            let of = |world: &World| {
                let of = world.core.roster.iter().filter(|i| i.service == "user" && i.is_live());
                of.count()
            };
            world.others = vec![world.record("other/0", Fate::Running { pid: 8 })];
            if left == 1 {
                world.others.push(world.record("user/1", Fate::Running { pid: 9 }));
            }
            let old = world.id("user/0");
            world.dies_after("user/0", 0, dies);
            assert_eq!(
                (of(&world), world.over.as_slice()),
                (left, [old.to_string()].as_slice()),
                "{what} {dies:?}"
            );
            assert!(world.recorded.iter().all(|line| !line.contains("not known")), "{:?}", world.recorded);
            world.after(60_000).handle(Event::Timer);
            let slots: Vec<u32> = world.core.roster.iter().map(|i| i.slot).collect();
            assert_eq!(of(&world), left, "{what} {dies:?}: {slots:?}");
            assert_eq!(world.row("other").restarts, 0);
        }
    }
}

#[test]
fn an_end_that_the_database_knows_nothing_of_brings_no_instance_back() {
    let status = ExitStatus::Code(3);
    for fate in [Fate::Over { status }, Fate::Ended { pid: 7 }] {
        let mut world = World::kept(vec![service("user", 1, &[])]);
        world.up("user/0");
        // From here on the state is as old as a damaged commit has left it.
        let older = world.state.take();
        world.leader_exits("user/0", 3);
        world.gone("user/0", false);
        world.millis = world.wake_at.unwrap().millis();
        assert_eq!(world.handle(Event::Timer), ["spawn user/0"]);
        world.started("user/0");
        let found = world.record("user/0", fate.clone());
        assert!(serde_json::from_value::<(Instance, Cell)>(found.note.clone()).is_ok(), "a real note");
        let (id, is_over) = (found.id.clone(), matches!(fate, Fate::Over { .. }));
        world.state = older;
        let lines = world.succeeded_by(vec![found]);
        // The one that it took the place of is what the database knows, and it is gone too.
        assert_eq!(world.core.roster.observed().instances.len(), 1, "{fate:?}");
        assert_eq!(world.instance("user").state, "backoff");
        assert_ne!(world.core.roster.observed().instances[0].id, id);
        // What is left of it is ended, and its record goes.
        let expected = if is_over { vec![] } else { vec!["stop user/0 within 5s".to_owned()] };
        assert_eq!(lines, expected);
        if !is_over {
            assert!(world.over.is_empty());
            world.handle(Event::Gone { id: id.clone(), status, killed: false });
        }
        assert_eq!(world.over, [id.as_str()]);
    }
}

#[test]
fn a_record_stays_until_what_follows_is_written_and_a_panic_writes_nothing() {
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let panics = || {
        runtime.block_on(async {
            tokio::task::spawn_blocking(|| -> Result<(), String> { panic!("damaged") }).await
        })
    };
    let fails = || Ok(Err("no room".to_owned()));
    let mut world = World::kept(vec![service("user", 1, &[])]);
    world.up("user/0");
    let (id, status) = (world.id("user/0"), ExitStatus::Code(3));
    world.leader_exits("user/0", 3);
    let turn = world.core.handle([Event::Gone { id: id.clone(), status, killed: false }], world.now());
    let mut save = turn.save.unwrap();
    let ways: [&dyn Fn() -> Result<Result<(), String>, tokio::task::JoinError>; 2] = [&panics, &fails];
    for went in ways {
        assert_eq!(save.over().collect::<Vec<_>>(), [id.as_str()]);
        assert!(world.core.written(&save, went()).is_err());
        // Of the turn that follows, whatever it is about.
        save = world.core.handle([Event::Timer], world.now()).save.unwrap();
    }
    save.commit(world.state.as_ref().unwrap(), "boot").unwrap();
    assert!(world.core.written(&save, Ok(Ok(()))).is_ok());
    assert!(world.core.handle([Event::Timer], world.now()).save.is_none(), "all of it is written");
    world.successor(&[]);
    assert_eq!(world.instance("user").last_exit, "exited with code 3");
}
