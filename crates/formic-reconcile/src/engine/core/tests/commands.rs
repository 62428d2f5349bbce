//! What people ask for: another state, a look at what it would do, a restart by hand.

use super::*;

#[test]
fn a_stale_index_is_refused_and_the_same_state_changes_nothing() {
    let mut world = World::running();
    let services = |replicas| vec![service("user", replicas, &[]), service("order", 1, &["user"])];
    let (lines, answer) = world.apply(services(2), Some(1));
    assert_eq!((lines, answer), (vec!["spawn user/1".to_owned()], Ok(Applied { index: 2, changed: true })));
    assert_eq!(world.recorded[0], "applied  index 2 by apply: user changed (replicas)");
    // Made from what was before; even what is so already is refused then.
    for replicas in [9, 2] {
        let stale = Err(Refused::Stale { asked: 1, present: 2 });
        assert_eq!(world.apply(services(replicas), Some(1)), (Vec::new(), stale));
        assert_eq!(world.recorded, ["refused  apply is refused: index 1 is not the present one, which is 2"]);
    }
    assert_eq!(world.row("user").wanted, 2);
    let same = Ok(Applied { index: 2, changed: false });
    assert_eq!(world.apply(services(2), Some(2)), (Vec::new(), same.clone()));
    assert_eq!(world.apply(services(2), None), (Vec::new(), same));
    assert_eq!(world.recorded, Vec::<String>::new());
    // A stop is the last wish.
    world.shut_down(false);
    assert_eq!(world.apply(services(1), None).1, Err(Refused::Stopping));
    assert_eq!(world.restart("user").1, Err(Refused::Stopping));
}

#[test]
fn a_tag_alone_is_another_state_and_comes_back_with_the_view() {
    let mut world = World::running();
    let services = world.core.wanted();
    let change = Change { services, tag: "exposed".into(), index: None, cause: "apply".into() };
    let (lines, answer) = world.ask(|answer| Command::Change(change, answer));
    assert_eq!((lines, answer), (Vec::new(), Ok(Applied { index: 2, changed: true })));
    let view = world.core.view_anew(world.now().time);
    assert_eq!((view.index, &*view.tag), (2, &Value::from("exposed")));
    assert_eq!(world.recorded, ["applied  index 2 by apply: no service changed"]);
}

#[test]
fn the_last_fifty_states_are_kept() {
    let mut world = World::new(Vec::new());
    for n in 1..=60 {
        world.apply(vec![service("user", n, &[])], None).1.unwrap();
    }
    let (_, history) = world.ask(Command::History);
    assert_eq!((history.len(), history[0].index, history[49].index), (50, 11, 60));
    assert_eq!((history[49].services[0].replicas, history[49].cause.as_str()), (60, "apply"));
}

#[test]
fn a_preview_says_what_would_be_done_and_does_nothing() {
    let mut world = World::running();
    let wanted = vec![service("user", 2, &[]), service("pay", 1, &["order"])];
    let (lines, preview): (_, Preview) = world.ask(|answer| Command::Preview(wanted, answer));
    assert_eq!(lines, Vec::<String>::new());
    assert_eq!((preview.index, preview.services.len(), preview.live.len()), (1, 2, 2));
    assert_eq!(preview.plan.starts().collect::<Vec<_>>(), [("user", 1)]);
    assert_eq!(preview.plan.stops().count(), 1);
    assert!(world.recorded.is_empty() && world.row("user").wanted == 1);
}

#[test]
fn a_restart_by_hand_brings_the_new_before_the_old_goes_and_counts_as_none() {
    let mut world = World::new(vec![service("user", 1, &[])]);
    world.up("user/0");
    let restarted = |index| Ok(Restarted { index, instances: 1 });
    assert_eq!(world.restart("user"), (vec!["spawn user/1".to_owned()], restarted(2)));
    assert_eq!(world.recorded[0], "restart user is to get new instances, by restart user (uid 7)");
    world.started("user/1");
    assert_eq!(world.probed("user/1", true), ["stop user/0 within 30s"]);
    world.gone("user/0", false);
    let row = world.row("user");
    assert_eq!((row.instances.len(), row.instances[0].restarts, row.rollout), (1, 0, "succeeded"));
    assert_eq!(world.restart("nobody").1, Err(Refused::Unknown("nobody".into())));
    let causes = |world: &mut World| -> Vec<String> {
        world.ask(Command::History).1.iter().map(|state| state.cause.clone()).collect()
    };
    assert_eq!(causes(&mut world), ["apply", "restart user (uid 7)"]);
    // Of one that is stopped there is nothing to replace, and nothing else is wanted by that.
    world.apply(vec![service("user", 0, &[])], None).1.unwrap();
    assert_eq!(world.restart("user").1, Err(Refused::StoppedService("user".into())));
    assert_eq!(causes(&mut world).len(), 3);
}

#[test]
fn a_restart_by_hand_does_not_wait_for_a_back_off_nor_for_one_that_gave_up() {
    let mut world = World::new(vec![service("user", 1, &[])]);
    world.started("user/0");
    world.leader_exits("user/0", 1);
    world.gone("user/0", false);
    assert_eq!(world.row("user").state, ServiceState::Backoff);
    let restarted = |index| Ok(Restarted { index, instances: 1 });
    assert_eq!(world.restart("user"), (vec!["spawn user/0".to_owned()], restarted(2)));
    world.started("user/0");
    world.leader_exits("user/0", 78);
    world.gone("user/0", false);
    assert_eq!(world.row("user").state, ServiceState::Failed);
    assert_eq!(world.restart("user"), (vec!["spawn user/0".to_owned()], restarted(3)));
}
