//! A small world in which anything happens in any order, and what must hold in it at every moment.

#![allow(clippy::unwrap_used)]

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use formic_plan::{
    Action, Desired, End, Index, Instance, Observed, Outcome, Places, Plan, Service, State, StopCause, Time,
    plan, plan_at, status, status_at,
};
use formic_spec::{HumanDuration, Restart, RestartPolicy, Revision};
use proptest::prelude::*;
use serde_json::{Value, json};

/// Something that happens; numbers choose among what there is.
#[derive(Debug, Clone)]
enum Event {
    Ready(usize),
    Unready(usize),
    Exit(usize, i32),
    Pass(u64),
    Want(Vec<Wanted>),
}

/// Presence, replicas, revision and dependencies of one service.
type Wanted = (bool, u32, u32, Vec<bool>);

#[derive(Debug)]
struct World {
    desired: Desired,
    observed: Observed,
    now: Time,
    ids: u32,
    restarts: BTreeMap<(String, u32), u32>,
}

fn want(generation: u64, wanted: &[Wanted]) -> Desired {
    let name = |n: usize| format!("s{n}");
    let services =
        wanted.iter().enumerate().filter(|(_, w)| w.0).map(|(n, (_, replicas, revision, needs))| Service {
            name: name(n),
            revision: Revision::of(&json!(revision)),
            replicas: *replicas,
            // Towards lower numbers, and only what is there: as a manifest is.
            depends_on: (0..n).filter(|&m| needs[m] && wanted[m].0).map(name).collect(),
            process: None,
            conditions: Default::default(),
            dependents: Default::default(),
            update: Default::default(),
            job: None,
            cron: None,
            sets: None,
            completed: false,
            ready_within: HumanDuration::from_secs(60),
            grace: HumanDuration::from_secs(30),
            start: Value::Null,
        });
    Desired { generation, services: services.collect() }
}

impl World {
    fn rule(&self, n: usize) -> Restart {
        let policies =
            [RestartPolicy::Always, RestartPolicy::Always, RestartPolicy::OnFailure, RestartPolicy::Never];
        Restart { policy: policies[n % policies.len()], ..Restart::default() }
    }

    fn pick(&mut self, n: usize) -> Option<&mut Instance> {
        let count = self.observed.instances.len();
        if count == 0 { None } else { self.observed.instances.get_mut(n % count) }
    }

    fn happen(&mut self, event: &Event) {
        let now = self.now;
        match event {
            Event::Ready(n) => self.pick(*n).into_iter().for_each(|instance| instance.ready(now)),
            Event::Unready(n) => self.pick(*n).into_iter().for_each(|instance| instance.unready(now)),
            Event::Exit(n, code) => {
                let rule = self.rule(*n);
                let unit = (*n % 100) as f64 / 100.0;
                if let Some(instance) = self.pick(*n) {
                    instance.exited(Outcome::Code(*code), &rule, unit, now);
                }
            }
            Event::Pass(millis) => self.now = now + Duration::from_millis(*millis),
            Event::Want(wanted) => self.desired = want(self.desired.generation + 1, wanted),
        }
    }

    /// Plans and carries out until nothing is left to do, checking everything on the way.
    fn settle(&mut self) -> Result<(), TestCaseError> {
        for _ in 0..50 {
            let plan = plan(&self.desired, &self.observed, self.now);
            self.check(&plan)?;
            if plan.is_idle() {
                return Ok(());
            }
            self.carry_out(&plan)?;
        }
        prop_assert!(false, "the plan is never done");
        Ok(())
    }

    fn carry_out(&mut self, plan: &Plan) -> Result<(), TestCaseError> {
        let now = self.now;
        for action in &plan.actions {
            match action {
                Action::Kill { instance, .. } => {
                    let found = self.observed.instances.iter_mut().find(|i| i.id == *instance).unwrap();
                    found.exited(Outcome::Signal(9), &Restart::default(), 0.5, now);
                }
                Action::Stop { instance, cause, .. } => {
                    let found = self.observed.instances.iter_mut().find(|i| i.id == *instance).unwrap();
                    found.stopping(*cause, now);
                    prop_assert!(matches!(found.state, State::Stopping { .. }), "it obeys");
                }
                Action::Start { service, slot, .. } => {
                    self.ids += 1;
                    let previous = self.observed.slot(service, *slot);
                    let wanted = self.desired.service(service).unwrap();
                    let new = Instance::begin(format!("i{}", self.ids).into(), wanted, *slot, previous, now);
                    self.observed.instances.retain(|i| (&i.service, i.slot) != (service, *slot));
                    self.observed.instances.push(new);
                }
                _ => {}
            }
        }
        Ok(())
    }

