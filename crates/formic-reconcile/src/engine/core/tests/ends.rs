//! Ends that are wanted, ends that nothing follows, and what people are told of them.

use formic_plan::RunState;
use formic_spec::{Cron, RestartPolicy, Schedule};

use super::*;

/// Runs to its end; not tried again.
pub(super) fn job(name: &str) -> Service {
    let mut service = service(name, 1, &[]);
    let mut start: Start = serde_json::from_value(service.start).unwrap();
    start.restart = Restart { policy: RestartPolicy::OnFailure, retries: Some(0), ..Restart::default() };
    start.health.ready = Probe::None;
    service.start = serde_json::to_value(start).unwrap();
    service.job = Some(formic_spec::Job { retries: 0, deadline: None });
    service
}

/// What waits for a job to come to its end.
pub(super) fn after(job: &str, revision: &str) -> Service {
    Service {
        revision: Revision::of(&revision.into()),
        conditions: [(job.to_owned(), formic_spec::Condition::Completed)].into(),
        ..service("web", 1, &[job])
    }
}

fn why(world: &mut World, name: &str) -> String {
    world.ask(|answer| Command::Why(name.into(), answer)).1.unwrap()
}

#[test]
fn a_job_that_succeeded_is_done_and_nobody_is_alarmed() {
    let mut world = World::new(vec![job("mig")]);
    world.up("mig/0");
    assert_eq!(world.leader_exits("mig/0", 0), ["stop mig/0 within 1s"]);
    assert_eq!(world.recorded, ["exit mig ended by itself: exit code 0"]);
    let lines = world.gone("mig/0", false);
    assert!(!lines.iter().any(|line| line.starts_with("tell")), "{lines:?}");
    let row = world.row("mig");
    assert_eq!((row.state, row.ready, row.wanted), (ServiceState::Completed, 1, 1));
    assert_eq!((row.reason.as_str(), row.rollout), ("", "succeeded"));
    assert!(world.core.view_anew(world.now().time).is_ready());
    assert!(why(&mut world, "mig").starts_with("mig is completed: 1 of 1 came to the end."));
}

#[test]
fn a_job_that_failed_has_failed_and_is_not_said_to_be_tried_again() {
    let mut world = World::new(vec![job("mig")]);
    world.up("mig/0");
    let lines = world.leader_exits("mig/0", 3);
    assert_eq!(lines[0], "tell mig ended by itself: exit code 3");
    world.gone("mig/0", false);
    let row = world.row("mig");
    assert_eq!((row.state, row.ready), (ServiceState::Failed, 0));
    assert_eq!(row.reason, "mig/0 exited with code 3, is not started again");
    assert!(!world.core.view_anew(world.now().time).is_ready());
    let text = why(&mut world, "mig");
    assert!(text.contains("is not started again") && !text.contains("goes on trying"), "{text}");
}

/// A way back by hand is not to lead to it.
#[test]
fn a_release_whose_job_failed_has_failed_though_the_rest_of_it_waits() {
    let web = |revision| after("mig", revision);
    let mut world = World::new(vec![job("mig"), web("one")]);
    world.up("mig/0");
    world.leader_exits("mig/0", 0);
    world.gone("mig/0", false);
    world.up("web/0");
    let second = Service { revision: Revision::of(&"again".into()), ..job("mig") };
    world.apply(vec![second, web("two")], None).1.unwrap();
    world.up("mig/0");
    world.leader_exits("mig/0", 3);
    assert_eq!(world.gone("mig/0", false), ["leave mig/0", "deregister mig/0"], "nothing of it is started");
    let (_, history) = world.ask(Command::History);
    let outcomes: Vec<_> = history.iter().map(|state| state.outcome).collect();
    assert_eq!(outcomes, [Some(formic_state::Outcome::Succeeded), Some(formic_state::Outcome::Failed)]);
    assert_eq!(world.row("web").ready, 1, "what was there goes on");
    // Nor to one that has it, too, and changes something else.
    let second = Service { revision: Revision::of(&"again".into()), ..job("mig") };
    world.apply(vec![second, web("two"), service("order", 1, &[])], None).1.unwrap();
    world.up("order/0");
    let (_, history) = world.ask(Command::History);
    assert_eq!(history[2].outcome, Some(formic_state::Outcome::Failed));
    assert!(history[2].why.starts_with("mig: "), "{}", history[2].why);
}

