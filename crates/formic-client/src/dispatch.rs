//! A call within its deadline: to whom it goes, and what happens when that fails.

use std::sync::Arc;
use std::time::Duration;

use formic_balance::Traffic;
use formic_core::{Code, Error, Kind, Method, RpcService};
use formic_rpc::context::Scope;
use formic_rpc::{Answer, Body, BoxFuture, ByteStream, Call, Handle, TraceContext};
use tokio::time::Instant;

use crate::budget::Budget;
use crate::client::Shared;
use crate::deadline::Begin;
use crate::flight::Flight;
use crate::observe::{Observer, Reporting};
use crate::outgoing::{Made, Outgoing};
use crate::remote::{Remote, Sender};
use crate::retry::{self, History, Nature, Verdict};
use crate::service::{Beside, Picked, Service};
use crate::watched::{Again, Watched};
use crate::{Happening, deadline, local, mux, wire};

/// To whom the calls of a channel go.
pub(crate) enum Target {
    /// Any instance of a service.
    Service(Arc<Service>),
    /// One endpoint, under its address as a name.
    Fixed(Fixed),
}

/// One endpoint.
pub(crate) struct Fixed {
    pub(crate) remote: Arc<Remote>,
    pub(crate) name: Arc<str>,
    pub(crate) traffic: Arc<Traffic>,
    pub(crate) budget: Budget,
}

/// How far a call has come.
#[derive(Default)]
pub(crate) struct Course {
    /// It is itself caused by a repetition.
    pub(crate) retried: bool,
    /// When an answer must have begun. Nobody says if a layer of the caller's has made another call of this one.
    pub(crate) until: Option<Instant>,
    pub(crate) history: History,
    tried: Vec<Arc<Remote>>,
    /// To whom the next attempt goes, where that had to be known to decide upon it.
    next: Option<Box<Picked>>,
}

/// The innermost layer of a channel.
pub(crate) struct Dispatch {
    pub(crate) client: Arc<Shared>,
    pub(crate) target: Target,
}

/// A call that was made: where it goes.
#[expect(clippy::large_enum_variant, reason = "it is taken apart where it is made")]
pub(crate) enum Begun {
    Away(Away),
    Here(Here),
}

/// A call over the network.
pub(crate) struct Away {
    dispatch: Arc<Dispatch>,
    outgoing: Arc<Outgoing>,
}

/// A call that stays in this process.
pub(crate) struct Here {
    dispatch: Arc<Dispatch>,
    handle: Arc<dyn Handle>,
    call: Call,
    trace: Option<TraceContext>,
    retried: bool,
    until: Option<Instant>,
    now: Instant,
}

// === impl Course ===

impl Course {
    pub(crate) fn new(retried: bool, until: Option<Instant>) -> Self {
        Self { retried, until, ..Self::default() }
    }

    pub(crate) fn has_begun(&self) -> bool {
        !self.tried.is_empty()
    }

    pub(crate) fn has_tried(&self, remote: &Arc<Remote>) -> bool {
        self.tried.iter().any(|tried| Arc::ptr_eq(tried, remote))
    }

    pub(crate) fn note(&mut self, remote: &Arc<Remote>) {
        self.tried.push(Arc::clone(remote));
    }

    /// The number that the next attempt carries as a mark. What a repetition causes is not repeated either,
    /// so the mark travels on.
    fn mark(&self) -> Option<u32> {
        let marked = self.retried || self.history.repeats > 0;
        marked.then_some((self.history.repeats + 1).max(2))
    }
}

// === impl Target ===

impl Target {
    pub(crate) fn name(&self) -> &Arc<str> {
        match self {
            Self::Service(service) => service.name(),
            Self::Fixed(fixed) => &fixed.name,
        }
    }

    fn local(&self) -> Option<Arc<dyn Handle>> {
        match self {
            Self::Service(service) => service.local(),
            Self::Fixed(_) => None,
        }
    }

    fn budget(&self) -> &Budget {
        match self {
            Self::Service(service) => service.budget(),
            Self::Fixed(fixed) => &fixed.budget,
        }
    }

    /// An endpoint that a call has not tried, if its next attempt goes to one.
    fn another(&self, now: Instant, call: &Outgoing, course: &Course) -> Option<Picked> {
        match self {
            Self::Service(service) => service.beside(now, call, course),
            Self::Fixed(_) => None,
        }
    }

