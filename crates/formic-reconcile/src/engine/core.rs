//! The decisions: what is wanted, what is there, and what follows from what happens. Pure: no clock, no
//! process, no runtime.
//!
//! [`Core::handle`] takes events and gives back effects as data, so that every order of events can be a
//! test. The rules of restarts, of order and of rollouts are not here but in `formic_plan`; here is what a
//! plan means for processes ([`process`]) and what people may ask for ([`wish`]). Every decision is recorded
//! with its cause.

mod adopt;
mod cron;
mod outcome;
mod process;
mod roster;
mod save;
mod wish;

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::ffi::OsString;
use std::sync::Arc;
use std::time::Duration;

use formic_core::Members;
use formic_plan::{
    Action, Decision, Desired, Facts, Fleet, Instance, InstanceId, Observed, Plan, Role, Service, StartCause,
    StopCause, Time, Timetable, WaitCause, What, plan, plan_at, why,
};
use formic_supervise::ExitStatus;
use serde_json::Value;
use tokio::sync::oneshot;

pub(crate) use self::adopt::{Fate, Found};
use self::roster::Roster;
use self::save::{Kept, Save};
use super::cell::StopKind;
use super::effects::{Answer, Effect};
use super::{Command, Config, Generation, Refused, Stopped, WayBack};
use crate::journal::{Kind, News};
use crate::probe::Heard;
use crate::sockets::Wanted;
use crate::start::Listen;

/// What has just been done has deadlines of its own, and may let a rollout go on; so often it is planned
/// anew before the rest is left to the next turn.
const ROUNDS: usize = 4;

/// A moment, on the planner's clock and on the wall's.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Now {
    pub(crate) time: Time,
    /// Milliseconds since 1970.
    pub(crate) unix_ms: i64,
}

impl Now {
    /// Milliseconds since 1970, of a clock that was not set before that.
    pub(crate) fn wall(self) -> u64 {
        u64::try_from(self.unix_ms).unwrap_or_default()
    }
}

/// Something that happened.
#[derive(Debug)]
pub(crate) enum Event {
    /// Somebody asks for something.
    Command(Command),
    /// An instance has a process, and this port if one was chosen for it.
    Started { id: InstanceId, pid: u32, port: Option<u16> },
    /// An instance could not be started.
    NotStarted {
        id: InstanceId,
        why: String,
        /// For want of something that the engine, or the machine, has too little of.
        withheld: bool,
    },
    /// The first process of an instance ended.
    LeaderExited { id: InstanceId, status: ExitStatus },
    /// All processes of an instance are gone.
    Gone { id: InstanceId, status: ExitStatus, killed: bool },
    /// An instance could not be stopped.
    NotStopped { id: InstanceId, why: String },
    /// A probe succeeds, fails after it did, or fails for another reason than before.
    Probed { id: InstanceId, heard: Heard },
    /// The registry has these instances.
    Registered(Members),
    /// What an engine before this one has left; comes first, if it comes.
    Adopted(Vec<Found>),
    /// It is time to look again.
    Timer,
}

/// What follows from events.
#[derive(Debug)]
pub(crate) struct Turn {
    /// To be written down before anything is carried out, if there is anything.
    pub(crate) save: Option<Box<Save>>,
    /// To be carried out in this order.
    pub(crate) effects: Vec<Effect>,
    /// When to look again though nothing happened.
    pub(crate) wake_at: Option<Time>,
    /// A stop is complete.
    pub(crate) ended: Option<Stopped>,
}

/// Who calls must have found the registry of a new engine before it takes away what they know: those that
/// watch it come back within half of this.
const CALM: Duration = Duration::from_secs(2);

