//! The places of a ring in the order of their hashes, in stretches of which versions share most.
//!
//! An endpoint's places are all over the ring, so one that comes or goes among ten thousand changes a few dozen
//! stretches. Memory of its own for each stretch was refused: a tree of them counts up and down who shares it, a dozen
//! neighbours for each that changes, and that was most of what an update cost. So stretches are in a few pages; a
//! version has one page of its own, with what changed in it, and shares the others. It takes the place of the oldest
//! page, whose stretches that are still in use go along: pages stay as few, and no update pays for all of them.

use std::sync::Arc;

/// A hash, and the seat of whom its keys belong to.
pub(crate) type Place = (u64, u32);

/// The places of a stretch, about: what is copied for each place that comes or goes.
const STRETCH: usize = 64;

/// So many pages there are, or as many as stretches.
const PAGES: usize = 128;

/// So many changes make a page, so that no page has to hold far more than the others.
const PORTION: usize = 64;

/// A place that comes, or one that goes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Change {
    pub(super) place: Place,
    pub(super) comes: bool,
}

/// Places in their order. A clone shares the pages and copies plain numbers.
#[derive(Clone, Debug)]
pub(crate) struct Places {
    /// By the first bits of the hash.
    stretches: Box<[Stretch]>,
    pages: Box<[Arc<Page>]>,
    /// The page that is replaced next.
    oldest: usize,
    shift: u32,
    len: usize,
}

/// Where the places of a stretch are: the page, the first of them there, and how many they are. In one word, since
/// every version copies all of these.
#[derive(Clone, Copy, Debug)]
struct Stretch(u64);

/// Some stretches, one after the other; never changed.
#[derive(Debug, Default)]
struct Page {
    hashes: Vec<u64>,
    seats: Vec<u32>,
    /// Those that were put here; some may be on a newer page by now.
    stretches: Vec<u32>,
}

// === impl Places ===

impl Places {
    /// Of these, in any order.
    pub(super) fn of(mut all: Vec<Place>) -> Self {
        all.sort_unstable();
        let count = (all.len() / STRETCH).max(1).next_power_of_two();
        let mut places = Self {
            stretches: Box::default(),
            pages: Box::default(),
            oldest: 0,
            shift: u64::BITS - count.trailing_zeros(),
            len: all.len(),
        };
        let (pages, mut stretches) = (PAGES.min(count), Vec::with_capacity(count));
        let mut rest = &all[..];
        let page = |page: usize| {
            let those = page * count / pages..(page + 1) * count / pages;
            let mut filled =
                Page { stretches: those.clone().map(|at| at as u32).collect(), ..Page::default() };
            for at in those {
                let (here, beyond) =
                    rest.split_at(rest.partition_point(|place| places.stretch(place.0) <= at));
                stretches.push(Stretch::new(page, filled.hashes.len(), here.len()));
                filled.hashes.extend(here.iter().map(|place| place.0));
                filled.seats.extend(here.iter().map(|place| place.1));
                rest = beyond;
            }
            Arc::new(filled)
        };
        let pages = (0..pages).map(page).collect();
        (places.pages, places.stretches) = (pages, stretches.into());
        places
    }

    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// Has places come and go. Of several changes of one place the last counts.
    pub(super) fn change(&mut self, mut changes: Vec<Change>) {
        // Stable, so that the last is still the last.
        changes.sort_by_key(|change| change.place);
        changes.chunks(PORTION).for_each(|portion| self.renew(portion));
    }

    /// Makes a page of the stretches that change, and of what the page that it replaces still has.
    fn renew(&mut self, mut changes: &[Change]) {
        let number = self.oldest;
        let is_here = |at: &&u32| self.stretches[**at as usize].page() == number;
        let mut due: Vec<u32> = self.pages[number].stretches.iter().filter(is_here).copied().collect();
        due.extend(changes.iter().map(|change| self.stretch(change.place.0) as u32));
        due.sort_unstable();
        due.dedup();
        // Read first, so that they are waited for together: each is somewhere else in memory.
        std::hint::black_box(due.iter().map(|&at| self.touch(at as usize)).fold(0, u64::wrapping_add));
        let before: usize = due.iter().map(|&at| self.stretches[at as usize].range().len()).sum();
        let mut page = Page::with_room(before + changes.len());
        for &at in &due {
            let at = at as usize;
            let here = changes.iter().take_while(|change| self.stretch(change.place.0) == at).count();
            let (here, rest) = changes.split_at(here);
            let from = page.hashes.len();
            page.merge(self.at(at), here);
            // The page that it replaces is read until the end, and nothing on it twice.
            self.stretches[at] = Stretch::new(number, from, page.hashes.len() - from);
            changes = rest;
        }
        self.len = self.len + page.hashes.len() - before;
        page.stretches = due;
        self.pages[number] = Arc::new(page);
        self.oldest = (number + 1) % self.pages.len();
    }

