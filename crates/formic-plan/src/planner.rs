//! `plan`: the rules of the crate's page, one after the other.

mod ground;
mod order;

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use formic_spec::Dependents;

use self::ground::{Ground, Plot, Seat};
use self::order::release_circles;
use crate::action::{Action, Plan, StartCause, WaitCause};
use crate::life::{End, Instance, InstanceId, State, StopCause};
use crate::needs;
use crate::places::Places;
use crate::state::{Desired, Observed, Service, Time};

/// What is to be done now, so that in time the observed becomes the desired.
///
/// Takes time in proportion to what there is, not to its square.
#[must_use]
pub fn plan(desired: &Desired, observed: &Observed, now: Time) -> Plan {
    plan_at(desired, &Places::new(observed), now)
}

/// The same, of what is sorted already.
#[must_use]
pub fn plan_at(desired: &Desired, places: &Places<'_>, now: Time) -> Plan {
    let ground = Ground::new(desired, places);
    let mut planner = Planner::new(&ground, now);
    planner.kill();
    planner.stop_surplus();
    planner.stop_overdue();
    planner.stop_dependants();
    planner.replace();
    planner.start();
    planner.finish(desired.generation)
}

struct Planner<'g, 'a> {
    ground: &'g Ground<'a>,
    now: Time,
    /// Decided so far.
    doomed: HashSet<&'a InstanceId>,
    stops: Vec<Action>,
    actions: Vec<Action>,
    waits: Vec<Action>,
    wake_at: Option<Time>,
}

