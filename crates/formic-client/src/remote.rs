//! One endpoint and the connections to it: dialled when first needed, shared by all calls, dialled again
//! with growing waits after a failure.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use arc_swap::ArcSwapOption;
use bytes::Bytes;
use connectrpc::client::ClientConfig;
use formic_balance::Backend;
use formic_core::{Endpoint, Error, Method};
use formic_registry::Backoff;
use formic_rpc::wire_error::Broken;
use futures::FutureExt;
use futures::future::{BoxFuture, Shared};
use http::Uri;
use http::uri::{Authority, PathAndQuery, Scheme};
use tokio::task::AbortHandle;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::mux::{self, Spoken};
use crate::outgoing::Outgoing;
use crate::way::{self, Way};
use crate::{Config, Connect, Happening, Observer, Protocol, connect, http2};

/// Waits between attempts to reach an endpoint that is down: short at first, for a service that was just
/// restarted, and never long enough to be noticed by people.
const MIN_BACKOFF: Duration = Duration::from_millis(20);
const MAX_BACKOFF: Duration = Duration::from_secs(1);

/// Calls in flight to an endpoint from which on a further connection is worth its memory.
const BUSY: u32 = 8;

/// A connection that calls are written to.
#[derive(Clone, Debug)]
pub(crate) enum Sender {
    Http(http2::Sender),
    Mux(formic_mux::Sender),
}

impl Sender {
    fn is_closed(&self) -> bool {
        match self {
            Self::Http(sender) => sender.is_closed(),
            Self::Mux(sender) => sender.is_closed(),
        }
    }
}

/// What all endpoints of a client share.
pub(crate) struct Dialer {
    keep_alive: Option<Duration>,
    connector: Option<Arc<dyn Connect>>,
    observer: Option<Arc<dyn Observer>>,
    pub(crate) mux: mux::Dialer,
    connect_timeout: Duration,
    /// What a call is given that says nothing.
    timeout: Duration,
    connections: usize,
    protocol: Protocol,
    max_message: usize,
    /// Every time given to the balancer is since then.
    origin: Instant,
    tasks: TaskTracker,
    /// Ends connections; only a client that is shut down by hand does so, for answers may still be read
    /// when the client itself is gone.
    stop: CancellationToken,
}

impl std::fmt::Debug for Dialer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Dialer").field("protocol", &self.protocol).finish_non_exhaustive()
    }
}

/// One endpoint.
#[derive(Debug)]
pub(crate) struct Remote {
    /// Whose it is; the endpoint's address where a fixed one is called.
    service: Arc<str>,
    endpoint: Endpoint,
    backend: Arc<Backend>,
    authority: Authority,
    pub(crate) proto: ClientConfig,
    pub(crate) json: ClientConfig,
    slots: Box<[Slot]>,
    spoken: Arc<Spoken>,
    way: way::Last,
    /// A task greets the endpoint again, while it is called over HTTP.
    greeting: AtomicBool,
    /// The last attempt to connect failed, and a task is trying again.
    down: AtomicBool,
    /// The instance has another address by now, so what befalls this one says nothing of it.
    retired: AtomicBool,
    trouble: Mutex<Option<Trouble>>,
    /// When calls were last lost with their connection, in microseconds since the origin.
    lost: AtomicU64,
    dialer: Arc<Dialer>,
}

#[derive(Default)]
struct Slot {
    live: ArcSwapOption<Sender>,
    dialling: Mutex<Option<Dialling>>,
}

impl std::fmt::Debug for Slot {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Slot({})", if self.live.load().is_some() { "live" } else { "empty" })
    }
}

/// An attempt to connect that all who need it wait for. It is a task of its own, so that a caller who
/// gives up does not take it from the others.
type Dialling = Shared<BoxFuture<'static, Result<Arc<Sender>, Trouble>>>;

