//! Rollouts step by step: each rule with the situation that it is for.

use std::time::Duration;

use formic_plan::{
    Change, Facts, Failure, Fleet, Outcome, Phase, Role, Service, ServiceState, Time, What, plan, status, why,
};
use formic_spec::{Condition, HumanDuration, Job, Restart, RestartPolicy, Share, Strategy, Update};

use crate::world::{World, service};

#[test]
fn the_first_rollout_succeeds_when_all_were_ready_for_long_enough() {
    let mut world = World::new(vec![service("order", 1, 2)]);
    world.tick();
    assert_eq!(world.live("order"), [(0, 1), (1, 1)]);
    world.ready_all().tick();
    assert!(matches!(world.phase("order"), Phase::Verifying { .. }));
    world.pass(9_999).tick();
    assert!(matches!(world.phase("order"), Phase::Verifying { .. }));
    world.pass(1).tick();
    assert!(
        matches!(world.phase("order"), Phase::Succeeded { kept: None, .. }),
        "{:?}",
        world.phase("order")
    );
    assert_eq!(
        world.log(),
        [
            "order rollout 1: brings r1, the first",
            "order rollout 1: 2 of 2 ready, 5m for the next",
            "order rollout 1: all are ready; it is seen whether they stay so",
            "order rollout 1: all were ready for long enough; calls go to them",
            "order rollout 1: succeeded; old instances are kept for 1m"
        ]
        .map(|line| line.replace("; old instances are kept for 1m", ""))
    );
}

#[test]
fn a_rolling_update_goes_a_quarter_at_a_time_and_keeps_the_last_for_a_minute() {
    let mut world = World::running(vec![service("order", 1, 4)]);
    world.want(service("order", 2, 4)).tick();
    // One more than wanted.
    assert_eq!(world.live("order"), [(0, 1), (1, 1), (2, 1), (3, 1), (4, 2)]);
    for step in 0..3 {
        world.ready_all().pass(10_000).tick();
        assert_eq!(world.stopping("order"), 1, "step {step}");
        assert_eq!(world.count("order", 2), step + 1, "no place for another before one is gone");
        world.gone_all().tick();
        assert_eq!(world.count("order", 2), step + 2);
        assert_eq!(world.live("order").len(), 5);
    }
    world.ready_all().pass(10_000).tick();
    assert!(matches!(world.phase("order"), Phase::Succeeded { kept: Some(_), .. }));
    // The last old one stays a while, and gets no calls.
    assert_eq!((world.count("order", 1), world.count("order", 2)), (1, 4));
    assert_eq!(world.serving("order"), [2, 2, 2, 2]);
    world.pass(59_999).tick();
    assert_eq!(world.count("order", 1), 1);
    world.pass(1).tick().gone_all().tick();
    assert_eq!(world.live("order").len(), 4);
    assert!(world.log().contains(&"order rollout 2: r1 was kept long enough".to_owned()));
}

#[test]
fn blue_green_switches_all_at_once_and_a_way_back_is_immediate() {
    let blue = |revision| {
        let mut service = service("order", revision, 3);
        service.update.strategy = Strategy::BlueGreen;
        service
    };
    let mut world = World::running(vec![blue(1)]);
    world.want(blue(2)).tick().ready_all().tick();
    assert_eq!(world.live("order").len(), 6);
    assert_eq!(world.serving("order"), [1, 1, 1], "not one call to the new ones before all are there");
    world.pass(10_000).tick();
    assert_eq!(world.serving("order"), [2, 2, 2]);
    assert_eq!(world.live("order").len(), 6);

    // Within the minute the old ones take over again at once.
    world.pass(30_000).want(blue(1)).tick();
    assert!(matches!(world.phase("order"), Phase::Succeeded { .. }), "{:?}", world.phase("order"));
    assert_eq!(world.serving("order"), [1, 1, 1]);
    assert_eq!(world.started, 6, "nothing was started for it");
}

