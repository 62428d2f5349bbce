//! What replaces what when a service changes, and what goes back by itself.

use std::sync::Arc;

use formic_state::Outcome;

use super::*;
use crate::engine::Generation;

/// The same service at another revision.
fn revised(service: &Service, revision: &str) -> Service {
    Service { revision: Revision::of(&revision.into()), ..service.clone() }
}

fn outcomes(history: &[Arc<Generation>]) -> Vec<Option<Outcome>> {
    history.iter().map(|state| state.outcome).collect()
}

/// The data folder of the spawn, if the effect is one.
fn folder(effect: &Effect) -> Option<String> {
    let Effect::Spawn(spawn) = effect else { return None };
    Some(spawn.data.file_name().unwrap().to_str().unwrap().to_owned())
}

#[test]
fn a_new_revision_comes_before_the_old_one_goes_and_takes_over_its_data() {
    let first = service("user", 1, &[]);
    let mut world = World::new(vec![first.clone()]);
    world.up("user/0");
    let change = Change {
        services: vec![revised(&first, "two")],
        tag: Value::Null,
        index: None,
        cause: "apply".into(),
    };
    let (answer, _answered) = oneshot::channel();
    let turn = world.core.handle([Event::Command(Command::Change(change, answer))], world.now());
    assert_eq!(turn.effects.iter().filter_map(folder).collect::<Vec<_>>(), ["user"]);
    for effect in turn.effects {
        world.line(effect);
    }
    assert_eq!(world.row("user").rollout, "progressing");
    world.started("user/1");
    assert_eq!(world.probed("user/1", true), ["stop user/0 within 30s"]);
    world.gone("user/0", false);
    assert_eq!(world.row("user").rollout, "succeeded");
    assert!(world.rollouts.last().unwrap().ends_with("succeeded"), "{:?}", world.rollouts);
}

#[test]
fn without_a_surge_the_old_one_goes_first_and_replicas_keep_their_data() {
    let mut first = service("user", 2, &[]);
    first.update.surge = formic_spec::Share::Count(0);
    first.update.unavailable = formic_spec::Share::Count(1);
    let mut world = World::new(vec![first.clone()]);
    world.up("user/0");
    world.up("user/1");
    let seats = |world: &World| {
        let mut seats: Vec<(u32, u32)> =
            world.core.roster.iter().map(|i| (i.slot, world.core.roster.cell(&i.id).unwrap().seat)).collect();
        seats.sort_unstable();
        seats
    };
    assert_eq!(seats(&world), [(0, 0), (1, 1)]);
    assert_eq!(world.apply(vec![revised(&first, "two")], None).0, ["stop user/1 within 30s"]);
    assert!(world.gone("user/1", false).contains(&"spawn user/1".to_owned()));
    world.started("user/1");
    assert_eq!(world.probed("user/1", true), ["stop user/0 within 30s"]);
    assert!(world.gone("user/0", false).contains(&"spawn user/0".to_owned()));
    world.up("user/0");
    assert_eq!(seats(&world), [(0, 0), (1, 1)]);
    assert_eq!(world.row("user").rollout, "succeeded");
}

#[test]
fn a_revision_that_fails_goes_back_by_itself_and_that_is_another_state() {
    let first = service("user", 1, &[]);
    let mut world = World::new(vec![first.clone()]);
    world.up("user/0");
    world.apply(vec![revised(&first, "bad")], Some(1)).1.unwrap();
    world.started("user/1");
    world.leader_exits("user/1", 78);
    world.gone("user/1", false);
    let view = world.core.view_anew(world.now().time);
    assert_eq!(
        (view.index, view.services[0].rollout, view.services[0].state),
        (3, "reverted", ServiceState::Ready)
    );
    assert!(view.services[0].rollout_failure.contains("code 78"), "{}", view.services[0].rollout_failure);
    let (_, history) = world.ask(Command::History);
    assert_eq!(history.last().unwrap().cause, "the way back of user");
    assert_eq!(history.last().unwrap().services, vec![first.clone()]);
    assert_eq!(
        outcomes(&history),
        [Some(Outcome::Succeeded), Some(Outcome::Reverted), Some(Outcome::Succeeded)]
    );
    // The same again is another try, and who planned before the way back is told so.
    let stale = Err(Refused::Stale { asked: 2, present: 3 });
    assert_eq!(world.apply(vec![revised(&first, "bad")], Some(2)).1, stale);
    assert_eq!(world.apply(vec![revised(&first, "bad")], Some(3)).0, ["spawn user/1"]);
    let (_, text) = world.ask(|answer| Command::Why("user".into(), answer));
    assert!(text.unwrap().contains("is under way"));
}

