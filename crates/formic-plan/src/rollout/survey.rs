//! What a service has, told apart by the release that it belongs to.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

use formic_spec::Condition;

use super::{Deployment, Failure, Release};
use crate::life::{End, Instance, Outcome, State};
use crate::needs::{have_completed, met};
use crate::places::{Places, best, slots};
use crate::state::{Service, Time};

/// The instances of every service.
pub(super) struct Index<'a> {
    places: &'a Places<'a>,
    /// Whether those that somebody waits for to come to their end have done so.
    completed: BTreeMap<String, bool>,
}

/// The instances of one service.
pub(super) struct Survey<'a> {
    /// Of the wanted release: live and not told to stop, stopping to be started again, dead and to be restarted,
    /// or done. Of any: quarantined.
    pub(super) new: Vec<&'a Instance>,
    /// Of other releases: live and not told to stop; those worth most first.
    pub(super) old: Vec<&'a Instance>,
    /// Of the last release that succeeded, if that is another one: dead and to be restarted.
    pub(super) fallen: Vec<&'a Instance>,
    /// How many are live, those that are stopping and second ones in a slot included.
    pub(super) live: u32,
    /// Slots with a live instance, ascending.
    pub(super) taken: Vec<u32>,
    /// That they are to come to an end: only that counts.
    job: bool,
    /// How often it may be tried, if that is said.
    tries: Option<u32>,
    now: Time,
}

impl<'a> Index<'a> {
    pub(super) fn new(places: &'a Places<'a>, deployments: &[Deployment]) -> Self {
        let mut index = Self { places, completed: BTreeMap::new() };
        let ends = |(_, condition): &(&String, &Condition)| **condition != Condition::Healthy;
        let conditions = deployments.iter().flat_map(|deployment| &deployment.wanted.service.conditions);
        let waited: BTreeSet<&str> = conditions.filter(ends).map(|(name, _)| name.as_str()).collect();
        for deployment in deployments {
            let service = &deployment.wanted.service;
            if waited.contains(service.name.as_str()) {
                let completed = deployment.has_completed() || index.have_completed(&deployment.wanted);
                index.completed.insert(service.name.clone(), completed);
            }
        }
        index
    }

    /// Whether all instances of a release have come to their end.
    fn have_completed(&self, release: &Release) -> bool {
        let service = &release.service;
        let template = release.template();
        let wanted = service.replicas as usize;
        have_completed(self.holders(&service.name), wanted, |i| i.is_restarted_by(&template))
    }

    /// What holds the slots of a service.
    fn holders(&self, service: &str) -> impl Iterator<Item = &'a Instance> {
        slots(self.places.of(service)).filter_map(|slot| best(slot, worth))
    }

    /// The services that this one waits for and that have not come so far.
    pub(super) fn unmet(&self, service: &Service) -> Vec<String> {
        let met = |name: &str| {
            // A cron job is none of the fleet's: of that only the last run is known.
            let last = || have_completed(self.holders(name), 1, |_| true);
            let completed = || self.completed.get(name).copied().unwrap_or_else(last);
            met(service.condition(name), self.holders(name), completed)
        };
        service.depends_on.iter().filter(|name| !met(name)).cloned().collect()
    }

    pub(super) fn survey(&self, deployment: &Deployment, now: Time) -> Survey<'a> {
        let wanted = &deployment.wanted;
        let good = deployment.good.as_ref().filter(|good| *good != wanted);
        let mut survey = Survey {
            new: Vec::new(),
            old: Vec::new(),
            fallen: Vec::new(),
            live: count(self.places.of(&wanted.service.name).iter().filter(|instance| instance.is_live())),
            taken: Vec::new(),
            job: wanted.service.job.is_some(),
            tries: wanted.service.job.as_ref().map(|job| job.retries.saturating_add(1)),
            now,
        };
        for instance in self.holders(&wanted.service.name) {
            let restarted = |release: &Release| instance.is_restarted_by(&release.template());
            if instance.is_live() {
                survey.taken.push(instance.slot);
                if instance.is_quarantined() {
                    // It may be running: whatever its release, nothing is started in its stead.
                    survey.new.push(instance);
                } else if instance.is_stopping() {
                    // Its place stays its own: another one beside it would know nothing of its failures.
                    if instance.is_stopped_to_return() && wanted.is_run_by(instance) {
                        survey.new.push(instance);
                    }
                } else {
                    let own = if wanted.is_run_by(instance) { &mut survey.new } else { &mut survey.old };
                    own.push(instance);
                }
            } else if restarted(wanted) {
                survey.new.push(instance);
            } else if good.is_some_and(restarted) && matches!(instance.state, State::Backoff { .. }) {
                survey.fallen.push(instance);
            }
        }
        survey.new = sorted(survey.new, |i| (Reverse(counts(i)), i.started, i.slot));
        // What never worked and what nothing goes back to is of no use unless it answers calls.
        let useless = |i: &Instance| !i.is_ready() && !good.is_some_and(|good| good.is_run_by(i));
        survey.old.retain(|instance| !useless(instance));
        survey.old.sort_by_key(|i| {
            (Reverse(i.is_ready()), Reverse(good.is_some_and(|good| good.is_run_by(i))), i.started, i.slot)
        });
        survey
    }
}

