//! Tables that are looked into several times a call, and filled with what the authors of services have named.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};

/// Something by the name of a service or the path of a method.
pub type Table<T> = HashMap<String, T, BuildHasherDefault<NameHasher>>;

/// A hash that takes eight bytes at a time. The standard one withstands strangers who choose the keys;
/// here they choose only what is looked for, and of what is in the table they choose nothing.
#[derive(Clone, Copy, Debug, Default)]
pub struct NameHasher(u64);

/// Of rustc's hash: odd, and its bits look random.
const FACTOR: u64 = 0xf135_7aea_2e62_a9c5;

impl Hasher for NameHasher {
    fn write(&mut self, bytes: &[u8]) {
        let mut add = |word| self.0 = (self.0.rotate_left(5) ^ u64::from_le_bytes(word)).wrapping_mul(FACTOR);
        let (words, rest) = bytes.as_chunks();
        words.iter().copied().for_each(&mut add);
        if !rest.is_empty() {
            let mut word = [0; 8];
            word[..rest.len()].copy_from_slice(rest);
            add(word);
        }
    }

    fn finish(&self) -> u64 {
        // The good bits are the high ones; tables begin with the low ones.
        self.0.rotate_left(26)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;
    use std::hash::BuildHasher;

    use super::*;

    #[test]
    fn names_that_differ_little_fall_into_different_places() {
        let table = Table::<()>::default();
        let names = (0..1000).map(|n| format!("/shop.order.v1.OrderService/Method{n}"));
        let low: HashSet<u64> = names.map(|name| table.hasher().hash_one(name) & 0xffff).collect();
        assert!(low.len() > 950, "{} of 1000", low.len());
    }

    #[test]
    fn what_is_put_in_is_found() {
        let mut table = Table::default();
        for n in 0..100 {
            table.insert("a".repeat(n), n);
        }
        assert!((0..100).all(|n| table.get(&"a".repeat(n)) == Some(&n)));
        assert_eq!(table.get("b"), None);
    }
}