#[test]
fn what_cannot_be_started_goes_back_at_once() {
    let mut world = World::running(vec![service("order", 1, 2)]);
    world.want(service("order", 2, 2)).tick();
    world.exit_new(Outcome::NotStarted("no such file".into())).tick();
    assert!(matches!(world.phase("order"), Phase::Reverted { cause: Failure::NotStarted { .. }, .. }));
    assert_eq!(world.live("order"), [(0, 1), (1, 1)]);
    assert!(world.log().iter().any(|line| {
        line.contains("rollout 2: failed, i3 could not be started: no such file; goes back to r1")
    }));
    // The same generation again is nothing; what failed can be asked for again.
    world.want(service("order", 2, 2)).tick();
    assert_eq!(world.fleet.rollouts, 3);
    assert!(matches!(world.phase("order"), Phase::Progressing { .. }), "what failed before does not count");
}

#[test]
fn exit_78_and_three_crashes_fail_it() {
    let mut world = World::running(vec![service("order", 1, 4)]);
    world.want(service("order", 2, 4)).tick().exit_new(Outcome::Code(78)).tick();
    assert!(matches!(world.phase("order"), Phase::Reverted { cause: Failure::Hopeless { .. }, .. }));

    let mut world = World::running(vec![service("order", 1, 4)]);
    world.want(service("order", 2, 4)).tick();
    for crash in 1..=3 {
        assert!(matches!(world.phase("order"), Phase::Progressing { .. }), "crash {crash}");
        world.exit_new(Outcome::Code(1)).tick();
        world.pass(1_000).tick();
    }
    assert!(matches!(world.phase("order"), Phase::Reverted { cause: Failure::Crashes { count: 3, .. }, .. }));
    assert_eq!(world.count("order", 2), 0);
}

#[test]
fn the_deadline_is_extended_by_newly_ready_instances_only() {
    let mut world = World::running(vec![service("order", 1, 2)]);
    world.want(service("order", 2, 2)).tick();
    let Phase::Progressing { deadline } = world.phase("order") else { panic!() };
    world.pass(100_000).ready_all().tick();
    let Phase::Progressing { deadline: extended } = world.phase("order") else { panic!() };
    assert_eq!(extended.since(deadline), Duration::from_secs(100));
    // It fails and comes back, again and again: no progress.
    for _ in 0..50 {
        world.unready_new().tick().pass(4_000).ready_all().tick().pass(4_000);
    }
    assert!(
        matches!(
            world.phase("order"),
            Phase::Reverting { cause: Failure::Deadline { .. }, .. }
                | Phase::Reverted { cause: Failure::Deadline { .. }, .. }
        ),
        "{:?}",
        world.phase("order")
    );
}

#[test]
fn a_first_rollout_has_nothing_to_go_back_to_and_can_still_come_right() {
    let mut world = World::new(vec![service("order", 1, 1)]);
    world.tick();
    for _ in 0..3 {
        world.exit_new(Outcome::Code(1)).tick().pass(1_000).tick();
    }
    assert!(matches!(world.phase("order"), Phase::Failed { .. }));
    assert_eq!(world.live("order"), [(0, 1)], "it goes on trying");
    world.ready_all().pass(10_000).tick();
    assert!(matches!(world.phase("order"), Phase::Succeeded { .. }));
}

#[test]
fn limits_and_count_are_changed_in_place() {
    let mut world = World::running(vec![service("order", 1, 2)]);
    let mut limits = service("order", 1, 3);
    limits.revision = formic_spec::Revision::of(&serde_json::json!("other limits"));
    let changes = world.want(limits.clone()).changes.clone();
    assert_eq!(changes, [("order".to_owned(), Change::InPlace)]);
    world.tick();
    assert_eq!(world.adjusted, 2);
    assert_eq!(world.live("order").len(), 3, "and one more");
    assert_eq!(world.fleet.good("order").unwrap().service, limits, "a way back leads to it");
    assert_eq!(world.want(limits).changes, [("order".to_owned(), Change::None)]);
    assert_eq!(world.fleet.rollouts, 1);
}