impl<'g, 'a> Planner<'g, 'a> {
    fn new(ground: &'g Ground<'a>, now: Time) -> Self {
        Self {
            ground,
            now,
            doomed: HashSet::new(),
            stops: Vec::new(),
            actions: Vec::new(),
            waits: Vec::new(),
            wake_at: None,
        }
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
        for instance in self.ground.plots().flat_map(|plot| &plot.live) {
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
        let leaving = || self.ground.plots().filter(|plot| plot.leaves() && !plot.live.is_empty());
        let mut held: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
        for instance in leaving().flat_map(|plot| &plot.live) {
            for dependency in instance.depends_on.iter().filter(|name| **name != instance.service) {
                held.entry(dependency).or_default().insert(&instance.service);
            }
        }
        if leaving().all(|plot| held.contains_key(plot.name)) {
            release_circles(&mut held);
        }
        for plot in self.ground.plots() {
            let cause = self.leave_cause(plot);
            let told = |instance: &&&'a Instance| !instance.is_stopping();
            if !plot.leaves() {
                for instance in plot.strays.iter().filter(told) {
                    // Without sets, a slot past the last is one too many whatever runs in it.
                    let first = plot.wanted.and_then(|service| service.sets.as_ref()?.first());
                    let replaced = first.is_some_and(|set| {
                        set.process != *instance.process() || instance.rollout < set.since
                    });
                    self.stop(instance, if replaced { StopCause::Replaced } else { StopCause::ScaledDown });
                }
                for instance in plot.surplus.iter().filter(told) {
                    self.stop(instance, StopCause::Duplicate);
                }
                continue;
            }
            for instance in plot.live.iter().filter(told) {
                match held.get(plot.name) {
                    Some(holders) => {
                        let holders = holders.iter().map(|holder| (*holder).to_owned()).collect();
                        self.wait(plot.name, instance.slot, WaitCause::Dependants(holders));
                    }
                    None => self.stop(instance, cause),
                }
            }
        }
    }

    /// Why all of a service is to stop.
    fn leave_cause(&self, plot: &Plot<'a>) -> StopCause {
        match plot.wanted {
            _ if self.ground.is_empty() => StopCause::ShutDown,
            // A run of it made room for the next one.
            Some(service) if service.cron.is_some() => StopCause::Replaced,
            Some(_) => StopCause::ScaledDown,
            None => StopCause::Removed,
        }
    }

    /// What did not get ready in time, or, of a job, did not come to its end.
    fn stop_overdue(&mut self) {
        for (service, plot) in self.ground.wanted() {
            for (seat, instance) in plot.seats.iter().filter_map(|seat| Some((seat, seat.holder?))) {
                if let Some(within) = service.job.as_ref().and_then(|job| job.deadline)
                    && instance.is_live()
                    && !instance.is_stopping()
                    && !instance.ending
                {
                    let deadline = instance.started + within.get();
                    if self.now >= deadline {
                        self.stop(instance, StopCause::Overrun);
                        continue;
                    }
                    self.wake(deadline);
                }
                let State::Starting { since } = instance.state else {
                    continue;
                };
                if instance.ending {
                    // It is judged by its end.
                    continue;
                }
                let deadline = since + seat.template.ready_within.get();
                if self.now >= deadline {
                    self.stop(instance, StopCause::NotReady);
                } else if !self.doomed.contains(&instance.id) {
                    self.wake(deadline);
                }
            }
        }
    }

    /// What depends on a service that was restarted after it, and is to be restarted then. One that is
    /// restarted for this reason takes its own dependants along, if it says so.
    fn stop_dependants(&mut self) {
        let mut fell: HashMap<&str, Time> = HashMap::new();
        for (service, plot) in self.ground.in_order() {
            // What each instance was started with counts, not what is wanted now.
            let mut latest = None;
            for instance in plot.seats.iter().filter_map(|seat| seat.holder) {
                latest = latest.max(instance.history.last_exit);
                let cause = instance.depends_on.iter().filter_map(|name| fell.get(name.as_str())).max();
                if cause.is_some_and(|fell| *fell > instance.started) {
                    latest = latest.max(cause.copied());
                    if instance.is_live() && !instance.is_stopping() {
                        self.stop(instance, StopCause::Dependency);
                    }
                }
            }
            if let (Dependents::Rest, Some(latest)) = (service.dependents, latest) {
                fell.insert(&service.name, latest);
            }
        }
    }

    /// What runs another revision. What can be changed in place is. Where it is of no use, at once; where it answers calls, one by one.
    fn replace(&mut self) {
        for (service, plot) in self.ground.wanted() {
            let other = |seat: &&Seat<'a>| {
                seat.holder.is_some_and(|i| i.is_live() && i.revision != *seat.template.revision)
            };
            if !plot.seats.iter().any(|seat| other(&seat)) {
                continue;
            }
            let answers = |seat: &&Seat<'a>| seat.holder.is_some_and(Instance::is_ready);
            let mut missing = plot.seats.iter().filter(|seat| !answers(seat)).count();
            let needs = self.needs(service);
            for Seat { slot, template, holder } in plot.seats.iter().filter(other).copied() {
                let Some(instance) = holder else { continue };
                match instance.state {
                    State::Stopping { .. } | State::Quarantined { .. } => {}
                    _ if self.doomed.contains(&instance.id) => {}
                    _ if instance.process() == template.process => self.actions.push(Action::Adjust {
                        instance: instance.id.clone(),
                        service: service.name.clone(),
                        slot,
                        revision: template.revision.clone(),
                    }),
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

    /// The dependencies of a service that have not come as far as it waits for, or are about to stop.
    fn needs(&self, service: &Service) -> Vec<String> {
        let met = |name: &str| {
            let Some(plot) = self.ground.plot(name) else { return false };
            let holders = || plot.holders.iter().copied();
            let completed = || plot.wanted.is_some_and(|service| needs::is_completed(service, holders()));
            let stay = holders().filter(|i| !self.doomed.contains(&i.id));
            needs::met(service.condition(name), stay, completed)
        };
        service.depends_on.iter().filter(|name| !met(name)).cloned().collect()
    }

    /// The services that are restarted after this one, of which some have not ended so far.
    fn followers(&self, service: &Service) -> Vec<String> {
        if service.dependents != Dependents::Rest {
            return Vec::new();
        }
        let told = self.stops.iter().filter_map(|action| match action {
            Action::Stop { instance, cause: StopCause::Dependency, .. } => Some(instance),
            _ => None,
        });
        let told: HashSet<&InstanceId> = told.collect();
        let follows = |i: &&&'a Instance| {
            let falls = matches!(i.state, State::Stopping { cause: StopCause::Dependency, .. });
            i.service != service.name
                && i.depends_on.contains(&service.name)
                && (falls || told.contains(&i.id))
        };
        let live = self.ground.plots().flat_map(|plot| &plot.live);
        let names: BTreeSet<&String> = live.filter(follows).map(|i| &i.service).collect();
        names.into_iter().cloned().collect()
    }

    /// What is wanted and not there, dependencies first.
    fn start(&mut self) {
        for (service, plot) in self.ground.in_order() {
            let runs = |instance: &Instance| instance.is_live() && !instance.is_quarantined();
            let idle = |seat: &&Seat<'a>| !seat.holder.is_some_and(runs);
            if !plot.seats.iter().any(|seat| idle(&seat)) {
                continue;
            }
            let (needs, followers) = (self.needs(service), self.followers(service));
            for Seat { slot, template, holder: last } in plot.seats.iter().filter(idle).copied() {
                let again = last.filter(|last| last.is_restarted_by(&template));
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
                    Some(State::Quarantined { .. }) => {
                        self.wait(&service.name, slot, WaitCause::Quarantined);
                        continue;
                    }
                    Some(_) => continue,
                }
                if !needs.is_empty() && !again.is_some_and(|last| last.history.was_ready) {
                    self.wait(&service.name, slot, WaitCause::Dependencies(needs.clone()));
                    continue;
                }
                if !followers.is_empty() {
                    self.wait(&service.name, slot, WaitCause::Followers(followers.clone()));
                    continue;
                }
                let cause = match (again, last) {
                    (Some(last), _) => StartCause::Restart(last.history.restarts.saturating_add(1)),
                    (None, Some(last)) if last.revision != *template.revision => {
                        StartCause::Revision(last.revision.clone())
                    }
                    _ => StartCause::Wanted,
                };
                self.actions.push(Action::Start {
                    service: service.name.clone(),
                    slot,
                    revision: template.revision.clone(),
                    cause,
                });
            }
        }
    }

    /// Kills were noted first and starts last; stops go between, in an order that depends on nothing
    /// else.
    fn finish(mut self, generation: u64) -> Plan {
        self.stops.sort_by(|a, b| key(a).cmp(&key(b)));
        self.waits.sort_by(|a, b| key(a).cmp(&key(b)));
        let starts = self.actions.iter().position(|action| matches!(action, Action::Start { .. }));
        let starts = self.actions.split_off(starts.unwrap_or(self.actions.len()));
        self.actions.sort_by(|a, b| key(a).cmp(&key(b)));
        let actions = [self.actions, self.stops, starts, self.waits].concat();
        Plan { generation, at: self.now, actions, wake_at: self.wake_at }
    }
}

fn key(action: &Action) -> (&str, u32, Option<&InstanceId>) {
    match action {
        Action::Kill { instance, service, slot }
        | Action::Stop { instance, service, slot, .. }
        | Action::Adjust { instance, service, slot, .. } => (service, *slot, Some(instance)),
        Action::Start { service, slot, .. } | Action::Wait { service, slot, .. } => (service, *slot, None),
    }
}
