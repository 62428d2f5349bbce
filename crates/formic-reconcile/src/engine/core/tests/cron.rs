//! Cron jobs in the engine: what is due runs, once, whatever clocks and engines do.

use formic_plan::{RunState, Timetable};
use formic_spec::{Concurrency, Cron, RestartPolicy, Schedule};

use super::*;

/// Due every ten seconds; tried again once.
fn report(concurrency: Concurrency) -> Service {
    let mut service = service("report", 1, &[]);
    let mut start: Start = serde_json::from_value(service.start).unwrap();
    start.restart = Restart { policy: RestartPolicy::OnFailure, retries: Some(1), ..Restart::default() };
    start.health.ready = Probe::None;
    service.start = serde_json::to_value(start).unwrap();
    service.job = Some(formic_spec::Job { retries: 1, deadline: None });
    let schedule = Schedule::new("*/10 * * * * *", "UTC").unwrap();
    service.cron = Some(Cron { concurrency, ..Cron::new(schedule) });
    service
}

fn due_at(pattern: &str, zone: &str) -> Service {
    let schedule = Schedule::new(pattern, zone).unwrap();
    Service { cron: Some(Cron::new(schedule)), ..report(Concurrency::Forbid) }
}

impl World {
    /// An engine that writes down what it decides, with one job.
    fn cron(service: Service) -> Self {
        let mut world = Self::new(Vec::new());
        let state = State::in_memory().unwrap();
        world.core.restore(&state, "boot", world.now()).unwrap();
        world.state = Some(state);
        world.apply(vec![service], None).1.unwrap();
        world
    }

    fn timer(&mut self, millis: u64) -> Vec<String> {
        self.after(millis).handle(Event::Timer)
    }

    /// The instance in a slot comes to its end.
    fn ends(&mut self, slot: &str, code: i32) -> Vec<String> {
        self.leader_exits(slot, code);
        self.gone(slot, false)
    }

    fn runs(&mut self) -> Timetable {
        self.ask(Command::Runs).1
    }

    /// The states of the runs that are remembered, oldest first.
    fn states(&mut self) -> Vec<&'static str> {
        self.runs().entry("report").unwrap().runs.iter().map(|run| run.state.as_str()).collect()
    }

    fn run_now(&mut self, name: &str) -> (Vec<String>, Result<formic_plan::Run, Refused>) {
        self.ask(|answer| Command::RunNow {
            service: name.into(),
            cause: format!("run {name} (uid 7)"),
            answer,
        })
    }

    fn why(&mut self, name: &str) -> String {
        self.ask(|answer| Command::Why(name.into(), answer)).1.unwrap()
    }
}