/// Why an endpoint cannot be reached.
#[derive(Clone, Debug, thiserror::Error)]
pub(crate) enum Trouble {
    #[error("cannot connect")]
    Connect(#[source] Arc<std::io::Error>),
    #[error("no connection within {0:?}")]
    Slow(Duration),
    #[error("cannot speak HTTP/2")]
    Handshake(#[source] Arc<h2::Error>),
    #[error("the client was shut down")]
    Stopped,
}

// === impl Dialer ===

impl Dialer {
    pub(crate) fn new(config: &Config, origin: Instant, tasks: TaskTracker, stop: CancellationToken) -> Self {
        Self {
            keep_alive: config.keep_alive,
            connector: config.connector.clone(),
            observer: config.observer.clone(),
            mux: mux::Dialer::new(config, &tasks, &stop),
            connect_timeout: config.connect_timeout,
            timeout: config.timeout,
            connections: config.connections.max(1),
            protocol: config.protocol,
            max_message: config.max_message,
            origin,
            tasks,
            stop,
        }
    }

    async fn dial(&self, endpoint: &Endpoint, spoken: &Spoken) -> Result<Arc<Sender>, Trouble> {
        if self.mux.tries(spoken)
            && let Some(sender) = self.mux.dial(endpoint, spoken, self.connect_timeout).await?
        {
            return Ok(Arc::new(Sender::Mux(sender)));
        }
        let connecting = async {
            let io = connect::open(self.connector.as_deref(), endpoint)
                .await
                .map_err(|error| Trouble::Connect(Arc::new(error)))?;
            let handshake = http2::handshake(io, self.keep_alive);
            handshake.await.map_err(|error| Trouble::Handshake(Arc::new(error)))
        };
        let limit = self.connect_timeout;
        let (sender, connection) = timeout(limit, connecting).await.unwrap_or(Err(Trouble::Slow(limit)))?;
        // Ends when nobody holds the sender any more and the last answer was read, when the peer closes
        // it, or when the client is shut down.
        let (stop, endpoint) = (self.stop.clone(), endpoint.clone());
        self.tasks.spawn(async move {
            match stop.run_until_cancelled(connection).await {
                Some(Err(error)) => tracing::debug!(%endpoint, %error, "connection lost"),
                Some(Ok(())) => tracing::trace!(%endpoint, "connection closed"),
                None => {}
            }
        });
        Ok(Arc::new(Sender::Http(sender)))
    }
}

// === impl Remote ===

impl Remote {
    pub(crate) fn new(
        service: Arc<str>,
        endpoint: Endpoint,
        backend: Arc<Backend>,
        dialer: Arc<Dialer>,
    ) -> Self {
        const LOCAL: Authority = Authority::from_static("localhost");
        let authority = match &endpoint {
            // An address is always an authority; the fallback keeps this free of a panic.
            Endpoint::Tcp(addr) => addr.to_string().parse().unwrap_or(LOCAL),
            Endpoint::Unix(_) => LOCAL,
        };
        let uri = http::Uri::builder().scheme(Scheme::HTTP).authority(authority.clone()).path_and_query("/");
        let protocol = match dialer.protocol {
            Protocol::Connect => connectrpc::Protocol::Connect,
            Protocol::Grpc => connectrpc::Protocol::Grpc,
        };
        let proto = ClientConfig::new(uri.build().unwrap_or_default())
            .with_protocol(protocol)
            // Within a data centre bytes are cheaper than the time to compress them.
            .with_compression(connectrpc::CompressionRegistry::new())
            .with_default_max_message_size(dialer.max_message);
        let json = proto.clone().json();
        let slots = (0..dialer.connections).map(|_| Slot::default()).collect();
        let (down, retired, trouble) = (AtomicBool::new(false), AtomicBool::new(false), Mutex::new(None));
        // A new address has not failed yet.
        backend.set_down(false);
        let (spoken, greeting) = (Arc::new(Spoken::default()), AtomicBool::new(false));
        Self {
            service,
            endpoint,
            backend,
            authority,
            proto,
            json,
            slots,
            spoken,
            way: way::Last::default(),
            greeting,
            down,
            retired,
            trouble,
            lost: AtomicU64::new(0),
            dialer,
        }
    }

    /// Notes what the registry says of the endpoint.
    pub(crate) fn describe(&self, metadata: &std::collections::BTreeMap<String, String>) {
        self.spoken.announce(metadata);
    }

    /// What the last call to the endpoint travelled over; before the first, what is spoken on its connections. `None`
    /// where there has been none yet.
    pub(crate) fn transport(&self) -> Option<&'static str> {
        let way = |slot: &Slot| match &**slot.live.load().as_ref()? {
            Sender::Http(_) => Some(Way::Http),
            Sender::Mux(_) => Some(Way::Multiplexed),
        };
        self.way.way().or_else(|| self.slots.iter().find_map(way)).map(Way::name)
    }

    /// Notes that an attempt of a call goes out.
    pub(crate) fn goes(&self, outgoing: &Outgoing, way: Way) {
        outgoing.way.note(way);
        self.way.note(way);
    }

    pub(crate) fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    /// Tells whoever wants to know.
    pub(crate) fn happened(&self, what: Happening) {
        if let Some(observer) = &self.dialer.observer {
            observer.on_happening(&self.service, what);
        }
    }

    /// What is known of the instance.
    pub(crate) fn backend(&self) -> &Arc<Backend> {
        &self.backend
    }

    /// The instance has another address now.
    pub(crate) fn retire(&self) {
        self.retired.store(true, Ordering::Relaxed);
    }

    fn tell(&self, down: bool) {
        if !self.retired.load(Ordering::Relaxed) {
            self.backend.set_down(down);
        }
    }

    pub(crate) fn protocol(&self) -> Protocol {
        self.dialer.protocol
    }

    /// Who has waited for so long was in no hurry, where calls take no longer. Half of what a call is given that says nothing, for a part of that may
    /// have gone by before an attempt.
    pub(crate) fn patience(&self) -> Duration {
        self.dialer.timeout / 2
    }

    /// The largest message taken from a server.
    pub(crate) fn max_message(&self) -> usize {
        self.dialer.max_message
    }

    /// Where a method is found.
    ///
    /// # Errors
    /// If its path is none.
    pub(crate) fn uri(&self, method: &Method) -> Result<Uri, http::Error> {
        let path = match method.static_path() {
            Some(path) => Bytes::from_static(path.as_bytes()),
            None => Bytes::copy_from_slice(method.path().as_bytes()),
        };
        let mut parts = http::uri::Parts::default();
        parts.scheme = Some(Scheme::HTTP);
        parts.authority = Some(self.authority.clone());
        parts.path_and_query = Some(PathAndQuery::from_maybe_shared(path)?);
        Ok(Uri::from_parts(parts)?)
    }

    /// Runs a task of the client's.
    pub(crate) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) -> AbortHandle {
        self.dialer.tasks.spawn(task).abort_handle()
    }