/// Everything that decisions are made from.
pub(crate) struct Core {
    config: Config,
    /// The part of the engine's environment that instances get.
    inherited: BTreeMap<String, OsString>,
    random: fastrand::Rng,
    /// What ended by itself and is to be started again, unless that is decided otherwise in the same turn.
    backs_off: Vec<InstanceId>,
    /// The present moment, as of the last turn.
    now: Now,
    /// What is wanted of each service, and how far it is.
    pub(super) fleet: Fleet,
    /// The cron jobs, and their runs.
    pub(super) timetable: Timetable,
    /// What is wanted of each slot now, as the fleet says, or nothing during a stop.
    pub(super) desired: Desired,
    /// The plan of the last turn.
    plan: Plan,
    pub(super) tag: Arc<Value>,
    /// The desired states that were, oldest first, and the present one.
    history: VecDeque<Arc<Generation>>,
    /// What there is.
    pub(super) roster: Roster,
    /// What the registry has, once it was heard.
    registered: Option<Members>,
    /// Instances that are hidden from those who call.
    hidden: BTreeSet<String>,
    /// The public addresses that are kept open, once somebody has said what is wanted.
    listening: Option<Wanted>,
    /// For what nothing was done at the last turn, by service and slot.
    waits: BTreeMap<(String, u32), WaitCause>,
    /// Who waits for the end, once there is to be one.
    stopping: Option<Vec<oneshot::Sender<Stopped>>>,
    killed: u32,
    /// Who waits until nothing runs any more, while the engine goes on.
    downs: Vec<oneshot::Sender<Result<Stopped, Refused>>>,
    /// Until when an engine that has taken over replaces nothing.
    calm_until: Time,
    /// Why what is on disk is not what was wanted last: nothing follows from it until somebody says anew what is.
    distrust: Option<String>,
    /// What is on disk of all this; nothing is if nothing is kept.
    kept: Option<Kept>,
    /// What is gone and has a record that says how, until what follows from that is on disk.
    over: Vec<InstanceId>,
    effects: Vec<Effect>,
    /// What becomes of what comes with a desired state when a service goes back.
    pub(super) way_back: Option<WayBack>,
}

impl std::fmt::Debug for Core {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Core")
            .field("app", &self.config.app)
            .field("generation", &self.desired.generation)
            .field("instances", &self.roster.observed().instances.len())
            .finish_non_exhaustive()
    }
}

impl Core {
    /// Wants nothing yet.
    pub(crate) fn new(config: Config, inherited: BTreeMap<String, OsString>, random: fastrand::Rng) -> Self {
        Self {
            config,
            inherited,
            random,
            backs_off: Vec::new(),
            now: Now::default(),
            fleet: Fleet::default(),
            timetable: Timetable::default(),
            desired: Desired::nothing(0),
            plan: plan(&Desired::nothing(0), &Observed::default(), Time::default()),
            tag: Arc::default(),
            history: VecDeque::new(),
            roster: Roster::default(),
            registered: None,
            hidden: BTreeSet::new(),
            listening: None,
            waits: BTreeMap::new(),
            stopping: None,
            killed: 0,
            downs: Vec::new(),
            calm_until: Time::default(),
            distrust: None,
            kept: None,
            over: Vec::new(),
            effects: Vec::new(),
            way_back: None,
        }
    }

    /// Takes note of what happened, in order, and then plans once.
    pub(crate) fn handle(&mut self, events: impl IntoIterator<Item = Event>, now: Now) -> Turn {
        self.now = now;
        for event in events {
            self.note(event);
        }
        let mut wake_at = None;
        for _ in 0..ROUNDS {
            let settled;
            (settled, wake_at) = self.act();
            if settled {
                break;
            }
        }
        self.hide();
        self.listen();
        self.forget();
        let ended = self.end();
        self.answer_downs();
        let save = self.save();
        Turn { save, effects: std::mem::take(&mut self.effects), wake_at, ended }
    }

    fn note(&mut self, event: Event) {
        match event {
            Event::Timer => {}
            Event::Command(command) => self.command(command),
            Event::Started { id, pid, port } => self.started(&id, pid, port),
            Event::NotStarted { id, why, withheld } => self.not_started(&id, why, withheld),
            Event::LeaderExited { id, status } => self.leader_exited(id, status),
            Event::Gone { id, status, killed } => self.gone(&id, status, killed),
            Event::NotStopped { id, why } => self.not_stopped(&id, &why),
            Event::Probed { id, heard } => self.probed(&id, heard),
            Event::Registered(known) => self.registered(known),
            Event::Adopted(found) => self.adopt(found),
        }
    }

