//! Faults to order: late, lost, broken, slow, cut off from each other; by script or by chance from a seed.
//! And the count of what happened, since a test of faults that did not happen has tested nothing.
//!
//! ```ignore
//! let faults = Faults::seeded(7);
//! let slow = faults.calls().to("payment").times(2).meet(Fault::Latency(Duration::from_secs(1)));
//! network.inject(&faults);                       // every call of a network in memory
//! let server = server.intercept(faults.server("payment"));    // a real server
//! config.interceptors.push(faults.client("order"));           // a real client: its calls say who makes them
//! config.connector = Some(faults.transport("order"));         // or its connections, to whoever is there
//! faults.name(&addr.into(), "payment");                       // and what they call an address
//! let relay = faults.relay("order", "payment", addr).await;   // in front of anything that speaks TCP
//! // … and then the test
//! assert_eq!(slow.happened(), 2);
//! ```
//!
//! When [`Faults`] is dropped, a fault that was expected and never happened fails the test.

mod call;
mod relay;
mod rule;
mod transport;

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use formic_client::Connect;
use formic_core::{Endpoint, Error};
use formic_rpc::{Channel, Interceptor};
use tokio::sync::watch;

use rule::{Dealt, Rules};
use transport::Transport;

pub use relay::Relay;
pub use rule::{Calls, Rule};

pub(crate) use call::{sign, signature};
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
    /// Names that do not reach each other.
    parted: watch::Sender<HashSet<(String, String)>>,
    /// All that were ever parted.
    partitions: Mutex<Vec<Partition>>,
    /// What addresses are called.
    names: Mutex<HashMap<Endpoint, String>>,
}

/// Two names that were parted, and whether that has kept anything from arriving, there and back.
#[derive(Debug)]
struct Partition {
    names: [String; 2],
    held: [bool; 2],
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
            partitions: Mutex::default(),
            names: Mutex::default(),
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
        let names = [one.into(), other.into()];
        self.0.partitions().push(Partition { names, held: [false; 2] });
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

    /// An interceptor for a server of this name: whoever calls it, over whatever transport. Faults between two names
    /// and partitions are met here, by each attempt, of callers that say who they are: those with
    /// [`client`](Self::client).
    ///
    /// ```
    /// # use formic_testing::Faults;
    /// fn troubled(service: formic::Service, faults: &Faults) -> formic::Service {
    ///     service.intercept(faults.server("payment")).intercept_client(faults.client("payment"))
    /// }
    /// ```
    #[must_use]
    pub fn server(&self, name: &str) -> Arc<dyn Interceptor> {
        call::server(Arc::clone(&self.0), name)
    }

    /// An interceptor for a client of this name: whomever it calls. It stands around the client's retries and knows
    /// no name of the server, so here calls meet the faults that name none; and they say who makes them, so that
    /// [`server`](Self::server) knows both names. A server without it shows that to its handlers, as the
    /// metadata `formic-testing-from`.
    #[must_use]
    pub fn client(&self, name: &str) -> Arc<dyn Interceptor> {
        call::client(Arc::clone(&self.0), name)
    }

    /// How a client of this name connects, for its configuration: over sockets, of which each connection meets faults
    /// as on a [`relay`](Self::relay), partitions too. It needs nothing of the servers but their names.
    #[must_use]
    pub fn transport(&self, name: &str) -> Arc<dyn Connect> {
        Arc::new(Transport { inner: Arc::clone(&self.0), name: name.into() })
    }

    /// What an address is called from now on, by connections of a [`transport`](Self::transport). One without a name
    /// is called as it is written.
    pub fn name(&self, endpoint: &Endpoint, name: &str) {
        self.0.names().insert(endpoint.clone(), name.into());
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
        let about = |names: &[String; 2]| *names == [one, other] || *names == [other, one];
        self.0.partitions().iter().any(|partition| about(&partition.names) && partition.held != [false; 2])
    }

    /// How many faults have happened.
    #[must_use]
    pub fn happened(&self) -> usize {
        let held = |partition: &Partition| partition.held.into_iter().filter(|held| *held).count();
        self.0.rules().happened() + self.0.partitions().iter().map(held).sum::<usize>()
    }

    /// How many are still to come, of those that happen a number of times.
    #[must_use]
    pub fn left(&self) -> usize {
        self.0.rules().left()
    }

    fn missing(&self) -> Vec<String> {
        let mut missing = self.0.rules().missing();
        for Partition { names: [one, other], held } in self.0.partitions().iter() {
            if *held == [false; 2] {
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

    fn names(&self) -> MutexGuard<'_, HashMap<Endpoint, String>> {
        self.names.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn name_of(&self, endpoint: &Endpoint) -> String {
        self.names().get(endpoint).cloned().unwrap_or_else(|| endpoint.to_string())
    }

    fn partitions(&self) -> MutexGuard<'_, Vec<Partition>> {
        self.partitions.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Something is held up on this way: by the last partition that is about it.
    fn hold(&self, from: &str, to: &str) {
        let mut partitions = self.partitions();
        let mut last = partitions.iter_mut().rev();
        let way = last.find_map(|Partition { names: [one, other], held: [there, back] }| {
            match (one == from && other == to, one == to && other == from) {
                (true, _) => Some(there),
                (_, true) => Some(back),
                _ => None,
            }
        });
        way.into_iter().for_each(|held| *held = true);
    }

    /// The fault of the next call of this kind, which meets it.
    fn take(&self, from: Option<&str>, to: Option<&str>, method: Option<&str>) -> Option<Fault> {
        let mut rules = self.rules();
        let (fault, index) = rules.deal(from, to, method)?;
        rules.strike(index);
        Some(fault)
    }

    /// The fault of the next connection of this kind, which may meet it.
    fn deal(self: &Arc<Self>, from: Option<&str>, to: Option<&str>) -> Option<Dealt> {
        let dealt = self.rules().deal(from, to, None)?;
        Some(Dealt::new(Arc::clone(self), dealt))
    }

    /// Waits while the two do not reach each other.
    async fn reach(&self, from: Option<&str>, to: Option<&str>) {
        let (Some(from), Some(to)) = (from, to) else { return };
        let pair = (from.to_owned(), to.to_owned());
        let mut parted = self.parted.subscribe();
        if parted.borrow_and_update().contains(&pair) {
            self.hold(from, to);
            // The sender lives as long as this.
            let _ = parted.wait_for(|parted| !parted.contains(&pair)).await;
        }
    }
}