    /// The time as the balancer takes it.
    pub(crate) fn since_origin(&self, now: Instant) -> Duration {
        now.saturating_duration_since(self.dialer.origin)
    }

    /// A call that was on its way since then was lost with its connection. Says whether that is news: of all that one connection
    /// carried, the first to tell is.
    pub(crate) fn note_lost(&self, since: Instant, now: Instant) -> bool {
        let micros = |at| u64::try_from(self.since_origin(at).as_micros()).unwrap_or(u64::MAX);
        let (since, now) = (micros(since), micros(now));
        let newer = |last| (since >= last).then_some(now);
        self.lost.fetch_update(Ordering::AcqRel, Ordering::Acquire, newer).is_ok()
    }

    /// Whether the last attempt to connect failed; a task finds out when that is over.
    fn is_down(&self) -> bool {
        self.down.load(Ordering::Relaxed)
    }

    /// A connection, at once if there is one.
    ///
    /// # Errors
    /// `unavailable`, and surely unsent.
    pub(crate) async fn connection(self: &Arc<Self>) -> Result<Arc<Sender>, Error> {
        let index = self.choose();
        let slot = &self.slots[index];
        if let Some(sender) = &*slot.live.load()
            && !sender.is_closed()
        {
            if matches!(**sender, Sender::Http(_)) && self.dialer.mux.tries(&self.spoken) {
                self.greet_again();
            }
            return Ok(Arc::clone(sender));
        }
        if self.is_down() {
            // Somebody is at it: a crowd of callers would only be in the way.
            let trouble = self.trouble.lock().unwrap_or_else(PoisonError::into_inner).clone();
            return Err(self.unreachable(trouble.unwrap_or(Trouble::Slow(self.dialer.connect_timeout))));
        }
        self.dialling(index).await.map_err(|trouble| self.unreachable(trouble))
    }

    fn choose(&self) -> usize {
        let connections = self.slots.len();
        if connections == 1 || self.backend.in_flight() <= BUSY {
            return 0;
        }
        // One multiplexed connection is enough, and so is one that may become one.
        let multiplexed = match &*self.slots[0].live.load() {
            Some(sender) if !sender.is_closed() => matches!(**sender, Sender::Mux(_)),
            _ => self.spoken.is_spoken() || self.dialer.mux.tries(&self.spoken),
        };
        if multiplexed { 0 } else { fastrand::usize(..connections) }
    }

