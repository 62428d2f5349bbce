//! A list that versions of itself share: what is at an index, in a tree of which a change copies one branch.
//!
//! An index stays an endpoint's own for as long as it is remembered, so there are holes. What a change copies are
//! mostly counts of who shares what, each of them in memory of its own; so a branch is narrow, for among ten
//! thousand endpoints each of these is a wait for memory. Waits for counting up do not overlap, and those of plain
//! reads do; so all that a copy will count is read first ([`Read`]).

use std::fmt;
use std::sync::Arc;

/// The entries of a leaf, and the leaves of a twig.
const WIDTH: usize = 16;

/// The entries below a twig.
const TWIG: usize = WIDTH * WIDTH;

type Leaf<T> = Arc<[Option<T>; WIDTH]>;

/// A leaf is missing where nothing was ever put.
type Twig<T> = Arc<[Option<Leaf<T>>; WIDTH]>;

/// What can be copied soon if it is read now.
pub trait Read {
    /// Reads what a copy will write; the number says nothing.
    fn read(&self) -> usize {
        0
    }
}

impl<T: ?Sized> Read for Arc<T> {
    fn read(&self) -> usize {
        Self::strong_count(self)
    }
}

impl<T: Read> Read for Option<T> {
    fn read(&self) -> usize {
        self.as_ref().map_or(0, Read::read)
    }
}

/// Reads what a copy of these entries will write.
fn read<E: Read>(entries: &[E]) {
    std::hint::black_box(entries.iter().map(Read::read).fold(0, usize::wrapping_add));
}

/// Values by index; a clone shares them.
pub struct Table<T>(Arc<[Twig<T>]>);

impl<T> Clone for Table<T> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<T> Default for Table<T> {
    fn default() -> Self {
        Self(Arc::new([]))
    }
}

impl<T> fmt::Debug for Table<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Table").field("twigs", &self.0.len()).finish_non_exhaustive()
    }
}

impl<T> Table<T> {
    /// What is at an index.
    #[must_use]
    pub fn get(&self, index: usize) -> Option<&T> {
        let leaf = self.0.get(index / TWIG)?[index / WIDTH % WIDTH].as_ref()?;
        leaf[index % WIDTH].as_ref()
    }

    /// All that there are, with their indices.
    pub fn iter(&self) -> impl Iterator<Item = (usize, &T)> {
        let leaves = self.0.iter().flat_map(|twig| twig.iter()).enumerate();
        leaves.filter_map(|(at, leaf)| Some((at * WIDTH, leaf.as_ref()?))).flat_map(|(from, leaf)| {
            leaf.iter().enumerate().filter_map(move |(at, value)| Some((from + at, value.as_ref()?)))
        })
    }
}

impl<T: Clone + Read> Table<T> {
    /// Puts something at an index, or nothing, and gives back what was there.
    pub fn set(&mut self, index: usize, value: Option<T>) -> Option<T> {
        std::mem::replace(self.place(index), value)
    }

    fn place(&mut self, index: usize) -> &mut Option<T> {
        let at = index / TWIG;
        if at >= self.0.len() {
            let more = (self.0.len()..=at).map(|_| Arc::new([const { None }; WIDTH]));
            self.0 = self.0.iter().cloned().chain(more).collect();
        }
        // Only one that is shared is copied.
        if Arc::strong_count(&self.0) > 1 {
            read(&self.0);
        }
        let twig = &mut Arc::make_mut(&mut self.0)[at];
        if Arc::strong_count(twig) > 1 {
            read(&**twig);
        }
        let leaf = Arc::make_mut(twig)[index / WIDTH % WIDTH]
            .get_or_insert_with(|| Arc::new([const { None }; WIDTH]));
        if Arc::strong_count(leaf) > 1 {
            read(&**leaf);
        }
        &mut Arc::make_mut(leaf)[index % WIDTH]
    }
}

#[cfg(test)]
impl Read for usize {}

#[cfg(test)]
impl Read for i32 {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_share_all_but_what_changed() {
        let mut first = Table::default();
        for index in 0..1_000 {
            first.set(index, Some(index));
        }
        let mut second = first.clone();
        assert_eq!(second.set(500, None), Some(500));
        assert_eq!((first.get(500), second.get(500), second.get(5_000)), (Some(&500), None, None));
        let twigs = first.0.iter().zip(&*second.0);
        assert_eq!(twigs.filter(|(one, other)| Arc::ptr_eq(one, other)).count(), first.0.len() - 1);
        let leaves = first.0[500 / TWIG].iter().zip(&*second.0[500 / TWIG]);
        let shared = |(one, other): &(&Option<Leaf<usize>>, &Option<Leaf<usize>>)| matches!((one, other), (Some(one), Some(other)) if Arc::ptr_eq(one, other));
        assert_eq!(leaves.filter(shared).count(), WIDTH - 1);
        assert_eq!(second.iter().count(), 999);
        assert!(second.iter().all(|(index, &value)| index == value));
    }

    #[test]
    fn a_change_is_seen_in_one_version_alone() {
        let mut first = Table::default();
        first.set(700, Some(1));
        let mut second = first.clone();
        second.set(700, Some(2));
        second.set(3, Some(9));
        assert_eq!((first.get(700), second.get(700)), (Some(&1), Some(&2)));
        assert_eq!(second.iter().collect::<Vec<_>>(), [(3, &9), (700, &2)]);
        assert_eq!(first.iter().count(), 1);
    }
}