    fn traffic(&self) -> Arc<Traffic> {
        match self {
            Self::Service(service) => service.traffic(),
            Self::Fixed(fixed) => Arc::clone(&fixed.traffic),
        }
    }

    async fn pick(&self, now: Instant, call: &Outgoing, course: &Course) -> Result<Picked, Error> {
        match self {
            Self::Service(service) => service.pick(now, call, course).await,
            Self::Fixed(fixed) => {
                let flight = Flight::begin(&fixed.remote, false, call, course.until);
                Ok(Picked { flight, hedge: Beside::Never })
            }
        }
    }
}

// === impl Dispatch ===

impl Dispatch {
    /// A call that was made now, and begins when it is run. `trace` is set where the metadata does not hold it yet.
    ///
    /// What a call over the network needs is put aside here and not in its future, which is moved into a box as large as it is.
    pub(crate) fn begin(
        self: Arc<Self>,
        call: Call,
        trace: Option<TraceContext>,
        retried: bool,
        now: Instant,
    ) -> Begun {
        let until = call.deadline.or_else(|| call.extensions.get::<Begin>().map(|begin| begin.0));
        match self.target.local() {
            Some(handle) => Begun::Here(Here { dispatch: self, handle, call, trace, retried, until, now }),
            None => {
                let outgoing = Arc::new(Outgoing::new(call, trace, Made { retried, until, at: now }));
                Begun::Away(Away { dispatch: self, outgoing })
            }
        }
    }

    /// Who is told of calls.
    pub(crate) fn observer(&self) -> Option<&dyn Observer> {
        self.client.config.observer.as_deref()
    }

    /// Makes attempts over the network until one is answered or there is no use in another.
    pub(crate) async fn attempts(
        &self,
        outgoing: &Arc<Outgoing>,
        course: &mut Course,
        mut now: Instant,
        mut report: Option<&mut Reporting>,
    ) -> Result<(Answer, Flight), Error> {
        loop {
            let Picked { mut flight, hedge } = match course.next.take() {
                Some(picked) => *picked,
                None => self.target.pick(now, outgoing, course).await?,
            };
            if let Some(report) = &mut report {
                report.attempt(Some((flight.remote(), outgoing)));
            }
            let mut error = if let Beside::Never = hedge {
                match attempt(&mut flight, outgoing, course.mark()).await {
                    Ok(answer) => return Ok((answer, flight)),
                    Err(error) => {
                        course.note(flight.remote());
                        // It is over, and may be waited for after this.
                        drop(flight);
                        error
                    }
                }
            } else {
                let remote = Arc::clone(flight.remote());
                let picked = Picked { flight, hedge };
                match Box::pin(self.hedged(picked, outgoing, course, report.as_deref_mut())).await {
                    Ok(answered) => return Ok(answered),
                    Err(error) => {
                        course.note(&remote);
                        error
                    }
                }
            };
            match self.verdict(&mut error, outgoing, course) {
                None => return Err(error),
                Some(wait) if wait.is_zero() => {}
                Some(wait) => Box::pin(tokio::time::sleep(wait)).await,
            }
            now = Instant::now();
        }
    }

    /// What to do about a failed attempt: give up, or make another after a wait, which the budget has
    /// granted. An error that is given up on tells what was done about it.
    pub(crate) fn verdict(
        &self,
        error: &mut Error,
        outgoing: &Outgoing,
        course: &mut Course,
    ) -> Option<Duration> {
        let (now, traffic) = (Instant::now(), self.target.traffic());
        // Rules, ejections and subsets decide about that, so nothing less than the pick itself can tell.
        let asks = outgoing.method.idempotent && retry::speaks_for_itself(error);
        let next = asks.then(|| self.target.another(now, outgoing, course)).flatten();
        let nature = Nature {
            idempotent: outgoing.method.idempotent,
            retried: course.retried,
            replayable: outgoing.replayable(),
            left: course.until.map(|until| until.saturating_duration_since(now)),
            elsewhere: next.is_some(),
        };
        let wait = match retry::judge(&traffic.retry, error, nature, &mut course.history) {
            Verdict::GiveUp => {
                // Nor is anybody above to ask again who asked for a wait that nobody here had time for.
                if course.history.repeats > 0 || error.retry_after().is_some() {
                    retry::mark(error);
                }
                return None;
            }
            Verdict::Elsewhere => Duration::ZERO,
            Verdict::Repeat(wait) => wait,
        };
        if !self.withdraw(now, &traffic, Happening::Retry) {
            tracing::debug!(service = %self.target.name(), %error, "not tried again: the budget is used up");
            retry::mark(error);
            return None;
        }
        tracing::debug!(service = %self.target.name(), %error, ?wait, "trying again");
        course.next = next.map(Box::new);
        Some(wait)
    }