    /// An endpoint that is called over HTTP, because it left greetings without an answer, may have one by now. Calls go on as
    /// they do until it has.
    fn greet_again(self: &Arc<Self>) {
        if self.greeting.swap(true, Ordering::AcqRel) {
            return;
        }
        let (remote, stop) = (Arc::clone(self), self.dialer.stop.clone());
        let greeting = async move {
            let Dialer { mux, connect_timeout, .. } = &*remote.dialer;
            match mux.dial(&remote.endpoint, &remote.spoken, *connect_timeout).await {
                Ok(Some(sender)) => {
                    tracing::debug!(endpoint = %remote.endpoint, "endpoint is multiplexed from now on");
                    remote.slots[0].live.store(Some(Arc::new(Sender::Mux(sender))));
                    // The others end with the last call that uses them.
                    remote.slots[1..].iter().for_each(|slot| slot.live.store(None));
                }
                Ok(None) => {}
                // It is no worse than it was.
                Err(_) => sleep(MAX_BACKOFF).await,
            }
            remote.greeting.store(false, Ordering::Release);
        };
        self.dialer.tasks.spawn(async move { stop.run_until_cancelled(greeting).await });
    }

    fn unreachable(&self, trouble: Trouble) -> Error {
        let mut reason: &dyn std::error::Error = &trouble;
        while let Some(deeper) = reason.source() {
            reason = deeper;
        }
        let message = format!("cannot reach {}: {reason}", self.endpoint);
        Error::unavailable(message).with_source(Broken::Unsent(Box::new(trouble))).with_unsent()
    }

    /// Connects, together with all who want the same.
    fn dialling(self: &Arc<Self>, index: usize) -> Dialling {
        let mut dialling = self.slots[index].dialling.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(dialling) = &*dialling {
            return dialling.clone();
        }
        let remote = Arc::clone(self);
        let task = self.dialer.tasks.spawn(async move {
            let outcome = match remote
                .dialer
                .stop
                .clone()
                .run_until_cancelled(remote.dialer.dial(&remote.endpoint, &remote.spoken))
                .await
            {
                Some(outcome) => outcome,
                None => Err(Trouble::Stopped),
            };
            let slot = &remote.slots[index];
            match &outcome {
                Ok(sender) => slot.live.store(Some(Arc::clone(sender))),
                Err(trouble) => remote.fail(trouble.clone()),
            }
            *slot.dialling.lock().unwrap_or_else(PoisonError::into_inner) = None;
            outcome
        });
        let shared = task.map(|joined| joined.unwrap_or(Err(Trouble::Stopped))).boxed().shared();
        *dialling = Some(shared.clone());
        shared
    }

    fn fail(self: &Arc<Self>, trouble: Trouble) {
        *self.trouble.lock().unwrap_or_else(PoisonError::into_inner) = Some(trouble);
        if !self.down.swap(true, Ordering::AcqRel) {
            tracing::debug!(endpoint = %self.endpoint, "endpoint is down");
            self.tell(true);
            let stop = self.dialer.stop.clone();
            let (spoken, dialer) = (Arc::clone(&self.spoken), Arc::clone(&self.dialer));
            let trying = Self::redial(Arc::downgrade(self), self.endpoint.clone(), spoken, dialer);
            self.dialer.tasks.spawn(async move { stop.run_until_cancelled(trying).await });
        }
    }

    /// Tries until it works or nobody needs the endpoint any more.
    async fn redial(remote: Weak<Self>, endpoint: Endpoint, spoken: Arc<Spoken>, dialer: Arc<Dialer>) {
        let mut backoff = Backoff::new(MIN_BACKOFF, MAX_BACKOFF);
        loop {
            sleep(backoff.next_wait()).await;
            if remote.strong_count() == 0 {
                return;
            }
            let outcome = dialer.dial(&endpoint, &spoken).await;
            let Some(remote) = remote.upgrade() else { return };
            match outcome {
                Ok(sender) => {
                    tracing::debug!(%endpoint, "endpoint is back");
                    remote.slots[0].live.store(Some(sender));
                    remote.down.store(false, Ordering::Release);
                    remote.tell(false);
                    return;
                }
                Err(trouble) => {
                    *remote.trouble.lock().unwrap_or_else(PoisonError::into_inner) = Some(trouble);
                }
            }
        }
    }
}
