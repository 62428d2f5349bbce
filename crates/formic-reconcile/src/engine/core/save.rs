//! What of all this is written down, and read again at a start: whatever a decision was made from that cannot
//! be seen again by looking.
//!
//! A turn's part is written before its effects are carried out. So a crash between the two repeats a decision,
//! and takes none back.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use formic_plan::{Fleet, InstanceId, Service, Timetable};
use formic_state::{Error, Event, Held, State};
use formic_supervise::failpoint;
use serde_json::Value;
use tokio::task::JoinError;

use super::{Core, Now};
use crate::engine::Generation;
use crate::engine::cell::Cell;
use crate::engine::effects::Effect;
use crate::journal::Kind;
use crate::start::Start;

/// What has changed and is to be written.
#[derive(Debug, Default)]
pub(crate) struct Save {
    fleet: Option<Fleet>,
    timetable: Option<Timetable>,
    generations: Vec<formic_state::Generation>,
    instances: Vec<Held>,
    gone: Vec<InstanceId>,
    events: Vec<Event>,
    /// Whose records are needed no more once all this is written.
    over: Vec<InstanceId>,
}

/// What is on disk.
#[derive(Debug, Default)]
pub(crate) struct Kept {
    /// `None` where that is not known.
    fleet: Option<Fleet>,
    timetable: Option<Timetable>,
    /// The last desired state.
    index: u64,
    /// Earlier ones of which it is known by now what became of them.
    concluded: BTreeSet<u64>,
    stale: BTreeSet<InstanceId>,
    gone: Vec<InstanceId>,
}

// === impl Kept ===

impl Kept {
    pub(super) fn touch(&mut self, id: &InstanceId) {
        if !self.stale.contains(id) {
            self.stale.insert(id.clone());
        }
    }

    pub(super) fn concluded(&mut self, index: u64) {
        self.concluded.insert(index);
    }

    pub(super) fn forget(&mut self, id: &InstanceId) {
        self.stale.remove(id);
        self.gone.push(id.clone());
    }
}

// === impl Save ===

impl Save {
    /// Writes it, whole or not at all. When this returns it is on the disk.
    pub(crate) fn commit(&self, state: &State, boot: &str) -> Result<(), Error> {
        if self.is_empty() {
            return Ok(());
        }
        let promotes = self.events.iter().any(|event| event.kind == Kind::Rollout.as_str());
        failpoint::hit("save.before");
        if promotes {
            failpoint::hit("promote.before");
        }
        self.write(state, boot)?;
        failpoint::hit("save.after");
        if promotes {
            failpoint::hit("promote.after");
        }
        Ok(())
    }

    fn write(&self, state: &State, boot: &str) -> Result<(), Error> {
        let mut write = state.write()?;
        if let Some(fleet) = &self.fleet {
            write.fleet(fleet, boot)?;
        }
        if let Some(timetable) = &self.timetable {
            write.timetable(timetable)?;
        }
        for generation in &self.generations {
            write.generation(generation)?;
        }
        for held in &self.instances {
            write.instance(held)?;
        }
        for id in &self.gone {
            write.forget_instance(id)?;
        }
        for event in &self.events {
            write.event(event)?;
        }
        write.commit()
    }

    /// The instances whose ends are on the disk with it.
    pub(crate) fn over(&self) -> impl Iterator<Item = &str> {
        self.over.iter().map(InstanceId::as_str)
    }

    /// Whether what is wanted, or how far that is, is in it. What was not written once is in each one until it is.
    pub(crate) fn is_of_what_is_wanted(&self) -> bool {
        self.fleet.is_some() || !self.generations.is_empty()
    }

    /// Whether there is nothing to be written.
    fn is_empty(&self) -> bool {
        let Self { fleet, timetable, generations, instances, gone, events, over: _ } = self;
        fleet.is_none()
            && timetable.is_none()
            && generations.is_empty()
            && instances.is_empty()
            && gone.is_empty()
            && events.is_empty()
    }
}

// === impl Core ===

impl Core {
    /// Goes on from what was written, and has everything written from now on. `boot` is the identity of this
    /// start of the machine. To be called before anything is handled.
    pub(crate) fn restore(&mut self, state: &State, boot: &str, now: Now) -> Result<(), Error> {
        self.now = now;
        let mut kept = Kept::default();
        let mut rebooted = false;
        if let Some((fleet, of)) = state.fleet()? {
            rebooted = of != boot;
            self.fleet = fleet;
        }
        self.timetable = state.timetable()?;
        if rebooted {
            self.fleet.restart_clock(now.time);
            self.timetable.restart_clock(now.time);
        } else {
            kept.fleet = Some(self.fleet.clone());
            kept.timetable = Some(self.timetable.clone());
        }
        for stored in state.generations()? {
            kept.index = stored.index;
            self.history.push_back(Arc::new(Generation {
                index: stored.index,
                unix_ms: stored.unix_ms,
                cause: stored.cause,
                services: stored.services,
                tag: Arc::new(stored.tag),
                outcome: stored.outcome,
                why: stored.why,
                restarted: stored.restarted,
            }));
        }
        self.tag = self.history.back().map(|present| Arc::clone(&present.tag)).unwrap_or_default();
        for Held { mut instance, rest } in state.instances()? {
            let Ok(cell) = serde_json::from_value::<Cell>(rest) else {
                // Its record still says that there is a process; without this it is a stray.
                tracing::warn!(instance = %instance.id, "what is kept of it cannot be read");
                continue;
            };
            if rebooted {
                instance.restart_clock(now.time);
                kept.touch(&instance.id);
            }
            self.roster.add(instance, cell);
        }
        self.desired.generation = self.fleet.generation;
        self.kept = Some(kept);
        if let Some(lost) = state.lost() {
            let changes =
                if lost.commits == 1 { "change is".into() } else { format!("{} changes are", lost.commits) };
            let text = format!(
                "The state on disk is older than it should be: its last {changes} missing. What runs goes on, and nothing is \
                 started, replaced or stopped but what crashes, until `formic apply` or `formic rollback` says what is wanted"
            );
            let news = self.news(Kind::Failed, "", "", text.clone());
            self.effects.push(news);
            self.distrust = Some(text);
        }
        Ok(())
    }

