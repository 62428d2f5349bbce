//! A call within its deadline: to whom it goes, and what happens when that fails.

use std::sync::Arc;

use formic_core::{Error, Method, RpcService};
use formic_rpc::context::Scope;
use formic_rpc::{Answer, Body, BoxFuture, Call, Handle, TraceContext};
use tokio::time::Instant;

use crate::client::Shared;
use crate::flight::{Flight, Watched};
use crate::observe::Reporting;
use crate::outgoing::Outgoing;
use crate::remote::Remote;
use crate::retry::{History, Nature, Verdict};
use crate::service::Service;
use crate::{local, wire};

/// To whom the calls of a channel go.
pub(crate) enum Target {
    /// Any instance of a service.
    Service(Arc<Service>),
    /// One endpoint, under its address as a name.
    Fixed(Arc<Remote>, Arc<str>),
}

/// The innermost layer of a channel.
pub(crate) struct Dispatch {
    pub(crate) client: Arc<Shared>,
    pub(crate) target: Target,
}

// === impl Target ===

impl Target {
    fn name(&self) -> &Arc<str> {
        match self {
            Self::Service(service) => service.name(),
            Self::Fixed(_, name) => name,
        }
    }

    fn local(&self) -> Option<Arc<dyn Handle>> {
        match self {
            Self::Service(service) => service.local(),
            Self::Fixed(..) => None,
        }
    }

    async fn pick(&self, now: Instant, tried: &[Arc<Remote>]) -> Result<Arc<Remote>, Error> {
        match self {
            Self::Service(service) => service.pick(now, tried).await,
            Self::Fixed(remote, _) => Ok(Arc::clone(remote)),
        }
    }
}

// === impl Dispatch ===

impl Dispatch {
    /// Makes the call. `trace` is set where the metadata does not hold it yet.
    pub(crate) async fn run(
        self: Arc<Self>,
        call: Call,
        trace: Option<TraceContext>,
        retried: bool,
    ) -> Result<Answer, Error> {
        let now = Instant::now();
        let mut report =
            self.client.config.observer.as_ref().map(|observer| {
                Reporting::begin(observer, self.target.name(), &call.method, now, call.deadline)
            });
        let outcome = match self.target.local() {
            Some(handle) => {
                if let Some(report) = &mut report {
                    report.attempt(None);
                }
                // Not repeated: the only instance there is would be asked again.
                local::call(handle, call, trace, retried).await.map(|answer| (answer, None))
            }
            None => {
                let outgoing = Arc::new(Outgoing::new(call, trace));
                self.attempts(&outgoing, retried, now, report.as_mut()).await
            }
        };
        match outcome {
            Ok((mut answer, flight)) => match answer.body {
                Body::Stream(stream) if flight.is_some() || report.is_some() => {
                    answer.body = Body::Stream(Box::pin(Watched::new(stream, flight, report)));
                    Ok(answer)
                }
                _ => finish(Ok(answer), report),
            },
            Err(error) => finish(Err(error), report),
        }
    }

    /// Makes attempts over the network until one is answered or there is no use in another.
    async fn attempts(
        &self,
        outgoing: &Arc<Outgoing>,
        retried: bool,
        mut now: Instant,
        mut report: Option<&mut Reporting>,
    ) -> Result<(Answer, Option<Flight>), Error> {
        let client = &*self.client;
        client.budget.call(client.since_origin(now));
        let mut history = History::default();
        let mut tried = Vec::new();
        loop {
            let remote = self.target.pick(now, &tried).await?;
            if let Some(report) = &mut report {
                report.attempt(Some(&remote));
            }
            // What a repetition causes is not repeated either, so the mark travels on.
            let marked = retried || history.repeats > 0;
            let attempt = marked.then_some((history.repeats + 1).max(2));
            let mut flight = Flight::begin(&remote);
            // A connection first, before anything of the request is used up.
            let outcome = match remote.connection().await {
                Ok(sender) => {
                    flight.send();
                    wire::call(sender, &remote, outgoing, attempt).await
                }
                Err(error) => Err(error),
            };
            flight.answer(&outcome);
            let error = match outcome {
                Ok(answer) => return Ok((answer, Some(flight))),
                Err(error) => error,
            };
            drop(flight);
            let idempotent = outgoing.method.idempotent;
            let nature = Nature { idempotent, retried, replayable: outgoing.replayable() };
            let verdict = client.config.retry.judge(&error, nature, &mut history);
            now = Instant::now();
            if verdict == Verdict::GiveUp {
                return Err(error);
            }
            if !client.budget.withdraw(client.since_origin(now)) {
                tracing::debug!(service = %self.target.name(), %error, "not tried again: the budget is used up");
                return Err(error);
            }
            tracing::debug!(service = %self.target.name(), %error, ?verdict, "trying again");
            tried.push(remote);
        }
    }

    /// The method at a path, where the registry knows it.
    pub(crate) fn method(&self, path: &str) -> Option<Method> {
        match &self.target {
            Target::Service(service) => service.method(path),
            Target::Fixed(..) => None,
        }
    }

    pub(crate) fn services(&self) -> Vec<RpcService> {
        match &self.target {
            Target::Service(service) => service.rpc(),
            Target::Fixed(..) => Vec::new(),
        }
    }
}

fn finish(outcome: Result<Answer, Error>, report: Option<Reporting>) -> Result<Answer, Error> {
    if let Some(mut report) = report {
        report.end(&outcome);
    }
    outcome
}

/// What interceptors go on to; the trace is in the metadata by then.
pub(crate) struct Terminal(pub(crate) Arc<Dispatch>);

impl Handle for Terminal {
    fn method(&self, path: &str) -> Option<Method> {
        self.0.method(path)
    }

    fn call(&self, call: Call) -> BoxFuture<'static, Result<Answer, Error>> {
        let retried = Scope::current().retried;
        Box::pin(Arc::clone(&self.0).run(call, None, retried))
    }

    fn services(&self) -> Vec<RpcService> {
        self.0.services()
    }
}
