//! Plans as text: each rule of the planner with the situation that it is for.

#![allow(clippy::unwrap_used)]

use std::time::Duration;

use formic_plan::{
    Desired, End, Instance, Observed, Outcome, Service, ServiceState, State, StopCause, Time, plan, status,
};
use formic_spec::{HumanDuration, Restart, RestartPolicy, Revision};
use serde_json::{Value, json};

fn revision(number: u32) -> Revision {
    Revision::of(&json!(number))
}

fn service(name: &str, replicas: u32, depends_on: &[&str]) -> Service {
    Service {
        name: name.into(),
        revision: revision(1),
        replicas,
        depends_on: depends_on.iter().map(|&name| name.into()).collect(),
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
    }
}

fn at(millis: u64) -> Time {
    Time::from_millis(millis)
}

/// A shop of three: order needs user and product.
struct World {
    desired: Desired,
    observed: Observed,
    now: Time,
}

impl World {
    fn shop() -> Self {
        let services = vec![
            service("order", 2, &["user", "product"]),
            service("user", 1, &[]),
            service("product", 1, &[]),
        ];
        Self { desired: Desired { generation: 1, services }, observed: Observed::default(), now: at(0) }
    }

    /// Everything started and ready.
    fn running() -> Self {
        let mut world = Self::shop();
        world.begin("user", 0).begin("product", 0).begin("order", 0).begin("order", 1);
        for instance in &mut world.observed.instances {
            instance.ready(at(0));
        }
        world.now = at(20_000);
        world
    }

    fn begin(&mut self, name: &str, slot: u32) -> &mut Self {
        let service = self.desired.service(name).unwrap();
        let previous = self.observed.slot(name, slot);
        let new = Instance::begin(format!("{name}-{slot}").into(), service, slot, previous, self.now);
        self.observed.instances.retain(|old| (old.service.as_str(), old.slot) != (name, slot));
        self.observed.instances.push(new);
        self
    }

    fn instance(&mut self, id: &str) -> &mut Instance {
        self.observed.instances.iter_mut().find(|instance| instance.id.as_str() == id).unwrap()
    }

    fn ready(&mut self, id: &str) -> &mut Self {
        let now = self.now;
        self.instance(id).ready(now);
        self
    }

    fn exit(&mut self, id: &str, code: i32) -> &mut Self {
        self.exit_under(id, code, &Restart::default())
    }

    fn exit_under(&mut self, id: &str, code: i32, rule: &Restart) -> &mut Self {
        let now = self.now;
        self.instance(id).exited(Outcome::Code(code), rule, 0.5, now);
        self
    }

    /// Carries out the stops of the plan.
    fn stop(&mut self) -> &mut Self {
        let plan = plan(&self.desired, &self.observed, self.now);
        let now = self.now;
        for action in &plan.actions {
            if let formic_plan::Action::Stop { instance, cause, .. } = action {
                self.instance(instance.as_str()).stopping(*cause, now);
            }
        }
        self
    }

    fn after(&mut self, millis: u64) -> &mut Self {
        self.now = self.now + Duration::from_millis(millis);
        self
    }

    fn wanted(&mut self, name: &str) -> &mut Service {
        self.desired.generation += 1;
        self.desired.services.iter_mut().find(|service| service.name == name).unwrap()
    }

    #[track_caller]
    fn plans(&mut self, text: &str) -> &mut Self {
        let plan = plan(&self.desired, &self.observed, self.now);
        let shown =
            plan.to_string().replace(&revision(1).to_string(), "r1").replace(&revision(2).to_string(), "r2");
        assert_eq!(
            shown.lines().map(str::trim).collect::<Vec<_>>(),
            text.trim().lines().map(str::trim).collect::<Vec<_>>()
        );
        let json = serde_json::to_string(&plan).unwrap();
        assert_eq!(serde_json::from_str::<formic_plan::Plan>(&json).unwrap(), plan);
        self
    }

