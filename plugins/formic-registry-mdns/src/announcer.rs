//! Makes the network agree with the leases of this process: a small reconciler, level-triggered.

use std::collections::{BTreeMap, HashMap};
use std::net::Ipv4Addr;
use std::time::Duration;

use formic_core::{Endpoint, Instance, InstanceId, Members};
use formic_registry::{Backoff, Snapshot, Watch};
use mdns_sd::{Error as Fault, ServiceDaemon, ServiceInfo};
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until, timeout};
use tokio_util::sync::CancellationToken;

use crate::{SEND_TIMEOUT, SERVICE_TYPE, txt};

/// A record is multicast once a second at most (RFC 6762 §6): the responder keeps silent about what it
/// sent less than a second ago, and readers forget a replaced record a second later (§10.2). It repeats
/// an announcement after 1.15 s and a goodbye after 0.12 s. A name that changes faster than all of that
/// ends up wrong somewhere, so the next announcement of a name waits after an announcement …
const AFTER_ANNOUNCEMENT: Duration = Duration::from_millis(2400);

/// … and after a goodbye. Goodbyes themselves never wait.
const AFTER_GOODBYE: Duration = Duration::from_millis(1200);

/// What the task `mdns-announcer` owns.
pub(crate) struct Announcer {
    daemon: ServiceDaemon,
    wanted: Watch,
    tell: watch::Sender<u64>,
    announced: BTreeMap<InstanceId, Announced>,
    /// When each name may be announced again.
    not_before: HashMap<InstanceId, Instant>,
    retry: Backoff,
}

struct Announced {
    fullname: String,
    instance: Instance,
}

/// The responder did not take everything; when to try again.
struct Later(Instant);

// === impl Announcer ===

impl Announcer {
    pub(crate) fn new(daemon: ServiceDaemon, wanted: Watch, tell: watch::Sender<u64>) -> Self {
        let retry = Backoff::new(Duration::from_millis(5), Duration::from_millis(500));
        Self { daemon, wanted, tell, announced: BTreeMap::new(), not_before: HashMap::new(), retry }
    }

    /// Runs until told to stop; then says goodbye for everything and ends the responder. No error ends
    /// it: a pass that did not finish is repeated.
    pub(crate) async fn run(mut self, stop: CancellationToken) {
        let mut goal = Snapshot::empty();
        let mut later = None;
        loop {
            // Cancel safe: a watch loses nothing, the others hold nothing.
            let next = tokio::select! {
                () = stop.cancelled() => break,
                next = self.wanted.next() => Some(next),
                () = until(later) => None,
            };
            match next {
                Some(Ok(snapshot)) => goal = snapshot,
                // The leases live in this process, so this is its end.
                Some(Err(_)) => break,
                None => {}
            }
            later = match self.pass(&goal.instances) {
                // What is held back by its pace counts as told: nobody should wait for it.
                Ok(held) => {
                    self.tell.send_replace(goal.generation);
                    self.retry.reset();
                    held
                }
                Err(Later(at)) => Some(at),
            };
        }
        // The responder says goodbye for everything that it holds, and its thread ends.
        match self.daemon.shutdown() {
            Ok(done) => {
                if timeout(SEND_TIMEOUT, done.recv_async()).await.is_err() {
                    tracing::warn!("the mDNS responder does not end");
                }
            }
            Err(error) => tracing::debug!(%error, "the mDNS responder had ended before"),
        }
    }

    /// One step towards the goal, without waiting. Says when something that had to be held back is due.
    fn pass(&mut self, goal: &Members) -> Result<Option<Instant>, Later> {
        let wanted: BTreeMap<_, _> = goal.iter().map(|instance| (&instance.id, instance)).collect();
        let gone: Vec<_> = self.announced.keys().filter(|id| !wanted.contains_key(id)).cloned().collect();
        for id in gone {
            if let Some(entry) = self.announced.get(&id) {
                let fullname = entry.fullname.clone();
                self.daemon.unregister(&fullname).map_err(|error| self.later(&error))?;
                self.announced.remove(&id);
                self.not_before.insert(id, Instant::now() + AFTER_GOODBYE);
            }
        }
        let now = Instant::now();
        self.not_before.retain(|_, until| *until > now);
        let mut held: Option<Instant> = None;
        for instance in wanted.into_values() {
            if self.announced.get(&instance.id).is_some_and(|entry| entry.instance == *instance) {
                continue;
            }
            if let Some(until) = self.not_before.get(&instance.id) {
                held = Some(held.map_or(*until, |held| held.min(*until)));
                continue;
            }
            let Some(info) = info(instance) else { continue };
            let fullname = info.get_fullname().to_owned();
            self.daemon.register(info).map_err(|error| self.later(&error))?;
            self.not_before.insert(instance.id.clone(), now + AFTER_ANNOUNCEMENT);
            self.announced.insert(instance.id.clone(), Announced { fullname, instance: instance.clone() });
        }
        Ok(held)
    }

    fn later(&mut self, error: &Fault) -> Later {
        if !matches!(error, Fault::Again) {
            tracing::warn!(%error, "the mDNS responder refused; trying again");
        }
        Later(Instant::now() + self.retry.next_wait())
    }
}

async fn until(at: Option<Instant>) {
    match at {
        Some(at) => sleep_until(at).await,
        None => futures::future::pending().await,
    }
}

/// The records of an instance; `None`, and a word in the log, if there are none for it.
fn info(instance: &Instance) -> Option<ServiceInfo> {
    let Endpoint::Tcp(addr) = &instance.endpoint else { return None };
    let encoded = txt::encode(instance).ok()?;
    if !encoded.dropped.is_empty() {
        tracing::warn!(
            instance = %instance.id, dropped = ?encoded.dropped,
            "announced without what does not fit the {} bytes of DNS-SD", txt::MAX_BYTES
        );
    }
    let ip = txt::hidden(&instance.endpoint).map_or(addr.ip(), |_| Ipv4Addr::LOCALHOST.into());
    let host = format!("{}.local.", host(instance));
    let built = ServiceInfo::new(
        SERVICE_TYPE,
        instance.id.as_str(),
        &host,
        ip,
        addr.port(),
        encoded.pairs.as_slice(),
    );
    match built {
        Ok(mut info) => {
            // Ids are unique by construction; probing would hide a fresh service for most of a second.
            info.set_requires_probe(false);
            Some(info)
        }
        Err(error) => {
            tracing::warn!(instance = %instance.id, %error, "cannot be announced");
            None
        }
    }
}

/// A host name of the instance's own, since two instances of one machine may listen on other addresses.
fn host(instance: &Instance) -> String {
    let label = |char: char| if char.is_ascii_alphanumeric() { char.to_ascii_lowercase() } else { '-' };
    instance.id.as_str().chars().map(label).collect()
}
