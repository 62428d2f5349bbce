//! Discovery without a registry: DNS-SD over multicast DNS, for services that run on their own.
//!
//! Plain RFC 6762 and 6763, so that `avahi-browse`, `dns-sd` and every other browser sees what we see:
//! one service type for all of Formic, [`SERVICE_TYPE`]; the instance's id as the DNS-SD instance name;
//! address and port in A/AAAA and SRV; everything else in TXT (see [`txt`]). One type with the service's
//! name in TXT was chosen over a type or subtype per service, because the name of a type is limited to 15
//! characters, and because one browse then answers `list` and every watch.
//!
//! Loopback until told otherwise: what a developer runs is not announced to the café.
//!
//! How a lease maps: the announcing side keeps it, and says goodbye (RFC 6762 §10.1) when it is not
//! renewed. A process that was killed says nothing, so the browsing side asks each instance now and then
//! whether it is still there (§10.4), every [`Config::reconfirm`].
#![warn(missing_docs)]

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use formic_core::{Endpoint, Instance, InstanceId, ServiceName};
use formic_registry::{BoxFuture, Error, Lease, Memory, Registry, ServiceEntry, Snapshot, Watch};
use futures::FutureExt;
use mdns_sd::{IfKind, ServiceDaemon};
use tokio::sync::watch;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::Instrument;

mod announcer;
mod browser;
pub mod txt;

use announcer::Announcer;
use browser::{Browser, Seen};

/// The DNS-SD service type of every Formic service.
pub const SERVICE_TYPE: &str = "_formic._tcp.local.";

/// How long an announcement or a goodbye may take to leave.
pub(crate) const SEND_TIMEOUT: Duration = Duration::from_secs(2);

/// Where to announce and to browse.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Interfaces {
    /// This machine only.
    #[default]
    Loopback,
    /// Loopback and these, by name (`eth0`).
    Named(Vec<String>),
    /// Every interface of the machine.
    All,
}

/// How the plug-in behaves.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where to announce and to browse.
    pub interfaces: Interfaces,
    /// The UDP port; anything but 5353 is invisible to standard browsers, and so good for tests.
    pub port: u16,
    /// How long a first look waits for answers before it says that nobody is there.
    pub discovery: Duration,
    /// How often each instance is asked whether it is still there.
    pub reconfirm: Duration,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            interfaces: Interfaces::Loopback,
            port: mdns_sd::MDNS_PORT,
            // A query leaves after 20–120 ms and is answered after as much again, unless the same answer
            // went out within the last second (RFC 6762 §5.2, §6): then the second query gets it.
            discovery: Duration::from_millis(1500),
            // The usual lease of a registration.
            reconfirm: Duration::from_secs(15),
        }
    }
}

/// A registry that is the network itself.
///
/// Two tasks belong to it, `mdns-announcer` and (from the first look on) `mdns-browser`, and the thread
/// of the responder. [`Mdns::shutdown`] says goodbye for what is still announced and joins them;
/// dropping it does the same without waiting.
pub struct Mdns {
    config: Config,
    /// The leases of this process.
    own: Memory,
    /// Up to which change of `own` the network was told.
    told: watch::Receiver<u64>,
    seen: watch::Receiver<Seen>,
    browse: Arc<watch::Sender<bool>>,
    stop: CancellationToken,
    tasks: TaskTracker,
}

// === impl Mdns ===

impl Mdns {
    /// Starts the responder. Must be called within a tokio runtime.
    ///
    /// # Errors
    /// `Unavailable` if the machine gives it no thread or no poller. A machine without multicast is
    /// noticed later: nobody is found.
    pub fn new(config: Config) -> Result<Self, Error> {
        let cannot = |error| Error::unavailable_because("cannot start the mDNS responder", error);
        let daemon = ServiceDaemon::new_with_port(config.port).map_err(cannot)?;
        if config.interfaces != Interfaces::All {
            let mut kinds = vec![IfKind::LoopbackV4, IfKind::LoopbackV6];
            if let Interfaces::Named(names) = &config.interfaces {
                kinds.extend(names.iter().cloned().map(IfKind::Name));
            }
            daemon.disable_interface(IfKind::All).map_err(cannot)?;
            daemon.enable_interface(kinds).map_err(cannot)?;
        }
        let own = Memory::new();
        let (stop, tasks) = (CancellationToken::new(), TaskTracker::new());
        let (tell, told) = watch::channel(0);
        let announcer = Announcer::new(daemon.clone(), own.watch(None), tell);
        tasks.spawn(announcer.run(stop.clone()).instrument(tracing::info_span!("mdns-announcer")));
        let (publish, seen) = watch::channel(Seen::Looking(Snapshot::empty()));
        let (browse, wanted) = watch::channel(false);
        let browser = Browser::new(daemon, config.clone(), publish);
        let task = browser.run(wanted, stop.clone());
        tasks.spawn(task.instrument(tracing::info_span!("mdns-browser")));
        tasks.close();
        Ok(Self { config, own, told, seen, browse: Arc::new(browse), stop, tasks })
    }