#[test]
fn what_is_due_runs_and_its_end_is_told_with_its_cause() {
    let mut world = World::cron(report(Concurrency::Forbid));
    let row = world.row("report");
    assert_eq!((row.state, row.wanted, row.instances.len()), (ServiceState::Scheduled, 0, 0));
    // 1 000 s after 1970 it was made; the next full ten are as far.
    assert_eq!(row.cron.unwrap().next_unix_ms, Some(1_010_000));
    assert_eq!(world.wake_at, Some(Time::from_millis(10_000)));
    assert!(world.core.view_anew(world.now().time).is_ready(), "nothing is missing");
    assert_eq!(world.timer(9_999), Vec::<String>::new());
    assert_eq!(world.timer(1), ["spawn report/0"]);
    assert_eq!(
        world.recorded,
        [
            "run report run 1 is due by its schedule, at 1970-01-01 00:16:50 UTC".to_owned(),
            format!(
                "start report report/0 starts as report/0 at {}: wanted",
                report(Concurrency::Forbid).revision
            ),
        ]
        .map(|line| line.replace("report report/0 starts", "report starts"))
    );
    world.up("report/0");
    assert_eq!(world.row("report").state, ServiceState::Running);
    world.after(1_500);
    assert!(world.why("report").ends_with("in 8s. Run 1 began 1s ago."), "{}", world.why("report"));
    world.ends("report/0", 0);
    assert_eq!(world.recorded.last().unwrap(), "run report run 1 succeeded");
    let row = world.row("report");
    let last = row.cron.unwrap().last.unwrap();
    assert_eq!((row.state, last.number, last.state.as_str()), (ServiceState::Scheduled, 1, "succeeded"));
    assert_eq!((last.began_unix_ms, last.ended_unix_ms), (Some(1_010_000), Some(1_011_500)));
    assert_eq!(
        world.why("report"),
        "report is scheduled. It is due next at 1970-01-01 00:17:00 UTC, in 8s. Run 1 succeeded 0s ago."
    );
    // A failure is tried again as often as the job says, and that is all one run.
    world.timer(8_500);
    world.up("report/0");
    world.ends("report/0", 3);
    assert_eq!(world.states(), ["succeeded", "running"]);
    let lines = world.timer(2_000);
    assert_eq!(lines, ["spawn report/0"]);
    world.up("report/0");
    world.ends("report/0", 3);
    assert_eq!(world.recorded.last().unwrap(), "run report run 2 failed: it exited with code 3");
    assert_eq!(world.timer(1_000), Vec::<String>::new(), "it is not tried a third time");
}

#[test]
fn a_run_that_is_due_while_one_runs_is_left_out_takes_its_place_or_runs_beside_it() {
    let mut world = World::cron(report(Concurrency::Forbid));
    world.timer(10_000);
    world.up("report/0");
    assert_eq!(world.timer(10_000), Vec::<String>::new());
    assert_eq!(world.recorded, ["run report run 2 is left out: another one runs"]);

    let mut world = World::cron(report(Concurrency::Replace));
    world.timer(10_000);
    world.up("report/0");
    assert_eq!(world.timer(10_000), ["stop report/0 within 30s"]);
    assert_eq!(world.states(), ["replaced", "waiting"]);
    let lines = world.gone("report/0", false);
    assert_eq!(lines.last().unwrap(), "spawn report/0", "it begins when the other one is gone");
    assert_eq!(world.states(), ["replaced", "running"]);

    let mut world = World::cron(report(Concurrency::Allow));
    world.timer(10_000);
    world.up("report/0");
    assert_eq!(world.timer(10_000), ["spawn report/1"]);
    world.up("report/1");
    assert_eq!((world.row("report").ready, world.states()), (2, vec!["running", "running"]));
    world.ends("report/0", 0);
    assert_eq!(world.states(), ["succeeded", "running"]);
}

#[test]
fn a_run_by_hand_is_a_run_and_what_is_no_job_has_none() {
    let mut world = World::cron(report(Concurrency::Forbid));
    world.apply(vec![report(Concurrency::Forbid), service("user", 1, &[])], None).1.unwrap();
    let (lines, run) = world.run_now("report");
    let run = run.unwrap();
    assert_eq!((lines, run.number, run.by_hand), (vec!["spawn report/0".to_owned()], 1, true));
    assert!(
        world
            .recorded
            .contains(&"run report run 1 is due; it was asked for by run report (uid 7)".to_owned())
    );
    world.up("report/0");
    let again = world.run_now("report").1.unwrap();
    assert_eq!(again.state, RunState::Overlapped);
    assert_eq!(world.run_now("user").1.unwrap_err(), Refused::NoCronJob("user".into()));
    assert_eq!(world.run_now("nobody").1.unwrap_err(), Refused::Unknown("nobody".into()));
    assert_eq!(world.restart("report").1.unwrap_err(), Refused::CronJob("report".into()));
    world.shut_down(false);
    assert_eq!(world.run_now("report").1.unwrap_err(), Refused::Stopping);
    let lines = world.timer(60_000);
    assert!(!lines.iter().any(|line| line.starts_with("spawn")), "nothing is due any more: {lines:?}");
}

