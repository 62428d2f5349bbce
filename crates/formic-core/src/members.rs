//! The instances of a service at a moment: whole, sorted by id, and sharing with the moment before whatever did
//! not change.
//!
//! A registry says the whole set each time, so that nobody can miss an event. Copied and compared as a plain
//! list, ten thousand instances cost every reader milliseconds for each one that comes or goes. Here a set is a
//! list of chunks that sets share: a change copies one chunk, and two sets are compared by the chunks that
//! they do not share. A set that shares nothing (it came over a wire) is compared one by one, with the same
//! result.

use std::cmp::Ordering;
use std::fmt;
use std::sync::Arc;

use crate::{Instance, InstanceId};

/// The most that a chunk holds; a full one is halved.
const MOST: usize = 128;

/// A chunk with fewer joins its neighbour, if there is room.
const FEW: usize = 24;

/// How full chunks are to begin with: room for some before the first is halved.
const FILL: usize = 96;

type Chunk = Arc<Vec<Arc<Instance>>>;

/// A set of instances, sorted by id; a clone is a pointer.
#[derive(Clone, Default)]
pub struct Members {
    /// None is empty.
    chunks: Arc<Vec<Chunk>>,
    len: usize,
}

/// What is different between two sets, of one identity: what was there and what is. Never are both missing.
pub type Difference<'a> = (Option<&'a Arc<Instance>>, Option<&'a Arc<Instance>>);

/// The instances of a set, by id.
#[derive(Clone, Debug)]
pub struct Iter<'a> {
    chunks: std::slice::Iter<'a, Chunk>,
    within: std::slice::Iter<'a, Arc<Instance>>,
    left: usize,
}

// === impl Members ===

impl Members {
    /// Nobody.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there is nobody.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// By id.
    #[must_use]
    pub fn iter(&self) -> Iter<'_> {
        Iter { chunks: self.chunks.iter(), within: [].iter(), left: self.len }
    }

    /// All of them, on their own.
    #[must_use]
    pub fn to_vec(&self) -> Vec<Instance> {
        self.iter().cloned().collect()
    }

    /// The first by id.
    #[must_use]
    pub fn first(&self) -> Option<&Instance> {
        self.iter().next()
    }

    /// The instance with an id.
    #[must_use]
    pub fn get(&self, id: &InstanceId) -> Option<&Arc<Instance>> {
        let chunk = self.chunks.get(self.chunk_of(id))?;
        place(chunk, id).ok().map(|at| &chunk[at])
    }

    /// Puts one in, in the place of one with the same id, which is given back.
    pub fn insert(&mut self, instance: impl Into<Arc<Instance>>) -> Option<Arc<Instance>> {
        let instance = instance.into();
        let at = self.chunk_of(&instance.id);
        let chunks = own(&mut self.chunks);
        if chunks.is_empty() {
            chunks.push(Arc::default());
        }
        let chunk = own(&mut chunks[at]);
        match place(chunk, &instance.id) {
            Ok(same) => return Some(std::mem::replace(&mut chunk[same], instance)),
            Err(between) => chunk.insert(between, instance),
        }
        self.len += 1;
        if chunk.len() > MOST {
            let half = chunk.split_off(chunk.len() / 2);
            chunks.insert(at + 1, Arc::new(half));
        }
        None
    }

    /// Takes one out.
    pub fn remove(&mut self, id: &InstanceId) -> Option<Arc<Instance>> {
        let at = self.chunk_of(id);
        // Looked for first, so that nothing is copied for somebody who is not there.
        let place = place(self.chunks.get(at)?, id).ok()?;
        let chunks = own(&mut self.chunks);
        let chunk = own(&mut chunks[at]);
        let removed = chunk.remove(place);
        self.len -= 1;
        let rest = chunk.len();
        let joins = |other: usize| rest + other <= FILL;
        if rest == 0 {
            chunks.remove(at);
        } else if rest < FEW && chunks.get(at + 1).is_some_and(|next| joins(next.len())) {
            let next = chunks.remove(at + 1);
            own(&mut chunks[at]).extend(next.iter().cloned());
        } else if rest < FEW && at > 0 && joins(chunks[at - 1].len()) {
            let last = chunks.remove(at);
            own(&mut chunks[at - 1]).extend(last.iter().cloned());
        }
        Some(removed)
    }

    /// Tells what is different from an earlier set, by id. Costs what is not shared.
    pub fn compare<'a>(&'a self, before: &'a Self, mut tell: impl FnMut(Difference<'a>)) {
        self.differences(before).for_each(&mut tell);
    }

    fn differences<'a>(&'a self, before: &'a Self) -> Differences<'a> {
        Differences { old: Cursor::new(before), new: Cursor::new(self) }
    }

    /// The chunk that an id belongs to; 0 if there is none.
    fn chunk_of(&self, id: &InstanceId) -> usize {
        let after = self.chunks.partition_point(|chunk| chunk.first().is_some_and(|first| first.id <= *id));
        after.saturating_sub(1)
    }
}