    #[track_caller]
    fn shows(&mut self, name: &str, state: ServiceState, detail: Option<&str>) -> &mut Self {
        let rows = status(&self.desired, &self.observed, self.now);
        let row = rows.iter().find(|row| row.service == name).unwrap();
        assert_eq!((row.state, row.detail.as_deref()), (state, detail));
        self
    }
}

#[test]
fn what_has_ended_is_not_ready_though_its_children_are_there() {
    let mut world = World::running();
    let now = world.now;
    world.instance("user-0").main_ended(now);
    let told = "user/0 has ended; what it left behind is being ended";
    world.shows("user", ServiceState::Stopping, Some(told));
    // A probe that was under way says nothing of it.
    world.ready("user-0").shows("user", ServiceState::Stopping, Some(told));
    world.plans("generation 1: nothing to do").exit("user-0", 1);
    assert!(matches!(world.instance("user-0").state, State::Backoff { .. }));
    // One that ends as it starts is judged by its end, and not by how long it took.
    let mut world = World::shop();
    world.begin("user", 0).begin("product", 0);
    world.instance("user-0").main_ended(at(0));
    world.after(60_000).ready("user-0").shows("user", ServiceState::Stopping, Some(told));
    let plan = plan(&world.desired, &world.observed, world.now).to_string();
    assert!(plan.contains("product-0 within 30s: not ready") && !plan.contains("user-0"), "{plan}");
}

#[test]
fn starts_in_the_order_of_dependencies() {
    let mut world = World::shop();
    world
        .plans(
            "generation 1: 2 to do, 2 waiting
               start user/0 at r1: wanted
               start product/0 at r1: wanted
               wait  order/0: needs user, product
               wait  order/1: needs user, product",
        )
        .shows("order", ServiceState::Pending, Some("needs user, product"))
        .begin("user", 0)
        .begin("product", 0)
        .after(1000)
        .shows("user", ServiceState::Starting, None)
        .ready("user-0")
        .plans(
            "generation 1: 0 to do, 2 waiting
               wait  order/0: needs product
               wait  order/1: needs product
               again in 59s",
        )
        .ready("product-0")
        .plans(
            "generation 1: 2 to do, 0 waiting
               start order/0 at r1: wanted
               start order/1 at r1: wanted",
        )
        .begin("order", 0)
        .begin("order", 1)
        .ready("order-0")
        .shows("order", ServiceState::Starting, None)
        .ready("order-1")
        .shows("order", ServiceState::Ready, None)
        .plans("generation 1: nothing to do");
}

#[test]
fn one_ready_replica_of_a_dependency_is_enough() {
    let mut world = World::shop();
    world.wanted("user").replicas = 2;
    world.begin("user", 0).begin("user", 1).begin("product", 0).ready("user-1").ready("product-0").plans(
        "generation 2: 2 to do, 0 waiting
           start order/0 at r1: wanted
           start order/1 at r1: wanted
           again in 1m",
    );
}

#[test]
fn shuts_down_dependants_first() {
    let mut world = World::running();
    world.desired = Desired::nothing(2);
    world
        .plans(
            "generation 2: 2 to do, 2 waiting
               stop  order/0 order-0 within 30s: shut down
               stop  order/1 order-1 within 30s: shut down
               wait  product/0: is needed by order
               wait  user/0: is needed by order",
        )
        .stop()
        .shows("order", ServiceState::Stopping, None)
        .exit("order-0", 0)
        .plans(
            "generation 2: 0 to do, 2 waiting
               wait  product/0: is needed by order
               wait  user/0: is needed by order
               again in 30s",
        )
        .exit("order-1", 0)
        .plans(
            "generation 2: 2 to do, 0 waiting
               stop  product/0 product-0 within 30s: shut down
               stop  user/0 user-0 within 30s: shut down",
        )
        .stop()
        .exit("product-0", 0)
        .exit("user-0", 0)
        .plans("generation 2: nothing to do")
        .shows("user", ServiceState::Stopped, None);
}