    fn check(&mut self, plan: &Plan) -> Result<(), TestCaseError> {
        let instances = &self.observed.instances;
        let live = |service: &str, slot: u32| {
            instances.iter().filter(|i| i.service == service && i.slot == slot && i.is_live()).count()
        };
        let stopped: BTreeSet<_> = plan.stops().collect();
        let replicas = |name: &str| self.desired.service(name).map_or(0, |service| service.replicas);
        let mut started = BTreeSet::new();
        let mut replaced: BTreeMap<&str, usize> = BTreeMap::new();

        for instance in instances {
            prop_assert!(live(&instance.service, instance.slot) <= 1, "one live instance per slot");
            let before = self.restarts.entry((instance.service.clone(), instance.slot)).or_default();
            prop_assert!(instance.history.restarts >= *before, "restart counters never fall");
            *before = instance.history.restarts;
        }
        for action in &plan.actions {
            match action {
                Action::Start { service, slot, revision, .. } => {
                    let wanted = self.desired.service(service).unwrap();
                    prop_assert!(*slot < wanted.replicas, "no start for what is not wanted");
                    prop_assert_eq!(revision, &wanted.revision);
                    prop_assert_eq!(live(service, *slot), 0, "no start in a slot that is taken");
                    prop_assert!(started.insert((service, slot)), "no slot is started twice");
                    let last = self.observed.slot(service, *slot).filter(|last| last.revision == *revision);
                    if let Some(State::Backoff { until, .. }) = last.map(|last| &last.state) {
                        prop_assert!(*until <= self.now, "back-off is kept");
                    }
                    let worked = last.is_some_and(|last| last.history.was_ready);
                    let answered = |name: &String| {
                        instances
                            .iter()
                            .any(|i| i.service == *name && i.is_ready() && !stopped.contains(&i.id))
                    };
                    prop_assert!(
                        worked || wanted.depends_on.iter().all(answered),
                        "dependencies are ready first"
                    );
                }
                Action::Stop { instance, service, slot, cause, .. } => {
                    let found = instances.iter().find(|i| i.id == *instance).unwrap();
                    prop_assert!(
                        found.is_live() && !matches!(found.state, State::Stopping { .. }),
                        "told once"
                    );
                    if replicas(service) == 0 {
                        let dependant = instances.iter().find(|i| {
                            i.is_live() && replicas(&i.service) == 0 && i.depends_on.contains(service)
                        });
                        prop_assert!(dependant.is_none(), "dependants that leave are gone first");
                    } else if *slot < replicas(service) {
                        prop_assert!(matches!(cause, StopCause::Replaced | StopCause::NotReady));
                        if found.is_ready() {
                            *replaced.entry(service.as_str()).or_default() += 1;
                            let others = instances.iter().filter(|i| {
                                i.service == *service
                                    && i.slot < replicas(service)
                                    && i.id != *instance
                                    && i.is_ready()
                            });
                            prop_assert_eq!(
                                others.count() as u32 + 1,
                                replicas(service),
                                "all others are ready"
                            );
                        }
                    }
                }
                Action::Kill { instance, .. } => {
                    let found = instances.iter().find(|i| i.id == *instance).unwrap();
                    let State::Stopping { deadline, .. } = found.state else {
                        return Err(TestCaseError::fail("only what was asked to stop is killed"));
                    };
                    prop_assert!(deadline <= self.now, "it has its time");
                }
                _ => {}
            }
        }
        prop_assert!(replaced.values().all(|n| *n <= 1), "one at a time");
        if let Some(wake) = plan.wake_at {
            prop_assert!(wake > self.now, "it wakes later, not at once");
        }

        // The plan depends on what there is, not on how it is listed.
        let mut reversed = self.observed.clone();
        reversed.instances.reverse();
        prop_assert_eq!(&formic_plan::plan(&self.desired, &reversed, self.now), plan);
        // Nor on who has sorted it: whoever keeps where each stands gets the same plan, and the same table.
        let index = Index::new(&self.observed);
        let places = Places::by(&index, &self.observed);
        prop_assert_eq!(&plan_at(&self.desired, &places, self.now), plan);
        let table = status(&self.desired, &self.observed, self.now);
        prop_assert_eq!(status_at(&self.desired, &places, self.now), table);
        for instance in instances {
            let (service, slot) = (&instance.service, instance.slot);
            let held = index.slot(&self.observed, service, slot).map(|at| &instances[at]);
            prop_assert_eq!(held, self.observed.slot(service, slot));
        }
        // One more ready instance takes no start away, unless it lets another be replaced that the start
        // needs.
        for n in 0..instances.len() {
            let mut better = self.observed.clone();
            better.instances[n].ready(self.now);
            let more_plan = formic_plan::plan(&self.desired, &better, self.now);
            let more: BTreeSet<_> = more_plan.starts().collect();
            let replaced: BTreeSet<&str> = more_plan
                .actions
                .iter()
                .filter_map(|action| match action {
                    Action::Stop { service, cause: StopCause::Replaced, .. } => Some(service.as_str()),
                    _ => None,
                })
                .collect();
            for start in plan.starts() {
                let needs = &self.desired.service(start.0).unwrap().depends_on;
                let waits = needs.iter().any(|name| replaced.contains(name.as_str()));
                prop_assert!(waits || more.contains(&start), "readiness only helps: {plan}");
            }
        }
        for row in status(&self.desired, &self.observed, self.now) {
            let done = self.observed.instances.iter();
            let done = done.filter(|i| i.service == row.service && i.slot < row.replicas && i.is_completed());
            prop_assert!(row.ready <= row.live + done.count() as u32);
        }
        Ok(())
    }

