//! `plan`: the rules of the crate's page, one after the other.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use crate::action::{Action, Plan, StartCause, WaitCause};
use crate::life::{End, Instance, InstanceId, State, StopCause};
use crate::state::{Desired, Observed, Service, Time};

/// What is to be done now, so that in time the observed becomes the desired.
///
/// Takes time in proportion to what there is, not to its square.
#[must_use]
pub fn plan(desired: &Desired, observed: &Observed, now: Time) -> Plan {
    let mut planner = Planner::new(desired, observed, now);
    planner.kill();
    planner.stop_surplus();
    planner.stop_overdue();
    planner.replace();
    planner.start();
    planner.finish()
}

struct Planner<'a> {
    desired: &'a Desired,
    now: Time,
    /// What is wanted, by name.
    wanted: HashMap<&'a str, &'a Service>,
    /// What each slot holds: the instance that stays, the rest of the live ones are surplus.
    slots: BTreeMap<(&'a str, u32), &'a Instance>,
    surplus: Vec<&'a Instance>,
    live: Vec<&'a Instance>,
    /// Decided so far.
    doomed: HashSet<&'a InstanceId>,
    stops: Vec<Action>,
    actions: Vec<Action>,
    waits: Vec<Action>,
    wake_at: Option<Time>,
}

