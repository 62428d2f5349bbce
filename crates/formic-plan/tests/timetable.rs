//! Cron jobs: what is due, once, whatever clocks and engines do.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use formic_plan::{
    Action, Desired, Due, Instance, Observed, Outcome, RunState, Service, State, StopCause, Time, Timetable,
    plan,
};
use formic_spec::{
    Concurrency, Cron, Dependents, HumanDuration, Job, Restart, RestartPolicy, Revision, Schedule, Update,
};
use proptest::prelude::*;
use serde_json::{Value, json};

const MINUTE: u64 = 60_000;
/// A full minute of 2026.
const START: u64 = 1_767_225_600_000;

fn report(concurrency: Concurrency, number: u32) -> Service {
    let schedule = Schedule::new("* * * * *", "UTC").unwrap();
    let catch_up = HumanDuration::from_secs(150);
    Service {
        name: "report".into(),
        revision: Revision::of(&json!(number)),
        replicas: 1,
        process: None,
        depends_on: Vec::new(),
        conditions: BTreeMap::new(),
        dependents: Dependents::None,
        update: Update::default(),
        job: Some(Job { retries: 2, deadline: Some(HumanDuration::from_secs(3000)) }),
        cron: Some(Cron { concurrency, history: 3, catch_up, ..Cron::new(schedule) }),
        sets: None,
        completed: false,
        ready_within: HumanDuration::from_secs(60),
        grace: HumanDuration::from_secs(30),
        start: Value::Null,
    }
}

struct World {
    timetable: Timetable,
    observed: Observed,
    unix_ms: u64,
    now: Time,
    told: Vec<String>,
    happened: Vec<Due>,
    started: u32,
    generation: u64,
    /// The engine dies before it carries out the next plan.
    dies: bool,
}

impl World {
    fn new(concurrency: Concurrency) -> Self {
        let mut world = Self {
            timetable: Timetable::default(),
            observed: Observed::default(),
            unix_ms: START,
            now: Time::from_millis(7),
            told: Vec::new(),
            happened: Vec::new(),
            started: 0,
            generation: 0,
            dies: false,
        };
        world.want(report(concurrency, 1));
        world
    }

    fn want(&mut self, service: Service) -> &mut Self {
        self.generation += 1;
        let desired = Desired { generation: self.generation, services: vec![service] };
        self.timetable.apply(&desired, self.unix_ms);
        self
    }

    fn tick(&mut self) -> &mut Self {
        for _ in 0..20 {
            let tick = self.timetable.tick(&self.observed, self.now, self.unix_ms);
            let text = serde_json::to_string(&self.timetable).unwrap();
            self.timetable = serde_json::from_str(&text).unwrap();
            self.told.extend(tick.happened.iter().map(ToString::to_string));
            self.happened.extend(tick.happened.iter().cloned());
            let desired = Desired { generation: self.generation, services: tick.services };
            let plan = plan(&desired, &self.observed, self.now);
            if std::mem::take(&mut self.dies) {
                return self;
            }
            for action in &plan.actions {
                match action {
                    Action::Start { service, slot, .. } => {
                        self.started += 1;
                        let id = format!("i{}", self.started).into();
                        let previous = self.observed.slot(service, *slot);
                        assert!(!previous.is_some_and(Instance::is_live));
                        let wanted = desired.service(service).unwrap();
                        let mut new = Instance::begin(id, wanted, *slot, previous, self.now);
                        // Nothing is asked of a job but that it runs.
                        new.ready(self.now);
                        self.observed.instances.retain(|i| i.slot != *slot);
                        self.observed.instances.push(new);
                    }
                    Action::Stop { instance, cause, .. } => {
                        let found = self.observed.instances.iter_mut().find(|i| i.id == *instance).unwrap();
                        found.stopping(*cause, self.now);
                    }
                    Action::Kill { instance, .. } => {
                        let found = self.observed.instances.iter_mut().find(|i| i.id == *instance).unwrap();
                        found.exited(Outcome::Signal(9), &Restart::default(), 0.5, self.now);
                    }
                    _ => {}
                }
            }
            if plan.is_idle() && tick.happened.is_empty() {
                return self;
            }
        }
        panic!("it never comes to rest: {:#?} {:#?} {:?}", self.timetable, self.observed, self.told);
    }

    fn pass(&mut self, millis: u64) -> &mut Self {
        self.unix_ms += millis;
        self.now = self.now + Duration::from_millis(millis);
        self.tick()
    }

    /// Every live instance ends.
    fn end(&mut self, code: i32) -> &mut Self {
        let rule = Restart { policy: RestartPolicy::OnFailure, retries: Some(2), ..Restart::default() };
        for instance in &mut self.observed.instances {
            instance.exited(Outcome::Code(code), &rule, 0.5, self.now);
        }
        self.tick()
    }

