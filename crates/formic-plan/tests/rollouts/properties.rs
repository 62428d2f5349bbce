//! Anything happens in any order; what must hold at every moment holds.

use std::collections::{BTreeMap, BTreeSet};

use formic_plan::{
    Action, Desired, End, Fleet, Instance, Outcome, Phase, Plan, Role, Service, State, StopCause, Time, plan,
};
use formic_spec::{Condition, Dependents, Restart, RestartPolicy, Share, Strategy as Way, Update};
use proptest::prelude::*;

use crate::world::{World, revision, service};

/// Something that happens; numbers choose among what there is.
#[derive(Debug, Clone)]
enum Event {
    Ready(usize),
    AllReady,
    Unready(usize),
    Exit(usize, i32),
    NotStarted(usize),
    AllGone,
    Pass(u64),
    Want(Vec<Wanted>),
    Scale(usize, u32),
    Restart(usize),
    Pause(usize),
    Resume(usize),
    /// The engine dies after it wrote the fleet down and before it carries out the plan.
    Crash,
}

/// Presence, replicas, process, limits and whether it depends on the one before.
type Wanted = (bool, u32, u32, u32, bool);

/// What does not change in a run: strategy, surge and so on, by service.
#[derive(Debug, Clone)]
struct Setting {
    updates: Vec<Update>,
    rest: Vec<bool>,
}

struct Run {
    world: World,
    setting: Setting,
    restarts: BTreeMap<(String, u32), u32>,
    serving: BTreeMap<String, BTreeSet<String>>,
    asked: u64,
}

fn want(setting: &Setting, wanted: &[Wanted]) -> Vec<Service> {
    let name = |n: usize| format!("s{n}");
    let build = |(n, (_, replicas, process, limits, needs)): (usize, &Wanted)| {
        let mut service = service(&name(n), *process, *replicas);
        service.revision = formic_spec::Revision::of(&serde_json::json!([process, limits]));
        service.process = Some(revision(*process));
        service.update = setting.updates[n].clone();
        if setting.rest[n] {
            service.dependents = Dependents::Rest;
        }
        if *needs && n > 0 && wanted[n - 1].0 {
            service.depends_on = vec![name(n - 1)];
            if *limits == 2 {
                service.conditions.insert(name(n - 1), Condition::Started);
            }
        }
        service
    };
    wanted.iter().enumerate().filter(|(_, w)| w.0).map(build).collect()
}

impl Run {
    fn rule(n: usize) -> Restart {
        let policies = [RestartPolicy::Always, RestartPolicy::Always, RestartPolicy::OnFailure];
        Restart { policy: policies[n % policies.len()], ..Restart::default() }
    }

    fn pick(&mut self, n: usize) -> Option<&mut Instance> {
        let count = self.world.observed.instances.len();
        if count == 0 { None } else { self.world.observed.instances.get_mut(n % count) }
    }

    fn name(&self, n: usize) -> String {
        let deployments = &self.world.fleet.deployments;
        if deployments.is_empty() {
            return String::new();
        }
        deployments[n % deployments.len()].wanted.service.name.clone()
    }

    fn happen(&mut self, event: &Event) -> Result<(), TestCaseError> {
        let now = self.world.now;
        match event {
            Event::Ready(n) => self.pick(*n).into_iter().for_each(|i| i.ready(now)),
            Event::AllReady => {
                self.world.ready_all();
            }
            Event::Unready(n) => self.pick(*n).into_iter().for_each(|i| i.unready(now)),
            Event::Exit(n, code) => {
                let unit = (*n % 100) as f64 / 100.0;
                let (rule, code) = (Self::rule(*n), *code);
                self.pick(*n).into_iter().for_each(|i| i.exited(Outcome::Code(code), &rule, unit, now));
            }
            Event::NotStarted(n) => {
                let outcome = Outcome::NotStarted("no such file".into());
                if let Some(instance) = self.pick(*n)
                    && matches!(instance.state, State::Starting { .. })
                {
                    instance.exited(outcome, &Restart::default(), 0.5, now);
                }
            }
            Event::AllGone => {
                self.world.gone_all();
            }
            Event::Pass(millis) => {
                self.world.pass(*millis);
            }
            Event::Want(wanted) => {
                let services = want(&self.setting, wanted);
                let before = self.world.fleet.rollouts;
                self.world.want_all(services);
                self.asked += self.world.fleet.rollouts - before;
            }
            Event::Scale(n, replicas) => {
                let name = self.name(*n);
                self.world.fleet.scale(&name, *replicas, now);
            }
            Event::Restart(n) => {
                let name = self.name(*n);
                self.asked += u64::from(!self.world.fleet.restart(&name, now).is_empty());
            }
            Event::Pause(n) => {
                let name = self.name(*n);
                self.world.fleet.pause(&name, now);
            }
            Event::Resume(n) => {
                let name = self.name(*n);
                self.world.fleet.resume(&name, now);
            }
            Event::Crash => {
                // What was decided is written down; nothing of the plan is done.
                let advance = self.world.fleet.advance(&self.world.observed, now);
                self.remember_roles(&advance.desired);
                self.world.desired = advance.desired;
            }
        }
        let text = serde_json::to_string(&self.world.fleet).unwrap();
        let again: Fleet = serde_json::from_str(&text).unwrap();
        prop_assert_eq!(&again, &self.world.fleet, "it is plain data");
        self.world.fleet = again;
        Ok(())
    }