    /// What is to be written before the effects of this turn.
    pub(super) fn save(&mut self) -> Option<Box<Save>> {
        let over = std::mem::take(&mut self.over);
        let kept = self.kept.as_mut()?;
        let mut save = Save { over, ..Save::default() };
        if kept.fleet.as_ref() != Some(&self.fleet) {
            kept.fleet = Some(self.fleet.clone());
            save.fleet = Some(self.fleet.clone());
        }
        if kept.timetable.as_ref() != Some(&self.timetable) {
            kept.timetable = Some(self.timetable.clone());
            save.timetable = Some(self.timetable.clone());
        }
        let concluded = std::mem::take(&mut kept.concluded);
        let is_new = |index: u64| index > kept.index || concluded.contains(&index);
        for generation in self.history.iter().filter(|generation| is_new(generation.index)) {
            save.generations.push(stored(generation));
        }
        kept.index = self.history.back().map_or(kept.index, |last| last.index);
        let stale = std::mem::take(&mut kept.stale);
        save.gone = std::mem::take(&mut kept.gone);
        for instance in stale.iter().filter_map(|id| self.roster.instance(id)) {
            let rest = self.roster.cell(&instance.id).map(rest).unwrap_or_default();
            save.instances.push(Held { instance: instance.clone(), rest });
        }
        save.events = self.effects.iter().filter_map(event).collect();
        (!save.is_empty() || !save.over.is_empty()).then(|| Box::new(save))
    }

    /// Takes note of how the writing went; a panic is a failure like others.
    pub(crate) fn written<T>(
        &mut self,
        save: &Save,
        went: Result<Result<T, String>, JoinError>,
    ) -> Result<T, String> {
        let went = went.unwrap_or_else(|panic| Err(panic.to_string()));
        if went.is_err() {
            self.unsaved(save);
        }
        went
    }

    /// What was to be written was not: all of it is written with the next turn, apart from events.
    pub(super) fn unsaved(&mut self, save: &Save) {
        self.over.extend(save.over.iter().cloned());
        let Some(kept) = &mut self.kept else { return };
        if save.fleet.is_some() {
            kept.fleet = None;
        }
        if save.timetable.is_some() {
            kept.timetable = None;
        }
        if let Some(first) = save.generations.first() {
            kept.index = kept.index.min(first.index.saturating_sub(1));
        }
        kept.stale.extend(save.instances.iter().map(|held| held.instance.id.clone()));
        kept.gone.extend(save.gone.iter().cloned());
    }

    /// What is written beside the record of an instance, for an engine that has no database any more.
    pub(super) fn noted(&self, id: &InstanceId) -> Value {
        serde_json::to_value((self.roster.instance(id), self.roster.cell(id))).unwrap_or_default()
    }
}

fn rest(cell: &Cell) -> Value {
    serde_json::to_value(cell).unwrap_or_default()
}

fn stored(generation: &Generation) -> formic_state::Generation {
    formic_state::Generation {
        index: generation.index,
        unix_ms: generation.unix_ms,
        cause: generation.cause.clone(),
        services: generation.services.clone(),
        tag: (*generation.tag).clone(),
        secrets: secrets(&generation.services),
        outcome: generation.outcome,
        why: generation.why.clone(),
        restarted: generation.restarted.clone(),
    }
}

/// The versions that these services are given: they are kept for as long as there is a way back to them.
fn secrets(services: &[Service]) -> BTreeMap<String, BTreeSet<u64>> {
    let mut versions: BTreeMap<String, BTreeSet<u64>> = BTreeMap::new();
    for service in services {
        let start: Result<Start, _> = serde_json::from_value(service.start.clone());
        for given in start.map(|start| start.secrets).unwrap_or_default().into_values() {
            versions.entry(given.secret).or_default().insert(given.version);
        }
    }
    versions
}

fn event(effect: &Effect) -> Option<Event> {
    let Effect::Record(news) = effect else { return None };
    let some = |text: &String| (!text.is_empty()).then(|| text.clone());
    Some(Event {
        at_unix_ms: u64::try_from(news.unix_ms).unwrap_or_default(),
        kind: news.kind.as_str().into(),
        service: some(&news.service),
        instance: some(&news.instance),
        text: news.text.clone(),
    })
}