#[test]
fn an_engine_that_dies_in_the_middle_of_a_run_makes_it_neither_twice_nor_never() {
    let mut world = World::cron(report(Concurrency::Forbid));
    world.timer(10_000);
    world.up("report/0");
    // It runs on, and ends under the next engine.
    world.after(2_000);
    assert_eq!(
        world.successor(&[("report/0", Fate::Running { pid: 7 })]),
        ["follow report/0", "probe report/0"].map(String::from)
    );
    assert_eq!(world.states(), ["running"]);
    world.ends("report/0", 0);
    assert_eq!(world.states(), ["succeeded"]);
    assert_eq!(world.successor(&[]), Vec::<String>::new());
    assert_eq!(world.states(), ["succeeded"], "what was had is not had again");

    // It was due, and the engine died before the program ran.
    assert_eq!(world.timer(8_000), ["spawn report/0"]);
    assert_eq!(world.successor(&[("report/0", Fate::NeverRan)]), ["spawn report/0"]);
    assert_eq!(world.states(), ["succeeded", "running"], "it is the same run");
    world.up("report/0");
    world.ends("report/0", 0);

    // Several were due while nobody was there: the last one is made up for.
    world.after(65_000);
    assert_eq!(world.successor(&[]), ["spawn report/0"]);
    assert_eq!(world.states(), ["succeeded", "succeeded", "running"]);
    world.up("report/0");

    // The machine is started anew, with a clock of its own: a run that this cut off is run again.
    let wall = world.now().unix_ms;
    world.boot = "another".into();
    world.millis += 3_000;
    assert_eq!(world.successor(&[]), ["spawn report/0"]);
    assert_eq!(world.states().last(), Some(&"running"));
    assert!(world.now().unix_ms > wall);
    world.up("report/0");
    world.ends("report/0", 0);
    assert_eq!(world.states(), ["succeeded", "succeeded", "succeeded"]);
}

#[test]
fn what_could_not_be_written_down_is_written_with_the_next_turn() {
    let mut world = World::cron(report(Concurrency::Forbid));
    world.millis += 10_000;
    let turn = world.core.handle([Event::Timer], world.now());
    // The disk is full: this turn is lost.
    world.core.unsaved(&turn.save.unwrap());
    world.timer(1);
    assert_eq!(world.state.as_ref().unwrap().timetable().unwrap(), world.core.timetable);
    assert_eq!(world.core.timetable.entries[0].last, 1);
}

#[test]
fn that_the_last_job_is_gone_is_written_with_the_next_turn_if_it_could_not_be() {
    let mut world = World::cron(report(Concurrency::Forbid));
    let change = Change { services: Vec::new(), tag: Value::Null, index: None, cause: "apply".into() };
    let (answer, _applied) = oneshot::channel();
    let turn = world.core.handle([Event::Command(Command::Change(change, answer))], world.now());
    // The disk is full: this turn is lost.
    world.core.unsaved(&turn.save.unwrap());
    world.timer(1);
    assert_eq!(world.state.as_ref().unwrap().timetable().unwrap(), world.core.timetable);
    assert!(world.core.timetable.entries.is_empty());
}

#[test]
fn who_waits_for_a_run_begins_after_it_also_when_the_job_is_stopped() {
    let web = |revision| ends::after("report", revision);
    let mut world = World::cron(report(Concurrency::Forbid));
    let lines = world.apply(vec![report(Concurrency::Forbid), web("one")], None).0;
    assert_eq!(lines, Vec::<String>::new());
    world.timer(10_000);
    world.up("report/0");
    let lines = world.ends("report/0", 0);
    assert_eq!(lines.last().unwrap(), "spawn web/0");
    world.up("web/0");
    let stopped = || Service { replicas: 0, ..report(Concurrency::Forbid) };
    world.apply(vec![stopped(), web("one")], None).1.unwrap();
    assert_eq!(world.apply(vec![stopped(), web("two")], None).0, ["spawn web/1"]);
}