#[test]
fn the_newest_go_first_when_fewer_are_wanted() {
    let mut world = World::running(vec![service("order", 1, 2)]);
    world.pass(1000);
    let now = world.now;
    world.fleet.scale("order", 4, now);
    world.tick().ready_all().pass(1000).tick();
    let now = world.now;
    world.fleet.scale("order", 2, now);
    world.tick().gone_all();
    assert_eq!(world.live("order"), [(0, 1), (1, 1)]);
    assert_eq!(world.fleet.good("order").unwrap().service.replicas, 2);
}

#[test]
fn a_restart_replaces_all_by_the_same() {
    let mut world = World::running(vec![service("order", 1, 2)]);
    let now = world.now;
    world.fleet.restart("order", now);
    for _ in 0..3 {
        world.tick().ready_all().pass(10_000).tick().gone_all();
    }
    assert!(
        matches!(world.phase("order"), Phase::Succeeded { kept: None, .. }),
        "{:?}",
        world.phase("order")
    );
    assert_eq!(world.live("order").len(), 2);
    assert!(world.observed.instances.iter().filter(|i| i.is_live()).all(|i| i.rollout == 2));
    assert_eq!(world.started, 4);
}

#[test]
fn a_pause_holds_everything_and_keeps_the_time_that_was_left() {
    let mut world = World::running(vec![service("order", 1, 2)]);
    world.want(service("order", 2, 2)).tick().pass(100_000);
    let now = world.now;
    world.fleet.pause("order", now);
    world.ready_all().tick().pass(900_000).tick();
    assert_eq!(world.live("order"), [(0, 1), (1, 1), (2, 2)]);
    assert!(matches!(world.phase("order"), Phase::Paused { left } if left == HumanDuration::from_secs(200)));
    let now = world.now;
    world.fleet.resume("order", now);
    world.tick();
    assert_eq!(world.stopping("order"), 1, "on it goes");
}

#[test]
fn a_rollout_waits_for_what_it_newly_needs() {
    let mut order = service("order", 2, 1);
    order.depends_on = vec!["payment".into()];
    let mut world = World::running(vec![service("order", 1, 1)]);
    world.want_all(vec![order, service("payment", 1, 1)]).tick();
    assert!(matches!(world.phase("order"), Phase::Pending { ref needs } if *needs == ["payment"]));
    assert_eq!(world.serving("order"), [1]);
    world.pass(1_000_000).tick();
    assert!(matches!(world.phase("order"), Phase::Pending { .. }), "its deadline has not begun");
    // What it waits for was not ready in time, and is started again.
    world.gone_all().pass(1_000).tick().ready_all().tick();
    assert!(matches!(world.phase("order"), Phase::Progressing { .. }));
}

#[test]
fn dependants_are_restarted_after_what_they_depend_on_where_it_says_so() {
    let mut user = service("user", 1, 1);
    user.dependents = formic_spec::Dependents::Rest;
    let mut order = service("order", 1, 2);
    order.depends_on = vec!["user".into()];
    let mut shop = service("shop", 1, 1);
    shop.depends_on = vec!["order".into()];
    let mut world = World::running(vec![user, order, shop]);
    world.exit_of("user", Outcome::Code(1)).tick();
    assert_eq!(world.stopping("order"), 2);
    assert_eq!(world.stopping("shop"), 0, "order does not say so");
    // It had worked, so no back-off holds it up; what falls with it has to be gone first.
    assert_eq!(world.live("user"), []);
    let advance = world.fleet.advance(&world.observed, world.now);
    let next = plan(&advance.desired, &world.observed, world.now).to_string();
    assert!(next.contains("wait  user/0: starts once what is restarted after it has ended: order"), "{next}");
    assert!(!next.contains("order/2"), "its slots are its own: {next}");
    world.gone_all().tick();
    assert_eq!(world.live("user").len(), 1);
    assert_eq!(world.live("order"), [], "after it, not with it");
    world.ready_all().tick();
    assert_eq!(world.live("order").len(), 2);
    world.ready_all().pass(60_000).tick();
    assert_eq!(world.stopping("order"), 0, "once");
}