impl<'a> Planner<'a> {
    fn new(desired: &'a Desired, observed: &'a Observed, now: Time) -> Self {
        let wanted: HashMap<&str, &Service> =
            desired.services.iter().map(|service| (service.name.as_str(), service)).collect();
        let mut slots: BTreeMap<(&str, u32), &Instance> = BTreeMap::new();
        let mut surplus = Vec::new();
        // Of several in a slot one that answers stays, if possible one of the revision that is wanted.
        let worth = |instance: &'a Instance| {
            let current =
                wanted.get(instance.service.as_str()).is_some_and(|s| s.revision == instance.revision);
            let stopping = matches!(instance.state, State::Stopping { .. });
            (instance.is_live(), !stopping, instance.is_ready(), current, instance.recency())
        };
        for instance in &observed.instances {
            let key = (instance.service.as_str(), instance.slot);
            let beaten = match slots.get(&key) {
                Some(holder) if worth(holder) >= worth(instance) => Some(instance),
                _ => slots.insert(key, instance),
            };
            surplus.extend(beaten.filter(|instance| instance.is_live()));
        }
        let live = observed.instances.iter().filter(|instance| instance.is_live()).collect();
        Self {
            desired,
            now,
            wanted,
            slots,
            surplus,
            live,
            doomed: HashSet::new(),
            stops: Vec::new(),
            actions: Vec::new(),
            waits: Vec::new(),
            wake_at: None,
        }
    }

    /// How many instances of a service are wanted.
    fn replicas(&self, service: &str) -> u32 {
        self.wanted.get(service).map_or(0, |service| service.replicas)
    }

    fn wake(&mut self, at: Time) {
        self.wake_at = Some(self.wake_at.map_or(at, |before| before.min(at)));
    }

    fn stop(&mut self, instance: &'a Instance, cause: StopCause) {
        if self.doomed.insert(&instance.id) {
            self.stops.push(Action::Stop {
                instance: instance.id.clone(),
                service: instance.service.clone(),
                slot: instance.slot,
                grace: instance.grace,
                cause,
            });
        }
    }

    fn wait(&mut self, service: &str, slot: u32, cause: WaitCause) {
        self.waits.push(Action::Wait { service: service.into(), slot, cause });
    }

    /// What was told to stop and had its time.
    fn kill(&mut self) {
        for instance in self.live.clone() {
            let State::Stopping { deadline, .. } = instance.state else {
                continue;
            };
            if self.now >= deadline {
                self.actions.push(Action::Kill {
                    instance: instance.id.clone(),
                    service: instance.service.clone(),
                    slot: instance.slot,
                });
            } else {
                self.wake(deadline);
            }
        }
    }

    /// What nobody wants: services that go away, dependants first; slots past the last; second ones in
    /// a slot.
    fn stop_surplus(&mut self) {
        let leaving: BTreeSet<&str> = self
            .live
            .iter()
            .map(|instance| instance.service.as_str())
            .filter(|service| self.replicas(service) == 0)
            .collect();
        let mut held: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
        for instance in self.live.iter().filter(|instance| leaving.contains(instance.service.as_str())) {
            for dependency in instance.depends_on.iter().filter(|name| **name != instance.service) {
                held.entry(dependency).or_default().insert(&instance.service);
            }
        }
        if leaving.iter().all(|service| held.contains_key(service)) {
            release_circles(&mut held);
        }
        for instance in self.live.clone() {
            if matches!(instance.state, State::Stopping { .. }) {
                continue;
            }
            let name = instance.service.as_str();
            if leaving.contains(name) {
                match held.get(name) {
                    Some(holders) => {
                        let holders = holders.iter().map(|holder| (*holder).to_owned()).collect();
                        self.wait(name, instance.slot, WaitCause::Dependants(holders));
                    }
                    None => self.stop(instance, self.leave_cause(name)),
                }
            } else if instance.slot >= self.replicas(name) {
                self.stop(instance, StopCause::ScaledDown);
            }
        }
        for instance in self.surplus.clone() {
            let leaves = leaving.contains(instance.service.as_str());
            if !leaves && !matches!(instance.state, State::Stopping { .. }) {
                self.stop(instance, StopCause::Duplicate);
            }
        }
    }

    /// Why all of a service is to stop.
    fn leave_cause(&self, service: &str) -> StopCause {
        if self.desired.services.is_empty() {
            StopCause::ShutDown
        } else if self.wanted.contains_key(service) {
            StopCause::ScaledDown
        } else {
            StopCause::Removed
        }
    }

    /// The wanted slots of a service with what they hold.
    fn slots_of(&self, service: &'a Service) -> impl Iterator<Item = (u32, Option<&'a Instance>)> {
        (0..service.replicas).map(|slot| (slot, self.slots.get(&(service.name.as_str(), slot)).copied()))
    }

    /// What did not get ready in time.
    fn stop_overdue(&mut self) {
        for service in &self.desired.services {
            let starting: Vec<_> = self.slots_of(service).filter_map(|(_, instance)| instance).collect();
            for instance in starting {
                let State::Starting { since } = instance.state else {
                    continue;
                };
                let deadline = since + service.ready_within.get();
                if self.now >= deadline {
                    self.stop(instance, StopCause::NotReady);
                } else if !self.doomed.contains(&instance.id) {
                    self.wake(deadline);
                }
            }
        }
    }

    /// What runs another revision. Where it is of no use, at once; where it answers calls, one by one.
    fn replace(&mut self) {
        for service in &self.desired.services {
            let slots: Vec<_> = self.slots_of(service).collect();
            let answers = |instance: &Option<&'a Instance>| instance.is_some_and(Instance::is_ready);
            let mut missing = slots.iter().filter(|(_, instance)| !answers(instance)).count();
            let needs = self.needs(service);
            for (slot, instance) in slots {
                let Some(instance) = instance.filter(|i| i.is_live() && i.revision != service.revision)
                else {
                    continue;
                };
                match instance.state {
                    State::Stopping { .. } => {}
                    State::Ready { .. } if !needs.is_empty() => {
                        self.wait(&service.name, slot, WaitCause::Dependencies(needs.clone()));
                    }
                    State::Ready { .. } if missing > 0 => self.wait(&service.name, slot, WaitCause::Turn),
                    State::Ready { .. } => {
                        missing += 1;
                        self.stop(instance, StopCause::Replaced);
                    }
                    _ => self.stop(instance, StopCause::Replaced),
                }
            }
        }
    }

    /// The dependencies of a service of which nothing answers, or is about to stop.
    fn needs(&self, service: &Service) -> Vec<String> {
        let answers = |name: &str| {
            let from = (name, 0);
            let to = (name, u32::MAX);
            self.slots.range(from..=to).any(|(_, i)| i.is_ready() && !self.doomed.contains(&i.id))
        };
        service.depends_on.iter().filter(|name| !answers(name)).cloned().collect()
    }

    /// What is wanted and not there, dependencies first.
    fn start(&mut self) {
        for service in in_order(&self.desired.services) {
            let slots: Vec<_> = self.slots_of(service).collect();
            let needs = self.needs(service);
            for (slot, last) in slots {
                let again = last.filter(|last| last.is_restarted_by(service));
                match last.map(|last| &last.state) {
                    Some(State::Backoff { until, .. }) if again.is_some() && *until > self.now => {
                        self.wake(*until);
                        self.wait(&service.name, slot, WaitCause::Backoff(*until));
                        continue;
                    }
                    Some(State::Exited { end: End::Completed | End::Failed, .. }) if again.is_some() => {
                        continue;
                    }
                    None | Some(State::Backoff { .. } | State::Exited { .. }) => {}
                    Some(_) => continue,
                }
                if !needs.is_empty() && !again.is_some_and(|last| last.history.was_ready) {
                    self.wait(&service.name, slot, WaitCause::Dependencies(needs.clone()));
                    continue;
                }
                let cause = match (again, last) {
                    (Some(last), _) => StartCause::Restart(last.history.restarts.saturating_add(1)),
                    (None, Some(last)) if last.revision != service.revision => {
                        StartCause::Revision(last.revision.clone())
                    }
                    _ => StartCause::Wanted,
                };
                self.actions.push(Action::Start {
                    service: service.name.clone(),
                    slot,
                    revision: service.revision.clone(),
                    cause,
                });
            }
        }
    }

    /// Kills were noted first and starts last; stops go between, in an order that depends on nothing
    /// else.
    fn finish(mut self) -> Plan {
        self.stops.sort_by(|a, b| key(a).cmp(&key(b)));
        self.waits.sort_by(|a, b| key(a).cmp(&key(b)));
        let starts = self.actions.iter().position(|action| matches!(action, Action::Start { .. }));
        let starts = self.actions.split_off(starts.unwrap_or(self.actions.len()));
        self.actions.sort_by(|a, b| key(a).cmp(&key(b)));
        let actions = [self.actions, self.stops, starts, self.waits].concat();
        Plan { generation: self.desired.generation, at: self.now, actions, wake_at: self.wake_at }
    }
}

