//! Follows everything that the network announces, once, for every reader of this process.
//!
//! The responder allows one browser per service type, and all of Formic is one type: so one task folds
//! its events into one set, which is published whole.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use formic_core::{Instance, Members, ServiceName};
use formic_registry::{Backoff, Error, Snapshot, Watch};
use futures::stream;
use mdns_sd::{Receiver, ServiceDaemon, ServiceEvent};
use tokio::sync::watch;
use tokio::time::{Instant, sleep, sleep_until};
use tokio_util::sync::CancellationToken;

use crate::{Config, SERVICE_TYPE, txt};

/// How long an instance may take to answer that it is still there (RFC 6762 §10.4 allows ten seconds
/// for networks that lose packets; two queries are sent, one second apart).
const RECONFIRM_TIMEOUT: Duration = Duration::from_secs(3);

/// What is known of the network.
#[derive(Clone, Debug)]
pub(crate) enum Seen {
    /// The first look is under way, and found this so far.
    Looking(Snapshot),
    /// This is who is there.
    Set(Snapshot),
    /// The responder broke off; a new look begins by itself.
    Lost(Error),
}

impl Seen {
    pub(crate) fn snapshot(&self) -> Result<Snapshot, Error> {
        match self {
            Self::Looking(snapshot) | Self::Set(snapshot) => Ok(snapshot.clone()),
            Self::Lost(error) => Err(error.clone()),
        }
    }
}

/// What the task `mdns-browser` owns.
pub(crate) struct Browser {
    daemon: ServiceDaemon,
    config: Config,
    publish: watch::Sender<Seen>,
    generation: u64,
    /// By full DNS name, with when to ask next whether it is still there.
    found: HashMap<String, (Instance, Instant)>,
    looking: bool,
}

enum Event {
    Heard(ServiceEvent),
    Broken,
    Looked,
    Reconfirm,
}

// === impl Browser ===

impl Browser {
    pub(crate) fn new(daemon: ServiceDaemon, config: Config, publish: watch::Sender<Seen>) -> Self {
        Self { daemon, config, publish, generation: 0, found: HashMap::new(), looking: true }
    }

    /// Waits until somebody looks, and then browses until told to stop. No error ends it.
    pub(crate) async fn run(mut self, mut wanted: watch::Receiver<bool>, stop: CancellationToken) {
        let browse = async {
            // An error means that nobody can ask any more, and the token comes next.
            if wanted.wait_for(|wanted| *wanted).await.is_err() {
                return;
            }
            let mut retry = Backoff::new(Duration::from_millis(50), Duration::from_secs(5));
            loop {
                let error = match self.daemon.browse(SERVICE_TYPE) {
                    Ok(events) => {
                        self.follow(events).await;
                        retry.reset();
                        Error::unavailable("the mDNS responder broke off")
                    }
                    Err(error) => Error::unavailable_because("the mDNS responder does not browse", error),
                };
                tracing::warn!(%error, "looking again");
                self.found.clear();
                self.publish.send_replace(Seen::Lost(error));
                sleep(retry.next_wait()).await;
            }
        };
        stop.run_until_cancelled(browse).await;
    }

    /// Folds events until the responder breaks off.
    async fn follow(&mut self, events: Receiver<ServiceEvent>) {
        self.looking = true;
        self.say();
        let looked = Instant::now() + self.config.discovery;
        loop {
            let due = self.found.values().map(|(_, due)| *due).min();
            // Cancel safe: a receiver keeps what was not taken, sleeping holds nothing.
            let event = tokio::select! {
                heard = events.recv_async() => heard.map_or(Event::Broken, Event::Heard),
                () = sleep_until(looked), if self.looking => Event::Looked,
                () = sleep_until(due.unwrap_or(looked)), if due.is_some() => Event::Reconfirm,
            };
            match event {
                Event::Heard(event) => {
                    if self.heard(event) {
                        self.say();
                    }
                }
                Event::Looked => {
                    self.looking = false;
                    self.say();
                }
                Event::Reconfirm => self.reconfirm(),
                Event::Broken => return,
            }
        }
    }

    /// Folds one event; returns whether it changed anything.
    fn heard(&mut self, event: ServiceEvent) -> bool {
        match event {
            ServiceEvent::ServiceResolved(found) => {
                let Some(instance) = txt::decode(&found) else {
                    tracing::debug!(name = found.fullname, "not one of ours");
                    return false;
                };
                let due = Instant::now() + self.config.reconfirm;
                let old = self.found.insert(found.fullname.clone(), (instance.clone(), due));
                old.is_none_or(|(old, _)| old != instance)
            }
            ServiceEvent::ServiceRemoved(_, fullname) => self.found.remove(&fullname).is_some(),
            _ => false,
        }
    }

    /// Asks those that are due. Who does not answer is reported by the responder as removed.
    fn reconfirm(&mut self) {
        let now = Instant::now();
        for (fullname, (_, due)) in self.found.iter_mut().filter(|(_, (_, due))| *due <= now) {
            *due = now + self.config.reconfirm;
            if let Err(error) = self.daemon.verify(fullname.clone(), RECONFIRM_TIMEOUT) {
                tracing::debug!(%error, fullname, "not asked this time");
            }
        }
    }

    fn say(&mut self) {
        self.generation += 1;
        // By id, should two names carry one.
        let by_id: BTreeMap<_, _> =
            self.found.values().map(|(instance, _)| (&instance.id, instance)).collect();
        let instances: Members = by_id.into_values().cloned().collect();
        let snapshot = Snapshot { generation: self.generation, instances };
        self.publish.send_replace(if self.looking { Seen::Looking(snapshot) } else { Seen::Set(snapshot) });
    }
}

/// A reader's view: one service, or everything. Holds the wish to browse.
pub(crate) fn watch(
    service: Option<ServiceName>,
    seen: watch::Receiver<Seen>,
    browse: Arc<watch::Sender<bool>>,
) -> Watch {
    struct Reader {
        service: Option<ServiceName>,
        seen: watch::Receiver<Seen>,
        last: Option<Members>,
        over: bool,
    }
    let reader = Reader { service, seen, last: None, over: false };
    Watch::new(stream::unfold(reader, move |mut reader| {
        let browse = browse.clone();
        async move {
            if reader.over {
                return None;
            }
            browse.send_replace(true);
            loop {
                // The present state counts until something was said.
                if reader.last.is_some() && reader.seen.changed().await.is_err() {
                    return None;
                }
                let state = reader.seen.borrow_and_update().clone();
                let (snapshot, early) = match state {
                    Seen::Looking(snapshot) => (snapshot, true),
                    Seen::Set(snapshot) => (snapshot, false),
                    Seen::Lost(error) => {
                        reader.over = true;
                        return Some((Err(error), reader));
                    }
                };
                let instances: Members = match &reader.service {
                    Some(name) => snapshot.instances.iter().filter(|i| i.service == *name).cloned().collect(),
                    None => snapshot.instances,
                };
                // Nobody there is worth saying only when the look is over.
                let wait = early && instances.is_empty();
                if !wait && reader.last.as_ref() != Some(&instances) {
                    reader.last = Some(instances.clone());
                    return Some((Ok(Snapshot { generation: snapshot.generation, instances }), reader));
                }
                if reader.last.is_none() && reader.seen.changed().await.is_err() {
                    return None;
                }
            }
        }
    }))
}