    /// From now on all goes well. The desired must come true.
    fn heal(&mut self) -> Result<(), TestCaseError> {
        for _ in 0..200 {
            // What had given up is taken away, as a restart by hand does.
            self.observed
                .instances
                .retain(|i| !matches!(i.state, State::Exited { end: End::Failed | End::Completed, .. }));
            self.restarts.clear();
            self.settle()?;
            let now = self.now;
            let mut changed = false;
            for instance in &mut self.observed.instances {
                match instance.state {
                    State::Starting { .. } | State::Unready { .. } => instance.ready(now),
                    State::Stopping { .. } => {
                        instance.exited(Outcome::Code(0), &Restart::default(), 0.5, now)
                    }
                    _ => continue,
                }
                changed = true;
            }
            if changed {
                continue;
            }
            match plan(&self.desired, &self.observed, self.now).wake_at {
                Some(wake) => self.now = wake,
                None => break,
            }
        }
        let plan = plan(&self.desired, &self.observed, self.now);
        prop_assert!(plan.actions.is_empty() && plan.wake_at.is_none(), "{plan}");
        let wanted: BTreeSet<(String, u32, Revision)> = self
            .desired
            .services
            .iter()
            .flat_map(|s| (0..s.replicas).map(|slot| (s.name.clone(), slot, s.revision.clone())))
            .collect();
        let live: BTreeSet<(String, u32, Revision)> = self
            .observed
            .instances
            .iter()
            .filter(|i| i.is_live())
            .map(|i| (i.service.clone(), i.slot, i.revision.clone()))
            .collect();
        prop_assert_eq!(wanted, live);
        Ok(())
    }
}