    fn live(&self) -> usize {
        self.observed.instances.iter().filter(|i| i.is_live()).count()
    }

    fn runs(&self) -> Vec<u64> {
        self.timetable.entry("report").unwrap().runs.iter().map(|run| run.number).collect()
    }
}

#[test]
fn each_run_is_one_instance_and_the_last_are_remembered() {
    let mut world = World::new(Concurrency::Forbid);
    world.tick();
    assert_eq!(world.live(), 0, "nothing is due before it was asked for");
    for run in 1..=5 {
        world.pass(MINUTE);
        assert_eq!((world.live(), world.started), (1, run));
        world.pass(1_000).end(0);
        assert_eq!(world.live(), 0);
    }
    assert_eq!(world.runs(), [3, 4, 5]);
    assert_eq!(world.told[..3], ["report run 1 is due", "report run 1 begins", "report run 1 succeeded"]);
}

#[test]
fn a_run_that_is_due_while_one_runs_is_left_out_replaces_it_or_runs_beside_it() {
    let mut world = World::new(Concurrency::Forbid);
    world.pass(MINUTE).pass(MINUTE);
    assert_eq!((world.live(), world.started), (1, 1));
    assert_eq!(world.told.last().unwrap(), "report run 2 is left out: another one runs");

    let mut world = World::new(Concurrency::Allow);
    world.pass(MINUTE).pass(MINUTE);
    assert_eq!((world.live(), world.started), (2, 2));

    let mut world = World::new(Concurrency::Replace);
    world.pass(MINUTE).pass(MINUTE);
    assert_eq!((world.live(), world.started), (1, 1), "it begins when the other one is gone");
    let stopping = &world.observed.instances[0].state;
    assert!(matches!(stopping, State::Stopping { cause: StopCause::Replaced, .. }), "{stopping:?}");
    world.end(0);
    assert_eq!((world.live(), world.started), (1, 2));
    world.end(0);
    assert_eq!(world.told.last().unwrap(), "report run 2 succeeded");
}

#[test]
fn a_job_that_is_stopped_is_due_no_more_until_it_is_started() {
    let mut world = World::new(Concurrency::Forbid);
    world.pass(MINUTE);
    assert_eq!((world.live(), world.started), (1, 1));
    world.want(Service { replicas: 0, ..report(Concurrency::Forbid, 1) }).tick();
    assert_eq!(world.told.last().unwrap(), "report run 1 is stopped, as requested");
    let stopping = &world.observed.instances[0].state;
    assert!(matches!(stopping, State::Stopping { cause: StopCause::ScaledDown, .. }), "{stopping:?}");
    world.end(0).pass(MINUTE).pass(MINUTE + 1_000);
    let unix_ms = world.unix_ms;
    assert_eq!(world.timetable.run_now("report", unix_ms), []);
    let entry = world.timetable.entry("report").unwrap();
    assert_eq!((entry.next(unix_ms), world.started), (None, 1));
    assert!(entry.tell(unix_ms).starts_with("It is stopped: nothing is due until `formic start report`."));
    // What would have been due meanwhile is not made up for.
    world.want(report(Concurrency::Forbid, 1)).tick();
    assert_eq!(world.started, 1, "{:?}", world.told);
    world.pass(MINUTE);
    assert_eq!(world.started, 2);
}

#[test]
fn what_was_missed_is_made_up_for_once_and_not_too_late() {
    let mut world = World::new(Concurrency::Forbid);
    world.tick();
    // Three were due; the last one a few seconds ago.
    world.pass(3 * MINUTE + 5_000);
    assert_eq!(world.started, 1);
    world.end(0);
    let mut late = report(Concurrency::Forbid, 1);
    late.cron.as_mut().unwrap().schedule = Schedule::new("0 * * * *", "UTC").unwrap();
    let unix_ms = world.unix_ms;
    world.want(late).tick();
    assert!(
        world.timetable.entry("report").unwrap().decided_unix_ms == unix_ms,
        "moments of another schedule"
    );
    world.pass(60 * MINUTE);
    assert_eq!(world.started, 1);
    assert_eq!(world.told.last().unwrap(), "report run 2 is left out: it was due too long ago");
}

#[test]
fn a_clock_that_is_set_back_makes_nothing_due_twice() {
    let mut world = World::new(Concurrency::Forbid);
    world.pass(MINUTE).end(0).pass(MINUTE).end(0);
    assert_eq!(world.started, 2);
    world.unix_ms -= 2 * MINUTE + 500;
    world.tick().pass(1_000).pass(MINUTE).pass(MINUTE - 501);
    assert_eq!(world.started, 2, "these minutes were had");
    world.pass(2 * MINUTE);
    assert_eq!(world.started, 3);
}

