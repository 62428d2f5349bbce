//! Which endpoint gets the next call: policy, and nothing else.
//!
//! Pure: the time and the randomness are handed in, so that a test with a seed says the same for ever
//! and a simulation needs no clock. A pick takes no lock and allocates nothing. What is learnt of an
//! endpoint ([`Backend`]) belongs to its identity, not to its place in a list, and so survives every
//! change of the set ([`Roster`]); two of our peers forget all of it just when an instance comes or goes,
//! which is when it is needed.
//!
//! ```text
//! Traffic   the policy as data: read from a file, checked, replaced while calls run
//! Roster    who is there, by identity; arranges a Set whenever instances or the policy change
//! Set       a pick: rules → group → zone → policy            immutable, shared by all calls
//! Backend   latency, work in flight, outcomes, ejection      atomics, shared by all sets
//! ```
//!
//! Who is in the set, connections and retries are the client's business.
#![warn(missing_docs)]

pub mod backend;
mod board;
pub mod ejection;
mod load;
pub mod policy;
pub mod roster;
pub mod set;
pub mod table;
pub mod traffic;

pub use backend::{Backend, Outcome};
pub use ejection::{Change, Ejected, Reason};
pub use policy::{Among, Choice, Factory, Policy};
pub use roster::Roster;
pub use set::{BackendView, Pick, Seat, Set, State};
pub use traffic::{Algorithm, Traffic};

/// Microseconds since the moment that all times are counted from: what atomics can hold.
fn micros(now: std::time::Duration) -> u64 {
    now.as_secs().saturating_mul(1_000_000).saturating_add(u64::from(now.subsec_micros()))
}

/// Stirs the bits of a number (SplitMix64's finish).
const fn mix(mut bits: u64) -> u64 {
    bits = (bits ^ bits >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    bits = (bits ^ bits >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    bits ^ bits >> 31
}

/// A hash that is the same in every process and every release, so that callers agree (FNV-1a, stirred).
fn hash(text: &str) -> u64 {
    let fnv = |hash: u64, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
    mix(text.bytes().fold(0xcbf2_9ce4_8422_2325, fnv))
}