impl Survey<'_> {
    /// How many of the wanted release answer.
    pub(super) fn ready(&self) -> u32 {
        let counts = |i: &&&Instance| if self.job { i.is_completed() } else { counts(i) };
        count(self.new.iter().filter(counts))
    }

    /// How many of the wanted release have answered for so long without a break.
    pub(super) fn available(&self, min_ready: std::time::Duration) -> u32 {
        count(self.new.iter().filter(|instance| match instance.state {
            State::Ready { since } if !self.job => self.now.since(since) >= min_ready,
            _ => instance.is_completed(),
        }))
    }

    /// When the next instance will have answered for long enough.
    pub(super) fn next_available(&self, min_ready: std::time::Duration) -> Option<Time> {
        let due = self.new.iter().filter_map(|instance| match instance.state {
            State::Ready { since } => Some(since + min_ready),
            _ => None,
        });
        due.filter(|due| *due > self.now).min()
    }

    /// What holds up one that is not ready: the reason of its probe, or its end.
    pub(super) fn held_up(&self) -> Option<String> {
        self.new.iter().find_map(|instance| match instance.exit() {
            Some(exit) if !instance.is_completed() => Some(format!("{} {exit}", instance.id)),
            _ => instance.failing.as_ref().map(|why| format!("{} is not ready: {why}", instance.id)),
        })
    }

    /// What says already that the wanted release, brought by this rollout, cannot work.
    pub(super) fn failure(&self, rollout: u64) -> Option<Failure> {
        let own: Vec<&Instance> = self.new.iter().copied().filter(|i| i.rollout == rollout).collect();
        for instance in &own {
            match &instance.state {
                State::Backoff { exit, .. } | State::Exited { exit, end: End::Failed }
                    if matches!(exit.outcome, Outcome::NotStarted(_)) =>
                {
                    let Outcome::NotStarted(reason) = &exit.outcome else { continue };
                    return Some(Failure::NotStarted {
                        instance: instance.id.clone(),
                        reason: reason.clone(),
                    });
                }
                State::Exited { exit, end: End::Failed } => {
                    let tries = self.tries.filter(|tries| instance.history.failures >= *tries).unwrap_or(0);
                    let (instance, exit) = (instance.id.clone(), exit.clone());
                    return Some(Failure::Hopeless { instance, exit, tries });
                }
                _ => {}
            }
        }
        if self.job {
            // It is tried as often as its rule says.
            return None;
        }
        let crashes = own.iter().map(|i| i.history.crashes).fold(0, u32::saturating_add);
        let looping = own.iter().any(|i| i.history.crash_looping);
        (crashes >= super::CRASHES || looping).then(|| Failure::Crashes {
            count: crashes,
            last: own.iter().filter_map(|i| i.exit()).max_by_key(|exit| exit.at).cloned(),
        })
    }
}

/// Whether an instance does what it is for: it answers, or has done its work.
fn counts(instance: &Instance) -> bool {
    instance.is_ready() || instance.is_completed()
}

/// By keys that are taken once, and lie side by side while they are compared.
fn sorted<K: Ord>(instances: Vec<&Instance>, key: impl Fn(&Instance) -> K) -> Vec<&Instance> {
    let mut keyed: Vec<(K, &Instance)> = instances.into_iter().map(|i| (key(i), i)).collect();
    keyed.sort_by(|(a, _), (b, _)| a.cmp(b));
    keyed.into_iter().map(|(_, instance)| instance).collect()
}

fn count<T>(of: impl Iterator<Item = T>) -> u32 {
    u32::try_from(of.count()).unwrap_or(u32::MAX)
}

/// What the planner leaves in a slot that has several.
fn worth(instance: &Instance) -> impl Ord {
    (instance.is_live(), !instance.is_stopping(), instance.is_ready(), instance.recency())
}