#[test]
fn what_cannot_be_started_is_promised_no_restart_where_its_rollout_goes_back() {
    let mut world = World::new(vec![service("user", 1, &[])]);
    world.up("user/0");
    let second = Service { revision: Revision::of(&"two".into()), ..service("user", 1, &[]) };
    assert_eq!(world.apply(vec![second], None).0, ["spawn user/1"]);
    // Both are there and answer, for now.
    let text = why(&mut world, "user");
    let (one, two) = (Revision::of(&"user".into()), Revision::of(&"two".into()));
    assert!(text.contains(&format!("0 of 1 ready at {two}, and 1 at what was before")), "{one}: {text}");
    let id = world.id("user/1");
    world.handle(Event::NotStarted { id, why: "no such file".into(), withheld: false });
    assert_eq!(
        world.recorded,
        [
            "failed user cannot be started: no such file",
            "backoff user could not be started: no such file, is not started again"
        ]
    );
    assert_eq!(world.row("user").rollout, "reverted");
}

#[test]
fn what_the_machine_has_no_room_for_is_tried_again_and_fails_no_rollout() {
    for policy in [RestartPolicy::Always, RestartPolicy::Never] {
        let mut service = service("user", 1, &[]);
        let mut start: Start = serde_json::from_value(service.start).unwrap();
        start.restart = Restart { policy, ..Restart::default() };
        service.start = serde_json::to_value(start).unwrap();
        let mut world = World::new(vec![service]);
        for _ in 0..4 {
            let id = world.id("user/0");
            world.handle(Event::NotStarted { id, why: "too many open files".into(), withheld: true });
            assert_eq!(world.recorded[0], "failed user cannot be started now: too many open files");
            let text = &world.recorded[1];
            assert!(
                text.starts_with(
                    "backoff user could not be started for now: too many open files, is tried again in"
                ),
                "{text}"
            );
            assert_eq!((world.row("user").rollout, world.row("user").restarts), ("progressing", 0));
            assert_eq!(world.after(60_000).handle(Event::Timer), ["spawn user/0"]);
        }
        world.up("user/0");
        assert_eq!(world.row("user").restarts, 0);
    }
}

#[test]
fn a_cron_job_that_was_stopped_is_run_by_nobody_until_it_is_started() {
    let schedule = Schedule::new("*/10 * * * * *", "UTC").unwrap();
    let tick = Service { cron: Some(Cron::new(schedule)), ..job("tick") };
    let mut world = World::new(vec![tick.clone()]);
    assert_eq!(world.after(10_000).handle(Event::Timer), ["spawn tick/0"]);
    world.up("tick/0");
    let stopped = Service { replicas: 0, ..tick.clone() };
    assert_eq!(world.apply(vec![stopped], None).0, ["stop tick/0 within 30s"]);
    world.gone("tick/0", false);
    let row = world.row("tick");
    assert_eq!((row.state, row.cron.unwrap().next_unix_ms), (ServiceState::Stopped, None));
    assert!(world.core.view_anew(world.now().time).is_ready(), "nothing is missing");
    assert_eq!(world.after(60_000).handle(Event::Timer), [""; 0]);
    let run = |world: &mut World| {
        let (service, cause) = ("tick".to_owned(), "run tick".to_owned());
        world.ask(|answer| Command::RunNow { service, cause, answer }).1
    };
    assert_eq!(run(&mut world).unwrap_err(), Refused::StoppedJob("tick".into()));
    assert!(why(&mut world, "tick").contains("nothing is due until `formic start tick`"));
    assert_eq!(world.apply(vec![tick], None).0, [""; 0]);
    assert_eq!(world.row("tick").state, ServiceState::Scheduled);
    assert_eq!(run(&mut world).unwrap().state, RunState::Waiting);
}