#[test]
fn a_run_is_tried_as_often_as_its_job_says_and_for_as_long() {
    let mut world = World::new(Concurrency::Allow);
    world.pass(MINUTE).end(1).pass(1_000).end(1).pass(2_000);
    assert_eq!((world.live(), world.started), (1, 3));
    world.end(1);
    assert_eq!(world.told.last().unwrap(), "report run 1 failed: it exited with code 1");
    world.pass(30_000);
    assert_eq!(world.started, 3);

    let mut world = World::new(Concurrency::Forbid);
    world.pass(MINUTE).pass(2_999_999);
    assert!(!matches!(world.observed.instances[0].state, State::Stopping { .. }));
    world.pass(1).end(0);
    assert!(world.told.contains(&"report run 1 failed: it took too long".to_owned()), "{:?}", world.told);
    assert_eq!(world.live(), 0, "it is not tried again");
}

#[test]
fn a_run_keeps_what_it_was_started_with() {
    let mut world = World::new(Concurrency::Forbid);
    world.pass(MINUTE).want(report(Concurrency::Forbid, 2)).tick();
    assert_eq!((world.live(), world.started), (1, 1));
    assert_eq!(world.observed.instances[0].revision, Revision::of(&json!(1)));
    world.end(0).pass(MINUTE);
    assert_eq!(world.observed.instances[0].revision, Revision::of(&json!(2)));
}

#[test]
fn a_run_by_hand_is_a_run() {
    let mut world = World::new(Concurrency::Forbid);
    let unix_ms = world.unix_ms;
    assert_eq!(world.timetable.run_now("report", unix_ms)[0].to_string(), "report run 1 is due");
    assert!(world.timetable.run_now("reports", unix_ms).is_empty());
    world.tick();
    assert_eq!(world.live(), 1);
    let refused = world.timetable.run_now("report", unix_ms);
    assert_eq!(refused[0].run.state, RunState::Overlapped);
}

#[test]
fn without_a_timetable_a_cron_job_never_runs() {
    let desired = Desired { generation: 1, services: vec![report(Concurrency::Allow, 1)] };
    assert!(plan(&desired, &Observed::default(), Time::default()).actions.is_empty());
}

#[derive(Debug, Clone)]
enum Event {
    Pass(u64),
    Set(i64),
    End(i32),
    Die,
    Reboot,
    Want(u32),
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        6 => (0u64..200_000).prop_map(Event::Pass),
        1 => (-400_000i64..400_000).prop_map(Event::Set),
        4 => prop::sample::select(vec![0, 0, 1, 78]).prop_map(Event::End),
        2 => Just(Event::Die),
        1 => Just(Event::Reboot),
        1 => (1u32..3).prop_map(Event::Want),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 120, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn nothing_is_due_twice_and_nothing_overlaps_that_may_not(
        concurrency in prop::sample::select(vec![Concurrency::Forbid, Concurrency::Replace, Concurrency::Allow]),
        events in prop::collection::vec(event(), 0..60),
    ) {
        let mut world = World::new(concurrency);
        for event in events {
            match event {
                Event::Pass(millis) => { world.pass(millis); }
                Event::Set(millis) => {
                    world.unix_ms = world.unix_ms.saturating_add_signed(millis);
                    world.tick();
                }
                Event::End(code) => { world.end(code); }
                Event::Die => { world.dies = true; world.tick(); }
                Event::Reboot => { world.observed.instances.clear(); world.tick(); }
                Event::Want(number) => { world.want(report(concurrency, number)).tick(); }
            }
            if concurrency != Concurrency::Allow {
                prop_assert!(world.live() <= 1);
            }
            let entry = world.timetable.entry("report").unwrap();
            prop_assert!(entry.runs.iter().filter(|run| !run.is_open()).count() <= 3);
            prop_assert!(entry.runs.is_sorted_by_key(|run| run.number));
        }
        let begun = world.happened.iter().filter(|due| matches!(due.run.state, RunState::Waiting | RunState::Overlapped | RunState::Missed));
        let moments: Vec<u64> = begun.map(|due| due.run.due_unix_ms).collect();
        prop_assert_eq!(moments.iter().collect::<BTreeSet<_>>().len(), moments.len(), "each moment once");
        let numbers: BTreeSet<u64> = world.happened.iter().map(|due| due.run.number).collect();
        prop_assert!(numbers.iter().copied().eq(1..=numbers.len() as u64), "no number is left out");
    }
}