    /// Takes another attempt out of the budget, and tells what came of it.
    fn withdraw(&self, now: Instant, traffic: &Traffic, what: Happening) -> bool {
        self.client.withdraw(self.target.name(), self.target.budget(), traffic, now, what)
    }

    /// When the answer to a call must begin that is made again now: as if it were made for the first time.
    pub(crate) fn until(&self, outgoing: &Outgoing) -> Instant {
        let timeout = self.client.config.timeout;
        outgoing.deadline().unwrap_or_else(|| deadline::after(Instant::now(), timeout))
    }

    /// An attempt, and another beside it once the first takes longer than most. The first answer counts; of
    /// failures the last.
    async fn hedged(
        &self,
        picked: Picked,
        outgoing: &Arc<Outgoing>,
        course: &mut Course,
        report: Option<&mut Reporting>,
    ) -> Result<(Answer, Flight), Error> {
        let Target::Service(service) = &self.target else {
            return fly(picked.flight, outgoing, course.mark()).await;
        };
        let (began, path) = (Instant::now(), outgoing.method.path());
        let (remote, beside) = (Arc::clone(picked.flight.remote()), picked.hedge);
        let mut first = std::pin::pin!(fly(picked.flight, outgoing, course.mark()));
        let Beside::After(delay) = beside else { return learn(first.await, service, path, began) };
        if let Ok(outcome) = tokio::time::timeout(delay, first.as_mut()).await {
            return learn(outcome, service, path, began);
        }
        course.note(&remote);
        let now = Instant::now();
        let Some((twin, beside)) = outgoing.twin().zip(service.beside(now, outgoing, course)) else {
            return learn(first.await, service, path, began);
        };
        if !self.withdraw(now, &service.traffic(), Happening::Hedge) {
            return learn(first.await, service, path, began);
        }
        tracing::debug!(service = %self.target.name(), ?delay, "another attempt beside a slow one");
        // It is the call's one repetition, and marked as such.
        course.history.repeats += 1;
        course.note(beside.flight.remote());
        let (twin, mark) = (Arc::new(twin), course.mark());
        if let Some(report) = report {
            report.attempt(Some((beside.flight.remote(), &twin)));
        }
        let second = std::pin::pin!(fly(beside.flight, &twin, mark));
        let outcome = match futures::future::select(first, second).await {
            futures::future::Either::Left((outcome, second)) if is_lost(&outcome) => second.await,
            futures::future::Either::Right((outcome, first)) if is_lost(&outcome) => first.await,
            futures::future::Either::Left((outcome, _)) | futures::future::Either::Right((outcome, _)) => {
                outcome
            }
        };
        learn(outcome, service, path, began)
    }

    /// The method at a path, where the registry knows it.
    pub(crate) fn method(&self, path: &str) -> Option<Method> {
        match &self.target {
            Target::Service(service) => service.method(path),
            Target::Fixed(_) => None,
        }
    }

    pub(crate) fn services(&self) -> Vec<RpcService> {
        match &self.target {
            Target::Service(service) => service.rpc(),
            Target::Fixed(_) => Vec::new(),
        }
    }
}

// === impl Away ===

