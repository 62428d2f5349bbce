//! Stops, and starts that come to nothing: what ends, what is waited for, and what is told.

use super::*;

#[test]
fn a_stop_while_starting_waits_for_the_process() {
    let mut world = World::new(vec![service("user", 1, &[])]);
    // There is nothing to signal yet.
    assert_eq!(world.shut_down(false), Vec::<String>::new());
    assert_eq!(world.instance("user").state, "stopping");
    // It is not probed, and it is stopped as it was asked to be.
    assert_eq!(world.started("user/0"), ["stop user/0 within 30s"]);
    assert!(world.ended.is_none());
    world.gone("user/0", false);
    assert_eq!(world.ended, Some(Stopped { killed: 0 }));
}

#[test]
fn a_kill_while_starting_is_a_kill_when_the_process_comes() {
    let mut world = World::new(vec![service("user", 1, &[])]);
    world.shut_down(false);
    assert_eq!(world.shut_down(true), Vec::<String>::new());
    assert_eq!(world.started("user/0"), ["kill user/0"]);
}

#[test]
fn a_start_that_fails_during_a_stop_is_an_end() {
    let mut world = World::new(vec![service("user", 1, &[])]);
    world.shut_down(false);
    let id = world.id("user/0");
    let lines = world.handle(Event::NotStarted { id, why: "no such file".into(), withheld: false });
    assert_eq!(lines, ["tell user cannot be started: no such file"]);
    assert!(world.ended.is_some());
}

#[test]
fn a_start_that_fails_is_told_and_tried_again_later() {
    let mut world = World::new(vec![service("user", 1, &[])]);
    let id = world.id("user/0");
    let lines = world.handle(Event::NotStarted { id, why: "no such file".into(), withheld: false });
    assert_eq!(lines, ["tell user cannot be started: no such file"]);
    assert_eq!(world.row("user").state, ServiceState::Backoff);
    assert_eq!(world.instance("user").last_exit, "could not be started: no such file");
    assert!(world.wake_at.is_some());
}

#[test]
fn a_start_that_nobody_can_read_is_no_start() {
    let broken = Service { start: serde_json::json!({ "program": 7 }), ..service("user", 1, &[]) };
    let world = World::new(vec![broken]);
    assert!(world.ids.is_empty());
    // It backs off like any other that fails.
    assert!(world.wake_at.is_some_and(|at| at < Time::from_millis(400)), "{:?}", world.wake_at);
    let row = world.row("user");
    assert_eq!(row.state, ServiceState::Backoff);
    assert!(row.reason.contains("does not say how to start it"), "{}", row.reason);
}

#[test]
fn a_leader_that_ends_and_leaves_children_is_gone_when_they_are() {
    let mut world = World::running();
    let told = "tell user ended by itself: exit code 0";
    assert_eq!(world.leader_exits("user/0", 0), [told, "stop user/0 within 1s"]);
    // A polite stop has nothing to add to that; a kill has.
    assert_eq!(world.shut_down(false), ["stop order/0 within 30s"]);
    world.gone("order/0", false);
    assert_eq!(world.instance("user").state, "stopping");
    assert_eq!(world.shut_down(true), ["kill user/0"]);
    // The children had to be killed, and that was asked for.
    assert_eq!(world.gone("user/0", true), ["leave user/0", "deregister user/0"]);
    assert_eq!(world.ended, Some(Stopped { killed: 1 }));
}

#[test]
fn a_leader_that_ends_during_a_stop_changes_nothing_but_the_outcome() {
    let mut world = World::running();
    world.shut_down(false);
    assert_eq!(world.leader_exits("order/0", 7), Vec::<String>::new());
    world.gone("order/0", false);
    assert_eq!(world.instance("order").last_exit, "exited with code 7");
}

#[test]
fn what_outlives_its_grace_is_killed_once_and_counted_once() {
    let mut world = World::new(vec![service("user", 1, &[])]);
    world.up("user/0");
    assert_eq!(world.shut_down(false), ["stop user/0 within 30s"]);
    assert_eq!(world.wake_at, Some(Time::from_millis(30_000)));
    assert_eq!(world.shut_down(false), Vec::<String>::new());
    world.after(30_000);
    assert_eq!(world.handle(Event::Timer), ["kill user/0"]);
    assert_eq!(world.recorded, ["kill user is killed: it did not stop in time"]);
    assert_eq!(world.handle(Event::Timer), Vec::<String>::new());
    // Both stops report.
    let (id, status) = (world.id("user/0"), ExitStatus::Signal(9));
    let gone = || Event::Gone { id: id.clone(), status, killed: true };
    let turn = world.core.handle([gone(), gone()], world.now());
    assert_eq!(turn.ended, Some(Stopped { killed: 1 }));
    let lines: Vec<String> = turn.effects.into_iter().filter_map(|effect| world.line(effect)).collect();
    assert_eq!(lines, ["leave user/0", "deregister user/0"]);
}

#[test]
fn what_cannot_be_stopped_is_told() {
    let mut world = World::running();
    world.shut_down(true);
    let id = world.id("order/0");
    let lines = world.handle(Event::NotStopped { id, why: "a process is left".into() });
    assert_eq!(lines[0], "tell order cannot be stopped: a process is left");
}

/// Does what the lines ask for, and what follows, until nothing more is asked for: stops end, and starts get ready.
fn settle(world: &mut World, lines: Vec<String>, told: &mut Vec<String>) {
    let mut next: std::collections::VecDeque<String> = lines.into();
    while let Some(line) = next.pop_front() {
        let follows = match line.split(' ').collect::<Vec<_>>()[..] {
            ["stop", slot, ..] => world.gone(slot, false),
            ["spawn", slot] => world.started(slot),
            ["probe", slot] => world.probed(slot, true),
            _ => continue,
        };
        told.append(&mut world.recorded);
        next.extend(follows);
    }
}

#[test]
fn what_took_a_dependant_along_is_told_as_long_as_what_came_of_it_runs() {
    let rest = |name: &str, depends_on: &[&str]| Service {
        dependents: formic_spec::Dependents::Rest,
        ..service(name, 1, depends_on)
    };
    let mut world = World::new(vec![rest("user", &[]), rest("order", &["user"]), rest("web", &["order"])]);
    let mut told = Vec::new();
    for slot in ["user/0", "order/0", "web/0"] {
        world.up(slot);
    }
    world.after(20_000);
    let why = |world: &mut World, service: &str| {
        world.ask(|answer| Command::Why(service.into(), answer)).1.unwrap()
    };
    world.leader_exits("user/0", 3);
    let lines = world.gone("user/0", false);
    told.append(&mut world.recorded);
    settle(&mut world, lines, &mut told);
    for _ in 0..20 {
        world.after(1_000);
        let lines = world.handle(Event::Timer);
        told.append(&mut world.recorded);
        settle(&mut world, lines, &mut told);
    }
    let cause = "what it depends on was restarted: user/0 exited with code 3";
    for service in ["order", "web"] {
        let stop = format!("stop {service} is told to stop within 30s: {cause}");
        assert!(told.contains(&stop), "{told:#?}");
        let text = why(&mut world, service);
        assert!(text.contains("after what it depends on: user/0 exited with code 3"), "{text}");
    }
    assert!(!why(&mut world, "user").contains("after what it depends on"));
    // It is not why what comes after the next end of its own was started.
    world.leader_exits("web/0", 4);
    world.gone("web/0", false);
    assert!(!why(&mut world, "web").contains("after what it depends on"), "{}", why(&mut world, "web"));
}
