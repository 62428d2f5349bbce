//! A world in which instances do what the test says, and the executor what the plan says.

use std::collections::BTreeMap;
use std::time::Duration;

use formic_plan::{
    Action, Change, Decision, Desired, Fleet, Instance, Observed, Outcome, Phase, Role, Service, State, Time,
    plan,
};
use formic_spec::{HumanDuration, Restart, Revision, Update};
use serde_json::{Value, json};

pub(crate) fn revision(number: u32) -> Revision {
    Revision::of(&json!(number))
}

pub(crate) fn service(name: &str, number: u32, replicas: u32) -> Service {
    Service {
        name: name.into(),
        revision: revision(number),
        replicas,
        process: Some(revision(number)),
        depends_on: Vec::new(),
        conditions: BTreeMap::new(),
        dependents: Default::default(),
        update: Update::default(),
        job: None,
        cron: None,
        sets: None,
        completed: false,
        ready_within: HumanDuration::from_secs(600),
        grace: HumanDuration::from_secs(3600),
        start: Value::Null,
    }
}

pub(crate) struct World {
    pub(crate) fleet: Fleet,
    pub(crate) wanted: Desired,
    pub(crate) desired: Desired,
    pub(crate) observed: Observed,
    pub(crate) now: Time,
    pub(crate) decisions: Vec<Decision>,
    pub(crate) changes: Vec<(String, Change)>,
    pub(crate) started: u32,
    pub(crate) adjusted: u32,
}

impl World {
    pub(crate) fn new(services: Vec<Service>) -> Self {
        let mut world = Self {
            fleet: Fleet::default(),
            wanted: Desired::nothing(0),
            desired: Desired::nothing(0),
            observed: Observed::default(),
            now: Time::from_millis(1_000),
            decisions: Vec::new(),
            changes: Vec::new(),
            started: 0,
            adjusted: 0,
        };
        world.want_all(services);
        world
    }

    /// Everything of the first rollout is done.
    pub(crate) fn running(services: Vec<Service>) -> Self {
        let mut world = Self::new(services);
        for _ in 0..10 {
            world.tick().ready_all();
        }
        world.pass(20_000).tick();
        assert!(world.fleet.deployments.iter().all(|d| matches!(d.rollout.phase, Phase::Succeeded { .. })));
        world
    }

    pub(crate) fn want(&mut self, service: Service) -> &mut Self {
        self.want_all(vec![service])
    }

    pub(crate) fn want_all(&mut self, services: Vec<Service>) -> &mut Self {
        self.wanted = Desired { generation: self.fleet.generation + 1, services };
        let applied = self.fleet.apply(&self.wanted, self.now).unwrap();
        self.changes = applied.changes;
        self.decisions.extend(applied.decisions);
        self
    }

    /// Advances, plans and carries out until nothing is left to do.
    pub(crate) fn tick(&mut self) -> &mut Self {
        for _ in 0..100 {
            let advance = self.fleet.advance(&self.observed, self.now);
            self.decisions.extend(advance.decisions);
            self.desired = advance.desired;
            let plan = plan(&self.desired, &self.observed, self.now);
            self.carry_out(&plan);
            if plan.is_idle() && !advance.changed {
                return self;
            }
        }
        panic!("it never comes to rest");
    }

    pub(crate) fn carry_out(&mut self, plan: &formic_plan::Plan) {
        let now = self.now;
        for action in &plan.actions {
            match action {
                Action::Kill { instance, .. } => {
                    self.instance(instance.as_str()).exited(
                        Outcome::Signal(9),
                        &Restart::default(),
                        0.5,
                        now,
                    );
                }
                Action::Stop { instance, cause, .. } => {
                    self.instance(instance.as_str()).stopping(*cause, now)
                }
                Action::Start { service, slot, .. } => {
                    self.started += 1;
                    let previous = self.observed.slot(service, *slot);
                    let wanted = self.desired.service(service).unwrap();
                    let id = format!("i{}", self.started);
                    let new = Instance::begin(id.into(), wanted, *slot, previous, now);
                    self.observed.instances.retain(|i| (&i.service, i.slot) != (service, *slot));
                    self.observed.instances.push(new);
                }
                Action::Adjust { instance, service, .. } => {
                    self.adjusted += 1;
                    let wanted = self.desired.service(service).unwrap().clone();
                    self.instance(instance.as_str()).adjusted(&wanted);
                }
                _ => {}
            }
        }
    }