#[test]
fn deadlines_are_moments_and_survive_a_crash_of_the_engine() {
    let mut world = World::running(vec![service("order", 1, 2)]);
    world.want(service("order", 2, 2)).tick().pass(299_000);
    let text = serde_json::to_string(&world.fleet).unwrap();
    world.fleet = serde_json::from_str::<Fleet>(&text).unwrap();
    world.tick();
    assert!(matches!(world.phase("order"), Phase::Progressing { .. }));
    world.pass(1_000).tick();
    assert!(matches!(world.phase("order"), Phase::Reverted { .. }));
    // After a start of the machine the clock is another.
    world.fleet.restart_clock(Time::from_millis(5));
    assert!(world.fleet.deployments[0].rollout.started <= Time::from_millis(5));
}

#[test]
fn an_older_generation_is_refused() {
    let mut world = World::running(vec![service("order", 1, 1)]);
    let mut desired = world.wanted.clone();
    desired.generation = 0;
    let stale = world.fleet.apply(&desired, world.now).unwrap_err();
    assert_eq!(stale.to_string(), "generation 1 is wanted by now, which is newer");
    desired.generation = 1;
    assert_eq!(world.fleet.apply(&desired, world.now).unwrap().changes, []);
}

#[test]
fn a_rollout_that_is_superseded_says_so() {
    let mut world = World::running(vec![service("order", 1, 4)]);
    world.want(service("order", 2, 4)).tick().ready_all().pass(10_000).tick().gone_all().tick();
    assert_eq!((world.count("order", 1), world.count("order", 2)), (3, 2));
    world.want(service("order", 3, 4)).tick();
    assert!(world.log().iter().any(|line| line.contains("rollout 2 ends unfinished")));
    // The one that never worked goes; those that answer go one by one.
    assert_eq!(world.stopping("order"), 1);
    world.gone_all().tick();
    world.exit_new(Outcome::Code(78)).tick();
    let last = world.decisions.iter().rfind(|d| matches!(d.what, What::Reverts { .. })).unwrap();
    assert!(last.to_string().contains("goes back to"), "{last}");
    for _ in 0..4 {
        world.tick().ready_all().tick().gone_all();
    }
    assert_eq!(world.live("order").iter().map(|(_, r)| *r).collect::<Vec<_>>(), [1, 1, 1, 1]);
}

#[test]
fn without_surge_one_goes_before_one_comes() {
    let tight = |revision| {
        let mut service = service("order", revision, 2);
        service.update = Update { surge: Share::Count(0), unavailable: Share::Count(1), ..Update::default() };
        service
    };
    let mut world = World::running(vec![tight(1)]);
    world.want(tight(2)).tick();
    assert_eq!((world.stopping("order"), world.count("order", 2)), (1, 0));
    world.gone_all().tick();
    assert_eq!((world.count("order", 1), world.count("order", 2)), (1, 1));
    let roles: Vec<Role> = world.roles("order");
    assert_eq!(roles, [Role::Serving, Role::Serving]);
}

