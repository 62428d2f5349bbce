//! Who is told of calls: the hook that metrics hang on.

use std::sync::Arc;
use std::time::Duration;

use formic_core::{Code, Endpoint, Error, Method};
pub use formic_telemetry::Happening;
use formic_telemetry::{Metrics, Side};
use tokio::time::Instant;

use crate::dispatch::Dispatch;
use crate::outgoing::Outgoing;
use crate::remote::Remote;
use crate::way;

/// Is told of every call that goes out. Called on the caller's task, so it must be quick.
pub trait Observer: Send + Sync + 'static {
    /// A call begins. Exactly one [`on_call`](Self::on_call) follows.
    fn on_start(&self, service: &str, method: &Method) {
        let _ = (service, method);
    }

    /// A call is over, its retries and its response stream included.
    fn on_call(&self, report: &Report<'_>);

    /// Something rare happened to the calls to a service.
    fn on_happening(&self, service: &str, what: Happening) {
        let _ = (service, what);
    }
}

/// Requests, errors, latency and calls in flight, per method, as `/metrics` shows them.
impl Observer for Metrics {
    fn on_start(&self, _service: &str, method: &Method) {
        self.with_method(Side::Client, method.path(), |method| method.began());
    }

    fn on_call(&self, report: &Report<'_>) {
        self.with_method(Side::Client, report.method.path(), |method| {
            method.ended(report.code, report.duration);
            method.travelled(report.service, report.transport);
        });
    }

    fn on_happening(&self, service: &str, what: Happening) {
        self.happened(service, what);
    }
}

/// How a call went.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct Report<'a> {
    /// The service, or the endpoint's address where a fixed one is called.
    pub service: &'a str,
    /// What was called.
    pub method: &'a Method,
    /// Who was asked last; nobody when the call got nowhere, or stayed in this process.
    pub endpoint: Option<&'a Endpoint>,
    /// What went wrong, if anything.
    pub code: Option<Code>,
    /// From the first attempt to the end of the last answer.
    pub duration: Duration,
    /// How often it was tried.
    pub attempts: u32,
    /// What it travelled over last: `multiplexed`, `http`, or `none` where it stayed in this process or got nowhere.
    pub transport: &'static str,
}

/// A report being written; dropping it unfinished reports a cancelled call.
pub(crate) struct Reporting(Box<Inner>);

/// What a call took.
enum Took {
    Nothing,
    /// Whatever the last attempt takes.
    OfLast(Arc<Outgoing>),
    Taken(&'static str),
}

/// Who is told, and of whom.
enum Told {
    /// While the future of the call lives, its client does.
    Within(Arc<Dispatch>),
    Own(Arc<dyn Observer>, Arc<str>),
}

struct Inner {
    told: Told,
    method: Method,
    endpoint: Option<Arc<Remote>>,
    way: Took,
    code: Option<Code>,
    began: Instant,
    /// Past it, nobody waits any more.
    deadline: Option<Instant>,
    attempts: u32,
    ended: Option<Instant>,
}

impl Reporting {
    /// Of a call that begins; nothing where nobody wants to know.
    pub(crate) fn begin(
        dispatch: &Arc<Dispatch>,
        method: &Method,
        began: Instant,
        deadline: Option<Instant>,
    ) -> Option<Self> {
        dispatch.observer()?.on_start(dispatch.target.name(), method);
        Some(Self(Box::new(Inner {
            told: Told::Within(Arc::clone(dispatch)),
            method: method.clone(),
            endpoint: None,
            way: Took::Nothing,
            code: None,
            began,
            deadline,
            attempts: 0,
            ended: None,
        })))
    }

    /// An attempt begins; one that asks nobody stays in this process.
    pub(crate) fn attempt(&mut self, asked: Option<(&Arc<Remote>, &Arc<Outgoing>)>) {
        self.0.endpoint = asked.map(|(remote, _)| Arc::clone(remote));
        self.0.way = asked.map_or(Took::Nothing, |(_, outgoing)| Took::OfLast(Arc::clone(outgoing)));
        self.0.attempts += 1;
    }

    /// There are no more attempts for now, and the request is not kept on account of the report. From now on the deadline
    /// of the call counts alone: an answer that streams may have had to begin sooner.
    pub(crate) fn attempted(&mut self, deadline: Option<Instant>) {
        self.0.way = Took::Taken(self.0.way.name());
        self.0.deadline = deadline;
    }

    /// The answer streams, and is read after the future of the call has ended. That keeps no client alive.
    pub(crate) fn streams(&mut self) {
        if let Told::Within(dispatch) = &self.0.told
            && let Some(observer) = &dispatch.client.config.observer
        {
            self.0.told = Told::Own(Arc::clone(observer), Arc::clone(dispatch.target.name()));
        }
    }

    /// The call is over, since then or only now.
    pub(crate) fn end<T>(&mut self, outcome: &Result<T, Error>, at: Option<Instant>) {
        self.0.code = outcome.as_ref().err().map(Error::code);
        self.0.ended = Some(at.unwrap_or_else(Instant::now));
    }
}

impl Took {
    fn name(&self) -> &'static str {
        match self {
            Self::Nothing => "none",
            Self::OfLast(outgoing) => outgoing.way.way().map_or("none", way::Way::name),
            Self::Taken(name) => name,
        }
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        let now = self.ended.unwrap_or_else(Instant::now);
        if self.ended.is_none() {
            // Whoever enforces the deadline does so by dropping the call.
            let late = self.deadline.is_some_and(|deadline| deadline <= now);
            self.code = Some(if late { Code::DeadlineExceeded } else { Code::Canceled });
        }
        let (observer, service) = match &self.told {
            Told::Within(dispatch) => (dispatch.observer(), dispatch.target.name()),
            Told::Own(observer, service) => (Some(&**observer), service),
        };
        let Some(observer) = observer else { return };
        observer.on_call(&Report {
            service,
            method: &self.method,
            endpoint: self.endpoint.as_ref().map(|remote| remote.endpoint()),
            code: self.code,
            duration: now.duration_since(self.began),
            attempts: self.attempts,
            transport: self.way.name(),
        });
    }
}
