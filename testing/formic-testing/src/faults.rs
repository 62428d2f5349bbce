//! Faults to order: late, lost, broken, slow, cut off from each other; by script or by chance from a seed.
//! And the count of what happened, since a test of faults that did not happen has tested nothing.
//!
//! ```ignore
//! let faults = Faults::seeded(7);
//! let slow = faults.calls().to("payment").times(2).meet(Fault::Latency(Duration::from_secs(1)));
//! network.inject(&faults);                       // every call of a network in memory
//! let server = server.intercept(faults.server("payment"));    // a real server
//! let relay = faults.relay("order", "payment", addr).await;   // in front of anything that speaks TCP
//! // … and then the test
//! assert_eq!(slow.happened(), 2);
//! ```
//!
//! When [`Faults`] is dropped, a fault that was expected and never happened fails the test.

mod call;
mod relay;
mod rule;

use std::collections::HashSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use formic_core::Error;
use formic_rpc::{Channel, Interceptor};
use tokio::sync::watch;

use rule::Rules;

pub use relay::Relay;
pub use rule::{Calls, Rule};

pub(crate) use relay::{Link, pump};

/// What befalls a call. On a [`Relay`], which sees connections and no calls, it befalls a connection.
#[derive(Clone, Debug)]
pub enum Fault {
    /// It arrives late. A connection: every piece does, both ways.
    Latency(Duration),
    /// It is answered with this error in the handler's place. A connection is closed.
    Error(Error),
    /// It does not arrive, and nobody says so. A connection is accepted and nothing is passed on.
    Drop,
    /// It arrives, and the answer does not. A connection: what the server says is not passed on.
    DropAnswer,
    /// Nobody is there: the call is surely unsent. A connection is closed at once.
    Refuse,
    /// The connection breaks on the way there; the caller cannot know how far the call came. A connection
    /// breaks with its first call, once it has been set up.
    Reset,
    /// The connection breaks on the way back, after the handler has done its work. A connection breaks with
    /// its first answer.
    ResetAnswer,
    /// Each message of the answer takes so long. A connection: each 64 bytes of it.
    SlowBody(Duration),
    /// The answer breaks off after so many messages. A connection: after so many bytes.
    Break(usize),
}

/// Faults, and the count of them. Dropping it fails the test if an expected one never happened.
#[derive(Debug)]
pub struct Faults(pub(crate) Arc<Inner>);

#[derive(Debug)]
pub(crate) struct Inner {
    rules: Mutex<Rules>,
    /// Names that do not reach each other, and whether that has kept anything from arriving.
    parted: watch::Sender<HashSet<(String, String)>>,
    held: Mutex<HashSet<(String, String)>>,
    /// All that were ever parted.
    ordered: Mutex<Vec<(String, String)>>,
}

impl Default for Faults {
    fn default() -> Self {
        Self::new()
    }
}

impl Faults {
    /// No faults yet; what is left to chance is the same in every run.
    #[must_use]
    pub fn new() -> Self {
        Self::seeded(0)
    }

    /// The same, with chances of one's own.
    #[must_use]
    pub fn seeded(seed: u64) -> Self {
        let rules = Mutex::new(Rules::new(seed));
        Self(Arc::new(Inner {
            rules,
            parted: watch::Sender::default(),
            held: Mutex::default(),
            ordered: Mutex::default(),
        }))
    }

    /// A fault to come: first the calls that it is about, then what they meet.
    pub fn calls(&self) -> Calls {
        Calls::new(Arc::clone(&self.0))
    }

    /// Two names stop reaching each other, both ways, until they are joined again: nothing arrives, and
    /// nobody says so. On relays, connections that are there fall silent too.
    ///
    /// It is a fault like the others: expected, and counted once for each way in which it held something up.
    pub fn part(&self, one: &str, other: &str) {
        self.0.ordered().push((one.into(), other.into()));
        self.0.parted.send_modify(|parted| {
            parted.insert((one.into(), other.into()));
            parted.insert((other.into(), one.into()));
        });
    }

    /// They reach each other again.
    pub fn join(&self, one: &str, other: &str) {
        self.0.parted.send_modify(|parted| {
            parted.remove(&(one.into(), other.into()));
            parted.remove(&(other.into(), one.into()));
        });
    }

    /// An interceptor for a server of this name: whoever calls it, over whatever transport.
    #[must_use]
    pub fn server(&self, name: &str) -> Arc<dyn Interceptor> {
        call::interceptor(Arc::clone(&self.0), None, Some(name))
    }

    /// An interceptor for a client of this name: whomever it calls. It stands around the client's retries;
    /// faults of single attempts come from servers and relays.
    #[must_use]
    pub fn client(&self, name: &str) -> Arc<dyn Interceptor> {
        call::interceptor(Arc::clone(&self.0), Some(name), None)
    }

    /// A channel of which each call meets the faults between the two names.
    #[must_use]
    pub fn between(&self, from: &str, to: &str, channel: &Channel) -> Channel {
        call::channel(Arc::clone(&self.0), from, to, channel)
    }

    /// A relay in front of a server, for any client that can be told an address.
    ///
    /// # Panics
    /// If loopback has no port left.
    pub async fn relay(&self, from: &str, to: &str, server: std::net::SocketAddr) -> Relay {
        Relay::start(Link::new(Arc::clone(&self.0), from, to), server).await
    }

    /// Whether a partition of these two has held something up.
    #[must_use]
    pub fn has_held(&self, one: &str, other: &str) -> bool {
        let held = self.0.held();
        held.contains(&(one.into(), other.into())) || held.contains(&(other.into(), one.into()))
    }

    /// How many faults have happened.
    #[must_use]
    pub fn happened(&self) -> usize {
        self.0.rules().happened() + self.0.held().len()
    }

    /// How many are still to come, of those that happen a number of times.
    #[must_use]
    pub fn left(&self) -> usize {
        self.0.rules().left()
    }

    fn missing(&self) -> Vec<String> {
        let mut missing = self.0.rules().missing();
        let held = self.0.held();
        for (one, other) in self.0.ordered().iter() {
            let pair = (one.clone(), other.clone());
            if !held.contains(&pair) && !held.contains(&(pair.1, pair.0)) {
                missing
                    .push(format!("nothing was on its way between {one} and {other} while they were parted"));
            }
        }
        missing
    }
}

impl Drop for Faults {
    fn drop(&mut self) {
        let missing = self.missing();
        // A test that fails already has a better reason.
        if !missing.is_empty() && !std::thread::panicking() {
            panic!("faults that never happened: {}; so nothing was tested with them", missing.join("; "));
        }
    }
}

impl Inner {
    fn rules(&self) -> MutexGuard<'_, Rules> {
        self.rules.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn held(&self) -> MutexGuard<'_, HashSet<(String, String)>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn ordered(&self) -> MutexGuard<'_, Vec<(String, String)>> {
        self.ordered.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The fault for the next call or connection of this kind.
    fn take(&self, from: Option<&str>, to: Option<&str>, method: Option<&str>) -> Option<Fault> {
        self.rules().take(from, to, method)
    }

    /// Waits while the two do not reach each other.
    async fn reach(&self, from: Option<&str>, to: Option<&str>) {
        let (Some(from), Some(to)) = (from, to) else { return };
        let pair = (from.to_owned(), to.to_owned());
        let mut parted = self.parted.subscribe();
        if parted.borrow_and_update().contains(&pair) {
            self.held().insert(pair.clone());
            // The sender lives as long as this.
            let _ = parted.wait_for(|parted| !parted.contains(&pair)).await;
        }
    }
}