/// Every service that leaves is held by another: there is a circle, of dependencies from different
/// generations, and waiting would be for ever. Within a circle nobody waits any more; what a circle
/// needs still waits for it.
fn release_circles(held: &mut BTreeMap<&str, BTreeSet<&str>>) {
    let all = held.clone();
    held.retain(|service, holders| {
        // One that this service holds in its turn is in a circle with it.
        holders.retain(|holder| !reaches(&all, holder, service));
        !holders.is_empty()
    });
}

/// Whether `to` holds `from`, directly or not.
fn reaches(held: &BTreeMap<&str, BTreeSet<&str>>, from: &str, to: &str) -> bool {
    let mut seen = BTreeSet::new();
    let mut open = vec![from];
    while let Some(service) = open.pop() {
        for holder in held.get(service).into_iter().flatten() {
            if *holder == to {
                return true;
            }
            if seen.insert(*holder) {
                open.push(holder);
            }
        }
    }
    false
}

fn key(action: &Action) -> (&str, u32, Option<&InstanceId>) {
    match action {
        Action::Kill { instance, service, slot } | Action::Stop { instance, service, slot, .. } => {
            (service, *slot, Some(instance))
        }
        Action::Start { service, slot, .. } | Action::Wait { service, slot, .. } => (service, *slot, None),
    }
}

/// Services after those that they depend on; those in a circle, which no manifest has, last.
fn in_order(services: &[Service]) -> Vec<&Service> {
    let index: HashMap<&str, usize> =
        services.iter().enumerate().map(|(i, s)| (s.name.as_str(), i)).collect();
    let mut missing = vec![0usize; services.len()];
    let mut dependants = vec![Vec::new(); services.len()];
    for (node, service) in services.iter().enumerate() {
        for target in service.depends_on.iter().filter_map(|name| index.get(name.as_str())) {
            missing[node] += 1;
            dependants[*target].push(node);
        }
    }
    let mut order: Vec<usize> = (0..services.len()).filter(|&node| missing[node] == 0).collect();
    let mut next = 0;
    while next < order.len() {
        for &dependant in &dependants[order[next]] {
            missing[dependant] -= 1;
            if missing[dependant] == 0 {
                order.push(dependant);
            }
        }
        next += 1;
    }
    order.extend((0..services.len()).filter(|&node| missing[node] > 0));
    order.into_iter().map(|node| &services[node]).collect()
}