    /// Goes on with the rollouts, plans, and makes effects of the actions. Says whether there was nothing to
    /// do, and when to look again.
    fn act(&mut self) -> (bool, Option<Time>) {
        if self.wants_nothing_yet() {
            return (true, None);
        }
        let (changed, wake_at) = self.advance();
        let plan = plan_at(&self.desired, &self.roster.places(), self.now.time);
        if !plan.is_idle() {
            tracing::debug!(%plan, "acting");
        }
        self.record_backoffs(&plan);
        let mut waits = BTreeMap::new();
        let calm = self.now.time < self.calm_until;
        let mut held = 0;
        for action in &plan.actions {
            match action {
                // What runs may be of a revision that is not known here any more, and is the right one.
                Action::Start { cause: StartCause::Restart(_), .. }
                | Action::Kill { .. }
                | Action::Wait { .. } => {}
                _ if self.distrust.is_some() => {
                    held += 1;
                    continue;
                }
                _ => {}
            }
            match action {
                Action::Stop { cause: StopCause::Replaced | StopCause::ScaledDown, .. } if calm => held += 1,
                Action::Kill { instance, .. } => self.stop(instance, StopKind::Kill, StopCause::Requested),
                Action::Stop { instance, grace, cause, .. } => {
                    self.stop(instance, StopKind::Ask(grace.get()), *cause);
                }
                Action::Start { service, slot, cause, .. } => self.start(service, *slot, cause),
                Action::Adjust { instance, service, .. } => self.adjust(instance, service),
                Action::Wait { service, slot, cause } => {
                    drop(waits.insert((service.clone(), *slot), cause.clone()));
                }
                _ => tracing::warn!(%action, "the planner asks for something unknown"),
            }
        }
        self.record_waits(waits);
        let wake_at = wake_at.into_iter().chain(plan.wake_at);
        let wake_at = wake_at.chain((held > 0 && calm).then_some(self.calm_until)).min();
        let to_do = plan.actions.iter().filter(|action| !matches!(action, Action::Wait { .. })).count();
        let settled = to_do == held && !changed;
        self.plan = plan;
        (settled, wake_at)
    }

    /// Goes on with the rollouts and with the cron jobs; says whether one of them changed, and when to look again.
    fn advance(&mut self) -> (bool, Option<Time>) {
        if self.is_stopping() {
            return (false, None);
        }
        if self.distrust.is_some() {
            // How far rollouts are is not known either, nor which runs of jobs there were.
            self.desired = self.fleet.clone().advance_at(&self.roster.places(), self.now.time).desired;
            return (false, None);
        }
        let advance = self.fleet.advance_at(&self.roster.places(), self.now.time);
        self.desired = advance.desired;
        let reverts = |decision: &Decision| matches!(decision.what, What::Reverts { .. });
        let reverted: Vec<String> =
            advance.decisions.iter().filter(|d| reverts(d)).map(|d| d.service.clone()).collect();
        self.record_decisions(&advance.decisions);
        if !reverted.is_empty() {
            // Something else is wanted from now on than what was asked for.
            self.fleet.generation += 1;
            self.desired.generation = self.fleet.generation;
            self.reverted(&reverted);
            self.bring_back(&reverted);
            self.remember(format!("the way back of {}", reverted.join(", ")));
        }
        self.conclude();
        let (ticked, due_at) = self.tick();
        (advance.changed || ticked, advance.wake_at.into_iter().chain(due_at).min())
    }

    fn record_decisions(&mut self, decisions: &[Decision]) {
        self.record_decisions_of(decisions, "");
    }

    /// The same, with more to say of them.
    fn record_decisions_of(&mut self, decisions: &[Decision], more: &str) {
        for decision in decisions {
            let text = decision.to_string();
            // The service stands beside it.
            let text = text.strip_prefix(&format!("{} ", decision.service)).unwrap_or(&text);
            let news = self.news(Kind::Rollout, &decision.service, "", format!("{text}{more}"));
            self.effects.push(news);
        }
    }

    /// Hides what is to get no calls from those who call.
    fn hide(&mut self) {
        let standby: HashMap<&str, &Service> = self
            .desired
            .services
            .iter()
            .filter(|service| service.has_standby())
            .map(|service| (service.name.as_str(), service))
            .collect();
        if standby.is_empty() && self.hidden.is_empty() {
            return;
        }
        let role = |service: &Service, slot| service.at(slot).map(|template| template.role);
        let is_hidden = |i: &&Instance| match standby.get(i.service.as_str()).and_then(|of| role(of, i.slot))
        {
            Some(role) => role == Role::Standby,
            // It is wanted no more, as what got no calls, and gets none while it comes to its end.
            None if self.hidden.contains(i.id.as_str()) => {
                let service = self.desired.service(&i.service);
                service.and_then(|service| role(service, i.slot)) != Some(Role::Serving)
            }
            None => false,
        };
        let live = self.roster.iter().filter(|i| i.is_live());
        let hidden: BTreeSet<String> = live.filter(is_hidden).map(|i| i.id.as_str().to_owned()).collect();
        if hidden != self.hidden {
            self.hidden.clone_from(&hidden);
            self.effects.push(Effect::Hide(hidden));
        }
    }

    /// Keeps open what somebody is wanted to listen on.
    fn listen(&mut self) {
        if self.wants_nothing_yet() {
            return;
        }
        let mut wanted = Wanted::new();
        for service in &self.desired.services {
            for start in service.starts() {
                // Read only where there is something to read: this is every turn's.
                if let Some(listen) = start.get("listen") {
                    let listen: Vec<Listen> = serde_json::from_value(listen.clone()).unwrap_or_default();
                    wanted.extend(listen.into_iter().map(|listen| (listen.address, service.name.clone())));
                }
            }
        }
        if self.listening.as_ref() != Some(&wanted) {
            self.listening = Some(wanted.clone());
            self.effects.push(Effect::Listen(wanted));
        }
    }

