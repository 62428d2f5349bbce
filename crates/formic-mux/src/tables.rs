//! What is said once a connection and then by its number: paths and pairs of metadata.
//!
//! The sender decides what stands where and overwrites the oldest when a table is full; the receiver only follows. So
//! both agree without asking, and a table has the size that the receiver offered.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

use formic_core::Metadata;
use formic_rpc::table::Table;
use http::{HeaderMap, HeaderName, HeaderValue};

use crate::codec::write::{bytes, varint};
use crate::codec::{Block, Fault, MAX_PAIR, MethodRef, Pair};

/// Pairs seen once, by their hash; a pair gets a place when it comes again.
const SEEN: usize = 64;

/// The paths that this side has said.
#[derive(Debug, Default)]
pub struct PathsOut {
    places: Table<u32>,
    said: Vec<String>,
    next: usize,
}

/// The paths that the other side has said.
#[derive(Debug, Default)]
pub struct PathsIn {
    places: Vec<Option<Arc<str>>>,
    /// What the paths take.
    bytes: usize,
}

/// The pairs that this side has said.
#[derive(Debug, Default)]
pub struct PairsOut {
    places: HashMap<u64, u32>,
    said: Vec<(u64, HeaderName, HeaderValue)>,
    next: usize,
    /// Only once there is metadata at all.
    seen: Option<Box<[u64; SEEN]>>,
    /// What the pairs take.
    bytes: usize,
    /// What all of it takes.
    held: usize,
}

/// The pairs that the other side has said.
#[derive(Debug, Default)]
pub struct PairsIn {
    places: Vec<Option<(HeaderName, HeaderValue)>>,
    /// What the pairs take.
    bytes: usize,
}

/// What is shared is counted, which takes memory beside it; of a pair, both are.
const COUNTED: usize = 32;

/// What a pair takes that was said, beside itself: in the list, and where its place is found.
const SAID: usize = size_of::<(u64, HeaderName, HeaderValue)>();
const PLACE: usize = 20;

impl PathsOut {
    /// Writes a path, or where it stands.
    pub fn write(&mut self, out: &mut Vec<u8>, path: &str, size: u32) {
        if let Some(place) = self.places.get(path) {
            return varint(out, place << 1);
        }
        let place = self.next % size.max(1) as usize;
        self.next = place + 1;
        if let Some(old) = self.said.get_mut(place) {
            self.places.remove(old);
            path.clone_into(old);
        } else {
            self.said.push(path.to_owned());
        }
        let place = u32::try_from(place).unwrap_or(0);
        self.places.insert(path.to_owned(), place);
        varint(out, place << 1 | 1);
        bytes(out, path.as_bytes());
    }
}

impl PathsIn {
    /// The path that is meant.
    ///
    /// # Errors
    /// If it is in no place of a table of this size.
    pub fn read(&mut self, method: MethodRef<'_>, size: u32) -> Result<(u32, Arc<str>), Fault> {
        match method {
            MethodRef::Known(place) => match self.places.get(place as usize) {
                Some(Some(path)) => Ok((place, Arc::clone(path))),
                _ => Err(Fault("a method is in an empty place of the table")),
            },
            MethodRef::Define(place, _) if place >= size => {
                Err(Fault("a method is beyond the end of the table"))
            }
            MethodRef::Define(place, path) => {
                let path: Arc<str> = path.into();
                let at = place as usize;
                if self.places.len() <= at {
                    self.places.resize(at + 1, None);
                }
                self.bytes += path.len() + COUNTED;
                if let Some(old) = self.places[at].replace(Arc::clone(&path)) {
                    self.bytes -= old.len() + COUNTED;
                }
                Ok((place, path))
            }
        }
    }

    /// What it takes in memory.
    pub fn held(&self) -> usize {
        self.places.capacity() * size_of::<Option<Arc<str>>>() + self.bytes
    }
}

/// What a pair counts beside its bytes, as in HTTP/2: one of no bytes takes memory too, and a place in the frame.
const PAIR: usize = 32;

/// What a block of these pairs counts; it takes no more on the wire than this and the count.
pub fn weight(metadata: &HeaderMap, skip: fn(&HeaderName) -> bool) -> usize {
    let pairs = metadata.iter().filter(|(name, _)| !skip(name));
    pairs.map(|(name, value)| name.as_str().len() + value.len() + PAIR).sum()
}

/// What each name takes in memory, and each further value of one, with the room that a map keeps for others: it doubles when it is full.
const NAME: usize = 112;
const VALUE: usize = 144;

/// What metadata takes in memory, or little less.
pub fn footprint(metadata: &HeaderMap) -> usize {
    if metadata.is_empty() {
        return 0;
    }
    let further = metadata.len() - metadata.keys_len();
    weight(metadata, |_| false) + metadata.capacity() * NAME + further * VALUE
}