#[test]
fn a_state_knows_what_became_of_it_and_so_do_those_that_kept_what_failed() {
    let (first, other) = (service("user", 1, &[]), service("order", 1, &[]));
    let mut world = World::new(vec![first.clone(), other.clone()]);
    world.up("user/0");
    world.up("order/0");
    // Another change while the update of user goes on: both states have what fails.
    world.apply(vec![revised(&first, "bad"), other.clone()], None).1.unwrap();
    world.apply(vec![revised(&first, "bad"), service("order", 2, &[])], None).1.unwrap();
    let (_, history) = world.ask(Command::History);
    assert_eq!(outcomes(&history), [Some(Outcome::Succeeded), Some(Outcome::Superseded), None]);
    world.up("order/1");
    world.started("user/1");
    world.leader_exits("user/1", 78);
    world.gone("user/1", false);
    let (_, history) = world.ask(Command::History);
    let reverted = Some(Outcome::Reverted);
    assert_eq!(outcomes(&history), [Some(Outcome::Succeeded), reverted, reverted, Some(Outcome::Succeeded)],);
}

#[test]
fn what_came_with_a_service_comes_back_with_it_and_the_rest_is_told() {
    let (user, order) = (service("user", 1, &[]), service("order", 1, &[]));
    let mut world = World::new(vec![user.clone(), order.clone()]);
    world.core.way_back = Some(|present, earlier, service| {
        let mut tag = present.clone();
        tag[service] = earlier[service].clone();
        tag
    });
    let tag = |user: &str, other: &str| serde_json::json!({ "user": user, "other": other });
    let tagged = |services, tag| Change { services, tag, index: None, cause: "apply".into() };
    world.up("user/0");
    world.up("order/0");
    let good = tagged(vec![user.clone(), order.clone()], tag("/a", "/x"));
    world.ask(|answer| Command::Change(good, answer)).1.unwrap();
    let bad = tagged(vec![revised(&user, "bad"), service("order", 2, &[])], tag("/b", "/y"));
    world.ask(|answer| Command::Change(bad, answer)).1.unwrap();
    world.started("user/1");
    world.leader_exits("user/1", 78);
    world.gone("user/1", false);
    let (_, history) = world.ask(Command::History);
    assert_eq!(*history.last().unwrap().tag, tag("/a", "/y"));
    let told =
        "what index 3 changed besides user stays as it is: order, routes and the like that are not its own";
    assert!(world.rollouts.iter().any(|line| line.ends_with(told)), "{:?}", world.rollouts);
}