impl Away {
    pub(crate) async fn run(self) -> Result<Answer, Error> {
        let Self { dispatch, outgoing } = &self;
        let Made { retried, until, at } = outgoing.made;
        let mut report = Reporting::begin(dispatch, &outgoing.method, at, until);
        dispatch.target.budget().call(dispatch.client.since_origin(at));
        let mut course = Course::new(retried, until);
        let outcome = dispatch.attempts(outgoing, &mut course, at, report.as_mut()).await;
        if let Some(report) = &mut report {
            report.attempted(outgoing.deadline());
        }
        let (mut answer, flight) = match outcome {
            Ok(answered) => answered,
            Err(error) => return finish(Err(error), report, None),
        };
        match answer.body {
            Body::Stream(stream) => {
                // One that can be begun again is, if it fails before its first message.
                let method = &outgoing.method;
                let replays =
                    method.kind == Kind::ServerStream && method.idempotent && !outgoing.made.retried;
                let Self { dispatch, outgoing } = self;
                let again = replays.then(|| Box::new(Again { dispatch, outgoing, course }));
                let stream = Watched::new(stream, Some(flight), report, again, &mut answer.late);
                answer.body = Body::Stream(ByteStream::of_runs(stream));
                Ok(answer)
            }
            // The clock is read once for both.
            Body::Message(_) => finish(Ok(answer), report, flight.answered()),
        }
    }
}

// === impl Here ===

impl Here {
    pub(crate) async fn run(self) -> Result<Answer, Error> {
        let Self { dispatch, handle, call, trace, retried, until, now } = self;
        let deadline = call.deadline;
        let mut report = Reporting::begin(&dispatch, &call.method, now, until);
        if let Some(report) = &mut report {
            report.attempt(None);
        }
        // Not repeated: the only instance there is would be asked again.
        let outcome = local::call(handle, call, trace, retried).await;
        if let Some(report) = &mut report {
            report.attempted(deadline);
        }
        match outcome {
            Ok(Answer { metadata, trailers, mut late, body: Body::Stream(stream) }) if report.is_some() => {
                let stream = Watched::new(stream, None, report, None, &mut late);
                Ok(Answer { metadata, trailers, late, body: Body::Stream(ByteStream::of_runs(stream)) })
            }
            outcome => finish(outcome, report, None),
        }
    }
}

/// Makes one attempt.
async fn attempt(flight: &mut Flight, outgoing: &Arc<Outgoing>, mark: Option<u32>) -> Result<Answer, Error> {
    // A connection first, before anything of the request is used up.
    let outcome = match flight.remote().connection().await {
        Ok(sender) => {
            let now = Instant::now();
            flight.send(now);
            let remote = flight.remote();
            match &*sender {
                Sender::Mux(sender) => mux::call(sender, remote, outgoing, mark, now).await,
                // In a box, for its room would be moved about with each call over the other wire.
                Sender::Http(sender) => Box::pin(wire::http(sender.clone(), remote, outgoing, mark)).await,
            }
        }
        Err(error) => Err(error),
    };
    match &outcome {
        Ok(Answer { body: Body::Stream(_), .. }) => flight.begun(),
        _ => flight.answer(&outcome),
    }
    outcome
}

/// The same of a flight that nobody holds.
async fn fly(
    mut flight: Flight,
    outgoing: &Arc<Outgoing>,
    mark: Option<u32>,
) -> Result<(Answer, Flight), Error> {
    let answer = attempt(&mut flight, outgoing, mark).await?;
    Ok((answer, flight))
}

/// Learns how long a call took, another attempt's help included.
fn learn(
    outcome: Result<(Answer, Flight), Error>,
    service: &Service,
    path: &str,
    began: Instant,
) -> Result<(Answer, Flight), Error> {
    if outcome.is_ok() {
        service.hedging().learn(path, began.elapsed());
    }
    outcome
}

/// Whether an attempt failed in a way that another one may not, which is on its way: that an instance is too busy, or
/// a quota there used up, says nothing of who works on the call already.
fn is_lost(outcome: &Result<(Answer, Flight), Error>) -> bool {
    outcome.as_ref().is_err_and(|error| {
        error.is_unsent() || error.code().is_server_fault() || error.code() == Code::ResourceExhausted
    })
}

fn finish(
    outcome: Result<Answer, Error>,
    report: Option<Reporting>,
    at: Option<Instant>,
) -> Result<Answer, Error> {
    if outcome.as_ref().is_err_and(retry::is_marked) {
        Scope::note_repeated();
    }
    if let Some(mut report) = report {
        report.end(&outcome, at);
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
        match Arc::clone(&self.0).begin(call, None, retried, Instant::now()) {
            Begun::Away(away) => Box::pin(away.run()),
            Begun::Here(here) => Box::pin(here.run()),
        }
    }

    fn services(&self) -> Vec<RpcService> {
        self.0.services()
    }
}