    fn instance(&mut self, id: &str) -> &mut Instance {
        self.observed.instances.iter_mut().find(|instance| instance.id.as_str() == id).unwrap()
    }

    pub(crate) fn pass(&mut self, millis: u64) -> &mut Self {
        self.now = self.now + Duration::from_millis(millis);
        self
    }

    pub(crate) fn ready_all(&mut self) -> &mut Self {
        let now = self.now;
        self.observed.instances.iter_mut().for_each(|instance| instance.ready(now));
        self
    }

    /// The instances of the last rollout do not answer any more.
    pub(crate) fn unready_new(&mut self) -> &mut Self {
        let now = self.now;
        let last = self.fleet.rollouts;
        let own = self.observed.instances.iter_mut().filter(|instance| instance.rollout == last);
        own.for_each(|instance| instance.unready(now));
        self
    }

    /// The newest live instance ends.
    pub(crate) fn exit_new(&mut self, outcome: Outcome) -> &mut Self {
        let now = self.now;
        let live = self.observed.instances.iter_mut().filter(|i| i.is_live());
        let newest = live.max_by_key(|i| (i.rollout, i.started)).unwrap();
        newest.exited(outcome, &Restart::default(), 0.5, now);
        self
    }

    pub(crate) fn exit_of(&mut self, service: &str, outcome: Outcome) -> &mut Self {
        let now = self.now;
        let mut own = self.observed.instances.iter_mut().filter(|i| i.service == service && i.is_live());
        own.next().unwrap().exited(outcome, &Restart::default(), 0.5, now);
        self
    }

    /// The live instance of a service ends, under a rule of its own.
    pub(crate) fn exit_under(&mut self, service: &str, code: i32, rule: &Restart) -> &mut Self {
        let now = self.now;
        let mut own = self.observed.instances.iter_mut().filter(|i| i.service == service && i.is_live());
        own.next().unwrap().exited(Outcome::Code(code), rule, 0.5, now);
        self
    }

    /// What was told to stop is gone.
    pub(crate) fn gone_all(&mut self) -> &mut Self {
        let now = self.now;
        for instance in &mut self.observed.instances {
            if matches!(instance.state, State::Stopping { .. }) {
                instance.exited(Outcome::Code(0), &Restart::default(), 0.5, now);
            }
        }
        self
    }

    fn own(&self, service: &str) -> impl Iterator<Item = &Instance> {
        self.observed.instances.iter().filter(move |instance| instance.service == service)
    }

    /// Slot and revision of every live instance that was not told to stop.
    pub(crate) fn live(&self, service: &str) -> Vec<(u32, u32)> {
        let live = self.own(service).filter(|i| i.is_live() && !matches!(i.state, State::Stopping { .. }));
        let mut live: Vec<_> = live.map(|i| (i.slot, number(&i.revision))).collect();
        live.sort_unstable();
        live
    }

    pub(crate) fn count(&self, service: &str, number: u32) -> usize {
        self.live(service).iter().filter(|(_, revision)| *revision == number).count()
    }

    pub(crate) fn stopping(&self, service: &str) -> usize {
        self.own(service).filter(|i| matches!(i.state, State::Stopping { .. })).count()
    }

    /// The revisions that get calls, one for each ready instance.
    pub(crate) fn serving(&self, service: &str) -> Vec<u32> {
        let wanted = self.desired.service(service).unwrap();
        let mut serving: Vec<u32> = self
            .own(service)
            .filter(|i| i.is_ready() && wanted.at(i.slot).is_some_and(|t| t.role == Role::Serving))
            .map(|i| number(&i.revision))
            .collect();
        serving.sort_unstable();
        serving
    }

    pub(crate) fn roles(&self, service: &str) -> Vec<Role> {
        let wanted = self.desired.service(service).unwrap();
        self.live(service).iter().map(|(slot, _)| wanted.at(*slot).unwrap().role).collect()
    }

    pub(crate) fn phase(&self, service: &str) -> Phase {
        self.fleet.deployment(service).unwrap().rollout.phase.clone()
    }

    /// The decisions as text, with revisions as short names.
    pub(crate) fn log(&self) -> Vec<String> {
        let short = |decision: &Decision| {
            (1..10).fold(decision.to_string(), |text, n| text.replace(revision(n).short(), &format!("r{n}")))
        };
        self.decisions.iter().map(short).collect()
    }
}

/// Which of the small numbers a revision is made of; 0 for any other.
pub(crate) fn number(of: &Revision) -> u32 {
    (1..10).find(|n| revision(*n) == *of).unwrap_or_default()
}