#[test]
fn a_first_state_that_fails_has_failed_until_it_works_after_all() {
    let mut world = World::new(vec![service("user", 1, &[])]);
    world.started("user/0");
    world.leader_exits("user/0", 78);
    world.gone("user/0", false);
    assert_eq!(world.row("user").rollout, "failed");
    let (_, history) = world.ask(Command::History);
    assert_eq!(outcomes(&history), [Some(Outcome::Failed)]);
    // What comes after, and changes something else, is not blamed for it.
    world.apply(vec![service("user", 1, &[]), service("order", 1, &[])], None).1.unwrap();
    world.up("order/0");
    let (_, history) = world.ask(Command::History);
    assert_eq!(outcomes(&history), [Some(Outcome::Failed), Some(Outcome::Succeeded)]);
    // Nor is a restart of another one.
    let restart =
        |answer| Command::Restart { services: vec!["order".into()], cause: "restart".into(), answer };
    assert_eq!(world.ask(restart).1, Ok(Restarted { index: 3, instances: 1 }));
    world.up("order/1");
    world.gone("order/0", false);
    let (_, history) = world.ask(Command::History);
    assert_eq!(outcomes(&history)[2], Some(Outcome::Succeeded));
    // One of what has failed is.
    let restart =
        |answer| Command::Restart { services: vec!["user".into()], cause: "restart".into(), answer };
    assert_eq!(world.ask(restart).1, Ok(Restarted { index: 4, instances: 1 }));
    world.started("user/0");
    world.leader_exits("user/0", 78);
    world.gone("user/0", false);
    let (_, history) = world.ask(Command::History);
    assert_eq!(outcomes(&history)[3], Some(Outcome::Failed));
}

#[test]
fn what_is_kept_for_a_way_back_is_hidden_from_those_who_call() {
    let mut first = service("user", 1, &[]);
    first.update.keep_old = HumanDuration::from_secs(60);
    let mut world = World::new(vec![first.clone()]);
    world.up("user/0");
    world.apply(vec![revised(&first, "two")], None).1.unwrap();
    world.started("user/1");
    assert_eq!(world.probed("user/1", true), Vec::<String>::new());
    assert_eq!(world.hidden, ["user/0"]);
    let states: Vec<&str> = world.row("user").instances.iter().map(|row| row.state).collect();
    assert_eq!(states, ["standby", "ready"]);
    assert_eq!(world.wake_at, Some(Time::from_millis(60_000)));
    world.after(60_000);
    assert_eq!(world.handle(Event::Timer), ["stop user/0 within 30s"]);
    assert_eq!(world.hidden, ["user/0"], "nor does it get calls while it stops");
    world.gone("user/0", false);
    assert!(world.hidden.is_empty());
}

#[test]
fn what_has_got_no_calls_yet_gets_none_while_all_stops() {
    let mut first = service("user", 1, &[]);
    first.update.strategy = formic_spec::Strategy::BlueGreen;
    first.update.min_ready = HumanDuration::from_secs(10);
    let mut world = World::new(vec![first.clone(), service("order", 1, &["user"])]);
    world.up("user/0");
    world.after(10_000).handle(Event::Timer);
    world.up("order/0");
    world.apply(vec![revised(&first, "two"), service("order", 1, &["user"])], None).1.unwrap();
    world.started("user/1");
    world.probed("user/1", true);
    assert_eq!(world.hidden, ["user/1"]);
    // Who calls it is stopped first, and still calls the one that it called before.
    assert_eq!(world.apply(Vec::new(), None).0, ["stop order/0 within 30s"]);
    assert_eq!(world.hidden, ["user/1"]);
    world.gone("order/0", false);
    assert_eq!(world.hidden, ["user/1"]);
}

#[test]
fn what_a_process_can_take_up_is_taken_up_as_it_runs() {
    let mut first = service("user", 1, &[]);
    first.process = Some(Revision::of(&"process".into()));
    let mut world = World::new(vec![first.clone()]);
    world.up("user/0");
    let mut start: Start = serde_json::from_value(first.start.clone()).unwrap();
    start.restart.policy = formic_spec::RestartPolicy::Never;
    let mut second = revised(&first, "two");
    second.start = serde_json::to_value(start).unwrap();
    assert_eq!(world.apply(vec![second], None).0, Vec::<String>::new());
    let revision = Revision::of(&"two".into());
    assert_eq!(world.recorded.last(), Some(&format!("adjust user takes up {revision} as it runs")));
    // By the new rule it is not started again.
    world.leader_exits("user/0", 0);
    world.gone("user/0", false);
    assert_eq!(world.row("user").state, ServiceState::Completed);
}
