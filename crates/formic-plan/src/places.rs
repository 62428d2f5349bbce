//! What there is, by service and slot.
//!
//! Every decision begins here, several times a turn and with a thousand instances or more, nearly all of which are as they
//! should be. So nothing is looked up by name for each of them, and what stands in one slot beside another is found by
//! walking along.

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

/// The instances of one service.
#[derive(Debug)]
pub(crate) struct Place<'a> {
    /// Which service.
    pub(crate) service: &'a str,
    /// By slot, ascending; within a slot as they were observed.
    pub(crate) instances: Vec<&'a Instance>,
}

impl<'a> Places<'a> {
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