    /// The seats of the places from the first at or after a hash on, around.
    pub(super) fn from(&self, hash: u64) -> impl Iterator<Item = u32> {
        let first = self.stretch(hash);
        let (hashes, seats) = self.at(first);
        let begin = hashes.partition_point(|&other| other < hash);
        let count = self.stretches.len();
        let rest = (1..=count).flat_map(move |step| self.at((first + step) % count).1);
        seats[begin..].iter().chain(rest).take(self.len).copied()
    }

    fn stretch(&self, hash: u64) -> usize {
        // A shift by all bits is none; then there is one stretch.
        hash.checked_shr(self.shift).unwrap_or(0) as usize
    }

    /// Reads a part of each line of memory that a stretch is in; the number says nothing.
    fn touch(&self, stretch: usize) -> u64 {
        let (hashes, seats) = self.at(stretch);
        let seats = seats.iter().step_by(16).map(|&seat| u64::from(seat));
        hashes.iter().step_by(8).copied().chain(seats).fold(0, u64::wrapping_add)
    }

    /// The hashes of a stretch, and the seats.
    fn at(&self, stretch: usize) -> (&[u64], &[u32]) {
        let stretch = self.stretches[stretch];
        let (page, those) = (&self.pages[stretch.page()], stretch.range());
        (&page.hashes[those.clone()], &page.seats[those])
    }
}

// === impl Stretch ===

impl Stretch {
    /// Of 28 bits each: a page has some thousands of places.
    const BITS: u32 = 28;

    fn new(page: usize, from: usize, len: usize) -> Self {
        Self((page as u64) << (2 * Self::BITS) | (from as u64) << Self::BITS | len as u64)
    }

    fn page(self) -> usize {
        (self.0 >> (2 * Self::BITS)) as usize
    }

    fn range(self) -> std::ops::Range<usize> {
        let part = |bits: u64| (bits & ((1 << Self::BITS) - 1)) as usize;
        let from = part(self.0 >> Self::BITS);
        from..from + part(self.0)
    }
}

// === impl Page ===

impl Page {
    fn with_room(places: usize) -> Self {
        let (hashes, seats) = (Vec::with_capacity(places), Vec::with_capacity(places));
        Self { hashes, seats, stretches: Vec::new() }
    }

    /// Adds a stretch as it is after some changes, which are sorted.
    fn merge(&mut self, (hashes, seats): (&[u64], &[u32]), changes: &[Change]) {
        let mut kept = 0;
        for (number, &Change { place, comes }) in changes.iter().enumerate() {
            if changes.get(number + 1).is_some_and(|next| next.place == place) {
                continue;
            }
            let mut at = kept + hashes[kept..].partition_point(|&hash| hash < place.0);
            while hashes.get(at) == Some(&place.0) && seats[at] < place.1 {
                at += 1;
            }
            let is_there = hashes.get(at) == Some(&place.0) && seats[at] == place.1;
            self.put(&hashes[kept..at], &seats[kept..at]);
            if comes {
                self.put(&[place.0], &[place.1]);
            }
            kept = at + usize::from(is_there);
        }
        self.put(&hashes[kept..], &seats[kept..]);
    }

    fn put(&mut self, hashes: &[u64], seats: &[u32]) {
        self.hashes.extend_from_slice(hashes);
        self.seats.extend_from_slice(seats);
    }
}

#[cfg(test)]
impl Places {
    /// Every place, in order.
    pub(super) fn all(&self) -> Vec<Place> {
        let stretches = (0..self.stretches.len()).map(|at| self.at(at));
        stretches.flat_map(|(hashes, seats)| hashes.iter().copied().zip(seats.iter().copied())).collect()
    }
}

#[cfg(test)]
mod tests;