impl PairsOut {
    /// Writes a block.
    pub fn write(
        &mut self,
        out: &mut Vec<u8>,
        metadata: &HeaderMap,
        skip: fn(&HeaderName) -> bool,
        size: u32,
    ) {
        if metadata.is_empty() {
            return out.push(0);
        }
        let count =
            metadata.keys().filter(|name| !skip(name)).map(|name| metadata.get_all(name).iter().count());
        varint(out, u32::try_from(count.sum::<usize>()).unwrap_or(u32::MAX));
        for (name, value) in metadata.iter().filter(|(name, _)| !skip(name)) {
            self.pair(out, name, value, size);
        }
    }

    fn pair(&mut self, out: &mut Vec<u8>, name: &HeaderName, value: &HeaderValue, size: u32) {
        let mut hasher = DefaultHasher::new();
        (name, value.as_bytes()).hash(&mut hasher);
        let hash = hasher.finish();
        if let Some(&place) = self.places.get(&hash) {
            let (_, known, same) = &self.said[place as usize];
            if known == name && same == value {
                return varint(out, (place + 1) << 1);
            }
        } else if size > 0 && name.as_str().len() + value.len() <= MAX_PAIR && self.again(hash) {
            let place = self.next % size as usize;
            self.next = place + 1;
            self.bytes += taken(name, value);
            let entry = (hash, name.clone(), value.clone());
            match self.said.get_mut(place) {
                Some(old) => {
                    self.places.remove(&old.0);
                    self.bytes -= taken(&old.1, &old.2);
                    *old = entry;
                }
                None => self.said.push(entry),
            }
            let place = u32::try_from(place).unwrap_or(0);
            self.places.insert(hash, place);
            self.held = self.bytes + self.said.capacity() * SAID + self.places.capacity() * PLACE;
            varint(out, place << 1 | 1);
            bytes(out, name.as_str().as_bytes());
            return bytes(out, value.as_bytes());
        }
        out.push(0);
        bytes(out, name.as_str().as_bytes());
        bytes(out, value.as_bytes());
    }

    /// What it takes in memory.
    pub fn held(&self) -> usize {
        self.held
    }

    /// Whether this hash was seen lately.
    fn again(&mut self, hash: u64) -> bool {
        let seen = self.seen.get_or_insert_with(|| Box::new([0; SEEN]));
        let place = &mut seen[hash as usize % SEEN];
        std::mem::replace(place, hash) == hash
    }
}

impl PairsIn {
    /// The metadata of a block.
    ///
    /// # Errors
    /// If a pair is none, or in no place of a table of this size, or there is more than `most` of them.
    pub fn read(&mut self, block: Block<'_>, size: u32, most: u32) -> Result<Metadata, Fault> {
        let mut metadata = Metadata::new();
        let mut left = most as usize;
        for pair in block.pairs() {
            let (name, value) = match pair {
                Pair::Literal(name, value) => parse(name, value)?,
                Pair::Known(place) => match self.places.get(place as usize) {
                    Some(Some(pair)) => pair.clone(),
                    _ => return Err(Fault("metadata is in an empty place of the table")),
                },
                Pair::Define(place, ..) if place >= size => {
                    return Err(Fault("metadata is beyond the end of the table"));
                }
                Pair::Define(_, name, value) if name.len() + value.len() > MAX_PAIR => {
                    return Err(Fault("metadata for the table is longer than 1024 bytes"));
                }
                Pair::Define(place, name, value) => {
                    let pair = parse(name, value)?;
                    let at = place as usize;
                    if self.places.len() <= at {
                        self.places.resize(at + 1, None);
                    }
                    self.bytes += taken(&pair.0, &pair.1);
                    if let Some((name, value)) = self.places[at].replace(pair.clone()) {
                        self.bytes -= taken(&name, &value);
                    }
                    pair
                }
            };
            let weight = name.as_str().len() + value.len() + PAIR;
            left = left.checked_sub(weight).ok_or(Fault("metadata is larger than the limit"))?;
            if metadata.as_headers_mut().try_append(name, value).is_err() {
                return Err(Fault("there are too many pairs of metadata"));
            }
        }
        Ok(metadata)
    }

    /// What it takes in memory.
    pub fn held(&self) -> usize {
        self.places.capacity() * size_of::<Option<(HeaderName, HeaderValue)>>() + self.bytes
    }
}

fn taken(name: &HeaderName, value: &HeaderValue) -> usize {
    name.as_str().len() + value.len() + 2 * COUNTED
}

fn parse(name: &[u8], value: &[u8]) -> Result<(HeaderName, HeaderValue), Fault> {
    let name = HeaderName::from_lowercase(name).map_err(|_| Fault("a name of metadata is none"))?;
    let value = HeaderValue::from_bytes(value).map_err(|_| Fault("a value of metadata is none"))?;
    Ok((name, value))
}