#[test]
fn why_says_what_happened_and_what_is_waited_for() {
    let ask = |world: &mut World, service: &str| {
        world.tick();
        let plan = plan(&world.desired, &world.observed, world.now);
        let facts = Facts { desired: &world.desired, observed: &world.observed, plan: &plan };
        let text = why(service, world.fleet.deployment(service), facts, world.now)?;
        Some((1..10).fold(text, |text, n| text.replace(crate::world::revision(n).short(), &format!("r{n}"))))
    };
    let mut world = World::running(vec![service("order", 1, 2)]);
    world.want(service("order", 2, 2)).tick().exit_new(Outcome::Code(78));
    assert_eq!(
        ask(&mut world, "order").unwrap(),
        "order is ready: 2 of 2 ready at r1. Rollout 2 to r2 failed: i3 exited with code 78, which no restart \
         can mend. It has been back at r1 for 0s."
    );
    assert_eq!(ask(&mut world, "orders"), None);

    let mut order = service("order", 1, 1);
    order.depends_on = vec!["user".into()];
    let mut world = World::new(vec![order, service("user", 1, 1)]);
    world.tick().exit_of("user", Outcome::Code(1));
    assert_eq!(
        ask(&mut world, "order").unwrap(),
        "order is pending: 0 of 1 ready at r1. Rollout 1 to r1 waits for user. order/0 waits: it needs user. user \
         is backoff: user/0 exited with code 1, starts again in 250ms."
    );
}

fn job(number: u32, replicas: u32) -> Service {
    Service {
        job: Some(Job { retries: 1, deadline: Some(HumanDuration::from_secs(900)) }),
        ..service("migrate", number, replicas)
    }
}

/// One that begins when the job has come to its end.
fn after_job(number: u32) -> Service {
    Service {
        depends_on: vec!["migrate".into()],
        conditions: [("migrate".to_owned(), Condition::Completed)].into(),
        ..service("web", number, 1)
    }
}

fn once() -> Restart {
    Restart { policy: RestartPolicy::OnFailure, retries: Some(1), ..Restart::default() }
}

fn told(world: &World, service: &str) -> (ServiceState, Option<String>) {
    let rows = status(&world.desired, &world.observed, world.now);
    let row = rows.into_iter().find(|row| row.service == service).unwrap();
    (row.state, row.detail)
}

#[test]
fn what_waits_for_a_job_waits_for_it_at_the_revision_that_comes_with_it() {
    let mut world = World::new(vec![job(1, 1), after_job(1)]);
    world.tick();
    assert_eq!((world.count("migrate", 1), world.count("web", 1)), (1, 0));
    world.exit_under("migrate", 0, &once()).tick().ready_all().pass(20_000).tick();
    assert_eq!(world.serving("web"), [1]);

    world.want_all(vec![job(2, 1), after_job(2)]).tick();
    assert_eq!(
        (world.count("migrate", 2), world.count("web", 2)),
        (1, 0),
        "the first one's end is not the second's"
    );
    assert_eq!(world.phase("web"), Phase::Pending { needs: vec!["migrate".into()] });
    assert_eq!(world.serving("web"), [1]);
    world.exit_under("migrate", 0, &once()).tick();
    assert_eq!(world.count("web", 2), 1);
}

#[test]
fn a_job_of_several_has_come_to_its_end_with_the_last_of_those_that_are_wanted() {
    let mut world = World::new(vec![job(1, 2), after_job(1)]);
    world.tick().exit_under("migrate", 0, &once()).tick();
    assert_eq!(world.count("web", 1), 0, "one of them is at work");
    world.exit_under("migrate", 78, &once()).tick();
    assert_eq!(world.count("web", 1), 0, "one of them failed");
    // That is of no interest any more when one alone is wanted, of another revision.
    world.want_all(vec![job(2, 1), after_job(1)]).tick().exit_under("migrate", 0, &once()).tick();
    assert_eq!(world.count("web", 1), 1, "{:?}", world.observed);
}

#[test]
fn a_job_that_came_to_its_end_before_the_machine_was_started_anew_holds_up_nobody() {
    let mut world = World::new(vec![job(1, 1), after_job(1)]);
    world.tick().exit_under("migrate", 0, &once()).tick().ready_all().pass(20_000).tick();
    world.observed.instances.clear();
    world.tick();
    assert_eq!((world.live("migrate").len(), world.count("web", 1)), (0, 1));
    assert_eq!(told(&world, "migrate"), (ServiceState::Completed, None));
    // Nor does it hold up the next revision of those that came after it.
    world.ready_all().pass(20_000).tick().want_all(vec![job(1, 1), after_job(2)]).tick();
    assert_eq!(world.count("web", 2), 1);
}