/// A list to be changed in this version alone.
///
/// A copy counts up what each entry shares, in memory of its own; waits for that do not overlap, and those of plain
/// reads do. So all are read first: one that comes or goes among ten thousand finds none of it in a cache.
fn own<T>(list: &mut Arc<Vec<Arc<T>>>) -> &mut Vec<Arc<T>> {
    if Arc::strong_count(list) > 1 {
        std::hint::black_box(list.iter().map(Arc::strong_count).fold(0, usize::wrapping_add));
    }
    Arc::make_mut(list)
}

fn place(chunk: &[Arc<Instance>], id: &InstanceId) -> Result<usize, usize> {
    chunk.binary_search_by(|instance| instance.id.cmp(id))
}

impl fmt::Debug for Members {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self).finish()
    }
}

impl PartialEq for Members {
    fn eq(&self, other: &Self) -> bool {
        self.len == other.len && self.differences(other).next().is_none()
    }
}

impl Eq for Members {}

impl From<Vec<Instance>> for Members {
    fn from(all: Vec<Instance>) -> Self {
        all.into_iter().collect()
    }
}

impl FromIterator<Instance> for Members {
    fn from_iter<T: IntoIterator<Item = Instance>>(all: T) -> Self {
        all.into_iter().map(Arc::new).collect()
    }
}

impl FromIterator<Arc<Instance>> for Members {
    /// In any order; of several with one id the last counts.
    fn from_iter<T: IntoIterator<Item = Arc<Instance>>>(all: T) -> Self {
        let mut all: Vec<_> = all.into_iter().collect();
        all.sort_by(|one, other| one.id.cmp(&other.id));
        // `dedup_by` drops the later one, so the earlier takes its place first.
        all.dedup_by(|later, earlier| {
            let same = later.id == earlier.id;
            if same {
                std::mem::swap(later, earlier);
            }
            same
        });
        let len = all.len();
        Self { chunks: Arc::new(all.chunks(FILL).map(|chunk| Arc::new(chunk.to_vec())).collect()), len }
    }
}

impl<'a> IntoIterator for &'a Members {
    type Item = &'a Instance;
    type IntoIter = Iter<'a>;

    fn into_iter(self) -> Iter<'a> {
        self.iter()
    }
}

impl<'a> Iterator for Iter<'a> {
    type Item = &'a Instance;

    fn next(&mut self) -> Option<&'a Instance> {
        loop {
            if let Some(instance) = self.within.next() {
                self.left -= 1;
                return Some(instance);
            }
            self.within = self.chunks.next()?.iter();
        }
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.left, Some(self.left))
    }
}

impl ExactSizeIterator for Iter<'_> {}

// === impl Differences ===

/// Goes through two sets at once.
struct Differences<'a> {
    old: Cursor<'a>,
    new: Cursor<'a>,
}

impl<'a> Iterator for Differences<'a> {
    type Item = Difference<'a>;

    fn next(&mut self) -> Option<Difference<'a>> {
        let Self { old, new } = self;
        loop {
            if old.skip_shared(new) {
                continue;
            }
            let (was, is) = (old.peek(), new.peek());
            let order = match (was, is) {
                (None, None) => return None,
                // Looked at first: among thousands each instance that is not is a wait for memory.
                (Some(was), Some(is)) if Arc::ptr_eq(was, is) => {
                    old.step();
                    new.step();
                    continue;
                }
                (Some(was), Some(is)) => was.id.cmp(&is.id),
                (Some(_), None) => Ordering::Less,
                (None, Some(_)) => Ordering::Greater,
            };
            if order.is_le() {
                old.step();
            }
            if order.is_ge() {
                new.step();
            }
            match order {
                Ordering::Equal if was == is => {}
                Ordering::Equal => return Some((was, is)),
                Ordering::Less => return Some((was, None)),
                Ordering::Greater => return Some((None, is)),
            }
        }
    }
}

// === impl Cursor ===

/// A place in a set.
struct Cursor<'a> {
    chunks: &'a [Chunk],
    at: usize,
}

impl<'a> Cursor<'a> {
    fn new(members: &'a Members) -> Self {
        Self { chunks: &members.chunks, at: 0 }
    }

    fn peek(&self) -> Option<&'a Arc<Instance>> {
        self.chunks.first().map(|chunk| &chunk[self.at])
    }

    fn step(&mut self) {
        self.at += 1;
        if self.chunks.first().is_some_and(|chunk| chunk.len() == self.at) {
            (self.chunks, self.at) = (&self.chunks[1..], 0);
        }
    }

    /// Steps over a chunk that both have, if both are at its beginning.
    fn skip_shared(&mut self, other: &mut Self) -> bool {
        let (Some(one), Some(two)) = (self.chunks.first(), other.chunks.first()) else { return false };
        let shared = self.at == 0 && other.at == 0 && Arc::ptr_eq(one, two);
        if shared {
            self.chunks = &self.chunks[1..];
            other.chunks = &other.chunks[1..];
        }
        shared
    }
}

#[cfg(test)]
mod tests;
