//! What the rules go by: what is wanted in each slot beside what it holds.

use std::collections::HashMap;

use super::order::in_order;
use crate::life::Instance;
use crate::places::{Places, best, slots};
use crate::set::Template;
use crate::state::{Desired, Service};

/// All services, those that are wanted and those that are only there.
pub(super) struct Ground<'a> {
    /// The wanted ones first, as they are wanted.
    plots: Vec<Plot<'a>>,
    wanted: usize,
    by_name: HashMap<&'a str, usize>,
    /// The wanted ones, each after those that it depends on.
    order: Vec<usize>,
}

/// One service.
pub(super) struct Plot<'a> {
    pub(super) name: &'a str,
    pub(super) wanted: Option<&'a Service>,
    /// The slots that are wanted, ascending.
    pub(super) seats: Vec<Seat<'a>>,
    /// What holds a slot, wanted or not: the instance that stays.
    pub(super) holders: Vec<&'a Instance>,
    /// Live ones in a slot that another holds.
    pub(super) surplus: Vec<&'a Instance>,
    /// Those that live; without those that nobody can end, who hold up nobody.
    pub(super) live: Vec<&'a Instance>,
    /// Of these, those in slots that are not wanted.
    pub(super) strays: Vec<&'a Instance>,
}

/// A slot that is wanted.
#[derive(Clone, Copy)]
pub(super) struct Seat<'a> {
    pub(super) slot: u32,
    pub(super) template: Template<'a>,
    pub(super) holder: Option<&'a Instance>,
}

impl<'a> Ground<'a> {
    pub(super) fn new(desired: &'a Desired, places: &'a Places<'a>) -> Self {
        let mut plots: Vec<Plot<'a>> = Vec::with_capacity(desired.services.len());
        for service in &desired.services {
            plots.push(Plot::new(&service.name, Some(service), places.of(&service.name)));
        }
        let mut by_name: HashMap<&str, usize> =
            plots.iter().enumerate().map(|(at, plot)| (plot.name, at)).collect();
        let wanted = plots.len();
        for place in places.iter() {
            if !by_name.contains_key(place.service) {
                by_name.insert(place.service, plots.len());
                plots.push(Plot::new(place.service, None, &place.instances));
            }
        }
        Self { plots, wanted, by_name, order: in_order(&desired.services) }
    }

    /// All services that are wanted or there.
    pub(super) fn plots(&self) -> impl Iterator<Item = &Plot<'a>> {
        self.plots.iter()
    }

    /// Those that are wanted.
    pub(super) fn wanted(&self) -> impl Iterator<Item = (&'a Service, &Plot<'a>)> {
        self.plots[..self.wanted].iter().filter_map(|plot| Some((plot.wanted?, plot)))
    }

    /// Those that are wanted, each after those that it depends on.
    pub(super) fn in_order(&self) -> impl Iterator<Item = (&'a Service, &Plot<'a>)> {
        self.order.iter().filter_map(|at| self.plots.get(*at)).filter_map(|plot| Some((plot.wanted?, plot)))
    }

    /// A service that is wanted or there.
    pub(super) fn plot(&self, service: &str) -> Option<&Plot<'a>> {
        self.by_name.get(service).map(|at| &self.plots[*at])
    }

    /// Whether nothing at all is wanted.
    pub(super) fn is_empty(&self) -> bool {
        self.wanted == 0
    }
}

impl<'a> Plot<'a> {
    fn new(name: &'a str, wanted: Option<&'a Service>, instances: &[&'a Instance]) -> Self {
        let mut plot = Self {
            name,
            wanted,
            seats: wanted.map(seats).unwrap_or_default(),
            holders: Vec::with_capacity(instances.len()),
            surplus: Vec::new(),
            live: Vec::with_capacity(instances.len()),
            strays: Vec::new(),
        };
        let mut next = 0;
        for held in slots(instances) {
            let slot = held[0].slot;
            while plot.seats.get(next).is_some_and(|seat| seat.slot < slot) {
                next += 1;
            }
            let seat = plot.seats.get_mut(next).filter(|seat| seat.slot == slot);
            let template = seat.as_ref().map(|seat| seat.template);
            // Of several in a slot one that answers stays, if possible one of the revision that is wanted.
            let worth = |instance: &'a Instance| {
                let current = template.is_some_and(|template| template.process == instance.process());
                let stopping = instance.is_stopping();
                (instance.is_live(), !stopping, instance.is_ready(), current, instance.recency())
            };
            let Some(holder) = best(held, worth) else { continue };
            plot.holders.push(holder);
            let live = || held.iter().copied().filter(|instance| instance.is_live());
            plot.surplus.extend(live().filter(|instance| !std::ptr::eq(*instance, holder)));
            let acts = |instance: &&Instance| !instance.is_quarantined();
            plot.live.extend(live().filter(acts));
            match seat {
                Some(seat) => seat.holder = Some(holder),
                None => plot.strays.extend(live().filter(acts)),
            }
        }
        plot
    }

    /// Whether nothing of it is to run.
    pub(super) fn leaves(&self) -> bool {
        self.seats.is_empty()
    }
}

fn seats(service: &Service) -> Vec<Seat<'_>> {
    let seat = |slot, template| Seat { slot, template, holder: None };
    let Some(sets) = &service.sets else {
        let template = service.template();
        return (0..service.always()).map(|slot| seat(slot, template)).collect();
    };
    let mut seats = Vec::new();
    for set in sets {
        let template = set.template();
        seats.extend(set.slots.iter().map(|slot| seat(*slot, template)));
    }
    // Stable: in a slot that two sets name, the first counts.
    seats.sort_by_key(|seat| seat.slot);
    seats.dedup_by_key(|seat| seat.slot);
    seats
}
