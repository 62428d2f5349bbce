//! A list that versions of itself share: what is at an index, in chunks that a change copies one of.
//!
//! An index stays an endpoint's own for as long as it is remembered, so there are holes.

use std::fmt;
use std::sync::Arc;

/// The entries of a chunk.
const CHUNK: usize = 128;

/// Values by index; a clone shares them.
pub struct Table<T>(Vec<Arc<[Option<T>; CHUNK]>>);

impl<T> Clone for Table<T> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<T> Default for Table<T> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<T> fmt::Debug for Table<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Table").field("chunks", &self.0.len()).finish_non_exhaustive()
    }
}

impl<T> Table<T> {
    /// What is at an index.
    #[must_use]
    pub fn get(&self, index: usize) -> Option<&T> {
        self.0.get(index / CHUNK)?[index % CHUNK].as_ref()
    }

    /// All that there are, with their indices.
    pub fn iter(&self) -> impl Iterator<Item = (usize, &T)> {
        let chunks = self.0.iter().flat_map(|chunk| chunk.iter());
        chunks.enumerate().filter_map(|(index, value)| Some((index, value.as_ref()?)))
    }
}

impl<T: Clone> Table<T> {
    /// Puts something at an index, or nothing, and gives back what was there.
    pub fn set(&mut self, index: usize, value: Option<T>) -> Option<T> {
        let at = index / CHUNK;
        if at >= self.0.len() {
            self.0.resize_with(at + 1, || Arc::new([const { None }; CHUNK]));
        }
        std::mem::replace(&mut Arc::make_mut(&mut self.0[at])[index % CHUNK], value)
    }
}

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
        let shared = first.0.iter().zip(&second.0).filter(|(one, other)| Arc::ptr_eq(one, other));
        assert_eq!(shared.count(), first.0.len() - 1);
        assert_eq!(second.iter().count(), 999);
        assert!(second.iter().all(|(index, &value)| index == value));
    }
}