#[test]
fn what_does_not_stop_is_killed() {
    let mut world = World::running();
    world.desired = Desired::nothing(2);
    world
        .stop()
        .exit("order-0", 0)
        .after(29_999)
        .plans(
            "generation 2: 0 to do, 2 waiting
               wait  product/0: is needed by order
               wait  user/0: is needed by order
               again in 1ms",
        )
        .after(1)
        .plans(
            "generation 2: 1 to do, 2 waiting
               kill  order/1 order-1: did not stop in time
               wait  product/0: is needed by order
               wait  user/0: is needed by order",
        );
}

#[test]
fn a_circle_between_old_and_new_dependencies_is_let_go() {
    let mut world = World::running();
    world.instance("user-0").depends_on = vec!["order".into()];
    world.desired = Desired::nothing(2);
    world.plans(
        "generation 2: 3 to do, 1 waiting
           stop  order/0 order-0 within 30s: shut down
           stop  order/1 order-1 within 30s: shut down
           stop  user/0 user-0 within 30s: shut down
           wait  product/0: is needed by order",
    );
}

#[test]
fn a_crash_is_restarted_at_once_if_it_had_worked_and_later_if_not() {
    let mut world = World::running();
    world
        .exit("user-0", 1)
        .plans(
            "generation 1: 1 to do, 0 waiting
               start user/0 at r1: restart 1",
        )
        .begin("user", 0)
        .after(100)
        .exit("user-0", 1)
        .plans(
            "generation 1: 0 to do, 1 waiting
               wait  user/0: backs off for 500ms
               again in 500ms",
        )
        .shows("user", ServiceState::Backoff, Some("user/0 exited with code 1, starts again in 500ms"))
        .after(500)
        .plans(
            "generation 1: 1 to do, 0 waiting
               start user/0 at r1: restart 2",
        );
}

#[test]
fn one_of_two_down_is_degraded() {
    let mut world = World::running();
    world.exit("order-1", 1).shows(
        "order",
        ServiceState::Degraded,
        Some("order/1 exited with code 1, starts again in 0s"),
    );
    let mut world = World::running();
    world.now = at(1000);
    world.instance("order-1").unready(at(900));
    world.shows("order", ServiceState::Degraded, Some("order/1 does not answer its probe"));
    world.ready("order-1").shows("order", ServiceState::Ready, None);
}

#[test]
fn a_restart_of_what_was_ready_waits_for_nobody() {
    let mut world = World::running();
    world.exit("product-0", 1).begin("product", 0).exit("order-0", 1).plans(
        "generation 1: 1 to do, 0 waiting
           start order/0 at r1: restart 1
           again in 1m",
    );
}

#[test]
fn six_unready_exits_are_a_crash_loop_that_goes_on() {
    let mut world = World::shop();
    for _ in 0..6 {
        world.begin("user", 0);
        world.exit("user-0", 1);
        let State::Backoff { until, .. } = world.instance("user-0").state else { panic!() };
        world.now = until;
    }
    assert_eq!(world.now, at(250 + 500 + 1000 + 2000 + 4000 + 60_000));
    world
        .shows("user", ServiceState::CrashLooping, Some("user/0 exited with code 1, starts again in 0s"))
        .plans(
            "generation 1: 2 to do, 2 waiting
               start user/0 at r1: restart 6
               start product/0 at r1: wanted
               wait  order/0: needs user, product
               wait  order/1: needs user, product",
        )
        .begin("user", 0)
        .shows("user", ServiceState::CrashLooping, None)
        .ready("user-0")
        .shows("user", ServiceState::Ready, None);
    let rows = status(&world.desired, &world.observed, world.now);
    assert_eq!(rows[1].restarts, 6);
}

#[test]
fn what_is_not_ready_in_time_is_stopped_and_has_failed() {
    let mut world = World::shop();
    world
        .begin("user", 0)
        .begin("product", 0)
        .ready("product-0")
        .after(60_000)
        .plans(
            "generation 1: 1 to do, 2 waiting
               stop  user/0 user-0 within 30s: not ready in time
               wait  order/0: needs user
               wait  order/1: needs user",
        )
        .stop()
        // It stops politely, and that is no success.
        .exit_under("user-0", 0, &Restart { policy: RestartPolicy::OnFailure, ..Restart::default() })
        .shows("user", ServiceState::Backoff, Some("user/0 was not ready in time, starts again in 250ms"));
}