    fn settle(&mut self) -> Result<(), TestCaseError> {
        for _ in 0..100 {
            let before = self.world.fleet.clone();
            let advance = self.world.fleet.advance(&self.world.observed, self.world.now);
            prop_assert_eq!(advance.changed, before != self.world.fleet, "what changed is said");
            prop_assert_eq!(self.world.fleet.rollouts, self.asked, "no rollout begins by itself");
            self.check_deadlines(&before)?;
            let plan = plan(&advance.desired, &self.world.observed, self.world.now);
            self.check(&advance.desired, &plan)?;
            self.remember_roles(&advance.desired);
            self.world.desired = advance.desired;
            self.world.carry_out(&plan);
            if plan.is_idle() && !advance.changed {
                return Ok(());
            }
        }
        prop_assert!(false, "it never comes to rest");
        Ok(())
    }

    fn remember_roles(&mut self, desired: &Desired) {
        for service in &desired.services {
            let instances = self.world.observed.instances.iter();
            let own = instances.filter(|i| i.service == service.name && serves(service, i));
            self.serving.insert(service.name.clone(), own.map(|i| i.id.to_string()).collect());
        }
    }

    fn check_deadlines(&self, before: &Fleet) -> Result<(), TestCaseError> {
        for now in &self.world.fleet.deployments {
            let Some(then) = before.deployment(&now.wanted.service.name) else { continue };
            let deadline = |phase: &Phase| match phase {
                Phase::Progressing { deadline } | Phase::Verifying { deadline } => Some(*deadline),
                _ => None,
            };
            if let (Some(then_at), Some(now_at)) =
                (deadline(&then.rollout.phase), deadline(&now.rollout.phase))
            {
                let more = now.rollout.best > then.rollout.best;
                prop_assert!(now_at == then_at || more, "only newly ready instances move a deadline");
            }
        }
        Ok(())
    }