    /// Before anybody has said what is wanted, what runs may be what is wanted.
    fn wants_nothing_yet(&self) -> bool {
        self.fleet.generation == 0 && self.history.is_empty() && !self.is_stopping()
    }

    /// Why a service is as it is.
    fn why(&self, service: &str) -> Option<String> {
        let facts = Facts { desired: &self.desired, observed: self.roster.observed(), plan: &self.plan };
        let mut text = why(service, self.fleet.deployment(service), facts, self.now.time)?;
        if let Some(entry) = self.timetable.entry(service) {
            text.push(' ');
            text.push_str(&entry.tell(self.now.wall()));
        }
        if let Some(distrust) = &self.distrust {
            text.push_str(&format!(" {distrust}."));
        }
        if let Some(hint) = self.why_silent(service) {
            text.push(' ');
            text.push_str(&hint);
        }
        Some(text)
    }

    /// Why nothing follows from what is wanted.
    pub(super) fn held(&self) -> Option<&str> {
        self.distrust.as_deref()
    }

    pub(super) fn is_stopping(&self) -> bool {
        self.stopping.is_some()
    }

    /// A wait is news once. That one backs off was recorded when it ended.
    fn record_waits(&mut self, waits: BTreeMap<(String, u32), WaitCause>) {
        for ((service, slot), cause) in &waits {
            let known = self.waits.get(&(service.clone(), *slot)) == Some(cause);
            if !known && !matches!(cause, WaitCause::Backoff(_)) {
                let news = self.news(Kind::Wait, service, "", format!("{service}/{slot} {cause}"));
                self.effects.push(news);
            }
        }
        self.waits = waits;
    }

    /// What is not wanted and gone needs no memory; during a stop it is still shown.
    fn forget(&mut self) {
        if self.stopping.is_some() {
            return;
        }
        // A slot that is not wanted for now keeps its count of restarts, and how a run of a job ended is told to the timetable,
        // if it does not go on for now.
        let (desired, timetable) = (&self.desired, &self.timetable);
        let is_known =
            |service: &str| desired.service(service).is_some() || timetable.entry(service).is_some();
        for id in self.roster.forget(is_known) {
            if let Some(kept) = &mut self.kept {
                kept.forget(&id);
            }
        }
    }

    fn end(&mut self) -> Option<Stopped> {
        if self.stopping.is_none() || self.is_anything_left() {
            return None;
        }
        let stopped = Stopped { killed: self.killed };
        let waiting = self.stopping.take().unwrap_or_default();
        self.effects.extend(waiting.into_iter().map(|done| Effect::Answer(Answer::Stopped(done, stopped))));
        Some(stopped)
    }

    /// Whether there is something that a stop can still wait for.
    fn is_anything_left(&self) -> bool {
        self.roster.iter().any(|instance| instance.is_live() && !instance.is_quarantined())
    }

    fn answer_downs(&mut self) {
        if !self.downs.is_empty() && !self.is_anything_left() {
            let stopped = Stopped { killed: self.killed };
            let downs = self.downs.drain(..);
            self.effects.extend(downs.map(|done| Effect::Answer(Answer::Down(done, Ok(stopped)))));
        }
    }

    /// To change it: what is written down of it is stale from then on.
    fn instance(&mut self, id: &InstanceId) -> Option<&mut Instance> {
        if let Some(kept) = &mut self.kept {
            kept.touch(id);
        }
        self.roster.instance_mut(id)
    }

    fn service_of(&self, id: &InstanceId) -> String {
        self.roster.instance(id).map(|instance| instance.service.clone()).unwrap_or_default()
    }

    fn news(&self, kind: Kind, service: &str, instance: &str, text: String) -> Effect {
        Effect::Record(News {
            unix_ms: self.now.unix_ms,
            kind,
            service: service.to_owned(),
            instance: instance.to_owned(),
            text,
        })
    }

    /// Records something about an instance.
    fn record(&mut self, kind: Kind, id: &InstanceId, text: String) {
        let news = self.news(kind, &self.service_of(id), id.as_str(), text);
        self.effects.push(news);
    }

    /// Tells people, and shows them the last of what the instance wrote.
    fn tell(&mut self, id: &InstanceId, text: String) {
        let output = self.roster.cell(id).map(|cell| cell.output.clone()).unwrap_or_default();
        self.effects.push(Effect::Tell { service: self.service_of(id), text, output });
    }
}

#[cfg(test)]
mod tests;
