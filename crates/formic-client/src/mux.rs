//! The multiplexed wire: to which endpoints it is spoken, and one attempt over it.

mod spoken;

use std::io;
use std::sync::Arc;
use std::time::Duration;

use formic_core::{Endpoint, Error};
use formic_mux::Limits;
use formic_mux::client::{Connect, Failure, NoGreeting};
use formic_rpc::{Answer, Body};
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::outgoing::Outgoing;
use crate::remote::{Remote, Sender, Trouble};
use crate::way::Way;
use crate::{Config, Transport, connect, headers, wire};
use spoken::Unanswered;

pub(crate) use spoken::Spoken;

/// A dead peer is found within three seconds: silence of one, and no answer for another one and a half.
const PING: Duration = Duration::from_secs(1);
const PING_TIMEOUT: Duration = Duration::from_millis(1500);

/// Without pings nothing is noticed but what the system says.
const NEVER: Duration = Duration::from_secs(365 * 24 * 60 * 60);

/// What connections of a client are made with.
pub(crate) struct Dialer {
    transport: Transport,
    connector: Option<Arc<dyn crate::Connect>>,
    connect: Connect,
}

// === impl Dialer ===

impl Dialer {
    pub(crate) fn new(config: &Config, tasks: &TaskTracker, stop: &CancellationToken) -> Self {
        let message = u32::try_from(config.max_message).unwrap_or(u32::MAX);
        let connect = Connect {
            limits: Limits { message, ..Limits::default() },
            ping: config.keep_alive.map_or(NEVER, |interval| interval.min(PING)),
            ping_timeout: config.keep_alive.map_or(NEVER, |_| PING_TIMEOUT),
            capture: config.capture.clone(),
            tasks: tasks.clone(),
            stop: stop.clone(),
        };
        Self { transport: config.transport, connector: config.connector.clone(), connect }
    }

    /// Whether an endpoint is greeted this way.
    pub(crate) fn tries(&self, spoken: &Spoken) -> bool {
        let wanted = match self.transport {
            Transport::Http => false,
            Transport::Auto => spoken.is_announced(),
            Transport::Multiplexed => true,
        };
        wanted && spoken.is_open(Instant::now())
    }

    /// Connects and greets. `None` if the endpoint is to be called over HTTP, on a connection of its own.
    ///
    /// # Errors
    /// If there is no connection, or it ends, or nothing is heard, before a greeting for which there is reason to wait.
    pub(crate) async fn dial(
        &self,
        endpoint: &Endpoint,
        spoken: &Spoken,
        limit: Duration,
    ) -> Result<Option<formic_mux::Sender>, Trouble> {
        let io = timeout(limit, connect::open(self.connector.as_deref(), endpoint))
            .await
            .map_err(|_| Trouble::Slow(limit))?;
        let io = io.map_err(|error| Trouble::Connect(Arc::new(error)))?;
        let (name, limit) = (endpoint.to_string().into(), limit / 2);
        let trouble = match timeout(limit, formic_mux::client::connect(io, name, &self.connect)).await {
            Ok(Ok(sender)) => {
                spoken.answered();
                return Ok(Some(sender));
            }
            Ok(Err(reason @ NoGreeting::Foreign(_))) => {
                tracing::debug!(%endpoint, %reason, "endpoint is called over HTTP");
                spoken.refused(Instant::now());
                return Ok(None);
            }
            Ok(Err(reason @ NoGreeting::Closed)) => {
                Trouble::Connect(Arc::new(io::Error::new(io::ErrorKind::UnexpectedEof, reason)))
            }
            Ok(Err(NoGreeting::Io(error))) => Trouble::Connect(Arc::new(error)),
            Err(_) => Trouble::Slow(limit),
        };
        match spoken.unanswered(Instant::now()) {
            Unanswered::Failed => Err(trouble),
            Unanswered::Http => {
                tracing::debug!(%endpoint, reason = %trouble, "endpoint is called over HTTP");
                Ok(None)
            }
        }
    }
}

/// Makes one attempt on a connection of the endpoint, now.
///
/// # Errors
/// As [`wire::http`].
pub(crate) async fn call(
    sender: &formic_mux::Sender,
    remote: &Arc<Remote>,
    outgoing: &Arc<Outgoing>,
    attempt: Option<u32>,
    now: Instant,
) -> Result<Answer, Error> {
    let method = &outgoing.method;
    if method.static_path().is_none() && !method.path().bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(Error::invalid_argument(format!("{:?} is no path", method.path())));
    }
    if !method.kind.client_streams() && outgoing.message().is_none() {
        return Err(Error::internal("a method of one request was called with a stream"));
    }
    remote.goes(outgoing, Way::Multiplexed);
    match send(sender, outgoing, attempt, now).await {
        Ok(answer) => Ok(plain(answer)),
        Err(Failure::Error(error)) => Err(error),
        // In a box, for it is rare.
        Err(Failure::Closed) => Box::pin(replaced(remote, outgoing, attempt)).await,
    }
}

async fn send(
    sender: &formic_mux::Sender,
    outgoing: &Outgoing,
    attempt: Option<u32>,
    now: Instant,
) -> Result<Answer, Failure> {
    let kind = outgoing.method.kind;
    let message = if kind.client_streams() { None } else { outgoing.message() };
    sender
        .call(|| outgoing.head(attempt, now), message, || outgoing.take_stream(), kind.server_streams())
        .await
}

/// A connection that takes no more calls is replaced once, which is no attempt.
async fn replaced(
    remote: &Arc<Remote>,
    outgoing: &Arc<Outgoing>,
    attempt: Option<u32>,
) -> Result<Answer, Error> {
    match &*remote.connection().await? {
        Sender::Mux(sender) => match send(sender, outgoing, attempt, Instant::now()).await {
            Ok(answer) => Ok(plain(answer)),
            Err(Failure::Error(error)) => Err(error),
            Err(Failure::Closed) => Err(Error::unavailable("the call was not sent").with_unsent()),
        },
        Sender::Http(sender) => wire::http(sender.clone(), remote, outgoing, attempt).await,
    }
}

/// Without what belongs to another hop.
fn plain(mut answer: Answer) -> Answer {
    if !answer.metadata.is_empty() {
        answer.metadata = headers::own(answer.metadata);
    }
    if matches!(answer.body, Body::Message(_)) && !answer.trailers.is_empty() {
        answer.trailers = headers::own(answer.trailers);
    }
    answer
}
