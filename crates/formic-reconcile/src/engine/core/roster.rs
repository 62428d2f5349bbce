//! All instances that the core knows, and what belongs to each.
//!
//! A turn is about one of them, mostly, and there may be a thousand. So one is found by its id without looking at the others;
//! where those of a service stand is kept, and not sorted out anew for each plan; and a row that people are shown is made when
//! something has changed that it is made from. For that, nothing here can be changed but through what takes note of it.

use std::collections::HashMap;
use std::sync::Arc;

use formic_plan::{Index, Instance, InstanceId, Observed, Places};

use crate::engine::cell::Cell;
use crate::engine::view::row;
use crate::view::InstanceView;

/// See the module.
#[derive(Default)]
pub(crate) struct Roster {
    observed: Observed,
    /// What belongs to each, at the same position.
    cells: Vec<Cell>,
    /// How each was last shown, at the same position: nothing of one that has changed since.
    rows: Vec<Option<Row>>,
    at: HashMap<InstanceId, usize>,
    index: Index,
}

/// How an instance was shown.
struct Row {
    /// As one that gets no calls.
    standby: bool,
    shown: Arc<InstanceView>,
}

impl Roster {
    /// What the planner goes by.
    pub(crate) fn observed(&self) -> &Observed {
        &self.observed
    }

    /// The same, by service and slot.
    pub(crate) fn places(&self) -> Places<'_> {
        Places::by(&self.index, &self.observed)
    }

    /// All of them, as they came.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &Instance> {
        self.observed.instances.iter()
    }

    /// Those of one service with what belongs to them, by slot.
    pub(crate) fn of(&self, service: &str) -> impl Iterator<Item = (&Instance, &Cell)> {
        self.index.of(service).filter_map(|at| Some((self.observed.instances.get(at)?, self.cells.get(at)?)))
    }

    /// What a slot holds, see [`Observed::slot`].
    pub(crate) fn slot(&self, service: &str, slot: u32) -> Option<&Instance> {
        self.observed.instances.get(self.index.slot(&self.observed, service, slot)?)
    }

    pub(crate) fn contains(&self, id: &InstanceId) -> bool {
        self.at.contains_key(id)
    }

    pub(crate) fn ids(&self) -> impl Iterator<Item = &InstanceId> {
        self.observed.instances.iter().map(|instance| &instance.id)
    }

    pub(crate) fn instance(&self, id: &InstanceId) -> Option<&Instance> {
        self.observed.instances.get(*self.at.get(id)?)
    }

    /// To change anything of it but its id, its service and its slot.
    pub(crate) fn instance_mut(&mut self, id: &InstanceId) -> Option<&mut Instance> {
        let at = *self.at.get(id)?;
        *self.rows.get_mut(at)? = None;
        self.observed.instances.get_mut(at)
    }

    pub(crate) fn cell(&self, id: &InstanceId) -> Option<&Cell> {
        self.cells.get(*self.at.get(id)?)
    }

    /// To change it.
    pub(crate) fn cell_mut(&mut self, id: &InstanceId) -> Option<&mut Cell> {
        let at = *self.at.get(id)?;
        *self.rows.get_mut(at)? = None;
        self.cells.get_mut(at)
    }

    /// One more, in a slot of its own or beside others.
    pub(crate) fn add(&mut self, instance: Instance, cell: Cell) {
        let at = self.observed.instances.len();
        self.index.came(&instance, at);
        self.at.insert(instance.id.clone(), at);
        self.observed.instances.push(instance);
        self.cells.push(cell);
        self.rows.push(None);
    }

    /// One in the place of what its slot held, if it held anything: that is forgotten.
    pub(crate) fn begin(&mut self, instance: Instance, cell: Cell) {
        let Some(at) = self.index.slot(&self.observed, &instance.service, instance.slot) else {
            return self.add(instance, cell);
        };
        self.at.remove(&self.observed.instances[at].id);
        self.at.insert(instance.id.clone(), at);
        self.observed.instances[at] = instance;
        self.cells[at] = cell;
        self.rows[at] = None;
    }

    /// Forgets those that are gone of services that are not known. Says which.
    pub(crate) fn forget(&mut self, is_known: impl Fn(&str) -> bool) -> Vec<InstanceId> {
        let is_over = |service: &str| !is_known(service) && self.of(service).any(|(i, _)| !i.is_live());
        if !self.index.services().any(is_over) {
            return Vec::new();
        }
        let mut gone = Vec::new();
        let before = std::mem::take(self);
        for ((instance, cell), row) in
            before.observed.instances.into_iter().zip(before.cells).zip(before.rows)
        {
            if instance.is_live() || is_known(&instance.service) {
                self.add(instance, cell);
                // Neither has changed.
                if let Some(place) = self.rows.last_mut() {
                    *place = row;
                }
            } else {
                gone.push(instance.id);
            }
        }
        gone
    }

    /// The rows of those of a service that are shown, by slot.
    pub(crate) fn rows(
        &mut self,
        service: &str,
        is_told: impl Fn(&Instance) -> bool,
        is_standby: impl Fn(&Instance) -> bool,
    ) -> Vec<Arc<InstanceView>> {
        let mut rows = Vec::new();
        for at in self.index.of(service) {
            let instance = &self.observed.instances[at];
            if !is_told(instance) {
                continue;
            }
            let standby = is_standby(instance);
            let known = &mut self.rows[at];
            let shown = match known.take().filter(|row| row.standby == standby) {
                Some(row) => row.shown,
                None => Arc::new(row(instance, &self.cells[at], standby)),
            };
            rows.push(Arc::clone(&shown));
            *known = Some(Row { standby, shown });
        }
        rows
    }

    /// The same as if none of them had been shown before.
    #[cfg(test)]
    pub(crate) fn rows_anew(
        &self,
        service: &str,
        is_told: impl Fn(&Instance) -> bool,
        is_standby: impl Fn(&Instance) -> bool,
    ) -> Vec<Arc<InstanceView>> {
        let shown = self.of(service).filter(|(instance, _)| is_told(instance));
        shown.map(|(instance, cell)| Arc::new(row(instance, cell, is_standby(instance)))).collect()
    }

    /// Whether all that is kept is what it would be if it were sorted out anew.
    #[cfg(test)]
    pub(crate) fn check(&self) {
        let all = &self.observed.instances;
        assert_eq!(self.index, Index::new(&self.observed));
        assert_eq!((self.cells.len(), self.rows.len(), self.at.len()), (all.len(), all.len(), all.len()));
        assert!(all.iter().enumerate().all(|(at, instance)| self.at.get(&instance.id) == Some(&at)));
        for (instance, cell) in all.iter().zip(&self.cells) {
            assert!(cell.output.stdout.to_string_lossy().contains(instance.id.as_str()), "its own cell");
            let (service, slot) = (&instance.service, instance.slot);
            assert_eq!(self.slot(service, slot), self.observed.slot(service, slot));
        }
    }
}