#[test]
fn policies_and_exit_codes() {
    let rule = |policy| Restart { policy, ..Restart::default() };
    let table = [
        (RestartPolicy::Always, 0, None),
        (RestartPolicy::Always, 1, None),
        (RestartPolicy::Always, 78, Some(End::Failed)),
        (RestartPolicy::OnFailure, 0, Some(End::Completed)),
        (RestartPolicy::OnFailure, 1, None),
        (RestartPolicy::Never, 0, Some(End::Completed)),
        (RestartPolicy::Never, 1, Some(End::Failed)),
    ];
    for (policy, code, expected) in table {
        let mut world = World::running();
        world.exit_under("user-0", code, &rule(policy));
        let end = match world.instance("user-0").state {
            State::Exited { end, .. } => Some(end),
            _ => None,
        };
        assert_eq!(end, expected, "{policy:?} {code}");
        if expected.is_some() {
            world.plans("generation 1: nothing to do");
            // Of a success there is nothing to explain.
            let detail = format!("user/0 exited with code {code}, is not started again");
            match expected {
                Some(End::Completed) => world.shows("user", ServiceState::Completed, None),
                _ => world.shows("user", ServiceState::Failed, Some(&detail)),
            };
        }
    }
    let mut world = World::shop();
    world.begin("user", 0);
    world.instance("user-0").exited(
        Outcome::NotStarted("no such file".into()),
        &rule(RestartPolicy::Always),
        0.5,
        at(0),
    );
    world.shows(
        "user",
        ServiceState::Backoff,
        Some("user/0 could not be started: no such file, starts again in 250ms"),
    );
}

#[test]
fn a_new_revision_replaces_one_at_a_time() {
    let mut world = World::running();
    world.wanted("order").revision = revision(2);
    world
        .plans(
            "generation 2: 1 to do, 1 waiting
               stop  order/0 order-0 within 30s: replaced
               wait  order/1: is replaced when the others are ready",
        )
        .stop()
        .exit("order-0", 0)
        .plans(
            "generation 2: 1 to do, 1 waiting
               start order/0 at r2: was r1
               wait  order/1: is replaced when the others are ready",
        )
        .begin("order", 0)
        // A bad revision gets no further than its first instance.
        .exit("order-0", 1)
        .plans(
            "generation 2: 0 to do, 2 waiting
               wait  order/0: backs off for 250ms
               wait  order/1: is replaced when the others are ready
               again in 250ms",
        )
        .begin("order", 0)
        .ready("order-0")
        .plans(
            "generation 2: 1 to do, 0 waiting
               stop  order/1 order-1 within 30s: replaced",
        );
}

#[test]
fn a_new_revision_waits_for_what_it_newly_needs_while_the_old_one_runs() {
    let mut world = World::running();
    world.desired.services.push(service("payment", 1, &[]));
    *world.wanted("order") = Service { revision: revision(2), ..service("order", 1, &["payment"]) };
    world.plans(
        "generation 2: 2 to do, 1 waiting
           stop  order/1 order-1 within 30s: scaled down
           start payment/0 at r1: wanted
           wait  order/0: needs payment",
    );
}

#[test]
fn scaling() {
    let mut world = World::running();
    world.wanted("order").replicas = 3;
    world.plans("generation 2: 1 to do, 0 waiting\nstart order/2 at r1: wanted");
    world.wanted("order").replicas = 1;
    world.plans("generation 3: 1 to do, 0 waiting\nstop  order/1 order-1 within 30s: scaled down");
    world.wanted("product").replicas = 0;
    world.wanted("order").replicas = 2;
    world.plans("generation 5: 1 to do, 0 waiting\nstop  product/0 product-0 within 30s: scaled down");
    world.desired.services.remove(0);
    world.plans(
        "generation 5: 2 to do, 1 waiting
           stop  order/0 order-0 within 30s: removed
           stop  order/1 order-1 within 30s: removed
           wait  product/0: is needed by order",
    );
}