#[test]
fn a_run_that_ends_while_nobody_knows_what_is_wanted_is_not_had_again() {
    let mut world = World::cron(report(Concurrency::Forbid));
    world.timer(10_000);
    world.up("report/0");
    world.core.distrust = Some("the state is older than it should be".into());
    world.ends("report/0", 0);
    assert_eq!(world.states(), ["running"], "how far it is is not said for now");
    assert_eq!(world.apply(vec![report(Concurrency::Forbid)], None).0, Vec::<String>::new());
    assert_eq!(world.states(), ["succeeded"]);
}

#[test]
fn an_hour_that_is_left_out_or_comes_twice_is_one_run() {
    let at = |text: &str| {
        let at: u64 = text.parse().unwrap();
        at - 1_000_000
    };
    // 2026-03-29 00:59 UTC, a minute before 03:00 CEST takes the place of 02:00 CET.
    let mut world = World::new(Vec::new());
    world.millis = at("1774745940000");
    world.apply(vec![due_at("30 2 * * *", "Europe/Berlin")], None).1.unwrap();
    assert_eq!(world.wake_at.unwrap().since(world.now().time).as_secs(), 60);
    assert_eq!(world.timer(60_000), ["spawn report/0"]);
    assert!(world.recorded[0].ends_with("at 2026-03-29 03:00:00 CEST"), "{:?}", world.recorded);
    world.up("report/0");
    world.ends("report/0", 0);
    assert_eq!(world.timer(3_600_000), Vec::<String>::new());

    // 2026-10-25 00:29 UTC: 02:30 comes in a minute, and an hour later again.
    let mut world = World::new(Vec::new());
    world.millis = at("1792888140000");
    world.apply(vec![due_at("30 2 * * *", "Europe/Berlin")], None).1.unwrap();
    assert_eq!(world.timer(60_000), ["spawn report/0"]);
    world.up("report/0");
    world.ends("report/0", 0);
    assert_eq!(world.timer(3_600_000), Vec::<String>::new(), "it was had");
    assert!(
        world.why("report").contains("due next at 2026-10-26 02:30:00 CET, in 1d"),
        "{}",
        world.why("report")
    );
}

#[test]
fn a_look_ahead_and_the_order_of_the_manifest_disturb_no_run() {
    let mut world = World::cron(report(Concurrency::Forbid));
    world.timer(10_000);
    world.up("report/0");
    let services = vec![report(Concurrency::Forbid), service("user", 1, &[])];
    let preview: Preview = world.ask(|answer| Command::Preview(services.clone(), answer)).1;
    assert_eq!(preview.plan.starts().collect::<Vec<_>>(), [("user", 0)]);
    assert_eq!(preview.plan.stops().count(), 0);
    assert_eq!(world.apply(services.clone(), None).0, ["spawn user/0"]);
    let again = world.apply(services, None).1.unwrap();
    assert!(!again.changed, "the order of the services makes no difference");
    // Taken out, its run stops; what was a job can be a service, and the other way round.
    assert_eq!(world.apply(vec![service("user", 1, &[])], None).0, ["stop report/0 within 30s"]);
    world.gone("report/0", false);
    let mut always = report(Concurrency::Forbid);
    (always.cron, always.job) = (None, None);
    assert_eq!(world.apply(vec![always], None).0[0], "spawn report/0");
    world.up("report/0");
    assert_eq!(world.apply(vec![report(Concurrency::Forbid)], None).0, ["stop report/0 within 30s"]);
    world.gone("report/0", false);
    assert_eq!(world.states(), Vec::<&str>::new());
    assert_eq!(world.timer(10_000), ["spawn report/0"]);
    assert_eq!(world.states(), ["running"]);
}