    /// Says goodbye for everything that is still announced, and ends.
    pub async fn shutdown(&self) {
        self.stop.cancel();
        self.tasks.wait().await;
    }

    /// Waits until the network was told of everything up to now.
    async fn flush(&self) -> Result<(), Error> {
        let target = self.own.watch(None).next().await?.generation;
        let mut told = self.told.clone();
        match timeout(SEND_TIMEOUT, told.wait_for(|told| *told >= target)).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(_)) => Err(Error::unavailable("the mDNS responder was shut down")),
            Err(_) => Err(Error::unavailable(format!("the mDNS responder is busy for {SEND_TIMEOUT:?}"))),
        }
    }

    /// What cannot be announced, said before anything is.
    fn check(&self, instance: &Instance) -> Result<(), Error> {
        let Endpoint::Tcp(addr) = &instance.endpoint else {
            return Err(Error::Invalid(format!("{}: mDNS announces TCP addresses only", instance.endpoint)));
        };
        if self.config.interfaces == Interfaces::Loopback && !addr.ip().is_loopback() {
            return Err(Error::Invalid(format!(
                "{addr} cannot be announced: mDNS stays on loopback until other interfaces are enabled"
            )));
        }
        let id = instance.id.as_str();
        if id.len() > 63 {
            return Err(Error::Invalid(format!("the id {id:?} is longer than the 63 bytes of a DNS label")));
        }
        Ok(())
    }

    /// What is there, once the first look is over or `enough` has been seen.
    async fn look(&self, enough: impl Fn(&Snapshot) -> bool) -> Result<Snapshot, Error> {
        self.browse.send_replace(true);
        let mut seen = self.seen.clone();
        let done = |seen: &Seen| match seen {
            Seen::Looking(snapshot) => enough(snapshot),
            Seen::Set(_) => true,
            Seen::Lost(_) => false,
        };
        let limit = self.config.discovery + SEND_TIMEOUT;
        match timeout(limit, seen.wait_for(done)).await {
            Ok(Ok(seen)) => seen.snapshot(),
            _ => self.seen.borrow().snapshot(),
        }
    }
}

impl fmt::Debug for Mdns {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Mdns").field("config", &self.config).field("own", &self.own).finish_non_exhaustive()
    }
}

impl Drop for Mdns {
    fn drop(&mut self) {
        // The announcer says goodbye and ends the responder's thread.
        self.stop.cancel();
    }
}

impl Registry for Mdns {
    fn register(&self, instance: Instance, ttl: Duration) -> BoxFuture<'_, Result<Lease, Error>> {
        async move {
            self.check(&instance)?;
            txt::encode(&instance)?;
            let lease = self.own.register(instance, ttl).await?;
            self.flush().await?;
            Ok(lease)
        }
        .boxed()
    }

    fn renew<'a>(&'a self, lease: &'a Lease) -> BoxFuture<'a, Result<(), Error>> {
        self.own.renew(lease)
    }

    /// Takes an instance of this process off the network; others say their own goodbyes.
    fn deregister<'a>(&'a self, id: &'a InstanceId) -> BoxFuture<'a, Result<(), Error>> {
        async move {
            self.own.deregister(id).await?;
            self.flush().await
        }
        .boxed()
    }

    fn get<'a>(&'a self, service: &'a ServiceName) -> BoxFuture<'a, Result<Vec<Instance>, Error>> {
        async move {
            let all = self.look(|all| all.instances.iter().any(|found| found.service == *service)).await?;
            Ok(all.instances.iter().filter(|instance| instance.service == *service).cloned().collect())
        }
        .boxed()
    }

    fn list(&self) -> BoxFuture<'_, Result<Vec<ServiceEntry>, Error>> {
        async move {
            let all = self.look(|_| false).await?;
            let mut counts: BTreeMap<&ServiceName, usize> = BTreeMap::new();
            for instance in &all.instances {
                *counts.entry(&instance.service).or_default() += 1;
            }
            let entry =
                |(name, instances): (&ServiceName, usize)| ServiceEntry { service: name.clone(), instances };
            Ok(counts.into_iter().map(entry).collect())
        }
        .boxed()
    }

    fn watch(&self, service: Option<ServiceName>) -> Watch {
        browser::watch(service, self.seen.clone(), self.browse.clone())
    }
}