#[test]
fn what_was_stopped_on_request_is_started_anew() {
    let mut world = World::running();
    let now = world.now;
    world.instance("user-0").stopping(StopCause::Requested, now);
    world.after(10).exit("user-0", 0).plans(
        "generation 1: 1 to do, 0 waiting
           start user/0 at r1: wanted",
    );
}

#[test]
fn two_in_a_slot_become_one() {
    let mut world = World::running();
    let mut second = world.instance("user-0").clone();
    second.id = "user-x".into();
    second.state = State::Starting { since: at(20_000) };
    world.observed.instances.insert(0, second);
    world.plans("generation 1: 1 to do, 0 waiting\nstop  user/0 user-x within 30s: its slot has another");
}

#[test]
fn a_deadline_to_stop_stands() {
    let mut world = World::running();
    let instance = world.instance("user-0");
    instance.stopping(StopCause::Requested, at(0));
    instance.stopping(StopCause::Replaced, at(5000));
    instance.ready(at(6000));
    assert_eq!(instance.state, State::Stopping { deadline: at(30_000), cause: StopCause::Requested });
    instance.exited(Outcome::Code(0), &Restart::default(), 0.5, at(7000));
    let gone = instance.clone();
    instance.exited(Outcome::Code(1), &Restart::default(), 0.5, at(8000));
    instance.ready(at(8000));
    instance.stopping(StopCause::Removed, at(8000));
    assert_eq!(*instance, gone);
    let json = serde_json::to_string(&gone).unwrap();
    assert_eq!(serde_json::from_str::<Instance>(&json).unwrap(), gone);
}

#[test]
fn a_thousand_services_are_planned_quickly() {
    let services: Vec<Service> = (0..1000)
        .map(|n| {
            let needs: Vec<String> = (n.max(20) - 20..n).map(|m: u32| format!("s{m}")).collect();
            service(&format!("s{n}"), 5, &needs.iter().map(String::as_str).collect::<Vec<_>>())
        })
        .collect();
    let mut world =
        World { desired: Desired { generation: 1, services }, observed: Observed::default(), now: at(0) };
    for service in &world.desired.services {
        for slot in 0..5 {
            let id = format!("{}-{slot}", service.name);
            let mut instance = Instance::begin(id.into(), service, slot, None, at(0));
            instance.ready(at(0));
            world.observed.instances.push(instance);
        }
    }
    let begun = std::time::Instant::now();
    assert!(plan(&world.desired, &world.observed, at(1)).actions.is_empty());
    assert_eq!(plan(&Desired::nothing(2), &world.observed, at(1)).stops().count(), 5);
    // Unoptimised and beside other work; squares of 5,000 would take far longer.
    assert!(begun.elapsed() < Duration::from_secs(5), "took {:?}", begun.elapsed());
}

#[test]
fn what_is_quarantined_is_left_alone_and_its_place_is_not_filled() {
    let mut world = World::running();
    let ids: Vec<_> = world.observed.instances.iter().map(|i| i.id.clone()).collect();
    world.observed.instances[0].quarantined("its process cannot be proven", at(5));
    assert!(world.observed.instances[0].is_live() && !world.observed.instances[0].is_ready());
    let first = plan(&world.desired, &world.observed, at(10));
    assert!(first.is_idle(), "{first}");
    let waits = first.to_string();
    assert!(
        waits.contains("user/0") && waits.contains("is not filled while the last one may be running"),
        "{waits}"
    );
    let row = &status(&world.desired, &world.observed, at(10))[1];
    assert_eq!((row.service.as_str(), row.state), ("user", ServiceState::Quarantined));
    assert!(row.detail.as_deref().unwrap_or_default().contains("its process cannot be proven"));

    // It is told nothing at the end either, and holds up nobody.
    let end = plan(&Desired::nothing(2), &world.observed, at(10)).to_string();
    assert!(!end.contains(ids[0].as_str()) && end.contains("stop  order/0"), "{end}");

    world.observed.instances[0].given_up(at(20));
    let then = plan(&world.desired, &world.observed, at(20));
    assert_eq!(then.starts().collect::<Vec<_>>(), [("user", 0)]);
}
