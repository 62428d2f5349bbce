//! Overload control in front of dispatch: how many calls are worked on at a time, who waits, who is
//! refused. It stands around `Handle`, so it works over every transport; it knows no HTTP.
//!
//! ```text
//! call ─ rate limits ─ fixed limit ─ adaptive limit ─┬─ handler ─ a sample for the limit
//!                                                    └─ queue (by priority, bounded in length and delay)
//! ```
//!
//! The decisions are pure and take the time as an argument: [`gradient`] finds the limit, [`queue`] says
//! who is next and who has waited for too long, [`rate`] counts by key. [`gate`] holds them together.
//!
//! Refused: a threshold on the processor's load, which says nothing of a service that waits for others;
//! a limit that starts low and has to be earned, which would turn calls away from a service that is
//! merely slow by nature. What a *busy* server has shown is another thing: see `reach`.

pub mod gate;
pub mod gradient;
pub mod queue;
pub mod rate;
mod reach;

pub use formic_core::Priority;
use formic_rpc::{Call, Peer};
use http::HeaderMap;
pub use rate::{By, Rate};

/// What is known of a call before its message is, and all that is asked to let it in.
#[derive(Clone, Copy, Debug)]
pub struct Head<'a> {
    /// The path of the method.
    pub path: &'a str,
    /// The leading metadata.
    pub headers: &'a HeaderMap,
    /// Who called, as far as the transport knows.
    pub peer: Option<&'a Peer>,
}

impl<'a> From<&'a Call> for Head<'a> {
    fn from(call: &'a Call) -> Self {
        Self { path: call.method.path(), headers: call.metadata.as_headers(), peer: call.peer.as_ref() }
    }
}

/// How a server defends itself. Every default is safe for a service of which nothing is known.
#[derive(Clone, Debug)]
pub struct Config {
    /// Whether the number of calls that are worked on at a time follows from how their latency grows with
    /// it. Off, only the fixed limit holds.
    pub adaptive: bool,
    /// The adaptive limit does not fall below this.
    pub min_in_flight: usize,
    /// Calls that may wait for their turn; none with 0. They wait only while the adaptive limit is reached,
    /// and no longer than about two calls take.
    pub queue: usize,
    /// Methods that the adaptive limit leaves alone, as [`rate::matches`] reads patterns.
    pub exempt: Vec<String>,
    /// The metadata that says a call's priority: `high`, `normal` or `low`. Without, all calls are alike: for
    /// servers whose callers are not to be believed.
    pub priority: Option<http::HeaderName>,
    /// Rate limits; each call passes all that match it.
    pub rates: Vec<Rate>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            adaptive: true,
            // Two processors, each with a call in hand and the next one ready.
            min_in_flight: 4,
            // More than wait in any healthy burst; the delay is what bounds it in earnest.
            queue: 1024,
            exempt: Vec::new(),
            priority: Some(http::HeaderName::from_static(formic_core::priority::HEADER)),
            rates: Vec::new(),
        }
    }
}
