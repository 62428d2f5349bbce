//! Which endpoint gets the next call: policy, and nothing else.
//!
//! Pure: the time and the randomness are handed in, so that a test with a seed says the same for ever
//! and a simulation needs no clock. A pick takes no lock and allocates nothing. What is learnt of an
//! endpoint ([`EndpointStats`]) belongs to its identity, not to its place in a list, and so survives
//! every change of the set ([`Roster`]); two of our peers forget all of it just when an instance comes
//! or goes, which is when it is needed.
//!
//! Who is in the set, connections and retries are the client's business.
#![warn(missing_docs)]

pub mod policy;
pub mod roster;
pub mod stats;

pub use policy::{Algorithm, Choice, PeakEwma, Policy, Random, RoundRobin};
pub use roster::Roster;
pub use stats::EndpointStats;