#[test]
fn a_job_that_was_stopped_before_its_end_has_not_come_to_it() {
    let mut world = World::new(vec![job(1, 1), after_job(1)]);
    world.tick();
    world.want_all(vec![job(1, 0), after_job(1)]).tick().gone_all().tick();
    assert_eq!(world.count("web", 1), 0);
    world.want_all(vec![job(1, 1), after_job(1)]).tick();
    assert_eq!((world.count("migrate", 1), world.count("web", 1)), (1, 0), "it begins again");
    world.exit_under("migrate", 0, &once()).tick().ready_all().pass(20_000).tick();
    assert_eq!(world.serving("web"), [1]);
    // One that came to its end has done so, also when it is stopped after that.
    world.want_all(vec![job(1, 0), after_job(1)]).tick();
    world.want_all(vec![job(1, 0), after_job(2)]).tick();
    assert_eq!(world.count("web", 2), 1);
    world.observed.instances.clear();
    world.tick();
    assert_eq!(world.count("web", 2), 1);
    // Two of which one has ended have not.
    let mut world = World::new(vec![job(1, 2), after_job(1)]);
    world.tick().exit_under("migrate", 0, &once()).tick();
    world.want_all(vec![job(1, 0), after_job(1)]).tick().gone_all().tick();
    assert_eq!(
        (world.count("web", 1), world.phase("web")),
        (0, Phase::Pending { needs: vec!["migrate".into()] })
    );
}

#[test]
fn who_waits_is_told_for_what() {
    let web = Service { depends_on: vec!["migrate".into(), "user".into()], ..after_job(1) };
    let mut world = World::new(vec![job(1, 1), service("user", 1, 1), web]);
    world.tick();
    assert_eq!(told(&world, "web"), (ServiceState::Pending, Some("needs migrate, user".into())));
    world.exit_under("migrate", 0, &once()).tick();
    assert_eq!(told(&world, "web"), (ServiceState::Pending, Some("needs user".into())));
    world.ready_all().tick();
    assert_eq!(told(&world, "web").1, None);
}

#[test]
fn a_job_has_succeeded_when_it_came_to_its_end_and_is_not_run_again() {
    let job = |number| job(number, 1);
    let rule = once();
    let mut world = World::new(vec![job(1)]);
    world.tick().ready_all().pass(600_000).tick();
    assert!(matches!(world.phase("migrate"), Phase::Progressing { .. }), "neither ready nor late counts");
    world.exit_under("migrate", 0, &rule).tick();
    assert!(matches!(world.phase("migrate"), Phase::Succeeded { .. }), "{:?}", world.phase("migrate"));
    // The machine was started anew, and nothing is known of the instance.
    world.observed.instances.clear();
    world.tick();
    assert_eq!(world.started, 1);

    world.want(job(2)).tick().exit_under("migrate", 1, &rule).tick().pass(1_000).tick();
    assert_eq!(world.started, 3, "it is tried once more");
    world.exit_under("migrate", 1, &rule).tick();
    let Phase::Failed { cause, .. } = world.phase("migrate") else {
        panic!("to run the old one is no way back")
    };
    assert!(cause.to_string().ends_with("exited with code 1, and its 2 tries are used up"), "{cause}");
    assert_eq!(world.started, 3);

    // One that takes too long has failed, and is not tried again.
    world.want(job(3)).tick().pass(900_000).tick();
    assert_eq!(world.stopping("migrate"), 1);
    world.exit_under("migrate", 0, &rule).tick();
    let Phase::Failed { cause, .. } = world.phase("migrate") else { panic!() };
    assert!(cause.to_string().contains("took too long"), "{cause}");

    // A new one begins when the old one is gone.
    world.want(job(4)).tick();
    world.want(job(5)).tick();
    assert_eq!((world.stopping("migrate"), world.live("migrate").len()), (1, 0));
    world.gone_all().tick();
    assert_eq!(world.live("migrate").len(), 1);
}