fn wanted(replicas: std::ops::RangeInclusive<u32>) -> impl Strategy<Value = Vec<Wanted>> {
    let one = (prop::bool::weighted(0.85), replicas, 1u32..=2, prop::collection::vec(any::<bool>(), 4));
    prop::collection::vec(one, 4)
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        6 => any::<usize>().prop_map(Event::Ready),
        1 => any::<usize>().prop_map(Event::Unready),
        3 => (any::<usize>(), prop::sample::select(vec![0, 1, 1, 1, 78])).prop_map(|(n, code)| Event::Exit(n, code)),
        3 => prop_oneof![0u64..500, 0u64..70_000].prop_map(Event::Pass),
        1 => wanted(0..=3).prop_map(Event::Want),
        1 => Just(Event::Want(vec![(false, 0, 1, vec![false; 4]); 4])),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn the_rules_hold_whatever_happens_and_it_ends_well(
        first in wanted(1..=3),
        events in prop::collection::vec(event(), 0..60),
        // The last wish needs what it depends on to run at all.
        last in wanted(1..=3),
    ) {
        let mut world = World {
            desired: want(1, &first),
            observed: Observed::default(),
            now: Time::from_millis(0),
            ids: 0,
            restarts: BTreeMap::new(),
        };
        world.settle()?;
        for event in &events {
            world.happen(event);
            world.settle()?;
        }
        world.happen(&Event::Want(last));
        world.heal()?;
    }

    /// Even from states that no executor of ours would make: many in one slot, any state, circles.
    #[test]
    fn no_state_is_a_dead_end(
        desired in wanted(1..=3),
        found in prop::collection::vec((0usize..5, 0u32..4, 1u32..=2, 0u8..6, prop::collection::vec(0usize..5, 0..3)), 0..20),
    ) {
        let now = Time::from_millis(1_000_000);
        let instances = found.into_iter().enumerate().map(|(n, (service, slot, revision, state, needs))| {
            let service = Service {
                name: format!("s{service}"),
                revision: Revision::of(&json!(revision)),
                replicas: 1,
                depends_on: needs.into_iter().map(|n| format!("s{n}")).collect(),
                process: None,
                conditions: Default::default(),
                dependents: Default::default(),
                update: Default::default(),
                job: None,
                cron: None,
                sets: None,
                completed: false,
                ready_within: HumanDuration::from_secs(60),
                grace: HumanDuration::from_secs(30),
                start: Value::Null,
            };
            let mut instance = Instance::begin(format!("f{n:02}").into(), &service, slot, None, now);
            if state > 0 { instance.ready(now); }
            if state == 2 { instance.unready(now); }
            if state == 3 { instance.stopping(StopCause::Requested, now); }
            if state >= 4 { instance.exited(Outcome::Code(1), &Restart::default(), 0.5, now); }
            if state == 5 { instance.history.crash_looping = true; }
            instance
        });
        let mut observed = Observed { instances: instances.collect() };
        let desired = want(1, &desired);
        let (mut now, mut ids) = (now, 0);
        for _ in 0..300 {
            let plan = plan(&desired, &observed, now);
            // Whoever keeps where each stands gets the same, also where several are in one slot.
            let index = Index::new(&observed);
            let places = Places::by(&index, &observed);
            prop_assert_eq!(&plan_at(&desired, &places, now), &plan);
            prop_assert_eq!(status_at(&desired, &places, now), status(&desired, &observed, now));
            for instance in &observed.instances {
                let held = index.slot(&observed, &instance.service, instance.slot);
                let held = held.map(|at| &observed.instances[at]);
                prop_assert_eq!(held, observed.slot(&instance.service, instance.slot));
            }
            for action in &plan.actions {
                match action {
                    Action::Start { service, slot, .. } => {
                        prop_assert!(!observed.slot(service, *slot).is_some_and(Instance::is_live));
                        ids += 1;
                        let wanted = desired.service(service).unwrap();
                        let new = Instance::begin(format!("i{ids}").into(), wanted, *slot, observed.slot(service, *slot), now);
                        observed.instances.retain(|i| (&i.service, i.slot) != (service, *slot));
                        observed.instances.push(new);
                    }
                    Action::Stop { instance, cause, .. } => {
                        observed.instances.iter_mut().find(|i| i.id == *instance).unwrap().stopping(*cause, now);
                    }
                    _ => {}
                }
            }
            for instance in &mut observed.instances {
                match instance.state {
                    State::Starting { .. } | State::Unready { .. } => instance.ready(now),
                    State::Stopping { .. } => instance.exited(Outcome::Code(0), &Restart::default(), 0.5, now),
                    _ => {}
                }
            }
            if let Some(wake) = plan.wake_at { now = wake; }
        }
        let plan = plan(&desired, &observed, now);
        prop_assert!(plan.actions.is_empty(), "{plan}");
        let wanted: u32 = desired.services.iter().map(|s| s.replicas).sum();
        prop_assert_eq!(observed.instances.iter().filter(|i| i.is_ready()).count() as u32, wanted);
    }
}
