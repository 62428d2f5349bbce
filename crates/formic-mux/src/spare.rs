//! Room that was needed once. A connection whose calls go on gives it back from time to time, and not whenever it is empty: what is
//! needed again and again is not to be made each time anew.

use std::collections::HashMap;
use std::hash::BuildHasher;

/// What a map, or a list, may have room for whatever is in it.
pub(crate) const ENTRIES: usize = 64;

/// What a list of messages may have room for when it is empty: those that are short and come together are one.
pub(crate) const MANY: usize = 256;

/// What a buffer may.
pub(crate) const BYTES: usize = 16 << 10;

/// What a map has room for after it gave room back, at least.
const FEW: usize = 28;

/// Whether there is much room, of which little is used.
pub(crate) fn is_spare(used: usize, room: usize, kept: usize) -> bool {
    room > kept && room / 4 > used
}

/// Whether there is such room in a map of calls. A map whose calls were removed in a certain order says that it has less.
pub(crate) fn has_spare<T, S>(map: &HashMap<u32, T, S>) -> bool {
    is_spare(map.len(), map.capacity(), ENTRIES)
}

/// Gives it back, and what the map does not say.
pub(crate) fn shrink<T, S: BuildHasher>(map: &mut HashMap<u32, T, S>) {
    map.shrink_to(FEW.max(2 * map.len()));
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Else a connection would look at it again and again.
    #[test]
    fn what_was_given_back_is_not_there() {
        for left in (0..2000).step_by(23) {
            let mut map: HashMap<u32, u32> = (0..10_000).map(|n| (n, n)).collect();
            map.retain(|n, _| *n < left);
            assert!(has_spare(&map), "{left} of {}", map.capacity());
            shrink(&mut map);
            assert!(!has_spare(&map) && map.len() == left as usize, "{left} of {}", map.capacity());
        }
    }
}
