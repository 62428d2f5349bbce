//! Places are those that came and did not go, in whatever order and number, and updates copy little.

use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;
use crate::mix;

/// Few hashes, so that some are the same; of both ends of the ring.
fn place(number: u16) -> Place {
    let hash = match number % 16 {
        0 => u64::from(number / 64),
        1 => u64::MAX - u64::from(number / 64),
        _ => mix(u64::from(number / 2)),
    };
    (hash, u32::from(number % 7))
}

fn many(count: u64, seat: u32) -> Vec<Place> {
    (0..count).map(|number| (mix(number ^ mix(u64::from(seat))), seat)).collect()
}

fn changes(all: Vec<Place>, comes: bool) -> Vec<Change> {
    all.into_iter().map(|place| Change { place, comes }).collect()
}

proptest! {
    #[test]
    fn what_came_and_did_not_go_is_there_in_its_order(
        first in prop::collection::vec(any::<u16>(), 0..3_000),
        updates in prop::collection::vec(prop::collection::vec((any::<u16>(), any::<bool>()), 0..200), 0..12),
        hash in any::<u64>(),
    ) {
        let mut model: BTreeSet<Place> = first.into_iter().map(place).collect();
        let mut places = Places::of(model.iter().rev().copied().collect());
        for update in updates {
            let (before, shown) = (places.clone(), places.all());
            let update: Vec<Change> =
                update.into_iter().map(|(number, comes)| Change { place: place(number), comes }).collect();
            for change in &update {
                if change.comes { model.insert(change.place); } else { model.remove(&change.place); }
            }
            places.change(update);
            prop_assert_eq!(places.all(), model.iter().copied().collect::<Vec<_>>());
            prop_assert_eq!(places.len(), model.len());
            prop_assert_eq!(before.all(), shown, "another version changed");
            for hash in [hash, 0, u64::MAX] {
                let (below, from): (Vec<Place>, Vec<Place>) = model.iter().partition(|place| place.0 < hash);
                let expected: Vec<u32> = from.iter().chain(&below).map(|place| place.1).collect();
                prop_assert_eq!(places.from(hash).collect::<Vec<_>>(), expected);
            }
        }
    }
}

/// How many places pages hold, in use or not; and the most of one page.
fn held(places: &Places) -> (usize, usize) {
    let each = || places.pages.iter().map(|page| page.hashes.len());
    (each().sum(), each().max().unwrap_or(0))
}

#[test]
fn however_many_updates_leave_pages_as_few_and_as_small() {
    let mut places = Places::of((0..10_000).flat_map(|seat| many(16, seat)).collect());
    let (all, fair) = (places.len(), places.len() / PAGES);
    for update in 0..1_000u32 {
        let before = places.clone();
        let mut both = changes(many(16, update), false);
        both.extend(changes(many(16, 10_000 + update), true));
        places.change(both);
        let shared = places.pages.iter().zip(&before.pages).filter(|(one, other)| Arc::ptr_eq(one, other));
        assert_eq!(shared.count(), PAGES - 1, "{update}");
        let (held, most) = held(&places);
        assert!(held < 3 * all && most < 4 * fair, "{update}: {held} of {all}, {most} of {fair}");
    }
    assert_eq!(places.len(), all);
    // Much at once is as much of each page, and no page is all of it.
    let mut thousand = changes((0..1_000).flat_map(|seat| many(16, 20_000 + seat)).collect(), true);
    thousand.extend(changes((1_000..2_000).flat_map(|seat| many(16, seat)).collect(), false));
    places.change(thousand);
    let (held, most) = held(&places);
    assert!(held < 3 * all && most < 4 * fair, "{held} of {all}, {most} of {fair}");
}
