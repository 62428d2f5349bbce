//! What is shown: rows that follow probes and the registry, and that are kept where nothing has changed.

use formic_core::Members;

use super::*;

impl World {
    fn register(&mut self, known: &[(&str, &str)]) {
        let known = known.iter().map(|(slot, address)| registered(&self.id(slot), address));
        let known: Members = known.collect();
        self.handle(Event::Registered(known));
    }

    fn addresses(&self, name: &str) -> Vec<String> {
        self.row(name).instances.iter().map(|row| row.address.clone()).collect()
    }
}

#[test]
fn a_view_after_another_is_the_whole_view_and_keeps_what_has_not_changed() {
    let mut world = World::running();
    let now = world.now().time;
    let mut before = world.core.view(now);
    world.after(20_000);
    for step in 0..5 {
        match step {
            0 => drop(world.leader_exits("user/0", 3)),
            1 => drop(world.gone("user/0", false)),
            2 => world.up("user/0"),
            3 => drop(world.probed("user/0", false)),
            _ => drop(world.shut_down(false)),
        }
        let now = world.now().time;
        let after = world.core.view(now);
        assert_eq!(after, world.core.view_anew(now), "step {step}");
        let row = |view: &crate::view::View, name: &str| {
            let service = view.services.iter().find(|service| service.name == name).unwrap();
            Arc::clone(&service.instances[0])
        };
        if step < 4 {
            assert!(Arc::ptr_eq(&row(&before, "order"), &row(&after, "order")), "step {step}");
            assert!(!Arc::ptr_eq(&row(&before, "user"), &row(&after, "user")), "step {step}");
        }
        before = after;
    }
}

#[test]
fn the_view_follows_probes_and_the_registry() {
    let mut world = World::running();
    let row = world.instance("user");
    assert_eq!((row.state, row.pid, row.started_unix_ms), ("ready", 101, 1_000_000));
    assert_eq!(row.address, "http://user/0");
    world.probed("user/0", false);
    let row = world.row("user");
    assert_eq!(
        (row.state, row.reason.as_str()),
        (ServiceState::Degraded, "user/0 does not answer its probe: HTTP 503")
    );
    let known = vec![registered(&world.id("user/0"), "127.0.0.1:7")];
    world.handle(Event::Registered(known.into_iter().collect()));
    assert_eq!(world.instance("user").address, "127.0.0.1:7");
    assert_eq!(world.instance("order").address, "", "it is not in the registry any more");
    // An address that the registry still has after the end is not shown.
    world.leader_exits("user/0", 0);
    world.gone("user/0", false);
    let known = vec![registered(&world.id("user/0"), "127.0.0.1:7")];
    world.handle(Event::Registered(known.into_iter().collect()));
    assert_eq!((world.instance("user").address.as_str(), world.instance("user").pid), ("", 0));
}

#[test]
fn slots_that_are_not_wanted_any_more_are_not_shown_when_they_are_empty() {
    let mut world = World::new(vec![service("user", 2, &[])]);
    world.up("user/0");
    world.up("user/1");
    assert_eq!(world.apply(vec![service("user", 1, &[])], None).0, ["stop user/1 within 30s"]);
    assert_eq!(world.row("user").instances.len(), 2);
    world.gone("user/1", false);
    assert_eq!(world.row("user").instances.len(), 1);
}

#[test]
fn of_many_in_a_view_those_are_kept_that_have_not_changed() {
    let mut world = World::new(vec![service("user", 4, &[])]);
    (0..4).for_each(|slot| world.up(&format!("user/{slot}")));
    let now = world.now().time;
    let before = world.core.view(now);
    world.probed("user/1", false);
    world.apply(vec![service("user", 5, &[])], None).1.unwrap();
    let now = world.now().time;
    let after = world.core.view(now);
    assert_eq!(after, world.core.view_anew(now));
    let rows = |view: &crate::view::View| view.services[0].instances.clone();
    let (before, after) = (rows(&before), rows(&after));
    assert_eq!((before.len(), after.len()), (4, 5));
    let kept: Vec<bool> =
        before.iter().zip(&after).map(|(before, after)| Arc::ptr_eq(before, after)).collect();
    assert_eq!(kept, [true, false, true, true]);
}

#[test]
fn what_changes_in_the_registry_changes_what_is_known_of_those_alone() {
    let mut world = World::new(vec![service("user", 3, &[])]);
    (0..3).for_each(|slot| world.up(&format!("user/{slot}")));
    world.register(&[("user/0", "127.0.0.1:1"), ("user/1", "127.0.0.1:2")]);
    assert_eq!(world.addresses("user"), ["127.0.0.1:1", "127.0.0.1:2", ""]);
    // One goes, one moves, one comes.
    world.register(&[("user/1", "127.0.0.1:4"), ("user/2", "127.0.0.1:3")]);
    assert_eq!(world.addresses("user"), ["", "127.0.0.1:4", "127.0.0.1:3"]);
    let known = |slot: &str| {
        world
            .core
            .roster
            .cell(&world.id(slot))
            .unwrap()
            .registered
            .as_ref()
            .map(|known| known.endpoint.to_string())
    };
    assert_eq!(known("user/0"), None);
    assert_eq!(known("user/1"), Some("127.0.0.1:4".into()));
    assert_eq!(known("user/2"), Some("127.0.0.1:3".into()));
}

#[test]
fn one_that_is_quicker_than_the_word_of_its_start_is_known_all_the_same() {
    let mut world = World::new(vec![service("user", 2, &[])]);
    world.register(&[("user/0", "127.0.0.1:1"), ("user/1", "127.0.0.1:2")]);
    assert_eq!(world.addresses("user"), ["", ""]);
    world.started("user/0");
    assert_eq!(world.addresses("user"), ["127.0.0.1:1", ""]);
    // Also if it was to stop before that word came.
    world.shut_down(false);
    world.started("user/1");
    assert_eq!(world.addresses("user"), ["127.0.0.1:1", "127.0.0.1:2"]);
}