    fn check(&mut self, desired: &Desired, plan: &Plan) -> Result<(), TestCaseError> {
        let instances = &self.world.observed.instances;
        let of = |name: &str| instances.iter().filter(move |i| i.service == name).collect::<Vec<_>>();
        for instance in instances {
            let same = |other: &&Instance| {
                (&other.service, other.slot) == (&instance.service, instance.slot) && other.is_live()
            };
            prop_assert!(instances.iter().filter(same).count() <= 1, "one live instance per slot");
            let key = (instance.service.clone(), instance.slot);
            let before = self.restarts.entry(key).or_default();
            prop_assert!(instance.history.restarts >= *before, "restart counters never fall");
            *before = instance.history.restarts;
        }
        for service in &desired.services {
            let own = of(&service.name);
            let deployment = self.world.fleet.deployment(&service.name).unwrap();
            let phase = &deployment.rollout.phase;
            let (n, surge) = (service.replicas, service.update.surge(service.replicas));
            let starts: Vec<_> = plan
                .actions
                .iter()
                .filter_map(|action| match action {
                    Action::Start { service: name, slot, revision, .. } if *name == service.name => {
                        Some((*slot, revision))
                    }
                    _ => None,
                })
                .collect();
            let live = own.iter().filter(|i| i.is_live()).count();
            if !starts.is_empty() {
                prop_assert!(n > 0, "no start for what is stopped");
                prop_assert!(
                    live + starts.len() <= (n + surge) as usize,
                    "never more than {n} and {surge}: {live} live, {plan} {phase:?}"
                );
            }
            for (slot, revision) in &starts {
                prop_assert!(!own.iter().any(|i| i.slot == *slot && i.is_live()), "no start in a taken slot");
                let good = deployment.good.as_ref().map(|good| &good.service.revision);
                prop_assert!(
                    **revision == deployment.wanted.service.revision || Some(*revision) == good,
                    "only what is wanted or succeeded is started"
                );
                if matches!(phase, Phase::Reverting { .. } | Phase::Reverted { .. }) {
                    prop_assert!(
                        **revision == deployment.wanted.service.revision,
                        "no instance of what failed is started any more"
                    );
                }
            }
            self.check_capacity(service, phase, &own, plan)?;
        }
        for action in &plan.actions {
            match action {
                Action::Start { service, .. } => {
                    prop_assert!(desired.service(service).is_some(), "no start for what is not wanted");
                }
                Action::Stop { instance, .. } | Action::Kill { instance, .. } => {
                    let known = instances.iter().find(|i| i.id == *instance);
                    prop_assert!(known.is_some_and(Instance::is_live), "only what is known is told to end");
                }
                Action::Adjust { instance, service, slot, revision } => {
                    let found = instances.iter().find(|i| i.id == *instance).unwrap();
                    let template = desired.service(service).unwrap().at(*slot).unwrap();
                    prop_assert!(found.is_live() && found.process() == template.process);
                    prop_assert_eq!(revision, template.revision);
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// What answers calls is enough, or as much as before.
    fn check_capacity(
        &self,
        service: &Service,
        phase: &Phase,
        own: &[&Instance],
        plan: &Plan,
    ) -> Result<(), TestCaseError> {
        let least = service.replicas - service.update.unavailable(service.replicas);
        let stopped: BTreeSet<_> = plan
            .actions
            .iter()
            .filter_map(|action| match action {
                Action::Stop { instance, cause, .. } if *cause != StopCause::Dependency => Some(instance),
                _ => None,
            })
            .collect();
        let none = BTreeSet::new();
        let served = self.serving.get(&service.name).unwrap_or(&none);
        let before = own.iter().filter(|i| i.is_ready() && served.contains(i.id.as_str())).count();
        let stays = own.iter().filter(|i| serves(service, i) && !stopped.contains(&i.id)).count();
        // What has done its work is missed by nobody.
        let done = own.iter().filter(|i| i.is_completed() && i.process() == service.process()).count();
        let after = stays + done;
        let healthy = matches!(
            phase,
            Phase::Pending { .. }
                | Phase::Progressing { .. }
                | Phase::Verifying { .. }
                | Phase::Paused { .. }
        );
        let back = matches!(phase, Phase::Reverting { .. }) && service.update.strategy == Way::Rolling;
        if healthy && service.update.strategy == Way::Rolling || back {
            prop_assert!(
                after >= before.min(least as usize),
                "{before} of {served:?} served, {after} do: {plan} {phase:?}\n{own:#?}\n{:#?}",
                service.sets
            );
        }
        if healthy && service.update.strategy == Way::BlueGreen {
            let serving: BTreeSet<_> =
                own.iter().filter(|i| serves(service, i)).map(|i| i.process().clone()).collect();
            prop_assert!(serving.len() <= 1, "calls go to one revision at a time");
        }
        Ok(())
    }

    /// From now on all goes well. What is wanted must come true.
    fn heal(&mut self) -> Result<(), TestCaseError> {
        let now = self.world.now;
        let names: Vec<_> =
            self.world.fleet.deployments.iter().map(|d| d.wanted.service.name.clone()).collect();
        for name in &names {
            self.world.fleet.resume(name, now);
        }
        for _ in 0..300 {
            self.world
                .observed
                .instances
                .retain(|i| !matches!(i.state, State::Exited { end: End::Failed | End::Completed, .. }));
            self.restarts.clear();
            self.settle()?;
            let busy = self.world.observed.instances.iter().any(|i| {
                matches!(i.state, State::Starting { .. } | State::Unready { .. } | State::Stopping { .. })
            });
            if busy {
                self.world.ready_all().gone_all();
                continue;
            }
            let advance = self.world.fleet.advance(&self.world.observed, self.world.now);
            let wake = plan(&advance.desired, &self.world.observed, self.world.now).wake_at;
            match wake.into_iter().chain(advance.wake_at).min() {
                Some(wake) => self.world.now = wake.max(self.world.now),
                None => break,
            }
        }
        for deployment in &self.world.fleet.deployments {
            let phase = &deployment.rollout.phase;
            prop_assert!(
                matches!(phase, Phase::Succeeded { kept: None, .. } | Phase::Reverted { .. }),
                "{phase:?}"
            );
            let Service { name, revision, replicas, .. } = &deployment.wanted.service;
            let live = self.world.observed.instances.iter().filter(|i| i.service == *name && i.is_live());
            let right: Vec<bool> = live.map(|i| i.is_ready() && i.revision == *revision).collect();
            prop_assert_eq!(right, vec![true; *replicas as usize], "{} {:?}", name, phase);
            let wanted = self.world.desired.service(name).unwrap();
            prop_assert!(
                wanted.sets.iter().flatten().all(|set| set.slots.is_empty() || set.role == Role::Serving)
            );
        }
        let names: BTreeSet<&str> = names.iter().map(String::as_str).collect();
        let strays = self.world.observed.instances.iter().filter(|i| i.is_live());
        prop_assert!(strays.into_iter().all(|i| names.contains(i.service.as_str())));
        Ok(())
    }
}

/// Whether calls go to an instance.
fn serves(service: &Service, instance: &Instance) -> bool {
    instance.is_ready() && service.at(instance.slot).is_some_and(|template| template.role == Role::Serving)
}

fn wanted(replicas: std::ops::RangeInclusive<u32>) -> impl Strategy<Value = Vec<Wanted>> {
    let one = (prop::bool::weighted(0.9), replicas, 1u32..=3, 1u32..=2, any::<bool>());
    prop::collection::vec(one, 3)
}

fn update() -> impl Strategy<Value = Update> {
    let share = prop_oneof![
        (0u32..3).prop_map(Share::Count),
        prop::sample::select(vec![0, 25, 50, 100]).prop_map(Share::Percent)
    ];
    let way = prop::sample::select(vec![Way::Rolling, Way::Rolling, Way::BlueGreen]);
    let keep = prop::sample::select(vec![0u64, 60]);
    (way, share.clone(), share, keep).prop_map(|(strategy, surge, unavailable, keep)| Update {
        strategy,
        surge,
        unavailable,
        keep_old: formic_spec::HumanDuration::from_secs(keep),
        ..Update::default()
    })
}

fn setting() -> impl Strategy<Value = Setting> {
    (prop::collection::vec(update(), 3), prop::collection::vec(prop::bool::weighted(0.3), 3))
        .prop_map(|(updates, rest)| Setting { updates, rest })
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        6 => any::<usize>().prop_map(Event::Ready),
        3 => Just(Event::AllReady),
        2 => any::<usize>().prop_map(Event::Unready),
        3 => (any::<usize>(), prop::sample::select(vec![0, 1, 1, 1, 78])).prop_map(|(n, code)| Event::Exit(n, code)),
        1 => any::<usize>().prop_map(Event::NotStarted),
        4 => Just(Event::AllGone),
        6 => prop_oneof![0u64..500, 9_000u64..12_000, 0u64..400_000].prop_map(Event::Pass),
        3 => wanted(0..=4).prop_map(Event::Want),
        1 => (any::<usize>(), 0u32..6).prop_map(|(n, replicas)| Event::Scale(n, replicas)),
        1 => any::<usize>().prop_map(Event::Restart),
        1 => any::<usize>().prop_map(Event::Pause),
        1 => any::<usize>().prop_map(Event::Resume),
        2 => Just(Event::Crash),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_rules_hold_whatever_happens_and_it_ends_well(
        setting in setting(),
        first in wanted(1..=4),
        events in prop::collection::vec(event(), 0..80),
        last in wanted(1..=4),
    ) {
        let mut run = Run {
            world: World::new(Vec::new()),
            setting,
            restarts: BTreeMap::new(),
            serving: BTreeMap::new(),
            asked: 0,
        };
        run.happen(&Event::Want(first))?;
        run.settle()?;
        for event in &events {
            run.happen(event)?;
            run.settle()?;
        }
        run.happen(&Event::Want(last))?;
        run.heal()?;
        prop_assert!(run.world.now > Time::from_millis(0));
    }

    /// One that never gets ready and does not obey: its slot has it, or nothing, and failures add up.
    #[test]
    fn what_is_never_ready_is_started_as_often_as_its_rule_says_however_it_stops(
        replicas in 1u32..=3,
        ready_within in 1u64..=5,
        grace in 0u64..=30,
        obeys in prop::bool::weighted(0.3),
    ) {
        let mut wanted = service("order", 1, replicas);
        wanted.ready_within = formic_spec::HumanDuration::from_secs(ready_within);
        wanted.grace = formic_spec::HumanDuration::from_secs(grace);
        let mut world = World::new(vec![wanted]);
        let rule = formic_spec::Restart::default();
        let end = world.now + rule.within.get();
        while world.now < end {
            world.tick();
            let slots: BTreeSet<u32> = world.observed.instances.iter().map(|i| i.slot).collect();
            prop_assert!(slots.iter().all(|slot| *slot < replicas), "a slot more than is wanted: {slots:?}");
            if obeys {
                world.gone_all();
            }
            world.pass(250);
        }
        // Two more fit in while a crash loop waits for as long as it may.
        let most = replicas * (rule.intensity + 3);
        prop_assert!(world.started <= most, "{} starts, {most} are allowed", world.started);
    }
}
