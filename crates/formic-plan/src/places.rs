//! What there is, by service and slot.
//!
//! Every decision begins here, several times a turn and with a thousand instances or more, nearly all of which are as they
//! should be. So nothing is looked up by name for each of them, and what stands in one slot beside another is found by
//! walking along. Whoever keeps what is observed may keep where each of it stands, too: then it is not even sorted.

use std::collections::HashMap;

use crate::life::Instance;
use crate::state::Observed;

/// What is there, by service.
#[derive(Debug)]
pub struct Places<'a> {
    /// In no particular order.
    services: Vec<Place<'a>>,
    by_name: HashMap<&'a str, usize>,
}

/// Where the instances of each service stand among those that are observed: for whoever keeps them, and puts nothing in the
/// place of one but what is of the same service and slot.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Index {
    services: Vec<Standing>,
    by_name: HashMap<String, usize>,
}

/// Where those of one service stand.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Standing {
    service: String,
    /// Slots and positions: by slot, ascending, and then by position.
    at: Vec<(u32, usize)>,
}

/// The instances of one service.
#[derive(Debug)]
pub(crate) struct Place<'a> {
    /// Which service.
    pub(crate) service: &'a str,
    /// By slot, ascending; within a slot as they were observed.
    pub(crate) instances: Vec<&'a Instance>,
}

// === impl Index ===

impl Index {
    /// Of what is observed.
    #[must_use]
    pub fn new(observed: &Observed) -> Self {
        let mut index = Self::default();
        observed.instances.iter().enumerate().for_each(|(at, instance)| index.came(instance, at));
        index
    }

    /// One came, behind all others.
    pub fn came(&mut self, instance: &Instance, at: usize) {
        let known = self.by_name.get(&instance.service).copied();
        let known = known.unwrap_or_else(|| {
            self.by_name.insert(instance.service.clone(), self.services.len());
            self.services.push(Standing { service: instance.service.clone(), at: Vec::new() });
            self.services.len() - 1
        });
        let standing = &mut self.services[known].at;
        let behind = standing.partition_point(|(slot, _)| *slot <= instance.slot);
        standing.insert(behind, (instance.slot, at));
    }

    /// Where those of a service stand: by slot, ascending, and then as they were observed.
    pub fn of(&self, service: &str) -> impl Iterator<Item = usize> {
        self.standing(service).iter().map(|(_, at)| *at)
    }

    /// Where that stands which [`Observed::slot`] gives.
    #[must_use]
    pub fn slot(&self, observed: &Observed, service: &str, slot: u32) -> Option<usize> {
        let standing = self.standing(service);
        let first = standing.partition_point(|(other, _)| *other < slot);
        let here = standing[first..].iter().take_while(|(other, _)| *other == slot);
        let held = here.filter_map(|(_, at)| Some((at, observed.instances.get(*at)?)));
        held.max_by_key(|(_, instance)| instance.recency()).map(|(at, _)| *at)
    }

    /// The services that have instances.
    pub fn services(&self) -> impl Iterator<Item = &str> {
        self.services.iter().map(|standing| standing.service.as_str())
    }

    fn standing(&self, service: &str) -> &[(u32, usize)] {
        self.by_name.get(service).map_or(&[], |known| &self.services[*known].at)
    }
}

// === impl Places ===

impl<'a> Places<'a> {
    /// By what is known of where each stands. `index` must be [`Index::new`] of `observed`, or kept so.
    #[must_use]
    pub fn by(index: &'a Index, observed: &'a Observed) -> Self {
        let place = |standing: &'a Standing| Place {
            service: &standing.service,
            instances: standing.at.iter().filter_map(|(_, at)| observed.instances.get(*at)).collect(),
        };
        let services: Vec<Place<'a>> = index.services.iter().map(place).collect();
        let by_name = services.iter().enumerate().map(|(at, place)| (place.service, at)).collect();
        Self { services, by_name }
    }

    /// Sorts what is observed.
    #[must_use]
    pub fn new(observed: &'a Observed) -> Self {
        let mut services: Vec<Place<'a>> = Vec::new();
        let mut by_name = HashMap::new();
        let mut last = None;
        for instance in &observed.instances {
            let name = instance.service.as_str();
            // Those of a service mostly stand together.
            let at = match last {
                Some(at) if services.get(at).is_some_and(|place: &Place<'_>| place.service == name) => at,
                _ => *by_name.entry(name).or_insert_with(|| {
                    services.push(Place { service: name, instances: Vec::new() });
                    services.len() - 1
                }),
            };
            last = Some(at);
            services[at].instances.push(instance);
        }
        for place in &mut services {
            place.instances.sort_by_key(|instance| instance.slot);
        }
        Self { services, by_name }
    }

    /// Those of one service; none of one that has none.
    #[must_use]
    pub fn of(&self, service: &str) -> &[&'a Instance] {
        self.by_name.get(service).map_or(&[], |at| &self.services[*at].instances)
    }

    /// All services that have instances.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &Place<'a>> {
        self.services.iter()
    }
}

/// Those in one slot after another, of instances by slot.
pub(crate) fn slots<'s, 'a>(instances: &'s [&'a Instance]) -> impl Iterator<Item = &'s [&'a Instance]> {
    instances.chunk_by(|a, b| a.slot == b.slot)
}

/// The one that is worth most; of equals, the first.
pub(crate) fn best<'a, K: Ord>(
    slot: &[&'a Instance],
    worth: impl Fn(&'a Instance) -> K,
) -> Option<&'a Instance> {
    match slot {
        [] => None,
        [only] => Some(only),
        [first, rest @ ..] => Some(rest.iter().copied().fold(*first, |holder, instance| {
            if worth(instance) > worth(holder) { instance } else { holder }
        })),
    }
}
